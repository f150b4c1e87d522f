//! The saved state of a named upper: its format is described in `docs/format.md`, "The saved state of a named upper".

use std::collections::{HashMap, HashSet};

use crate::digest::Digest;
use crate::layer::Xattrs;
use crate::layer::index::EntryId;
use crate::overlay::data::{Content as Bytes, FileData};
use crate::overlay::inode::{Body, Content, Dir, Node, Override};
use crate::overlay::lower::Origin;
use crate::overlay::tree::Tree;
use crate::overlay::{Arc, Device, Ino, Result, Timestamp};

/// The first bytes of a state; the last one is the version of the format.
const MAGIC: [u8; 8] = *b"micaupr\x01";
const HEADER: usize = 40;

const FILE_LOWER: u8 = 0;
const FILE_OWN: u8 = 1;
const DIRECTORY: u8 = 2;
const SYMLINK: u8 = 3;
const CHAR_DEVICE: u8 = 4;
const BLOCK_DEVICE: u8 = 5;
const FIFO: u8 = 6;
const SOCKET: u8 = 7;

const OVERRIDE_NODE: u8 = 0;
const OVERRIDE_WHITEOUT: u8 = 1;

const DATA_MEMORY: u8 = 0;
const DATA_FLAT: u8 = 1;

/// A state whose data is still to be added, which takes time and so happens outside of the lock.
pub(super) struct Encoded {
    out: Writer,
    data: Vec<(u64, Arc<FileData>)>,
}

impl Encoded {
    pub fn of(tree: &Tree) -> Self {
        let mut out = Writer::default();
        let mut data = Vec::new();
        out.u32(tree.lower.layers().len() as u32);
        for layer in tree.lower.layers() {
            out.0.extend_from_slice(layer.diff_id().0.as_bytes());
        }
        out.u64(tree.next);
        let mut nodes: Vec<_> = tree
            .nodes
            .iter()
            .filter(|(_, node)| node.pinned && node.links > 0)
            .collect();
        nodes.sort_unstable_by_key(|(ino, _)| **ino);
        out.u64(nodes.len() as u64);
        for (ino, node) in nodes {
            out.u64(*ino);
            out.node(node);
            if let Body::File(Content::Own(own)) = &node.body {
                data.push((*ino, Arc::clone(own)));
            }
        }
        Self { out, data }
    }

