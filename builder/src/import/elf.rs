//! What a dynamic linker wants to know about a program or a library: a reader of ELF's program headers and dynamic
//! section (System V ABI, chapters 4 and 5). Nothing in the file is trusted as an offset.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const MAGIC: &[u8; 4] = b"\x7fELF";
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;

/// The most program headers, and the longest dynamic section in bytes, that are read.
const SEGMENT_LIMIT: u16 = 512;
const DYNAMIC_LIMIT: u64 = 1 << 20;
/// Longest name of a library or a path list in bytes.
const STRING_LIMIT: usize = 1 << 16;

/// What kind of machine code a file holds: only files of the same kind can be linked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Machine {
    is_64_bit: bool,
    is_big_endian: bool,
    number: u16,
}

/// A program or a library.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Elf {
    pub(super) machine: Machine,
    /// The dynamic linker that the program asks for.
    pub(super) interpreter: Option<Vec<u8>>,
    /// The libraries that it needs, by name.
    pub(super) needed: Vec<Vec<u8>>,
    /// Directories to search, also for the libraries that its libraries need; only without `runpath`.
    pub(super) rpath: Option<Vec<u8>>,
    /// Directories to search for its own libraries.
    pub(super) runpath: Option<Vec<u8>>,
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

impl Elf {
    /// Reads a file; `None` if it is no ELF file.
    pub(super) fn read(file: &File) -> io::Result<Option<Self>> {
        let mut start = [0; 64];
        let n = read_at_most(file, &mut start, 0)?;
        let header = &start[..n];
        if !header.starts_with(MAGIC) {
            return Ok(None);
        }
        let reader = Reader {
            file,
            is_64_bit: header.get(4) == Some(&2),
            is_big_endian: header.get(5) == Some(&2),
        };
        reader.elf(header).map(Some)
    }
}

/// Reads as much as there is, up to the length of `buffer`.
fn read_at_most(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the ELF file is damaged")
}

struct Reader<'a> {
    file: &'a File,
    is_64_bit: bool,
    is_big_endian: bool,
}

