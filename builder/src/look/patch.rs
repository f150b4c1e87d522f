//! A change as a patch, in git's format: what can be said in lines is said in lines.
//!
//! What git has no words for (owners, attributes, devices) stands in lines of its own before the text, which `patch` and
//! `git apply` skip. A directory that comes or goes is told by what is in it, as in git.

use std::borrow::Cow;
use std::io::{self, Read as _, Write};
use std::time::Duration;

use mica_fs::layer::Kind;
use similar::TextDiff;

use super::changes::Change;
use super::{Node, Stack};

/// The largest file that is compared by lines, in bytes.
const LARGEST: u64 = 8 << 20;
/// A NUL among so many first bytes makes a file a binary one, as in git.
const PROBE: usize = 8000;
/// How long the shortest difference of two files is looked for; then any is taken.
const PATIENCE: Duration = Duration::from_millis(500);

/// Writes how the change from a tree of `old` to one of `new` reads.
///
/// # Errors
/// If a file cannot be read, or `out` cannot be written.
pub fn write(change: &Change, old: &Stack, new: &Stack, out: &mut dyn Write) -> io::Result<()> {
    let (before, after) = (change.before.as_ref(), change.after.as_ref());
    match (before, after) {
        (Some(a), Some(b)) if a.kind != b.kind => {
            file(change, Some((old, a)), None, out)?;
            file(change, None, Some((new, b)), out)
        }
        (Some(a), None) | (None, Some(a)) if a.is_directory() => Ok(()),
        _ => file(change, before.map(|a| (old, a)), after.map(|b| (new, b)), out),
    }
}

type Side<'a> = Option<(&'a Stack, &'a Node)>;

fn file(change: &Change, before: Side<'_>, after: Side<'_>, out: &mut dyn Write) -> io::Result<()> {
    let name = |prefix: &[u8]| quoted(&[prefix, change.path.as_bytes()].concat());
    let (a, b) = (name(b"a/"), name(b"b/"));
    writeln!(out, "diff --git {a} {b}")?;
    about(before.map(|(_, node)| node), after.map(|(_, node)| node), out)?;
    let a = if before.is_some() {
        a
    } else {
        "/dev/null".to_owned()
    };
    let b = if after.is_some() {
        b
    } else {
        "/dev/null".to_owned()
    };
    let same =
        |(_, a): (&Stack, &Node), (_, b): (&Stack, &Node)| a.digest == b.digest && a.target == b.target;
    if before.zip(after).is_some_and(|(a, b)| same(a, b)) {
        return Ok(());
    }
    let size = |side: &Side<'_>| side.map_or(0, |(_, node)| node.size);
    if size(&before).max(size(&after)) > LARGEST {
        return writeln!(
            out,
            "Files {a} and {b} differ, and are too large to compare by lines"
        );
    }
    let (old, new) = (text(before)?, text(after)?);
    let is_binary = |bytes: &[u8]| bytes[..bytes.len().min(PROBE)].contains(&0);
    if is_binary(&old) || is_binary(&new) {
        return writeln!(out, "Binary files {a} and {b} differ");
    }
    let diff = TextDiff::configure()
        .timeout(PATIENCE)
        .diff_lines(&old[..], &new[..]);
    diff.unified_diff().header(&a, &b).to_writer(out)
}

/// What there is to say besides the text.
fn about(before: Option<&Node>, after: Option<&Node>, out: &mut dyn Write) -> io::Result<()> {
    // git knows no permissions of links.
    let mode = |node: &Node| match node.kind {
        Kind::Symlink => "120000".to_owned(),
        kind => format!("{:06o}", kind.file_type_bits() | node.metadata.mode),
    };
    let (a, b) = match (before, after) {
        (Some(a), Some(b)) => (a, b),
        (None, Some(b)) => return writeln!(out, "new file mode {}", mode(b)),
        (Some(a), None) => return writeln!(out, "deleted file mode {}", mode(a)),
        (None, None) => return Ok(()),
    };
    let owner = |node: &Node| format!("{}:{}", node.metadata.uid, node.metadata.gid);
    let device = |node: &Node| format!("{}:{}", node.device.major, node.device.minor);
    for (what, old, new) in [
        ("mode", mode(a), mode(b)),
        ("owner", owner(a), owner(b)),
        ("device", device(a), device(b)),
    ] {
        if old != new {
            writeln!(out, "old {what} {old}\nnew {what} {new}")?;
        }
    }
    for (word, these, those) in [("old", a, b), ("new", b, a)] {
        let those = &those.metadata.xattrs;
        for (name, value) in these
            .metadata
            .xattrs
            .iter()
            .filter(|(name, value)| those.get(*name) != Some(value))
        {
            writeln!(out, "{word} xattr {}={}", quoted(name), quoted(value))?;
        }
    }
    Ok(())
}

