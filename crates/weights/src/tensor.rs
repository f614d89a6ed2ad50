//! One tensor of a checkpoint: described, and found in a map.

use std::{fmt, ops::Range};

use base::DType;

/// What the values of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    /// Numbers in a format that stands for itself.
    Number(DType),
    /// Codes, which another tensor's scales turn into numbers.
    Code(Code),
}

/// How codes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    U8,
    I32,
    U32,
    I64,
    /// 8-bit floats: 4 bits of exponent, 3 of mantissa.
    F8E4M3,
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Element::Number(dtype) => dtype.fmt(f),
            Element::Code(code) => write!(f, "{code:?}"),
        }
    }
}

/// A tensor in a file.
pub(crate) struct Located {
    pub(crate) name: String,
    pub(crate) element: Element,
    pub(crate) shape: Vec<usize>,
    /// Of the file; inside it, and as many as the shape needs.
    pub(crate) bytes: Range<usize>,
}

/// What is said of a tensor: everything but its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name in the file.
    pub name: String,
    /// Number format.
    pub dtype: DType,
    /// Shape, row-major, outermost first: a linear weight is `[n_out, n_in]`.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Bytes of all values; `None` if there is no dimension, a row is not whole blocks, or the product overflows.
    pub fn n_bytes(&self) -> Option<usize> {
        let (n_cols, outer) = self.shape.split_last()?;
        let blocks =
            n_cols.is_multiple_of(self.dtype.block_len()).then(|| n_cols / self.dtype.block_len())?;
        let row_bytes = blocks.checked_mul(self.dtype.block_bytes())?;
        outer.iter().try_fold(row_bytes, |bytes, n| bytes.checked_mul(*n))
    }

    /// Number of values; `None` if the product overflows.
    pub fn n_values(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |n, dim| n.checked_mul(*dim))
    }
}

/// A tensor in a mapped file. Nothing is read from disk until `bytes` is.
#[derive(Clone, Debug)]
pub struct Tensor<'a> {
    /// Its name in the file.
    pub name: &'a str,
    /// Number format.
    pub dtype: DType,
    /// Shape, row-major, outermost first: a linear weight is `[n_out, n_in]`.
    pub shape: Vec<usize>,
    /// All values, row after row. Not aligned to anything.
    pub bytes: &'a [u8],
}
