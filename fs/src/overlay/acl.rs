//! POSIX access control lists: acl(5).
//!
//! The kernel decides by them (`FUSE_POSIX_ACL`), or who checks permissions in its place. What else a filesystem has to do is here: a list and the mode agree
//! (setting one changes the other), and what is created in a directory gets its default list. Lists are kept, and
//! lie in layers, as the attributes that getxattr(2) gives: linux/posix_acl_xattr.h.

/// The attribute with the list that guards a node.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute with the list that new nodes in a directory get.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The id of an entry that needs none.
const NO_ID: u32 = u32::MAX;

/// A list with the three entries that the mode has too, and perhaps more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acl(Vec<Entry>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

impl Acl {
    /// Reads the value of the attribute; `None` if it is no valid list.
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        let (version, rest) = value.split_first_chunk()?;
        let (entries, odd) = rest.as_chunks::<8>();
        if u32::from_le_bytes(*version) != VERSION || !odd.is_empty() {
            return None;
        }
        let entries: Vec<_> = entries
            .iter()
            .map(|[a, b, c, d, id @ ..]| Entry {
                tag: u16::from_le_bytes([*a, *b]),
                permissions: u16::from_le_bytes([*c, *d]),
                id: u32::from_le_bytes(*id),
            })
            .collect();
        let acl = Self(entries);
        acl.is_valid().then_some(acl)
    }

    /// One entry for the owner, the group and the others each, and a mask if somebody else is named.
    fn is_valid(&self) -> bool {
        let count = |tag| self.0.iter().filter(|entry| entry.tag == tag).count();
        let known = [USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER];
        let named = count(USER) + count(GROUP);
        self.0
            .iter()
            .all(|entry| known.contains(&entry.tag) && entry.permissions <= 7)
            && [USER_OBJ, GROUP_OBJ, OTHER]
                .into_iter()
                .all(|tag| count(tag) == 1)
            && (count(MASK) == 1 || count(MASK) == 0 && named == 0)
    }

    /// The value of the attribute.
    pub(super) fn value(&self) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            let needs_id = matches!(entry.tag, USER | GROUP);
            value.extend_from_slice(&entry.tag.to_le_bytes());
            value.extend_from_slice(&entry.permissions.to_le_bytes());
            value.extend_from_slice(&if needs_id { entry.id } else { NO_ID }.to_le_bytes());
        }
        value
    }

    /// Whether the mode says all that the list does.
    pub(super) fn is_mode(&self) -> bool {
        self.0.len() == 3
    }

    /// The permission bits that go with the list: the group's are those of the mask.
    pub(super) fn mode(&self) -> u32 {
        let bits = |tag, shift| {
            let entry = self.0.iter().find(|entry| entry.tag == tag);
            entry.map_or(0, |entry| u32::from(entry.permissions) << shift)
        };
        let has_mask = self.0.iter().any(|entry| entry.tag == MASK);
        let group = if has_mask { MASK } else { GROUP_OBJ };
        bits(USER_OBJ, 6) | bits(group, 3) | bits(OTHER, 0)
    }

    /// The list after a chmod(2).
    pub(super) fn with_mode(self, mode: u32) -> Self {
        self.map_mode(|_, bits| bits, mode)
    }

    /// The list of a node that is created with `mode` where this one is the default.
    pub(super) fn created_with(self, mode: u32) -> Self {
        self.map_mode(|permissions, bits| permissions & bits, mode)
    }

    /// The permissions of who is user `uid` and member of the groups that `is_member` knows, on a node of this owner: the
    /// first class that fits decides, and of the groups any that grants all of `wanted`. As a sum of `R_OK`, `W_OK`, `X_OK`.
    pub(crate) fn grants(
        &self,
        wanted: u32,
        uid: u32,
        is_member: impl Fn(u32) -> bool,
        owner: (u32, u32),
    ) -> bool {
        let find = |tag| self.0.iter().find(move |entry| entry.tag == tag);
        let has = |entry: &Entry| wanted & !u32::from(entry.permissions) & 7 == 0;
        let is_masked = |entry: &Entry| has(entry) && find(MASK).is_none_or(has);
        if uid == owner.0 {
            return find(USER_OBJ).is_some_and(has);
        }
        if let Some(user) = self.0.iter().find(|entry| entry.tag == USER && entry.id == uid) {
            return is_masked(user);
        }
        let is_ours = |entry: &&Entry| match entry.tag {
            GROUP_OBJ => is_member(owner.1),
            GROUP => is_member(entry.id),
            _ => false,
        };
        let mut groups = self.0.iter().filter(is_ours).peekable();
        match groups.peek() {
            Some(_) => groups.any(is_masked),
            None => find(OTHER).is_some_and(has),
        }
    }

    fn map_mode(mut self, change: impl Fn(u16, u16) -> u16, mode: u32) -> Self {
        let has_mask = self.0.iter().any(|entry| entry.tag == MASK);
        for entry in &mut self.0 {
            let shift = match entry.tag {
                USER_OBJ => 6,
                MASK => 3,
                GROUP_OBJ if !has_mask => 3,
                OTHER => 0,
                _ => continue,
            };
            entry.permissions = change(entry.permissions, (mode >> shift & 7) as u16);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut value = VERSION.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            value.extend_from_slice(&tag.to_le_bytes());
            value.extend_from_slice(&permissions.to_le_bytes());
            value.extend_from_slice(&id.to_le_bytes());
        }
        value
    }

    #[test]
    fn a_list_and_the_mode_agree() {
        let value = acl(&[
            (1, 7, NO_ID),
            (2, 7, 1000),
            (4, 5, NO_ID),
            (16, 5, NO_ID),
            (32, 4, NO_ID),
        ]);
        let list = Acl::parse(&value).expect("a list");
        assert_eq!((list.mode(), list.is_mode(), list.value()), (0o754, false, value));
        let changed = list.clone().with_mode(0o640);
        assert_eq!(changed.mode(), 0o640);
        assert_eq!(list.created_with(0o661).mode(), 0o640);
        let plain = acl(&[(1, 6, NO_ID), (4, 4, NO_ID), (32, 0, NO_ID)]);
        let plain = Acl::parse(&plain).expect("a list");
        assert_eq!((plain.mode(), plain.is_mode()), (0o640, true));
        let mask_only = acl(&[(1, 6, NO_ID), (4, 7, NO_ID), (16, 4, NO_ID), (32, 0, NO_ID)]);
        assert_eq!(Acl::parse(&mask_only).expect("a list").mode(), 0o640);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let good = [(1, 7, NO_ID), (4, 5, NO_ID), (32, 4, NO_ID)];
        assert!(Acl::parse(&acl(&good)).is_some());
        assert!(Acl::parse(&acl(&good[1..])).is_none());
        assert!(Acl::parse(&acl(&[good[0], good[0], good[1], good[2]])).is_none());
        assert!(
            Acl::parse(&acl(&[good[0], (2, 7, 5), good[1], good[2]])).is_none(),
            "no mask"
        );
        assert!(Acl::parse(&acl(&[(1, 8, NO_ID), good[1], good[2]])).is_none());
        assert!(Acl::parse(&acl(&[(3, 7, NO_ID), good[1], good[2]])).is_none());
        for cut in 0..acl(&good).len() {
            assert!(Acl::parse(&acl(&good)[..cut]).is_none());
        }
        assert!(Acl::parse(&[1; 28]).is_none());
    }
}
