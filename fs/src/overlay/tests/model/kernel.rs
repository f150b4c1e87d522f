//! What the kernel does with an overlay besides what programs ask: it looks names up and forgets them at some time
//! later, keeps files open, and goes on with listings.

use std::collections::BTreeSet;

use super::naive::Model;
use super::{Dice, assert_node};
use crate::overlay::tests::*;

pub struct Kernel<'a> {
    pub overlay: &'a Overlay,
    references: Vec<Ino>,
    open: Vec<(usize, Ino)>,
    readings: Vec<Reading>,
}

/// A directory being listed.
struct Reading {
    id: usize,
    ino: Ino,
    cookie: u64,
    seen: BTreeSet<String>,
    /// The names that were there all the time.
    always: BTreeSet<String>,
}

impl<'a> Kernel<'a> {
    pub fn new(overlay: &'a Overlay) -> Self {
        Self {
            overlay,
            references: Vec::new(),
            open: Vec::new(),
            readings: Vec::new(),
        }
    }

    pub fn ino(&mut self, at: &str) -> Ino {
        let mut ino = Ino::ROOT;
        for name in at.split('/').filter(|name| !name.is_empty()) {
            ino = self.overlay.lookup(ino, name.as_bytes()).expect("found").ino;
            self.references.push(ino);
        }
        ino
    }

    pub fn forget_some(&mut self, dice: &mut Dice) {
        while self.references.len() > 6 {
            let which = dice.roll(self.references.len() as u64) as usize;
            self.overlay.forget(self.references.swap_remove(which), 1);
        }
    }

    /// Opens what is at this path: the reference of the last look-up is the open file's.
    pub fn open(&mut self, id: usize, at: &str) {
        let ino = self.ino(at);
        self.references.pop();
        self.open.push((id, ino));
    }

    pub fn close_one(&mut self, dice: &mut Dice) {
        if !self.open.is_empty() {
            let which = dice.roll(self.open.len() as u64) as usize;
            let (_, ino) = self.open.swap_remove(which);
            self.overlay.forget(ino, 1);
        }
    }

    pub fn one_open(&self, dice: &mut Dice) -> Option<(usize, Ino)> {
        let count = self.open.len() as u64;
        (count > 0).then(|| self.open[dice.roll(count) as usize])
    }

    /// What is open is as the model has it, whether a name leads to it or not.
    pub fn assert_open_alike(&mut self, model: &Model) {
        for (id, ino) in &self.open {
            let node = &model.nodes[id];
            assert_node("something open", &see(self.overlay, *ino), node);
            if node.kind == Kind::Directory && node.links == 0 {
                assert!(names(self.overlay, *ino).is_empty());
            }
        }
        for reading in &mut self.readings {
            let entries = &model.nodes[&reading.id].entries;
            reading.always.retain(|name| entries.contains_key(name));
        }
    }

    /// Begins a listing, or reads a few more names of one that has begun.
    pub fn read_a_directory(&mut self, model: &Model, dice: &mut Dice) {
        if self.readings.is_empty() || dice.roll(3) == 0 {
            let (path, _) = dice.path();
            let Some(id) = model.find(&path) else { return };
            if model.nodes[&id].kind != Kind::Directory {
                return;
            }
            let ino = self.ino(&path);
            // The root's number counts no references.
            if ino != Ino::ROOT {
                self.references.pop();
            }
            let always = model.nodes[&id].entries.keys().cloned().collect();
            self.readings.push(Reading {
                id,
                ino,
                cookie: 0,
                seen: BTreeSet::new(),
                always,
            });
        }
        let which = dice.roll(self.readings.len() as u64) as usize;
        let mut left = 1 + dice.roll(3);
        if self.readings[which].read(self.overlay, &mut left) {
            let reading = self.readings.swap_remove(which);
            reading.end(self.overlay);
        }
    }
}

impl Reading {
    /// Reads at most `left` entries; true at the end of the directory.
    fn read(&mut self, overlay: &Overlay, left: &mut u64) -> bool {
        let mut at_end = true;
        let listed = overlay.read_dir(self.ino, self.cookie, &mut |entry| {
            if *left == 0 {
                at_end = false;
                return ControlFlow::Break(());
            }
            *left -= 1;
            assert!(entry.next > self.cookie, "cookies rise");
            self.cookie = entry.next;
            let name = String::from_utf8_lossy(entry.name).into_owned();
            assert!(self.seen.insert(name.clone()), "{name} is listed twice");
            ControlFlow::Continue(())
        });
        listed.expect("listed");
        at_end
    }

    fn end(self, overlay: &Overlay) {
        let missed: Vec<_> = self.always.difference(&self.seen).collect();
        assert!(
            missed.is_empty(),
            "not listed, though there all the time: {missed:?}"
        );
        if self.ino != Ino::ROOT {
            overlay.forget(self.ino, 1);
        }
    }
}

impl Drop for Kernel<'_> {
    fn drop(&mut self) {
        let open = self.open.drain(..).map(|(_, ino)| ino);
        for ino in self.references.drain(..).chain(open) {
            self.overlay.forget(ino, 1);
        }
        for mut reading in self.readings.drain(..) {
            if !std::thread::panicking() {
                let mut all = u64::MAX;
                reading.read(self.overlay, &mut all);
                reading.end(self.overlay);
            }
        }
    }
}

/// What there is to see of a node.
fn see(overlay: &Overlay, ino: Ino) -> Seen {
    let attr = overlay.attr(ino).expect("known");
    let bytes = match attr.kind {
        Kind::File => content(overlay, ino),
        Kind::Symlink => overlay.read_link(ino).expect("a link"),
        _ => Vec::new(),
    };
    let xattrs = overlay.xattr_names(ino).expect("names").into_iter();
    let xattrs = xattrs.map(|name| (name.clone(), overlay.xattr(ino, &name).expect("a value")));
    Seen {
        kind: attr.kind,
        mode: attr.mode,
        uid: attr.uid,
        gid: attr.gid,
        mtime: attr.mtime,
        xattrs: xattrs.collect(),
        content: bytes,
        device: attr.device,
        ino,
        nlink: attr.nlink,
    }
}

/// Everything that an overlay shows, by path. All references are given back, so that looking changes nothing.
pub fn look(overlay: &Overlay) -> BTreeMap<String, Seen> {
    let mut all = BTreeMap::new();
    let mut todo = vec![(String::new(), Ino::ROOT)];
    let mut references = Vec::new();
    while let Some((at, ino)) = todo.pop() {
        let seen = see(overlay, ino);
        if seen.kind == Kind::Directory {
            for name in names(overlay, ino) {
                let child = overlay
                    .lookup(ino, name.as_bytes())
                    .expect("what is listed is there")
                    .ino;
                references.push(child);
                todo.push((format!("{at}/{name}"), child));
            }
        }
        all.insert(at, seen);
    }
    for ino in references {
        overlay.forget(ino, 1);
    }
    all
}
