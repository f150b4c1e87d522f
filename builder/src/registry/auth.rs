//! Proving who one is: passwords, and tokens by the distribution project's "token authentication".

use std::io::Read as _;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::challenge::Challenge;
use super::credentials::{Login, Password};
use super::error::complaints;
use super::{Client, Connection, Endpoint, RegistryError};
use crate::http::{Body, Method, Request, Response, basic};
use crate::url::{Url, encode};

/// How long a token lasts if its server does not say (token authentication, `expires_in`).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// A token that ends so soon is no longer sent.
const MARGIN: Duration = Duration::from_secs(10);
/// The largest answer of a token server.
const ANSWER_LIMIT: u64 = 1 << 20;
/// Who we say we are.
const CLIENT_ID: &str = "mica";

/// The value of an `Authorization` header, and how long it is of use.
#[derive(Clone)]
pub(super) struct Authorization {
    pub value: Password,
    /// Whether it says who we are.
    pub has_login: bool,
    until: Option<Instant>,
}

impl Authorization {
    fn basic(user: &str, password: &Password) -> Self {
        Self {
            value: Password::new(basic(user.as_bytes(), password.reveal().as_bytes())),
            has_login: true,
            until: None,
        }
    }

    fn bearer(token: &str, life: Option<Duration>, has_login: bool) -> Self {
        Self {
            value: Password::new(format!("Bearer {token}")),
            has_login,
            until: life.and_then(|life| Instant::now().checked_add(life)),
        }
    }

    pub(super) fn is_fresh(&self) -> bool {
        self.until
            .is_none_or(|until| until.saturating_duration_since(Instant::now()) > MARGIN)
    }
}

/// What a token server answers.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
    refresh_token: Option<String>,
}

/// What came of a challenge.
pub(super) struct Proof {
    pub authorization: Authorization,
    /// A token for further tokens, if one was asked for.
    pub identity: Option<Password>,
}

/// What is asked for.
pub(super) struct Ask<'a> {
    /// Whose challenge it is.
    pub endpoint: &'a Endpoint,
    /// What is to be allowed.
    pub scopes: &'a [String],
    /// Who we are.
    pub login: Option<&'a Login>,
    /// Whether to ask for a token for further tokens as well.
    pub wants_identity: bool,
}

impl Client {
    /// Meets a challenge; `None` if there is nothing to meet it with.
    pub(super) fn prove(&self, challenge: &Challenge, ask: &Ask<'_>) -> Result<Option<Proof>, RegistryError> {
        let proof = |authorization| Proof {
            authorization,
            identity: None,
        };
        match (challenge, ask.login) {
            (_, Some(Login::Bearer(token))) => {
                Ok(Some(proof(Authorization::bearer(token.reveal(), None, true))))
            }
            (Challenge::Basic, Some(Login::User(user, password))) => {
                Ok(Some(proof(Authorization::basic(user, password))))
            }
            (Challenge::Basic, _) => Ok(None),
            (
                Challenge::Bearer {
                    realm,
                    service,
                    scope,
                },
                _,
            ) => {
                let mut scopes = ask.scopes.to_vec();
                let more = scope.iter().flat_map(|scope| scope.split(' '));
                scopes.extend(more.filter(|scope| !covers(ask.scopes, scope)).map(str::to_owned));
                self.token(realm, service.as_deref(), &scopes, ask).map(Some)
            }
        }
    }

    fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scopes: &[String],
        ask: &Ask<'_>,
    ) -> Result<Proof, RegistryError> {
        let about = || format!("a token for {}", ask.endpoint.registry());
        let url = Url::parse(realm).map_err(|e| RegistryError::Protocol {
            about: about(),
            server: ask.endpoint.host().to_owned(),
            reason: format!("its token server {realm:?} is no URL: {e}"),
        })?;
        if url.scheme != "https" && !url.is_loopback() && !ask.endpoint.is_insecure() && ask.login.is_some() {
            let server = url.host;
            return Err(RegistryError::Exposed { server });
        }
        let connection = self.connection(&url.host, &url.host, ask.endpoint.is_insecure())?;
        let response = request(&connection, &url, service, scopes, ask)?;
        let status = response.status;
        let mut body = Vec::new();
        // What cannot be read is no token.
        let read = response.into_reader().take(ANSWER_LIMIT).read_to_end(&mut body);
        if status != 200 {
            return Err(RegistryError::Refused {
                about: about(),
                server: url.host,
                status,
                complaints: complaints(&body),
                has_login: ask.login.is_some(),
                retry_after: None,
            });
        }
        let token = read
            .ok()
            .and_then(|_| serde_json::from_slice::<Token>(&body).ok());
        proof(token, ask.login.is_some()).ok_or_else(|| RegistryError::Protocol {
            about: about(),
            server: url.host,
            reason: "it holds no token".to_owned(),
        })
    }
}

/// Asks the token server: with an identity token by OAuth 2, else by GET, which every server knows.
fn request(
    connection: &Connection,
    realm: &Url,
    service: Option<&str>,
    scopes: &[String],
    ask: &Ask<'_>,
) -> Result<Response, RegistryError> {
    let mut fields: Vec<(&str, &str)> = service.map(|service| ("service", service)).into_iter().collect();
    let mut headers = Vec::new();
    if let Some(Login::Identity(token)) = ask.login {
        let scope = scopes.join(" ");
        fields.extend([
            ("scope", scope.as_str()),
            ("grant_type", "refresh_token"),
            ("client_id", CLIENT_ID),
            ("refresh_token", token.reveal()),
        ]);
        headers.push(("content-type", "application/x-www-form-urlencoded".to_owned()));
        return Ok(connection.http.exchange(Request {
            method: Method::Post,
            url: realm,
            headers: &headers,
            body: Body::Bytes(form(&fields).as_bytes()),
        })?);
    }
    fields.extend(scopes.iter().map(|scope| ("scope", scope.as_str())));
    if let Some(Login::User(user, password)) = ask.login {
        fields.push(("account", user));
        if ask.wants_identity {
            fields.extend([("client_id", CLIENT_ID), ("offline_token", "true")]);
        }
        let own = Authorization::basic(user, password);
        headers.push(("authorization", own.value.reveal().to_owned()));
    }
    let mut url = realm.clone();
    let query = form(&fields);
    url.query = Some(match url.query.filter(|own| !own.is_empty()) {
        Some(own) => format!("{own}&{query}"),
        None => query,
    });
    Ok(connection.http.exchange(Request {
        method: Method::Get,
        url: &url,
        headers: &headers,
        body: Body::None,
    })?)
}

fn proof(token: Option<Token>, has_login: bool) -> Option<Proof> {
    let token = token?;
    let own = token.token.filter(|text| !text.is_empty());
    let text = own.or(token.access_token).filter(|text| !text.is_empty())?;
    // A header takes no line breaks.
    if text.chars().any(char::is_control) {
        return None;
    }
    let life = token.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs);
    Some(Proof {
        // Servers that say less are wrong by the specification.
        authorization: Authorization::bearer(&text, Some(life.max(DEFAULT_LIFE)), has_login),
        identity: token
            .refresh_token
            .filter(|text| !text.is_empty())
            .map(Password::new),
    })
}

/// Whether the scopes allow all that `wanted` (`repository:NAME:pull`) does.
fn covers(scopes: &[String], wanted: &str) -> bool {
    let (what, actions) = wanted.rsplit_once(':').unwrap_or((wanted, ""));
    scopes.iter().any(|scope| {
        let (own, allowed) = scope.rsplit_once(':').unwrap_or((scope, ""));
        let allowed: Vec<_> = allowed.split(',').collect();
        own == what && actions.split(',').all(|action| allowed.contains(&action))
    })
}

/// `application/x-www-form-urlencoded`.
fn form(fields: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", encode(value)))
        .collect();
    pairs.join("&")
}
