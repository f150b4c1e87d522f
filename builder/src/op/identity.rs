//! Users and groups by name, as the image's `/etc/passwd` and `/etc/group` have them.

use mica_fs::overlay::{Follow, Overlay, Owner};
use mica_fs::path::ImagePath;

/// Why a user or group cannot be resolved.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// No such user.
    #[error("unable to find user {name}: no matching entry in the image's /etc/passwd")]
    User {
        /// As written.
        name: String,
    },
    /// No such group.
    #[error("unable to find group {name}: no matching entry in the image's /etc/group")]
    Group {
        /// As written.
        name: String,
    },
}

/// Who a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// `$HOME`: the user's home directory, `/` for a user without an entry.
    pub home: String,
}

/// The largest file that is read for names: larger ones have no place in an image.
const MAX_FILE: u64 = 8 << 20;

/// The users and groups of an image.
pub struct Accounts {
    passwd: Vec<Vec<String>>,
    group: Vec<Vec<String>>,
}

impl Accounts {
    /// Reads them; a file that is missing has no entries.
    pub fn of(overlay: &Overlay) -> Self {
        Self {
            passwd: records(overlay, b"/etc/passwd"),
            group: records(overlay, b"/etc/group"),
        }
    }

    /// Resolves the text of USER: `user`, `user:group`, each a name or a number. Empty means root. The groups
    /// that list the user are supplementary unless a group was named, as in Docker.
    ///
    /// # Errors
    /// [`IdentityError`] for names that the image does not know.
    pub fn identity(&self, text: &str) -> Result<Identity, IdentityError> {
        let (user, group) = split(text);
        let user = if user.is_empty() { "0" } else { user };
        let entry = self.user(user);
        let uid = match (entry.and_then(|e| number(e, 2)), user.parse()) {
            (Some(uid), _) | (None, Ok(uid)) => uid,
            (None, Err(_)) => {
                return Err(IdentityError::User {
                    name: user.to_owned(),
                });
            }
        };
        let named_group = group.map(|g| self.gid(g)).transpose()?;
        let gid = named_group
            .or_else(|| entry.and_then(|e| number(e, 3)))
            .unwrap_or(0);
        let name = entry.and_then(|e| e.first());
        let mut groups: Vec<u32> = match (named_group, name) {
            (None, Some(name)) => self
                .group
                .iter()
                .filter(|g| {
                    g.get(3)
                        .is_some_and(|members| members.split(',').any(|m| m == name))
                })
                .filter_map(|g| number(g, 2))
                .collect(),
            _ => Vec::new(),
        };
        if groups.is_empty() || !groups.contains(&gid) {
            groups.insert(0, gid);
        }
        let home = entry.and_then(|e| e.get(5)).filter(|home| !home.is_empty());
        Ok(Identity {
            uid,
            gid,
            groups,
            home: home.cloned().unwrap_or_else(|| "/".to_owned()),
        })
    }

    /// Resolves the text of `--chown`: a user alone gives the group of the same number, as in Docker.
    ///
    /// # Errors
    /// [`IdentityError`] for names that the image does not know.
    pub fn owner(&self, text: &str) -> Result<Owner, IdentityError> {
        let (user, group) = split(text);
        let entry = self.user(user);
        let uid = match (user, user.parse()) {
            ("", _) => 0,
            (_, Ok(uid)) => uid,
            (_, Err(_)) => entry
                .and_then(|e| number(e, 2))
                .ok_or_else(|| IdentityError::User {
                    name: user.to_owned(),
                })?,
        };
        let gid = match group {
            Some(group) => self.gid(group)?,
            None if user.parse::<u32>().is_ok() => uid,
            None => entry.and_then(|e| number(e, 3)).unwrap_or(uid),
        };
        Ok(Owner { uid, gid })
    }

    fn user(&self, user: &str) -> Option<&Vec<String>> {
        let by_name = self.passwd.iter().find(|e| e[0] == user);
        by_name.or_else(|| {
            let uid: u32 = user.parse().ok()?;
            self.passwd.iter().find(|e| number(e, 2) == Some(uid))
        })
    }

    fn gid(&self, group: &str) -> Result<u32, IdentityError> {
        let entry = self.group.iter().find(|e| e[0] == group);
        entry
            .and_then(|e| number(e, 2))
            .or_else(|| group.parse().ok())
            .ok_or_else(|| IdentityError::Group {
                name: group.to_owned(),
            })
    }
}

fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once(':') {
        Some((user, "")) => (user, None),
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    }
}

fn number(record: &[String], field: usize) -> Option<u32> {
    record.get(field)?.parse().ok()
}

/// The colon-separated records of a file of the image.
fn records(overlay: &Overlay, path: &[u8]) -> Vec<Vec<String>> {
    let read = || {
        let attr = overlay.resolve(&ImagePath::clean(path).ok()?, Follow::Yes).ok()?;
        let size = attr.size.min(MAX_FILE);
        let mut bytes = vec![0; usize::try_from(size).ok()?];
        let n = overlay.read(attr.ino, 0, &mut bytes).ok()?;
        bytes.truncate(n);
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    parse(&read().unwrap_or_default())
}

fn parse(text: &str) -> Vec<Vec<String>> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(':').map(str::to_owned).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: parse(
                "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1001::/home/user:/bin/sh\n# no\n7:x:70:7::/s:",
            ),
            group: parse("root:x:0:\nusers:x:100:user,other\nextra:x:2000:user\n"),
        }
    }

    #[test]
    fn identities_are_dockers() {
        let accounts = accounts();
        let user = accounts.identity("user").expect("known");
        assert_eq!(
            (user.uid, user.gid, user.home.as_str()),
            (1000, 1001, "/home/user")
        );
        assert_eq!(user.groups, [1001, 100, 2000]);
        let narrowed = accounts.identity("user:users").expect("known");
        assert_eq!((narrowed.gid, narrowed.groups), (100, vec![100]));
        let unknown_number = accounts.identity("4242").expect("a number");
        assert_eq!(
            (
                unknown_number.uid,
                unknown_number.gid,
                unknown_number.home.as_str()
            ),
            (4242, 0, "/")
        );
        assert_eq!(accounts.identity("").expect("root").home, "/root");
        assert!(matches!(
            accounts.identity("nobody"),
            Err(IdentityError::User { .. })
        ));
        assert!(matches!(
            accounts.identity("user:none"),
            Err(IdentityError::Group { .. })
        ));
    }

    #[test]
    fn owners_are_dockers() {
        let accounts = accounts();
        let owner = |text| accounts.owner(text).map(|o| (o.uid, o.gid));
        assert_eq!(owner("33"), Ok((33, 33)));
        assert_eq!(owner("user"), Ok((1000, 1001)));
        assert_eq!(owner(":users"), Ok((0, 100)));
        assert_eq!(owner("user:55"), Ok((1000, 55)));
        assert!(owner("ghost").is_err());
    }
}
