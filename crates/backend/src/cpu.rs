//! The eager CPU backend: each operation is one call of a kernel. Buffers of dropped tensors are used again, so a
//! decode step allocates nothing once the first one has run.

use std::{cell::RefCell, rc::Rc};

use base::{Batch, MatrixView};
use collective::Group;
use kernels::{Isa, KvCache, PackedMatrix, Pool};

use crate::{AttentionSpec, Backend, BackendError, CacheSpec, RopeSpec};

/// CPU implementation of [`Backend`].
pub struct CpuBackend {
    pool: Pool,
    isa: Isa,
    group: Box<dyn Group>,
    buffers: Buffers,
    cache: Vec<KvCache>,
}

/// A matrix of `f32` in row-major order.
#[derive(Clone)]
pub struct CpuTensor {
    buffer: Rc<Buffer>,
    n_cols: usize,
}

/// Packed weights and bias.
pub struct CpuLinear {
    weight: PackedMatrix,
    bias: Option<Vec<f32>>,
}

/// The step's batch and the cache slot of each of its rows.
pub struct CpuInputs {
    batch: Batch,
    slots: Vec<u32>,
}

/// Cosines and sines of a step, each `[n_rows, rot_dim / 2]`.
pub struct CpuRope {
    style: kernels::RopeStyle,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl CpuBackend {
    /// A backend that computes on `pool`'s threads with the instructions of `isa` and sums over `group`.
    pub fn new(pool: Pool, isa: Isa, group: Box<dyn Group>) -> CpuBackend {
        CpuBackend { pool, isa, group, buffers: Buffers::default(), cache: Vec::new() }
    }

    fn empty(&self, n_rows: usize, n_cols: usize) -> CpuTensor {
        CpuTensor { buffer: Rc::new(self.buffers.take(n_rows * n_cols)), n_cols }
    }

    /// A tensor of `x`'s shape whose values `fill` writes.
    fn filled(&self, n_rows: usize, n_cols: usize, fill: impl FnOnce(&mut [f32])) -> CpuTensor {
        let mut tensor = self.empty(n_rows, n_cols);
        fill(tensor.values_mut());
        tensor
    }
}

impl Backend for CpuBackend {
    type Tensor = CpuTensor;
    type Linear = CpuLinear;
    type Inputs = CpuInputs;
    type Rope = CpuRope;

    fn linear(&mut self, weight: &MatrixView<'_>, bias: Option<&[f32]>) -> Result<CpuLinear, BackendError> {
        if let Some(bias) = bias {
            check("linear bias", weight.n_rows, bias.len())?;
        }
        Ok(CpuLinear { weight: PackedMatrix::pack(weight)?, bias: bias.map(<[f32]>::to_vec) })
    }

    fn tensor(&mut self, values: &[f32], n_cols: usize) -> Result<CpuTensor, BackendError> {
        check("tensor: values beyond whole rows", 0, values.len() % n_cols.max(1))?;
        Ok(self.filled(values.len() / n_cols.max(1), n_cols, |out| out.copy_from_slice(values)))
    }

    fn allocate_cache(&mut self, spec: CacheSpec) -> Result<(), BackendError> {
        let layer = || KvCache::new(spec.n_blocks, spec.block_len, spec.n_kv_heads, spec.head_dim);
        self.cache = (0..spec.n_layers).map(|_| layer()).collect();
        Ok(())
    }

    fn inputs(&mut self, batch: &Batch) -> Result<CpuInputs, BackendError> {
        let mut slots = Vec::with_capacity(batch.n_rows());
        if let Some(layer) = self.cache.first() {
            layer.slots(&batch.seqs, &mut slots);
        }
        Ok(CpuInputs { batch: batch.clone(), slots })
    }

    fn rope_table(&mut self, spec: &RopeSpec, inputs: &CpuInputs) -> Result<CpuRope, BackendError> {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        kernels::rope_table(inputs.batch.positions(), &spec.inv_freq, spec.factor, &mut cos, &mut sin);
        Ok(CpuRope { style: spec.style, cos, sin })
    }

    fn embed(
        &mut self,
        table: &CpuLinear,
        first_word: u32,
        inputs: &CpuInputs,
    ) -> Result<CpuTensor, BackendError> {
        let (n_words, hidden) = (table.weight.n_rows(), table.weight.n_cols());
        let tokens = &inputs.batch.tokens;
        Ok(self.filled(tokens.len(), hidden, |out| {
            for (token, row) in tokens.iter().zip(out.chunks_exact_mut(hidden)) {
                match token.0.checked_sub(first_word).filter(|&word| (word as usize) < n_words) {
                    Some(word) => table.weight.dequantize_row(word as usize, row),
                    None => row.fill(0.0),
                }
            }
        }))
    }

