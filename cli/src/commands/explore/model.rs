//! What the interface shows and how it changes: no terminal, no drawing.
//!
//! What takes long in a large image is found out by a thread, and shown when it is there: so keys are always answered.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use mica_builder::look::Stack;
use mica_builder::look::instruction::Instruction;
use mica_builder::look::place::Place;
use mica_fs::path::ImagePath;

use super::panel::{Panel, PanelKind};
use super::tree::{self, Delta, Filter, Heights, Mark, Row};

/// Which list the keys move in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Focus {
    Layers,
    Tree,
}

/// How far to move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Move {
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    /// To this number, as a click does.
    To(usize),
}

/// What a key or the mouse asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    Quit,
    /// Closes what is open, or clears the search.
    Back,
    Focus(Focus),
    OtherFocus,
    Move(Move),
    /// Moves the view of whichever list the mouse is over.
    Scroll(Focus, Move),
    /// Opens a directory, shows a file, goes where a panel's line leads.
    Enter,
    Open,
    Close,
    Toggle,
    /// Between what a layer changes, and what all layers up to it do.
    Aggregate,
    Filter(Mark),
    /// All marks again, or only differences.
    OnlyChanges,
    Panel(PanelKind),
    /// Begins to ask for what to search.
    Search,
    Type(char),
    Erase,
    Submit,
    NextMatch,
    PreviousMatch,
}

/// A list with a selected line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cursor {
    pub selected: usize,
    /// The first line that is shown.
    pub top: usize,
}

impl Cursor {
    /// Moves within `count` lines of which `height` are shown.
    pub fn go(&mut self, to: Move, count: usize, height: usize) {
        let last = count.saturating_sub(1);
        let page = height.max(2) - 1;
        self.selected = match to {
            Move::Up => self.selected.saturating_sub(1),
            Move::Down => self.selected + 1,
            Move::PageUp => self.selected.saturating_sub(page),
            Move::PageDown => self.selected + page,
            Move::First => 0,
            Move::Last => last,
            Move::To(number) => number,
        }
        .min(last);
        self.reveal(height);
    }

    /// Scrolls so that the selected line is shown.
    pub fn reveal(&mut self, height: usize) {
        let lowest = (self.selected + 1).saturating_sub(height);
        self.top = self.top.clamp(lowest, self.selected.max(lowest));
    }
}

/// How long a comparison is waited for before the screen is drawn without it. A test wants to see it.
const PROMPT: Duration = match cfg!(test) {
    true => Duration::from_secs(60),
    false => Duration::from_millis(40),
};

/// What a thread is finding out. There is one at most: what is asked for meanwhile is begun when it has ended.
struct Coming<T> {
    /// Of which trees.
    of: Heights,
    receiver: Receiver<T>,
}

impl<T: Send + 'static> Coming<T> {
    fn begin(stack: &Arc<Stack>, of: Heights, work: fn(&Stack, Heights) -> T) -> Self {
        let (sender, receiver) = mpsc::channel();
        let stack = Arc::clone(stack);
        // The interface may have been quit.
        thread::spawn(move || sender.send(work(&stack, of)).ok());
        Self { of, receiver }
    }
}

/// Everything that is shown.
pub struct Model {
    pub title: String,
    pub stack: Arc<Stack>,
    pub instructions: Vec<Instruction>,
    pub focus: Focus,
    /// The line of the selected layer: the newest one is line 0.
    pub layers: Cursor,
    pub tree: Cursor,
    pub aggregate: bool,
    pub filter: Filter,
    pub delta: Delta,
    pub rows: Vec<Row>,
    /// Of the tree that is shown; `None` until they are known.
    pub sizes: Option<HashMap<ImagePath, u64>>,
    coming_delta: Option<Coming<Delta>>,
    coming_sizes: Option<Coming<HashMap<ImagePath, u64>>>,
    pub panel: Option<Panel>,
    /// What is being typed, if a search is asked for.
    pub typing: Option<String>,
    pub matches: Vec<ImagePath>,
    /// Something to tell, until the next key.
    pub status: String,
    /// How many lines the layers, the tree and a panel have on the screen.
    pub heights: [usize; 3],
    pub quit: bool,
    open: HashSet<ImagePath>,
}

impl Model {
    pub fn new(title: String, place: Place) -> Self {
        let mut model = Self {
            title,
            stack: Arc::new(place.stack),
            instructions: place.instructions,
            focus: Focus::Layers,
            layers: Cursor::default(),
            tree: Cursor::default(),
            aggregate: false,
            filter: Filter::EVERYTHING,
            delta: Delta::default(),
            rows: Vec::new(),
            sizes: None,
            coming_delta: None,
            coming_sizes: None,
            panel: None,
            typing: None,
            matches: Vec::new(),
            status: String::new(),
            heights: [20; 3],
            quit: false,
            open: HashSet::new(),
        };
        model.choose_layer();
        model
    }

