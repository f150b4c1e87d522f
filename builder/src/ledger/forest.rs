//! A whole build as one tree of directories: the image, the filesystem after each step, each layer alone, and what each
//! step changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use mica_fs::forest::{Forest, Plant};
use mica_fs::layer::Layer;
use mica_fs::overlay::Overlay;
use mica_fs::path::ImagePath;
use mica_fs::store::Store;

use super::find::{FindError, layers};
use super::{BuildId, BuildRecord, StepRecord};
use crate::look::Stack;
use crate::look::changes::{Change, Precision, compare};

/// How much of an instruction is in the name of its directory, in characters.
const NAME: usize = 32;

/// A build, planted.
pub struct Planted {
    /// `Dockerfile`, `image/`, `steps/`, `layers/`, `diff/`.
    pub forest: Forest,
    /// The steps that are not in it, each with the reason.
    pub missing: Vec<FindError>,
}

type Names = BTreeMap<Vec<u8>, Plant>;

/// Plants what is left of a build. The layers stay in the store as long as `store` is open.
///
/// - `image/` is the image; not there if the build failed.
/// - `steps/NN-INSTRUCTION/` is the filesystem after a step that the build shows.
/// - `layers/NN-DIGEST/` is a layer alone, from the lowest up.
/// - `diff/NN-INSTRUCTION/` has what a step changed: a list in `changes`, and in `files/` its own files.
///
/// # Errors
/// [`FindError::NotDone`] and [`FindError::Pruned`] if there is no step to show.
pub fn plant(store: &Store, id: BuildId, record: &BuildRecord) -> Result<Planted, FindError> {
    let (mut steps, mut diffs, mut missing) = (Names::new(), Names::new(), Vec::new());
    let mut highest = Vec::new();
    for step in &record.steps {
        let Some(number) = step.number() else { continue };
        let stack = match layers(store, id, record, step) {
            Ok(stack) => stack,
            // What never began is not missed.
            Err(FindError::NotDone { .. }) if !step.outcome.is_ended() => continue,
            Err(error) => {
                missing.push(error);
                continue;
            }
        };
        let name = format!("{number:02}-{}", slug(step)).into_bytes();
        if step.layer.is_some() {
            diffs.insert(name.clone(), diff(&stack));
        }
        steps.insert(name, tree(stack.clone()));
        highest = stack;
    }
    if steps.is_empty() {
        return Err(missing.pop().unwrap_or(FindError::NoStep {
            id,
            wanted: "that can be shown".to_owned(),
            steps: String::new(),
        }));
    }
    let mut root = Names::from([
        (b"Dockerfile".to_vec(), text(record.about.text.clone())),
        (b"steps".to_vec(), Plant::Directory(steps)),
        (b"diff".to_vec(), Plant::Directory(diffs)),
    ]);
    let last = record.last().filter(|_| record.manifest.is_some());
    if let Some(stack) = last.and_then(|last| layers(store, id, record, last).ok()) {
        root.insert(b"image".to_vec(), tree(stack.clone()));
        highest = stack;
    }
    root.insert(b"layers".to_vec(), Plant::Directory(alone(&highest)));
    Ok(Planted {
        forest: Forest::new(root),
        missing,
    })
}

fn tree(stack: Vec<Arc<Layer>>) -> Plant {
    Plant::Overlay(Box::new(move || Ok(Overlay::read_only(stack.clone()))))
}

fn text(text: String) -> Plant {
    Plant::Text(Box::new(move || Ok(text.clone().into_bytes())))
}

fn alone(stack: &[Arc<Layer>]) -> Names {
    let named = |(layer, number): (&Arc<Layer>, usize)| {
        let digest = layer.diff_id().0.hex();
        let name = format!("{number:02}-{}", &digest[..12]);
        (name.into_bytes(), tree(vec![Arc::clone(layer)]))
    };
    stack.iter().zip(1..).map(named).collect()
}

/// What the topmost layer changed.
fn diff(stack: &[Arc<Layer>]) -> Plant {
    let files = tree(stack.last().cloned().into_iter().collect());
    let stack = stack.to_vec();
    let changes = Plant::Text(Box::new(move || Ok(changes(stack.clone()).into_bytes())));
    Plant::Directory(Names::from([
        (b"files".to_vec(), files),
        (b"changes".to_vec(), changes),
    ]))
}

/// A line for each path that the topmost layer changes or stores again, with `A` for added, `C` for changed, `D` for
/// deleted before it; also for what a directory hides that takes the place of another.
fn changes(stack: Vec<Arc<Layer>>) -> String {
    let stack = Stack::new(stack);
    let below = stack.view(stack.layers().len().saturating_sub(1));
    let changes = compare(below, stack.top(), &ImagePath::root(), Precision::Storage);
    let line = |change: &Change| {
        let letter = match (&change.before, &change.after) {
            (None, _) => 'A',
            (Some(_), Some(_)) => 'C',
            (Some(_), None) => 'D',
        };
        format!("{letter} {}\n", change.path.to_string().escape_debug())
    };
    changes.iter().map(line).collect()
}

/// The beginning of an instruction as a name that a shell takes as it is.
fn slug(step: &StepRecord) -> String {
    let mut name = String::new();
    for c in step.beginning(200).chars() {
        match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' => name.push(c),
            _ if name.ends_with('-') || name.is_empty() => {}
            _ => name.push('-'),
        }
        if name.len() == NAME {
            break;
        }
    }
    name.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_directories_are_plain() {
        let mut step = StepRecord::default();
        for (text, name) in [
            (
                "RUN apt-get update && \\\n  apt-get install -y curl",
                "RUN-apt-get-update-apt-get-insta",
            ),
            ("COPY . .", "COPY-.-."),
            ("RUN  'ä'/../x ", "RUN-..-x"),
        ] {
            text.clone_into(&mut step.text);
            assert_eq!(slug(&step), name);
        }
    }
}