    fn matmul<const N: usize>(
        &mut self,
        x: &CpuTensor,
        weights: [&CpuLinear; N],
    ) -> Result<[CpuTensor; N], BackendError> {
        for w in weights {
            check("matmul: columns of the input", w.weight.n_cols(), x.n_cols)?;
        }
        let mut outs = weights.map(|w| self.empty(x.n_rows(), w.weight.n_rows()));
        let mut slices = outs.each_mut().map(|out| out.values_mut());
        kernels::matmul(&self.pool, self.isa, x.values(), &weights.map(|w| &w.weight), &mut slices);
        for (out, w) in slices.iter_mut().zip(weights) {
            if let Some(bias) = &w.bias {
                kernels::add_bias(self.isa, out, bias);
            }
        }
        Ok(outs)
    }

    fn rms_norm(&mut self, x: &CpuTensor, weight: &CpuTensor, eps: f32) -> Result<CpuTensor, BackendError> {
        check("rms_norm: values beyond whole runs", 0, x.n_cols % weight.n_cols.max(1))?;
        Ok(self.filled(x.n_rows(), x.n_cols, |out| {
            kernels::rms_norm(self.isa, x.values(), weight.values(), eps, out);
        }))
    }

    fn rope(&mut self, mut x: CpuTensor, head_dim: usize, rope: &CpuRope) -> Result<CpuTensor, BackendError> {
        check("rope: values beyond whole heads", 0, x.n_cols % head_dim)?;
        let n_rows = x.n_rows();
        kernels::rope(self.isa, x.values_mut(), n_rows, head_dim, &rope.cos, &rope.sin, rope.style);
        Ok(x)
    }

    fn attention(
        &mut self,
        [q, k, v]: [&CpuTensor; 3],
        layer: usize,
        spec: &AttentionSpec,
        inputs: &CpuInputs,
    ) -> Result<CpuTensor, BackendError> {
        check("attention: columns of the queries", spec.n_heads * spec.head_dim, q.n_cols)?;
        check("attention: columns of the keys", spec.n_kv_heads * spec.head_dim, k.n_cols)?;
        let mut out = self.empty(q.n_rows(), q.n_cols);
        let cache = &mut self.cache[layer];
        cache.write(k.values(), v.values(), &inputs.slots);
        kernels::attention(
            &self.pool,
            self.isa,
            q.values(),
            cache,
            &inputs.batch.seqs,
            spec.scale,
            spec.window,
            out.values_mut(),
        );
        Ok(out)
    }

    fn swiglu(&mut self, gate: &CpuTensor, up: &CpuTensor) -> Result<CpuTensor, BackendError> {
        check("swiglu: columns of up", gate.n_cols, up.n_cols)?;
        Ok(self.filled(gate.n_rows(), gate.n_cols, |out| {
            kernels::swiglu(self.isa, gate.values(), up.values(), out);
        }))
    }

    fn add(&mut self, mut a: CpuTensor, b: &CpuTensor) -> Result<CpuTensor, BackendError> {
        check("add: columns", a.n_cols, b.n_cols)?;
        kernels::add_assign(self.isa, a.values_mut(), b.values());
        Ok(a)
    }

    fn all_reduce(&mut self, mut x: CpuTensor) -> Result<CpuTensor, BackendError> {
        if self.group.size() > 1 {
            self.group.all_reduce(x.values_mut())?;
        }
        Ok(x)
    }

    fn select_rows(&mut self, x: &CpuTensor, rows: &[u32]) -> Result<CpuTensor, BackendError> {
        let n_cols = x.n_cols;
        Ok(self.filled(rows.len(), n_cols, |out| {
            for (row, out) in rows.iter().zip(out.chunks_exact_mut(n_cols)) {
                out.copy_from_slice(&x.values()[*row as usize * n_cols..][..n_cols]);
            }
        }))
    }

    fn eval(&mut self, x: &CpuTensor, out: &mut Vec<f32>) -> Result<(), BackendError> {
        out.clear();
        out.extend_from_slice(x.values());
        Ok(())
    }
}

fn check(op: &'static str, expected: usize, found: usize) -> Result<(), BackendError> {
    if expected == found {
        return Ok(());
    }
    Err(BackendError::Shape { op, expected: expected.to_string(), found: found.to_string() })
}

impl CpuTensor {
    fn n_rows(&self) -> usize {
        self.values().len() / self.n_cols.max(1)
    }

    fn values(&self) -> &[f32] {
        &self.buffer.values
    }

    /// The values, copied first if another handle holds them too.
    fn values_mut(&mut self) -> &mut [f32] {
        &mut Rc::make_mut(&mut self.buffer).values
    }
}

/// Memory of dropped tensors, kept for the next one.
#[derive(Clone, Default)]
struct Buffers {
    free: Rc<RefCell<Vec<Vec<f32>>>>,
}

/// Values that return to their pool when the last handle goes.
struct Buffer {
    values: Vec<f32>,
    home: Buffers,
}

impl Buffers {
    /// A buffer of `len` values, zero or left over from before.
    fn take(&self, len: usize) -> Buffer {
        let mut values = self.free.borrow_mut().pop().unwrap_or_default();
        values.resize(len, 0.0);
        Buffer { values, home: self.clone() }
    }
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
