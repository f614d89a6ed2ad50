//! Attention over the paged cache: head norms, rotations, the cache's rows and the kernel.

use super::{CpuBackend, CpuInputs, CpuNorm, CpuTensor};
use crate::{
    AttentionSpec, BackendError, CacheRow, RopeSpec, RopeStyle,
    checks::{check, check_at_most},
};

/// Cosines and sines of a step, each `[n_rows, rot_dim / 2]`.
pub struct CpuRope {
    style: RopeStyle,
    n_rows: usize,
    rot_dim: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl CpuRope {
    pub(super) fn new(spec: &RopeSpec, inputs: &CpuInputs) -> CpuRope {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        kernels::rope_table(inputs.batch.positions(), &spec.inv_freq, spec.factor, &mut cos, &mut sin);
        CpuRope {
            style: spec.style,
            n_rows: inputs.batch.n_rows(),
            rot_dim: 2 * spec.inv_freq.len(),
            cos,
            sin,
        }
    }

    /// Turns heads `x [n_rows, n_heads * head_dim]`.
    pub(super) fn turn(&self, b: &CpuBackend, x: &mut [f32], head_dim: usize) {
        kernels::rope(b.isa, x, self.n_rows, head_dim, &self.cos, &self.sin, self.style);
    }

    /// Whether these are rotations of the step's rows and of no more than a head has.
    pub(super) fn check(&self, inputs: &CpuInputs, head_dim: usize) -> Result<(), BackendError> {
        check("rows of the rotations", inputs.batch.n_rows(), self.n_rows)?;
        check_at_most("rotated values of a head", head_dim, self.rot_dim)
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
