//! Writes a GGUF file (version 3) as a stream: the header is known beforehand, values come tensor by tensor, so a
//! model larger than memory can be written.

use std::io::{self, Write};

use super::{DEFAULT_ALIGNMENT, Kind, dtype_code, read::MAGIC};
use crate::{
    TensorInfo, WriteError,
    write::{Counted, checked_bytes, write_values},
};

const VERSION: u32 = 3;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the names are the types
pub enum Value {
    U16(u16),
    U32(u32),
    F32(f32),
    Bool(bool),
    Str(String),
    StrArray(Vec<String>),
    I32Array(Vec<i32>),
    F32Array(Vec<f32>),
}

/// Collects the header and then writes the file.
#[derive(Debug, Default)]
pub struct Writer {
    metadata: Vec<(String, Value)>,
    tensors: Vec<TensorInfo>,
}

impl Writer {
    /// Nothing yet.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// Adds a metadata value.
    pub fn metadata(&mut self, key: impl Into<String>, value: Value) {
        self.metadata.push((key.into(), value));
    }

    /// Adds a tensor; its values follow in `write`.
    pub fn tensor(&mut self, info: TensorInfo) {
        self.tensors.push(info);
    }

    /// Writes the file. `fill` is called once per tensor in the order they were added and writes its values.
    pub fn write(
        &self,
        out: impl Write,
        mut fill: impl FnMut(&TensorInfo, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), WriteError> {
        let mut out = Counted { out, n_bytes: 0 };
        self.write_header(&mut out)?;
        pad(&mut out)?;
        for info in &self.tensors {
            write_values(&mut out, info, &mut fill)?;
            pad(&mut out)?;
        }
        Ok(out.flush()?)
    }

    fn write_header(&self, out: &mut impl Write) -> Result<(), WriteError> {
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        out.write_all(&(self.tensors.len() as u64).to_le_bytes())?;
        out.write_all(&(self.metadata.len() as u64).to_le_bytes())?;
        for (key, value) in &self.metadata {
            write_str(out, key)?;
            write_value(out, value)?;
        }
        let mut offset = 0u64;
        for info in &self.tensors {
            write_str(out, &info.name)?;
            out.write_all(&(info.shape.len() as u32).to_le_bytes())?;
            for dim in info.shape.iter().rev() {
                out.write_all(&(*dim as u64).to_le_bytes())?;
            }
            out.write_all(&dtype_code(info.dtype).to_le_bytes())?;
            out.write_all(&offset.to_le_bytes())?;
            offset += checked_bytes(info)?.next_multiple_of(u64::from(DEFAULT_ALIGNMENT));
        }
        Ok(())
    }
}

fn pad<W: Write>(out: &mut Counted<W>) -> io::Result<()> {
    let n = out.n_bytes.next_multiple_of(u64::from(DEFAULT_ALIGNMENT)) - out.n_bytes;
    out.write_all(&[0; DEFAULT_ALIGNMENT as usize][..n as usize])
}

fn write_str(out: &mut impl Write, s: &str) -> io::Result<()> {
    out.write_all(&(s.len() as u64).to_le_bytes())?;
    out.write_all(s.as_bytes())
}

fn write_value(out: &mut impl Write, value: &Value) -> io::Result<()> {
    let kind = match value {
        Value::U16(_) => Kind::U16,
        Value::U32(_) => Kind::U32,
        Value::F32(_) => Kind::F32,
        Value::Bool(_) => Kind::Bool,
        Value::Str(_) => Kind::Str,
        Value::StrArray(_) | Value::I32Array(_) | Value::F32Array(_) => Kind::Array,
    };
    out.write_all(&kind.code().to_le_bytes())?;
    match value {
        Value::U16(v) => out.write_all(&v.to_le_bytes()),
        Value::U32(v) => out.write_all(&v.to_le_bytes()),
        Value::F32(v) => out.write_all(&v.to_le_bytes()),
        Value::Bool(v) => out.write_all(&[u8::from(*v)]),
        Value::Str(v) => write_str(out, v),
        Value::StrArray(v) => {
            write_array_header(out, Kind::Str, v.len())?;
            v.iter().try_for_each(|s| write_str(out, s))
        }
        Value::I32Array(v) => {
            write_array_header(out, Kind::I32, v.len())?;
            v.iter().try_for_each(|n| out.write_all(&n.to_le_bytes()))
        }
        Value::F32Array(v) => {
            write_array_header(out, Kind::F32, v.len())?;
            v.iter().try_for_each(|n| out.write_all(&n.to_le_bytes()))
        }
    }
}

fn write_array_header(out: &mut impl Write, kind: Kind, n: usize) -> io::Result<()> {
    out.write_all(&kind.code().to_le_bytes())?;
    out.write_all(&(n as u64).to_le_bytes())
}
