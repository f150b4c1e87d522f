//! A token server (distribution specification, "Token Authentication" and "OAuth2 Token Authentication").
//!
//! [`USER`] gets what is asked for, and an identity token if wanted; everyone else may pull from repositories whose
//! names begin with `public/`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{PASSWORD, USER};
use crate::command::tool;
use crate::server::{Answer, Request, Server};

const ISSUER: &str = "mica tests";
const SERVICE: &str = "registry of the tests";
/// What stands for the user's password once it was given with `access_type=offline`.
pub(super) const IDENTITY: &str = "identity-token-of-mica";

/// A token server.
pub struct Tokens {
    server: Server,
    directory: PathBuf,
}

impl Tokens {
    /// Starts a server with a new key.
    pub(super) fn start(directory: &Path) -> Self {
        fs::create_dir(directory).expect("the directory is new");
        let args = "req -x509 -newkey rsa:2048 -nodes -keyout key -out crt -days 1 -subj /CN=tokens";
        tool("openssl", directory).args(args.split(' ')).ok();
        let server = Server::start();
        let key = directory.to_owned();
        server.on("/token", move |request| answer(request, &key));
        Self {
            server,
            directory: directory.to_owned(),
        }
    }

    /// The identity token (`identitytoken` in Docker's `config.json`) of [`USER`].
    pub fn identity(&self) -> &'static str {
        IDENTITY
    }

    /// The URL of the server: a challenge's `realm`.
    pub fn realm(&self) -> String {
        self.server.url("/token")
    }

    /// What was asked for so far: `GET /token 200` for each.
    pub fn log(&self) -> Vec<String> {
        self.server.log()
    }

    /// The registry's `auth` section.
    pub(super) fn configuration(&self) -> String {
        format!(
            "auth:\n  token:\n    realm: {:?}\n    service: {SERVICE:?}\n    issuer: {ISSUER:?}\n    \
             rootcertbundle: {:?}\n",
            self.realm(),
            self.directory.join("crt")
        )
    }
}

/// What was asked with: the parameters of the query, or of a form.
fn parameters(request: &Request) -> Vec<(String, String)> {
    let text = match request.method.as_str() {
        "POST" => String::from_utf8_lossy(request.body()).into_owned(),
        _ => request.query.clone(),
    };
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (unescape(name), unescape(value)))
        .collect()
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let digits = String::from_utf8_lossy(&digits).into_owned();
                u8::from_str_radix(&digits, 16).expect("two hexadecimal digits follow %")
            }
            byte => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn answer(request: &Request, directory: &Path) -> Answer {
    let parameters = parameters(request);
    let all = |name: &str| {
        let named = parameters.iter().filter(|(found, _)| found == name);
        named.map(|(_, value)| value.clone()).collect::<Vec<_>>()
    };
    let one = |name: &str| all(name).into_iter().next().unwrap_or_default();
    if one("service") != SERVICE {
        return Answer::new("400 Bad Request", "no such service");
    }
    let basic = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    let user = match (request.method.as_str(), request.header("authorization")) {
        ("POST", _) => match one("grant_type").as_str() {
            "refresh_token" if one("refresh_token") == IDENTITY => Some(USER),
            "password" if one("username") == USER && one("password") == PASSWORD => Some(USER),
            _ => return denied(),
        },
        (_, None) => None,
        (_, Some(header)) if header == basic => Some(USER),
        _ => return denied(),
    };
    let scopes = all("scope");
    let access: Vec<Value> = scopes
        .iter()
        .flat_map(|scope| scope.split(' '))
        .filter_map(|scope| grant(scope, user))
        .collect();
    let token = sign(user.unwrap_or_default(), &access, directory);
    let mut body = json!({ "token": token, "access_token": token, "expires_in": 300 });
    if user.is_some() && (one("access_type") == "offline" || one("offline_token") == "true") {
        body["refresh_token"] = IDENTITY.into();
    }
    Answer::new("200 OK", body.to_string()).header("Content-Type", "application/json")
}

fn denied() -> Answer {
    let body = json!({ "errors": [{ "code": "UNAUTHORIZED", "message": "wrong user or password" }] });
    Answer::new("401 Unauthorized", body.to_string()).header("Content-Type", "application/json")
}

/// What a user gets of a scope such as `repository:a/b:pull,push`.
fn grant(scope: &str, user: Option<&str>) -> Option<Value> {
    let (kind, rest) = scope.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    let is_public = kind == "repository" && name.starts_with("public/");
    let allowed = |action: &&str| user.is_some() || is_public && *action == "pull";
    let actions: Vec<&str> = actions.split(',').filter(allowed).collect();
    Some(json!({ "type": kind, "name": name, "actions": actions }))
}

/// A JSON Web Token (RFC 7519) signed by RSA, with its certificate.
fn sign(user: &str, access: &[Value], directory: &Path) -> String {
    let pem = fs::read_to_string(directory.join("crt")).expect("the certificate is there");
    let der: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let header = json!({ "typ": "JWT", "alg": "RS256", "x5c": [der] });
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    let claims = json!({
        "iss": ISSUER, "sub": user, "aud": SERVICE, "jti": format!("{now}"),
        "iat": now - 10, "nbf": now - 10, "exp": now + 300, "access": access,
    });
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!(
        "{}.{}",
        encode(header.to_string().as_bytes()),
        encode(claims.to_string().as_bytes())
    );
    let signature = tool("openssl", directory)
        .args(["dgst", "-sha256", "-sign", "key"])
        .stdin(signed.as_bytes())
        .ok();
    format!("{signed}.{}", encode(&signature.stdout))
}
