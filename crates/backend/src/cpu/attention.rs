//! Attention over the paged cache: head norms, rotations, the cache's rows and the kernel.

use super::{CpuBackend, CpuInputs, CpuNorm, CpuTensor, tensor::rows};
use crate::{
    AttentionSpec, BackendError, CacheRow, RopeSpec, RopeStyle,
    checks::{check, check_at_most},
};

/// Cosines and sines of a step, each `[n_rows, rot_dim / 2]`.
pub struct CpuRope {
    style: RopeStyle,
    cos: CpuTensor,
    sin: CpuTensor,
}

impl CpuRope {
    pub(super) fn new(b: &CpuBackend, spec: &RopeSpec, inputs: &CpuInputs) -> CpuRope {
        let table = || b.buffers.tensor(inputs.batch.n_rows(), spec.inv_freq.len());
        let (mut cos, mut sin) = (table(), table());
        let (positions, freq) = (inputs.batch.positions(), &spec.inv_freq);
        kernels::rope_table(positions, freq, spec.factor, cos.values_mut(), sin.values_mut());
        CpuRope { style: spec.style, cos, sin }
    }

    /// Turns heads `x [n_rows, n_heads * head_dim]`.
    pub(super) fn turn(&self, b: &CpuBackend, x: &mut [f32], head_dim: usize) {
        let (isa, n_freq, style) = (b.isa, self.cos.n_cols(), self.style);
        let (cos, sin) = (self.cos.values(), self.sin.values());
        b.pool.rows(x, x.len() / self.cos.n_rows().max(1), |part, x| {
            let (cos, sin) = (rows(cos, n_freq, part.clone()), rows(sin, n_freq, part.clone()));
            kernels::rope(isa, x, part.len(), head_dim, cos, sin, style);
        });
    }

    /// Whether these are rotations of the step's rows and of no more than a head has.
    pub(super) fn check(&self, inputs: &CpuInputs, head_dim: usize) -> Result<(), BackendError> {
        check("rows of the rotations", inputs.batch.n_rows(), self.cos.n_rows())?;
        check_at_most("rotated values of a head", head_dim, 2 * self.cos.n_cols())
    }
}

/// Norms over heads of queries and keys.
pub struct CpuHeadNorms {
    q: CpuNorm, // [head_dim]
    k: CpuNorm, // [head_dim]
}

impl CpuHeadNorms {
    pub(super) fn new(
        q: &[f32],
        k: &[f32],
        eps: f32,
        spec: &AttentionSpec,
    ) -> Result<CpuHeadNorms, BackendError> {
        check("head_norms: weights of the queries", spec.head_dim, q.len())?;
        check("head_norms: weights of the keys", spec.head_dim, k.len())?;
        let norm = |weight: &[f32]| CpuNorm { weight: weight.to_vec(), eps };
        Ok(CpuHeadNorms { q: norm(q), k: norm(k) })
    }
}

impl CpuBackend {
    /// As [`crate::Backend::attention`].
    pub(super) fn attend(
        &mut self,
        [q, k, v]: [CpuTensor; 3],
        norms: Option<&CpuHeadNorms>,
        rope: &CpuRope,
        layer: usize,
        spec: &AttentionSpec,
        inputs: &CpuInputs,
    ) -> Result<CpuTensor, BackendError> {
        check_attention([&q, &k, &v], rope, spec, inputs)?;
        let (mut q, mut k) = match norms {
            Some(norms) => (self.normed(&q, &norms.q), self.normed(&k, &norms.k)),
            None => (q, k),
        };
        rope.turn(self, q.values_mut(), spec.head_dim);
        rope.turn(self, k.values_mut(), spec.head_dim);
        let mut out = self.buffers.tensor(q.n_rows(), q.n_cols());
        let AttentionSpec { n_kv_heads, head_dim, .. } = *spec;
        let cache = self.cache.heads(layer, CacheRow::Heads { n_kv_heads, head_dim })?;
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
}

fn check_attention(
    [q, k, v]: [&CpuTensor; 3],
    rope: &CpuRope,
    spec: &AttentionSpec,
    inputs: &CpuInputs,
) -> Result<(), BackendError> {
    for (op, heads, x) in [
        ("attention: columns of the queries", spec.n_heads, q),
        ("attention: columns of the keys", spec.n_kv_heads, k),
        ("attention: columns of the values", spec.n_kv_heads, v),
    ] {
        check(op, heads * spec.head_dim, x.n_cols())?;
        check("attention: rows", inputs.batch.n_rows(), x.n_rows())?;
    }
    check("attention: query heads beyond whole groups", 0, spec.n_heads % spec.n_kv_heads.max(1))?;
    rope.check(inputs, spec.head_dim)
}
