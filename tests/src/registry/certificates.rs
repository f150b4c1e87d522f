//! An authority, a certificate for the loopback interface, and one for a client.

use std::fs;
use std::path::{Path, PathBuf};

use crate::command::tool;

/// Certificates in PEM files, good for a day.
pub struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    /// Makes an authority and what it vouches for, in a new directory.
    pub(super) fn make(directory: &Path) -> Self {
        fs::create_dir(directory).expect("the directory is new");
        let made = Self {
            directory: directory.to_owned(),
        };
        made.certificate(
            "ca",
            "basicConstraints=critical,CA:TRUE\nkeyUsage=keyCertSign",
            None,
        );
        let server = "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth";
        made.certificate("server", server, Some("ca"));
        made.certificate("client", "extendedKeyUsage=clientAuth", Some("ca"));
        made
    }

    /// The authority's certificate.
    pub fn authority(&self) -> PathBuf {
        self.directory.join("ca.crt")
    }

    /// A client's certificate.
    pub fn client(&self) -> PathBuf {
        self.directory.join("client.crt")
    }

    /// The key of the client's certificate.
    pub fn client_key(&self) -> PathBuf {
        self.directory.join("client.key")
    }

    /// Lays out `HOST/ca.crt`, `HOST/client.cert` and `HOST/client.key` in a directory such as `certs.d`.
    pub fn install(&self, certs_d: &Path, host: &str) {
        let directory = certs_d.join(host);
        fs::create_dir_all(&directory).expect("the directory can be made");
        let files = [
            (self.authority(), "ca.crt"),
            (self.client(), "client.cert"),
            (self.client_key(), "client.key"),
        ];
        for (from, to) in files {
            fs::copy(from, directory.join(to)).expect("the files can be copied");
        }
    }

    /// The registry's `http.tls` section.
    pub(super) fn configuration(&self, mutual: bool) -> String {
        let file = |name: &str| self.directory.join(name);
        let mut text = format!(
            "  tls:\n    certificate: {:?}\n    key: {:?}\n",
            file("server.crt"),
            file("server.key")
        );
        if mutual {
            text += &format!("    clientcas: [{:?}]\n", self.authority());
        }
        text
    }

    /// `NAME.key` and `NAME.crt`, signed by another or by itself.
    fn certificate(&self, name: &str, extensions: &str, signer: Option<&str>) {
        let openssl = |args: &[&str]| tool("openssl", &self.directory).args(args).ok();
        let config = format!("[req]\ndistinguished_name=dn\n[dn]\n[extensions]\n{extensions}\n");
        fs::write(self.directory.join("openssl.cnf"), config).expect("the directory is ours");
        let (key, request, certificate) = (
            format!("{name}.key"),
            format!("{name}.csr"),
            format!("{name}.crt"),
        );
        let curve = "ec_paramgen_curve:P-256";
        openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", curve, "-out", &key]);
        let subject = format!("/CN=mica tests {name}");
        let config = ["-config", "openssl.cnf"];
        openssl(
            &[
                &["req", "-new", "-key", &key, "-subj", &subject, "-out", &request],
                &config[..],
            ]
            .concat(),
        );
        let signer = signer.unwrap_or(name);
        let (signer_key, signer_certificate) = (format!("{signer}.key"), format!("{signer}.crt"));
        let mut sign = vec![
            "x509",
            "-req",
            "-in",
            &request,
            "-out",
            &certificate,
            "-days",
            "1",
        ];
        sign.extend(["-extfile", "openssl.cnf", "-extensions", "extensions"]);
        match signer == name {
            true => sign.extend(["-signkey", &signer_key]),
            false => sign.extend([
                "-CA",
                &signer_certificate,
                "-CAkey",
                &signer_key,
                "-CAcreateserial",
            ]),
        }
        openssl(&sign);
    }
}
