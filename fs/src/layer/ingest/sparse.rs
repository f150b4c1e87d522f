//! Sparse files: GNU's old header and its PAX forms 0.0, 0.1 and 1.0 (GNU tar manual, "Storing Sparse Files").

use super::Problem;
use super::extended::decimal;
use super::header::number;
use super::stream::Block;
use crate::layer::index::Extent;

/// More pieces than any real file has.
const MAX_PIECES: usize = 1 << 20;
/// Holes must be hashed, so they cannot be without end.
const MAX_HOLES: u64 = 64 << 30;

/// Where the pieces of a sparse file belong.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Map {
    /// Size of the file with its holes.
    pub(super) size: u64,
    /// Offset and length of each piece, as stored one after the other.
    pub(super) pieces: Vec<(u64, u64)>,
}

impl Map {
    /// The extents of the file, whose `stored` bytes begin at `position` in the tar.
    pub(super) fn extents(&self, position: u64, stored: u64) -> Result<Vec<Extent>, Problem> {
        let mut extents = Vec::new();
        let (mut end, mut used) = (0, 0_u64);
        for &(offset, length) in &self.pieces {
            let after = offset.checked_add(length).filter(|&a| a <= self.size);
            let Some(after) = after.filter(|_| offset >= end) else {
                return Err(Problem::Sparse("its pieces overlap or pass its end"));
            };
            if length > 0 {
                let position = position.checked_add(used).ok_or(Problem::Number("size"))?;
                extents.push(Extent {
                    offset,
                    length,
                    position,
                });
            }
            used = used.checked_add(length).ok_or(Problem::Number("size"))?;
            end = after;
        }
        if used != stored {
            return Err(Problem::Sparse("its pieces are not as long as its data"));
        }
        if self.size - used > MAX_HOLES {
            return Err(Problem::Sparse("its holes are larger than 64 GiB"));
        }
        Ok(extents)
    }

    fn push(&mut self, offset: u64, length: u64) -> Result<(), Problem> {
        if self.pieces.len() == MAX_PIECES {
            return Err(Problem::Sparse("it has more than 1,048,576 pieces"));
        }
        self.pieces.push((offset, length));
        Ok(())
    }

    /// The beginning of the map in GNU's old header, and whether more blocks of it follow.
    pub(super) fn from_gnu(block: &Block) -> Result<(Self, bool), Problem> {
        let size = field(&block[483..495])?;
        let mut map = Self {
            size,
            pieces: Vec::new(),
        };
        map.add_gnu(&block[386..482])?;
        Ok((map, block[482] != 0))
    }

    /// One further block of the map of GNU's old header; whether more follow.
    pub(super) fn add_gnu_block(&mut self, block: &Block) -> Result<bool, Problem> {
        self.add_gnu(&block[..504])?;
        Ok(block[504] != 0)
    }

    fn add_gnu(&mut self, pieces: &[u8]) -> Result<(), Problem> {
        for piece in pieces.chunks_exact(24) {
            // An empty field ends the map.
            if piece[0] == 0 {
                break;
            }
            self.push(field(&piece[..12])?, field(&piece[12..])?)?;
        }
        Ok(())
    }
}

fn field(bytes: &[u8]) -> Result<u64, Problem> {
    number(bytes)
        .and_then(|n| u64::try_from(n).ok())
        .ok_or(Problem::Sparse("its map is malformed"))
}

/// The `GNU.sparse.*` records of a PAX header.
#[derive(Default)]
pub(super) struct Records {
    /// The true name of the file.
    pub(super) name: Option<Vec<u8>>,
    size: Option<u64>,
    version: (u64, u64),
    present: bool,
    /// Offsets and lengths by turns.
    numbers: Vec<u64>,
}

impl Records {
    pub(super) fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        let number = |value| decimal(value).ok_or(Problem::Sparse("a number is malformed"));
        self.present = true;
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.size = Some(number(value)?),
            b"major" => self.version.0 = number(value)?,
            b"minor" => self.version.1 = number(value)?,
            b"offset" | b"numbytes" => self.numbers.push(number(value)?),
            b"map" => {
                self.numbers = value
                    .split(|&b| b == b',')
                    .filter(|n| !n.is_empty())
                    .map(number)
                    .collect::<Result<_, _>>()?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the map stands at the beginning of the data (form 1.0).
    pub(super) fn is_in_data(&self) -> bool {
        self.version == (1, 0)
    }

    /// The map that the records give: with form 1.0, one without pieces as yet. `None` for a file that is not
    /// sparse.
    pub(super) fn map(&self) -> Result<Option<Map>, Problem> {
        if !self.present {
            return Ok(None);
        }
        if !matches!(self.version, (0, _) | (1, 0)) {
            return Err(Problem::Sparse("it has an unknown version of the sparse format"));
        }
        let size = self.size.ok_or(Problem::Sparse("its size is missing"))?;
        if !self.numbers.len().is_multiple_of(2) {
            return Err(Problem::Sparse("its map is malformed"));
        }
        let mut map = Map {
            size,
            pieces: Vec::new(),
        };
        for pair in self.numbers.chunks_exact(2) {
            map.push(pair[0], pair[1])?;
        }
        Ok(Some(map))
    }
}

/// Reads the map of form 1.0: lines with the number of pieces, then each piece's offset and length.
pub(super) struct DataMap {
    line: Vec<u8>,
    numbers: Vec<u64>,
}

impl DataMap {
    pub(super) fn new() -> Self {
        Self {
            line: Vec::new(),
            numbers: Vec::new(),
        }
    }

    /// Takes in a block; whether the map is complete.
    pub(super) fn add(&mut self, block: &[u8]) -> Result<bool, Problem> {
        const MALFORMED: Problem = Problem::Sparse("its map is malformed");
        for &byte in block {
            match byte {
                b'0'..=b'9' if self.line.len() < 20 => {
                    self.line.push(byte);
                    continue;
                }
                b'\n' => self.numbers.push(decimal(&self.line).ok_or(MALFORMED)?),
                _ => return Err(MALFORMED),
            }
            self.line.clear();
            let (count, rest) = self.numbers.split_first().ok_or(MALFORMED)?;
            if *count > MAX_PIECES as u64 {
                return Err(Problem::Sparse("it has more than 1,048,576 pieces"));
            }
            if rest.len() as u64 == 2 * count {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn pieces(&self) -> Vec<(u64, u64)> {
        self.numbers
            .get(1..)
            .unwrap_or_default()
            .chunks_exact(2)
            .map(|pair| (pair[0], pair[1]))
            .collect()
    }
}
