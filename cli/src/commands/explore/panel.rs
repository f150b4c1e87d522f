//! What opens over the tree: a file's content, its changes, its history, what is wasted, help.

use std::io::Read as _;

use mica_builder::look::Node;
use mica_builder::look::changes::Change;
use mica_builder::look::log::log;
use mica_builder::look::patch;
use mica_builder::look::waste::{Reason, ratio, waste};
use mica_fs::layer::Kind;
use mica_fs::path::ImagePath;

use super::model::{Action, Cursor, Focus, Model};
use super::tree::Mark;
use crate::commands::log::{title, what};
use crate::render::{printable, size};

/// How much of a file is shown, in bytes.
const LARGEST: u64 = 1 << 20;
/// How much of a file that is no text.
const LARGEST_BINARY: usize = 64 << 10;
/// How many paths are listed at most.
const MOST_PATHS: usize = 10_000;

/// What a panel shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PanelKind {
    Help,
    /// The selected file.
    Content,
    /// What changed in it.
    Changes,
    /// Each layer that did something to it.
    History,
    Waste,
}

/// Lines over the tree.
pub struct Panel {
    pub kind: PanelKind,
    pub title: String,
    pub lines: Vec<PanelLine>,
    pub cursor: Cursor,
}

/// A line of a panel.
#[derive(Default)]
pub struct PanelLine {
    pub text: String,
    pub mark: Option<Mark>,
    /// Where Enter leads.
    pub to: Option<Target>,
}

/// Where a line leads.
#[derive(Clone)]
pub enum Target {
    /// To the content of a path as it was in a layer.
    Version(ImagePath, usize),
    /// To a path in the tree of a layer.
    Place(ImagePath, usize),
}

impl PanelLine {
    fn plain(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            ..Self::default()
        }
    }
}

const HELP: &[&str] = &[
    "Tab, Shift-Tab      the layers, or the tree",
    "↑ ↓ j k             one line",
    "PgUp PgDn  g G      a page; to the first or the last line",
    "→ l, ← h            open and close a directory, or go to the one above",
    "Enter               open a directory, show a file",
    "Space               open or close",
    "",
    "a                   what this layer changes, or all layers up to it",
    "c                   only differences, or everything",
    "1 2 3 4             show and hide what is added, changed, removed, the same",
    "",
    "/  n N              search a name, or with a slash a path; next, previous",
    "v                   the content of the file",
    "d                   what this layer changes in it, by lines",
    "H                   its history: Enter shows the file as it was",
    "w                   what the image stores in vain: Enter goes there",
    "",
    "Mouse               click to select, again to open; the wheel scrolls",
    "Esc                 back",
    "q  Ctrl-C           quit",
    "",
    "+ added   ~ changed   - removed; ▸ ▾ directories, * with differences below",
];

impl Model {
    /// Opens a panel on what is selected.
    pub fn open_panel(&mut self, kind: PanelKind) {
        let row = self
            .row()
            .map(|row| (row.path.clone(), row.node.clone(), row.mark));
        let (title, lines) = match (kind, row) {
            (PanelKind::Help, _) => (
                "keys".to_owned(),
                HELP.iter().map(|line| PanelLine::plain(*line)).collect(),
            ),
            (PanelKind::Waste, _) => self.waste_lines(),
            (_, None) => return,
            (PanelKind::Content, Some((path, node, _))) => (path.to_string(), self.content_lines(&node)),
            (PanelKind::Changes, Some((path, ..))) => (format!("{path}: changes"), self.change_lines(&path)),
            (PanelKind::History, Some((path, ..))) => (format!("{path}: history"), self.history_lines(&path)),
        };
        self.set_panel(kind, title, lines);
    }

    fn set_panel(&mut self, kind: PanelKind, title: String, lines: Vec<PanelLine>) {
        self.panel = Some(Panel {
            kind,
            title: printable(&title),
            lines,
            cursor: Cursor::default(),
        });
    }

    /// Takes an action for the open panel; whether it was one.
    pub fn in_panel(&mut self, action: &Action) -> bool {
        let height = self.heights[2];
        let Some(panel) = &mut self.panel else {
            return false;
        };
        match action {
            Action::Move(to) | Action::Scroll(_, to) => {
                panel.cursor.go(*to, panel.lines.len(), height);
                true
            }
            Action::Enter | Action::Open => {
                let target = panel
                    .lines
                    .get(panel.cursor.selected)
                    .and_then(|line| line.to.clone());
                self.follow(target);
                true
            }
            Action::Back | Action::Close | Action::Quit => {
                self.panel = None;
                true
            }
            Action::Panel(kind) if *kind == panel.kind => {
                self.panel = None;
                true
            }
            Action::Panel(_) => false,
            _ => true,
        }
    }

    fn follow(&mut self, target: Option<Target>) {
        match target {
            None => {}
            Some(Target::Version(path, layer)) => match self.stack.view(layer).find(&path) {
                Some(node) => {
                    let lines = self.content_lines(&node);
                    self.set_panel(PanelKind::Content, format!("{path} in layer {layer}"), lines);
                }
                None => self.status = format!("{path} was not there after layer {layer}"),
            },
            Some(Target::Place(path, layer)) => {
                self.panel = None;
                self.select_layer(layer);
                self.reveal(&path);
                self.focus = Focus::Tree;
            }
        }
    }

