//! Which instruction each layer of an image comes from, and at which line of which Dockerfile.

use mica_fs::store::Store;

use crate::image::{History, Image};
use crate::ledger::{self, BaseKind, BuildRecord, LedgerError, StepRecord, find::Found};

/// How many images are looked at on the way from an image to what it stands on.
const MOST_BASES: usize = 32;

/// How a layer came about.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Instruction {
    /// The instruction, without what builders add to it; empty if the image does not say.
    pub text: String,
    /// When it was executed, as in RFC 3339.
    pub created: Option<String>,
    /// A remark.
    pub comment: Option<String>,
    /// Its place in the history of the image, which has entries for instructions without a layer, too; 1 is the oldest.
    pub position: Option<usize>,
    /// Where it stands, if the build is known.
    pub line: Option<Line>,
}

/// A line of a Dockerfile.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// What the Dockerfile is called in messages.
    pub dockerfile: String,
    /// The line, from 1.
    pub number: u32,
}

/// The instruction of each layer, bottom layer first. Some tools write layers without a history.
///
/// # Errors
/// [`LedgerError`] if the records of builds cannot be listed.
pub fn of_image(store: &Store, image: &Image) -> Result<Vec<Instruction>, LedgerError> {
    let history = &image.config.history;
    let mut told: Vec<_> = history
        .iter()
        .enumerate()
        .map(|(index, entry)| instruction(index, entry))
        .collect();
    note_lines(store, image, &mut told)?;
    let has_layer = |entry: &&History| !entry.empty_layer;
    let mut told = history
        .iter()
        .zip(told)
        .filter(|(entry, _)| has_layer(entry))
        .map(|(_, told)| told);
    Ok(image
        .layers()
        .iter()
        .map(|_| told.next().unwrap_or_default())
        .collect())
}

/// The same for the filesystem after a step of a build.
///
/// # Errors
/// As [`of_image`].
pub fn of_step(store: &Store, step: &Found) -> Result<Vec<Instruction>, LedgerError> {
    let record = &step.record;
    let lineage = record.lineage(step.step());
    let mut told = match base(store, &lineage) {
        Some(base) => of_image(store, &base)?,
        None => {
            let base = lineage.first().and_then(|from| from.base.as_ref());
            vec![Instruction::default(); base.map_or(0, |base| base.layers.len())]
        }
    };
    let own = lineage.iter().filter(|step| step.layer.is_some());
    told.extend(own.map(|step| Instruction {
        text: step.text.replace("\\\n", " "),
        created: step.made.clone(),
        line: Some(line(record, step)),
        ..Instruction::default()
    }));
    Ok(told)
}

fn instruction(index: usize, entry: &History) -> Instruction {
    Instruction {
        text: plain(entry.created_by.as_deref().unwrap_or_default()),
        created: entry.created.clone(),
        comment: entry.comment.clone(),
        position: Some(index + 1),
        line: None,
    }
}

/// Adds the lines of the Dockerfiles by which the image, and what it stands on, were built here.
fn note_lines(store: &Store, image: &Image, told: &mut [Instruction]) -> Result<(), LedgerError> {
    let mut image = image.clone();
    let mut left = told;
    for _ in 0..MOST_BASES {
        let Some((_, record)) = ledger::latest_of(store, &image)? else {
            return Ok(());
        };
        let lineage = record.last().map(|last| record.lineage(last)).unwrap_or_default();
        let steps: Vec<_> = lineage.iter().filter(|step| step.base.is_none()).collect();
        // The history ends with the steps of the build, in their order. Should it not, nothing is better than a wrong line.
        let word = |text: &str| text.split_whitespace().next().unwrap_or_default().to_uppercase();
        let fits = |(entry, step): (&Instruction, &&&StepRecord)| word(&entry.text) == step.instruction();
        let all_fit = steps.len() <= left.len() && left.iter().rev().zip(steps.iter().rev()).all(fits);
        if !all_fit {
            return Ok(());
        }
        for (entry, step) in left.iter_mut().rev().zip(steps.iter().rev()) {
            entry.line = Some(line(&record, step));
        }
        let Some(below) = base(store, &lineage) else {
            return Ok(());
        };
        let inherited = below.config.history.len().min(left.len());
        left = &mut left[..inherited];
        image = below;
    }
    Ok(())
}

