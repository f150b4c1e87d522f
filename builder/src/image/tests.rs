use super::*;

#[test]
fn edit_distances() {
    for (a, b, distance) in [
        ("", "", 0),
        ("abc", "", 3),
        ("busybox", "bsuybox", 2),
        ("kitten", "sitting", 3),
    ] {
        assert_eq!(edit_distance(a, b), distance, "{a} {b}");
        assert_eq!(edit_distance(b, a), distance, "{b} {a}");
    }
}

#[test]
fn prefixes_of_ids() {
    assert_eq!(id_prefix("c0ffee"), Some("c0ffee"));
    assert_eq!(id_prefix("sha256:c0"), Some("c0"));
    assert_eq!(id_prefix("sha256:"), None);
    assert_eq!(id_prefix("coffee"), None);
    assert_eq!(id_prefix(&"a".repeat(65)), None);
}
