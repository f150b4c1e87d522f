//! The arguments that FROM sees: those before the first FROM, and those that every build has.

use std::collections::{BTreeMap, BTreeSet};

use super::{Request, expand};
use crate::dockerfile::{Dockerfile, InstructionKind, ParseError, Span, suggestion};
use crate::epoch::SOURCE_DATE_EPOCH;
use crate::image::Platform;

/// Build arguments that need no ARG, and leave no trace in the image or in the cache key, by their name in small
/// letters.
const PROXIES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"];

/// The proxies as a command gets them: in small letters and in capitals, whichever is given.
pub(super) fn proxies(request: &Request) -> BTreeMap<String, String> {
    let mut proxies = BTreeMap::new();
    for (name, value) in &request.build_args {
        let lower = name.to_ascii_lowercase();
        if PROXIES.contains(&lower.as_str()) {
            proxies.insert(lower.to_ascii_uppercase(), value.clone());
            proxies.insert(lower, value.clone());
        }
    }
    proxies
}

/// An ARG before the first FROM.
#[derive(Clone, Debug)]
pub(crate) struct GlobalArgument {
    /// Its value, if it has one.
    pub(crate) value: Option<String>,
    /// The other arguments that its default is made of.
    pub(crate) needs: BTreeSet<String>,
    /// Where it is.
    pub(crate) span: Span,
    /// What the comment before it says.
    pub(crate) description: Option<String>,
}

/// What FROM sees.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arguments {
    /// Values by name.
    pub(crate) values: BTreeMap<String, String>,
    /// What the Dockerfile declares.
    pub(crate) declared: BTreeMap<String, GlobalArgument>,
}

impl Arguments {
    /// With these build arguments, whatever the command line gives.
    pub(super) fn new(
        dockerfile: &Dockerfile,
        request: &Request,
        given: &BTreeMap<String, String>,
    ) -> Result<Self, ParseError> {
        let mut arguments = Self {
            values: predefined(dockerfile, request),
            ..Self::default()
        };
        arguments.declare(dockerfile, given)?;
        Ok(arguments)
    }

    fn declare(
        &mut self,
        dockerfile: &Dockerfile,
        given: &BTreeMap<String, String>,
    ) -> Result<(), ParseError> {
        for line in &dockerfile.global_args {
            for arg in &line.args {
                let name = &arg.name.text;
                let mut needs = BTreeSet::new();
                let value = match (given.get(name), &arg.default) {
                    (Some(value), _) => Some(value.clone()),
                    (None, Some(default)) => {
                        let expanded = expand(default, &self.values, dockerfile.escape())?;
                        needs = expanded.found;
                        Some(expanded.text)
                    }
                    (None, None) => None,
                };
                // `ARG A=$A-x` needs what the A before it needed.
                if needs.remove(name)
                    && let Some(earlier) = self.declared.get(name)
                {
                    needs.extend(earlier.needs.clone());
                }
                if let Some(value) = &value {
                    self.values.insert(name.clone(), value.clone());
                }
                let argument = GlobalArgument {
                    value,
                    needs,
                    span: line.span,
                    description: description(&line.comments, name),
                };
                self.declared.insert(name.clone(), argument);
            }
        }
        Ok(())
    }

    /// The names that are declared, or have a value.
    pub(super) fn names(&self) -> BTreeSet<&str> {
        let declared = self.declared.keys().map(String::as_str);
        declared.chain(self.values.keys().map(String::as_str)).collect()
    }
}

/// What one of the comments before a definition says of `name`.
pub(crate) fn description(comments: &[String], name: &str) -> Option<String> {
    let of_name = |comment: &String| Some(comment.strip_prefix(name)?.strip_prefix(' ')?.to_owned());
    comments.iter().find_map(of_name)
}

