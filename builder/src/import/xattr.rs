//! The extended attributes of files of this machine.

use std::io;
use std::path::Path;

use mica_fs::layer::Xattrs;
use rustix::fs::{lgetxattr, llistxattr};
use rustix::io::Errno;

/// The most that a list of names or a value can take: `XATTR_LIST_MAX` and `XATTR_SIZE_MAX`.
const MAX: usize = 65_536;

/// All that the caller may see. Symbolic links are not followed; a file system without attributes has none.
pub(crate) fn of(path: &Path) -> io::Result<Xattrs> {
    let mut names = [0; MAX];
    let length = match llistxattr(path, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno.into()),
    };
    let mut xattrs = Xattrs::new();
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = [0; MAX];
        match lgetxattr(path, name, &mut value[..]) {
            Ok(length) => {
                xattrs.insert(name.to_vec(), value[..length].to_vec());
            }
            // Removed meanwhile, or listed but kept from the caller.
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(xattrs)
}
