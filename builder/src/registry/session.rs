//! Requests to a registry: over the right scheme, with the right credentials, redirected, and tried again.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::auth::{Ask, Authorization};
use super::challenge::{self, Challenge};
use super::credentials::Login;
use super::error::complaints;
use super::{Client, Endpoint, RegistryError, Repository, lock};
use crate::http::{
    self, Again, Body, Cause, Failed, HttpError, MAX_REDIRECTS, Method, Request, Response, retry,
};
use crate::url::Url;

/// How much of a refusal is read.
const REFUSAL_LIMIT: u64 = 64 << 10;

/// A request to a repository.
pub struct Call<'a> {
    /// What is asked.
    pub method: Method,
    /// Of what: a path below the repository (`blobs/sha256:…`), or a whole URL that the registry gave.
    pub target: Target<'a>,
    /// Further headers.
    pub headers: Vec<(&'static str, String)>,
    /// What goes with it. A stream is sent once: there is no second attempt.
    pub body: Body<'a>,
    /// Which statuses are answers besides 2xx.
    pub accepted: &'a [u16],
    /// What it is about, for messages: `the manifest of busybox:latest`.
    pub about: &'a str,
}

/// What a call is about.
#[derive(Clone, Copy)]
pub enum Target<'a> {
    /// A path below the repository, without a leading slash.
    Path(&'a str),
    /// What the registry named in a `Location`.
    Url(&'a Url),
}

impl<'a> Call<'a> {
    /// A call without headers and body.
    pub fn new(method: Method, path: &'a str, about: &'a str) -> Self {
        Self {
            method,
            target: Target::Path(path),
            headers: Vec::new(),
            body: Body::None,
            accepted: &[],
            about,
        }
    }
}

/// The connections to a host, and what opens its doors.
pub(super) struct Connection {
    host: String,
    is_insecure: bool,
    pub(super) http: http::Client,
    scheme: Mutex<Option<&'static str>>,
    has_answered: AtomicBool,
    /// By scopes; `Basic` credentials are good for all.
    authorizations: Mutex<BTreeMap<String, Authorization>>,
}

impl Connection {
    pub(super) fn new(host: &str, is_insecure: bool, http: http::Client) -> Self {
        Self {
            host: host.to_owned(),
            is_insecure,
            http,
            scheme: Mutex::new(None),
            has_answered: AtomicBool::new(false),
            authorizations: Mutex::default(),
        }
    }

    /// How the host is spoken to. Plain HTTP is for this machine itself, and where it was asked for; there both are
    /// tried.
    fn scheme(&self) -> Result<&'static str, HttpError> {
        let mut known = lock(&self.scheme);
        if let Some(scheme) = *known {
            return Ok(scheme);
        }
        let is_loopback = self.url("http", "").is_loopback();
        let scheme = match (is_loopback, self.is_insecure) {
            (false, false) => "https",
            // A plain server may wait for ever for the end of what, to it, is no line.
            (true, _) => self.probe_loopback()?,
            (false, true) => self.probe_insecure()?,
        };
        *known = Some(scheme);
        Ok(scheme)
    }

    fn probe_loopback(&self) -> Result<&'static str, HttpError> {
        let plain = self.probe("http");
        // So answer servers that speak TLS.
        let is_odd = |answer: &Response| answer.status == 400;
        if plain.as_ref().is_ok_and(|answer| !is_odd(answer)) {
            return Ok("http");
        }
        match (plain, self.probe("https")) {
            (_, Ok(_)) => Ok("https"),
            (_, Err(error)) if matches!(error.cause(), Some(Cause::Certificate | Cause::Alert)) => Err(error),
            (Ok(_), Err(_)) => Ok("http"),
            (Err(error), Err(_)) => Err(error),
        }
    }

    fn probe_insecure(&self) -> Result<&'static str, HttpError> {
        match self.probe("https") {
            Ok(_) => Ok("https"),
            Err(error) => match self.probe("http") {
                Ok(_) => Ok("http"),
                Err(_) => Err(error),
            },
        }
    }

    /// Makes a request.
    fn exchange(&self, request: Request<'_>) -> Result<Response, HttpError> {
        let answer = self.http.exchange(request)?;
        self.has_answered.store(true, Ordering::Relaxed);
        Ok(answer)
    }

    /// Whether there was an answer, ever.
    fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Relaxed)
    }

    fn probe(&self, scheme: &str) -> Result<Response, HttpError> {
        self.exchange(Request {
            method: Method::Get,
            url: &self.url(scheme, "/v2/"),
            headers: &[],
            body: Body::None,
        })
    }

    fn url(&self, scheme: &str, path: &str) -> Url {
        Url {
            scheme: scheme.to_owned(),
            user: None,
            host: self.host.clone(),
            path: path.to_owned(),
            query: None,
            fragment: None,
        }
    }

    fn authorization(&self, scopes: &str) -> Option<Authorization> {
        let known = lock(&self.authorizations);
        let found = known.get(scopes).or_else(|| known.get(""))?;
        found.is_fresh().then(|| found.clone())
    }
}

