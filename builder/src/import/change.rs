//! `--change`: instructions of a Dockerfile that concern the configuration alone.

use crate::dockerfile::{
    self, Assignment, Command, Escape, ExpandError, Healthcheck, Instruction, InstructionKind, ParseError,
    ValueError,
};
use crate::image::{self, RunConfig};

/// Why a change cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// It is no instruction.
    #[error("the change {text:?} is no instruction: {source}")]
    Parse {
        /// The change.
        text: String,
        /// What is wrong.
        source: ParseError,
    },
    /// It is an instruction that makes a layer.
    #[error("the change {text:?} is not possible: {name} does not concern the configuration alone")]
    Instruction {
        /// The change.
        text: String,
        /// The instruction's name.
        name: &'static str,
    },
    /// A variable in it.
    #[error("the change {text:?} is not valid")]
    Expand {
        /// The change.
        text: String,
        /// What is wrong.
        source: ExpandError,
    },
    /// A value in it.
    #[error("the change {text:?} is not valid")]
    Value {
        /// The change.
        text: String,
        /// What is wrong.
        source: ValueError,
    },
}

/// Makes one change, as `docker import --change` does: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD,
/// SHELL, STOPSIGNAL, USER, VOLUME or WORKDIR.
///
/// # Errors
/// [`ChangeError`]; `config` may have taken part of the change then.
pub fn change(config: &mut RunConfig, text: &str) -> Result<(), ChangeError> {
    let instruction = dockerfile::parse_trigger(text.as_bytes()).map_err(|source| ChangeError::Parse {
        text: text.to_owned(),
        source,
    })?;
    let environment = environment(config);
    let change = Change {
        text,
        environment: &environment,
    };
    change.apply(config, instruction)
}

fn environment(config: &RunConfig) -> Vec<(String, String)> {
    let pairs = config.env.iter().filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

struct Change<'a> {
    text: &'a str,
    environment: &'a [(String, String)],
}

impl Change<'_> {
    fn apply(&self, config: &mut RunConfig, instruction: Instruction) -> Result<(), ChangeError> {
        match instruction.kind {
            InstructionKind::Cmd(command) => config.cmd = Some(words(command, config.shell.as_deref())),
            InstructionKind::Entrypoint(command) => {
                config.entrypoint = Some(words(command, config.shell.as_deref()));
            }
            InstructionKind::Env(pairs) => {
                for (name, value) in self.pairs(&pairs)? {
                    set_variable(&mut config.env, &name, &value);
                }
            }
            InstructionKind::Label(pairs) => config.labels.extend(self.pairs(&pairs)?),
            InstructionKind::Expose(ports) => {
                for word in ports {
                    let words = dockerfile::expand_words(&word.text, Escape::default(), self.environment)
                        .map_err(|source| self.bad_variable(source))?;
                    for word in words {
                        let ports =
                            dockerfile::parse_expose(&word).map_err(|source| self.bad_value(source))?;
                        config.exposed_ports.extend(ports.iter().map(ToString::to_string));
                    }
                }
            }
            InstructionKind::Volume(volumes) => {
                for word in volumes {
                    config.volumes.insert(self.expand(&word.text)?);
                }
            }
            InstructionKind::User(user) => config.user = self.expand(&user.text)?,
            InstructionKind::Workdir(directory) => {
                let directory = self.expand(&directory.text)?;
                config.working_dir = join(&config.working_dir, &directory);
            }
            InstructionKind::StopSignal(signal) => {
                let signal = self.expand(&signal.text)?;
                dockerfile::parse_stop_signal(&signal).map_err(|source| self.bad_value(source))?;
                config.stop_signal = Some(signal);
            }
            InstructionKind::Shell(shell) => config.shell = Some(shell),
            InstructionKind::Onbuild(onbuild) => config.on_build.push(onbuild.trigger),
            InstructionKind::Healthcheck(check) => {
                config.healthcheck = Some(healthcheck(check));
            }
            other => {
                return Err(ChangeError::Instruction {
                    text: self.text.to_owned(),
                    name: other.name(),
                });
            }
        }
        Ok(())
    }

    fn pairs(&self, pairs: &[Assignment]) -> Result<Vec<(String, String)>, ChangeError> {
        pairs
            .iter()
            .map(|pair| Ok((self.expand(&pair.name.text)?, self.expand(&pair.value.text)?)))
            .collect()
    }

    fn expand(&self, word: &str) -> Result<String, ChangeError> {
        dockerfile::expand_word(word, Escape::default(), self.environment)
            .map(|expanded| expanded.text)
            .map_err(|source| self.bad_variable(source))
    }

    fn bad_variable(&self, source: ExpandError) -> ChangeError {
        ChangeError::Expand {
            text: self.text.to_owned(),
            source,
        }
    }

    fn bad_value(&self, source: ValueError) -> ChangeError {
        ChangeError::Value {
            text: self.text.to_owned(),
            source,
        }
    }
}

