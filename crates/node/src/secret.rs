//! The replica's secret, and randomness for seeds and nonces.

use std::{
    fs,
    io::{self, BufRead},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use wire::handshake::{SECRET_BYTES, Secret};

/// Shortest text that may serve as a secret, in characters.
const MIN_SECRET_CHARS: usize = 32;
/// Longest text that is read as a secret, in bytes.
const MAX_SECRET_BYTES: u64 = 4096;

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the secret {}: {source}", .path.display())]
    File {
        /// The file, or "standard input".
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Too easy to guess.
    #[error(
        "the secret in {} has {found} characters; at least {MIN_SECRET_CHARS} are needed\nhint: head -c 32 /dev/urandom | base64 > secret",
        .path.display()
    )]
    Short {
        /// The file, or "standard input".
        path: PathBuf,
        /// Characters found.
        found: usize,
    },
}

/// A secret as people and processes hand it over: a line of text. Its hash is what handshakes use.
#[derive(Clone)]
pub struct SecretLine(String);

impl SecretLine {
    /// A fresh one.
    pub(crate) fn fresh() -> SecretLine {
        SecretLine(random_bytes::<SECRET_BYTES>().iter().map(|b| format!("{b:02x}")).collect())
    }

    /// The first line of a file.
    pub fn read_file(path: &Path) -> Result<SecretLine, SecretError> {
        let file =
            fs::File::open(path).map_err(|source| SecretError::File { path: path.to_owned(), source })?;
        read(path, io::BufReader::new(file))
    }

    /// The first line of a stream; how a parent process hands it over.
    pub fn read(from: impl BufRead) -> Result<SecretLine, SecretError> {
        read(Path::new("standard input"), from)
    }

    pub(crate) fn line(&self) -> &str {
        &self.0
    }

    pub(crate) fn secret(&self) -> Secret {
        Secret::new(Sha256::digest(self.0.as_bytes()).into())
    }
}

fn read(path: &Path, from: impl BufRead) -> Result<SecretLine, SecretError> {
    let mut text = String::new();
    from.take(MAX_SECRET_BYTES)
        .read_line(&mut text)
        .map_err(|source| SecretError::File { path: path.to_owned(), source })?;
    let text = text.trim();
    match text.chars().count() {
        found if found < MIN_SECRET_CHARS => Err(SecretError::Short { path: path.to_owned(), found }),
        _ => Ok(SecretLine(text.to_owned())),
    }
}

/// Random bytes for a handshake.
pub(crate) fn nonce() -> [u8; SECRET_BYTES] {
    random_bytes()
}

/// What tells one start of a replica from every other; never 0, which is what worlds have that nobody numbered.
pub(crate) fn incarnation() -> u32 {
    u32::from_le_bytes(random_bytes()).max(1)
}

/// A seed for requests that bring none.
pub fn random_seed() -> u64 {
    u64::from_le_bytes(random_bytes())
}

fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // the system's generator fails only where there is none, and then nothing here may go on
    getrandom::fill(&mut bytes).expect("the system has a source of randomness");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_secrets_are_refused() {
        let short =
            SecretLine::read(io::Cursor::new("abc\n")).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(short.contains("3 characters"), "{short}");
        assert!(SecretLine::read(io::Cursor::new("x".repeat(MIN_SECRET_CHARS))).is_ok());
    }

    #[test]
    fn seeds_differ() {
        assert_ne!(random_seed(), random_seed());
    }
}
