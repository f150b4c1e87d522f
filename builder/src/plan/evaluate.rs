//! One stage, instruction by instruction: the state that instructions read and change, and the steps they give.

use std::collections::BTreeMap;

use super::{Entitlement, Planner, expand_with, history, mounts};
use crate::dockerfile::mount::Mount;
use crate::dockerfile::{
    self, Add, Arg, Assignment, Chmod, Command, Copy, CopyOptions, Files, Instruction, InstructionKind,
    ParseError, RunCommand, RunFlag, RunFlagName, Span, Word,
};
use crate::graph::{self, CopyFrom, Network, Op, Script, Security, Step};
use crate::image::{Healthcheck, ImageConfig};

/// Build arguments that need no ARG, and leave no trace in the image or in the cache key.
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

pub(super) struct Evaluator<'a> {
    planner: &'a Planner<'a>,
    config: ImageConfig,
    /// The image's environment, in order.
    env: Vec<(String, String)>,
    /// What ARG declared so far, in order; without a value where none is known.
    args: Vec<(String, Option<String>)>,
    /// Whether this stage has its own CMD: ENTRYPOINT then keeps it.
    own_cmd: bool,
    steps: Vec<Step>,
}

/// What words are expanded with: ENV goes before ARG.
struct Scope<'a>(&'a Evaluator<'a>);

impl dockerfile::Environment for Scope<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let env = self.0.env.iter().rev().find(|(key, _)| key == name);
        env.map(|(_, value)| value.as_str()).or_else(|| {
            let arg = self.0.args.iter().find(|(key, _)| key == name);
            arg.and_then(|(_, value)| value.as_deref())
        })
    }
}

