//! What the frames of a named upper's log say: see `docs/format.md`, "A named upper".

use std::collections::{HashMap, HashSet};

use super::Unsaved;
use crate::layer::Xattrs;
use crate::layer::index::EntryId;
use crate::overlay::data::partial::{Blocks, Partial};
use crate::overlay::data::{Content as Bytes, FileData, Placement};
use crate::overlay::flat::FlatFiles;
use crate::overlay::inode::{Body, Content, Dir, Node, Override};
use crate::overlay::lower::{Lowers, Origin};
use crate::overlay::tree::Tree;
use crate::overlay::{Arc, Device, Ino, Result, Timestamp};

const NODE: u8 = 0;
const GONE: u8 = 1;
const NAME: u8 = 2;
const CONTENT: u8 = 3;

const FILE_LOWER: u8 = 0;
const FILE_OWN: u8 = 1;
const DIRECTORY: u8 = 2;
const SYMLINK: u8 = 3;
const CHAR_DEVICE: u8 = 4;
const BLOCK_DEVICE: u8 = 5;
const FIFO: u8 = 6;
const SOCKET: u8 = 7;

const NAME_NODE: u8 = 0;
const NAME_WHITEOUT: u8 = 1;
const NAME_AS_BELOW: u8 = 2;

const IN_MEMORY: u8 = 0;
const FLAT: u8 = 1;
const PARTIAL: u8 = 2;

/// What one frame is to say: names and metadata as they were under the lock. The bytes of files are still to be
/// added, which takes time and so happens outside of it.
pub(super) struct Batch {
    out: Writer,
    data: Vec<(u64, Arc<FileData>)>,
}

impl Batch {
    /// Everything that differs from the layers.
    pub fn whole(tree: &Tree) -> Self {
        let mut batch = Self::new(tree);
        let mut nodes: Vec<_> = tree.nodes.iter().filter(|(_, node)| is_kept(node)).collect();
        nodes.sort_unstable_by_key(|(ino, _)| **ino);
        for (ino, node) in nodes {
            batch.node(*ino, node);
            batch.content(*ino, node);
            let Body::Directory(dir) = &node.body else {
                continue;
            };
            for (name, what) in &dir.overrides {
                batch.out.name(*ino, name, Some(*what));
            }
        }
        batch
    }

    /// What changed since the last time.
    pub fn changes(tree: &Tree, unsaved: &Unsaved) -> Self {
        let mut batch = Self::new(tree);
        let kept = |ino: &u64| tree.nodes.get(ino).filter(|node| is_kept(node));
        for ino in unsaved.nodes.union(&unsaved.times) {
            match kept(ino) {
                Some(node) => batch.node(*ino, node),
                None => batch.out.gone(*ino),
            }
        }
        for (ino, names) in &unsaved.names {
            let Some(Body::Directory(dir)) = kept(ino).map(|node| &node.body) else {
                continue;
            };
            for name in names {
                batch.out.name(*ino, name, dir.overrides.get(name).copied());
            }
        }
        for ino in &unsaved.data {
            if let Some(node) = kept(ino) {
                batch.content(*ino, node);
            }
        }
        batch
    }

    fn new(tree: &Tree) -> Self {
        let mut out = Writer::default();
        out.u64(tree.next);
        Self {
            out,
            data: Vec::new(),
        }
    }

    fn node(&mut self, ino: u64, node: &Node) {
        self.out.0.push(NODE);
        self.out.u64(ino);
        self.out.node(node);
    }

    fn content(&mut self, ino: u64, node: &Node) {
        if let Body::File(Content::Own(data)) = &node.body {
            self.data.push((ino, Arc::clone(data)));
        }
    }

    /// Makes the data durable, adds what of it lies in memory, and returns the payload of the frame.
    pub fn finish(self, files: &FlatFiles) -> Result<Vec<u8>> {
        let Self { mut out, data } = self;
        let mut flat = Vec::new();
        for (ino, data) in data {
            out.0.push(CONTENT);
            out.u64(ino);
            match data.placement()? {
                Placement::Memory(bytes) => {
                    out.0.push(IN_MEMORY);
                    out.bytes(&bytes);
                    continue;
                }
                Placement::Flat => out.0.push(FLAT),
                Placement::Partial(blocks) => out.blocks(&blocks),
            }
            flat.push(data);
        }
        if !flat.is_empty() {
            files.sync(&flat)?;
        }
        Ok(out.0)
    }
}

