//! What a server asks for that answers 401: the header `WWW-Authenticate` (RFC 9110, section 11.6.1).

/// How one is to prove who one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// By a user's name and password.
    Basic,
    /// By a token of another server (the distribution project's "token authentication").
    Bearer {
        /// The other server's URL.
        realm: String,
        /// Whom the token is for.
        service: Option<String>,
        /// What it is to allow.
        scope: Option<String>,
    },
}

/// The best challenge among the headers that is understood.
pub fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers {
        for (scheme, parameters) in parse(header) {
            let find = |name: &str| {
                let found = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.clone())
            };
            match scheme.to_ascii_lowercase().as_str() {
                "bearer" => {
                    if let Some(realm) = find("realm") {
                        return Some(Challenge::Bearer {
                            realm,
                            service: find("service"),
                            scope: find("scope"),
                        });
                    }
                }
                "basic" => basic = Some(Challenge::Basic),
                _ => {}
            }
        }
    }
    basic
}

type Parameters = Vec<(String, String)>;

/// The challenges of a header. What is malformed ends it.
fn parse(header: &str) -> Vec<(String, Parameters)> {
    let mut challenges: Vec<(String, Parameters)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find(|c: char| !is_token(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            return challenges;
        }
        let after = after.trim_start();
        match (after.strip_prefix('='), challenges.last_mut()) {
            (Some(value), Some((_, parameters))) => {
                let (value, after) = value_of(value.trim_start());
                parameters.push((word.to_owned(), value));
                rest = after;
            }
            (Some(_), None) => return challenges,
            (None, _) => {
                challenges.push((word.to_owned(), Vec::new()));
                rest = after;
            }
        }
    }
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/".contains(c)
}

/// A token or a quoted string, and what follows.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        })
    }

    #[test]
    fn headers_of_real_servers_are_read() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/busybox:pull,push""#;
        assert_eq!(
            choose([hub].into_iter()),
            bearer(
                "https://auth.docker.io/token",
                Some("registry.docker.io"),
                Some("repository:library/busybox:pull,push")
            )
        );
        assert_eq!(
            choose([r#"Basic realm="Registry Realm""#].into_iter()),
            Some(Challenge::Basic)
        );
        let both = [r#"Basic realm="a b", charset="UTF-8", bearer REALM = "x\"y" , error=invalid_token"#];
        assert_eq!(choose(both.into_iter()), bearer("x\"y", None, None));
        assert_eq!(
            choose(["Basic", r#"Bearer realm="t""#].into_iter()),
            bearer("t", None, None)
        );
    }

    #[test]
    fn what_is_not_understood_is_left() {
        for text in [
            "",
            "=",
            "Negotiate",
            "Bearer",
            "Bearer realm",
            "Digest realm=\"x",
            ",,\"",
            "é=1",
        ] {
            assert_eq!(choose([text].into_iter()), None, "{text}");
        }
    }
}
