//! `--mount` of RUN, from what the Dockerfile says to what the step gets: defaults filled in, paths absolute.

use super::evaluate::clean;
use super::planner::Halt;
use crate::dockerfile::mount::{CacheSource, Mount, MountKind, MountOrigin, MountPermissions};
use crate::dockerfile::{ParseError, Span};
use crate::graph::{self, CacheMount, CopyFrom, Origin, Permissions, SecretMount, SshMount};

/// Where a secret is seen if nothing else is said.
const SECRETS: &str = "/run/secrets";
/// Where the sockets of SSH agents are seen if nothing else is said: with a number behind it.
const AGENTS: &str = "/run/buildkit/ssh_agent.";
/// The agent that is meant if none is named.
const DEFAULT_AGENT: &str = "default";

/// Plans one mount of a step in `workdir`, which has `agents` sockets of SSH agents so far. `from` finds what `from=`
/// names; `None` is the build context.
pub(super) fn plan(
    mount: Mount,
    workdir: &str,
    agents: usize,
    span: Span,
    from: &dyn Fn(Option<&String>) -> Result<CopyFrom, Halt>,
) -> Result<graph::Mount, Halt> {
    let origin = |origin: &MountOrigin| -> Result<Origin, Halt> {
        Ok(Origin {
            from: from(origin.from.as_ref())?,
            source: origin.source.clone(),
        })
    };
    let given = mount.target.is_some();
    let target = absolute(mount.target.as_deref().unwrap_or_default(), workdir);
    let (target, kind) = match mount.kind {
        MountKind::Bind { origin: at, writable } => {
            let origin = origin(&at)?;
            (Some(target), graph::MountKind::Bind { origin, writable })
        }
        MountKind::Cache {
            id,
            source,
            sharing,
            permissions,
            writable,
        } => {
            let (seed, part) = match source {
                CacheSource::Seed(seed) => (Some(origin(&seed)?), String::new()),
                CacheSource::Part(part) => (None, clean(&format!("/{part}"))),
            };
            let part = part.trim_start_matches('/').to_owned();
            let permissions = match part.as_str() {
                "" => permissions,
                // As in BuildKit: they are those of the cache's root, which is another one with other permissions.
                _ => MountPermissions::default(),
            };
            let kind = graph::MountKind::Cache(CacheMount {
                id: id.unwrap_or_else(|| target.clone()),
                seed,
                part,
                sharing,
                permissions: owned(permissions, 0o755),
                writable,
            });
            (Some(target), kind)
        }
        MountKind::Tmpfs { size, writable } => (Some(target), graph::MountKind::Tmpfs { size, writable }),
        MountKind::Secret {
            id,
            env,
            required,
            permissions,
        } => {
            let target = match (given, &env) {
                (true, _) => Some(target),
                (false, Some(_)) => None,
                (false, None) => {
                    let name = id.rsplit('/').find(|name| !name.is_empty());
                    Some(clean(&format!("{SECRETS}/{}", name.unwrap_or_default())))
                }
            };
            let kind = graph::MountKind::Secret(SecretMount {
                id,
                env,
                required,
                permissions: owned(permissions, 0o400),
            });
            (target, kind)
        }
        MountKind::Ssh {
            id,
            required,
            permissions,
        } => {
            let target = if given {
                target
            } else {
                format!("{AGENTS}{agents}")
            };
            let kind = graph::MountKind::Ssh(SshMount {
                id: id.unwrap_or_else(|| DEFAULT_AGENT.to_owned()),
                required,
                permissions: owned(permissions, 0o600),
            });
            (Some(target), kind)
        }
    };
    match (target.as_deref(), given) {
        (Some("/"), false) => Err(ParseError::new(span, "--mount: the target is missing")
            .with_hint("add target=PATH: where the step is to see it")
            .into()),
        (Some("/"), true) => Err(ParseError::new(span, "--mount: invalid target \"/\"")
            .with_hint("a mount can't replace the root")
            .into()),
        _ => Ok(graph::Mount { target, kind }),
    }
}

fn absolute(path: &str, workdir: &str) -> String {
    match path.starts_with('/') {
        true => clean(path),
        false => clean(&format!("{workdir}/{path}")),
    }
}

fn owned(permissions: MountPermissions, mode: u32) -> Permissions {
    Permissions {
        uid: permissions.uid.unwrap_or(0),
        gid: permissions.gid.unwrap_or(0),
        mode: permissions.mode.unwrap_or(mode),
    }
}
