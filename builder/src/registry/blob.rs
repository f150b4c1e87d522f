//! Blobs of a repository: whole, from some byte on, or a range.

use std::io::{self, Read};
use std::ops::Range;
use std::time::Duration;

use mica_fs::digest::Digest;

use super::session::Call;
use super::{Endpoint, RegistryError, Repository};
use crate::http::{HttpError, Method, Response, wait};

/// How often a transfer may break off without a byte in between.
const ATTEMPTS: u32 = 5;
/// The pause after the first break; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(250);

impl Repository {
    /// The size of a blob, if the repository has it; nothing is transferred.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, RegistryError> {
        let path = format!("blobs/{digest}");
        let about = self.about_blob(digest);
        let mut call = Call::new(Method::Head, &path, &about);
        call.accepted = &[404];
        let response = self.call(&mut call)?;
        match response.status {
            404 => Ok(None),
            _ => Ok(Some(response.length().unwrap_or(0))),
        }
    }

    /// Reads a blob of `size` bytes from the byte `offset` on. Nothing is asked before the first read. The reader goes
    /// on where a transfer breaks off; its errors hold a [`RegistryError`]. It does not check the digest, and never gives
    /// more than was announced.
    pub fn blob(&self, digest: Digest, size: u64, offset: u64) -> Blob {
        Blob {
            repository: self.clone(),
            digest,
            range: offset..size,
            size: Some(size),
            body: None,
            failures: 0,
        }
    }

    /// Reads a part of a blob, as [`Self::blob`] does. The blob's size need not be known.
    pub fn blob_range(&self, digest: Digest, range: Range<u64>) -> Blob {
        Blob {
            repository: self.clone(),
            digest,
            range,
            size: None,
            body: None,
            failures: 0,
        }
    }

    fn about_blob(&self, digest: &Digest) -> String {
        format!("the blob {digest} of {}", self.name())
    }
}

/// Reads a blob, or a part of one.
pub struct Blob {
    repository: Repository,
    digest: Digest,
    /// What is still to come.
    range: Range<u64>,
    /// Of the whole blob; unknown if only a part is wanted, and then the server must be able to give parts.
    size: Option<u64>,
    body: Option<Box<dyn Read + Send>>,
    /// How often it broke off since the last byte.
    failures: u32,
}

impl Blob {
    /// Where the next byte stands in the blob.
    pub fn position(&self) -> u64 {
        self.range.start
    }

    fn open(&self) -> Result<Box<dyn Read + Send>, RegistryError> {
        self.repository.first(|endpoint| self.open_at(endpoint))
    }

    fn open_at(&self, endpoint: &Endpoint) -> Result<Box<dyn Read + Send>, RegistryError> {
        let path = format!("blobs/{}", self.digest);
        let about = self.repository.about_blob(&self.digest);
        let mut call = Call::new(Method::Get, &path, &about);
        let is_part = self.range.start > 0 || self.size.is_none();
        if is_part {
            let last = match self.size {
                Some(_) => String::new(),
                None => self.range.end.saturating_sub(1).to_string(),
            };
            let range = format!("bytes={}-{last}", self.range.start);
            call.headers.push(("range", range));
        }
        let response = self.repository.call_at(endpoint, &mut call)?;
        self.check(&response, &about)?;
        let is_whole = response.status != 206;
        let mut body: Box<dyn Read + Send> = Box::new(response.into_reader());
        if is_whole && self.range.start > 0 {
            tracing::debug!(%about, "the server gives whole blobs only");
            skip(&mut body, self.range.start, &about)?;
        }
        Ok(body)
    }

    /// Whether the answer is about the bytes that were asked for.
    fn check(&self, response: &Response, about: &str) -> Result<(), RegistryError> {
        let server = response.url.host.clone();
        let (expected, found) = match (response.status, self.size) {
            (206, _) => {
                let header = response.header("content-range").unwrap_or_default();
                let start = start_of(header);
                if start.is_some_and(|start| start != self.range.start) {
                    return Err(RegistryError::Protocol {
                        about: about.to_owned(),
                        server,
                        reason: format!("it sent {header:?} from byte {} on", self.range.start),
                    });
                }
                (self.range.end - self.range.start, response.length())
            }
            (_, None) => return Err(RegistryError::NoRanges { server }),
            (_, Some(size)) => (size, response.length()),
        };
        match found.filter(|found| *found != expected) {
            Some(found) => Err(RegistryError::Size {
                about: about.to_owned(),
                server,
                expected,
                found,
            }),
            None => Ok(()),
        }
    }

    /// One read of what is open, or opened now.
    fn attempt(&mut self, buffer: &mut [u8]) -> Result<usize, RegistryError> {
        let mut body = match self.body.take() {
            Some(body) => body,
            None => self.open()?,
        };
        let source = match body.read(buffer) {
            Ok(0) => io::Error::from(io::ErrorKind::UnexpectedEof),
            Ok(n) => {
                self.body = Some(body);
                return Ok(n);
            }
            Err(source) => source,
        };
        Err(HttpError::Body {
            url: self.repository.about_blob(&self.digest),
            bytes: self.range.start,
            source,
        }
        .into())
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.range.end - self.range.start).unwrap_or(usize::MAX);
        let wanted = left.min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        loop {
            let error = match self.attempt(&mut buffer[..wanted]) {
                Ok(n) => {
                    self.range.start += n as u64;
                    self.failures = 0;
                    return Ok(n);
                }
                Err(error) => error,
            };
            self.failures += 1;
            let client = self.repository.client();
            if client.is_stopped() {
                return Err(io::Error::other(RegistryError::from(HttpError::Stopped)));
            }
            if !error.is_broken_off() || self.failures >= ATTEMPTS {
                return Err(io::Error::other(error));
            }
            tracing::info!(%error, "going on where it broke off");
            wait(PAUSE * (1 << (self.failures - 1)), &|| client.is_stopped());
        }
    }
}

/// Reads and forgets.
fn skip(body: &mut dyn Read, bytes: u64, about: &str) -> Result<(), RegistryError> {
    let skipped = io::copy(&mut body.take(bytes), &mut io::sink());
    let (bytes, source) = match skipped {
        Ok(n) if n == bytes => return Ok(()),
        Ok(n) => (n, io::ErrorKind::UnexpectedEof.into()),
        Err(source) => (0, source),
    };
    let url = about.to_owned();
    Err(HttpError::Body { url, bytes, source }.into())
}

/// Where the bytes of `Content-Range: bytes START-END/SIZE` start.
fn start_of(header: &str) -> Option<u64> {
    let range = header.trim().strip_prefix("bytes")?.trim_start();
    range.split('-').next()?.trim().parse().ok()
}
