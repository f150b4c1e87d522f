//! Values that can be checked only once variables are replaced: ports, signals, platforms, owners,
//! durations. Each is read once, into a type that can't hold a wrong one.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// A value that is not of the form its instruction wants.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ValueError {
    message: String,
}

impl ValueError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }
}

/// Whether a build stage can have this name: `^[a-z][a-z0-9-_.]*$`.
pub fn is_stage_name(name: &str) -> bool {
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(rest)
}

/// The protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// `tcp`, the default.
    Tcp,
    /// `udp`.
    Udp,
    /// `sctp`.
    Sctp,
}

/// A port as `ExposedPorts` of an image's configuration names it; displays as `80/tcp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// The number.
    pub number: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        write!(f, "{}/{protocol}", self.number)
    }
}

/// Reads one word of EXPOSE: `PORT[-PORT][/PROTOCOL]`, one port or a range of them. As Docker does
/// it lets `[IP:][HOST-PORT:]` come before, and ignores it.
///
/// # Errors
/// If a number, a range, an address or the protocol is invalid.
pub fn parse_expose(word: &str) -> Result<Vec<Port>, ValueError> {
    let invalid = |why: &str| ValueError::new(format!("invalid port in EXPOSE: {word:?}: {why}"));
    let (host, container) = word.rsplit_once(':').map_or((None, word), |(h, c)| (Some(h), c));
    let (ports, protocol) = container.split_once('/').unwrap_or((container, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "" | "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return Err(invalid(&format!("unknown protocol {protocol:?}"))),
    };
    let (first, last) = port_range(ports).ok_or_else(|| invalid("no port or range of ports"))?;
    if let Some(host) = host {
        let (ip, host) = host
            .rsplit_once(':')
            .map_or((None, host), |(ip, host)| (Some(ip), host));
        let ip = ip.filter(|ip| !ip.is_empty());
        let bare = |ip: &str| -> String { ip.trim_matches(['[', ']']).to_owned() };
        if ip.is_some_and(|ip| bare(ip).parse::<IpAddr>().is_err()) {
            return Err(invalid("invalid IP address"));
        }
        if !host.is_empty() {
            let (host_first, host_last) = port_range(host).ok_or_else(|| invalid("invalid host port"))?;
            if first != last && last - first != host_last - host_first {
                return Err(invalid("the ranges differ in length"));
            }
        }
    }
    Ok((first..=last).map(|number| Port { number, protocol }).collect())
}

fn port_range(text: &str) -> Option<(u16, u16)> {
    let number = |text: &str| text.parse::<u16>().ok();
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (number(first)?, number(last)?),
        None => (number(text)?, number(text)?),
    };
    (first <= last).then_some((first, last))
}

const SIGNALS: [&str; 33] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU",
];

/// Checks the signal of STOPSIGNAL: a number, or a name with or without `SIG`, of any case. The
/// image's configuration holds the word as it stands.
///
/// # Errors
/// If it is neither.
pub fn parse_stop_signal(word: &str) -> Result<(), ValueError> {
    let name = word.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let offset = |text: &str, sign: char, most: u8| {
        let Some(offset) = text.strip_prefix(sign) else {
            return text.is_empty();
        };
        offset
            .parse::<u8>()
            .is_ok_and(|offset| (1..=most).contains(&offset))
    };
    let realtime = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => offset(rest, '+', 15),
        (_, Some(rest)) => offset(rest, '-', 14),
        _ => false,
    };
    let number = word.parse::<u32>().is_ok_and(|number| number > 0);
    if number || realtime || name == "XFSZ" || SIGNALS.contains(&name) {
        return Ok(());
    }
    Err(ValueError::new(format!(
        "invalid STOPSIGNAL: invalid signal: {word}"
    )))
}

/// A platform: `os/arch[/variant]`, normalized; displays in that form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// The operating system, as `linux`.
    pub os: String,
    /// The architecture, as `amd64`.
    pub architecture: String,
    /// The variant, as `v7`; none where the architecture implies it.
    pub variant: Option<String>,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant
            .as_ref()
            .map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl Platform {
    /// The platform this program runs on.
    pub fn host() -> Self {
        Self::normalized("linux", std::env::consts::ARCH, None)
    }

    fn normalized(os: &str, architecture: &str, variant: Option<&str>) -> Self {
        let os = os.to_ascii_lowercase();
        let architecture = architecture.to_ascii_lowercase();
        let variant = variant.map(str::to_ascii_lowercase);
        let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
            ("i386" | "x86", _) => ("386", None),
            ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64", None),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", None | Some("8" | "v8")) => ("arm64", None),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) => ("arm", Some("v7")),
            ("armel", _) => ("arm", Some("v6")),
            ("arm", None | Some("7")) => ("arm", Some("v7")),
            ("arm", Some("5")) => ("arm", Some("v5")),
            ("arm", Some("6")) => ("arm", Some("v6")),
            ("arm", Some("8")) => ("arm", Some("v8")),
            ("powerpc64" | "ppc64el", variant) => ("ppc64le", variant),
            (architecture, variant) => (architecture, variant),
        };
        Self {
            os: if os == "macos" { "darwin".to_owned() } else { os },
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        }
    }
}

