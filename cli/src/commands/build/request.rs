//! What the options ask of the planner.

use std::collections::{BTreeMap, BTreeSet};

use mica_builder::dockerfile::suggestion;
use mica_builder::epoch::SOURCE_DATE_EPOCH;
use mica_builder::graph::{Mount, MountKind, Network};
use mica_builder::plan::{Entitlement, Request};
use mica_builder::sandbox::{Access, InvalidUlimit, Limits, Ulimit, check_groups};

use super::args::{Args, NetworkMode, StepArgs};
use super::sources;
use crate::diagnostic::{hint, usage_error};
use crate::limits::{bytes, unlimited};
use crate::volume::Volume;

/// What is asked of the planner, except for the named contexts.
///
/// # Errors
/// If an option is not of its form.
pub fn request(args: &Args) -> anyhow::Result<Request> {
    let label = |text: &String| match text.split_once('=') {
        Some((name, value)) => (name.to_owned(), value.to_owned()),
        None => (text.clone(), String::new()),
    };
    Ok(Request {
        build_args: build_args(&args.build_arg, &|name| std::env::var(name).ok()),
        target: args.target.clone().filter(|target| !target.is_empty()),
        labels: args.image.label.iter().map(label).collect(),
        network: match args.steps.network {
            NetworkMode::None => Some(Network::None),
            NetworkMode::Pasta => Some(Network::Pasta),
            NetworkMode::Default | NetworkMode::Host => None,
        },
        hosts: sources::hosts(&args.steps.add_host)?,
        platform: sources::platform(&args.platform)?,
        refresh: args.cache.no_cache_filter.iter().cloned().collect(),
        limits: limits(&args.steps)?,
        allow: allow(&args.steps.allow)?,
        volumes: args
            .steps
            .volume
            .iter()
            .map(|text| volume(text))
            .collect::<anyhow::Result<_>>()?,
        ..Request::default()
    })
}

/// The build arguments. One without a value is that of the environment, from which SOURCE_DATE_EPOCH comes by itself.
fn build_args(given: &[String], variable: &dyn Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    let epoch = variable(SOURCE_DATE_EPOCH).filter(|value| !value.is_empty());
    let mut all: BTreeMap<_, _> = epoch
        .map(|value| (SOURCE_DATE_EPOCH.to_owned(), value))
        .into_iter()
        .collect();
    for text in given {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), variable(text)),
        };
        if let Some(value) = value {
            all.insert(name.to_owned(), value);
        }
    }
    all
}

fn limits(args: &StepArgs) -> anyhow::Result<Limits> {
    let shm_size = args
        .shm_size
        .as_deref()
        .map(|text| bytes("--shm-size", text))
        .transpose()?;
    let parent = args.cgroup_parent.as_ref().filter(|parent| !parent.is_empty());
    Ok(Limits {
        // As in Docker, 0 is no size.
        shm_size: shm_size.filter(|&size| size > 0),
        ulimits: args
            .ulimit
            .iter()
            .map(|text| ulimit(text))
            .collect::<anyhow::Result<_>>()?,
        cgroup_parent: parent.map(Into::into),
        resources: args.limits.resources()?,
        no_new_privileges: args.limits.no_new_privileges()?,
    })
}

/// Takes the control group out of the request where none can be made; returns what the user is to be told. To be
/// called where the steps will run.
pub fn without_cgroup(request: &mut Request) -> Option<String> {
    let limits = &mut request.limits;
    let error = check_groups(limits.cgroup_parent.as_deref(), &limits.resources).err()?;
    limits.cgroup_parent = None;
    Some(match std::mem::take(&mut limits.resources).is_empty() {
        true => format!("--cgroup-parent: {error}; the steps stayed in mica's own"),
        false => unlimited(&error),
    })
}

fn ulimit(text: &str) -> anyhow::Result<Ulimit> {
    Ulimit::parse(text).map_err(|error| {
        let message = usage_error(format!("--ulimit {text}: {error}"));
        let InvalidUlimit::Name(name) = error else {
            return message;
        };
        match suggestion(&name, Ulimit::names()) {
            Some(near) => hint(message, format!("did you mean {near}?")),
            None => hint(
                message,
                format!(
                    "the limits are {}",
                    Ulimit::names().collect::<Vec<_>>().join(", ")
                ),
            ),
        }
    })
}

fn volume(text: &str) -> anyhow::Result<Mount> {
    let volume = Volume::parse(text)?;
    Ok(Mount {
        target: Some(volume.target),
        kind: MountKind::Host {
            source: volume.source,
            writable: volume.access == Access::ReadWrite,
        },
    })
}

fn allow(given: &[String]) -> anyhow::Result<BTreeSet<Entitlement>> {
    const KNOWN: [&str; 2] = ["network.host", "security.insecure"];
    let mut allowed = BTreeSet::new();
    for text in given {
        match text.as_str() {
            "security.insecure" => {
                allowed.insert(Entitlement::Insecure);
            }
            // Steps share the host's network anyway.
            "network.host" => {}
            "device" => {
                return Err(hint(
                    anyhow::anyhow!("--allow device is not supported"),
                    "a step sees no device of the host",
                ));
            }
            other => {
                let error = usage_error(format!("--allow {other}: there is nothing of that name to allow"));
                return Err(match suggestion(other, KNOWN) {
                    Some(near) => hint(error, format!("did you mean {near}?")),
                    None => hint(error, format!("it may be {}", KNOWN.join(" or "))),
                });
            }
        }
    }
    Ok(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_arguments_come_from_the_environment() {
        let variable = |name: &str| match name {
            "SOURCE_DATE_EPOCH" => Some("5".to_owned()),
            "SET" => Some("x".to_owned()),
            _ => None,
        };
        let given = ["A=1=2".to_owned(), "SET".to_owned(), "UNSET".to_owned()];
        let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let expected = [("A", "1=2"), ("SET", "x"), ("SOURCE_DATE_EPOCH", "5")];
        assert_eq!(build_args(&given, &variable), expected.map(pair).into());
        let given = ["SOURCE_DATE_EPOCH=".to_owned()];
        assert_eq!(
            build_args(&given, &variable),
            [("SOURCE_DATE_EPOCH", "")].map(pair).into()
        );
    }

    #[test]
    fn slips_are_mended() {
        let said = |error: anyhow::Error| crate::diagnostic::describe(&error, false);
        assert!(said(ulimit("nofiles=1").unwrap_err()).contains("did you mean nofile?"));
        let error = allow(&["security.insecur".to_owned()]).unwrap_err();
        assert!(said(error).contains("did you mean security.insecure?"));
        assert!(allow(&["device".to_owned()]).is_err());
        assert!(allow(&["network.host".to_owned()]).unwrap().is_empty());
    }
}
