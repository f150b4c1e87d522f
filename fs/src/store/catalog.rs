//! The catalog: a SQLite database with what has no place in the OCI layout. It can be made anew from the
//! layout, except for the cache records, whose loss costs time only.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::layout::Descriptor;
use super::{StoreError, VERSION_FILE};
use crate::digest::{DiffId, Digest};
use crate::layer::Timestamp;

mod cache;

pub(super) const FILE: &str = "mica.db";

/// The statements that lead from each version of the schema to the next. `user_version` counts those that were
/// run.
const MIGRATIONS: [&str; 4] = [
    "
    CREATE TABLE images (
        manifest   TEXT PRIMARY KEY,
        media_type TEXT NOT NULL,
        size       INTEGER NOT NULL,
        added      INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE names (
        name     TEXT PRIMARY KEY,
        manifest TEXT NOT NULL REFERENCES images (manifest) ON DELETE CASCADE
    ) WITHOUT ROWID;
    CREATE INDEX names_by_manifest ON names (manifest);
    CREATE TABLE cache (
        key    TEXT PRIMARY KEY,
        record TEXT NOT NULL,
        used   INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE cache_layers (
        key     TEXT NOT NULL REFERENCES cache (key) ON DELETE CASCADE,
        diff_id TEXT NOT NULL,
        PRIMARY KEY (key, diff_id)
    ) WITHOUT ROWID;
",
    "
    CREATE TABLE blob_sources (
        digest     TEXT NOT NULL,
        registry   TEXT NOT NULL,
        repository TEXT NOT NULL,
        PRIMARY KEY (digest, registry, repository)
    ) WITHOUT ROWID;
",
    "
    CREATE TABLE compressed (
        diff_id TEXT NOT NULL,
        coding  TEXT NOT NULL,
        digest  TEXT NOT NULL,
        size    INTEGER NOT NULL,
        PRIMARY KEY (diff_id, coding)
    ) WITHOUT ROWID;
",
    "
    CREATE TABLE traces (
        digest TEXT PRIMARY KEY,
        trace  BLOB NOT NULL
    );
    ALTER TABLE cache ADD COLUMN command TEXT;
    ALTER TABLE cache ADD COLUMN step TEXT;
    ALTER TABLE cache ADD COLUMN trace TEXT REFERENCES traces (digest);
    ALTER TABLE cache ADD COLUMN made INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX cache_by_command ON cache (command, made);
    CREATE INDEX cache_by_step ON cache (step, made);
    CREATE INDEX cache_by_trace ON cache (trace);
",
];

/// How long to wait for another process that writes.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) struct Catalog {
    path: PathBuf,
    connection: Connection,
}

/// A row of the images.
pub(super) struct ImageRow {
    pub(super) descriptor: Descriptor,
    pub(super) added: Timestamp,
    pub(super) names: Vec<String>,
}

impl Catalog {
    pub(super) fn open(root: &Path) -> Result<Self, StoreError> {
        let path = root.join(FILE);
        let failed = |source| StoreError::catalog(&path, source);
        let mut connection = open(&path).map_err(failed)?;
        let mut found = version(&connection).map_err(failed)?;
        if found < known() {
            // Two processes that switch to the write-ahead log at once could fail.
            let gate = root.join(VERSION_FILE);
            let _lock = File::open(&gate)
                .and_then(|file| file.lock().map(|()| file))
                .map_err(|e| StoreError::io("lock", &gate, e))?;
            migrate(&mut connection).map_err(failed)?;
            found = version(&connection).map_err(failed)?;
        }
        match found == known() {
            true => Ok(Self { path, connection }),
            false => Err(StoreError::Version {
                path,
                found,
                known: known(),
            }),
        }
    }

    /// Runs `action` in a transaction that writes.
    fn write<T>(
        &mut self,
        action: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        // A transaction that first reads and then wants to write may fail at once: take the lock at its start.
        self.connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .and_then(|transaction| {
                let value = action(&transaction)?;
                transaction.commit()?;
                Ok(value)
            })
            .map_err(|source| StoreError::catalog(&self.path, source))
    }

    fn read<T>(&self, action: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        action(&self.connection).map_err(|source| StoreError::catalog(&self.path, source))
    }

    /// Adds an image; one that is there keeps its time.
    pub(super) fn add_image(&mut self, descriptor: &Descriptor, added: Timestamp) -> Result<(), StoreError> {
        self.write(|t| insert_image(t, descriptor, added))
    }

    /// Gives the image a name, which another may have had.
    pub(super) fn tag(
        &mut self,
        name: &str,
        descriptor: &Descriptor,
        added: Timestamp,
    ) -> Result<(), StoreError> {
        self.write(|t| {
            insert_image(t, descriptor, added)?;
            t.execute(
                "INSERT OR REPLACE INTO names (name, manifest) VALUES (?1, ?2)",
                params![name, descriptor.digest.to_string()],
            )?;
            Ok(())
        })
    }

    /// Whether the name was there.
    pub(super) fn untag(&mut self, name: &str) -> Result<bool, StoreError> {
        self.write(|t| Ok(t.execute("DELETE FROM names WHERE name = ?1", [name])? > 0))
    }

    /// Whether the image was there. Its names go with it.
    pub(super) fn remove_image(&mut self, manifest: &Digest) -> Result<bool, StoreError> {
        self.write(|t| Ok(t.execute("DELETE FROM images WHERE manifest = ?1", [manifest.to_string()])? > 0))
    }

    pub(super) fn resolve(&self, name: &str) -> Result<Option<Digest>, StoreError> {
        self.read(|c| {
            c.prepare_cached("SELECT manifest FROM names WHERE name = ?1")?
                .query_row([name], |row| digest(row, 0))
                .optional()
        })
    }

    /// All images, the newest first.
    pub(super) fn images(&self) -> Result<Vec<ImageRow>, StoreError> {
        self.read(|c| {
            let mut names = c.prepare_cached("SELECT name FROM names WHERE manifest = ?1 ORDER BY name")?;
            let mut images = c.prepare_cached(
                "SELECT manifest, media_type, size, added FROM images ORDER BY added DESC, manifest",
            )?;
            let rows = images.query_map([], |row| {
                let descriptor = Descriptor {
                    digest: digest(row, 0)?,
                    media_type: row.get(1)?,
                    size: row.get::<_, i64>(2)?.unsigned_abs(),
                };
                Ok((descriptor, time(row.get(3)?)))
            })?;
            rows.map(|row| {
                let (descriptor, added) = row?;
                let names = names
                    .query_map([descriptor.digest.to_string()], |row| row.get(0))?
                    .collect::<rusqlite::Result<_>>()?;
                Ok(ImageRow {
                    descriptor,
                    added,
                    names,
                })
            })
            .collect()
        })
    }

    /// Notes which repository has blobs.
    pub(super) fn add_sources(
        &mut self,
        blobs: &[Digest],
        registry: &str,
        repository: &str,
    ) -> Result<(), StoreError> {
        self.write(|t| {
            blobs.iter().try_for_each(|blob| {
                t.execute(
                    "INSERT OR IGNORE INTO blob_sources (digest, registry, repository) VALUES (?1, ?2, ?3)",
                    params![blob.to_string(), registry, repository],
                )
                .map(drop)
            })
        })
    }

    /// The repositories of a registry that had a blob.
    pub(super) fn sources(&self, blob: &Digest, registry: &str) -> Result<Vec<String>, StoreError> {
        self.read(|c| {
            c.prepare_cached(
                "SELECT repository FROM blob_sources WHERE digest = ?1 AND registry = ?2 ORDER BY repository",
            )?
            .query_map([blob.to_string().as_str(), registry], |row| row.get(0))?
            .collect()
        })
    }

    pub(super) fn has_source(&self, blob: &Digest) -> Result<bool, StoreError> {
        self.read(|c| {
            c.prepare_cached("SELECT 1 FROM blob_sources WHERE digest = ?1")?
                .exists([blob.to_string()])
        })
    }

    /// Forgets where these blobs are.
    pub(super) fn remove_sources(&mut self, blobs: &[Digest]) -> Result<(), StoreError> {
        self.write(|t| {
            blobs.iter().try_for_each(|blob| {
                t.execute("DELETE FROM blob_sources WHERE digest = ?1", [blob.to_string()])
                    .map(drop)
            })
        })
    }

    /// Notes what a layer becomes when it is compressed.
    pub(super) fn add_compressed(
        &mut self,
        layer: &DiffId,
        coding: &str,
        (digest, size): (Digest, u64),
    ) -> Result<(), StoreError> {
        self.write(|t| {
            t.execute(
                "INSERT OR REPLACE INTO compressed (diff_id, coding, digest, size) VALUES (?1, ?2, ?3, ?4)",
                params![layer.to_string(), coding, digest.to_string(), size.cast_signed()],
            )
            .map(drop)
        })
    }

    pub(super) fn compressed(
        &self,
        layer: &DiffId,
        coding: &str,
    ) -> Result<Option<(Digest, u64)>, StoreError> {
        self.read(|c| {
            c.prepare_cached("SELECT digest, size FROM compressed WHERE diff_id = ?1 AND coding = ?2")?
                .query_row([layer.to_string().as_str(), coding], |row| {
                    Ok((digest(row, 0)?, row.get::<_, i64>(1)?.unsigned_abs()))
                })
                .optional()
        })
    }

    /// Forgets what these layers become, and where that is.
    pub(super) fn remove_compressed(&mut self, layers: &[DiffId]) -> Result<(), StoreError> {
        self.write(|t| {
            layers.iter().try_for_each(|layer| {
                let layer = layer.to_string();
                t.execute(
                    "DELETE FROM blob_sources WHERE digest IN (SELECT digest FROM compressed WHERE diff_id = ?1)",
                    [&layer],
                )?;
                t.execute("DELETE FROM compressed WHERE diff_id = ?1", [&layer])
                    .map(drop)
            })
        })
    }
}

/// The newest version of the schema.
fn known() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(PATIENCE)?;
    // The last process to close the database would copy and sync the log: leave that to whoever writes enough.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    Ok(connection)
}

