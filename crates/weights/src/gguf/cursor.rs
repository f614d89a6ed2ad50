//! A reading position in a file's bytes whose every step is checked. It knows primitive values, no header.

use std::path::Path;

use super::Kind;
use crate::WeightsError;

/// Longest key or tensor name, as the format says for keys.
const MAX_NAME_BYTES: u64 = 65_535;
/// Arrays of arrays deeper than this are refused; walking them is recursive.
const MAX_ARRAY_DEPTH: u32 = 4;

/// Where reading stands. Errors name the file and the place.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    pub(super) path: &'a Path,
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `n` bytes, which are part of `what`.
    pub(super) fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8], WeightsError> {
        let taken = usize::try_from(n)
            .ok()
            .and_then(|n| self.at.checked_add(n))
            .and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| {
            self.malformed(what, format!("{n} bytes"), format!("{} bytes to the file's end", self.left()))
        })?;
        self.at += taken.len();
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], WeightsError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, WeightsError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, WeightsError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A length and that many bytes.
    pub(super) fn string(&mut self, what: &str) -> Result<&'a [u8], WeightsError> {
        let n = self.u64(what)?;
        self.take(n, what)
    }

    /// A key or a tensor's name.
    pub(super) fn name(&mut self, what: &str) -> Result<&'a str, WeightsError> {
        let start = self.clone();
        let n = self.u64(what)?;
        if n > MAX_NAME_BYTES {
            return Err(start.malformed(what, format!("a name of at most {MAX_NAME_BYTES} bytes"), n));
        }
        let name = self.take(n, what)?;
        std::str::from_utf8(name).map_err(|e| start.malformed(what, "a name in UTF-8", e))
    }

    pub(super) fn kind(&mut self, what: &str) -> Result<Kind, WeightsError> {
        let start = self.clone();
        let code = self.u32(what)?;
        Kind::from_code(code)
            .ok_or_else(|| start.malformed(what, "a value type from 0 to 12", format!("number {code}")))
    }

    /// A count of things that take `min_bytes` each, so that a count the file cannot hold is refused at once.
    pub(super) fn count(&mut self, min_bytes: u64, what: &str) -> Result<u64, WeightsError> {
        let start = self.clone();
        let n = self.u64(what)?;
        let most = self.left() as u64 / min_bytes;
        if n > most {
            return Err(start.malformed(what, format!("at most {most}, for which the file has room"), n));
        }
        Ok(n)
    }

    /// Walks over one value and so proves that it lies in the file.
    pub(super) fn skip_value(&mut self, kind: Kind, what: &str) -> Result<(), WeightsError> {
        self.skip_nested(kind, what, MAX_ARRAY_DEPTH)
    }

    fn skip_nested(&mut self, kind: Kind, what: &str, depth: u32) -> Result<(), WeightsError> {
        match (kind, kind.fixed_len()) {
            (_, Some(len)) => self.take(len as u64, what).map(drop),
            (Kind::Array, None) if depth == 0 => {
                let most = format!("arrays at most {MAX_ARRAY_DEPTH} deep");
                Err(self.malformed(what, most, "one deeper"))
            }
            (Kind::Array, None) => {
                let (kind, n) = self.array_header(what)?;
                if let Some(len) = kind.fixed_len() {
                    // `array_header` checked that this many fit into the file
                    return self.take(n * len as u64, what).map(drop);
                }
                (0..n).try_for_each(|_| self.skip_nested(kind, what, depth - 1))
            }
            (_, None) => self.string(what).map(drop),
        }
    }

    /// Element type and count of an array.
    pub(super) fn array_header(&mut self, what: &str) -> Result<(Kind, u64), WeightsError> {
        let kind = self.kind(what)?;
        let min_bytes = match kind {
            Kind::Str => 8,
            Kind::Array => 12,
            _ => kind.fixed_len().unwrap_or(1) as u64,
        };
        Ok((kind, self.count(min_bytes, what)?))
    }

    /// An error about the bytes at this position.
    pub(super) fn malformed(
        &self,
        what: &str,
        expected: impl Into<String>,
        found: impl ToString,
    ) -> WeightsError {
        WeightsError::Malformed {
            path: self.path.to_owned(),
            offset: self.at as u64,
            what: what.to_owned(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }
}