    fn content_lines(&self, node: &Node) -> Vec<PanelLine> {
        if node.kind != Kind::File {
            let target = String::from_utf8_lossy(&node.target);
            let about = match node.kind {
                Kind::Symlink => format!("a symbolic link to {}", printable(&target)),
                kind => format!("a {}", crate::node::type_name(kind)),
            };
            return vec![PanelLine::plain(about)];
        }
        let mut bytes = Vec::new();
        if let Err(error) = self.stack.content(node).take(LARGEST).read_to_end(&mut bytes) {
            return vec![PanelLine::plain(format!("it cannot be read: {error}"))];
        }
        let is_binary = bytes[..bytes.len().min(8000)].contains(&0);
        let mut lines: Vec<_> = match is_binary {
            true => hexadecimal(&bytes[..bytes.len().min(LARGEST_BINARY)]),
            false => String::from_utf8_lossy(&bytes)
                .lines()
                .map(|line| PanelLine::plain(untabbed(line)))
                .collect(),
        };
        let shown = if is_binary { LARGEST_BINARY as u64 } else { LARGEST };
        if node.size > shown {
            lines.push(PanelLine::plain(format!("... {} in all", size(node.size))));
        }
        if lines.is_empty() {
            lines.push(PanelLine::plain("(it is empty)"));
        }
        lines
    }

    fn change_lines(&self, path: &ImagePath) -> Vec<PanelLine> {
        let compared = self.compared();
        let change = Change {
            path: path.clone(),
            before: self.stack.view(compared.old).find(path),
            after: self.stack.view(compared.new).find(path),
        };
        if let (Some(a), Some(b)) = (&change.before, &change.after)
            && a == b
        {
            return vec![PanelLine::plain("this layer does not change it")];
        }
        let mut text = Vec::new();
        if let Err(error) = patch::write(&change, &self.stack, &self.stack, &mut text) {
            return vec![PanelLine::plain(format!("it cannot be read: {error}"))];
        }
        let line = |line: &str| PanelLine {
            text: untabbed(line),
            mark: match line.as_bytes().first() {
                Some(b'+') => Some(Mark::Added),
                Some(b'-') => Some(Mark::Removed),
                _ => None,
            },
            to: None,
        };
        let lines: Vec<_> = String::from_utf8_lossy(&text).lines().map(line).collect();
        match lines.is_empty() {
            true => vec![PanelLine::plain("this layer does not change it")],
            false => lines,
        }
    }

    fn history_lines(&self, path: &ImagePath) -> Vec<PanelLine> {
        let mut lines = Vec::new();
        for version in log(&self.stack, path) {
            let told = self
                .instructions
                .get(version.layer - 1)
                .map(title)
                .unwrap_or_default();
            let mark = match (&version.before, &version.after) {
                (None, _) => Mark::Added,
                (_, None) => Mark::Removed,
                _ => Mark::Changed,
            };
            let to = Some(Target::Version(path.clone(), version.layer));
            lines.push(PanelLine {
                text: format!("layer {:<3} {told}", version.layer),
                mark: None,
                to: to.clone(),
            });
            lines.push(PanelLine {
                text: format!("          {} {}", mark.sign(), what(&version)),
                mark: Some(mark),
                to,
            });
        }
        lines
    }

    fn waste_lines(&self) -> (String, Vec<PanelLine>) {
        let found = waste(&self.stack);
        let (stored, wasted) = (found.stored(), found.wasted());
        let title = format!(
            "wasted: {} of {} ({:.1} %), efficiency {:.4}",
            size(wasted),
            size(stored),
            ratio(wasted, stored) * 100.0,
            found.efficiency()
        );
        let reasons =
            Reason::ALL.map(|reason| format!("{} {}", reason.name(), size(found.by_reason(reason))));
        let mut lines = vec![PanelLine::plain(reasons.join(", ")), PanelLine::default()];
        lines.extend(found.by_path().into_iter().take(MOST_PATHS).map(|path| {
            let by: Vec<_> = path
                .by
                .iter()
                .map(|(layer, reason)| format!("{} by {layer}", reason.name()))
                .collect();
            let last = path.by.last().map_or(0, |(layer, _)| *layer);
            PanelLine {
                text: format!(
                    "{:>7}  {}  ({})",
                    size(path.bytes),
                    printable(&path.path.to_string()),
                    by.join(", ")
                ),
                mark: None,
                to: Some(Target::Place(path.path, last)),
            }
        }));
        if wasted == 0 {
            lines.push(PanelLine::plain("nothing is stored in vain"));
        }
        (title, lines)
    }
}

/// A line without what a terminal would obey; tabs as eight spaces.
fn untabbed(line: &str) -> String {
    printable(&line.replace('\t', "        "))
}

/// As hexdump(1) -C writes it.
fn hexadecimal(bytes: &[u8]) -> Vec<PanelLine> {
    let line = |(number, chunk): (usize, &[u8])| {
        let hex: Vec<_> = chunk.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String = chunk
            .iter()
            .map(|byte| {
                if (b' '..=b'~').contains(byte) {
                    char::from(*byte)
                } else {
                    '.'
                }
            })
            .collect();
        PanelLine::plain(format!("{:08x}  {:<48} {text}", number * 16, hex.join(" ")))
    };
    bytes.chunks(16).enumerate().map(line).collect()
}