const SYSTEMS: [&str; 8] = [
    "linux", "windows", "darwin", "macos", "freebsd", "netbsd", "openbsd", "wasip1",
];

const ARCHITECTURES: [&str; 22] = [
    "386", "aarch64", "amd64", "arm", "arm64", "armel", "armhf", "i386", "loong64", "mips", "mips64",
    "mips64le", "mipsle", "ppc64", "ppc64el", "ppc64le", "riscv64", "s390x", "wasm", "x86", "x86-64",
    "x86_64",
];

/// Reads a platform: `os/arch[/variant]`, or one of the two alone with the host's for the other.
///
/// # Errors
/// If it has other than one to three parts, an empty part, or a single one that is unknown.
pub fn parse_platform(word: &str) -> Result<Platform, ValueError> {
    let invalid = |why: &str| ValueError::new(format!("invalid platform {word:?}: {why}"));
    let part = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let parts: Vec<&str> = word.split('/').collect();
    if parts
        .iter()
        .any(|text| text.is_empty() || !text.chars().all(part))
    {
        return Err(invalid("it must be os/arch or os/arch/variant"));
    }
    let host = Platform::host();
    let known = |names: &[&str], name: &str| names.contains(&name.to_ascii_lowercase().as_str());
    match parts.as_slice() {
        [os] if known(&SYSTEMS, os) => Ok(Platform::normalized(
            os,
            &host.architecture,
            host.variant.as_deref(),
        )),
        [architecture] if known(&ARCHITECTURES, architecture) => {
            Ok(Platform::normalized(&host.os, architecture, None))
        }
        [_] => Err(invalid("unknown operating system or architecture")),
        [os, architecture] => Ok(Platform::normalized(os, architecture, None)),
        [os, architecture, variant] => Ok(Platform::normalized(os, architecture, Some(variant))),
        _ => Err(invalid("it must be os/arch or os/arch/variant")),
    }
}

/// A user or a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// By number.
    Id(u32),
    /// By a name, to be looked up in the image's /etc/passwd or /etc/group.
    Name(String),
}

impl Principal {
    /// Digits are a number; nothing at all is root.
    fn parse(text: &str) -> Self {
        match text.parse() {
            Ok(id) if !text.starts_with('+') => Self::Id(id),
            _ if text.is_empty() => Self::Id(0),
            _ => Self::Name(text.to_owned()),
        }
    }
}

/// The value of `--chown`: `USER[:GROUP]`, each a name or a number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The user; root if there is nothing before the colon.
    pub user: Principal,
    /// The group, where there is a colon.
    pub group: Option<Principal>,
}

impl Owner {
    /// Reads `USER[:GROUP]`. Anything is a name, so nothing is refused before it is looked up.
    pub fn parse(word: &str) -> Self {
        match word.split_once(':') {
            Some((user, group)) => Self {
                user: Principal::parse(user),
                group: Some(Principal::parse(group)),
            },
            None => Self {
                user: Principal::parse(word),
                group: None,
            },
        }
    }
}

