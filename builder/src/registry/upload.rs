//! Blobs and manifests on their way into a repository (OCI distribution specification, "Push").
//!
//! A blob goes in one piece, of unknown size if it is made while it is sent. When that breaks off, the registry is
//! asked how much it has; the rest goes in smaller pieces, so that the next break costs less. A registry that forgot
//! the upload gets it anew.

use std::io::{self, Read};
use std::time::Duration;

use mica_fs::digest::{Digest, Hashing};

use super::session::{Call, Target};
use super::{Client, ManifestName, RegistryError, Repository};
use crate::http::{Body, HttpError, Method, Response, wait};
use crate::url::{Url, encode};

/// How often an upload may break off without a byte in between.
const ATTEMPTS: u32 = 5;
/// The pause after the first break; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a registry may ask to be left alone.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// The size of the pieces after a break, in bytes; some registries want no smaller ones.
const PIECE: u64 = 5 << 20;

/// The bytes of a blob, which can be had more than once.
pub trait Content {
    /// Their digest and number, if these are known before they are read.
    fn known(&self) -> Option<(Digest, u64)>;

    /// Reads them from the beginning on; the same bytes each time.
    ///
    /// # Errors
    /// What the system reports.
    fn open(&self) -> io::Result<Box<dyn Read + Send + '_>>;
}

/// Why a blob could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The registry, or the way to it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The blob's own bytes cannot be read.
    #[error("cannot read what is to be sent")]
    Content(#[source] io::Error),
}

/// An upload that a registry has begun.
pub struct Begun {
    location: Url,
    /// The smallest piece that the registry wants, in bytes; the last one may be smaller.
    least: u64,
}

/// What came of the wish to have a blob of another repository.
pub enum Mounted {
    /// It is there.
    Yes,
    /// The registry expects its bytes.
    No(Begun),
}

impl Repository {
    /// Asks the registry to take a blob over from another of its repositories, without its bytes.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn mount_blob(&self, digest: &Digest, from: &str) -> Result<Mounted, RegistryError> {
        let path = format!("blobs/uploads/?mount={digest}&from={}", encode(from));
        let about = self.about_upload(Some(digest));
        let response = self.call(&mut Call::new(Method::Post, &path, &about))?;
        match response.status {
            201 => Ok(Mounted::Yes),
            _ => self.begun(&response, &about).map(Mounted::No),
        }
    }

    /// Ends an upload in which nothing is going to be sent. A registry that does not listen forgets it by itself.
    pub fn cancel(&self, begun: Begun) {
        let about = self.about_upload(None);
        let mut call = Call::new(Method::Delete, "", &about);
        call.target = Target::Url(&begun.location);
        if let Err(error) = self.call(&mut call) {
            tracing::debug!(%error, "an upload was left");
        }
    }

    /// Sends a blob, in `begun` if there is one already. `progress` hears how many bytes the registry may have by now,
    /// which can be fewer than before. Returns the digest and the size.
    ///
    /// # Errors
    /// [`UploadError`].
    pub fn upload(
        &self,
        content: &dyn Content,
        begun: Option<Begun>,
        progress: &dyn Fn(u64),
    ) -> Result<(Digest, u64), UploadError> {
        let digest = content.known().map(|(digest, _)| digest);
        let about = self.about_upload(digest.as_ref());
        let begun = match begun {
            Some(begun) => begun,
            None => self.begin(&about)?,
        };
        let upload = Upload {
            repository: self,
            content,
            progress,
            about,
            begun,
            offset: 0,
            in_pieces: false,
            failures: 0,
        };
        upload.run()
    }

    /// Sends a manifest or an index. All that it names must be there.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub fn put_manifest(
        &self,
        name: ManifestName<'_>,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), RegistryError> {
        let path = format!("manifests/{name}");
        let about = format!("pushing the manifest of {}:{name}", self.name());
        let mut call = Call::new(Method::Put, &path, &about);
        call.headers.push(("content-type", media_type.to_owned()));
        call.body = Body::Bytes(bytes);
        let response = self.call(&mut call)?;
        let (expected, server) = (Digest::of(bytes), response.url.host.clone());
        let stated = response
            .header("docker-content-digest")
            .and_then(|text| text.parse().ok());
        match stated.filter(|found: &Digest| *found != expected) {
            Some(found) => Err(RegistryError::Digest {
                about,
                server,
                expected,
                found,
            }),
            None => Ok(()),
        }
    }

    fn about_upload(&self, digest: Option<&Digest>) -> String {
        match digest {
            Some(digest) => format!("pushing the blob {digest} to {}", self.name()),
            None => format!("pushing a layer to {}", self.name()),
        }
    }

    fn begin(&self, about: &str) -> Result<Begun, RegistryError> {
        let response = self.call(&mut Call::new(Method::Post, "blobs/uploads/", about))?;
        self.begun(&response, about)
    }

    fn begun(&self, response: &Response, about: &str) -> Result<Begun, RegistryError> {
        let least = response.header("oci-chunk-min-length");
        Ok(Begun {
            location: location(response, about)?,
            least: least.and_then(|text| text.trim().parse().ok()).unwrap_or(0),
        })
    }
}

