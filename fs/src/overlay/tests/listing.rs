//! Listings that change while they are read, and names beyond number.

use super::*;

/// Reads one entry at a time, as a reader with a tiny buffer, and lets `meanwhile` change things.
fn list_slowly(s: &Session, dir: Ino, mut meanwhile: impl FnMut(&str)) -> Vec<String> {
    let mut seen = Vec::new();
    let mut cookie = 0;
    loop {
        let mut last = None;
        let listed = s.overlay.read_dir(dir, cookie, &mut |entry| {
            last = Some((String::from_utf8_lossy(entry.name).into_owned(), entry.next));
            ControlFlow::Break(())
        });
        listed.expect("listed");
        let Some((name, next)) = last else { return seen };
        meanwhile(&name);
        seen.push(name);
        cookie = next;
    }
}

#[test]
fn cookies_survive_changes() {
    let s = Session::new(&[
        &[
            ("/d/b", file("b")),
            ("/d/c", file("c")),
            ("/d/f", file("f")),
            ("/d/g", file("g")),
        ],
        &[("/d/a", file("a")), ("/d/c", Member::Whiteout)],
    ]);
    s.write("/d/e", b"e");
    let seen = list_slowly(&s, s.ino("/d"), |name| match name {
        "a" if s.overlay.resolve(&path("/d/f"), Follow::No).is_ok() => {
            s.unlink("/d/a").expect("unlinked");
            s.unlink("/d/f").expect("unlinked");
            s.write("/d/0", b"new");
            s.rename("/d/b", "/d/z", RenameMode::Replace).expect("moved");
        }
        "g" => s.write("/d/a", b"again"),
        _ => {}
    });
    assert_eq!(seen, [".", "..", "e", "a", "g"]);
    assert_eq!(names(&s.overlay, s.ino("/d")), ["z", "0", "e", "a", "g"]);
}

#[test]
fn a_name_that_another_file_takes_over_is_listed_once() {
    let members = [("/d/a", file("a")), ("/d/b", file("b")), ("/d/c", file("c"))];
    let s = Session::new(&[&members]);
    s.write("/d/e", b"e");
    s.write("/new", b"new");
    let seen = list_slowly(&s, s.ino("/d"), |name| {
        if name == "b" {
            s.rename("/new", "/d/a", RenameMode::Replace).expect("replaced");
            s.rename("/d/b", "/d/c", RenameMode::Exchange).expect("exchanged");
            s.rename("/d/a", "/d/e", RenameMode::Exchange).expect("exchanged");
        }
    });
    assert_eq!(seen, [".", "..", "e", "a", "b", "c"]);
}

#[test]
fn a_listing_ends_though_each_name_makes_another() {
    let members: Vec<_> = (0..300).map(|n| (format!("/d/{n}"), file("x"))).collect();
    let members: Vec<_> = members
        .iter()
        .map(|(at, member)| (at.as_str(), member.clone()))
        .collect();
    let s = Session::new(&[&members]);
    let mut count = 0;
    let seen = list_slowly(&s, s.ino("/d"), |name| {
        if !name.starts_with('.') {
            count += 1;
            assert!(count <= 300, "{name} was made meanwhile");
            s.write(&format!("/d/{name}.new"), b"x");
            s.rename(
                &format!("/d/{name}"),
                &format!("/d/{name}.moved"),
                RenameMode::Replace,
            )
            .expect("moved");
        }
    });
    assert_eq!(seen.len(), 302);
    assert_eq!(names(&s.overlay, s.ino("/d")).len(), 600);
}

#[test]
fn the_overlay_may_be_called_while_it_lists() {
    let s = Session::new(&[&[("/d/a", file("a")), ("/d/b", file("b"))]]);
    let dir = s.ino("/d");
    let mut sizes = Vec::new();
    let listed = s.overlay.read_dir(dir, 2, &mut |entry| {
        sizes.push(s.overlay.lookup(dir, entry.name).expect("found").size);
        ControlFlow::Continue(())
    });
    listed.expect("listed");
    assert_eq!(sizes, [1, 1]);
}

#[test]
fn listed_numbers_are_those_of_lookup() {
    let s = Session::new(&[&[("/d/sub/x", file("a"))], &[("/d/sub/y", file("b"))]]);
    s.write("/d/new", b"n");
    let dir = s.ino("/d");
    let listed = s.overlay.read_dir(dir, 2, &mut |entry| {
        let attr = s.overlay.lookup(dir, entry.name).expect("found");
        assert_eq!((entry.ino, entry.kind), (attr.ino, attr.kind));
        ControlFlow::Continue(())
    });
    listed.expect("listed");
}

#[test]
fn small_files_need_nothing_of_the_host() {
    let s = Session::new(&[&[("/d", Member::Directory)]]);
    let dir = s.ino("/d");
    for n in 0..4000 {
        let name = format!("file{n}");
        let created = s
            .overlay
            .create(dir, name.as_bytes(), NewKind::File, 0o644, Owner::default());
        let ino = created.expect("created").ino;
        s.overlay.write(ino, 0, b"some bytes").expect("written");
        s.overlay.forget(ino, 1);
    }
    assert_eq!(list_slowly(&s, dir, |_| {}).len(), 4002);
    assert_eq!(
        std::fs::read_dir(s.dir.path().join("upper"))
            .expect("listed")
            .count(),
        0
    );
}
