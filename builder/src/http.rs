//! An HTTP client over HTTP and HTTPS, with redirects, proxies and retries.
//!
//! Certificates are those of the system, or what `SSL_CERT_FILE` and `SSL_CERT_DIR` name. Proxies are those of the
//! environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`, in either case). A request that the network or
//! a busy server failed is made again a few times, each time after a longer pause.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use ureq::http::{HeaderMap, Request as UreqRequest, Uri};
use ureq::{Agent, Body as UreqBody, Proxy, SendBody};

use crate::url::Url;

mod error;
mod proxy;
mod retry;
mod trust;

pub use error::{Cause, HttpError};
pub(crate) use error::{is_passing_status, reason};
use proxy::proxy_for;
pub(crate) use retry::{Again, Failed, retry, wait};
pub use trust::Trust;

/// The most redirects in a row, as in browsers and in Go.
pub(crate) const MAX_REDIRECTS: usize = 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long nothing may come.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// What is asked of a resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    /// Its content.
    Get,
    /// Its headers.
    Head,
    /// To take something in.
    Post,
    /// To become something.
    Put,
    /// To change.
    Patch,
    /// To be gone.
    Delete,
}

impl Method {
    /// Its name in a request.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// What goes with a request.
pub enum Body<'a> {
    /// Nothing.
    None,
    /// These bytes.
    Bytes(&'a [u8]),
    /// So many bytes of a stream, which must have them, or else all that it has. They cannot be sent twice.
    Stream(&'a mut dyn Read, Option<u64>),
}

/// One request.
pub struct Request<'a> {
    /// What is asked.
    pub method: Method,
    /// Of what.
    pub url: &'a Url,
    /// Further headers.
    pub headers: &'a [(&'a str, String)],
    /// What goes with it.
    pub body: Body<'a>,
}

/// An answer.
pub struct Response {
    /// Where it came from, after redirects.
    pub url: Url,
    /// The status code.
    pub status: u16,
    headers: HeaderMap,
    body: UreqBody,
}

impl Response {
    /// A header, if it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// How many bytes the server announces.
    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }

    /// How long the server asks to be left alone.
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.header("retry-after")?.trim().parse().ok()?;
        Some(Duration::from_secs(seconds))
    }

    /// All headers of a name that are text.
    pub fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        let values = self.headers.get_all(name).into_iter();
        values.filter_map(|value| value.to_str().ok())
    }

    /// The bytes.
    pub fn into_reader(self) -> impl Read + Send + use<> {
        self.body.into_with_config().limit(u64::MAX).reader()
    }
}

/// What agents differ by: whether they need certificates, and the proxy.
type AgentKey = (bool, Option<String>);

/// A client; it keeps connections for further requests.
#[derive(Default)]
pub struct Client {
    agents: Mutex<Agents>,
    trust: Trust,
    /// How long a server may be silent, if not [`SILENCE_TIMEOUT`].
    patience: Option<Duration>,
}

#[derive(Default)]
struct Agents {
    known: BTreeMap<AgentKey, Agent>,
    is_shut: bool,
}

impl Client {
    /// A client that trusts others than those of the system, or comes with a certificate of its own.
    pub fn new(trust: Trust) -> Self {
        Self {
            trust,
            ..Self::default()
        }
    }

    /// Ends all transfers, of which others may wait for the next byte, and refuses further ones.
    pub fn shut(&self) {
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        agents.is_shut = true;
        agents.known.values().for_each(|agent| agent.clone().shutdown());
    }

    /// Fetches `url` with these headers; the answer's status is 2xx or 304. A user and a password in the URL become a
    /// header; that and `Authorization` go to its host only, not to where it redirects. Stops between attempts once
    /// `stopped` says so.
    ///
    /// # Errors
    /// [`HttpError`], after the last attempt.
    pub fn get(
        &self,
        url: &Url,
        headers: &[(&str, String)],
        stopped: &dyn Fn() -> bool,
    ) -> Result<Response, HttpError> {
        retry(stopped, || self.follow(url, headers))
    }

