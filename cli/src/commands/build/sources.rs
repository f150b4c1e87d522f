//! What a build takes from the command line besides its contexts: secrets, names of hosts, a platform.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use anyhow::{Context as _, bail};
use mica_builder::graph::ExtraHost;
use mica_builder::image::Platform;
use mica_builder::leak::Leaks;
use mica_builder::plan;
use mica_builder::sandbox::Secret;

use crate::diagnostic::{hint, usage_error};

/// The largest secret in bytes, as in BuildKit.
const MAX_SECRET: u64 = 500 << 10;

/// The secrets of a build.
pub struct Secrets {
    /// Each with its id.
    pub all: BTreeMap<String, Secret>,
    /// What no layer may hold of them.
    pub leaks: Leaks,
}

/// The `--secret` options: `id=ID`, with `src=FILE` or `env=VARIABLE`. Without either the variable of that name is
/// taken, or else the file. With `search=no` layers may hold it.
///
/// # Errors
/// If one is not of the form, or cannot be read. No message shows a value.
pub fn secrets(options: &[String]) -> anyhow::Result<Secrets> {
    let mut all = BTreeMap::new();
    let mut public = BTreeSet::new();
    for text in options {
        let (id, secret, search) = secret(text)?;
        if search == Search::No {
            public.insert(id.clone());
        }
        all.insert(id, secret);
    }
    let leaks = Leaks::of(all.iter().filter(|(id, _)| !public.contains(*id)));
    Ok(Secrets { all, leaks })
}

/// Whether layers are searched for a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Search {
    Yes,
    No,
}

fn secret(text: &str) -> anyhow::Result<(String, Secret, Search)> {
    let (mut id, mut kind, mut source, mut variable, mut search) = (None, None, None, None, None);
    for field in text.split(',') {
        let (name, value) = field.split_once('=').unwrap_or((field, ""));
        let slot = match name {
            "id" => &mut id,
            "type" => &mut kind,
            "src" | "source" => &mut source,
            "env" => &mut variable,
            "search" => &mut search,
            _ => {
                return Err(usage_error(format!(
                    "--secret {text}: unknown option {name:?}: the form is id=ID,src=FILE or id=ID,env=VARIABLE"
                )));
            }
        };
        *slot = Some(value);
    }
    let Some(id) = id.filter(|id| !id.is_empty()) else {
        return Err(usage_error(format!("--secret {text}: the id is missing")));
    };
    let search = match search {
        None | Some("yes") => Search::Yes,
        Some("no") => Search::No,
        Some(other) => {
            return Err(usage_error(format!(
                "--secret {text}: search={other}: it may be yes or no"
            )));
        }
    };
    let variable = match kind {
        Some("env") => variable.or(source.take()),
        None | Some("file") => variable,
        Some(other) => {
            return Err(usage_error(format!(
                "--secret {text}: type={other}: it may be file or env"
            )));
        }
    };
    let found = match (source, variable) {
        (_, Some(variable)) => from_variable(variable)
            .with_context(|| format!("--secret id={id}: the variable {variable} is not set"))?,
        (Some(file), None) => from_file(Path::new(file)).with_context(|| format!("--secret id={id}"))?,
        (None, None) => match from_variable(id) {
            Some(secret) => secret,
            None => from_file(Path::new(id)).with_context(|| format!("--secret id={id}"))?,
        },
    };
    Ok((id.to_owned(), found, search))
}

fn from_variable(name: &str) -> Option<Secret> {
    use std::os::unix::ffi::OsStringExt as _;
    let value = std::env::var_os(name)?;
    Some(Secret::new(value.into_vec()))
}

fn from_file(path: &Path) -> anyhow::Result<Secret> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_SECRET + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() as u64 > MAX_SECRET {
        bail!("{} is larger than 500 KiB", path.display());
    }
    Ok(Secret::new(bytes))
}

/// The `--add-host` options: `NAME:ADDRESS` or `NAME=ADDRESS`. The address `host-gateway` is this machine, whose
/// network a step shares.
///
/// # Errors
/// If one is not of the form.
pub fn hosts(options: &[String]) -> anyhow::Result<Vec<ExtraHost>> {
    options.iter().map(|text| host(text)).collect()
}

