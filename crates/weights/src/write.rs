//! What both writers share: their error, and a stream that counts.

use std::io::{self, Write};

use crate::TensorInfo;

/// Why a checkpoint cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The stream refused.
    #[error("cannot write the checkpoint: {0}")]
    Io(#[from] io::Error),
    /// A shape that the number format cannot hold.
    #[error(
        "tensor {tensor:?}: expected 1 to 4 dimensions and rows of whole {block_len}-value blocks, found {shape:?}"
    )]
    Shape {
        /// The tensor.
        tensor: String,
        /// Values in a block of its format.
        block_len: usize,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A number format that the file format does not have.
    #[error("tensor {tensor:?}: expected F32, F16 or BF16 in a safetensors file, found {found}")]
    DType {
        /// The tensor.
        tensor: String,
        /// Its number format.
        found: base::DType,
    },
    /// The values that were written do not fill the tensor.
    #[error("tensor {tensor:?}: expected {expected} bytes of values, found {found}")]
    Length {
        /// The tensor.
        tensor: String,
        /// Bytes its shape asks for.
        expected: u64,
        /// Bytes written.
        found: u64,
    },
}

/// Bytes of a tensor that a file format with at most four dimensions can hold.
pub(crate) fn checked_bytes(info: &TensorInfo) -> Result<u64, WriteError> {
    let n_bytes = info.n_bytes().filter(|_| info.shape.len() <= 4);
    n_bytes.map(|n| n as u64).ok_or_else(|| WriteError::Shape {
        tensor: info.name.clone(),
        block_len: info.dtype.block_len(),
        shape: info.shape.clone(),
    })
}

/// Has `fill` write one tensor's values and checks how many bytes came.
pub(crate) fn write_values<W: Write>(
    out: &mut Counted<W>,
    info: &TensorInfo,
    mut fill: impl FnMut(&TensorInfo, &mut dyn Write) -> io::Result<()>,
) -> Result<(), WriteError> {
    let start = out.n_bytes;
    fill(info, out)?;
    let (expected, found) = (checked_bytes(info)?, out.n_bytes - start);
    if expected != found {
        return Err(WriteError::Length { tensor: info.name.clone(), expected, found });
    }
    Ok(())
}

/// A stream that knows how much went through it.
pub(crate) struct Counted<W> {
    pub(crate) out: W,
    pub(crate) n_bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.out.write(buf)?;
        self.n_bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
