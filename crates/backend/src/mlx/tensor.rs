//! Handles to activations. The parts of a fused product stay columns of one array as long as nobody needs them apart.

use std::{ops::Range, rc::Rc};

use mlx_sys::{Array, Mlx};

use crate::BackendError;

/// A matrix of activations: some columns of an array.
#[derive(Clone)]
pub struct MlxTensor {
    whole: Rc<Array>, // [n_rows, width]
    cols: Range<usize>,
}

impl MlxTensor {
    pub(super) fn new(array: Array) -> MlxTensor {
        let cols = 0..array.dim(1);
        MlxTensor { whole: Rc::new(array), cols }
    }

    pub(super) fn n_rows(&self) -> usize {
        self.whole.dim(0)
    }

    pub(super) fn n_cols(&self) -> usize {
        self.cols.len()
    }

    /// Columns `cols` of `whole`.
    pub(super) fn part(whole: &Rc<Array>, cols: Range<usize>) -> MlxTensor {
        MlxTensor { whole: whole.clone(), cols }
    }

    /// These columns as an array of their own.
    pub(super) fn array(&self, mlx: Mlx) -> Result<Array, BackendError> {
        if self.cols == (0..self.whole.dim(1)) {
            return Ok((*self.whole).clone());
        }
        Ok(mlx.slice(&self.whole, 1, self.cols.clone())?)
    }
}

/// `q`, `k` and `v` side by side: as a fused product left them, or put together.
pub(super) fn joined(mlx: Mlx, qkv: &[MlxTensor; 3]) -> Result<Array, BackendError> {
    let [q, k, v] = qkv;
    let is_one = Rc::ptr_eq(&q.whole, &k.whole) && Rc::ptr_eq(&k.whole, &v.whole);
    let in_order = q.cols.start == 0 && q.cols.end == k.cols.start && k.cols.end == v.cols.start;
    if is_one && in_order && v.cols.end == v.whole.dim(1) {
        return Ok((*v.whole).clone());
    }
    let arrays = [q.array(mlx)?, k.array(mlx)?, v.array(mlx)?];
    Ok(mlx.concatenate(&arrays.each_ref(), 1)?)
}

pub(super) fn check_same(op: &'static str, a: &MlxTensor, b: &MlxTensor) -> Result<(), BackendError> {
    let shape = |x: &MlxTensor| format!("{} × {}", x.n_rows(), x.n_cols());
    if (a.n_rows(), a.n_cols()) == (b.n_rows(), b.n_cols()) {
        return Ok(());
    }
    Err(BackendError::Shape { op, expected: shape(a), found: shape(b) })
}
