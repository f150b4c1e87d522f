//! One stage, instruction by instruction: the state that instructions read and change, and the steps they give.

use super::arguments::{description, proxies};
use super::planner::{Halt, Planner};
use super::scope::{Named, Scope};
use super::{Entitlement, expand, history, mounts, sources};
use crate::dockerfile::mount::Mount;
use crate::dockerfile::{
    self, Add, Arg, Assignment, Chmod, Command, Copy, CopyOptions, Expanded, Files, Instruction,
    InstructionKind, ParseError, RunCommand, RunFlag, RunFlagName, Span, Word,
};
use crate::graph::{self, CopyFrom, CopySource, Network, Op, Script, Security, Stage, StageId, Step};
use crate::image::Healthcheck;
use crate::lint::{self, Site, stage::Memory};

/// The build argument that is the host name of every RUN.
const HOSTNAME_ARGUMENT: &str = "BUILDKIT_SANDBOX_HOSTNAME";

/// The build argument that keeps the caches of `--mount=type=cache` apart from those of other builds.
const CACHES_ARGUMENT: &str = "BUILDKIT_CACHE_MOUNT_NS";

/// A stage, planned, and what stages on top of it go on with.
pub(crate) struct Evaluated {
    pub(crate) stage: Stage,
    pub(super) scope: Scope,
    pub(super) memory: Memory,
    /// What its ARGs declare, in order.
    pub(crate) arguments: Vec<Argument>,
}

/// What an ARG of a stage declares.
#[derive(Clone, Debug)]
pub(crate) struct Argument {
    pub(crate) name: String,
    /// Its value; `None` where it has none or that of the ARG before the first FROM.
    pub(crate) value: Option<String>,
    /// Whether it takes the value of the ARG before the first FROM.
    pub(crate) global: bool,
    pub(crate) span: Span,
    pub(crate) description: Option<String>,
}

pub(super) struct Evaluator<'a> {
    planner: &'a Planner<'a>,
    id: StageId,
    stage: Stage,
    /// The image's environment.
    env: Named<String>,
    scope: Scope,
    memory: Memory,
    arguments: Vec<Argument>,
    /// Whether this stage has its own CMD: ENTRYPOINT then keeps it.
    own_cmd: bool,
    /// The instruction at hand, for the linter; `None` for a trigger.
    site: Option<Site<'a>>,
}

type Planned<T> = Result<T, Halt>;

impl<'a> Evaluator<'a> {
    pub(super) fn new(
        planner: &'a Planner<'a>,
        id: StageId,
        mut stage: Stage,
        scope: Scope,
        memory: Memory,
    ) -> Self {
        stage.config.config.on_build.clear();
        let mut env = Named::default();
        for (name, value) in super::planner::variables(&stage.config) {
            env.set(&name, value);
        }
        Self {
            planner,
            id,
            stage,
            env,
            scope,
            memory,
            arguments: Vec::new(),
            own_cmd: false,
            site: None,
        }
    }

    pub(super) fn finish(mut self) -> Evaluated {
        let variables = self.env.entries().iter();
        self.stage.config.config.env = variables.map(|(k, v)| format!("{k}={v}")).collect();
        Evaluated {
            stage: self.stage,
            scope: self.scope,
            memory: self.memory,
            arguments: self.arguments,
        }
    }

    /// An ONBUILD of the base; `span` is where that is named.
    pub(super) fn trigger(&mut self, text: &str, span: Span) -> Planned<()> {
        let base = self.stage.text.trim_start_matches("FROM ").to_owned();
        let shown = |message: &str| ParseError::new(span, format!("ONBUILD {text} of {base}: {message}"));
        let instruction = dockerfile::parse_trigger(text.as_bytes()).map_err(|e| shown(&e.message))?;
        let first = self.stage.steps.len();
        self.evaluate(&instruction).map_err(|halt| match halt {
            Halt::Error(e) => Halt::Error(ParseError {
                hint: e.hint.clone(),
                ..shown(&e.message)
            }),
            halt => halt,
        })?;
        // Its own place is in a file that is not at hand.
        self.stage.steps[first..]
            .iter_mut()
            .for_each(|step| step.span = span);
        Ok(())
    }

