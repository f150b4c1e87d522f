//! COPY and ADD, between the cache and the overlay.

use std::thread;

use mica_fs::digest::Digest;
use mica_fs::overlay::Owner;
use serde_json::json;

use super::{At, Built, CachePolicy, Outcome, Progress, Solver, StepError, Subject, image_path};
use crate::cache::{self, Mode};
use crate::graph::{Copy, CopyFrom, CopySource};
use crate::ignore::Ignore;
use crate::ledger::{self, SourcesRecord};
use crate::op::copy::{self, Archives, CopyError, Earlier, Placement, Sources};
use crate::origin::Origin;
use crate::remote::Remote;

/// What a COPY or ADD is to the cache.
const KIND: &str = "copy";

/// Sources that lie in one place, and come one after the other.
struct Batch<'a> {
    origin: Origin<'a>,
    wanted: Wanted,
    archives: Archives,
}

enum Wanted {
    /// What these paths and patterns name.
    Patterns(Vec<String>),
    /// This file or directory.
    One(String),
}

impl Batch<'_> {
    fn find<'b>(&'b self, copy: &Copy, exclude: &'b Ignore) -> Result<Sources<'b>, CopyError> {
        let (tree, place) = (self.origin.tree(), self.origin.place());
        match (&self.wanted, copy.parents) {
            (Wanted::One(path), _) => Sources::one(tree, path, exclude, place),
            (Wanted::Patterns(patterns), true) => Sources::with_parents(tree, patterns, exclude, place),
            (Wanted::Patterns(patterns), false) => Sources::find(tree, patterns, exclude, place),
        }
    }
}