impl Reader<'_> {
    fn elf(&self, header: &[u8]) -> io::Result<Elf> {
        let machine = Machine {
            is_64_bit: self.is_64_bit,
            is_big_endian: self.is_big_endian,
            number: self.u16(header, 18)?,
        };
        let segments = self.segments(header)?;
        let mut elf = Elf {
            machine,
            interpreter: None,
            needed: Vec::new(),
            rpath: None,
            runpath: None,
        };
        if let Some(segment) = segments.iter().find(|s| s.kind == PT_INTERP) {
            elf.interpreter = Some(self.string(segment.offset)?);
        }
        if let Some(segment) = segments.iter().find(|s| s.kind == PT_DYNAMIC) {
            self.dynamic(segment, &segments, &mut elf)?;
        }
        Ok(elf)
    }

    fn segments(&self, header: &[u8]) -> io::Result<Vec<Segment>> {
        let (offset, size, count) = match self.is_64_bit {
            true => (
                self.u64(header, 32)?,
                self.u16(header, 54)?,
                self.u16(header, 56)?,
            ),
            false => (
                u64::from(self.u32(header, 28)?),
                self.u16(header, 42)?,
                self.u16(header, 44)?,
            ),
        };
        if count > SEGMENT_LIMIT {
            return Err(damaged());
        }
        let mut table = vec![0; usize::from(size) * usize::from(count)];
        self.exact(&mut table, offset)?;
        table
            .chunks_exact(usize::from(size).max(1))
            .map(|entry| {
                let word = |wide, narrow| self.word(entry, wide, narrow);
                Ok(Segment {
                    kind: self.u32(entry, 0)?,
                    offset: word(8, 4)?,
                    address: word(16, 8)?,
                    size: word(32, 16)?,
                })
            })
            .collect()
    }

    fn dynamic(&self, segment: &Segment, segments: &[Segment], elf: &mut Elf) -> io::Result<()> {
        let mut table = vec![0; usize::try_from(segment.size.min(DYNAMIC_LIMIT)).map_err(|_| damaged())?];
        self.exact(&mut table, segment.offset)?;
        let entry_size = if self.is_64_bit { 16 } else { 8 };
        let mut entries = Vec::new();
        for entry in table.chunks_exact(entry_size) {
            let (tag, value) = (self.word(entry, 0, 0)?, self.word(entry, 8, 4)?);
            if tag == 0 {
                break;
            }
            entries.push((tag, value));
        }
        let Some(&(_, strings)) = entries.iter().find(|(tag, _)| *tag == DT_STRTAB) else {
            return Ok(());
        };
        let strings = file_offset(segments, strings).ok_or_else(damaged)?;
        let string = |value: u64| self.string(strings.checked_add(value).ok_or_else(damaged)?);
        for (tag, value) in entries {
            match tag {
                DT_NEEDED => elf.needed.push(string(value)?),
                DT_RPATH => elf.rpath = Some(string(value)?),
                DT_RUNPATH => elf.runpath = Some(string(value)?),
                _ => {}
            }
        }
        Ok(())
    }

    /// The bytes from `offset` to the next NUL.
    fn string(&self, offset: u64) -> io::Result<Vec<u8>> {
        let mut text = Vec::new();
        let mut chunk = [0; 256];
        while text.len() < STRING_LIMIT {
            let n = read_at_most(
                self.file,
                &mut chunk,
                offset.checked_add(text.len() as u64).ok_or_else(damaged)?,
            )?;
            match chunk[..n].iter().position(|&b| b == 0) {
                Some(end) => {
                    text.extend_from_slice(&chunk[..end]);
                    return Ok(text);
                }
                None if n < chunk.len() => break,
                None => text.extend_from_slice(&chunk),
            }
        }
        Err(damaged())
    }

    fn exact(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        match read_at_most(self.file, buffer, offset)? == buffer.len() {
            true => Ok(()),
            false => Err(damaged()),
        }
    }

    fn bytes<const N: usize>(&self, record: &[u8], at: usize) -> io::Result<[u8; N]> {
        let bytes = record.get(at..at + N).ok_or_else(damaged)?;
        let mut bytes: [u8; N] = bytes.try_into().map_err(|_| damaged())?;
        if self.is_big_endian {
            bytes.reverse();
        }
        Ok(bytes)
    }

    fn u16(&self, record: &[u8], at: usize) -> io::Result<u16> {
        self.bytes(record, at).map(u16::from_le_bytes)
    }

    fn u32(&self, record: &[u8], at: usize) -> io::Result<u32> {
        self.bytes(record, at).map(u32::from_le_bytes)
    }

    fn u64(&self, record: &[u8], at: usize) -> io::Result<u64> {
        self.bytes(record, at).map(u64::from_le_bytes)
    }

    /// A number of the machine's word size, at `wide` in a 64-bit record and at `narrow` in a 32-bit one.
    fn word(&self, record: &[u8], wide: usize, narrow: usize) -> io::Result<u64> {
        match self.is_64_bit {
            true => self.u64(record, wide),
            false => self.u32(record, narrow).map(u64::from),
        }
    }
}

/// Where in the file the byte at `address` comes from.
fn file_offset(segments: &[Segment], address: u64) -> Option<u64> {
    segments
        .iter()
        .filter(|segment| segment.kind == PT_LOAD)
        .find_map(|segment| {
            let within = address.checked_sub(segment.address)?;
            (within < segment.size).then(|| segment.offset.checked_add(within))?
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn this_program_is_read() {
        let file = File::open("/proc/self/exe").unwrap();
        let elf = Elf::read(&file).unwrap().unwrap();
        assert!(elf.interpreter.is_some_and(|path| path.starts_with(b"/")));
        assert!(
            elf.needed.iter().any(|name| name.starts_with(b"libc.")),
            "{:?}",
            elf.needed
        );
    }

    #[test]
    fn other_files_are_none_and_damaged_ones_errors() {
        let mut file = tempfile::tempfile().unwrap();
        assert_eq!(Elf::read(&file).unwrap(), None);
        file.write_all(b"#!/bin/sh\n").unwrap();
        assert_eq!(Elf::read(&file).unwrap(), None);

        let whole = std::fs::read("/proc/self/exe").unwrap();
        for length in [5, 20, 63, 64, 100, 600] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&whole[..length]).unwrap();
            assert!(Elf::read(&file).is_err(), "{length}");
        }
    }
}