    /// Makes the data durable and adds what of it lies in memory.
    pub fn finish(self) -> Result<Vec<u8>> {
        let Self { mut out, data } = self;
        out.u64(data.len() as u64);
        for (ino, data) in data {
            out.u64(ino);
            data.own()?;
            data.sync()?;
            match data.in_memory() {
                Some(bytes) => {
                    out.0.push(DATA_MEMORY);
                    out.bytes(&bytes);
                }
                None => out.0.push(DATA_FLAT),
            }
        }
        let mut file = Vec::with_capacity(HEADER + out.0.len());
        file.extend_from_slice(&MAGIC);
        file.extend_from_slice(Digest::of(&out.0).as_bytes());
        file.extend_from_slice(&out.0);
        Ok(file)
    }
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
            for (name, value) in xattrs {
                self.bytes(name);
                self.bytes(value);
            }
        }
        match &node.body {
            Body::File(Content::Lower) => self.0.push(FILE_LOWER),
            Body::File(Content::Own(_)) => self.0.push(FILE_OWN),
            Body::Directory(dir) => {
                self.0.push(DIRECTORY);
                self.dir(dir);
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

    fn dir(&mut self, dir: &Dir) {
        self.u32(dir.contributors.len() as u32);
        for origin in &dir.contributors {
            self.origin(*origin);
        }
        self.u64(dir.overrides.len() as u64);
        for (name, what) in &dir.overrides {
            self.bytes(name);
            match what {
                Override::Node(ino) => {
                    self.0.push(OVERRIDE_NODE);
                    self.u64(*ino);
                }
                Override::Whiteout => self.0.push(OVERRIDE_WHITEOUT),
            }
        }
    }
}

type Decoded<T> = std::result::Result<T, &'static str>;

const CUT_SHORT: &str = "its state is cut short";
const BROKEN: &str = "its state contradicts itself";

/// Puts a saved state into the tree of a session that has just begun.
pub(super) fn decode(file: &[u8], tree: &mut Tree) -> Decoded<()> {
    let (header, body) = file.split_at_checked(HEADER).ok_or(CUT_SHORT)?;
    if header[..8] != MAGIC {
        return Err("its state is of another version");
    }
    if header[8..] != *Digest::of(body).as_bytes() {
        return Err("its state is damaged");
    }
    let mut input = Reader(body);
    let layers = input.u32()? as usize;
    if layers != tree.lower.layers().len() {
        return Err("it belongs to another image");
    }
    for layer in tree.lower.layers() {
        if input.take(32)? != layer.diff_id().0.as_bytes() {
            return Err("it belongs to another image");
        }
    }
    let next = input.u64()?;
    let count = input.u64()?;
    let mut nodes = HashMap::new();
    let mut own = HashSet::new();
    for _ in 0..count {
        let ino = input.u64()?;
        let (node, has_data) = input.node()?;
        if has_data {
            own.insert(ino);
        }
        nodes.insert(ino, node);
    }
    let files = tree.files().map_err(|_| BROKEN)?;
    for _ in 0..input.u64()? {
        let ino = input.u64()?;
        let data = match input.u8()? {
            DATA_MEMORY => {
                let data = FileData::new(ino, Arc::clone(&files), Bytes::Memory(Vec::new()), 0);
                data.write(0, input.bytes()?)
                    .map_err(|_| "its data cannot be restored")?;
                data
            }
            DATA_FLAT => {
                let size = files
                    .open(ino)
                    .and_then(|file| file.metadata())
                    .map_err(|_| "a file that its state names is missing")?
                    .len();
                FileData::new(ino, Arc::clone(&files), Bytes::Flat, size)
            }
            _ => return Err(BROKEN),
        };
        let node: &mut Node = nodes.get_mut(&ino).ok_or(BROKEN)?;
        node.body = Body::File(Content::Own(Arc::new(data)));
        own.remove(&ino);
    }
    if !own.is_empty() || !input.0.is_empty() {
        return Err(BROKEN);
    }
    link_up(&mut nodes)?;
    tree.next = next.max(tree.lower.end());
    tree.nodes = nodes;
    Ok(())
}

/// Counts what follows from the nodes, and checks that all that is named is there.
fn link_up(nodes: &mut HashMap<u64, Node>) -> Decoded<()> {
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

    /// A node, and whether its data follows later.
    fn node(&mut self) -> Decoded<(Node, bool)> {
        let origin = self.flag()?.then(|| self.origin()).transpose()?;
        let home = match self.flag()? {
            true => Some((self.u64()?, Box::from(self.bytes()?))),
            false => None,
        };
        let [links, mode, uid, gid] = [self.u32()?, self.u32()?, self.u32()?, self.u32()?];
        let [atime, mtime, ctime, btime] = [self.time()?, self.time()?, self.time()?, self.time()?];
        let dated = self.flag()?;
        let xattrs = self.flag()?.then(|| self.xattrs()).transpose()?;
        let tag = self.u8()?;
        let body = match tag {
            // The data of a changed file follows: until then it stands as the lower one.
            FILE_LOWER | FILE_OWN => Body::File(Content::Lower),
            DIRECTORY => Body::Directory(Box::new(self.dir()?)),
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

    fn dir(&mut self) -> Decoded<Dir> {
        let mut dir = Dir::default();
        for _ in 0..self.u32()? {
            dir.contributors.push(self.origin()?);
        }
        for _ in 0..self.u64()? {
            let name = Box::from(self.bytes()?);
            let what = match self.u8()? {
                OVERRIDE_NODE => Override::Node(self.u64()?),
                OVERRIDE_WHITEOUT => Override::Whiteout,
                _ => return Err(BROKEN),
            };
            dir.overrides.insert(name, what);
        }
        Ok(dir)
    }
}
