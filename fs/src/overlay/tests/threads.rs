//! The shape of a known corruption in this field: a big file is copied up and rewritten in small places, with
//! truncation in between, by several openers at once.

use std::thread;

use super::*;

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 512;

fn block(number: u64, generation: u8) -> Vec<u8> {
    let mut bytes = vec![generation; BLOCK as usize];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

#[test]
fn writers_of_a_lower_file_lose_nothing() {
    let lower: Vec<u8> = (0..BLOCKS).flat_map(|n| block(n, 1)).collect();
    let s = Session::new(&[&[("/db", Member::File(lower))]]);
    let ino = s.ino("/db");
    thread::scope(|scope| {
        for writer in 0..4 {
            let overlay = &s.overlay;
            scope.spawn(move || {
                for n in (0..BLOCKS).filter(|n| n % 4 == writer && n % 3 != 0) {
                    overlay.write(ino, n * BLOCK, &block(n, 2)).expect("written");
                    let mut buffer = vec![0; BLOCK as usize];
                    overlay.read(ino, n * BLOCK, &mut buffer).expect("read");
                    assert!(buffer == block(n, 2), "block {n}");
                }
            });
        }
    });
    for (n, bytes) in (0..).zip(s.read("/db").chunks(BLOCK as usize)) {
        assert!(bytes == block(n, if n % 3 == 0 { 1 } else { 2 }), "block {n}");
    }
}

#[test]
fn truncation_races_with_writers_and_readers() {
    for _ in 0..20 {
        let lower: Vec<u8> = (0..64).flat_map(|n| block(n, 1)).collect();
        let s = Session::new(&[&[("/db", Member::File(lower))]]);
        let ino = s.ino("/db");
        let resize = |blocks: u64| {
            let changes = Changes {
                size: Some(blocks * BLOCK),
                ..Changes::default()
            };
            s.overlay.set_attr(ino, &changes).expect("truncated");
        };
        thread::scope(|scope| {
            scope.spawn(|| [40, 3, 2, 50, 2].map(resize));
            for _ in 0..2 {
                scope.spawn(|| {
                    for n in 0..2 {
                        s.overlay.write(ino, n * BLOCK, &block(n, 2)).expect("written");
                    }
                });
                scope.spawn(|| {
                    let mut buffer = vec![9; BLOCK as usize];
                    for n in 0..64 {
                        let read = s.overlay.read(ino, n * BLOCK, &mut buffer).expect("read");
                        assert!(read == 0 || buffer[8..].iter().all(|b| *b <= 2));
                    }
                });
            }
        });
        assert_eq!(s.read("/db"), [block(0, 2), block(1, 2)].concat());
    }
}

#[test]
fn names_from_several_threads() {
    let s = Session::new(&[&[("/d", Member::Directory)]]);
    let dir = s.ino("/d");
    thread::scope(|scope| {
        for writer in 0..4 {
            let overlay = &s.overlay;
            scope.spawn(move || {
                for n in 0..200 {
                    let (name, moved) = (format!("{writer}-{n}"), format!("{writer}+{n}"));
                    let created =
                        overlay.create(dir, name.as_bytes(), NewKind::File, 0o644, Owner::default());
                    let ino = created.expect("created").ino;
                    overlay.write(ino, 0, name.as_bytes()).expect("written");
                    let mode = RenameMode::NoReplace;
                    overlay
                        .rename(dir, name.as_bytes(), dir, moved.as_bytes(), mode)
                        .expect("moved");
                    overlay.forget(ino, 1);
                    if n % 2 == 0 {
                        overlay.unlink(dir, moved.as_bytes()).expect("unlinked");
                    }
                }
            });
        }
    });
    assert_eq!(names(&s.overlay, dir).len(), 400);
    assert_eq!(s.read("/d/3+7"), b"3-7");
}
