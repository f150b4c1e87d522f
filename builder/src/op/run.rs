//! RUN: a command in a sandbox on a mounted root filesystem.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::thread;

use mica_fs::overlay::{Owner, Virtual, VirtualNode};
use mica_fs::path::ImagePath;
use serde_json::{Value, json};

use crate::event::Stream;
use crate::graph::{self, ExtraHost, Network, Security};
use crate::op::copy::{self, CopyError};
use crate::op::identity::{Identity, IdentityError};
use crate::op::mount::Ready;
use crate::rootfs::{Rootfs, RootfsError};
use crate::sandbox::{
    self, Capabilities, Credentials, DeviceFile, Exit, SandboxError, Signaller, Spec, Stdin, Stdio,
};

/// What OpenSSH finds its agent by.
const AGENT_VARIABLE: &str = "SSH_AUTH_SOCK";

/// Why a command could not be run, or its output not be read. A command that ran and failed is no error here.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The root filesystem.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The user.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The working directory cannot be made.
    #[error("cannot make the working directory")]
    Workdir(#[from] CopyError),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The command's output.
    #[error("cannot read the output of the command")]
    Output(#[source] std::io::Error),
}

/// What a RUN's result depends on besides its parent, `mounts` being [`super::mount::inputs`]. The order of the environment
/// does not count.
pub fn inputs(run: &graph::Run, mounts: Value) -> Value {
    let mut inputs = json!({
        "args": run.args,
        "script": run.script.as_ref().map(|script| (&script.name, &script.text)),
        "env": run.env.iter().cloned().collect::<BTreeMap<_, _>>(),
        "user": run.user,
        "workdir": run.workdir,
        "network": match run.network {
            // Two ways to the same world.
            Network::Host | Network::Pasta => "host",
            Network::None => "none",
        },
        "hostname": run.hostname,
        "hosts": run.hosts.iter().map(|host| (&host.name, host.address)).collect::<Vec<_>>(),
        "mounts": mounts,
        "security": match run.security {
            Security::Sandbox => "sandbox",
            Security::Insecure => "insecure",
        },
        // Its control group, and what that may use, do not change what it makes.
        "shm_size": run.limits.shm_size,
        "ulimits": run.limits.ulimits,
    });
    if run.limits.no_new_privileges {
        inputs["no_new_privileges"] = true.into();
    }
    inputs
}

/// What a command sees in its root filesystem that no layer gets: the files that tell it about its network, with more
/// names in /etc/hosts if there are any.
pub fn virtuals(network: sandbox::Network, hostname: &str, hosts: &[ExtraHost]) -> Vec<Virtual> {
    let mut files = sandbox::network_files(network, hostname);
    if let Some((_, content)) = files.iter_mut().find(|(path, _)| *path == "/etc/hosts") {
        for ExtraHost { name, address } in hosts {
            content.extend_from_slice(format!("{address}\t{name}\n").as_bytes());
        }
    }
    files
        .into_iter()
        .filter_map(|(path, content)| virtual_node(path, VirtualNode::File(content)))
        .collect()
}

/// Makes the directories that the sandbox mounts on where the image lacks them. They become part of the layer, as
/// in Docker.
///
/// # Errors
/// [`RunError::Workdir`] if something that is no directory is in the way.
pub fn make_mount_points(rootfs: &Rootfs<'_>) -> Result<(), RunError> {
    for path in sandbox::MOUNT_POINTS {
        copy::make_directory(rootfs.overlay(), path, Owner::default())?;
    }
    Ok(())
}

/// A node that exists for one session only.
pub fn virtual_node(path: &str, node: VirtualNode) -> Option<Virtual> {
    let path = ImagePath::clean(path.as_bytes()).ok()?;
    Some(Virtual { path, node })
}

/// The network of a RUN as the sandbox knows it.
pub fn sandbox_network(network: Network) -> sandbox::Network {
    match network {
        Network::Host => sandbox::Network::Host,
        Network::None => sandbox::Network::None,
        Network::Pasta => sandbox::Network::Pasta,
    }
}

/// The environment of a process: what the image and the command line say, with a search path and a home
/// directory where they say nothing. The later of two equal names counts.
pub fn environment(
    given: impl IntoIterator<Item = (String, String)>,
    identity: &Identity,
) -> BTreeMap<String, String> {
    let mut env: BTreeMap<_, _> = given.into_iter().collect();
    env.entry("PATH".to_owned())
        .or_insert_with(|| sandbox::DEFAULT_PATH.to_owned());
    env.entry("HOME".to_owned())
        .or_insert_with(|| identity.home.clone());
    env
}

/// How the command of a step runs, as `identity` with its `mounts`, on the root filesystem, which is mounted.
///
/// # Errors
/// [`RunError`] if the root filesystem cannot be mounted, or has no place for the working directory.
pub fn spec(
    run: &graph::Run,
    identity: &Identity,
    mounts: &Ready<'_>,
    rootfs: &mut Rootfs<'_>,
) -> Result<Spec, RunError> {
    let workdir = working_directory(rootfs, &run.workdir)?;
    let proxies = run.proxies.iter().map(|(k, v)| (k.clone(), v.clone()));
    let mut spec = Spec::new(rootfs.mount()?, &run.args);
    spec.supervised = sandbox::Supervised::of(rootfs.tree().into_iter().chain(mounts.trees()));
    spec.owners.clone_from(&mounts.owners);
    // Like BuildKit, a variable that the step has anyway stays.
    let agent = mounts
        .agent
        .iter()
        .map(|path| (AGENT_VARIABLE.to_owned(), path.display().to_string()));
    let given = proxies
        .chain(agent)
        .chain(run.env.iter().cloned())
        .chain(mounts.env.iter().cloned());
    spec.env = environment(given, identity)
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    spec.cwd = workdir;
    spec.user = credentials(identity);
    spec.network = sandbox_network(run.network);
    spec.limits = run.limits.clone();
    if let Some(hostname) = &run.hostname {
        spec.hostname.clone_from(hostname);
    }
    spec.capabilities = match run.security {
        Security::Sandbox => Capabilities::Default,
        Security::Insecure => Capabilities::All,
    };
    spec.mounts.clone_from(&mounts.mounts);
    if let Some(script) = &run.script {
        spec.device_files.push(DeviceFile {
            directory: graph::SCRIPTS.to_owned(),
            name: script.name.clone(),
            content: script.text.clone(),
        });
    }
    Ok(spec)
}

/// Runs the command of a step as `identity` with its `mounts`, and returns when none of its processes is left and all that they
/// wrote has reached the overlay. Output goes to `output` piece by piece; `started` gets the means to stop the command.
///
/// # Errors
/// [`RunError`] if it could not be run.
pub fn execute(
    run: &graph::Run,
    identity: &Identity,
    mounts: &Ready<'_>,
    rootfs: &mut Rootfs<'_>,
    started: &dyn Fn(Signaller),
    output: &(dyn Fn(Stream, &[u8]) + Sync),
) -> Result<Exit, RunError> {
    let spec = spec(run, identity, mounts, rootfs)?;
    let mut running = spec.spawn(Stdio::Piped(Stdin::Null))?;
    if let Ok(signaller) = running.signaller() {
        started(signaller);
    }
    let pipes = running.take_output();
    let read = thread::scope(|scope| match pipes {
        Some((stdout, stderr)) => {
            let errors = scope.spawn(move || forward(stderr, &|piece| output(Stream::Stderr, piece)));
            let result = forward(stdout, &|piece| output(Stream::Stdout, piece));
            result.and(errors.join().unwrap_or(Ok(())))
        }
        None => Ok(()),
    });
    let exit = running.wait()?;
    read.map_err(RunError::Output)?;
    rootfs.unmount()?;
    Ok(exit)
}

fn forward(mut pipe: impl Read, take: &dyn Fn(&[u8])) -> std::io::Result<()> {
    let mut buffer = [0; 8192];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => take(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// The sandbox's form of an identity.
pub fn credentials(identity: &Identity) -> Credentials {
    Credentials {
        uid: identity.uid,
        gid: identity.gid,
        groups: identity.groups.clone(),
    }
}

/// Makes sure that the working directory is there, as Docker does for one that only the configuration names.
///
/// # Errors
/// [`RunError::Workdir`] if something that is no directory is in the way.
pub fn working_directory(rootfs: &Rootfs<'_>, workdir: &str) -> Result<PathBuf, RunError> {
    let path = ImagePath::clean(workdir.as_bytes()).map_err(|source| CopyError::Path {
        path: workdir.to_owned(),
        source,
    })?;
    copy::make_directory(rootfs.overlay(), workdir, Owner::default())?;
    Ok(PathBuf::from("/").join(path.as_os_str()))
}
