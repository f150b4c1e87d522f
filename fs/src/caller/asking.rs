//! What a process asks, where the kernel tells only that it does.

use std::fs;
use std::thread;

/// faccessat2(2), the same number everywhere.
const FACCESSAT2: i64 = libc::SYS_faccessat2;
/// chdir, fchdir, chroot; then the same of 32-bit x86, whose numbers mean nothing else that asks.
const ENTERING: [i64; 6] = [libc::SYS_chdir, libc::SYS_fchdir, libc::SYS_chroot, 12, 133, 61];
/// How often the kernel is asked again while the process is not yet at rest.
const ATTEMPTS: u32 = 100;

/// Whether a process, which waits for the answer to its question for access, asks for its real user as access(2) does,
/// and not for the effective one, as chdir(2) and faccessat(2) with `AT_EACCESS` do. What cannot be known is not so.
pub(crate) fn asks_as_real(pid: u32) -> bool {
    let path = format!("/proc/{pid}/syscall");
    for _ in 0..ATTEMPTS {
        let Ok(text) = fs::read_to_string(&path) else {
            return false;
        };
        if text.trim() != "running" {
            return means_real(&text);
        }
        thread::yield_now();
    }
    false
}

/// The same of the text: the number of the call, and its arguments.
fn means_real(text: &str) -> bool {
    let mut words = text.split_whitespace();
    let Some(number) = words.next().and_then(|word| word.parse::<i64>().ok()) else {
        return false;
    };
    if number == FACCESSAT2 {
        let flags = words.nth(3).and_then(|word| word.strip_prefix("0x"));
        let flags = flags.and_then(|word| u64::from_str_radix(word, 16).ok());
        return flags.is_some_and(|flags| flags & libc::AT_EACCESS as u64 == 0);
    }
    number >= 0 && !ENTERING.contains(&number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart() {
        let faccessat2 =
            |flags: &str| format!("{FACCESSAT2} 0xffffff9c 0x7ffd 0x4 {flags} 0x0 0x0 0x7ffd 0x7f\n");
        assert!(means_real(&faccessat2("0x0")) && means_real(&faccessat2("0x100")));
        assert!(!means_real(&faccessat2("0x200")));
        let other = |number: i64| format!("{number} 0x7ffd 0x4 0x0 0x0 0x0 0x0 0x7ffd 0x7f\n");
        assert!(means_real(&other(libc::SYS_faccessat)));
        assert!(!means_real(&other(libc::SYS_chdir)) && !means_real("-1 0x7ffd 0x7f"));
    }
}
