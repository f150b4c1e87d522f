//! Subordinate ids: the ranges that an administrator lends to a user; subuid(5), subgid(5).

use std::fmt;
use std::fs;

use nix::unistd::{Uid, User};

/// Of users or of groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Users,
    Groups,
}

impl Kind {
    pub(super) fn file(self) -> &'static str {
        match self {
            Self::Users => "/etc/subuid",
            Self::Groups => "/etc/subgid",
        }
    }
}

/// Whose ranges: the files name a user by login name or by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    login: Option<String>,
    uid: u32,
}

impl Owner {
    pub(super) fn of(uid: Uid) -> Self {
        let login = User::from_uid(uid).ok().flatten().map(|user| user.name);
        Self {
            login,
            uid: uid.as_raw(),
        }
    }
}

/// The login name, or the number where there is none.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.login {
            Some(login) => f.write_str(login),
            None => write!(f, "{}", self.uid),
        }
    }
}

/// How many ids the distributions' images need: up to 65534, nobody.
pub(super) const ENOUGH: u32 = 65536;

/// The ranges (first, count) that `owner` has; none if the file cannot be read.
pub(super) fn ranges(kind: Kind, owner: &Owner) -> Vec<(u32, u32)> {
    parse(&read(kind), owner)
}

/// The command that gives `owner` enough of what is missing, from a range that nobody has yet.
pub(super) fn remedy(owner: &Owner) -> String {
    let (users, groups) = (read(Kind::Users), read(Kind::Groups));
    let first = first_free(&users).max(first_free(&groups));
    let last = first.saturating_add(ENOUGH - 1);
    let total = |text| {
        parse(text, owner)
            .iter()
            .map(|(_, count)| u64::from(*count))
            .sum::<u64>()
    };
    let mut command = "usermod".to_owned();
    for (option, text) in [("--add-subuids", &users), ("--add-subgids", &groups)] {
        if total(text) < u64::from(ENOUGH) {
            command += &format!(" {option} {first}-{last}");
        }
    }
    format!("{command} {owner}")
}

fn read(kind: Kind) -> String {
    fs::read_to_string(kind.file()).unwrap_or_default()
}

/// The lines `OWNER:FIRST:COUNT` that make sense.
fn lines(text: &str) -> impl Iterator<Item = (&str, u32, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (first, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (count > 0 && first.checked_add(count).is_some()).then_some((owner, first, count))
    })
}

fn parse(text: &str, owner: &Owner) -> Vec<(u32, u32)> {
    let number = owner.uid.to_string();
    let mut ranges: Vec<_> = lines(text)
        .filter(|(name, ..)| *name == number || Some(*name) == owner.login.as_deref())
        .map(|(_, first, count)| (first, count))
        .collect();
    // A user listed both by name and by number would map the same ids twice, which is refused.
    ranges.sort_unstable();
    let mut end = 0;
    ranges.retain(|(first, count)| {
        let apart = *first >= end;
        if apart {
            end = first + count;
        }
        apart
    });
    ranges
}

/// Past every range in use, and not below where useradd(8) begins.
fn first_free(text: &str) -> u32 {
    lines(text)
        .map(|(_, first, count)| first + count)
        .fold(100_000, u32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(login: Option<&str>, uid: u32) -> Owner {
        Owner {
            login: login.map(str::to_owned),
            uid,
        }
    }

    #[test]
    fn ranges_come_by_name_and_by_number() {
        let text = "ann:100000:65536\n1000:300000:10\nbob:1:2\nann:bad:1\nann:5\n\nann:200000:0\n";
        assert_eq!(
            parse(text, &owner(Some("ann"), 1000)),
            [(100_000, 65536), (300_000, 10)]
        );
        assert_eq!(parse(text, &owner(None, 1000)), [(300_000, 10)]);
        assert_eq!(parse(text, &owner(Some("eve"), 7)), []);
    }

    #[test]
    fn ranges_that_overlap_or_overflow_are_left_out() {
        let text = "ann:100:50\n1000:100:50\nann:120:100\nann:4294967295:2\nann:150:1";
        assert_eq!(parse(text, &owner(Some("ann"), 1000)), [(100, 50), (150, 1)]);
    }

    #[test]
    fn a_new_range_is_nobody_elses() {
        assert_eq!(first_free(""), 100_000);
        assert_eq!(first_free("ann:100000:65536\nbob:5:5\n"), 165_536);
    }
}
