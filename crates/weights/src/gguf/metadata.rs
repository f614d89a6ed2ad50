//! A GGUF file's metadata: typed values by key. Values stay in the map and are decoded when asked for, since a rank
//! needs a dozen of them and a vocabulary has hundreds of thousands. It does not know what any key means.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use super::{Kind, cursor::Cursor};
use crate::{WeightsError, map::Mapped};

/// Metadata of one file. Every getter fails with an error that names the key and the type it has; for a key that
/// may be absent see [`GgufMetadata::optional`].
#[derive(Debug)]
pub struct GgufMetadata {
    map: Arc<Mapped>,
    entries: BTreeMap<String, Entry>,
}

/// Type of a value and where it lies; the reader walked over it, so it is inside the file.
#[derive(Clone, Copy, Debug)]
struct Entry {
    kind: Kind,
    at: usize,
}

impl GgufMetadata {
    pub(super) fn new(map: Arc<Mapped>) -> GgufMetadata {
        GgufMetadata { map, entries: BTreeMap::new() }
    }

    /// Adds a value that starts at byte `at`; false if the key is already there.
    pub(super) fn add(&mut self, key: &str, kind: Kind, at: usize) -> bool {
        self.entries.insert(key.to_owned(), Entry { kind, at }).is_none()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// Every key, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether there is such a key.
    pub fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// The value if the key is there: `metadata.optional("llama.rope.freq_base", GgufMetadata::f32)`.
    pub fn optional<'a, T>(
        &'a self,
        key: &str,
        get: impl FnOnce(&'a GgufMetadata, &str) -> Result<T, WeightsError>,
    ) -> Result<Option<T>, WeightsError> {
        if self.contains(key) { get(self, key).map(Some) } else { Ok(None) }
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<&str, WeightsError> {
        const EXPECTED: &str = "a string";
        let mut value = self.scalar(key, EXPECTED, |kind| kind == Kind::Str)?.1;
        utf8(&mut value, key)
    }

    /// An integer of any width that fits.
    pub fn u32(&self, key: &str) -> Result<u32, WeightsError> {
        const EXPECTED: &str = "an integer from 0 to 4294967295";
        let (kind, mut value) = self.scalar(key, EXPECTED, is_integer)?;
        integer(kind, &mut value, key, EXPECTED)
    }

    /// A floating-point number.
    pub fn f32(&self, key: &str) -> Result<f32, WeightsError> {
        let (kind, mut value) = self.scalar(key, "a floating-point number", is_float)?;
        float(kind, &mut value, key)
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<bool, WeightsError> {
        let mut value = self.scalar(key, "a bool", |kind| kind == Kind::Bool)?.1;
        Ok(value.array::<1>(key)?[0] != 0)
    }

    /// An array of strings.
    pub fn str_array(&self, key: &str) -> Result<Vec<String>, WeightsError> {
        let (_, n, mut values) = self.array(key, "an array of strings", |kind| kind == Kind::Str)?;
        (0..n).map(|_| utf8(&mut values, key).map(str::to_owned)).collect()
    }

    /// An array of floating-point numbers.
    pub fn f32_array(&self, key: &str) -> Result<Vec<f32>, WeightsError> {
        let (kind, n, mut values) = self.array(key, "an array of floating-point numbers", is_float)?;
        (0..n).map(|_| float(kind, &mut values, key)).collect()
    }

    /// An array of integers of any width that fit.
    pub fn i32_array(&self, key: &str) -> Result<Vec<i32>, WeightsError> {
        const EXPECTED: &str = "an array of integers from -2147483648 to 2147483647";
        let (kind, n, mut values) = self.array(key, EXPECTED, is_integer)?;
        (0..n).map(|_| integer(kind, &mut values, key, EXPECTED)).collect()
    }

    /// A value's type and a cursor at its first byte.
    fn scalar(
        &self,
        key: &str,
        expected: &'static str,
        fits: impl FnOnce(Kind) -> bool,
    ) -> Result<(Kind, Cursor<'_>), WeightsError> {
        let entry = self.entries.get(key).ok_or_else(|| WeightsError::NoKey {
            path: self.path().to_owned(),
            key: key.to_owned(),
            expected,
        })?;
        let value = Cursor { path: self.path(), bytes: self.map.bytes(), at: entry.at };
        if !fits(entry.kind) {
            return Err(value.malformed(
                &key_label(key),
                expected,
                format!("a value of type {}", entry.kind.name()),
            ));
        }
        Ok((entry.kind, value))
    }

    /// An array's element type, its length and a cursor at its first element.
    fn array(
        &self,
        key: &str,
        expected: &'static str,
        fits: impl FnOnce(Kind) -> bool,
    ) -> Result<(Kind, u64, Cursor<'_>), WeightsError> {
        let mut values = self.scalar(key, expected, |kind| kind == Kind::Array)?.1;
        let (kind, n) = values.array_header(key)?;
        if n > 0 && !fits(kind) {
            return Err(values.malformed(&key_label(key), expected, format!("an array of {}", kind.name())));
        }
        Ok((kind, n, values))
    }
}

pub(super) fn key_label(key: &str) -> String {
    format!("metadata key {key:?}")
}

fn is_integer(kind: Kind) -> bool {
    use Kind::{I8, I16, I32, I64, U8, U16, U32, U64};
    matches!(kind, U8 | I8 | U16 | I16 | U32 | I32 | U64 | I64)
}

fn is_float(kind: Kind) -> bool {
    matches!(kind, Kind::F32 | Kind::F64)
}

fn utf8<'a>(value: &mut Cursor<'a>, key: &str) -> Result<&'a str, WeightsError> {
    let start = value.clone();
    std::str::from_utf8(value.string(key)?)
        .map_err(|e| start.malformed(&key_label(key), "a string in UTF-8", e))
}

fn float(kind: Kind, value: &mut Cursor<'_>, key: &str) -> Result<f32, WeightsError> {
    match kind {
        Kind::F64 => value.array(key).map(|b| f64::from_le_bytes(b) as f32),
        _ => value.array(key).map(f32::from_le_bytes),
    }
}

fn integer<T: TryFrom<i128>>(
    kind: Kind,
    value: &mut Cursor<'_>,
    key: &str,
    expected: &'static str,
) -> Result<T, WeightsError> {
    let start = value.clone();
    let n = match kind {
        Kind::U8 => value.array(key).map(|b| i128::from(u8::from_le_bytes(b))),
        Kind::I8 => value.array(key).map(|b| i128::from(i8::from_le_bytes(b))),
        Kind::U16 => value.array(key).map(|b| i128::from(u16::from_le_bytes(b))),
        Kind::I16 => value.array(key).map(|b| i128::from(i16::from_le_bytes(b))),
        Kind::U32 => value.array(key).map(|b| i128::from(u32::from_le_bytes(b))),
        Kind::I32 => value.array(key).map(|b| i128::from(i32::from_le_bytes(b))),
        Kind::U64 => value.array(key).map(|b| i128::from(u64::from_le_bytes(b))),
        _ => value.array(key).map(|b| i128::from(i64::from_le_bytes(b))),
    }?;
    T::try_from(n).map_err(|_| start.malformed(&key_label(key), expected, n))
}