/// What git stores: a file's bytes, or a link's target.
fn text(side: Side<'_>) -> io::Result<Vec<u8>> {
    let Some((stack, node)) = side else {
        return Ok(Vec::new());
    };
    let mut bytes = node.target.clone();
    if node.kind == Kind::File {
        stack.content(node).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// A name as git writes it: with quotes and escapes, if it has bytes that could be mistaken.
fn quoted(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    let is_plain = |c: char| !c.is_control() && !matches!(c, '"' | '\\');
    if matches!(text, Cow::Borrowed(_)) && text.chars().all(is_plain) {
        return text.into_owned();
    }
    let escaped = name.iter().map(|byte| match byte {
        b'"' | b'\\' => format!("\\{}", char::from(*byte)),
        b' '..=b'~' => char::from(*byte).to_string(),
        byte => format!("\\{byte:03o}"),
    });
    format!("\"{}\"", escaped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::super::changes::{Precision, compare};
    use super::super::tests::{Layers, Says, dir, file, meta};
    use super::*;
    use mica_fs::layer::Metadata;
    use mica_fs::path::ImagePath;

    fn patch(layers: &Layers) -> String {
        let stack = layers.stack();
        let mut out = Vec::new();
        for change in compare(
            stack.view(1),
            stack.view(2),
            &ImagePath::root(),
            Precision::Meaning,
        ) {
            write(&change, &stack, &stack, &mut out).unwrap();
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_is_told_in_lines_and_the_rest_in_words() {
        let mut odd = Metadata {
            uid: 5,
            ..meta(0o600)
        };
        odd.xattrs.insert(b"user.x".to_vec(), b"\x01".to_vec());
        let layers = Layers::new()
            .layer(&[
                ("d", dir()),
                ("d/text", file("1\n2\n3\n")),
                ("bin", file("\0\x01")),
                ("gone", file("no newline")),
                ("link", Says::Symlink("a")),
                ("other", file("x\n")),
            ])
            .layer(&[
                ("d", Says::Dir(meta(0o700))),
                ("d/text", file("1\n2!\n3\n")),
                ("bin", file("\0\x02")),
                ("gone", Says::Gone),
                ("link", Says::Symlink("b")),
                ("new \"one\"", file("")),
                ("other", Says::File(odd, b"x\n".to_vec())),
            ]);
        let expected = r#"diff --git a/bin b/bin
Binary files a/bin and b/bin differ
diff --git a/d b/d
old mode 040755
new mode 040700
diff --git a/d/text b/d/text
--- a/d/text
+++ b/d/text
@@ -1,3 +1,3 @@
 1
-2
+2!
 3
diff --git a/gone b/gone
deleted file mode 100644
--- a/gone
+++ /dev/null
@@ -1 +0,0 @@
-no newline
\ No newline at end of file
diff --git a/link b/link
--- a/link
+++ b/link
@@ -1 +1 @@
-a
\ No newline at end of file
+b
\ No newline at end of file
diff --git "a/new \"one\"" "b/new \"one\""
new file mode 100644
diff --git a/other b/other
old mode 100644
new mode 100600
old owner 0:0
new owner 5:0
new xattr user.x="\001"
"#;
        assert_eq!(patch(&layers), expected);
    }

    #[test]
    fn another_type_is_a_removal_and_an_addition() {
        let layers = Layers::new()
            .layer(&[("d", dir()), ("d/x", file("x\n")), ("f", file("f\n"))])
            .layer(&[("d", file("now a file\n")), ("f", Says::Symlink("d"))]);
        let told = patch(&layers);
        let order = [
            "deleted file mode 100644",
            "+now a file",
            "deleted file mode 100644",
            "new file mode 120000",
        ];
        let mut rest = &told[..];
        for part in order {
            let at = rest.find(part).unwrap_or_else(|| panic!("{part} in {told}"));
            rest = &rest[at + part.len()..];
        }
    }
}
