//! The proxies of the environment.

use crate::url::Url;

/// The proxy that the environment names for a URL: that of its scheme, else that of all; none for the hosts of
/// `NO_PROXY`.
pub(super) fn proxy_for(url: &Url, variable: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let either = |name: &str| {
        let value = variable(&name.to_lowercase()).or_else(|| variable(name));
        value.filter(|value| !value.is_empty())
    };
    let own = match url.scheme.as_str() {
        "https" => "HTTPS_PROXY",
        _ => "HTTP_PROXY",
    };
    let proxy = either(own).or_else(|| either("ALL_PROXY"))?;
    let host = url.host_name().trim_matches(['[', ']']).to_lowercase();
    let spared = |entry: &str| {
        let entry = entry.trim().to_lowercase();
        let bare = entry.trim_start_matches("*.").trim_start_matches('.');
        entry == "*" || !bare.is_empty() && (host == bare || host.ends_with(&format!(".{bare}")))
    };
    let no_proxy = either("NO_PROXY").unwrap_or_default();
    (!url.is_loopback() && !no_proxy.split(',').any(spared)).then_some(proxy)
}
