//! Digests that users write down for what they fetch: `sha256:…`, `sha384:…`, `sha512:…`.

use std::fmt;

use sha2::{Digest as _, Sha256, Sha384, Sha512};

/// An expected digest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Checksum {
    algorithm: Algorithm,
    hex: String,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Algorithm {
    Sha256,
    Sha384,
    Sha512,
}

const ALGORITHMS: [(&str, Algorithm, usize); 3] = [
    ("sha256", Algorithm::Sha256, 64),
    ("sha384", Algorithm::Sha384, 96),
    ("sha512", Algorithm::Sha512, 128),
];

/// Why a text is no checksum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChecksum {
    /// No `ALGORITHM:`.
    #[error("a checksum is ALGORITHM:HEX, as in sha256:…")]
    Form,
    /// An algorithm that is not known.
    #[error("unsupported digest algorithm {0:?}: it may be sha256, sha384 or sha512")]
    Algorithm(String),
    /// Not the digits of a digest of that algorithm.
    #[error("a {0} checksum has {1} digits of 0-9 and a-f")]
    Digits(&'static str, usize),
}

impl Checksum {
    /// Reads a checksum.
    ///
    /// # Errors
    /// [`InvalidChecksum`].
    pub fn parse(text: &str) -> Result<Self, InvalidChecksum> {
        let (name, hex) = text.split_once(':').ok_or(InvalidChecksum::Form)?;
        let known = ALGORITHMS.into_iter().find(|(known, ..)| *known == name);
        let (name, algorithm, length) = known.ok_or_else(|| InvalidChecksum::Algorithm(name.to_owned()))?;
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if hex.len() != length || !hex.bytes().all(digit) {
            return Err(InvalidChecksum::Digits(name, length));
        }
        let hex = hex.to_owned();
        Ok(Self { algorithm, hex })
    }

    /// What computes a digest to compare with this one.
    pub fn summing(&self) -> Summing {
        match self.algorithm {
            Algorithm::Sha256 => Summing::Sha256(Sha256::new()),
            Algorithm::Sha384 => Summing::Sha384(Sha384::new()),
            Algorithm::Sha512 => Summing::Sha512(Sha512::new()),
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = ALGORITHMS
            .iter()
            .find(|(_, algorithm, _)| *algorithm == self.algorithm);
        write!(f, "{}:{}", name.map_or("", |(name, ..)| name), self.hex)
    }
}

/// A digest in the making.
pub enum Summing {
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-384.
    Sha384(Sha384),
    /// SHA-512.
    Sha512(Sha512),
}

impl Summing {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(sum) => sum.update(bytes),
            Self::Sha384(sum) => sum.update(bytes),
            Self::Sha512(sum) => sum.update(bytes),
        }
    }

    /// The digest of all bytes.
    pub fn finish(self) -> Checksum {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect();
        let (algorithm, hex) = match self {
            Self::Sha256(sum) => (Algorithm::Sha256, hex(&sum.finalize())),
            Self::Sha384(sum) => (Algorithm::Sha384, hex(&sum.finalize())),
            Self::Sha512(sum) => (Algorithm::Sha512, hex(&sum.finalize())),
        };
        Checksum { algorithm, hex }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_algorithm_finds_its_own_digest() {
        // FIPS 180-4, the examples for "abc".
        for text in [
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "sha384:cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
            "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
        ] {
            let checksum = Checksum::parse(text).unwrap();
            assert_eq!(checksum.to_string(), text);
            let mut sum = checksum.summing();
            sum.update(b"a");
            sum.update(b"bc");
            assert_eq!(sum.finish(), checksum);
            assert_ne!(checksum.summing().finish(), checksum);
        }
    }

    #[test]
    fn what_is_no_checksum_is_refused() {
        assert_eq!(Checksum::parse("abc"), Err(InvalidChecksum::Form));
        assert_eq!(
            Checksum::parse("md5:00"),
            Err(InvalidChecksum::Algorithm("md5".to_owned()))
        );
        assert_eq!(
            Checksum::parse("sha256:00"),
            Err(InvalidChecksum::Digits("sha256", 64))
        );
        let upper = format!("sha256:{}", "A".repeat(64));
        assert_eq!(
            Checksum::parse(&upper),
            Err(InvalidChecksum::Digits("sha256", 64))
        );
    }
}
