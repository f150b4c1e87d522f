//! `RUN --mount`: what a step sees besides its root filesystem.
//!
//! The value is a line of comma-separated options, each of which may be quoted as in CSV. Variables are replaced
//! option by option, so that a comma in a variable's value does not begin another option.

use super::nodes::Word;
use super::source::ParseError;
use super::suggest::suggestion;

/// One `--mount` of RUN, its variables replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is seen, as written; `None` where that is left out. A relative path is one from the working
    /// directory.
    pub target: Option<String>,
    /// What is seen there.
    pub kind: MountKind,
}

/// What a [`Mount`] shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// Files of the build context, of a stage or of an image.
    Bind {
        /// Where they come from.
        origin: MountOrigin,
        /// Whether the step may write; what it writes is thrown away.
        writable: bool,
    },
    /// A directory that stays from one build to the next.
    Cache {
        /// Which one; the target if it is left out.
        id: Option<String>,
        /// What `from` and `source` say.
        source: CacheSource,
        /// Who else may use it meanwhile.
        sharing: Sharing,
        /// Owner and mode of the directory.
        permissions: MountPermissions,
        /// Whether the step may write.
        writable: bool,
    },
    /// An empty filesystem in memory.
    Tmpfs {
        /// Its limit in bytes; `None` for the system's.
        size: Option<u64>,
        /// Whether the step may write.
        writable: bool,
    },
    /// A secret of the command line.
    Secret {
        /// Which one.
        id: String,
        /// The variable that holds it; there is no file then unless `target` is given.
        env: Option<String>,
        /// Whether the step fails without it.
        required: bool,
        /// Owner and mode of the file.
        permissions: MountPermissions,
    },
    /// A socket of an SSH agent of the command line.
    Ssh {
        /// Which one; `None` is `default`.
        id: Option<String>,
        /// Whether the step fails without it.
        required: bool,
        /// Owner and mode of the socket.
        permissions: MountPermissions,
    },
}

/// What `from` and `source` mean for a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheSource {
    /// With `from`: what a new cache is filled with.
    Seed(MountOrigin),
    /// Without: which part of the cache is seen; empty for all of it. As in BuildKit, which fills a cache with an empty
    /// image then and takes `source` for a path in that.
    Part(String),
}

/// Where the files of a mount come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountOrigin {
    /// `from`: a stage, an image or a named context; `None` is the build context.
    pub from: Option<String>,
    /// `source`: the path in it; empty for its root.
    pub source: String,
}

/// Owner and mode; what is `None` has a default that depends on the kind of mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountPermissions {
    /// User.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Permission bits.
    pub mode: Option<u32>,
}

/// Who may use a cache at the same time, from the least strict to the strictest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sharing {
    /// Everyone.
    #[default]
    Shared,
    /// Nobody: who comes meanwhile gets another directory.
    Private,
    /// Nobody: who comes meanwhile waits.
    Locked,
}

const TYPES: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];
const SHARINGS: [&str; 3] = ["shared", "private", "locked"];
const OPTIONS: [&str; 16] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "env",
];

/// What replaces the variables of an option's value.
pub type Expand<'a> = &'a dyn Fn(&str) -> Result<String, ParseError>;

impl Mount {
    /// Reads the value of a `--mount` flag.
    ///
    /// # Errors
    /// What is wrong with which option; what `expand` reports.
    pub fn parse(word: &Word, expand: Expand<'_>) -> Result<Self, ParseError> {
        let mut options = Options::default();
        for field in fields(&word.text).map_err(|e| ParseError::new(word.span, format!("--mount: {e}")))? {
            let (name, value) = match field.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (field.as_str(), None),
            };
            let name = name.to_ascii_lowercase();
            if name == "from" && value.is_some_and(has_variable) {
                let message = "--mount: from doesn't support variables";
                return Err(ParseError::new(word.span, message).with_hint(
                    "define a stage with FROM using an ARG from before the first FROM, and name it",
                ));
            }
            let value = value.map(expand).transpose()?;
            let problem = |problem: Problem| problem.at(word, &field);
            options.set(&name, value).map_err(problem)?;
        }
        options.finish().map_err(|problem| problem.at(word, &word.text))
    }
}

/// What is wrong with an option, and what to do.
struct Problem {
    message: String,
    hint: Option<String>,
}

impl Problem {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Names the nearest of the words that would do, or all of them.
    fn one_of(self, given: &str, words: &[&str]) -> Self {
        let hint = match suggestion(given, words.iter().copied()) {
            Some(word) => format!("did you mean {word}?"),
            None => format!("it may be {}", words.join(", ")),
        };
        self.hint(hint)
    }

