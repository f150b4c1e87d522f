//! Image layers as a copy-on-write filesystem.
//!
//! An image is a stack of immutable [`layer`]s in a [`store`]. Each layer is kept as its uncompressed tar with an
//! index that is mapped into memory. An [`overlay`] is their union, with an upper that takes changes; [`mount`]
//! shows it to the kernel through FUSE; [`snapshot`] makes a new layer of what changed.
//!
//! A [`forest`] is several overlays in one mount.
//!
//! The overlay is a plain object: everything about merging, copy-up and whiteouts can be tested without a mount.
//! Nothing here knows of Dockerfiles, networks or terminals.

pub mod caller;
pub mod digest;
pub mod forest;
pub mod layer;
pub mod mount;
pub mod overlay;
pub mod path;
pub mod snapshot;
pub mod stamp;
pub mod store;

mod fuse;
mod sys;