/// The arguments that every build has; the command line may give them other values.
fn predefined(dockerfile: &Dockerfile, request: &Request) -> BTreeMap<String, String> {
    let last = dockerfile.stages.last().and_then(|stage| stage.name.as_ref());
    let target = match (&request.target, last) {
        (Some(target), _) => target.clone(),
        (None, Some(name)) => name.text.clone(),
        (None, None) => "default".to_owned(),
    };
    let mut values = BTreeMap::from([("TARGETSTAGE".to_owned(), target)]);
    for (prefix, platform) in [("BUILD", Platform::host()), ("TARGET", request.platform())] {
        values.insert(format!("{prefix}PLATFORM"), platform.to_string());
        values.insert(format!("{prefix}OS"), platform.os);
        values.insert(format!("{prefix}OSVERSION"), String::new());
        values.insert(format!("{prefix}ARCH"), platform.architecture);
        values.insert(format!("{prefix}VARIANT"), platform.variant.unwrap_or_default());
    }
    for (name, value) in &mut values {
        if let Some(given) = request.build_args.get(name) {
            value.clone_from(given);
        }
    }
    values
}

/// The build arguments of the command line that no ARG declares and the builder does not know, each with the ARG that
/// may be meant. An ARG of an ONBUILD in a base image is not seen.
pub fn unknown_arguments<'r>(
    dockerfile: &'r Dockerfile,
    request: &'r Request,
) -> Vec<(&'r str, Option<&'r str>)> {
    let mut declared: BTreeSet<&str> = BTreeSet::new();
    let global = dockerfile.global_args.iter().map(|line| &line.args);
    let own = dockerfile.stages.iter().flat_map(|stage| &stage.instructions);
    let own = own.filter_map(|instruction| match &instruction.kind {
        InstructionKind::Arg(args) => Some(args),
        _ => None,
    });
    declared.extend(global.chain(own).flatten().map(|arg| arg.name.text.as_str()));
    let predefined = predefined(dockerfile, request);
    let is_known = |name: &str| {
        declared.contains(name)
            || predefined.contains_key(name)
            || PROXIES.contains(&name.to_ascii_lowercase().as_str())
            || name.starts_with("BUILDKIT_")
            || name == SOURCE_DATE_EPOCH
    };
    let given = request.build_args.keys().map(String::as_str);
    let unknown = given.filter(|name| !is_known(name));
    unknown
        .map(|name| (name, suggestion(name, declared.iter().copied())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(text: &str, given: &[(&str, &str)]) -> Arguments {
        let dockerfile = crate::dockerfile::parse(text.as_bytes()).expect("valid");
        let given = given.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let request = Request {
            build_args: given.collect(),
            ..Request::default()
        };
        Arguments::new(&dockerfile, &request, &request.build_args).expect("arguments")
    }

    #[test]
    fn defaults_are_made_of_earlier_arguments() {
        let text = "ARG A=1\nARG B=$A-2 C=${A:-x}\nARG B=$B-3\nARG D\nFROM x\n";
        let found = arguments(text, &[("A", "cli")]);
        assert_eq!(found.values["B"], "cli-2-3");
        assert_eq!(found.declared["B"].needs, ["A".to_owned()].into());
        assert!(!found.values.contains_key("D") && found.names().contains("D"));
    }

    #[test]
    fn the_command_line_goes_before_the_platforms() {
        let found = arguments("FROM x AS last\n", &[("TARGETARCH", "none"), ("HTTP_PROXY", "p")]);
        assert_eq!(
            (
                found.values["TARGETARCH"].as_str(),
                found.values["TARGETOS"].as_str()
            ),
            ("none", "linux")
        );
        assert_eq!(found.values["TARGETSTAGE"], "last");
        assert_eq!(arguments("FROM x\n", &[]).values["TARGETSTAGE"], "default");
    }

    #[test]
    fn arguments_that_nothing_declares_are_found() {
        let dockerfile = crate::dockerfile::parse(b"ARG BASE=x\nFROM $BASE\nARG VERSION\n").expect("valid");
        let given = [
            "BASE",
            "VERSOIN",
            "https_proxy",
            "BUILDKIT_SYNTAX",
            "TARGETARCH",
            "other",
        ];
        let request = Request {
            build_args: given.map(|name| (name.to_owned(), String::new())).into(),
            ..Request::default()
        };
        let unknown = unknown_arguments(&dockerfile, &request);
        assert_eq!(unknown, [("VERSOIN", Some("VERSION")), ("other", None)]);
    }

    #[test]
    fn a_proxy_has_both_its_names() {
        let request = Request {
            build_args: [("Http_Proxy".to_owned(), "p".to_owned())].into(),
            ..Request::default()
        };
        assert_eq!(
            Vec::from_iter(proxies(&request).into_keys()),
            ["HTTP_PROXY", "http_proxy"]
        );
    }
}