/// Whether a saved state has the node.
fn is_kept(node: &Node) -> bool {
    node.pinned && node.links > 0
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// Names, targets, attributes and small files: none reaches 4 GiB.
    fn bytes(&mut self, bytes: &[u8]) {
        self.u32(bytes.len() as u32);
        self.0.extend_from_slice(bytes);
    }

    fn blocks(&mut self, blocks: &Blocks) {
        self.0.push(PARTIAL);
        self.u64(blocks.shown);
        self.u64(blocks.copied.len() as u64);
        for (number, bits) in &blocks.copied {
            self.u64(*number);
            self.u64(*bits);
        }
    }

    fn time(&mut self, time: Timestamp) {
        self.u64(time.seconds.cast_unsigned());
        self.u32(time.nanoseconds);
    }

    fn origin(&mut self, origin: Origin) {
        self.u32(origin.layer);
        self.u32(origin.entry.0);
    }

    fn node(&mut self, node: &Node) {
        self.0.push(u8::from(node.origin.is_some()));
        if let Some(origin) = node.origin {
            self.origin(origin);
        }
        self.0.push(u8::from(node.home.is_some()));
        if let Some((parent, name)) = &node.home {
            self.u64(*parent);
            self.bytes(name);
        }
        for number in [node.links, node.mode, node.uid, node.gid] {
            self.u32(number);
        }
        for time in [node.atime, node.mtime, node.ctime, node.btime] {
            self.time(time);
        }
        self.0.push(u8::from(node.dated));
        self.0.push(u8::from(node.xattrs.is_some()));
        if let Some(xattrs) = &node.xattrs {
            self.u32(xattrs.len() as u32);
            for (name, value) in xattrs.iter() {
                self.bytes(name);
                self.bytes(value);
            }
        }
        match &node.body {
            Body::File(Content::Lower) => self.0.push(FILE_LOWER),
            Body::File(Content::Own(_)) => self.0.push(FILE_OWN),
            Body::Directory(dir) => {
                self.0.push(DIRECTORY);
                self.u32(dir.contributors.len() as u32);
                for origin in &dir.contributors {
                    self.origin(*origin);
                }
            }
            Body::Symlink(target) => {
                self.0.push(SYMLINK);
                self.bytes(target);
            }
            Body::CharDevice(device) => self.device(CHAR_DEVICE, *device),
            Body::BlockDevice(device) => self.device(BLOCK_DEVICE, *device),
            Body::Fifo => self.0.push(FIFO),
            Body::Socket => self.0.push(SOCKET),
        }
    }

    fn device(&mut self, tag: u8, device: Device) {
        self.0.push(tag);
        self.u32(device.major);
        self.u32(device.minor);
    }

    fn gone(&mut self, ino: u64) {
        self.0.push(GONE);
        self.u64(ino);
    }

    fn name(&mut self, directory: u64, name: &[u8], what: Option<Override>) {
        self.0.push(NAME);
        self.u64(directory);
        self.bytes(name);
        match what {
            None => self.0.push(NAME_AS_BELOW),
            Some(Override::Whiteout) => self.0.push(NAME_WHITEOUT),
            Some(Override::Node(ino)) => {
                self.0.push(NAME_NODE);
                self.u64(ino);
            }
        }
    }
}

type Decoded<T> = std::result::Result<T, &'static str>;

const CUT_SHORT: &str = "its state is cut short";
const BROKEN: &str = "its state contradicts itself";

/// Puts what the frames of a log say into the tree of a session that has just begun. Returns the files whose bytes
/// found no room in memory, so that they lie elsewhere now.
pub(super) fn restore<'a>(payloads: impl Iterator<Item = &'a [u8]>, tree: &mut Tree) -> Decoded<Vec<u64>> {
    let mut saved = Restoring::default();
    for payload in payloads {
        saved.frame(payload)?;
    }
    let files = tree.files().map_err(|_| BROKEN)?;
    let mut moved = Vec::new();
    for (ino, content) in &saved.contents {
        let Some(node) = saved.nodes.get_mut(ino) else {
            continue;
        };
        if !saved.own.contains(ino) {
            return Err(BROKEN);
        }
        let data = open(*ino, content, node.origin, &tree.lower, &files)?;
        if matches!(content, Saved::Memory(_)) && data.has_flat_file() {
            moved.push(*ino);
        }
        node.body = Body::File(Content::Own(Arc::new(data)));
    }
    let lost = |ino: &u64| saved.nodes.contains_key(ino) && !saved.contents.contains_key(ino);
    if saved.own.iter().any(lost) {
        return Err(BROKEN);
    }
    link_up(&mut saved.nodes)?;
    tree.next = saved.next.max(tree.lower.end());
    tree.nodes = saved.nodes;
    Ok(moved)
}

