//! How this machine reaches the registries of packages, for steps that reach them as well.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;

use crate::machine::{self, Lack};

/// The certificates that this machine trusts, where Debian has them.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// The files that steps see as secrets, by their ids: the certificates (`ca`), and the settings of `pip`, `uv`, npm
/// (`npmrc`) and `cargo`. They name a registry only if the environment or the settings of this machine do. `None`,
/// with a word on it, on a machine without certificates.
pub fn settings() -> Option<BTreeMap<&'static str, Vec<u8>>> {
    let bundle = env::var("SSL_CERT_FILE").unwrap_or_else(|_| CERTIFICATES.to_owned());
    let Ok(certificates) = fs::read(&bundle) else {
        machine::skip(Lack::Mendable, &format!("no certificates in {bundle}"));
        return None;
    };
    let index = env::var("PIP_INDEX_URL").ok();
    let pip = index.as_ref().map(|url| format!("[global]\nindex-url = {url}\n"));
    let uv = index.map(|url| format!("index-url = {url:?}\n"));
    let npm = env::var("npm_config_registry").map(|url| format!("registry={url}\n"));
    let npm = npm.unwrap_or_default() + &format!("cafile={CERTIFICATES}\n");
    Some(BTreeMap::from([
        ("ca", certificates),
        ("cargo", cargo()),
        ("npmrc", npm.into_bytes()),
        ("pip", pip.unwrap_or_default().into_bytes()),
        ("uv", uv.unwrap_or_default().into_bytes()),
    ]))
}

/// Cargo's settings of this user, which may name another source of crates.
fn cargo() -> Vec<u8> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    // Most people have none.
    home.and_then(|home| fs::read(home.join("config.toml")).ok())
        .unwrap_or_default()
}
