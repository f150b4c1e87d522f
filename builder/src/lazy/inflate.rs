//! Unpacking gzip from the beginning, or from the middle of a stream.
//!
//! A deflate block begins at any bit and refers to as many as 32 KiB of what came before it (RFC 1951, section 2). So
//! whoever knows the bit and these bytes can go on from there without what lies before.

use std::io::{self, Read};

use flate2::Crc;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{
    TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY,
};
use miniz_oxide::inflate::core::{BlockBoundaryState, DecompressorOxide, decompress};

/// What a deflate block may refer to.
pub(super) const WINDOW: usize = 32 << 10;
/// Where unpacked bytes go; a power of two, and larger than the window, so that a call gives more than a few.
const RING: usize = 256 << 10;
const INPUT: usize = 64 << 10;

/// The bits of the last byte read that belong to the block to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Bits {
    /// How many, at most 7.
    pub count: u8,
    /// Their value.
    pub value: u8,
}

/// How far [`Gunzip::advance`] came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// There are bytes to take.
    Bytes,
    /// A member begins at the position of the input; nothing before it is needed.
    Member,
    /// A block begins: with these bits, the position of the input and the window one can go on here.
    Block(Bits),
    /// The stream has ended.
    End,
}

/// Reads what was compressed by gzip (RFC 1952), in any number of members.
pub(super) struct Gunzip<R> {
    source: R,
    input: Box<[u8]>,
    /// What of `input` is not used yet.
    unread: std::ops::Range<usize>,
    /// Position in the stream of the first unread byte.
    position: u64,
    inflate: Box<DecompressorOxide>,
    ring: Box<[u8]>,
    /// What of the ring was not taken yet; the end is where the next bytes go.
    ready: std::ops::Range<usize>,
    /// Bytes of this member up to now, and what they are checked with; `None` where it was begun in the middle.
    member: u64,
    crc: Option<Crc>,
    /// A block has ended, and that was not told yet.
    boundary: bool,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a member.
    Between,
    /// Before a member that was announced.
    Header,
    Deflate,
    Trailer,
    End,
}

