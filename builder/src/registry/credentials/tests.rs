use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn user(name: &str, password: &str) -> Option<Login> {
    Some(Login::User(name.to_owned(), Password::new(password)))
}

fn of_file(path: &Path) -> Credentials {
    Credentials::of_user(Some(path.to_owned()), &|_| None)
}

#[test]
fn secrets_are_not_shown() {
    let login = user("me", "s3cret").unwrap();
    assert!(!format!("{login:?}").contains("s3cret"));
}

#[test]
fn entries_are_found_by_every_name_of_their_registry() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    // "me:hub", "me:quay", "me:team".
    fs::write(
        &path,
        r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "bWU6aHVi"},
            "quay.io": {"auth": "bWU6cXVheQ=="},
            "quay.io/team": {"auth": "bWU6dGVhbQ=="},
            "https://old.example/v2/": {"username": "me", "password": "old"},
            "token.example": {"identitytoken": "abc"},
            "empty.example": {}
        }}"#,
    )
    .unwrap();
    let found = |name: &str| of_file(&path).find(name).unwrap();
    assert_eq!(found("docker.io/library/busybox"), user("me", "hub"));
    assert_eq!(found("docker.io"), user("me", "hub"));
    assert_eq!(found("quay.io/other/x"), user("me", "quay"));
    assert_eq!(found("quay.io/team/x"), user("me", "team"));
    assert_eq!(found("old.example/x"), user("me", "old"));
    assert_eq!(
        found("token.example/x"),
        Some(Login::Identity(Password::new("abc")))
    );
    assert_eq!(found("empty.example/x"), None);
    assert_eq!(found("other.example/x"), None);
}

#[test]
fn what_is_kept_leaves_the_rest_of_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    fs::write(
        &path,
        r#"{"HttpHeaders": {"a": "b"}, "auths": {"docker.io": {"auth": "bWU6aHVi"}}}"#,
    )
    .unwrap();
    let credentials = of_file(&path);
    let stored = credentials.keep("docker.io", &user("you", "new:pass").unwrap());
    assert_eq!(stored.unwrap(), Stored::File(path.clone()));
    assert_eq!(
        credentials.find("docker.io/x/y").unwrap(),
        user("you", "new:pass")
    );
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        text.contains("HttpHeaders") && !text.contains("\"docker.io\""),
        "{text}"
    );
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(credentials.forget("docker.io").unwrap());
    assert!(!credentials.forget("docker.io").unwrap());
    assert!(fs::read_to_string(&path).unwrap().contains("HttpHeaders"));
}

#[test]
fn a_damaged_file_is_named_and_not_shown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    for text in [
        r#"{"auths": {"a.example": {"auth": "s3cret!"}}}"#,
        r#"{"auths": s3cret"#,
    ] {
        fs::write(&path, text).unwrap();
        let error = of_file(&path).find("a.example/x").unwrap_err().to_string();
        assert!(
            error.contains("config.json") && !error.contains("s3cret"),
            "{error}"
        );
    }
}