impl Repository {
    /// Makes a call at the repository's own registry. Transfers that fail for now are tried again, unless the body is a
    /// stream.
    ///
    /// # Errors
    /// [`RegistryError`]; a status that is neither 2xx nor accepted is [`RegistryError::Refused`].
    pub fn call(&self, call: &mut Call<'_>) -> Result<Response, RegistryError> {
        self.call_at(self.origin(), call)
    }

    /// As [`Self::call`], at one of [`Self::endpoints`].
    pub(super) fn call_at(
        &self,
        endpoint: &Endpoint,
        call: &mut Call<'_>,
    ) -> Result<Response, RegistryError> {
        let session = Session {
            client: &self.client,
            endpoint,
            scopes: self.scopes(endpoint),
            has_login: Cell::default(),
        };
        let stopped = || self.client.is_stopped();
        retry(&stopped, || session.attempt(call))
    }
}

/// Requests to one endpoint with the same scopes.
struct Session<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    scopes: Vec<String>,
    /// Whether the last request said who we are.
    has_login: Cell<bool>,
}

impl Session<'_> {
    fn connection(&self) -> Result<Arc<Connection>, RegistryError> {
        let endpoint = self.endpoint;
        self.client
            .connection(endpoint.registry(), endpoint.host(), endpoint.is_insecure())
    }

    fn attempt(&self, call: &mut Call<'_>) -> Result<Response, Failed<RegistryError>> {
        // A mirror that fails has another place behind it; a stream is gone.
        let is_last = self.endpoint.is_mirror() || matches!(call.body, Body::Stream(..));
        let failed = |error: RegistryError| Failed {
            again: match error.is_passing() && !is_last {
                false => Again::Never,
                true if self.is_strange(&error) => Again::Quickly,
                true => Again::Patiently,
            },
            error: Box::new(error),
            pause: None,
        };
        let response = self.authorized(call).map_err(failed)?;
        if (200..300).contains(&response.status) || call.accepted.contains(&response.status) {
            return Ok(response);
        }
        let pause = response.retry_after();
        let error = self.refusal(call.about, response);
        Err(Failed {
            pause,
            ..failed(error)
        })
    }

    /// Whether nobody answers, and nobody has before.
    fn is_strange(&self, error: &RegistryError) -> bool {
        let has_answered = || {
            self.connection()
                .is_ok_and(|connection| connection.has_answered())
        };
        matches!(error, RegistryError::Http(error) if error.is_unreachable()) && !has_answered()
    }

    /// Sends the call with what is known to open the door, and meets a challenge if there is one.
    fn authorized(&self, call: &mut Call<'_>) -> Result<Response, RegistryError> {
        let connection = self.connection()?;
        let url = match call.target {
            Target::Url(url) => url.clone(),
            Target::Path(path) => {
                let path = format!("/v2/{}/{path}", self.endpoint.repository());
                let (path, query) = path.split_once('?').map_or((&*path, None), |(a, b)| (a, Some(b)));
                let mut url = connection.url(connection.scheme()?, path);
                url.query = query.map(str::to_owned);
                url
            }
        };
        let scopes = self.scopes.join(" ");
        let known = connection.authorization(&scopes);
        let response = self.follow(&connection, &url, call, known.as_ref())?;
        if response.status != 401 || matches!(call.body, Body::Stream(..)) {
            return Ok(response);
        }
        let Some(challenge) = challenge::choose(response.headers("www-authenticate")) else {
            return Ok(response);
        };
        let login = self.client.settings().credentials.find(&self.endpoint.name())?;
        let ask = Ask {
            endpoint: self.endpoint,
            scopes: &self.scopes,
            login: login.as_ref(),
            wants_identity: false,
        };
        self.check_exposure(&url, &challenge, login.as_ref())?;
        let Some(proof) = self.client.prove(&challenge, &ask)? else {
            return Ok(response);
        };
        drop(response);
        let key = match challenge {
            Challenge::Basic => String::new(),
            Challenge::Bearer { .. } => scopes,
        };
        lock(&connection.authorizations).insert(key, proof.authorization.clone());
        self.follow(&connection, &url, call, Some(&proof.authorization))
    }

    /// Passwords do not go over a network in the clear, unless that was asked for.
    fn check_exposure(
        &self,
        url: &Url,
        challenge: &Challenge,
        login: Option<&Login>,
    ) -> Result<(), RegistryError> {
        let is_plain = url.scheme != "https" && !url.is_loopback() && !self.endpoint.is_insecure();
        match is_plain && *challenge == Challenge::Basic && login.is_some() {
            true => Err(RegistryError::Exposed {
                server: url.host.clone(),
            }),
            false => Ok(()),
        }
    }

    /// Sends a request, and follows redirects of what has no body. Credentials go to the registry's host alone: where
    /// it redirects, mostly to a store of blobs, the URL itself is the key.
    fn follow(
        &self,
        own: &Connection,
        url: &Url,
        call: &mut Call<'_>,
        authorization: Option<&Authorization>,
    ) -> Result<Response, RegistryError> {
        self.has_login
            .set(authorization.is_some_and(|authorization| authorization.has_login));
        let mut at = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let is_own = at.host == own.host && (at.scheme == url.scheme || at.scheme == "https");
            let mut headers = call.headers.clone();
            if let Some(authorization) = authorization.filter(|_| is_own) {
                headers.push(("authorization", authorization.value.reveal().to_owned()));
            }
            let body = match &mut call.body {
                Body::None => Body::None,
                Body::Bytes(bytes) => Body::Bytes(bytes),
                Body::Stream(from, length) => Body::Stream(&mut **from, *length),
            };
            let request = Request {
                method: call.method,
                url: &at,
                headers: &headers,
                body,
            };
            let response = match is_own {
                true => own.exchange(request),
                false => self.elsewhere(&at)?.http.exchange(request),
            };
            let response = response.map_err(|error| named(error, call))?;
            let is_redirect = matches!(response.status, 301 | 302 | 303 | 307 | 308)
                && matches!(call.method, Method::Get | Method::Head);
            let Some(location) = response.header("location").filter(|_| is_redirect) else {
                return Ok(response);
            };
            let next = at.join(location).map_err(|source| HttpError::Url {
                url: location.to_owned(),
                source,
            })?;
            tracing::debug!(from = %at.host, to = %next.host, "redirected");
            at = next;
        }
        let url = url.to_string();
        Err(HttpError::Redirects { url }.into())
    }

    /// The connection to where the registry redirects. Plain HTTP has to be allowed there as well.
    fn elsewhere(&self, url: &Url) -> Result<Arc<Connection>, RegistryError> {
        let insecure = self.endpoint.is_insecure();
        if url.scheme != "https" && !insecure && !url.is_loopback() {
            return Err(RegistryError::Protocol {
                about: self.endpoint.name(),
                server: self.endpoint.host().to_owned(),
                reason: format!("it redirects to {} without TLS", url.host),
            });
        }
        self.client.connection(&url.host, &url.host, insecure)
    }

    fn refusal(&self, about: &str, response: Response) -> RegistryError {
        let (status, retry_after) = (response.status, response.retry_after());
        let server = response.url.host.clone();
        let mut body = Vec::new();
        // What cannot be read says nothing.
        let _ = response.into_reader().take(REFUSAL_LIMIT).read_to_end(&mut body);
        RegistryError::Refused {
            about: about.to_owned(),
            server,
            status,
            complaints: complaints(&body),
            has_login: self.has_login.get(),
            retry_after,
        }
    }
}

