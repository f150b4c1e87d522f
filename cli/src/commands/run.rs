//! `mica run`: a command in an image, in the foreground.

use std::fs::File;
use std::io::{self, PipeReader, Read as _, Write as _};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use mica_builder::graph::Network;
use mica_builder::image::Image;
use mica_builder::op::identity::Accounts;
use mica_builder::op::run::{self, credentials, environment, working_directory};
use mica_builder::pull::JOBS;
use mica_builder::rootfs::Rootfs;
use mica_builder::sandbox::{Limits, Resources, Spec, Stdin, Stdio, Supervised, check_groups, terminal};
use mica_builder::solver::Stop;
use mica_fs::store::Store;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::commands::build::{enter_sandbox, with_hint};
use crate::commands::pull::Puller;
use crate::config::Context;
use crate::diagnostic::usage_error;
use crate::limits::{LimitArgs, unlimited};
use crate::progress::transfer::{Shown, Transfers};
use crate::registries::{Options, PullWhen};
use crate::volume::Volume;

/// Run a command in an image
///
/// The command sees the image's root filesystem, and may change it: the changes are thrown away when it ends.
/// Its exit status becomes mica's; 125 means that mica failed, 126 that the command cannot be executed, 127 that
/// it was not found.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    mica run --rm -it debian bash\n  \
    mica run -e DEBUG=1 -v \"$PWD\":/src -w /src builder make\n  \
    mica run --entrypoint cat app /etc/os-release")]
pub struct Args {
    /// Keep stdin open
    #[arg(long, short)]
    interactive: bool,

    /// Give the command a terminal
    #[arg(long, short)]
    tty: bool,

    /// Throw the changes away at the end (always so; accepted for habit's sake)
    #[arg(long)]
    rm: bool,

    /// Set a variable; without =VALUE it is taken from the environment
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,

    /// Show a directory or file of the host; with `:ro` at the end it cannot be changed
    #[arg(long, short, value_name = "HOST:PATH[:ro]")]
    volume: Vec<String>,

    /// The working directory
    #[arg(long, short, value_name = "DIR")]
    workdir: Option<String>,

    /// Whom to run as: USER or USER:GROUP, names of the image or numbers
    #[arg(long, short, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// The program to run in place of the image's entrypoint; empty for none
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,

    /// The host name
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,

    /// When to pull the image
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pull: PullWhen,

    #[command(flatten)]
    registry: Options,

    /// What the command can reach
    #[arg(long, value_name = "MODE", default_value = "host")]
    network: NetworkMode,

    #[command(flatten)]
    limits: LimitArgs,

    /// The image, and the command with its arguments [default: the image's own command]
    // One list, so that what follows the image is the command's own, options and all.
    #[arg(
        required = true,
        trailing_var_arg = true,
        value_name = "IMAGE [COMMAND [ARG]...]"
    )]
    words: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum NetworkMode {
    /// The host's network
    Host,
    /// No network
    None,
    /// The world, by pasta, and nothing of the host's loopback interface
    Pasta,
}

impl Args {
    fn image(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    fn command(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }
}

/// The image, pulled if need be. Until its command runs, a signal ends mica as any program.
fn image(args: &Args, store: &Store) -> anyhow::Result<Image> {
    let client = args.registry.client(&Arc::new(Stop::default()))?;
    let puller = Puller {
        store,
        client: &client,
        platform: None,
        jobs: JOBS,
        transfers: Transfers::start(Shown::Bars),
    };
    puller.image(args.image(), args.pull.into())
}

/// Runs the command.
pub fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let volumes = args
        .volume
        .iter()
        .map(|text| Volume::parse(text))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut limits = Limits {
        resources: args.limits.resources()?,
        no_new_privileges: args.limits.no_new_privileges()?,
        ..Limits::default()
    };
    enter_sandbox(context)?;
    if let Err(error) = check_groups(None, &limits.resources) {
        limits.resources = Resources::default();
        tracing::warn!("{}", unlimited(&error));
    }
    let store = &*context.store()?;
    let image = image(&args, store)?;
    let command = command(&args, &image)?;
    let network = run::sandbox_network(match args.network {
        NetworkMode::Host => Network::Host,
        NetworkMode::None => Network::None,
        NetworkMode::Pasta => Network::Pasta,
    });
    let hostname = args.hostname.clone().unwrap_or_else(|| image.id().short());
    let mut virtuals = run::virtuals(network, &hostname, &[]);
    virtuals.extend(volumes.iter().filter_map(Volume::mount_point));
    let mut rootfs = Rootfs::prepare(store, image.layers(), virtuals)?;