impl Solver<'_> {
    pub(super) fn copy(&self, copy: &Copy, at: At<'_>) -> Result<(cache::Record, Outcome), StepError> {
        let built = at.built;
        let exclude = excluded(copy)?;
        let batches = self.batches(copy, at.progress)?;
        let sources = found(copy, &batches, &exclude)?;
        let digests = self.surveyed(at, &batches, &sources)?;
        let unpacked: Vec<bool> = batches
            .iter()
            .map(|batch| batch.archives == Archives::Unpack)
            .collect();
        let inputs = json!({
            "sources": digests,
            "files": copy.files,
            "destination": copy.destination,
            "chown": copy.chown,
            "chmod": copy.chmod,
            "unpack": unpacked,
            "link": copy.link,
            "parents": copy.parents,
        });
        let subject = Subject {
            kind: KIND,
            inputs,
            resolve: &|| {
                let owner = self.owner_of(copy, built)?;
                Ok(json!(owner.map(|owner| [owner.uid, owner.gid])))
            },
        };
        self.cached(at, &subject, || {
            let below = if copy.link { &[][..] } else { &built.layers };
            let rootfs = self.rootfs(below, Vec::new())?;
            let mut placement = self.placement(copy, at)?;
            for (batch, sources) in batches.iter().zip(&sources) {
                placement.archives = batch.archives;
                sources.place(rootfs.overlay(), &placement)?;
            }
            for (name, content) in &copy.files {
                copy::place_bytes(
                    rootfs.overlay(),
                    &placement,
                    name.as_bytes(),
                    content.clone().into_bytes(),
                )?;
            }
            // What is read on its way into the layer is compared with what the key says of it. The rest, names and modes,
            // is looked at meanwhile.
            let (given, now) = thread::scope(|scope| {
                let now = scope.spawn(|| self::digests(&sources));
                (self.commit(rootfs), now.join())
            });
            let given = given?;
            let now = now.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            for ((batch, before), now) in batches.iter().zip(&digests).zip(&now) {
                if before != now {
                    let place = batch.origin.place().to_owned();
                    return Err(CopyError::Changed { place }.into());
                }
            }
            Ok(given)
        })
    }

    /// The digests of the sources. What they are of is written down.
    fn surveyed(
        &self,
        at: At<'_>,
        batches: &[Batch<'_>],
        sources: &[Sources<'_>],
    ) -> Result<Vec<Digest>, StepError> {
        let mut records = Vec::new();
        for (batch, sources) in batches.iter().zip(sources) {
            let (digest, list) = sources.survey().map_err(CopyError::from)?;
            if let Err(error) = ledger::sources::keep(self.store, &digest, &list) {
                tracing::warn!(%error, "cannot write down what was copied");
            }
            let place = batch.origin.place().to_owned();
            records.push(SourcesRecord { place, digest });
        }
        let digests = records.iter().map(|record| record.digest).collect();
        self.ledger.sources(at.number, records);
        Ok(digests)
    }

    /// Reads the files that a COPY takes from the context, so that their content is known when its turn comes. Of another
    /// one nothing is read.
    pub(super) fn read_ahead(&self, copy: &Copy, progress: &Progress) -> Result<(), StepError> {
        let is_path = |source: &CopySource| matches!(source, CopySource::Path(_));
        if !matches!(copy.from, CopyFrom::Context | CopyFrom::Named(_)) || !copy.sources.iter().all(is_path) {
            return Ok(());
        }
        let exclude = excluded(copy)?;
        let batches = self.batches(copy, progress)?;
        digests(&found(copy, &batches, &exclude)?)?;
        Ok(())
    }

    /// The sources by where they lie. What is elsewhere is fetched.
    fn batches(&self, copy: &Copy, progress: &Progress) -> Result<Vec<Batch<'_>>, StepError> {
        let mut batches: Vec<Batch<'_>> = Vec::new();
        for source in &copy.sources {
            let path = match source {
                CopySource::Remote { remote, unpack } => {
                    batches.push(self.remote(remote, *unpack)?);
                    continue;
                }
                CopySource::Path(path) => path.clone(),
            };
            if let Some(Wanted::Patterns(patterns)) = batches.last_mut().map(|batch| &mut batch.wanted) {
                patterns.push(path);
                continue;
            }
            batches.push(Batch {
                origin: self.origin(&copy.from, progress)?,
                wanted: Wanted::Patterns(vec![path]),
                archives: archives(copy.unpack),
            });
        }
        Ok(batches)
    }

    fn remote(&self, remote: &Remote, unpack: bool) -> Result<Batch<'_>, StepError> {
        let layer = self.fetcher.fetch(remote)?;
        let (wanted, place) = match remote {
            Remote::Url(file) => (file.name.clone(), file.url.to_string()),
            Remote::Git(repository) => ("/".to_owned(), repository.remote.clone()),
        };
        Ok(Batch {
            origin: Origin::layers(self.image_tree(&[layer])?, vec![layer], place),
            wanted: Wanted::One(wanted),
            archives: archives(unpack),
        })
    }

    /// Whom the copies are to belong to. Names are those of the stage, also for a layer that is made apart from it
    /// (--link).
    fn owner_of(&self, copy: &Copy, built: &Built) -> Result<Option<Owner>, StepError> {
        let owner = |text: &String| Ok(self.accounts(&built.layers)?.owner(text)?);
        copy.chown.as_ref().map(owner).transpose()
    }

    /// The layer of the same step's last execution, if times are to be kept. An image that is to be of a given time has
    /// the files' own, so that it does not depend on what was built before.
    fn earlier(&self, at: At<'_>) -> Result<Option<Earlier>, StepError> {
        if self.mode == Mode::Content || at.policy == CachePolicy::Refresh || at.progress.is_dated {
            return Ok(None);
        }
        let step = at.step(KIND);
        let own = cache::of_step(self.store, &step)?.and_then(|record| record.layer);
        let last = own.or_else(|| self.imports.last_layer(self.store, &step));
        Ok(match last {
            Some(layer) => Some(Earlier::new(self.store.layer(&layer)?)),
            None => None,
        })
    }

    fn placement(&self, copy: &Copy, at: At<'_>) -> Result<Placement, StepError> {
        let spelled_as_directory =
            |text: &str| text.ends_with('/') || matches!(text.rsplit('/').next(), Some("." | ".."));
        if let Some(text) = &copy.chown {
            for name in self.accounts(&at.built.layers)?.unknown(text) {
                tracing::warn!(
                    "--chown={text}: the image does not know {name}, and root has the copies, as with Docker"
                );
            }
        }
        Ok(Placement {
            destination: image_path(&copy.destination)?,
            into_directory: spelled_as_directory(&copy.destination),
            owner: self.owner_of(copy, at.built)?,
            chmod: copy.chmod.clone(),
            archives: Archives::Keep,
            earlier: self.earlier(at)?,
        })
    }
}

/// What `--exclude` leaves out.
fn excluded(copy: &Copy) -> Result<Ignore, StepError> {
    let patterns = copy.exclude.iter().map(String::as_str);
    Ignore::from_patterns(patterns).map_err(|e| StepError::Exclude(e.to_string()))
}

fn found<'b>(
    copy: &Copy,
    batches: &'b [Batch<'_>],
    exclude: &'b Ignore,
) -> Result<Vec<Sources<'b>>, CopyError> {
    batches.iter().map(|batch| batch.find(copy, exclude)).collect()
}

fn archives(unpack: bool) -> Archives {
    match unpack {
        true => Archives::Unpack,
        false => Archives::Keep,
    }
}

fn digests(sources: &[Sources<'_>]) -> Result<Vec<Digest>, CopyError> {
    let digest = |sources: &Sources<'_>| sources.digest().map_err(CopyError::from);
    sources.iter().map(digest).collect()
}
