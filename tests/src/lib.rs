//! The harness of the end-to-end tests: the real binary, on real mounts, in a store of the test's own.
//!
//! A test asks for a [`Scene`]: a temporary directory with a store, as root or as an unprivileged user with
//! subordinate ids, and commands that run there. What a machine must be set up with for that (another
//! `/dev/fuse`, a user in `/etc/passwd`, a full disk) is mounted in a mount namespace of the test's own
//! ([`namespace`]), so the machine stays as it was, whatever happens to the test.
//!
//! A test that this machine cannot run says so ([`machine::skip`]); under `CI=true` it fails instead.

pub mod archive;
pub mod base;
pub mod binary;
pub mod changes;
pub mod child;
pub mod command;
pub mod image;
pub mod leftovers;
pub mod machine;
pub mod namespace;
pub mod proxy;
pub mod registries;
pub mod registry;
pub mod repository;
pub mod scene;
pub mod server;
pub mod stargz;
pub mod way;

pub use command::{Outcome, Run, Running};
pub use image::Image;
pub use proxy::Proxy;
pub use registry::Registry;
pub use repository::Repository;
pub use scene::Scene;
pub use server::Server;
pub use way::Way;