/// The error without a URL that the registry gave: it says nothing to people, and may be a key.
fn named(error: HttpError, call: &Call<'_>) -> HttpError {
    match (error, call.target) {
        (HttpError::Transport { source, .. }, Target::Url(_)) => HttpError::Transport {
            url: call.about.to_owned(),
            source,
        },
        (error, _) => error,
    }
}

/// See [`Client::log_in`].
pub(super) fn log_in(client: &Client, endpoint: &Endpoint, login: &Login) -> Result<Login, RegistryError> {
    let connection = client.connection(endpoint.registry(), endpoint.host(), endpoint.is_insecure())?;
    let about = format!("logging in to {}", endpoint.registry());
    let url = connection.url(connection.scheme()?, "/v2/");
    let session = Session {
        client,
        endpoint,
        scopes: Vec::new(),
        has_login: Cell::default(),
    };
    let mut call = Call::new(Method::Get, "", &about);
    let response = session.follow(&connection, &url, &mut call, None)?;
    let challenge = challenge::choose(response.headers("www-authenticate"));
    let Some(challenge) = challenge.filter(|_| response.status == 401) else {
        return match response.status {
            200..=299 => Ok(login.clone()),
            _ => Err(session.refusal(&about, response)),
        };
    };
    let ask = Ask {
        endpoint,
        scopes: &[],
        login: Some(login),
        wants_identity: true,
    };
    session.check_exposure(&url, &challenge, Some(login))?;
    let Some(proof) = client.prove(&challenge, &ask)? else {
        return Err(session.refusal(&about, response));
    };
    let response = session.follow(&connection, &url, &mut call, Some(&proof.authorization))?;
    match response.status {
        200..=299 => Ok(proof.identity.map_or_else(|| login.clone(), Login::Identity)),
        _ => Err(session.refusal(&about, response)),
    }
}
