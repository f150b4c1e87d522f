//! `--volume`: a file or directory of this machine that a command sees.

use std::path::PathBuf;

use anyhow::Context as _;
use mica_builder::op::run::virtual_node;
use mica_builder::sandbox::{Access, Mount, MountKind};
use mica_fs::overlay::VirtualNode;

use crate::diagnostic::usage_error;

/// One `-v`.
#[derive(Debug)]
pub struct Volume {
    /// The file or directory of this machine, absolute and without symbolic links.
    pub source: PathBuf,
    /// Where it is seen, absolute.
    pub target: String,
    /// Whether it can be changed there.
    pub access: Access,
}

impl Volume {
    /// Reads `HOST:PATH[:ro]`.
    ///
    /// # Errors
    /// If it is not of the form, or there is no such file.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let parts: Vec<_> = text.split(':').collect();
        let (source, target, access) = match parts.as_slice() {
            [source, target] | [source, target, "rw"] => (source, target, Access::ReadWrite),
            [source, target, "ro"] => (source, target, Access::ReadOnly),
            _ => {
                return Err(usage_error(format!(
                    "--volume {text}: the form is HOST:PATH[:ro]"
                )));
            }
        };
        if !target.starts_with('/') {
            return Err(usage_error(format!(
                "--volume {text}: the path inside must be absolute"
            )));
        }
        let source =
            std::fs::canonicalize(source).with_context(|| format!("--volume {text}: cannot use {source}"))?;
        Ok(Self {
            source,
            target: (*target).to_owned(),
            access,
        })
    }

    /// What there must be in the image for it to be mounted on.
    pub fn mount_point(&self) -> Option<mica_fs::overlay::Virtual> {
        let node = match self.source.is_dir() {
            true => VirtualNode::Directory,
            false => VirtualNode::File(Vec::new()),
        };
        virtual_node(&self.target, node)
    }

    /// The mount.
    pub fn into_mount(self) -> Mount {
        Mount {
            kind: MountKind::Bind {
                part: PathBuf::new(),
                source: self.source,
                access: self.access,
            },
            target: self.target.into(),
        }
    }
}