    run::make_mount_points(&rootfs)?;
    let settings = &image.config.config;
    let user = args.user.as_ref().unwrap_or(&settings.user);
    let identity = Accounts::of(rootfs.overlay()).identity(user)?;
    let workdir = match (&args.workdir, settings.working_dir.as_str()) {
        (Some(dir), _) => dir,
        (None, "") => "/",
        (None, dir) => dir,
    };
    let cwd = working_directory(&rootfs, workdir)?;
    let mut spec = Spec::new(rootfs.mount()?, &command);
    spec.supervised = Supervised::of(rootfs.tree());
    let env = environment(variables(&args, &image), &identity);
    spec.env = env
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    spec.cwd = cwd;
    spec.user = credentials(&identity);
    spec.hostname = hostname;
    spec.network = network;
    spec.limits = limits;
    spec.mounts = volumes.into_iter().map(Volume::into_mount).collect();
    let exit = execute(&spec, &args)?;
    rootfs.unmount()?;
    Ok(u8::try_from(exit).unwrap_or(1).into())
}

/// Runs it in the foreground; returns the exit status as a shell reports it.
fn execute(spec: &Spec, args: &Args) -> anyhow::Result<i32> {
    let stdio = match (args.tty, args.interactive) {
        (true, _) => Stdio::Terminal(terminal::Size::of(io::stdin()).unwrap_or_default()),
        (false, true) => Stdio::Piped(Stdin::Inherit),
        (false, false) => Stdio::Piped(Stdin::Null),
    };
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2]).context("cannot catch signals")?;
    let handle = signals.handle();
    let mut running = spec.spawn(stdio).map_err(|e| with_hint(e.remedy(), e))?;
    let signaller = running.signaller()?;
    let forward = std::thread::spawn(move || signals.forever().for_each(|signal| signaller.signal(signal)));
    if let Some(master) = running.take_terminal() {
        let stdin = io::stdin();
        let input = args.interactive.then(|| stdin.as_fd());
        terminal::relay(master, input, &mut io::stdout()).context("cannot relay the terminal")?;
    }
    if let Some((stdout, stderr)) = running.take_output() {
        let errors = std::thread::spawn(move || pass_on(stderr, io::stderr()));
        pass_on(stdout, io::stdout()).context("cannot write to stdout")?;
        // It does not panic.
        errors
            .join()
            .unwrap_or(Ok(()))
            .context("cannot write to stderr")?;
    }
    let exit = running.wait().map_err(|e| with_hint(e.remedy(), e));
    handle.close();
    // The thread has nothing that could be lost.
    let _ = forward.join();
    Ok(exit?.status())
}

/// Passes what the command writes on as it comes. Where nobody takes it any more, the command finds its pipe closed.
fn pass_on(mut pipe: PipeReader, to: impl AsFd) -> io::Result<()> {
    // Not by way of std's buffer, which keeps what is no whole line yet.
    let mut to = File::from(to.as_fd().try_clone_to_owned()?);
    // Nor by io::copy, which splices: the offset of a file that stdout and stderr share is then nobody's.
    let mut buffer = vec![0; 1 << 16];
    loop {
        let passed = match pipe.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => return Err(error),
        };
        match passed {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            result => result?,
        }
    }
}

/// The program and its arguments: entrypoint and command, as Docker joins them.
fn command(args: &Args, image: &Image) -> anyhow::Result<Vec<String>> {
    let settings = &image.config.config;
    let (mut words, default) = match args.entrypoint.as_deref() {
        None => (
            settings.entrypoint.clone().unwrap_or_default(),
            settings.cmd.clone(),
        ),
        Some("") => (Vec::new(), None),
        Some(program) => (vec![program.to_owned()], None),
    };
    match args.command() {
        [] => words.extend(default.unwrap_or_default()),
        given => words.extend(given.iter().cloned()),
    }
    if words.is_empty() {
        return Err(usage_error(format!(
            "{} says no command to run: give one",
            args.image()
        )));
    }
    Ok(words)
}

/// The image's environment, then the command line's.
fn variables(args: &Args, image: &Image) -> Vec<(String, String)> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => Some((text.clone(), std::env::var(text).ok()?)),
    };
    let terminal = args.tty.then(|| ("TERM".to_owned(), "xterm".to_owned()));
    let image = image.config.config.env.iter().filter_map(pair);
    terminal
        .into_iter()
        .chain(image)
        .chain(args.env.iter().filter_map(pair))
        .collect()
}