impl<R: Read> Gunzip<R> {
    /// Reads `source` from its beginning.
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            input: vec![0; INPUT].into_boxed_slice(),
            unread: 0..0,
            position: 0,
            inflate: Box::default(),
            ring: vec![0; RING].into_boxed_slice(),
            ready: 0..0,
            member: 0,
            crc: Some(Crc::new()),
            boundary: false,
            state: State::Between,
        }
    }

    /// Goes on where a block began: `source` gives what followed there.
    pub(super) fn resume(source: R, bits: Bits, window: &[u8]) -> Self {
        let mut this = Self::new(source);
        let window = &window[window.len().saturating_sub(WINDOW)..];
        this.ring[..window.len()].copy_from_slice(window);
        this.ready = window.len()..window.len();
        this.member = window.len() as u64;
        this.crc = None;
        this.state = State::Deflate;
        *this.inflate = DecompressorOxide::from_block_boundary_state(&BlockBoundaryState {
            num_bits: bits.count.min(7),
            bit_buf: bits.value & ((1 << bits.count.min(7)) - 1),
            ..BlockBoundaryState::default()
        });
        this
    }

    /// Where in `source` the first byte stands that was not used yet.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The bytes to take after [`Step::Bytes`].
    pub(super) fn ready(&self) -> &[u8] {
        &self.ring[self.ready.clone()]
    }

    /// Takes `count` bytes.
    pub(super) fn take_bytes(&mut self, count: usize) {
        self.ready.start = (self.ready.start + count).min(self.ready.end);
    }

    /// What the next block may refer to. After [`Step::Block`].
    pub(super) fn window(&self) -> Vec<u8> {
        let size = usize::try_from(self.member).map_or(WINDOW, |n| n.min(WINDOW));
        let end = self.ready.end;
        match end.checked_sub(size) {
            Some(start) => self.ring[start..end].to_vec(),
            None => [&self.ring[RING - (size - end)..], &self.ring[..end]].concat(),
        }
    }

    /// Goes on to the next bytes, or to the next place to resume at. All bytes must have been taken.
    ///
    /// # Errors
    /// What `source` reports; `InvalidData` and `UnexpectedEof` if it is damaged.
    pub(super) fn advance(&mut self) -> io::Result<Step> {
        loop {
            match self.state {
                State::End => return Ok(Step::End),
                State::Between => match (self.fill()?.is_empty(), self.position) {
                    (true, 0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    (true, _) => self.state = State::End,
                    (false, _) => {
                        self.state = State::Header;
                        return Ok(Step::Member);
                    }
                },
                State::Header => {
                    self.header()?;
                    self.inflate.init();
                    self.member = 0;
                    self.crc = Some(Crc::new());
                    self.state = State::Deflate;
                }
                State::Trailer => {
                    self.trailer()?;
                    self.state = State::Between;
                }
                State::Deflate => {
                    if let Some(step) = self.deflate()? {
                        return Ok(step);
                    }
                }
            }
        }
    }

    /// Unpacks some; `None` if there is neither a byte to take nor a place to resume at.
    fn deflate(&mut self) -> io::Result<Option<Step>> {
        if std::mem::take(&mut self.boundary)
            && let Some(state) = self.inflate.block_boundary_state()
        {
            return Ok(Some(Step::Block(Bits {
                count: state.num_bits,
                value: state.bit_buf,
            })));
        }
        let more = !self.fill()?.is_empty();
        let start = self.ready.end % RING;
        let flags = TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY | if more { TINFL_FLAG_HAS_MORE_INPUT } else { 0 };
        let input = &self.input[self.unread.clone()];
        let (status, read, written) = decompress(&mut self.inflate, input, &mut self.ring, start, flags);
        self.used(read);
        self.ready = start..start + written;
        self.member += written as u64;
        if let Some(crc) = &mut self.crc {
            crc.update(&self.ring[start..start + written]);
        }
        match status {
            TINFLStatus::BlockBoundary => self.boundary = true,
            TINFLStatus::Done => self.state = State::Trailer,
            TINFLStatus::NeedsMoreInput | TINFLStatus::HasMoreOutput => {}
            TINFLStatus::FailedCannotMakeProgress => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => return Err(damaged("a block cannot be unpacked")),
        }
        Ok((written > 0).then_some(Step::Bytes))
    }

    /// A member's header (RFC 1952, section 2.3).
    fn header(&mut self) -> io::Result<()> {
        let mut fixed = [0; 10];
        for byte in &mut fixed {
            *byte = self.byte()?;
        }
        if fixed[..3] != [0x1f, 0x8b, 8] {
            return Err(damaged("a member does not begin as one of gzip"));
        }
        let has = |flag: u8| fixed[3] & flag != 0;
        if has(4) {
            let length = u16::from_le_bytes([self.byte()?, self.byte()?]);
            for _ in 0..length {
                self.byte()?;
            }
        }
        for _ in 0..u8::from(has(8)) + u8::from(has(16)) {
            while self.byte()? != 0 {}
        }
        for _ in 0..2 * u8::from(has(2)) {
            self.byte()?;
        }
        Ok(())
    }

    /// A member's end: the checksum and the size, modulo 2^32.
    fn trailer(&mut self) -> io::Result<()> {
        let mut fields = [0; 8];
        for byte in &mut fields {
            *byte = self.byte()?;
        }
        let Some(crc) = self.crc.take() else { return Ok(()) };
        let expected = [crc.sum().to_le_bytes(), crc.amount().to_le_bytes()].concat();
        match fields[..] == expected {
            true => Ok(()),
            false => Err(damaged("the checksum of a member differs")),
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let first = self.fill()?.first().copied();
        let byte = first.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.used(1);
        Ok(byte)
    }

    /// The unread input; none only at the end of the source.
    fn fill(&mut self) -> io::Result<&[u8]> {
        while self.unread.is_empty() {
            match self.source.read(&mut self.input) {
                Ok(0) => break,
                Ok(n) => self.unread = 0..n.min(INPUT),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(&self.input[self.unread.clone()])
    }

    fn used(&mut self, count: usize) {
        self.unread.start += count;
        self.position += count as u64;
    }
}

impl<R: Read> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.ready().is_empty() {
            if self.advance()? == Step::End {
                return Ok(0);
            }
        }
        let count = self.ready().len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.ready()[..count]);
        self.take_bytes(count);
        Ok(count)
    }
}

fn damaged(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged gzip data: {reason}"))
}
