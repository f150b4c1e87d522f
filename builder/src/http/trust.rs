//! Whom to trust, and as whom to come: certificates.

use std::sync::{Arc, OnceLock};

use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use super::HttpError;

/// What connections by TLS are made with, besides the certificates of the system.
#[derive(Clone, Default)]
pub struct Trust {
    authorities: Vec<Certificate<'static>>,
    identity: Option<ClientCert>,
    is_blind: bool,
}

impl Trust {
    /// Trusts the authorities of a file of certificates (PEM) as well.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn add_authorities(&mut self, pem: &[u8]) -> Result<(), String> {
        self.authorities.extend(certificates(pem)?);
        Ok(())
    }

    /// Shows this certificate, the first of a chain (PEM), to servers that ask for one.
    ///
    /// # Errors
    /// What is wrong with the texts.
    pub fn set_identity(&mut self, chain: &[u8], key: &[u8]) -> Result<(), String> {
        let chain = certificates(chain)?;
        let key = PrivateKey::from_pem(key).map_err(|e| e.to_string())?;
        self.identity = Some(ClientCert::new_with_certs(&chain, key));
        Ok(())
    }

    /// Takes every server for what it says it is.
    pub fn verify_nothing(&mut self) {
        self.is_blind = true;
    }

    /// The settings of the client; without certificates if no connection is to be by TLS.
    pub(super) fn config(&self, is_tls: bool) -> Result<TlsConfig, HttpError> {
        let mut roots = Arc::default();
        if is_tls && !self.is_blind {
            roots = match system() {
                Ok(system) if self.authorities.is_empty() => system,
                Ok(system) => Arc::new([&self.authorities[..], &system[..]].concat()),
                Err(error) if self.authorities.is_empty() => return Err(error),
                Err(_) => Arc::new(self.authorities.clone()),
            };
        }
        Ok(TlsConfig::builder()
            .root_certs(RootCerts::Specific(roots))
            .client_cert(self.identity.clone())
            .disable_verification(self.is_blind)
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build())
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>, String> {
    let mut found = Vec::new();
    for item in parse_pem(pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|e| e.to_string())? {
            found.push(certificate);
        }
    }
    match found.is_empty() {
        true => Err("it holds no certificate in PEM form".to_owned()),
        false => Ok(found),
    }
}

type Certificates = Arc<Vec<Certificate<'static>>>;

/// The certificates of the system, read once.
fn system() -> Result<Certificates, HttpError> {
    static KNOWN: OnceLock<Certificates> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(known.clone());
    }
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "a certificate of the system cannot be read");
    }
    if found.certs.is_empty() {
        let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(HttpError::Certificates(match errors.is_empty() {
            true => "there are none".to_owned(),
            false => errors.join("; "),
        }));
    }
    let owned = |der: &_| Certificate::from_der(der).to_owned();
    let certificates = Arc::new(found.certs.iter().map(|der| owned(der.as_ref())).collect());
    Ok(KNOWN.get_or_init(|| certificates).clone())
}
