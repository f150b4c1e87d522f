use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use mica_fs::layer::Metadata;
use mica_fs::layer::writer::{LayerWriter, NewNode};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn leaks(secret: &[u8]) -> Leaks {
    Leaks::of([(&"key".to_owned(), &Secret::new(secret.to_vec()))])
}

fn form(secret: &[u8], text: &[u8]) -> Option<Form> {
    leaks(secret).find(text, || Place::History).map(|leak| leak.form)
}

proptest! {
    #[test]
    fn base64_is_found_wherever_the_secret_begins(
        before in proptest::collection::vec(any::<u8>(), 0..9),
        secret in proptest::collection::vec(33..127_u8, 8..150),
        after in proptest::collection::vec(any::<u8>(), 0..9),
    ) {
        let all = [before, secret.clone(), after].concat();
        prop_assert!(form(&secret, STANDARD.encode(&all).as_bytes()).is_some());
        prop_assert!(form(&secret, URL_SAFE.encode(&all).as_bytes()).is_some());
        prop_assert_eq!(form(&secret, &all), Some(Form::Plain));
        let broken: Vec<u8> = STANDARD.encode(&all).into_bytes();
        if secret.len() > 60 {
            prop_assert!(form(&secret, &broken.chunks(64).collect::<Vec<_>>().join(&b'\n')).is_some());
        }
    }
}

#[test]
fn urls_are_found_however_they_are_spelled() {
    let secret = b"p\xc3\xa4ss w/rd&";
    for text in [
        "p%C3%A4ss%20w%2Frd%26",
        "p%c3%a4ss+w%2frd%26",
        "p%C3%A4ss+w/rd%26",
    ] {
        assert_eq!(form(secret, text.as_bytes()), Some(Form::Url), "{text}");
    }
    assert_eq!(form(secret, b"p%C3%A4ss"), None);
}

#[test]
fn short_ones_are_not_searched_for_and_spaces_around_do_not_count() {
    assert!(leaks(b"1234567\n").is_empty());
    assert_eq!(form(b"\n12345678\n", b"x12345678"), Some(Form::Plain));
    assert!(Leaks::of([]).find(b"", || Place::History).is_none());
}

/// A layer with one node `a` that has a file `f` beside it.
fn search(leaks: &Leaks, name: &str, node: NewNode<'_>, metadata: &Metadata) -> Option<Leak> {
    let directory = tempfile::tempdir().unwrap();
    let mut writer = LayerWriter::new(directory.path()).unwrap();
    let path = |name: &str| ImagePath::clean(name.as_bytes()).unwrap();
    writer
        .add(&path("dir"), &Metadata::default(), NewNode::Directory)
        .unwrap();
    writer.add(&path(name), metadata, node).unwrap();
    writer.finish().unwrap();
    leaks.in_layer(&Layer::open(directory.path()).unwrap()).unwrap()
}

#[test]
fn every_part_of_a_layer_is_searched() {
    let leaks = leaks(b"0123456789");
    let path = |name: &str| ImagePath::clean(name.as_bytes()).unwrap();
    let plain = Metadata::default();
    let place = |found: Option<Leak>| found.map(|leak| leak.place);

    let name = "dir/x-0123456789";
    let found = search(&leaks, name, NewNode::Fifo, &plain).unwrap();
    assert_eq!(found.place, Place::Name(path(name)));
    assert!(!found.to_string().contains("0123456789"), "{found}");

    let found = search(&leaks, "dir/l", NewNode::Symlink(b"/0123456789"), &plain);
    assert_eq!(place(found), Some(Place::Target(path("dir/l"))));

    let mut metadata = Metadata::default();
    metadata.xattrs.insert(b"user.a".to_vec(), b"0123456789".to_vec());
    let found = search(&leaks, "dir/x", NewNode::Fifo, &metadata);
    assert_eq!(
        place(found),
        Some(Place::Attribute(path("dir/x"), "user.a".to_owned()))
    );

    // At every place around the borders of the pieces.
    for at in (PIECE - 30..PIECE + 30).step_by(3) {
        let mut bytes = vec![b'.'; 2 * PIECE + 100];
        bytes[at..at + 10].copy_from_slice(b"0123456789");
        let size = bytes.len() as u64;
        let node = NewNode::File {
            size,
            content: &mut bytes.as_slice(),
        };
        let found = search(&leaks, "dir/f", node, &plain);
        assert_eq!(place(found), Some(Place::Content(path("dir/f"))), "{at}");
    }
    let node = NewNode::File {
        size: 9,
        content: &mut b"012345678".as_slice(),
    };
    assert_eq!(search(&leaks, "dir/f", node, &plain), None);
}

#[test]
fn a_place_in_the_configuration_is_named() {
    let leaks = leaks(b"0123456789");
    let config = json!({"config": {"Env": ["A=b", "K=0123456789"]}});
    let found = leaks.in_config(&config).unwrap();
    assert_eq!(found.place, Place::Config("config.Env[1]".to_owned()));
    assert!(leaks.in_config(&json!({"Labels": {"0123456789": 1}})).is_some());
    assert!(leaks.in_config(&json!({"Labels": {"012345678": 1}})).is_none());
}