/// The content of a file that came from `origin`, if from anywhere.
fn open(
    ino: u64,
    content: &Saved<'_>,
    origin: Option<Origin>,
    lower: &Lowers,
    files: &Arc<FlatFiles>,
) -> Decoded<FileData> {
    let data = |content, size| FileData::new(ino, Arc::clone(files), content, size);
    if let Saved::Memory(bytes) = content {
        let data = data(Bytes::Memory(Vec::new()), 0);
        return match data.write(0, bytes) {
            Ok(_) => Ok(data),
            Err(_) => Err("its data cannot be restored"),
        };
    }
    let size = files
        .open(ino)
        .and_then(|file| file.metadata())
        .map_err(|_| "a file that its state names is missing")?
        .len();
    let Saved::Partial(blocks) = content else {
        return Ok(data(Bytes::Flat, size));
    };
    let origin = origin.ok_or(BROKEN)?;
    let layer = Arc::clone(lower.layer(origin).ok_or(BROKEN)?);
    let partial = Partial::restored(layer, origin.entry, blocks, size).ok_or(BROKEN)?;
    Ok(data(Bytes::Partial(partial), size))
}

/// Where the bytes of a file are said to be.
enum Saved<'a> {
    Memory(&'a [u8]),
    Partial(Blocks),
    Flat,
}

/// What the frames so far say.
#[derive(Default)]
struct Restoring<'a> {
    next: u64,
    nodes: HashMap<u64, Box<Node>>,
    /// Files with content of their own.
    own: HashSet<u64>,
    contents: HashMap<u64, Saved<'a>>,
}

impl<'a> Restoring<'a> {
    fn frame(&mut self, payload: &'a [u8]) -> Decoded<()> {
        let mut input = Reader(payload);
        self.next = input.u64()?;
        while !input.0.is_empty() {
            let (tag, ino) = (input.u8()?, input.u64()?);
            match tag {
                NODE => self.node(ino, &mut input)?,
                GONE => {
                    self.nodes.remove(&ino);
                    self.own.remove(&ino);
                    self.contents.remove(&ino);
                }
                NAME => self.name(ino, &mut input)?,
                CONTENT => {
                    let content = match input.u8()? {
                        IN_MEMORY => Saved::Memory(input.bytes()?),
                        PARTIAL => Saved::Partial(input.blocks()?),
                        FLAT => Saved::Flat,
                        _ => return Err(BROKEN),
                    };
                    self.contents.insert(ino, content);
                }
                _ => return Err(BROKEN),
            }
        }
        Ok(())
    }

    /// A node takes the place of what it was; a directory keeps its names.
    fn node(&mut self, ino: u64, input: &mut Reader<'a>) -> Decoded<()> {
        let (mut node, is_own) = input.node()?;
        if is_own {
            self.own.insert(ino);
        }
        if let Some(Body::Directory(before)) = self.nodes.remove(&ino).map(|node| node.body)
            && let Body::Directory(dir) = &mut node.body
        {
            dir.overrides = before.overrides;
        }
        self.nodes.insert(ino, Box::new(node));
        Ok(())
    }

    fn name(&mut self, directory: u64, input: &mut Reader<'a>) -> Decoded<()> {
        let name = input.bytes()?;
        let what = match input.u8()? {
            NAME_NODE => Some(Override::Node(input.u64()?)),
            NAME_WHITEOUT => Some(Override::Whiteout),
            NAME_AS_BELOW => None,
            _ => return Err(BROKEN),
        };
        let dir = self.nodes.get_mut(&directory).ok_or(BROKEN)?;
        let dir = dir.dir_mut().map_err(|_| BROKEN)?;
        match what {
            Some(what) => dir.overrides.insert(name.into(), what),
            None => dir.overrides.remove(name),
        };
        Ok(())
    }
}