    fn at(self, word: &Word, text: &str) -> ParseError {
        let error = ParseError::new(word.span, format!("--mount={text}: {}", self.message));
        match self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Type {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }
}

/// The options as they are given.
#[derive(Default)]
struct Options {
    kind: Type,
    from: String,
    source: String,
    target: String,
    id: String,
    writable: Option<bool>,
    sharing: Option<Sharing>,
    required: Option<bool>,
    size: Option<u64>,
    env: Option<String>,
    permissions: MountPermissions,
}

impl Options {
    fn set(&mut self, name: &str, value: Option<String>) -> Result<(), Problem> {
        match (name, value) {
            ("readonly" | "ro", None) => self.writable = Some(false),
            ("readwrite" | "rw", None) => self.writable = Some(true),
            ("required", None) => self.required = Some(true),
            ("readonly" | "ro", Some(value)) => self.writable = Some(!boolean(name, &value)?),
            ("readwrite" | "rw", Some(value)) => self.writable = Some(boolean(name, &value)?),
            ("required", Some(value)) => self.required = Some(boolean(name, &value)?),
            ("type", Some(value)) => self.kind = kind(&value)?,
            ("from", Some(value)) => self.from = value,
            ("source" | "src", Some(value)) => self.source = value,
            ("target" | "dst" | "destination", Some(value)) => self.target = value,
            ("id", Some(value)) => self.id = value,
            ("sharing", Some(value)) => self.sharing = Some(sharing(&value)?),
            ("size", Some(value)) => {
                self.size = Some(size(&value).ok_or_else(|| {
                    Problem::new(format!("{value:?} is no size")).hint("write bytes, or 64m, or 1g")
                })?);
            }
            ("env", Some(value)) => self.env = Some(value),
            ("mode", Some(value)) => self.permissions.mode = Some(number(name, &value, 8)? & 0o7777),
            ("uid", Some(value)) => self.permissions.uid = Some(number(name, &value, 10)?),
            ("gid", Some(value)) => self.permissions.gid = Some(number(name, &value, 10)?),
            (name, None) if OPTIONS.contains(&name) || ["mode", "uid", "gid"].contains(&name) => {
                return Err(Problem::new(format!("{name} needs a value")).hint(format!("write {name}=VALUE")));
            }
            (name, _) => {
                return Err(Problem::new(format!("unknown option {name:?}")).one_of(name, &OPTIONS));
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Mount, Problem> {
        self.check_names()?;
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let origin = MountOrigin {
            from: given(&self.from),
            source: self.source.clone(),
        };
        let kind = match self.kind {
            Type::Bind => MountKind::Bind {
                origin,
                writable: self.writable.unwrap_or(false),
            },
            Type::Cache => MountKind::Cache {
                id: given(&self.id),
                source: match origin.from {
                    Some(_) => CacheSource::Seed(origin),
                    None => CacheSource::Part(origin.source),
                },
                sharing: self.sharing.unwrap_or_default(),
                permissions: self.permissions,
                writable: self.writable.unwrap_or(true),
            },
            Type::Tmpfs => MountKind::Tmpfs {
                size: self.size.filter(|&size| size > 0),
                writable: self.writable.unwrap_or(true),
            },
            Type::Secret => MountKind::Secret {
                id: self.secret_id()?,
                env: self.env.clone(),
                required: self.required.unwrap_or(false),
                permissions: self.permissions,
            },
            Type::Ssh if !self.source.is_empty() => {
                return Err(Problem::new("ssh does not support source").hint("id=NAME tells which agent"));
            }
            Type::Ssh => MountKind::Ssh {
                id: given(&self.id),
                required: self.required.unwrap_or(false),
                permissions: self.permissions,
            },
        };
        Ok(Mount {
            target: given(&self.target),
            kind,
        })
    }

    /// Each option is for some types only.
    fn check_names(&self) -> Result<(), Problem> {
        let kind = self.kind;
        let refused = |name: &str, given: bool, types: &[Type]| match given && !types.contains(&kind) {
            true => Err(Problem::new(format!("{name} is not for type={}", kind.name()))),
            false => Ok(()),
        };
        let owned = [Type::Secret, Type::Ssh, Type::Cache];
        refused("mode", self.permissions.mode.is_some(), &owned)?;
        refused("uid", self.permissions.uid.is_some(), &owned)?;
        refused("gid", self.permissions.gid.is_some(), &owned)?;
        refused("required", self.required.is_some(), &[Type::Secret, Type::Ssh])?;
        refused("size", self.size.is_some(), &[Type::Tmpfs])?;
        refused("env", self.env.is_some(), &[Type::Secret])?;
        refused("sharing", self.sharing.is_some(), &[Type::Cache])?;
        let filled = [Type::Bind, Type::Cache, Type::Tmpfs];
        refused("from", !self.from.is_empty(), &filled)
    }

    /// `id`, or `source`, or the last name of the target.
    fn secret_id(&self) -> Result<String, Problem> {
        let last = self.target.rsplit('/').find(|name| !name.is_empty());
        match (self.id.as_str(), self.source.as_str(), last) {
            ("", "", None) => {
                Err(Problem::new("a secret needs an id or a target").hint("write type=secret,id=NAME"))
            }
            ("", "", Some(name)) => Ok(name.to_owned()),
            ("", id, _) | (id, "", _) => Ok(id.to_owned()),
            _ => Err(Problem::new("both id and source are given: one names the secret")),
        }
    }
}

fn kind(value: &str) -> Result<Type, Problem> {
    Ok(match value.to_ascii_lowercase().as_str() {
        "bind" => Type::Bind,
        "cache" => Type::Cache,
        "tmpfs" => Type::Tmpfs,
        "secret" => Type::Secret,
        "ssh" => Type::Ssh,
        _ => return Err(Problem::new(format!("unsupported mount type {value:?}")).one_of(value, &TYPES)),
    })
}

fn sharing(value: &str) -> Result<Sharing, Problem> {
    Ok(match value.to_ascii_lowercase().as_str() {
        "shared" => Sharing::Shared,
        "private" => Sharing::Private,
        "locked" => Sharing::Locked,
        _ => return Err(Problem::new(format!("unsupported sharing {value:?}")).one_of(value, &SHARINGS)),
    })
}

/// The words that Go's `strconv.ParseBool` knows.
fn boolean(name: &str, value: &str) -> Result<bool, Problem> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(Problem::new(format!("invalid value {value:?} for {name}")).hint("it may be true or false")),
    }
}

fn number(name: &str, value: &str, radix: u32) -> Result<u32, Problem> {
    let plain = !value.starts_with('+');
    u32::from_str_radix(value, radix)
        .ok()
        .filter(|_| plain)
        .ok_or_else(|| {
            let kind = if radix == 8 { "an octal" } else { "a decimal" };
            Problem::new(format!("invalid value {value:?} for {name}")).hint(format!("it is {kind} number"))
        })
}

/// A size as Docker reads one: a number with an optional fraction, then `b`, `k`, `m`, `g`, `t` or `p`, each a power
/// of 1024, perhaps with `b` or `ib` after it.
fn size(value: &str) -> Option<u64> {
    let lower = value.trim().to_ascii_lowercase();
    let at = lower
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(lower.len());
    let (number, unit) = lower.split_at(at);
    let unit = unit.trim_start();
    let bare = unit
        .strip_suffix("ib")
        .or_else(|| unit.strip_suffix('b'))
        .unwrap_or(unit);
    let power = match bare {
        "" if unit != "ib" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let scale = 1_u64 << (10 * power);
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale);
    }
    let bytes = number.parse::<f64>().ok()? * scale as f64;
    // A number of digits and a dot is finite and not negative; the cast saturates.
    Some(bytes as u64)
}

fn has_variable(value: &str) -> bool {
    value.find('$').is_some_and(|at| at + 1 < value.len())
}

/// What the value of a `--mount` flag names with `from`, without looking at the rest.
pub fn origin(text: &str) -> Option<String> {
    let fields = fields(text).ok()?;
    let from = |field: &String| {
        let (name, value) = field.split_once('=')?;
        name.eq_ignore_ascii_case("from").then(|| value.to_owned())
    };
    fields.iter().rev().find_map(from)
}

/// The fields of one CSV record.
fn fields(text: &str) -> Result<Vec<String>, &'static str> {
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let (field, after) = rest.split_at(end);
                if field.contains('"') {
                    return Err(
                        "a quote stands within an option: quote the whole option, as in \"source=a,b\"",
                    );
                }
                (field.to_owned(), after)
            }
        };
        fields.push(field);
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None if after.is_empty() => return Ok(fields),
            None => return Err("something follows a closing quote"),
        }
    }
}

/// A field after its opening quote, and what follows its closing one. Two quotes stand for one.
fn quoted_field(mut rest: &str) -> Result<(String, &str), &'static str> {
    let mut field = String::new();
    loop {
        let (part, after) = rest.split_once('"').ok_or("a quote is not closed")?;
        field.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                field.push('"');
                rest = more;
            }
            None => return Ok((field, after)),
        }
    }
}

#[cfg(test)]
mod tests;