/// Reads a duration as Go writes it: `1h30m`, `1.5s`, `300ms`, `0`. Units: ns, us (µs), ms, s, m, h.
///
/// # Errors
/// If it is none, is negative, or is longer than Go's 64 bits of nanoseconds hold (292 years).
pub fn parse_duration(word: &str) -> Result<Duration, ValueError> {
    let invalid = || ValueError::new(format!("invalid duration {word:?}"));
    if word.starts_with('-') && word != "-0" {
        return Err(ValueError::new(format!(
            "invalid duration {word:?}: it is negative"
        )));
    }
    let mut rest = word.strip_prefix(['+', '-']).unwrap_or(word);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let unit = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        rest = tail;
        let nanoseconds: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "" => {
                return Err(ValueError::new(format!(
                    "invalid duration {word:?}: missing unit"
                )));
            }
            _ => {
                let message = format!("invalid duration {word:?}: unknown unit {unit:?}");
                return Err(ValueError::new(message));
            }
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || whole.len() > 19 || fraction.contains('.') {
            return Err(invalid());
        }
        let whole: u128 = if whole.is_empty() {
            0
        } else {
            whole.parse().map_err(|_| invalid())?
        };
        // Digits beyond these are less than a nanosecond.
        let fraction = fraction.get(..fraction.len().min(18)).unwrap_or_default();
        let mut scale: u128 = 1;
        let mut parts: u128 = 0;
        for digit in fraction.chars().filter_map(|c| c.to_digit(10)) {
            parts = parts * 10 + u128::from(digit);
            scale *= 10;
        }
        total += whole * nanoseconds + parts * nanoseconds / scale;
        if total > i64::MAX as u128 {
            return Err(invalid());
        }
    }
    Ok(Duration::from_nanos(u64::try_from(total).map_err(|_| invalid())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        let ports = |word: &str| -> Result<Vec<String>, ValueError> {
            Ok(parse_expose(word)?.iter().map(Port::to_string).collect())
        };
        assert_eq!(ports("80").unwrap(), ["80/tcp"]);
        assert_eq!(ports("53/UDP").unwrap(), ["53/udp"]);
        assert_eq!(
            ports("8000-8002/tcp").unwrap(),
            ["8000/tcp", "8001/tcp", "8002/tcp"]
        );
        assert_eq!(ports("127.0.0.1:80:8080/sctp").unwrap(), ["8080/sctp"]);
        assert_eq!(ports("[::1]:1:2").unwrap(), ["2/tcp"]);
        assert_eq!(ports("0-65535").unwrap().len(), 65536);
        for bad in [
            "", "notaport", "/tcp", "80/http", "9-8", "65536", "80-", "x:1:2", "1-2:3-5",
        ] {
            let error = ports(bad).expect_err(bad);
            assert!(error.to_string().contains("port"), "{error}");
        }
    }

    #[test]
    fn signals() {
        for good in [
            "SIGTERM",
            "term",
            "9",
            "SIGRTMIN+3",
            "RTMAX-14",
            "RTMIN",
            "SIGXFSZ",
        ] {
            assert_eq!(parse_stop_signal(good), Ok(()), "{good}");
        }
        for bad in ["", "0", "A B", "SIGRTMIN+16", "SIGNOPE", "-1"] {
            assert!(parse_stop_signal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn platforms() {
        let platform = |word| parse_platform(word).map(|p| p.to_string());
        assert_eq!(platform("linux/amd64").as_deref(), Ok("linux/amd64"));
        assert_eq!(platform("Linux/x86_64").as_deref(), Ok("linux/amd64"));
        assert_eq!(platform("linux/arm/v6").as_deref(), Ok("linux/arm/v6"));
        assert_eq!(platform("arm").as_deref(), Ok("linux/arm/v7"));
        assert_eq!(platform("linux/aarch64/v8").as_deref(), Ok("linux/arm64"));
        for bad in ["", "linux/", "not/a/real/one/x", "nonsense", "a b/c"] {
            assert!(parse_platform(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn owners() {
        let name = |name: &str| Principal::Name(name.to_owned());
        let owner = |user, group| Owner { user, group };
        assert_eq!(
            Owner::parse("11:22"),
            owner(Principal::Id(11), Some(Principal::Id(22)))
        );
        assert_eq!(Owner::parse("user"), owner(name("user"), None));
        assert_eq!(
            Owner::parse(":daemon"),
            owner(Principal::Id(0), Some(name("daemon")))
        );
    }

    #[test]
    fn durations() {
        let milliseconds = |word| parse_duration(word).map(|d| d.as_millis());
        assert_eq!(milliseconds("1m30s"), Ok(90_000));
        assert_eq!(milliseconds("1.5h"), Ok(5_400_000));
        assert_eq!(milliseconds(".5s"), Ok(500));
        assert_eq!(milliseconds("300ms"), Ok(300));
        assert_eq!(milliseconds("0"), Ok(0));
        assert_eq!(parse_duration("1µs"), Ok(Duration::from_micros(1)));
        for bad in ["", "zz", "1", "s", ".s", "1x", "-1s", "1.2.3s", "9999999h", "+"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        let digits = format!("1.{}s", "3".repeat(10_000));
        assert_eq!(milliseconds(&digits), Ok(1333));
    }

    #[test]
    fn stage_names() {
        assert!(is_stage_name("a-b_c.9"));
        for bad in ["", "9a", "-a", "A", "a b", "a/b", "é"] {
            assert!(!is_stage_name(bad), "{bad}");
        }
    }
}