/// Sets a variable in an image's `Env`, in its place if it is there already.
fn set_variable(env: &mut Vec<String>, name: &str, value: &str) {
    let pair = format!("{name}={value}");
    let same = |pair: &&mut String| pair.split('=').next() == Some(name);
    match env.iter_mut().find(same) {
        Some(old) => *old = pair,
        None => env.push(pair),
    }
}

fn words(command: Command, shell: Option<&[String]>) -> Vec<String> {
    match command {
        Command::Exec(words) => words,
        Command::Shell(line) => {
            let default = || vec!["/bin/sh".to_owned(), "-c".to_owned()];
            let mut words = shell.map_or_else(default, <[String]>::to_vec);
            words.push(line.text);
            words
        }
    }
}

fn healthcheck(check: Healthcheck) -> image::Healthcheck {
    let Healthcheck::Cmd { command, timing } = check else {
        return image::Healthcheck {
            test: vec!["NONE".to_owned()],
            ..image::Healthcheck::default()
        };
    };
    let nanoseconds =
        |time: Option<std::time::Duration>| time.and_then(|time| i64::try_from(time.as_nanos()).ok());
    let test = match command {
        Command::Exec(words) => ["CMD".to_owned()].into_iter().chain(words).collect(),
        Command::Shell(line) => vec!["CMD-SHELL".to_owned(), line.text],
    };
    image::Healthcheck {
        test,
        interval: nanoseconds(timing.interval),
        timeout: nanoseconds(timing.timeout),
        start_period: nanoseconds(timing.start_period),
        start_interval: nanoseconds(timing.start_interval),
        retries: (timing.retries > 0).then(|| i64::from(timing.retries)),
    }
}

fn join(base: &str, directory: &str) -> String {
    match directory.starts_with('/') {
        true => directory.to_owned(),
        false => format!("{}/{directory}", base.trim_end_matches('/')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> Result<RunConfig, ChangeError> {
        let mut config = RunConfig::default();
        changes.iter().try_for_each(|text| change(&mut config, text))?;
        Ok(config)
    }

    #[test]
    fn instructions_change_the_configuration() {
        let config = changed(&[
            "ENV A=1 B=\"$A\"",
            "ENV A=2",
            "CMD [\"x\", \"y\"]",
            "ENTRYPOINT echo $A",
            "WORKDIR /srv",
            "WORKDIR $A",
            "EXPOSE 80 81-82/udp",
            "LABEL k=v",
            "USER me",
            "HEALTHCHECK --interval=5s CMD true",
        ])
        .unwrap();
        assert_eq!(config.env, ["A=2", "B="]);
        assert_eq!(config.cmd, Some(vec!["x".to_owned(), "y".to_owned()]));
        let entrypoint = ["/bin/sh", "-c", "echo $A"].map(str::to_owned);
        assert_eq!(config.entrypoint.as_deref(), Some(&entrypoint[..]));
        assert_eq!(config.working_dir, "/srv/2");
        assert_eq!(
            config.exposed_ports.iter().collect::<Vec<_>>(),
            ["80/tcp", "81/udp", "82/udp"]
        );
        assert_eq!((config.labels["k"].as_str(), config.user.as_str()), ("v", "me"));
        assert_eq!(config.healthcheck.unwrap().interval, Some(5_000_000_000));
    }

    #[test]
    fn other_instructions_are_refused() {
        assert!(matches!(
            changed(&["RUN true"]),
            Err(ChangeError::Instruction { .. })
        ));
        assert!(matches!(changed(&["NONSENSE"]), Err(ChangeError::Parse { .. })));
        assert!(matches!(changed(&["EXPOSE x"]), Err(ChangeError::Value { .. })));
    }
}
