//! `--ssh`: the agents of a build.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use mica_builder::remote::{SSH_AGENT, Transport};
use mica_builder::ssh::Agent;

use super::context::Place;
use super::with_hint;
use crate::diagnostic::usage_error;

/// Opens the agents of the `--ssh` options. As with docker, a context that is reached by SSH has the agent of the
/// environment, if there is one, without being told. `work` is a directory for sockets.
///
/// # Errors
/// If one is not of the form, or there is no such agent.
pub(super) fn open(
    options: &[String],
    place: &Place,
    work: &Path,
) -> anyhow::Result<BTreeMap<String, Agent>> {
    let mut agents = BTreeMap::new();
    for (number, text) in options.iter().enumerate() {
        let (id, files) = parse(text)?;
        let directory = work.join(format!("ssh-{number}"));
        let agent = std::fs::create_dir(&directory)
            .map_err(anyhow::Error::from)
            .and_then(|()| {
                Agent::open(&files, &directory).map_err(|e| with_hint(e.hint().map(str::to_owned), e))
            })
            .map_err(|e| e.context(format!("--ssh {text}")))?;
        agents.insert(id, agent);
    }
    let by_ssh = matches!(place, Place::Git(repository) if repository.transport == Transport::Ssh);
    if by_ssh
        && !agents.contains_key(SSH_AGENT)
        && let Ok(agent) = Agent::open(&[], work)
    {
        agents.insert(SSH_AGENT.to_owned(), agent);
    }
    Ok(agents)
}

/// `ID`, or `ID=FILE,...`.
fn parse(text: &str) -> anyhow::Result<(String, Vec<PathBuf>)> {
    let (id, files) = match text.split_once('=') {
        Some((id, files)) => (id, files.split(',').map(PathBuf::from).collect()),
        None => (text, Vec::new()),
    };
    let named = |path: &PathBuf| !path.as_os_str().is_empty();
    match !id.is_empty() && files.iter().all(named) {
        true => Ok((id.to_owned(), files)),
        false => Err(usage_error(format!(
            "--ssh {text}: the form is ID, ID=SOCKET or ID=KEY,..."
        ))),
    }
}

/// Their sockets.
pub(super) fn sockets(agents: &BTreeMap<String, Agent>) -> BTreeMap<String, PathBuf> {
    let socket = |(id, agent): (&String, &Agent)| (id.clone(), agent.socket().to_owned());
    agents.iter().map(socket).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_have_a_name_and_files() {
        assert_eq!(parse("default").unwrap(), ("default".to_owned(), Vec::new()));
        let two = vec![PathBuf::from("a"), PathBuf::from("b")];
        assert_eq!(parse("id=a,b").unwrap(), ("id".to_owned(), two));
        for wrong in ["", "=a", "id=", "id=a,"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