    /// Makes one request, and returns whatever the server answers. Follows no redirect, and tries once.
    ///
    /// # Errors
    /// [`HttpError::Transport`] and what keeps a request from being made.
    pub fn exchange(&self, request: Request<'_>) -> Result<Response, HttpError> {
        let url = request.url;
        if !matches!(url.scheme.as_str(), "http" | "https") {
            let url = url.to_string();
            return Err(HttpError::Scheme { url });
        }
        // A query may be a key, as that of a signed URL is.
        let shown = Url {
            query: url.query.as_ref().map(|_| "…".to_owned()),
            ..url.clone()
        };
        let failed = |source: ureq::Error| HttpError::Transport {
            url: shown.to_string(),
            source: Box::new(source),
        };
        let uri: Uri = url
            .bare()
            .encoded()
            .parse()
            .map_err(|e: ureq::http::uri::InvalidUri| failed(ureq::Error::BadUri(e.to_string())))?;
        let mut head = UreqRequest::builder().method(request.method.name()).uri(uri);
        for (name, value) in request.headers {
            head = head.header(*name, value);
        }
        let http = |e| failed(ureq::Error::Http(e));
        let agent = self.agent(url)?;
        let answer = match request.body {
            // Servers want to hear that nothing comes.
            Body::None if matches!(request.method, Method::Post | Method::Put | Method::Patch) => {
                agent.run(head.body(&[][..]).map_err(http)?)
            }
            Body::None => agent.run(head.body(()).map_err(http)?),
            Body::Bytes(bytes) => agent.run(head.body(bytes).map_err(http)?),
            Body::Stream(from, length) => {
                if let Some(length) = length {
                    head = head.header("content-length", length);
                }
                agent.run(head.body(SendBody::from_reader(from)).map_err(http)?)
            }
        };
        let (parts, body) = answer.map_err(failed)?.into_parts();
        Ok(Response {
            url: url.clone(),
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
        })
    }

    fn follow(&self, url: &Url, headers: &[(&str, String)]) -> Result<Response, Failed<HttpError>> {
        let mut at = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let trusted = at.host == url.host && (at.scheme == url.scheme || at.scheme == "https");
            let response = self.once(&at, headers, trusted)?;
            let location = response.header("location");
            match (response.status, location) {
                (200..=299 | 304, _) => return Ok(response),
                (301 | 302 | 303 | 307 | 308, Some(location)) => {
                    let next = at.join(location).map_err(|source| HttpError::Url {
                        url: location.to_owned(),
                        source,
                    })?;
                    tracing::debug!(from = %at, to = %next, "redirected");
                    at = next;
                }
                (status, _) => {
                    let pause = response.retry_after();
                    let url = at.to_string();
                    return Err(Failed {
                        pause,
                        ..HttpError::Status { url, status }.into()
                    });
                }
            }
        }
        let url = url.to_string();
        Err(HttpError::Redirects { url }.into())
    }

    /// One GET. Only to a `trusted` host do credentials go.
    fn once(&self, url: &Url, headers: &[(&str, String)], trusted: bool) -> Result<Response, HttpError> {
        let is_secret = |name: &str| name.eq_ignore_ascii_case("authorization");
        let authorized = headers.iter().any(|(name, _)| is_secret(name));
        let mut sent = headers.to_vec();
        sent.retain(|(name, _)| trusted || !is_secret(name));
        if let Some((user, password)) = url.credentials().filter(|_| !authorized) {
            sent.push(("authorization", basic(&user, &password)));
        }
        self.exchange(Request {
            method: Method::Get,
            url,
            headers: &sent,
            body: Body::None,
        })
    }

    /// The agent for a URL: by its scheme and its proxy.
    fn agent(&self, url: &Url) -> Result<Agent, HttpError> {
        let proxy = proxy_for(url, &|name| std::env::var(name).ok());
        let secure = |text: &String| text.starts_with("https://");
        let tls = url.scheme == "https" || proxy.as_ref().is_some_and(secure);
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        if agents.is_shut {
            return Err(HttpError::Stopped);
        }
        if let Some(agent) = agents.known.get(&(tls, proxy.clone())) {
            return Ok(agent.clone());
        }
        let agent = self.new_agent(tls, proxy.as_deref())?;
        agents.known.insert((tls, proxy), agent.clone());
        Ok(agent)
    }

    fn new_agent(&self, tls: bool, proxy: Option<&str>) -> Result<Agent, HttpError> {
        let proxy = proxy.map(|text| {
            Proxy::new(text).map_err(|source| HttpError::Proxy {
                proxy: Url::parse(text).map_or_else(|_| text.to_owned(), |url| url.to_string()),
                source: Box::new(source),
            })
        });
        let silence = self.patience.unwrap_or(SILENCE_TIMEOUT);
        let config = Agent::config_builder()
            .tls_config(self.trust.config(tls)?)
            .proxy(proxy.transpose()?)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("mica/", env!("CARGO_PKG_VERSION")))
            // What is fetched is kept as it is, whatever it is compressed with.
            .accept_encoding("identity")
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(silence))
            .timeout_per_read(Some(silence))
            .timeout_per_write(Some(silence));
        Ok(config.build().new_agent())
    }
}

/// The value of an `Authorization` header (RFC 7617).
pub(crate) fn basic(user: &[u8], password: &[u8]) -> String {
    let pair = [user, b":", password].concat();
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
}

#[cfg(test)]
mod tests;
