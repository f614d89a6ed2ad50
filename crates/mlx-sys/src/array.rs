//! Handles to MLX's arrays. An array may not be computed yet; its shape and type are known at once.

use std::{
    ffi::{CStr, c_int, c_void},
    marker::PhantomData,
    ptr::NonNull,
};

use crate::{
    error::Error,
    ffi::{self, In, Raw, RawArray},
};

/// Number format of an array's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the formats' own
pub enum Dtype {
    F32 = 0,
    F16 = 1,
    BF16 = 2,
    U32 = 3,
    Bool = 4,
}

impl Dtype {
    const ALL: [Dtype; 5] = [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::U32, Dtype::Bool];

    /// Bytes of a value.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 | Dtype::U32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            Dtype::Bool => 1,
        }
    }
}

/// An array, or the promise of one. Belongs to the thread that uses MLX.
pub struct Array {
    raw: NonNull<RawArray>,
    one_thread: PhantomData<*const ()>,
}

impl Array {
    /// Takes over what a function of the shim returned.
    pub(crate) fn owned(raw: Raw) -> Result<Array, Error> {
        NonNull::new(raw).map(|raw| Array { raw, one_thread: PhantomData }).ok_or_else(last_error)
    }

    pub(crate) fn raw(&self) -> In {
        self.raw.as_ptr()
    }

    /// Length of every dimension, the outermost first.
    pub fn shape(&self) -> Vec<usize> {
        (0..self.n_dims()).map(|i| self.dim(i)).collect()
    }

    /// Number of dimensions.
    pub fn n_dims(&self) -> usize {
        // SAFETY: `raw` is a live array.
        unsafe { ffi::om_n_dims(self.raw()) as usize }
    }

    /// Length of dimension `i`.
    ///
    /// # Panics
    /// If there is no such dimension.
    pub fn dim(&self, i: usize) -> usize {
        assert!(i < self.n_dims(), "dimension {i} of {}", self.n_dims());
        // SAFETY: `raw` is a live array that has this dimension.
        unsafe { ffi::om_dim(self.raw(), i as c_int) as usize }
    }

    /// Values in all.
    pub fn len(&self) -> usize {
        self.shape().iter().product()
    }

    /// Whether it has no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Format of the values; `None` for one that this interface does not make.
    pub fn dtype(&self) -> Option<Dtype> {
        // SAFETY: `raw` is a live array.
        let code = unsafe { ffi::om_dtype(self.raw()) };
        usize::try_from(code).ok().and_then(|code| Dtype::ALL.get(code).copied())
    }

    /// An array made from `bytes`, copied.
    pub(crate) fn copy_of(bytes: &[u8], shape: &[usize], dtype: Dtype) -> Result<Array, Error> {
        let (dims, n_values) = dims("array", shape)?;
        let expected = n_values * dtype.size();
        if bytes.len() != expected {
            return Err(Error::argument("array: bytes", expected, bytes.len()));
        }
        let data = bytes.as_ptr().cast::<c_void>();
        // SAFETY: `data` holds as many bytes as the shape says; they are copied.
        Array::owned(unsafe { ffi::om_copy_of(data, dims.as_ptr(), dims.len() as c_int, dtype as c_int) })
    }

    /// An array whose memory `fill` writes: what is read from a file lies in memory once.
    pub(crate) fn filled<E: From<Error>>(
        shape: &[usize],
        dtype: Dtype,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Array, E> {
        let (dims, n_values) = dims("array", shape)?;
        let n_bytes = n_values * dtype.size();
        let mut memory = std::ptr::null_mut();
        // SAFETY: the shim writes `memory` before it returns an array.
        let raw =
            unsafe { ffi::om_unfilled(dims.as_ptr(), dims.len() as c_int, dtype as c_int, &raw mut memory) };
        let array = Array::owned(raw)?;
        if n_bytes > 0 {
            // SAFETY: the array owns `n_bytes` at `memory`, which nothing else can read yet; zeroed, for they are not initialised.
            let bytes = unsafe {
                std::ptr::write_bytes(memory.cast::<u8>(), 0, n_bytes);
                std::slice::from_raw_parts_mut(memory.cast::<u8>(), n_bytes)
            };
            fill(bytes)?;
        }
        Ok(array)
    }
}

impl Clone for Array {
    fn clone(&self) -> Array {
        // SAFETY: `raw` is a live array; a copy of a handle only counts it.
        let raw = unsafe { ffi::om_clone(self.raw()) };
        Array {
            raw: NonNull::new(raw).expect("a handle of a few bytes can be allocated"),
            one_thread: PhantomData,
        }
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        // SAFETY: `raw` is owned and not used afterwards.
        unsafe { ffi::om_free(self.raw.as_ptr()) }
    }
}

/// Dimensions as the shim takes them, and the number of values.
pub(crate) fn dims(op: &'static str, shape: &[usize]) -> Result<(Vec<c_int>, usize), Error> {
    let too_large = || Error::argument(op, "fewer than 2³¹ in each dimension", format!("{shape:?}"));
    let dims: Option<Vec<c_int>> = shape.iter().map(|&d| c_int::try_from(d).ok()).collect();
    let n_values = shape.iter().try_fold(8usize, |n, &d| n.checked_mul(d)).map(|n| n / 8);
    Ok((dims.ok_or_else(too_large)?, n_values.ok_or_else(too_large)?))
}

/// What the shim's last failure on this thread said.
pub(crate) fn last_error() -> Error {
    // SAFETY: the message lives until the next call on this thread.
    Error::Mlx(unsafe { CStr::from_ptr(ffi::om_error()) }.to_string_lossy().into_owned())
}