    pub(super) fn instruction(&mut self, instruction: &'a Instruction) -> Planned<()> {
        self.site = Some(self.planner.linter.at(&instruction.comments, instruction.span));
        self.lint(instruction);
        let first = self.arguments.len();
        self.evaluate(instruction)?;
        for argument in &mut self.arguments[first..] {
            argument.description = description(&instruction.comments, &argument.name);
        }
        self.site = None;
        Ok(())
    }

    /// What the linter asks of an instruction before it has an effect.
    fn lint(&mut self, instruction: &Instruction) {
        let Some(site) = self.site else { return };
        let (name, keyword) = (instruction.kind.name(), &instruction.keyword);
        match &instruction.kind {
            InstructionKind::Env(pairs) | InstructionKind::Label(pairs) => {
                lint::stage::check_legacy(site, name, pairs);
            }
            InstructionKind::Cmd(command) | InstructionKind::Entrypoint(command) => {
                self.memory.once(site, keyword, name);
                let shell = self.stage.config.config.shell.as_ref();
                if matches!(command, Command::Shell(_)) && shell.is_none_or(Vec::is_empty) && !self.scope.open
                {
                    lint::stage::check_shell_form(site, keyword, name);
                }
            }
            InstructionKind::Healthcheck(_) => self.memory.once(site, keyword, name),
            _ => {}
        }
    }

    fn evaluate(&mut self, instruction: &Instruction) -> Planned<()> {
        let (op, history) = match &instruction.kind {
            InstructionKind::Run(run) => self.run(run)?,
            InstructionKind::Copy(copy) => self.copy(copy)?,
            InstructionKind::Add(add) => self.add(add)?,
            InstructionKind::Workdir(word) => self.workdir(word)?,
            kind => (Op::Configure, self.configure(kind, instruction.span)?),
        };
        self.stage.steps.push(Step {
            text: instruction.source.clone(),
            span: instruction.span,
            history,
            op,
        });
        Ok(())
    }

    fn expand(&self, word: &Word) -> Result<String, ParseError> {
        let expanded = expand(word, &self.scope, self.planner.dockerfile.escape())?;
        self.report_unset(word.span, &expanded);
        Ok(expanded.text)
    }

    /// Tells the linter of variables that are not set.
    fn report_unset(&self, span: Span, expanded: &Expanded) {
        let Some(site) = self.site.filter(|_| !self.scope.open) else {
            return;
        };
        let unset = expanded.unset.iter().filter(|name| !self.scope.is_declared(name));
        let known = self.scope.variables().iter().map(|(name, _)| name.as_str());
        lint::stage::check_unset(site, span, &unset.cloned().collect(), known);
    }

    fn configure(&mut self, kind: &InstructionKind, span: Span) -> Result<Option<String>, ParseError> {
        let text = match kind {
            InstructionKind::Env(pairs) => self.env(pairs)?,
            InstructionKind::Arg(args) => self.arg(args, span)?,
            InstructionKind::Label(pairs) => self.label(pairs)?,
            InstructionKind::User(word) => {
                let user = self.expand(word)?;
                let text = format!("USER {user}");
                self.stage.config.config.user = user;
                text
            }
            InstructionKind::Expose(words) => self.expose(words)?,
            InstructionKind::Volume(words) => self.volume(words)?,
            InstructionKind::Cmd(command) => self.cmd(command),
            InstructionKind::Entrypoint(command) => self.entrypoint(command),
            InstructionKind::StopSignal(word) => {
                let signal = self.expand(word)?;
                dockerfile::parse_stop_signal(&signal)
                    .map_err(|e| ParseError::new(word.span, e.to_string()))?;
                let text = format!("STOPSIGNAL {signal}");
                self.stage.config.config.stop_signal = Some(signal);
                text
            }
            InstructionKind::Healthcheck(check) => self.healthcheck(check),
            InstructionKind::Shell(shell) => {
                self.stage.config.config.shell = Some(shell.clone());
                format!("SHELL {}", history::plain_list(shell))
            }
            InstructionKind::Maintainer(word) => {
                self.stage.config.author = Some(word.text.clone());
                format!("MAINTAINER {}", word.text)
            }
            InstructionKind::Onbuild(onbuild) => {
                self.stage.config.config.on_build.push(onbuild.trigger.clone());
                return Ok(None);
            }
            // These four make layers: see `instruction`.
            InstructionKind::Run(_)
            | InstructionKind::Copy(_)
            | InstructionKind::Add(_)
            | InstructionKind::Workdir(_) => return Ok(None),
        };
        Ok(Some(text))
    }

