//! Several threads at random work on one overlay: each in a directory of its own, as on a model, and all together in a
//! shared one, where counts must come out right.

use std::thread;

use super::kernel::look;
use super::operation::write_bytes;
use super::*;

const THREADS: u64 = 4;

/// Random numbers from a seed.
fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    (1_u64..).map(move |n| {
        let mixed = (seed << 32 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ mixed >> 32
    })
}

/// What a thread does in the directory that all share. Who wins a name is open; what is counted is who did.
fn share(overlay: &Overlay, dir: Ino, dice: &mut Dice, own: &mut BTreeMap<String, i64>) {
    let names = [dice.name(), dice.name()];
    let [name, other] = names.each_ref().map(|name| name.as_bytes());
    let mut count = |what: &str, done: bool| *own.entry(what.to_owned()).or_default() += i64::from(done);
    match dice.roll(6) {
        0 | 1 => {
            let created = overlay.create(dir, name, NewKind::File, 0o644, Owner::default());
            count("created", created.is_ok());
            if let Ok(attr) = created {
                overlay
                    .write(attr.ino, 0, b"x")
                    .expect("an open file can be written");
                overlay.forget(attr.ino, 1);
            }
        }
        2 => count("removed", overlay.unlink(dir, name).is_ok()),
        3 => {
            let mode = RenameMode::NoReplace;
            // It neither makes nor removes a name.
            let _ = overlay.rename(dir, name, dir, other, mode);
        }
        4 => {
            if let Ok(attr) = overlay.lookup(dir, name) {
                let linked = overlay.link(attr.ino, dir, other);
                count("created", linked.is_ok());
                if let Ok(linked) = linked {
                    overlay.forget(linked.ino, 1);
                }
                overlay.attr(attr.ino).expect("what is referred to is known");
                overlay.forget(attr.ino, 1);
            }
        }
        _ => {
            let mut seen = std::collections::BTreeSet::new();
            let listed = overlay.read_dir(dir, 0, &mut |entry| {
                assert!(seen.insert(entry.name.to_vec()), "a name is listed twice");
                ControlFlow::Continue(())
            });
            listed.expect("listed");
        }
    }
}

/// In its own directory a thread is alone, and sees what a model of that directory does.
fn alone(overlay: &Overlay, dir: Ino, dice: &mut Dice, model: &mut BTreeMap<String, Vec<u8>>) {
    let name = dice.name();
    match dice.roll(4) {
        0 => {
            let bytes = dice.bytes();
            let created = overlay.create(dir, name.as_bytes(), NewKind::File, 0o644, Owner::default());
            assert_eq!(created.is_ok(), !model.contains_key(&name));
            if let Ok(attr) = created {
                overlay.write(attr.ino, 0, &bytes).expect("written");
                overlay.forget(attr.ino, 1);
                model.insert(name, bytes);
            }
        }
        1 => {
            let removed = overlay.unlink(dir, name.as_bytes());
            assert_eq!(removed.is_ok(), model.remove(&name).is_some());
        }
        2 => {
            let other = dice.name();
            let moved = overlay.rename(dir, name.as_bytes(), dir, other.as_bytes(), RenameMode::Replace);
            let bytes = model.get(&name).cloned();
            assert_eq!(moved.is_ok(), bytes.is_some());
            if let Some(bytes) = bytes {
                model.remove(&name);
                model.insert(other, bytes);
            }
        }
        _ => {
            let found = overlay.lookup(dir, name.as_bytes());
            assert_eq!(found.is_ok(), model.contains_key(&name));
            if let (Ok(attr), Some(bytes)) = (found, model.get_mut(&name)) {
                let (at, new) = (dice.offset(), dice.bytes());
                overlay.write(attr.ino, at, &new).expect("written");
                write_bytes(bytes, at, &new);
                assert!(content(overlay, attr.ino) == *bytes, "{name} differs");
                overlay.forget(attr.ino, 1);
            }
        }
    }
}

fn run(seed: u64, operations: usize) {
    let own = ["/own0", "/own1", "/own2", "/own3"];
    let mut members = vec![("/shared", Member::Directory), ("/shared/a", file("lower"))];
    members.extend(own.map(|path| (path, Member::Directory)));
    let s = Session::new(&[&members]);
    let shared = s.ino("/shared");
    let ends: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (overlay, dir) = (&s.overlay, s.ino(own[thread as usize]));
                scope.spawn(move || {
                    let (mut model, mut counts) = (BTreeMap::new(), BTreeMap::new());
                    for number in numbers(seed * THREADS + thread).take(operations) {
                        let mut dice = Dice(number);
                        match dice.roll(2) {
                            0 => alone(overlay, dir, &mut dice, &mut model),
                            _ => share(overlay, shared, &mut dice, &mut counts),
                        }
                    }
                    (model, counts)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .collect()
    });
    let all = look(&s.overlay);
    let mut names_left = 1;
    for (thread, (model, counts)) in ends.iter().enumerate() {
        for (name, bytes) in model {
            assert!(
                all[&format!("{}/{name}", own[thread])].content == *bytes,
                "{name} of {thread}"
            );
        }
        assert_eq!(names(&s.overlay, s.ino(own[thread])).len(), model.len());
        names_left += counts.get("created").unwrap_or(&0) - counts.get("removed").unwrap_or(&0);
    }
    let listed: Vec<_> = all.iter().filter(|(at, _)| at.starts_with("/shared/")).collect();
    assert_eq!(
        listed.len() as i64,
        names_left,
        "as many names as were made and not removed"
    );
    for (at, seen) in &listed {
        let same = listed.iter().filter(|(_, other)| other.ino == seen.ino).count();
        assert_eq!(seen.nlink as usize, same, "{at}");
    }
    let packed = pack(&s.overlay, &s.dir.path().join("packed"));
    let stack: Vec<_> = s.layers.iter().cloned().chain([packed]).collect();
    assert_same_tree(&s.overlay, &Overlay::read_only(stack));
}

#[test]
fn threads_lose_nothing_of_each_other() {
    for seed in 0..u64::from(effort(20)) {
        run(seed, 400);
    }
}