fn host(text: &str) -> anyhow::Result<ExtraHost> {
    let invalid = || usage_error(format!("--add-host {text}: the form is NAME:ADDRESS"));
    let at = text.find(['=', ':']).ok_or_else(invalid)?;
    let (name, address) = (&text[..at], &text[at + 1..]);
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(invalid());
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = match bare.unwrap_or(address) {
        "host-gateway" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        text => text.parse().map_err(|_| invalid())?,
    };
    Ok(ExtraHost {
        name: name.to_owned(),
        address,
    })
}

/// The `--platform` options: steps run on this machine, so it must be this machine's.
///
/// # Errors
/// If it is another one, or there are several.
pub fn platform(options: &[String]) -> anyhow::Result<Option<Platform>> {
    let mut wanted = options
        .iter()
        .flat_map(|text| text.split(','))
        .filter(|text| !text.is_empty());
    let (first, more) = (wanted.next(), wanted.next());
    let Some(text) = first else { return Ok(None) };
    if more.is_some() {
        return Err(hint(
            anyhow::anyhow!("an image of several platforms is not supported yet"),
            "build each on a machine of its platform",
        ));
    }
    let platform = plan::platform(text).map_err(|e| usage_error(format!("--platform: {e}")))?;
    let host = Platform::host();
    if platform.suits(&host) {
        return Ok(Some(platform));
    }
    Err(hint(
        anyhow::anyhow!("cannot build for {platform}: this machine is {host}"),
        "build on a machine of that platform: emulation is not supported",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_come_from_files_and_variables() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("s");
        std::fs::write(&file, "top").unwrap();
        let from = |text: String| secret(&text).unwrap();
        let (id, value, _) = from(format!("id=a,src={}", file.display()));
        assert_eq!((id.as_str(), value.bytes()), ("a", &b"top"[..]));
        let (_, value, search) = from("id=a,env=PATH".to_owned());
        assert_eq!(value.bytes(), std::env::var("PATH").unwrap().as_bytes());
        assert_eq!(search, Search::Yes);
        assert_eq!(from("id=a,env=PATH,search=no".to_owned()).2, Search::No);
        assert_eq!(from("id=a,type=env,src=PATH".to_owned()).1, value);
        assert_eq!(from("id=PATH".to_owned()).1, value);
        for wrong in [
            "",
            "src=x",
            "id=",
            "id=a,sr=x",
            "id=a,type=x",
            "id=a,src=/none/such",
            "id=a,env=",
            "id=a,env=PATH,search=maybe",
        ] {
            assert!(secret(wrong).is_err(), "{wrong}");
        }
        std::fs::write(&file, vec![0; 600 << 10]).unwrap();
        assert!(secret(&format!("id=a,src={}", file.display())).is_err());
    }

    #[test]
    fn hosts_have_either_form() {
        let address = |text: &str| host(text).map(|host| (host.name, host.address.to_string())).ok();
        let pair = |name: &str, address: &str| Some((name.to_owned(), address.to_owned()));
        assert_eq!(address("a:10.0.0.1"), pair("a", "10.0.0.1"));
        assert_eq!(address("a=::1"), pair("a", "::1"));
        assert_eq!(address("a:[fe80::2]"), pair("a", "fe80::2"));
        assert_eq!(address("a:host-gateway"), pair("a", "127.0.0.1"));
        for wrong in ["a", "a:", ":1.2.3.4", "a:b", "a b:1.2.3.4"] {
            assert_eq!(address(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_this_machines_platform_is_built_for() {
        let of = |text: &str| platform(&[text.to_owned()]);
        let host = Platform::host().to_string();
        assert_eq!(of(&host).unwrap(), Some(Platform::host()));
        assert_eq!(platform(&[]).unwrap(), None);
        assert!(of("linux/s390x").is_err());
        assert!(of(&format!("{host},linux/s390x")).is_err());
        assert!(of("///").is_err());
    }
}
