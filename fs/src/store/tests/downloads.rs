use super::*;

fn bytes_of(download: &Download) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut reader = download.reader().expect("opened");
    reader.read_to_end(&mut bytes).expect("read");
    bytes
}

#[test]
fn a_download_goes_on_where_it_stopped() {
    let (_dir, store) = store();
    let digest = Digest::of(b"hello");
    let mut first = store.download(&digest).expect("opened").expect("free");
    first.append(b"hel").expect("written");
    assert!(store.download(&digest).expect("looked").is_none(), "it is in use");
    drop(first);
    let mut second = store.download(&digest).expect("opened").expect("free");
    assert_eq!((second.length(), bytes_of(&second)), (3, b"hel".to_vec()));
    second.append(b"lo").expect("written");
    store.publish_download(second, &digest).expect("published");
    assert_eq!(store.read_blob(&digest, 5).expect("read"), b"hello");
    let third = store.download(&digest).expect("opened").expect("free");
    assert_eq!(third.length(), 0, "the blob is not written to again");
}

#[test]
fn a_download_can_begin_anew() {
    let (_dir, store) = store();
    let digest = Digest::of(b"hello");
    let mut download = store.download(&digest).expect("opened").expect("free");
    download.append(b"wrong").expect("written");
    download.clear().expect("cleared");
    download.append(b"hello").expect("written");
    assert_eq!(bytes_of(&download), b"hello");
    download.remove().expect("removed");
    assert_eq!(fs::read_dir(store.downloads()).expect("read").count(), 0);
}

#[test]
fn prune_takes_the_downloads_that_nobody_uses() {
    let (_dir, store) = store();
    let (left, used) = (Digest::of(b"left"), Digest::of(b"used"));
    drop(store.download(&left).expect("opened"));
    let _used = store.download(&used).expect("opened").expect("free");
    let there = || store.objects(&store.downloads()).expect("read").len();
    prune(&store, &[], &KEEP_NOTHING);
    assert_eq!(there(), 2, "they are young");
    let policy = Policy {
        cache_age: Duration::ZERO,
        ..KEEP_NOTHING
    };
    prune(&store, &[], &policy);
    assert_eq!(store.objects(&store.downloads()).expect("read"), [used]);
}

#[test]
fn sources_are_known_as_long_as_the_blob() {
    let (_dir, store) = store();
    let blob = store.put_blob(b"blob").expect("stored");
    store
        .note_sources(&[blob], "docker.io", "library/b")
        .expect("noted");
    store
        .note_sources(&[blob], "docker.io", "library/a")
        .expect("noted");
    store
        .note_sources(&[blob], "docker.io", "library/a")
        .expect("noted");
    let sources = |registry| store.sources(&blob, registry).expect("read");
    assert_eq!(sources("docker.io"), ["library/a", "library/b"]);
    assert!(sources("quay.io").is_empty());
    drop(store.held.lock().expect("sound").take());
    prune(&store, &[], &KEEP_NOTHING);
    assert!(sources("docker.io").is_empty());
}
