//! Users and groups by name, as the image's `/etc/passwd` and `/etc/group` have them.

use std::ops::ControlFlow;

use mica_fs::overlay::{Follow, Ino, Overlay, Owner};
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
    /// An image without any file, where there are no names at all.
    #[error("unable to find {name}: the image is empty and has no /etc/passwd")]
    Empty {
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
    /// Whether the image has no file at all.
    empty: bool,
    passwd: Vec<Vec<String>>,
    group: Vec<Vec<String>>,
}

impl Accounts {
    /// Reads them; a file that is missing has no entries.
    pub fn of(overlay: &Overlay) -> Self {
        Self {
            empty: is_empty(overlay),
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

    /// Resolves the text of `--chown`, and that of USER for the directories of WORKDIR. As in Docker a number alone is
    /// also that of the group, a name alone has the group of its entry, and a name that the image does not know is
    /// root, or the group of the user.
    ///
    /// # Errors
    /// [`IdentityError::Empty`] for a name in an image without any file.
    pub fn owner(&self, text: &str) -> Result<Owner, IdentityError> {
        let (user, group) = text.split_once(':').map_or((text, None), |(u, g)| (u, Some(g)));
        let own = match owner_number(user) {
            Some(number) => Owner {
                uid: number,
                gid: number,
            },
            None => {
                let entry = self.named(&self.passwd, user)?;
                Owner {
                    uid: entry.and_then(|e| number(e, 2)).unwrap_or(0),
                    gid: entry.and_then(|e| number(e, 3)).unwrap_or(0),
                }
            }
        };
        let gid = match group.map(|group| (group, owner_number(group))) {
            None => own.gid,
            Some((_, Some(number))) => number,
            Some((group, None)) => {
                let entry = self.named(&self.group, group)?;
                entry.and_then(|e| number(e, 2)).unwrap_or(own.gid)
            }
        };
        Ok(Owner { uid: own.uid, gid })
    }

    /// The entry of a name, if there is one.
    fn named<'t>(
        &self,
        table: &'t [Vec<String>],
        name: &str,
    ) -> Result<Option<&'t Vec<String>>, IdentityError> {
        if self.empty {
            let name = name.to_owned();
            return Err(IdentityError::Empty { name });
        }
        Ok(table.iter().find(|entry| entry[0] == name))
    }

    /// The names that [`Self::owner`] does without, since the image does not know them.
    pub fn unknown<'t>(&self, text: &'t str) -> impl Iterator<Item = &'t str> {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        let missing = |(name, table): (&'t str, &[Vec<String>])| {
            let known = owner_number(name).is_some() || table.iter().any(|entry| entry[0] == name);
            (!known).then_some(name)
        };
        [(user, &*self.passwd), (group, &*self.group)]
            .into_iter()
            .filter_map(missing)
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

/// The number that a part of an owner says: nothing and `root` are 0.
fn owner_number(part: &str) -> Option<u32> {
    match part {
        "" | "root" => Some(0),
        number => number.parse().ok(),
    }
}

fn is_empty(overlay: &Overlay) -> bool {
    let mut empty = true;
    let listed = overlay.read_dir(Ino::ROOT, 0, &mut |entry| {
        empty &= matches!(entry.name, b"." | b"..");
        match empty {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    });
    listed.is_ok() && empty
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
            empty: false,
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
        assert_eq!(owner("user:"), Ok((1000, 0)));
        assert_eq!(owner("root"), Ok((0, 0)));
        assert_eq!(owner("ghost"), Ok((0, 0)));
        assert_eq!(owner("user:ghosts"), Ok((1000, 1001)));
        assert_eq!(
            Vec::from_iter(accounts.unknown("ghost:ghosts")),
            ["ghost", "ghosts"]
        );
        assert_eq!(accounts.unknown("user:5").count(), 0);
        let nothing = Accounts {
            empty: true,
            passwd: Vec::new(),
            group: Vec::new(),
        };
        let owner = |text| nothing.owner(text).map(|o| (o.uid, o.gid));
        assert_eq!((owner("root"), owner("3:4")), (Ok((0, 0)), Ok((3, 4))));
        assert!(matches!(owner("ghost"), Err(IdentityError::Empty { .. })));
    }
}
