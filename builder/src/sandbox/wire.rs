//! How paths cross to the init process: as bytes, since serde's own paths must be UTF-8.

pub(super) mod path {
    use std::ffi::OsString;
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(in super::super) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().serialize(serializer)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<PathBuf, D::Error> {
        OsString::deserialize(deserializer).map(PathBuf::from)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::super::{Access, Mount, MountKind, Spec};

    #[test]
    fn a_spec_survives_the_wire_byte_for_byte() {
        let odd = OsString::from_vec(vec![b'/', 0xff, b'\n', b'"']);
        let mut spec = Spec::new(odd.clone(), [odd.clone()]);
        spec.env.push((odd.clone(), odd.clone()));
        spec.mounts.push(Mount {
            kind: MountKind::Bind {
                source: odd.clone().into(),
                part: odd.clone().into(),
                access: Access::ReadOnly,
            },
            target: odd.into(),
        });
        let text = serde_json::to_vec(&spec).unwrap();
        assert_eq!(serde_json::from_slice::<Spec>(&text).unwrap(), spec);
    }
}