/// Counts what follows from the nodes, and checks that all that is named is there.
fn link_up(nodes: &mut HashMap<u64, Box<Node>>) -> Decoded<()> {
    let homes: Vec<_> = nodes
        .values()
        .filter_map(|node| node.home.as_ref().map(|home| home.0))
        .collect();
    for parent in homes {
        nodes.get_mut(&parent).ok_or(BROKEN)?.children += 1;
    }
    let directories: HashMap<_, _> = nodes
        .iter()
        .map(|(ino, node)| (*ino, node.is_directory()))
        .collect();
    for node in nodes.values_mut() {
        let Body::Directory(dir) = &mut node.body else {
            continue;
        };
        for what in dir.overrides.values() {
            if let Override::Node(ino) = what {
                dir.subdirectories += u32::from(*directories.get(ino).ok_or(BROKEN)?);
            }
        }
    }
    let root = nodes.get_mut(&Ino::ROOT.0).ok_or(BROKEN)?;
    root.held = true;
    root.is_directory().then_some(()).ok_or(BROKEN)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Decoded<&'a [u8]> {
        let (part, rest) = self.0.split_at_checked(length).ok_or(CUT_SHORT)?;
        self.0 = rest;
        Ok(part)
    }

    fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let (part, rest) = self.0.split_first_chunk().ok_or(CUT_SHORT)?;
        self.0 = rest;
        Ok(*part)
    }

    fn u8(&mut self) -> Decoded<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn flag(&mut self) -> Decoded<bool> {
        self.u8().map(|byte| byte != 0)
    }

    fn u32(&mut self) -> Decoded<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Decoded<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn blocks(&mut self) -> Decoded<Blocks> {
        let shown = self.u64()?;
        let count = self.u64()?;
        let copied = (0..count).map(|_| Ok((self.u64()?, self.u64()?)));
        let copied = copied.collect::<Decoded<_>>()?;
        Ok(Blocks { shown, copied })
    }

    fn bytes(&mut self) -> Decoded<&'a [u8]> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    fn time(&mut self) -> Decoded<Timestamp> {
        Ok(Timestamp {
            seconds: self.u64()?.cast_signed(),
            nanoseconds: self.u32()?,
        })
    }

    fn origin(&mut self) -> Decoded<Origin> {
        Ok(Origin {
            layer: self.u32()?,
            entry: EntryId(self.u32()?),
        })
    }

    fn device(&mut self) -> Decoded<Device> {
        Ok(Device {
            major: self.u32()?,
            minor: self.u32()?,
        })
    }

    /// A node, and whether it has content of its own.
    fn node(&mut self) -> Decoded<(Node, bool)> {
        let origin = self.flag()?.then(|| self.origin()).transpose()?;
        let home = match self.flag()? {
            true => Some((self.u64()?, Box::from(self.bytes()?))),
            false => None,
        };
        let [links, mode, uid, gid] = [self.u32()?, self.u32()?, self.u32()?, self.u32()?];
        let [atime, mtime, ctime, btime] = [self.time()?, self.time()?, self.time()?, self.time()?];
        let dated = self.flag()?;
        let xattrs = self.flag()?.then(|| self.xattrs().map(Box::new)).transpose()?;
        let tag = self.u8()?;
        let body = match tag {
            // Content of its own is told apart from the node: until then it stands as the lower one.
            FILE_LOWER | FILE_OWN => Body::File(Content::Lower),
            DIRECTORY => Body::Directory(Box::new(self.contributors()?)),
            SYMLINK => Body::Symlink(self.bytes()?.into()),
            CHAR_DEVICE => Body::CharDevice(self.device()?),
            BLOCK_DEVICE => Body::BlockDevice(self.device()?),
            FIFO => Body::Fifo,
            SOCKET => Body::Socket,
            _ => return Err(BROKEN),
        };
        let node = Node {
            origin,
            home,
            links,
            atime,
            mtime,
            ctime,
            btime,
            dated,
            xattrs,
            ..Node::new(body, mode, uid, gid)
        };
        Ok((node, tag == FILE_OWN))
    }

    fn xattrs(&mut self) -> Decoded<Xattrs> {
        let mut xattrs = Xattrs::new();
        for _ in 0..self.u32()? {
            let name = self.bytes()?.to_vec();
            xattrs.insert(name, self.bytes()?.to_vec());
        }
        Ok(xattrs)
    }

    fn contributors(&mut self) -> Decoded<Dir> {
        let mut dir = Dir::default();
        for _ in 0..self.u32()? {
            dir.contributors.push(self.origin()?);
        }
        Ok(dir)
    }
}