/// The image that the first of these steps stands on, if it is one and is still there.
fn base(store: &Store, lineage: &[&StepRecord]) -> Option<Image> {
    match lineage.first()?.base.as_ref()?.kind {
        BaseKind::Image(manifest) => Image::load(store, &manifest).ok(),
        _ => None,
    }
}

fn line(record: &BuildRecord, step: &StepRecord) -> Line {
    Line {
        dockerfile: record.about.dockerfile.clone(),
        number: step.span.start.line,
    }
}

/// An instruction as it stands in a Dockerfile: what builders write around it differs.
fn plain(text: &str) -> String {
    const SHELL: &str = "/bin/sh -c ";
    let text = text.trim_end_matches(" # buildkit").trim();
    // Docker's first builder wrote build arguments before the command: `|2 A=1 B=2 /bin/sh -c make`.
    let command = match text.starts_with('|') {
        true => text.find(SHELL).map_or(text, |start| &text[start..]),
        false => text,
    };
    if let Some(rest) = command.strip_prefix(SHELL) {
        return match rest.trim_start().strip_prefix("#(nop)") {
            Some(instruction) => instruction.trim().to_owned(),
            None => format!("RUN {}", rest.trim()),
        };
    }
    match text.strip_prefix("RUN ") {
        Some(run) => match run.find(SHELL) {
            Some(start) if run.starts_with('|') || start == 0 => {
                format!("RUN {}", &run[start + SHELL.len()..])
            }
            _ => text.to_owned(),
        },
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_builders_add_is_left_out() {
        for (history, instruction) in [
            ("RUN /bin/sh -c make # buildkit", "RUN make"),
            ("RUN |1 A=b /bin/sh -c make # buildkit", "RUN make"),
            ("/bin/sh -c make all", "RUN make all"),
            ("|1 A=b /bin/sh -c make", "RUN make"),
            ("/bin/sh -c #(nop) COPY file:ab in /x ", "COPY file:ab in /x"),
            ("COPY . . # buildkit", "COPY . ."),
            ("RUN bash -c 'x /bin/sh -c y'", "RUN bash -c 'x /bin/sh -c y'"),
            ("CMD [\"sh\"]", "CMD [\"sh\"]"),
            ("", ""),
        ] {
            assert_eq!(plain(history), instruction, "{history}");
        }
    }

    #[test]
    fn layers_take_the_instructions_that_made_one() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let entry = |text: &str, empty_layer| History {
            created_by: Some(text.to_owned()),
            empty_layer,
            ..History::default()
        };
        let layer = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let layer = mica_fs::digest::DiffId(layer.parse().unwrap());
        let mut config = crate::image::ImageConfig {
            history: vec![
                entry("ADD x", false),
                entry("ENV a=b", true),
                entry("RUN y", false),
            ],
            ..Default::default()
        };
        config.rootfs.diff_ids = vec![layer; 3];
        let descriptor = crate::image::Descriptor::new("", layer.0, 0);
        let image = Image {
            manifest_digest: layer.0,
            manifest: crate::image::Manifest::new(descriptor, Vec::new()),
            config,
        };
        let told = of_image(&store, &image).unwrap();
        let told: Vec<_> = told.into_iter().map(|one| (one.position, one.text)).collect();
        let expected = [(Some(1), "ADD x"), (Some(3), "RUN y"), (None, "")];
        assert_eq!(told, expected.map(|(position, text)| (position, text.to_owned())));
    }
}