    /// The number of the selected layer, from 1; 0 if there is none.
    pub fn layer(&self) -> usize {
        self.stack.layers().len().saturating_sub(self.layers.selected)
    }

    /// What is compared.
    pub fn compared(&self) -> Heights {
        Heights {
            old: if self.aggregate {
                0
            } else {
                self.layer().saturating_sub(1)
            },
            new: self.layer(),
        }
    }

    /// The selected line of the tree.
    pub fn row(&self) -> Option<&Row> {
        self.rows.get(self.tree.selected)
    }

    /// The size of what is in a row, of a directory with all below it, if that is known yet.
    pub fn size_of(&self, row: &Row) -> Option<u64> {
        match row.node.is_directory() {
            true => self.sizes.as_ref()?.get(&row.path).copied(),
            false => Some(row.node.size),
        }
    }

    /// Whether something is to be done or to come while nobody asks for anything.
    pub fn is_busy(&self) -> bool {
        self.is_reading() || self.sizes.is_none()
    }

    /// Whether it is not known yet what differs.
    pub fn is_reading(&self) -> bool {
        self.coming_delta.is_some()
    }

    /// Takes in what has come, and has found out what nobody needed at once.
    pub fn idle(&mut self) {
        self.take_delta();
        if self.sizes.is_some() || self.is_reading() {
            return;
        }
        let wanted = self.compared();
        let work = |stack: &Stack, of: Heights| tree::directory_sizes(stack, of.new);
        let begin = || Coming::begin(&self.stack, wanted, work);
        let coming = self.coming_sizes.get_or_insert_with(begin);
        if let Ok(sizes) = coming.receiver.recv_timeout(PROMPT) {
            self.sizes = (coming.of.new == wanted.new).then_some(sizes);
            self.coming_sizes = None;
        }
    }

    fn take_delta(&mut self) {
        let Some(coming) = &self.coming_delta else { return };
        if let Ok(delta) = coming.receiver.recv_timeout(PROMPT) {
            let is_wanted = coming.of == self.compared();
            self.coming_delta = None;
            match is_wanted {
                true => self.delta = delta,
                false => self.begin_delta(),
            }
            self.show();
        }
    }

    fn begin_delta(&mut self) {
        let begin = || Coming::begin(&self.stack, self.compared(), Delta::between);
        if self.coming_delta.is_none() {
            self.coming_delta = Some(begin());
        }
    }

    /// Takes in how large the lists are on the screen.
    pub fn resize(&mut self, heights: [usize; 3]) {
        if self.heights != heights {
            self.heights = heights;
            self.layers.reveal(heights[0]);
            self.tree.reveal(heights[1]);
        }
    }

    /// Does what is asked for.
    pub fn update(&mut self, action: Action) {
        self.status.clear();
        if self.typing.is_some() {
            return self.type_search(action);
        }
        if self.panel.is_some() && self.in_panel(&action) {
            return;
        }
        match action {
            Action::Quit => self.quit = true,
            Action::Back => self.matches.clear(),
            Action::Focus(focus) => self.focus = focus,
            Action::OtherFocus => {
                self.focus = match self.focus {
                    Focus::Layers => Focus::Tree,
                    Focus::Tree => Focus::Layers,
                };
            }
            Action::Move(to) => self.go(self.focus, to),
            Action::Scroll(focus, to) => self.go(focus, to),
            Action::Aggregate => {
                self.aggregate ^= true;
                self.choose_layer();
            }
            Action::Filter(mark) => {
                self.filter.toggle(mark);
                self.show();
            }
            Action::OnlyChanges => {
                let everything = self.filter == Filter::EVERYTHING;
                self.filter = Filter::EVERYTHING;
                if everything {
                    self.filter.toggle(Mark::Same);
                }
                self.show();
            }
            Action::Panel(kind) => self.open_panel(kind),
            Action::Search => self.typing = Some(String::new()),
            Action::NextMatch => self.go_to_match(1),
            Action::PreviousMatch => self.go_to_match(self.matches.len().saturating_sub(1)),
            Action::Enter if self.focus == Focus::Layers => self.focus = Focus::Tree,
            Action::Open | Action::Close | Action::Toggle if self.focus == Focus::Layers => {}
            Action::Enter | Action::Open | Action::Close | Action::Toggle => self.at_row(&action),
            Action::Type(_) | Action::Erase | Action::Submit => {}
        }
    }

    fn go(&mut self, focus: Focus, to: Move) {
        match focus {
            Focus::Layers => {
                let before = self.layers.selected;
                self.layers.go(to, self.stack.layers().len(), self.heights[0]);
                if self.layers.selected != before {
                    self.choose_layer();
                }
            }
            Focus::Tree => self.tree.go(to, self.rows.len(), self.heights[1]),
        }
    }

    /// Compares anew, since another layer is selected, or in another way.
    fn choose_layer(&mut self) {
        self.delta = Delta::default();
        self.sizes = None;
        self.matches.clear();
        self.begin_delta();
        self.take_delta();
        if self.is_reading() {
            self.show();
        }
    }

