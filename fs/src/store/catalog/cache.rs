//! The cache's records in the catalog.

use rusqlite::{Connection, OptionalExtension, params};

use super::{Catalog, digest, nanoseconds};
use crate::digest::{DiffId, Digest};
use crate::layer::Timestamp;
use crate::store::{Lineage, StoreError};

/// The use of a cache record is noted at most once in this time, so that a hit writes nothing.
const USE_GRAIN: i64 = 3_600;

/// A row of the cache.
pub(in crate::store) struct CacheRow {
    pub(in crate::store) key: Digest,
    pub(in crate::store) used: i64,
    pub(in crate::store) layers: Vec<DiffId>,
}

impl Catalog {
    /// A cache record with the layers it names.
    pub(in crate::store) fn cache_get(
        &mut self,
        key: &Digest,
    ) -> Result<Option<(String, Vec<DiffId>)>, StoreError> {
        let text = key.to_string();
        let found = self.read(|c| {
            let row = c
                .prepare_cached("SELECT record, used FROM cache WHERE key = ?1")?
                .query_row([&text], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            row.map(|(record, used): (String, i64)| Ok((record, used, layers_of(c, &text)?)))
                .transpose()
        })?;
        let Some((record, used, layers)) = found else {
            return Ok(None);
        };
        let now = Timestamp::now().seconds;
        if now - used > USE_GRAIN {
            self.write(|t| t.execute("UPDATE cache SET used = ?2 WHERE key = ?1", params![text, now]))?;
        }
        Ok(Some((record, layers)))
    }

    pub(in crate::store) fn cache_put(
        &mut self,
        key: &Digest,
        record: &str,
        layers: &[DiffId],
        lineage: Option<&Lineage>,
        trace: Option<&[u8]>,
    ) -> Result<(), StoreError> {
        let key = key.to_string();
        let traced = lineage.and_then(|lineage| lineage.trace);
        self.write(|t| {
            if let (Some(digest), Some(trace)) = (traced, trace) {
                t.execute(
                    "INSERT OR IGNORE INTO traces (digest, trace) VALUES (?1, ?2)",
                    params![digest.to_string(), trace],
                )?;
            }
            t.execute("DELETE FROM cache WHERE key = ?1", [&key])?;
            t.execute(
                "INSERT INTO cache (key, record, used, command, step, trace, made)
                 VALUES (?1, ?2, ?3, ?4, ?5, (SELECT digest FROM traces WHERE digest = ?6), ?7)",
                params![
                    key,
                    record,
                    Timestamp::now().seconds,
                    lineage.map(|lineage| lineage.command.to_string()),
                    lineage.map(|lineage| lineage.step.to_string()),
                    traced.map(|digest| digest.to_string()),
                    lineage.map_or(0, |lineage| nanoseconds(lineage.made)),
                ],
            )?;
            for layer in layers {
                t.execute(
                    "INSERT OR IGNORE INTO cache_layers (key, diff_id) VALUES (?1, ?2)",
                    params![key, layer.to_string()],
                )?;
            }
            Ok(())
        })
    }

    /// All cache records, the last used first.
    pub(in crate::store) fn cache(&self) -> Result<Vec<CacheRow>, StoreError> {
        self.read(|c| {
            c.prepare("SELECT key, used FROM cache ORDER BY used DESC, key")?
                .query_map([], |row| Ok((row.get(0)?, digest(row, 0)?, row.get(1)?)))?
                .map(|row| {
                    let (text, key, used): (String, _, _) = row?;
                    let layers = layers_of(c, &text)?;
                    Ok(CacheRow { key, used, layers })
                })
                .collect()
        })
    }

    pub(in crate::store) fn cache_remove(&mut self, keys: &[Digest]) -> Result<(), StoreError> {
        self.write(|t| {
            keys.iter().try_for_each(|key| {
                t.execute("DELETE FROM cache WHERE key = ?1", [key.to_string()])
                    .map(drop)
            })?;
            t.execute(
                "DELETE FROM traces WHERE NOT EXISTS (SELECT 1 FROM cache WHERE trace = digest)",
                [],
            )
            .map(drop)
        })
    }

    /// The newest records of equal commands, one for each trace.
    pub(in crate::store) fn cache_of_command(
        &self,
        command: &Digest,
        most: u32,
    ) -> Result<Vec<(String, Digest)>, StoreError> {
        self.read(|c| {
            // SQLite takes the other columns from the row of the maximum.
            c.prepare_cached(
                "SELECT record, trace, max(made) AS newest FROM cache
                 WHERE command = ?1 AND trace IS NOT NULL
                 GROUP BY trace ORDER BY newest DESC, trace LIMIT ?2",
            )?
            .query_map(params![command.to_string(), most], |row| {
                Ok((row.get(0)?, digest(row, 1)?))
            })?
            .collect()
        })
    }

    /// The newest record of a step.
    pub(in crate::store) fn cache_of_step(&self, step: &Digest) -> Result<Option<String>, StoreError> {
        self.read(|c| {
            c.prepare_cached("SELECT record FROM cache WHERE step = ?1 ORDER BY made DESC, key LIMIT 1")?
                .query_row([step.to_string()], |row| row.get(0))
                .optional()
        })
    }

    pub(in crate::store) fn trace(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|c| {
            c.prepare_cached("SELECT trace FROM traces WHERE digest = ?1")?
                .query_row([digest.to_string()], |row| row.get(0))
                .optional()
        })
    }

    /// The number of cache records and the bytes of their text and their traces.
    pub(in crate::store) fn cache_size(&self) -> Result<(u64, u64), StoreError> {
        self.read(|c| {
            c.query_row(
                "SELECT count(*), coalesce(sum(length(record)), 0)
                     + (SELECT coalesce(sum(length(trace)), 0) FROM traces) FROM cache",
                [],
                |row| {
                    Ok((
                        row.get::<_, i64>(0)?.unsigned_abs(),
                        row.get::<_, i64>(1)?.unsigned_abs(),
                    ))
                },
            )
        })
    }
}

fn layers_of(connection: &Connection, key: &str) -> rusqlite::Result<Vec<DiffId>> {
    connection
        .prepare_cached("SELECT diff_id FROM cache_layers WHERE key = ?1")?
        .query_map([key], |row| digest(row, 0).map(DiffId))?
        .collect()
}