impl<'a> Evaluator<'a> {
    pub(super) fn new(planner: &'a Planner<'a>, mut config: ImageConfig) -> Self {
        config.config.on_build.clear();
        let pair = |text: &String| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (name.to_owned(), value.to_owned())
        };
        Self {
            env: config.config.env.iter().map(pair).collect(),
            planner,
            config,
            args: Vec::new(),
            own_cmd: false,
            steps: Vec::new(),
        }
    }

    pub(super) fn finish(self) -> (Vec<Step>, ImageConfig) {
        (self.steps, self.config)
    }

    pub(super) fn instruction(&mut self, instruction: &Instruction) -> Result<(), ParseError> {
        let (op, history) = match &instruction.kind {
            InstructionKind::Run(run) => self.run(run)?,
            InstructionKind::Copy(copy) => self.copy(copy)?,
            InstructionKind::Add(add) => self.add(add)?,
            InstructionKind::Workdir(word) => self.workdir(word)?,
            kind => (Op::Configure, self.configure(kind)?),
        };
        self.steps.push(Step {
            text: instruction.source.clone(),
            span: instruction.span,
            history,
            op,
        });
        Ok(())
    }

    fn expand(&self, word: &Word) -> Result<String, ParseError> {
        expand_with(word, &Scope(self), self.planner.dockerfile.escape())
    }

    fn configure(&mut self, kind: &InstructionKind) -> Result<Option<String>, ParseError> {
        let text = match kind {
            InstructionKind::Env(pairs) => self.env(pairs)?,
            InstructionKind::Arg(args) => self.arg(args)?,
            InstructionKind::Label(pairs) => self.label(pairs)?,
            InstructionKind::User(word) => {
                let user = self.expand(word)?;
                let text = format!("USER {user}");
                self.config.config.user = user;
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
                self.config.config.stop_signal = Some(signal);
                text
            }
            InstructionKind::Healthcheck(check) => self.healthcheck(check),
            InstructionKind::Shell(shell) => {
                self.config.config.shell = Some(shell.clone());
                format!("SHELL {}", history::plain_list(shell))
            }
            InstructionKind::Maintainer(word) => {
                self.config.author = Some(word.text.clone());
                format!("MAINTAINER {}", word.text)
            }
            InstructionKind::Onbuild(onbuild) => {
                self.config.config.on_build.push(onbuild.trigger.clone());
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
        let pairs = self.pairs(pairs)?;
        for (name, value) in &pairs {
            match self.env.iter_mut().find(|(key, _)| key == name) {
                Some((_, old)) => value.clone_into(old),
                None => self.env.push((name.clone(), value.clone())),
            }
        }
        self.config.config.env = self.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
        Ok(history::pairs("ENV", &pairs))
    }

    fn label(&mut self, pairs: &[Assignment]) -> Result<String, ParseError> {
        let pairs = self.pairs(pairs)?;
        self.config.config.labels.extend(pairs.iter().cloned());
        Ok(history::pairs("LABEL", &pairs))
    }

    fn pairs(&self, pairs: &[Assignment]) -> Result<Vec<(String, String)>, ParseError> {
        let pair = |pair: &Assignment| Ok((self.expand(&pair.name)?, self.expand(&pair.value)?));
        pairs.iter().map(pair).collect()
    }

    /// Unlike with ENV, each argument sees those before it in the same instruction.
    fn arg(&mut self, args: &[Arg]) -> Result<String, ParseError> {
        let mut shown = Vec::new();
        for arg in args {
            let name = self.expand(&arg.name)?;
            let default = arg.default.as_ref().map(|word| self.expand(word)).transpose()?;
            let given = self.planner.request.build_args.get(&name).cloned();
            let value = given
                .or(default)
                .or_else(|| self.planner.globals.get(&name).cloned());
            shown.push(match &value {
                Some(value) => format!("{name}={value}"),
                None => name.clone(),
            });
            match self.args.iter_mut().find(|(key, _)| *key == name) {
                Some((_, old)) => *old = value,
                None => self.args.push((name, value)),
            }
        }
        Ok(format!("ARG {}", shown.join(" ")))
    }

    fn expose(&mut self, words: &[Word]) -> Result<String, ParseError> {
        let mut ports = Vec::new();
        for word in words {
            let escape = self.planner.dockerfile.escape();
            let texts = dockerfile::expand_words(&word.text, escape, &Scope(self))
                .map_err(|e| ParseError::new(word.span, e.to_string()))?;
            for text in texts {
                let parsed =
                    dockerfile::parse_expose(&text).map_err(|e| ParseError::new(word.span, e.to_string()))?;
                ports.extend(parsed.iter().map(ToString::to_string));
            }
        }
        ports.sort();
        self.config.config.exposed_ports.extend(ports.iter().cloned());
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
        self.config.config.volumes.extend(volumes.iter().cloned());
        Ok(format!("VOLUME {}", history::plain_list(volumes)))
    }

    fn cmd(&mut self, command: &Command) -> String {
        let words = self.command(command);
        self.own_cmd = true;
        let text = format!("CMD {}", history::quoted_list(&words));
        self.config.config.cmd = Some(words);
        self.config.config.args_escaped = true;
        text
    }

    fn entrypoint(&mut self, command: &Command) -> String {
        let words = self.command(command);
        if !self.own_cmd {
            self.config.config.cmd = None;
        }
        let text = format!("ENTRYPOINT {}", history::quoted_list(&words));
        self.config.config.entrypoint = Some(words);
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
        self.config.config.shell.clone().unwrap_or_else(default)
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
        self.config.config.healthcheck = Some(check);
        text
    }

    fn workdir(&mut self, word: &Word) -> Result<(Op, Option<String>), ParseError> {
        let path = self.expand(word)?;
        let path = match path.starts_with('/') {
            true => path,
            false => clean(&format!("{}/{path}", self.workdir_text())),
        };
        let history = Some(format!("WORKDIR {path}"));
        self.config.config.working_dir = path.clone();
        let op = match clean(&path).as_str() {
            "/" => Op::Configure,
            _ => Op::WorkingDirectory {
                path,
                user: self.config.config.user.clone(),
            },
        };
        Ok((op, history))
    }

    fn workdir_text(&self) -> &str {
        match self.config.config.working_dir.as_str() {
            "" => "/",
            path => path,
        }
    }

    fn run(&mut self, run: &dockerfile::Run) -> Result<(Op, Option<String>), ParseError> {
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
        let history = history::run(&self.args, &shell, &command);
        // A variable of ENV wins over an argument of the same name.
        let declared = self
            .args
            .iter()
            .filter_map(|(k, v)| Some((k.clone(), v.clone()?)));
        let env = declared.chain(self.env.iter().cloned()).collect();
        let op = Op::Run(Box::new(graph::Run {
            args: shell.into_iter().chain(command).collect(),
            script,
            env,
            proxies: self.proxies(),
            user: self.config.config.user.clone(),
            workdir: self.workdir_text().to_owned(),
            network: flags.network,
            hosts: self.planner.request.hosts.clone(),
            mounts: flags.mounts,
            security: flags.security,
            limits: self.planner.request.limits.clone(),
        }));
        Ok((op, Some(history)))
    }

    fn proxies(&self) -> BTreeMap<String, String> {
        let given = &self.planner.request.build_args;
        let known = PROXIES.iter().filter_map(|name| given.get_key_value(*name));
        known.map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    fn run_flags(&self, flags: &[RunFlag]) -> Result<RunFlags, ParseError> {
        let mut read = RunFlags {
            network: self.planner.request.network.unwrap_or(Network::Host),
            mounts: Vec::new(),
            security: Security::Sandbox,
        };
        for flag in flags {
            if flag.name == RunFlagName::Mount {
                read.mounts.push(self.mount(&flag.value)?);
                continue;
            }
            let value = self.expand(&flag.value)?;
            let unsupported = |what: &str, hint: &str| {
                Err(ParseError::new(flag.value.span, format!("{what} is not supported yet")).with_hint(hint))
            };
            match (flag.name, value.as_str()) {
                (RunFlagName::Network, "none") => read.network = Network::None,
                (RunFlagName::Network, "host") => read.network = Network::Host,
                (RunFlagName::Network, "default" | "") => {}
                (RunFlagName::Network, other) => {
                    return Err(ParseError::new(
                        flag.value.span,
                        format!("unsupported network mode {other:?}"),
                    )
                    .with_hint("the modes are default, host and none"));
                }
                (RunFlagName::Security, "sandbox" | "") => {}
                (RunFlagName::Security, "insecure") => {
                    if !self.planner.request.allow.contains(&Entitlement::Insecure) {
                        return Err(ParseError::new(
                            flag.value.span,
                            "RUN --security=insecure is not allowed",
                        )
                        .with_hint("if you trust the Dockerfile, build with --allow security.insecure"));
                    }
                    read.security = Security::Insecure;
                }
                (RunFlagName::Security, other) => {
                    return Err(ParseError::new(
                        flag.value.span,
                        format!("unsupported security mode {other:?}"),
                    )
                    .with_hint("the modes are sandbox and insecure"));
                }
                (RunFlagName::Device, _) => {
                    return unsupported("RUN --device", "a step sees no device of the host");
                }
                (RunFlagName::Mount, _) => {}
            }
        }
        Ok(read)
    }

    fn mount(&self, word: &Word) -> Result<graph::Mount, ParseError> {
        let at = |text: &str| Word {
            text: text.to_owned(),
            span: word.span,
        };
        let mount = Mount::parse(word, &|value| self.expand(&at(value)))?;
        let from = |name: Option<&String>| match name {
            Some(name) => self.planner.copy_from(&at(name)),
            None => Ok(CopyFrom::Context),
        };
        mounts::plan(mount, self.workdir_text(), word.span, &from)
    }

    fn copy(&mut self, copy: &Copy) -> Result<(Op, Option<String>), ParseError> {
        let from = match &copy.from {
            Some(word) => self.planner.copy_from(word)?,
            None => CopyFrom::Context,
        };
        let (op, history) = self.files("COPY", &copy.files, &copy.options, from, false)?;
        let op = match op {
            Op::Copy(mut op) => {
                op.parents = copy.parents;
                Op::Copy(op)
            }
            op => op,
        };
        Ok((op, history))
    }

    fn add(&mut self, add: &Add) -> Result<(Op, Option<String>), ParseError> {
        let remote = |word: &&Word| {
            let text = word.text.to_ascii_lowercase();
            ["http://", "https://", "git@", "git://"]
                .iter()
                .any(|scheme| text.starts_with(scheme))
        };
        if let Some(word) = add.files.sources.iter().find(remote) {
            return Err(
                ParseError::new(word.span, "ADD of a remote source is not supported yet")
                    .with_hint("fetch it in a RUN, or into the build context"),
            );
        }
        self.files(
            "ADD",
            &add.files,
            &add.options,
            CopyFrom::Context,
            add.unpack.unwrap_or(true),
        )
    }

    fn files(
        &mut self,
        instruction: &'static str,
        files: &Files,
        options: &CopyOptions,
        from: CopyFrom,
        unpack: bool,
    ) -> Result<(Op, Option<String>), ParseError> {
        let sources: Vec<String> = files
            .sources
            .iter()
            .map(|word| self.expand(word))
            .collect::<Result<_, _>>()?;
        let destination = self.expand(&files.destination)?;
        let chown = self.flag(options.chown.as_ref())?;
        let chmod = self.flag(options.chmod.as_ref())?;
        let mut words = vec![instruction.to_owned()];
        words.extend(chown.iter().map(|(text, _)| format!("--chown={text}")));
        words.extend(chmod.iter().map(|(text, _)| format!("--chmod={text}")));
        words.extend(sources.iter().cloned());
        words.extend(files.heredocs.iter().map(|heredoc| format!("<<{}", heredoc.name)));
        words.push(destination.clone());
        words.push("# buildkit".to_owned());
        let mut contents = Vec::new();
        for heredoc in &files.heredocs {
            let mut text = heredoc.content().into_owned();
            if heredoc.expand {
                text = dockerfile::expand_heredoc(&text, &Scope(self))
                    .map_err(|e| ParseError::new(heredoc.span, e.to_string()))?
                    .text;
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
            sources,
            files: contents,
            destination: match destination.starts_with('/') {
                true => destination,
                false => format!("{}/{destination}", self.workdir_text()),
            },
            chown: chown.map(|(text, _)| text),
            chmod,
            exclude: options.exclude.iter().map(|word| word.text.clone()).collect(),
            unpack,
            link: options.link,
            parents: false,
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
