//! A blob's bytes on their way: from the disk as far as they were there, then from the registry to the disk, and all of
//! them to who takes the layer in, a thread of its own. So fetching and hashing go beside decompressing and indexing.

use std::io::{self, Read};
use std::sync::mpsc::{self, Receiver, SyncSender};

use mica_fs::digest::Hasher;
use mica_fs::store::Download;

use super::layer::{Fetcher, Job, LayerError};
use super::{LayerState, PullError};
use crate::http::HttpError;
use crate::registry::RegistryError;

/// The size of a piece.
const PIECE: usize = 256 << 10;
/// How many pieces may wait. They bound what a layer takes of memory.
const WAITING: usize = 8;

pub(super) fn channel() -> (SyncSender<Vec<u8>>, Pieces) {
    let (send, receive) = mpsc::sync_channel(WAITING);
    let pieces = Pieces {
        receive,
        piece: Vec::new(),
        at: 0,
    };
    (send, pieces)
}

/// The pieces as a stream. It ends where they end, also if that was too early: who feeds it knows.
pub(super) struct Pieces {
    receive: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Pieces {
    /// Reads all that is left.
    pub(super) fn drain(&self) {
        while self.receive.recv().is_ok() {}
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.receive.recv() {
                Ok(piece) => (self.piece, self.at) = (piece, 0),
                Err(_) => return Ok(0),
            }
        }
        let n = (&self.piece[self.at..]).read(buffer)?;
        self.at += n;
        Ok(n)
    }
}

/// How far bytes were passed on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Passed {
    /// To their end.
    All,
    /// Until nobody wanted them.
    Unwanted,
}

/// Where a layer's bytes come from.
pub(super) struct Feed<'a> {
    pub fetcher: &'a Fetcher<'a>,
    pub job: &'a Job,
    pub download: &'a mut Download,
}

impl Feed<'_> {
    /// Fetches the blob, and checks its digest at the end. Without `send` nobody takes the layer in.
    pub(super) fn run(mut self, send: Option<&SyncSender<Vec<u8>>>) -> Result<(), PullError> {
        let mut hasher = Hasher::new();
        let there = self.download.length();
        let mut before = self.download.reader()?;
        if self.pass(&mut before, &mut hasher, send, false)? == Passed::Unwanted {
            return Ok(());
        }
        let mut blob = self
            .fetcher
            .repository
            .blob(self.job.digest, self.job.size, there);
        if self.pass(&mut blob, &mut hasher, send, true)? == Passed::Unwanted {
            return Ok(());
        }
        let found = hasher.finish();
        match found == self.job.digest {
            true => Ok(()),
            false => Err(self.fetcher.layer_error(self.job, LayerError::Digest { found })),
        }
    }

    /// Passes on what `from` gives; what is `new` goes to the disk as well, every byte of it also if `from` fails.
    fn pass(
        &mut self,
        from: &mut dyn Read,
        hasher: &mut Hasher,
        send: Option<&SyncSender<Vec<u8>>>,
        new: bool,
    ) -> Result<Passed, PullError> {
        let mut passed = if new { self.download.length() } else { 0 };
        loop {
            let mut piece = vec![0; PIECE];
            let (filled, end) = self.fill(from, &mut piece);
            piece.truncate(filled);
            hasher.update(&piece);
            if new {
                self.download.append(&piece)?;
            }
            passed += filled as u64;
            self.fetcher.tell(self.job, LayerState::Arrived(passed));
            let is_gone = filled > 0 && send.is_some_and(|send| send.send(piece).is_err());
            match end {
                // Who took them in could not go on, and says why.
                _ if is_gone => return Ok(Passed::Unwanted),
                Some(result) => return result.map(|()| Passed::All),
                None => {}
            }
        }
    }

    /// Fills a piece, unless the stream ends or fails before, or the pull is stopped.
    fn fill(&self, from: &mut dyn Read, piece: &mut [u8]) -> (usize, Option<Result<(), PullError>>) {
        let mut filled = 0;
        while filled < piece.len() {
            if (self.fetcher.stopped)() {
                return (filled, Some(Err(PullError::Stopped)));
            }
            match from.read(&mut piece[filled..]) {
                Ok(0) => return (filled, Some(Ok(()))),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return (filled, Some(Err(self.failed(e)))),
            }
        }
        (filled, None)
    }

    fn failed(&self, error: io::Error) -> PullError {
        match error.downcast::<RegistryError>() {
            Ok(RegistryError::Http(HttpError::Stopped)) => PullError::Stopped,
            Ok(error) => error.into(),
            Err(error) => self.fetcher.layer_error(self.job, LayerError::Compression(error)),
        }
    }
}