/// Where the upload goes on: a whole URL, or a part of one.
fn location(response: &Response, about: &str) -> Result<Url, RegistryError> {
    let stated = response.header("location").unwrap_or_default();
    let reason = match response.url.join(stated) {
        Ok(url) if !stated.is_empty() => return Ok(url),
        Ok(_) => "it does not say where the upload goes on".to_owned(),
        Err(error) => format!("the upload is to go on at {stated:?}: {error}"),
    };
    Err(RegistryError::Protocol {
        about: about.to_owned(),
        server: response.url.host.clone(),
        reason,
    })
}

/// A blob that is being sent.
struct Upload<'a> {
    repository: &'a Repository,
    content: &'a dyn Content,
    progress: &'a dyn Fn(u64),
    about: String,
    begun: Begun,
    /// How many bytes the registry has.
    offset: u64,
    in_pieces: bool,
    /// How often it broke off since the last byte.
    failures: u32,
}

impl<'a> Upload<'a> {
    fn run(mut self) -> Result<(Digest, u64), UploadError> {
        loop {
            let (digest, size) = self.send_all()?;
            match self.complete(&digest) {
                Ok(()) => return Ok((digest, size)),
                // An answer may have been lost, or the upload.
                Err(error) if self.may_go_on(&error) => {
                    if self.repository.blob_size(&digest)?.is_some() {
                        return Ok((digest, size));
                    }
                    self.pause(error)?;
                    self.begin_anew()?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends what the registry does not have; returns the digest and the size of the whole.
    fn send_all(&mut self) -> Result<(Digest, u64), UploadError> {
        let mut sending = self.open()?;
        loop {
            if sending.position() != self.offset {
                sending = self.open()?;
            }
            let left = self
                .content
                .known()
                .map(|(_, size)| size.saturating_sub(self.offset));
            if left == Some(0) || sending.is_at_end {
                return sending.finish();
            }
            let sent = match (self.in_pieces, left) {
                (false, None) => self.patch(&mut sending, None),
                (false, Some(left)) => self.patch(&mut sending.by_ref().take(left), Some(left)),
                (true, Some(left)) => {
                    let length = left.min(self.piece());
                    self.patch(&mut sending.by_ref().take(length), Some(length))
                }
                (true, None) => match sending.read_piece(self.piece()) {
                    Ok(piece) if piece.is_empty() => continue,
                    Ok(piece) => self.patch(&mut &piece[..], Some(piece.len() as u64)),
                    // Told below.
                    Err(_) => Ok(self.begun.location.clone()),
                },
            };
            if self.repository.client().is_stopped() {
                return Err(RegistryError::from(HttpError::Stopped).into());
            }
            if let Some(error) = sending.error.take() {
                return Err(UploadError::Content(error));
            }
            match sent {
                Ok(location) => {
                    self.begun.location = location;
                    self.offset = sending.position();
                    self.failures = 0;
                }
                Err(error) => self.recover(error)?,
            }
        }
    }

    fn piece(&self) -> u64 {
        PIECE.max(self.begun.least)
    }

    /// The content from the byte on that the registry wants next.
    fn open(&self) -> Result<Sending<'a>, UploadError> {
        let mut content = Hashing::new(self.content.open().map_err(UploadError::Content)?);
        let skipped = io::copy(&mut content.by_ref().take(self.offset), &mut io::sink());
        skipped.map_err(UploadError::Content)?;
        Ok(Sending {
            content,
            known: self.content.known(),
            client: self.repository.client(),
            progress: self.progress,
            is_at_end: false,
            error: None,
        })
    }

    /// Sends bytes; returns where the upload goes on.
    fn patch(&self, bytes: &mut dyn Read, length: Option<u64>) -> Result<Url, RegistryError> {
        let mut call = Call::new(Method::Patch, "", &self.about);
        call.target = Target::Url(&self.begun.location);
        call.headers
            .push(("content-type", "application/octet-stream".to_owned()));
        if let Some(length) = length.filter(|_| self.in_pieces) {
            let last = self.offset + length.saturating_sub(1);
            call.headers
                .push(("content-range", format!("{}-{last}", self.offset)));
        }
        call.body = Body::Stream(bytes, length);
        location(&self.repository.call(&mut call)?, &self.about)
    }

    /// Says that all bytes were sent.
    fn complete(&self, digest: &Digest) -> Result<(), RegistryError> {
        let mut url = self.begun.location.clone();
        let parameter = format!("digest={}", encode(&digest.to_string()));
        url.query = Some(match url.query.filter(|own| !own.is_empty()) {
            Some(own) => format!("{own}&{parameter}"),
            None => parameter,
        });
        let mut call = Call::new(Method::Put, "", &self.about);
        call.target = Target::Url(&url);
        self.repository.call(&mut call).map(drop)
    }

    /// Whether an error ends only this attempt: the network, a busy server, a token that is no longer good, a forgotten
    /// upload, too large a piece.
    fn may_go_on(&self, error: &RegistryError) -> bool {
        let lost = matches!(
            error,
            RegistryError::Refused {
                status: 401 | 404 | 413 | 416,
                ..
            }
        );
        lost || error.is_passing()
    }

    /// Waits, and finds out how much the registry has.
    fn recover(&mut self, error: RegistryError) -> Result<(), UploadError> {
        if !self.may_go_on(&error) {
            return Err(error.into());
        }
        tracing::info!(%error, "asking how much has arrived");
        self.in_pieces = true;
        self.pause(error)?;
        let before = self.offset;
        match self.status()? {
            Some(offset) => self.offset = offset,
            None => self.begin_anew()?,
        }
        if self.offset > before {
            self.failures = 0;
        }
        Ok(())
    }

    fn pause(&mut self, error: RegistryError) -> Result<(), UploadError> {
        self.failures += 1;
        let own = PAUSE * (1 << (self.failures - 1));
        let asked = match &error {
            RegistryError::Refused { retry_after, .. } => retry_after.unwrap_or(own),
            _ => own,
        };
        let client = self.repository.client();
        if self.failures > ATTEMPTS || asked > MAX_PAUSE || client.is_stopped() {
            return Err(error.into());
        }
        wait(asked, &|| client.is_stopped());
        Ok(())
    }

    fn begin_anew(&mut self) -> Result<(), UploadError> {
        self.begun = self.repository.begin(&self.about)?;
        self.offset = 0;
        (self.progress)(0);
        Ok(())
    }

    /// How many bytes the registry has; `None` if it does not know the upload any more.
    fn status(&mut self) -> Result<Option<u64>, UploadError> {
        let url = self.begun.location.clone();
        let mut call = Call::new(Method::Get, "", &self.about);
        call.target = Target::Url(&url);
        call.accepted = &[400, 404];
        let response = self.repository.call(&mut call)?;
        if matches!(response.status, 400 | 404) {
            return Ok(None);
        }
        // `0-0` is what registries say of one byte and of none.
        let last = response
            .header("range")
            .and_then(|range| range.rsplit_once('-')?.1.trim().parse::<u64>().ok());
        if response.header("location").is_some() {
            self.begun.location = location(&response, &self.about)?;
        }
        Ok(Some(last.filter(|last| *last > 0).map_or(0, |last| last + 1)))
    }
}

/// The content on its way. Its own errors are kept here: to the connection they look like the network's.
struct Sending<'a> {
    content: Hashing<Box<dyn Read + Send + 'a>>,
    known: Option<(Digest, u64)>,
    client: &'a Client,
    progress: &'a dyn Fn(u64),
    is_at_end: bool,
    error: Option<io::Error>,
}

impl Sending<'_> {
    fn position(&self) -> u64 {
        Hashing::bytes(&self.content)
    }

    /// Reads so many bytes, or what there is.
    fn read_piece(&mut self, size: u64) -> io::Result<Vec<u8>> {
        let mut piece = Vec::new();
        self.take(size).read_to_end(&mut piece)?;
        Ok(piece)
    }

    /// The digest and the size of all that was read, which must be everything.
    fn finish(mut self) -> Result<(Digest, u64), UploadError> {
        io::copy(&mut self.content, &mut io::sink()).map_err(UploadError::Content)?;
        let (_, digest, size) = self.content.finish();
        match self.known.filter(|known| *known != (digest, size)) {
            None => Ok((digest, size)),
            Some((expected, _)) => {
                let text = format!("{expected} is damaged: {size} bytes with the digest {digest}");
                Err(UploadError::Content(io::Error::new(
                    io::ErrorKind::InvalidData,
                    text,
                )))
            }
        }
    }
}

impl Read for Sending<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.client.is_stopped() {
            return Err(io::Error::other(HttpError::Stopped));
        }
        match self.content.read(buffer) {
            Ok(0) if !buffer.is_empty() => {
                self.is_at_end = true;
                let is_short = self.known.is_some_and(|(_, size)| self.position() < size);
                if is_short {
                    self.error = Some(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(0)
            }
            Ok(n) => {
                (self.progress)(self.position());
                Ok(n)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let copy = io::Error::new(error.kind(), error.to_string());
                self.error = Some(error);
                Err(copy)
            }
        }
    }
}
