use super::*;

fn parse(text: &str) -> Result<Mount, ParseError> {
    let word = Word {
        text: text.to_owned(),
        span: Default::default(),
    };
    Mount::parse(&word, &|value| Ok(value.replace("$V", "a,b")))
}

fn refused(text: &str) -> String {
    let error = parse(text).expect_err(text);
    format!("{} {}", error.message, error.hint.unwrap_or_default())
}

#[test]
fn a_bind_is_the_default() {
    let bind = |from: Option<&str>, source: &str, target: &str, writable| Mount {
        target: Some(target.to_owned()),
        kind: MountKind::Bind {
            origin: MountOrigin {
                from: from.map(str::to_owned),
                source: source.to_owned(),
            },
            writable,
        },
    };
    assert_eq!(parse("target=/t"), Ok(bind(None, "", "/t", false)));
    assert_eq!(
        parse("dst=/t,src=s,from=x,rw"),
        Ok(bind(Some("x"), "s", "/t", true))
    );
    assert_eq!(parse("destination=/t,ro=false"), Ok(bind(None, "", "/t", true)));
    assert_eq!(
        parse("TYPE=Bind,target=/t,\"source=a,\"\"b\""),
        Ok(bind(None, "a,\"b", "/t", false))
    );
    // A comma of a variable begins no option.
    assert_eq!(parse("target=/t,source=$V"), Ok(bind(None, "a,b", "/t", false)));
}

#[test]
fn caches_are_writable_and_shared_unless_said_otherwise() {
    let MountKind::Cache {
        id,
        source,
        sharing,
        permissions,
        writable,
    } = parse("type=cache,target=/c").expect("a cache").kind
    else {
        panic!("no cache")
    };
    assert_eq!((id, sharing, writable), (None, Sharing::Shared, true));
    assert_eq!(source, CacheSource::Part(String::new()));
    assert_eq!(permissions, MountPermissions::default());
    let full = parse("type=cache,target=/c,id=i,sharing=locked,from=s,source=/x,uid=1,gid=2,mode=0750,ro");
    assert_eq!(
        full.expect("a cache").kind,
        MountKind::Cache {
            id: Some("i".to_owned()),
            source: CacheSource::Seed(MountOrigin {
                from: Some("s".to_owned()),
                source: "/x".to_owned(),
            }),
            sharing: Sharing::Locked,
            permissions: MountPermissions {
                uid: Some(1),
                gid: Some(2),
                mode: Some(0o750),
            },
            writable: false,
        }
    );
}

#[test]
fn a_secret_is_named_by_its_id_its_source_or_its_target() {
    let id = |text: &str| match parse(text).expect(text).kind {
        MountKind::Secret { id, .. } => id,
        other => panic!("{other:?}"),
    };
    assert_eq!(id("type=secret,id=a,target=/x/b"), "a");
    assert_eq!(id("type=secret,source=c"), "c");
    assert_eq!(id("type=secret,target=/x/b/"), "b");
    assert!(refused("type=secret").contains("id"));
    assert!(refused("type=secret,id=a,source=b").contains("both"));
}

#[test]
fn mistakes_name_the_option() {
    let cases = [
        ("type=nosuch,target=/x", "nosuch"),
        ("type=cahce,target=/x", "did you mean cache?"),
        ("target=/x,targt=/y", "did you mean target?"),
        ("target", "target needs a value"),
        ("target=/x,ro=maybe", "\"maybe\" for ro"),
        ("target=/x,uid=1", "uid is not for type=bind"),
        ("type=cache,target=/x,uid=-1", "\"-1\" for uid"),
        ("type=cache,target=/x,mode=9", "\"9\" for mode"),
        ("type=cache,target=/x,size=1", "size is not for type=cache"),
        ("type=tmpfs,target=/x,size=big", "\"big\" is no size"),
        ("type=tmpfs,target=/x,sharing=locked", "sharing is not for"),
        ("type=cache,target=/x,sharing=shred", "did you mean shared?"),
        ("type=secret,id=a,from=b", "from is not for type=secret"),
        ("target=/x,from=$B", "variables"),
        ("target=/x,env=A", "env is not for"),
        ("type=ssh,source=x", "does not support source"),
        ("target=\"/x\"", "quote"),
        ("\"target=/x", "not closed"),
        ("\"target=/x\"y", "follows"),
        ("", "unknown option"),
    ];
    for (text, part) in cases {
        let message = refused(text);
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn sizes_are_dockers() {
    let cases = [
        ("1024", Some(1024)),
        ("64m", Some(64 << 20)),
        ("1GiB", Some(1 << 30)),
        ("1.5k", Some(1536)),
        ("2kb", Some(2048)),
        ("10 b", Some(10)),
        ("-1", None),
        ("1x", None),
        ("ib", None),
        ("99999999999g", None),
        ("", None),
    ];
    for (text, bytes) in cases {
        assert_eq!(size(text), bytes, "{text}");
    }
}
