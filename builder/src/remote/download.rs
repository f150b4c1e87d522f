//! A file of a server, as a layer with that one file.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::time::Duration;

use mica_fs::digest::DiffId;
use mica_fs::layer::writer::{LayerWriter, NewNode};
use mica_fs::layer::{Metadata, Timestamp};
use mica_fs::path::ImagePath;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Checksum, Download, Fetcher, RemoteError};
use crate::http::{HttpError, Response, wait};

/// Mode of a file from a URL, as in BuildKit.
const MODE: u32 = 0o600;
/// How often a transfer that broke off is begun again.
const RESTARTS: u32 = 2;

/// What is known of a file that was fetched.
#[derive(Clone, Serialize, Deserialize)]
struct Record {
    layer: DiffId,
    etag: Option<String>,
    modified: Option<String>,
}

impl Fetcher<'_> {
    /// Fetches a file. If its digest is given and it was fetched before, nobody is asked; otherwise its server is asked
    /// whether it changed.
    pub(super) fn download(&self, file: &Download) -> Result<DiffId, RemoteError> {
        let key = key(file);
        let known: Option<Record> = self.recall(&key, |record: &Record| record.layer)?;
        if let (Some(record), Some(_)) = (&known, &file.checksum) {
            return Ok(record.layer);
        }
        let mut restarts = 0;
        let record = loop {
            match self.attempt(file, known.as_ref()) {
                Err(RemoteError::Http(error @ HttpError::Body { .. })) if restarts < RESTARTS => {
                    restarts += 1;
                    tracing::warn!(%error, "fetching it again");
                    wait(Duration::from_secs(1), self.stopped);
                }
                result => break result?,
            }
        };
        self.remember(&key, &record, record.layer)?;
        Ok(record.layer)
    }

    /// One transfer, or none if the file is as it is `known`.
    fn attempt(&self, file: &Download, known: Option<&Record>) -> Result<Record, RemoteError> {
        let mut headers = self.authorization(file);
        if let Some(record) = known {
            match (&record.etag, &record.modified) {
                (Some(etag), _) => headers.push(("if-none-match", etag.clone())),
                (None, Some(modified)) => headers.push(("if-modified-since", modified.clone())),
                (None, None) => {}
            }
        }
        let response = self.client.get(&file.url, &headers, self.stopped)?;
        if let Some(record) = known
            && is_unchanged(&response, record)
        {
            tracing::debug!(url = %file.url, "unchanged");
            return Ok(record.clone());
        }
        let header = |name| response.header(name).map(str::to_owned);
        let (etag, modified) = (header("etag"), header("last-modified"));
        let layer = self.store_file(file, response, modified.as_deref())?;
        Ok(Record {
            layer,
            etag,
            modified,
        })
    }

    /// The header with the secret that is named after the host, as BuildKit names them.
    fn authorization(&self, file: &Download) -> Vec<(&'static str, String)> {
        let host = file.url.host_name();
        let text = |name: String| {
            let bytes = self.secret(&name)?;
            Some(String::from_utf8_lossy(bytes).trim().to_owned())
        };
        let header = text(format!("HTTP_AUTH_HEADER_{host}"));
        let token = || Some(format!("Bearer {}", text(format!("HTTP_AUTH_TOKEN_{host}"))?));
        let value = header.or_else(token);
        value.map(|value| ("authorization", value)).into_iter().collect()
    }

    /// Writes what comes to the store, and checks it meanwhile.
    fn store_file(
        &self,
        file: &Download,
        response: Response,
        modified: Option<&str>,
    ) -> Result<DiffId, RemoteError> {
        let work = self.store.work_dir()?;
        let path = work.path().join("download");
        let failed = |source| RemoteError::File {
            path: path.clone(),
            source,
        };
        let mut options = File::options();
        let mut bytes = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(failed)?;
        let size = self.receive(file, response, &mut |piece| {
            bytes.write_all(piece).map_err(failed)
        })?;
        bytes.rewind().map_err(failed)?;
        let layer = self.store.work_dir()?;
        let mut writer = LayerWriter::new(layer.path())?;
        let metadata = Metadata {
            mode: MODE,
            mtime: modified.and_then(http_date).unwrap_or(Timestamp::from_seconds(0)),
            ..Metadata::default()
        };
        let content = NewNode::File {
            size,
            content: &mut bytes,
        };
        writer.add(&ImagePath::root().join(file.name.as_bytes()), &metadata, content)?;
        let written = writer.finish()?;
        Ok(self.store.publish_layer(layer, &written)?.diff_id())
    }

    /// Passes all bytes on, and returns how many there were: as many as announced, with the digest that was asked for.
    fn receive(
        &self,
        file: &Download,
        response: Response,
        take: &mut dyn FnMut(&[u8]) -> Result<(), RemoteError>,
    ) -> Result<u64, RemoteError> {
        let announced = response.length();
        let mut body = response.into_reader();
        let mut sum = file.checksum.as_ref().map(Checksum::summing);
        let mut buffer = vec![0; 1 << 18];
        let mut size = 0;
        let broken = |bytes, source| HttpError::Body {
            url: file.url.to_string(),
            bytes,
            source,
        };
        loop {
            if (self.stopped)() {
                return Err(HttpError::Stopped.into());
            }
            let piece = match body.read(&mut buffer) {
                // Who stops it closes the connection, which may look like the end.
                Ok(0) if (self.stopped)() => return Err(HttpError::Stopped.into()),
                Ok(0) => break,
                Ok(n) => &buffer[..n],
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(broken(size, source).into()),
            };
            if let Some(sum) = &mut sum {
                sum.update(piece);
            }
            take(piece)?;
            size += piece.len() as u64;
        }
        if announced.is_some_and(|announced| announced != size) {
            return Err(broken(size, io::ErrorKind::UnexpectedEof.into()).into());
        }
        match (sum.map(|sum| sum.finish()), &file.checksum) {
            (Some(found), Some(expected)) if found != *expected => Err(RemoteError::Checksum {
                what: file.url.to_string(),
                expected: expected.to_string(),
                found: found.to_string(),
            }),
            _ => Ok(size),
        }
    }
}

/// What the record of a file lies under: its digest if that is given, else its URL.
fn key(file: &Download) -> Value {
    match &file.checksum {
        Some(checksum) => json!({"kind": "download", "checksum": checksum.to_string(), "name": file.name}),
        None => json!({"kind": "download", "url": file.url.bare().encoded(), "name": file.name}),
    }
}

/// Whether the server says that the file is as it was. Some answer a conditional request in full, but with the old tag.
fn is_unchanged(response: &Response, record: &Record) -> bool {
    response.status == 304 || record.etag.is_some() && response.header("etag") == record.etag.as_deref()
}

/// A time as HTTP writes it (RFC 9110, section 5.6.7).
fn http_date(text: &str) -> Option<Timestamp> {
    let zoned = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(Timestamp::from_seconds(zoned.timestamp().as_second()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read() {
        let seconds = |text| http_date(text).map(|time| time.seconds);
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("yesterday"), None);
    }
}