    /// Lists the tree anew; the same path stays selected, or what is near it.
    fn show(&mut self) {
        let selected = self.row().map(|row| row.path.clone());
        self.rows = tree::rows(&self.stack, self.compared(), &self.delta, &self.open, self.filter);
        let place = selected.and_then(|path| self.rows.iter().position(|row| row.path == path));
        let to = place.unwrap_or(self.tree.selected);
        self.tree.go(Move::To(to), self.rows.len(), self.heights[1]);
    }

    fn at_row(&mut self, action: &Action) {
        let Some(row) = self.row() else { return };
        let (path, is_open, is_directory) = (row.path.clone(), row.open, row.node.is_directory());
        match action {
            Action::Close if !is_open => {
                let above = path.parent();
                let above = self.rows.iter().position(|row| Some(&row.path) == above.as_ref());
                self.go(Focus::Tree, Move::To(above.unwrap_or(self.tree.selected)));
            }
            Action::Close => self.set_open(path, false),
            Action::Open if is_directory => self.set_open(path, true),
            _ if is_directory => self.set_open(path, !is_open),
            _ => self.open_panel(PanelKind::Content),
        }
    }

    fn set_open(&mut self, path: ImagePath, open: bool) {
        match open {
            true => self.open.insert(path),
            false => self.open.remove(&path),
        };
        self.show();
    }

    /// Opens the directories above a path and selects it.
    pub fn reveal(&mut self, path: &ImagePath) {
        let mut above = path.parent();
        while let Some(directory) = above {
            above = directory.parent();
            self.open.insert(directory);
        }
        self.show();
        if !self.rows.iter().any(|row| row.path == *path) {
            self.filter = Filter::EVERYTHING;
            self.show();
        }
        match self.rows.iter().position(|row| row.path == *path) {
            Some(place) => self.go(Focus::Tree, Move::To(place)),
            None => self.status = format!("{path} is not in this layer's tree"),
        }
        self.focus = Focus::Tree;
    }

    /// Selects a layer by its number.
    pub fn select_layer(&mut self, layer: usize) {
        self.go(
            Focus::Layers,
            Move::To(self.stack.layers().len().saturating_sub(layer)),
        );
    }

    fn type_search(&mut self, action: Action) {
        let Some(text) = &mut self.typing else { return };
        match action {
            Action::Type(c) => text.push(c),
            Action::Erase => {
                text.pop();
            }
            Action::Submit | Action::Enter => {
                let text = self.typing.take().unwrap_or_default();
                if !text.is_empty() {
                    self.search(&text);
                }
            }
            Action::Back => self.typing = None,
            Action::Quit => self.quit = true,
            _ => {}
        }
    }

    fn search(&mut self, text: &str) {
        self.matches = tree::find(&self.stack, self.layer(), &self.delta, text);
        match self.matches.is_empty() {
            true => self.status = format!("nothing is called {text:?} here"),
            false => self.go_to_match(0),
        }
    }

    /// Goes to the match after the selected path, and so many further on.
    fn go_to_match(&mut self, further: usize) {
        let count = self.matches.len();
        if count == 0 {
            self.status = "there is no search: / begins one".to_owned();
            return;
        }
        let here = self.row().map(|row| row.path.clone()).unwrap_or_default();
        let at = self
            .matches
            .partition_point(|path| path.components().lt(here.components()));
        let is_on_match = self.matches.get(at) == Some(&here);
        // From between two matches, the next one is that at which the search would go on.
        let step = if is_on_match || further != 1 { further } else { 0 };
        let number = (at + step) % count;
        let path = self.matches[number].clone();
        self.reveal(&path);
        if self.status.is_empty() {
            self.status = format!("match {} of {count}", number + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{model, shown};
    use super::*;

    #[test]
    fn the_interface_answers_while_a_comparison_is_coming() {
        let (_directory, mut model) = model();
        let (sender, receiver) = mpsc::channel();
        let of = model.compared();
        let delta = std::mem::take(&mut model.delta);
        model.coming_delta = Some(Coming { of, receiver });
        assert!(model.is_busy() && shown(&mut model).contains("reading…"));
        model.focus = Focus::Tree;
        model.update(Action::Move(Move::Down));
        assert_eq!(model.tree.selected, 1);
        sender.send(delta).unwrap();
        model.idle();
        assert!(!model.is_reading() && !shown(&mut model).contains("reading…"));
        // What comes for other trees than those that are shown by now is found out anew.
        let (sender, receiver) = mpsc::channel();
        let old = Heights { old: 0, new: 0 };
        model.coming_delta = Some(Coming { of: old, receiver });
        sender.send(Delta::default()).unwrap();
        model.idle();
        assert!(model.is_reading());
        model.idle();
        assert!(!model.is_reading() && model.delta.count(Mark::Removed) > 0);
    }
}