fn version(connection: &Connection) -> rusqlite::Result<u32> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    // Another process may have been first.
    let done = version(&transaction)? as usize;
    for step in MIGRATIONS.iter().skip(done) {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "user_version", MIGRATIONS.len().max(done) as i64)?;
    transaction.commit()
}

fn insert_image(t: &Transaction<'_>, descriptor: &Descriptor, added: Timestamp) -> rusqlite::Result<()> {
    t.execute(
        "INSERT OR IGNORE INTO images (manifest, media_type, size, added) VALUES (?1, ?2, ?3, ?4)",
        params![
            descriptor.digest.to_string(),
            descriptor.media_type,
            descriptor.size.cast_signed(),
            nanoseconds(added)
        ],
    )?;
    Ok(())
}

fn digest(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    let text: String = row.get(column)?;
    text.parse().map_err(|e| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(e))
    })
}

fn nanoseconds(time: Timestamp) -> i64 {
    let seconds = time.seconds.saturating_mul(1_000_000_000);
    seconds.saturating_add(i64::from(time.nanoseconds))
}

fn time(nanoseconds: i64) -> Timestamp {
    Timestamp {
        seconds: nanoseconds.div_euclid(1_000_000_000),
        nanoseconds: u32::try_from(nanoseconds.rem_euclid(1_000_000_000)).unwrap_or(0),
    }
}
