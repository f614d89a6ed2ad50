//! Writes a safetensors file as a stream: the header first, then values tensor by tensor.

use std::io::{self, Write as _};

use base::DType;
use serde_json::{Map, json};

use crate::{
    TensorInfo, WriteError,
    write::{Counted, checked_bytes, write_values},
};

/// The header's length is padded to a multiple of this.
const HEADER_ALIGNMENT: usize = 8;

/// Collects the header and then writes the file.
#[derive(Debug, Default)]
pub struct Writer {
    tensors: Vec<TensorInfo>,
}

impl Writer {
    /// Nothing yet.
    pub fn new() -> Writer {
        Writer::default()
    }

    /// Adds a tensor; its values follow in `write`.
    pub fn tensor(&mut self, info: TensorInfo) {
        self.tensors.push(info);
    }

    /// Writes the file. `fill` is called once per tensor in the order they were added and writes its values.
    pub fn write(
        &self,
        out: impl io::Write,
        mut fill: impl FnMut(&TensorInfo, &mut dyn io::Write) -> io::Result<()>,
    ) -> Result<(), WriteError> {
        let mut header = self.header()?;
        header.resize(header.len().next_multiple_of(HEADER_ALIGNMENT), b' ');
        let mut out = Counted { out, n_bytes: 0 };
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for info in &self.tensors {
            write_values(&mut out, info, &mut fill)?;
        }
        Ok(out.flush()?)
    }

    fn header(&self) -> Result<Vec<u8>, WriteError> {
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
        let mut offset = 0;
        for info in &self.tensors {
            if !matches!(info.dtype, DType::F32 | DType::F16 | DType::BF16) {
                return Err(WriteError::DType { tensor: info.name.clone(), found: info.dtype });
            }
            let end = offset + checked_bytes(info)?;
            let described =
                json!({ "dtype": info.dtype.name(), "shape": info.shape, "data_offsets": [offset, end] });
            header.insert(info.name.clone(), described);
            offset = end;
        }
        serde_json::to_vec(&header).map_err(|e| WriteError::Io(e.into()))
    }
}