    /// All words of one ENV see the values from before it.
    fn env(&mut self, pairs: &[Assignment]) -> Result<String, ParseError> {
        let expanded = self.pairs(pairs)?;
        for ((name, value), pair) in expanded.iter().zip(pairs) {
            if let Some(site) = self.site {
                lint::stage::check_secret(site, "ENV", name, pair.name.span);
            }
            self.env.set(name, value.clone());
            self.scope.set(name, value.clone());
        }
        Ok(history::pairs("ENV", &expanded))
    }

    fn label(&mut self, pairs: &[Assignment]) -> Result<String, ParseError> {
        let pairs = self.pairs(pairs)?;
        self.stage.config.config.labels.extend(pairs.iter().cloned());
        Ok(history::pairs("LABEL", &pairs))
    }

    fn pairs(&self, pairs: &[Assignment]) -> Result<Vec<(String, String)>, ParseError> {
        let pair = |pair: &Assignment| Ok((self.expand(&pair.name)?, self.expand(&pair.value)?));
        pairs.iter().map(pair).collect()
    }

    /// Unlike with ENV, each argument sees those before it in the same instruction. Names are not expanded, nor is a
    /// default that does not count.
    fn arg(&mut self, args: &[Arg], span: Span) -> Result<String, ParseError> {
        let mut shown = Vec::new();
        for arg in args {
            let name = &arg.name.text;
            if let Some(site) = self.site {
                lint::stage::check_secret(site, "ARG", name, arg.name.span);
            }
            let own = match (self.planner.request.build_args.get(name), &arg.default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.expand(default)?),
                (None, None) => None,
            };
            let global = self.planner.arguments.values.get(name).filter(|_| own.is_none());
            let value = own.clone().or_else(|| global.cloned());
            shown.push(match &value {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            });
            self.arguments.push(Argument {
                name: name.clone(),
                value: own,
                global: global.is_some(),
                span,
                description: None,
            });
            self.scope.declare(name, value);
        }
        Ok(format!("ARG {}", shown.join(" ")))
    }

    fn expose(&mut self, words: &[Word]) -> Result<String, ParseError> {
        let mut ports = Vec::new();
        for word in words {
            let escape = self.planner.dockerfile.escape();
            let texts = dockerfile::expand_words(&word.text, escape, &self.scope)
                .map_err(|e| ParseError::new(word.span, e.to_string()))?;
            for text in texts {
                if let Some(site) = self.site {
                    lint::stage::check_port(site, word.span, &text);
                }
                let parsed =
                    dockerfile::parse_expose(&text).map_err(|e| ParseError::new(word.span, e.to_string()))?;
                ports.extend(parsed.iter().map(ToString::to_string));
            }
        }
        self.stage
            .config
            .config
            .exposed_ports
            .extend(ports.iter().cloned());
        Ok(format!("EXPOSE {}", history::plain_list(ports)))
    }

    fn volume(&mut self, words: &[Word]) -> Result<String, ParseError> {
        let mut volumes = Vec::new();
        for word in words {
            let volume = self.expand(word)?;
            if volume.is_empty() {
                return Err(ParseError::new(
                    word.span,
                    "VOLUME specified can not be an empty string",
                ));
            }
            volumes.push(volume);
        }
        self.stage.config.config.volumes.extend(volumes.iter().cloned());
        Ok(format!("VOLUME {}", history::plain_list(volumes)))
    }

    fn cmd(&mut self, command: &Command) -> String {
        let words = self.command(command);
        self.own_cmd = true;
        let text = format!("CMD {}", history::quoted_list(&words));
        self.stage.config.config.cmd = Some(words);
        self.stage.config.config.args_escaped = true;
        text
    }

    fn entrypoint(&mut self, command: &Command) -> String {
        let words = self.command(command);
        if !self.own_cmd {
            self.stage.config.config.cmd = None;
        }
        let text = format!("ENTRYPOINT {}", history::quoted_list(&words));
        self.stage.config.config.entrypoint = Some(words);
        text
    }

    fn command(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(line) => self.in_shell(line.text.clone()),
        }
    }

    fn shell(&self) -> Vec<String> {
        let default = || vec!["/bin/sh".to_owned(), "-c".to_owned()];
        self.stage.config.config.shell.clone().unwrap_or_else(default)
    }

    fn in_shell(&self, line: String) -> Vec<String> {
        let mut words = self.shell();
        words.push(line);
        words
    }

    fn healthcheck(&mut self, check: &dockerfile::Healthcheck) -> String {
        let check = match check {
            dockerfile::Healthcheck::None => Healthcheck {
                test: vec!["NONE".to_owned()],
                ..Healthcheck::default()
            },
            dockerfile::Healthcheck::Cmd { command, timing } => {
                let test = match command {
                    Command::Exec(words) => std::iter::once("CMD".to_owned()).chain(words.clone()).collect(),
                    Command::Shell(line) => vec!["CMD-SHELL".to_owned(), line.text.clone()],
                };
                let nanoseconds = |d: Option<std::time::Duration>| {
                    d.map(|d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
                        .filter(|&n| n != 0)
                };
                Healthcheck {
                    test,
                    interval: nanoseconds(timing.interval),
                    timeout: nanoseconds(timing.timeout),
                    start_period: nanoseconds(timing.start_period),
                    start_interval: nanoseconds(timing.start_interval),
                    retries: Some(i64::from(timing.retries)).filter(|&n| n != 0),
                }
            }
        };
        let text = history::healthcheck(&check);
        self.stage.config.config.healthcheck = Some(check);
        text
    }

    fn workdir(&mut self, word: &Word) -> Planned<(Op, Option<String>)> {
        let path = self.expand(word)?;
        match self.site {
            Some(site) => self.memory.workdir(site, word, &path),
            None => self.memory.workdir = true,
        }
        let path = match path.starts_with('/') {
            true => path,
            false => clean(&format!("{}/{path}", self.workdir_text())),
        };
        let history = Some(format!("WORKDIR {path}"));
        self.stage.config.config.working_dir = path.clone();
        let op = match clean(&path).as_str() {
            "/" => Op::Configure,
            _ => Op::WorkingDirectory {
                path,
                user: self.stage.config.config.user.clone(),
            },
        };
        Ok((op, history))
    }

    fn workdir_text(&self) -> &str {
        match self.stage.config.config.working_dir.as_str() {
            "" => "/",
            path => path,
        }
    }

    fn run(&mut self, run: &dockerfile::Run) -> Planned<(Op, Option<String>)> {
        let flags = self.run_flags(&run.flags)?;
        let shell = self.shell();
        let mut script = None;
        let (shell, command) = match &run.command {
            RunCommand::Exec(words) => (Vec::new(), words.clone()),
            RunCommand::Script(heredoc) if heredoc.content().starts_with("#!") => {
                let path = format!("/dev/{}/{}", graph::SCRIPTS, heredoc.name);
                script = Some(Script {
                    name: heredoc.name.clone(),
                    text: heredoc.content().into_owned(),
                });
                (shell, vec![path])
            }
            command => (shell, vec![command.shell_text().unwrap_or_default()]),
        };
        let history = history::run(&self.scope.arguments(), &shell, &command);
        let op = Op::Run(Box::new(graph::Run {
            args: shell.into_iter().chain(command).collect(),
            script,
            network: flags.network,
            mounts: [self.planner.request.volumes.clone(), flags.mounts].concat(),
            security: flags.security,
            ..self.surroundings()
        }));
        Ok((op, Some(history)))
    }

    /// What a RUN has here that has neither a command nor flags.
    fn surroundings(&self) -> graph::Run {
        let request = self.planner.request;
        graph::Run {
            args: Vec::new(),
            script: None,
            env: self.scope.variables().to_vec(),
            proxies: proxies(request),
            user: self.stage.config.config.user.clone(),
            workdir: self.workdir_text().to_owned(),
            network: request.network.unwrap_or(Network::Host),
            hosts: request.hosts.clone(),
            mounts: Vec::new(),
            hostname: request.build_args.get(HOSTNAME_ARGUMENT).cloned(),
            security: Security::Sandbox,
            limits: request.limits.clone(),
        }
    }

    fn run_flags(&self, flags: &[RunFlag]) -> Planned<RunFlags> {
        let mut read = RunFlags {
            network: self.planner.request.network.unwrap_or(Network::Host),
            mounts: Vec::new(),
            security: Security::Sandbox,
        };
        for flag in flags {
            if flag.name == RunFlagName::Mount {
                let is_agent = |mount: &&graph::Mount| matches!(mount.kind, graph::MountKind::Ssh(_));
                let agents = read.mounts.iter().filter(is_agent).count();
                read.mounts.push(self.mount(&flag.value, agents)?);
                continue;
            }
            let value = self.expand(&flag.value)?;
            let unsupported = |what: &str, hint: &str| {
                let error = ParseError::new(flag.value.span, format!("{what} is not supported"));
                Err(Halt::Error(error.with_hint(hint)))
            };
            match (flag.name, value.as_str()) {
                (RunFlagName::Network, "none") => read.network = Network::None,
                (RunFlagName::Network, "host") => read.network = Network::Host,
                (RunFlagName::Network, "default" | "") => {}
                (RunFlagName::Network, other) => {
                    let message = format!("unsupported network mode {other:?}");
                    let error = ParseError::new(flag.value.span, message);
                    return Err(error.with_hint("the modes are default, host and none").into());
                }
                (RunFlagName::Security, "sandbox" | "") => {}
                (RunFlagName::Security, "insecure") => {
                    if !self.planner.request.allow.contains(&Entitlement::Insecure) {
                        let message = "RUN --security=insecure is not allowed";
                        let error = ParseError::new(flag.value.span, message);
                        let hint = "if you trust the Dockerfile, build with --allow security.insecure";
                        return Err(error.with_hint(hint).into());
                    }
                    read.security = Security::Insecure;
                }
                (RunFlagName::Security, other) => {
                    let message = format!("unsupported security mode {other:?}");
                    let error = ParseError::new(flag.value.span, message);
                    return Err(error.with_hint("the modes are sandbox and insecure").into());
                }
                (RunFlagName::Device, _) => {
                    return unsupported("RUN --device", "a step sees no device of the host");
                }
                (RunFlagName::Mount, _) => {}
            }
        }
        Ok(read)
    }

    /// A mount of a step that has `agents` sockets of SSH agents so far.
    fn mount(&self, word: &Word, agents: usize) -> Planned<graph::Mount> {
        let at = |text: &str| Word {
            text: text.to_owned(),
            span: word.span,
        };
        let mount = Mount::parse(word, &|value| self.expand(&at(value)))?;
        let from = |name: Option<&String>| match name {
            Some(name) => self.planner.copy_from(&at(name), self.id),
            None => Ok(CopyFrom::Context),
        };
        let namespace = self.planner.request.build_args.get(CACHES_ARGUMENT);
        let mut mount = mounts::plan(mount, self.workdir_text(), agents, word.span, &from)?;
        if let (graph::MountKind::Cache(cache), Some(namespace)) = (&mut mount.kind, namespace) {
            cache.id = format!("{namespace}/{}", cache.id);
        }
        Ok(mount)
    }

    fn copy(&mut self, copy: &Copy) -> Planned<(Op, Option<String>)> {
        let from = match &copy.from {
            Some(word) => self.planner.copy_from(word, self.id)?,
            None => CopyFrom::Context,
        };
        let (op, history) = self.files("COPY", &copy.files, &copy.options, from, false, None)?;
        let op = match op {
            Op::Copy(mut op) => {
                op.parents = copy.parents;
                Op::Copy(op)
            }
            op => op,
        };
        Ok((op, history))
    }

    fn add(&mut self, add: &Add) -> Planned<(Op, Option<String>)> {
        let checksum = self.flag(add.checksum.as_ref())?;
        let flags = sources::AddFlags {
            checksum: checksum.as_ref().map(|(text, span)| (text.as_str(), *span)),
            keep_git_dir: add.keep_git_dir,
            unpack: add.unpack,
        };
        let unpack = add.unpack.unwrap_or(true);
        self.files(
            "ADD",
            &add.files,
            &add.options,
            CopyFrom::Context,
            unpack,
            Some(&flags),
        )
    }

    fn files(
        &mut self,
        instruction: &'static str,
        files: &Files,
        options: &CopyOptions,
        from: CopyFrom,
        unpack: bool,
        flags: Option<&sources::AddFlags<'_>>,
    ) -> Planned<(Op, Option<String>)> {
        let mut sources = Vec::new();
        for word in &files.sources {
            let planned = sources::plan(self.expand(word)?, word.span, flags)?;
            if let (Some(site), CopyFrom::Context, CopySource::Path(path)) =
                (self.site, &from, &planned.source)
            {
                lint::stage::check_source(site, instruction, word, path);
            }
            sources.push(planned);
        }
        if let Some(flags) = flags {
            sources::check(&sources, flags)?;
        }
        let destination = self.expand(&files.destination)?;
        let chown = self.flag(options.chown.as_ref())?;
        let chmod = self.flag(options.chmod.as_ref())?;
        let mut words = vec![instruction.to_owned()];
        words.extend(chown.iter().map(|(text, _)| format!("--chown={text}")));
        words.extend(chmod.iter().map(|(text, _)| format!("--chmod={text}")));
        words.extend(sources.iter().map(|source| source.shown.clone()));
        words.extend(files.heredocs.iter().map(|heredoc| format!("<<{}", heredoc.name)));
        words.push(destination.clone());
        words.push("# buildkit".to_owned());
        let mut contents = Vec::new();
        for heredoc in &files.heredocs {
            let mut text = heredoc.content().into_owned();
            if heredoc.expand {
                let expanded = dockerfile::expand_heredoc(&text, &self.scope)
                    .map_err(|e| ParseError::new(heredoc.span, e.to_string()))?;
                self.report_unset(heredoc.span, &expanded);
                text = expanded.text;
            }
            contents.push((heredoc.name.clone(), text));
        }
        let chmod = match chmod {
            Some((text, span)) => {
                Some(Chmod::parse(&text).map_err(|e| ParseError::new(span, e.to_string()))?)
            }
            None => None,
        };
        let op = Op::Copy(Box::new(graph::Copy {
            instruction,
            from,
            sources: sources.into_iter().map(|source| source.source).collect(),
            files: contents,
            destination: match destination.starts_with('/') {
                true => destination,
                false => relative(self.workdir_text(), &destination),
            },
            chown: chown.map(|(text, _)| text),
            chmod,
            exclude: options.exclude.iter().map(|word| word.text.clone()).collect(),
            unpack,
            link: options.link,
            parents: false,
            surroundings: self.surroundings(),
        }));
        Ok((op, Some(words.join(" "))))
    }

    /// The text of a flag and its place; an empty one is as good as none.
    fn flag(&self, word: Option<&Word>) -> Result<Option<(String, Span)>, ParseError> {
        let Some(word) = word else { return Ok(None) };
        let text = self.expand(word)?;
        Ok((!text.is_empty()).then_some((text, word.span)))
    }
}

/// What the flags of a RUN say.
struct RunFlags {
    network: Network,
    mounts: Vec<graph::Mount>,
    security: Security,
}

/// A relative destination of COPY: without `.` and `..`, but with what it ends in, which says that it is a directory.
fn relative(workdir: &str, path: &str) -> String {
    let clean = clean(&format!("{workdir}/{path}"));
    let directory = path.is_empty() || path == "." || path.ends_with('/') || path.ends_with("/.");
    match directory && clean != "/" {
        true => clean + "/",
        false => clean,
    }
}

/// An absolute path without `.`, `..` and doubled `/`.
pub(super) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}
