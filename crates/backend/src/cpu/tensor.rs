//! Matrices of activations in memory that is used again, so that a step allocates nothing once the first one has run.
//! It knows no operation.

use std::{cell::RefCell, ops::Range, rc::Rc};

/// A matrix of `f32` in row-major order.
#[derive(Clone)]
pub struct CpuTensor {
    /// At least the matrix; what lies behind it is left over from before.
    memory: Rc<Vec<f32>>,
    home: Buffers,
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
        &self.memory[..self.n_rows * self.n_cols]
    }

    /// The values, copied first if another handle holds them too.
    pub(super) fn values_mut(&mut self) -> &mut [f32] {
        let len = self.n_rows * self.n_cols;
        if Rc::get_mut(&mut self.memory).is_none() {
            let mut copy = self.home.take(len);
            if let Some(values) = Rc::get_mut(&mut copy) {
                values[..len].copy_from_slice(self.values());
            }
            self.memory = copy;
        }
        // The only handle by now, so nothing is copied here.
        &mut Rc::make_mut(&mut self.memory)[..len]
    }
}

impl Drop for CpuTensor {
    /// The last handle gives the memory back.
    fn drop(&mut self) {
        if Rc::strong_count(&self.memory) == 1 {
            self.home.free.borrow_mut().push(Rc::clone(&self.memory));
        }
    }
}

/// Some rows of a matrix.
pub(super) fn rows(x: &[f32], n_cols: usize, rows: Range<usize>) -> &[f32] {
    &x[rows.start * n_cols..rows.end * n_cols]
}

/// Memory of dropped tensors, kept for the next one.
#[derive(Clone, Default)]
pub(super) struct Buffers {
    free: Rc<RefCell<Vec<Rc<Vec<f32>>>>>,
}

impl Buffers {
    /// A tensor of zeros or of values left over from before.
    pub(super) fn tensor(&self, n_rows: usize, n_cols: usize) -> CpuTensor {
        CpuTensor { memory: self.take(n_rows * n_cols), home: self.clone(), n_rows, n_cols }
    }

    /// Memory for at least `len` values that nobody else holds.
    fn take(&self, len: usize) -> Rc<Vec<f32>> {
        let mut memory = self.free.borrow_mut().pop().unwrap_or_default();
        if memory.len() < len {
            Rc::make_mut(&mut memory).resize(len, 0.0);
        }
        memory
    }
}
