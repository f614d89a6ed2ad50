//! Matrices of activations in memory that is used again. It knows no operation.

use std::{cell::RefCell, rc::Rc};

/// A matrix of `f32` in row-major order.
#[derive(Clone)]
pub struct CpuTensor {
    buffer: Rc<Buffer>,
    n_rows: usize,
    n_cols: usize,
}

impl CpuTensor {
    pub(super) fn n_rows(&self) -> usize {
        self.n_rows
    }

    pub(super) fn n_cols(&self) -> usize {
        self.n_cols
    }

    pub(super) fn values(&self) -> &[f32] {
        &self.buffer.values
    }

    /// The values, copied first if another handle holds them too.
    pub(super) fn values_mut(&mut self) -> &mut [f32] {
        &mut Rc::make_mut(&mut self.buffer).values
    }
}

/// Memory of dropped tensors, kept for the next one.
#[derive(Clone, Default)]
pub(super) struct Buffers {
    free: Rc<RefCell<Vec<Vec<f32>>>>,
}

impl Buffers {
    /// A tensor of zeros or of values left over from before.
    pub(super) fn tensor(&self, n_rows: usize, n_cols: usize) -> CpuTensor {
        CpuTensor { buffer: Rc::new(self.take(n_rows * n_cols)), n_rows, n_cols }
    }

    fn take(&self, len: usize) -> Buffer {
        let mut values = self.free.borrow_mut().pop().unwrap_or_default();
        values.resize(len, 0.0);
        Buffer { values, home: self.clone() }
    }
}

/// Values that return to their pool when the last handle goes.
struct Buffer {
    values: Vec<f32>,
    home: Buffers,
}

impl Clone for Buffer {
    fn clone(&self) -> Buffer {
        let mut copy = self.home.take(self.values.len());
        copy.values.copy_from_slice(&self.values);
        copy
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.free.borrow_mut().push(std::mem::take(&mut self.values));
    }
}
