//! The eager CPU backend: each operation is one call of a kernel. Buffers of dropped tensors are used again, so a
//! decode step allocates nothing once the first one has run.

mod attention;
mod cache;
mod linear;
mod mla;
mod moe;
mod tensor;

use base::{Batch, TokenId};
use collective::Group;
use kernels::{Isa, MoeScratch, Pool, Routing};

use crate::{
    AttentionSpec, Backend, BackendError, CacheSpec, Draw, ExpertParts, LatentParts, MlaSpec, Part, RopeSpec,
    RouterSpec,
    checks::{check, check_at_least, check_at_most},
    conformance::Tolerance,
};

use attention::{CpuHeadNorms, CpuRope};
use cache::{Cache, CpuInputs};
use linear::CpuLinear;
use mla::CpuLatentUp;
use moe::CpuExperts;
use tensor::{Buffers, CpuTensor, rows};

/// Weight of an RMSNorm.
pub struct CpuNorm {
    weight: Vec<f32>,
    eps: f32,
}

/// CPU implementation of [`Backend`].
pub struct CpuBackend {
    pool: Pool,
    isa: Isa,
    group: Box<dyn Group>,
    buffers: Buffers,
    cache: Cache,
    moe_scratch: MoeScratch,
}

impl CpuBackend {
    /// What results are held to: 32-bit sums, a 16-bit cache, 8-bit inputs of quantised weights; the same bits in any
    /// company.
    pub const TOLERANCE: Tolerance =
        Tolerance { value: 1e-5, cache: 1e-3, company: 0.0, rounds_inputs: true, weight_step: |_| 0.0 };

    /// A backend that computes on `pool`'s threads with the instructions of `isa` and sums over `group`.
    pub fn new(pool: Pool, isa: Isa, group: Box<dyn Group>) -> CpuBackend {
        let (buffers, cache, moe_scratch) = Default::default();
        CpuBackend { pool, isa, group, buffers, cache, moe_scratch }
    }

    /// `x` normalised over runs of the norm's length: whole rows, or each head of a row.
    fn normed(&self, x: &CpuTensor, norm: &CpuNorm) -> CpuTensor {
        let mut out = self.buffers.tensor(x.n_rows(), x.n_cols());
        let (isa, x, n_cols) = (self.isa, x.values(), x.n_cols());
        self.pool.rows(out.values_mut(), n_cols, |part, out| {
            kernels::rms_norm(isa, rows(x, n_cols, part), &norm.weight, norm.eps, out);
        });
        out
    }

    /// A tensor whose values `fill` writes.
    fn filled(&self, n_rows: usize, n_cols: usize, fill: impl FnOnce(&mut [f32])) -> CpuTensor {
        let mut tensor = self.buffers.tensor(n_rows, n_cols);
        fill(tensor.values_mut());
        tensor
    }
}

impl Backend for CpuBackend {
    type Tensor = CpuTensor;
    type Linear = CpuLinear;
    type Experts = CpuExperts;
    type LatentUp = CpuLatentUp;
    type Norm = CpuNorm;
    type HeadNorms = CpuHeadNorms;
    type Routing = Routing;
    type Inputs = CpuInputs;
    type Rope = CpuRope;
    type Drawn = Vec<TokenId>;

    const READS_WEIGHTS: bool = false;
    const QUEUES: bool = false;

    fn linear(&mut self, parts: &[Part<'_>]) -> Result<CpuLinear, BackendError> {
        CpuLinear::new(&self.pool, parts)
    }

    fn experts(&mut self, parts: &ExpertParts<'_>) -> Result<CpuExperts, BackendError> {
        CpuExperts::pack(&self.pool, parts)
    }

    fn latent_up(&mut self, parts: &LatentParts<'_>, spec: &MlaSpec) -> Result<CpuLatentUp, BackendError> {
        CpuLatentUp::pack(&self.pool, parts, spec)
    }

    fn norm(&mut self, weight: &[f32], eps: f32) -> Result<CpuNorm, BackendError> {
        Ok(CpuNorm { weight: weight.to_vec(), eps })
    }

    fn head_norms(
        &mut self,
        q: &[f32],
        k: &[f32],
        eps: f32,
        spec: &AttentionSpec,
    ) -> Result<CpuHeadNorms, BackendError> {
        CpuHeadNorms::new(q, k, eps, spec)
    }

    fn tensor(&mut self, values: &[f32], n_cols: usize) -> Result<CpuTensor, BackendError> {
        check("tensor: values beyond whole rows", 0, values.len() % n_cols.max(1))?;
        Ok(self.filled(values.len() / n_cols.max(1), n_cols, |out| out.copy_from_slice(values)))
    }

    fn allocate_cache(&mut self, spec: CacheSpec) -> Result<(), BackendError> {
        check("allocate_cache: tokens of a block beyond whole 16", 0, spec.block_len % 16)?;
        check_at_least("allocate_cache: tokens of a block", 16, spec.block_len)?;
        self.cache = Cache::new(spec);
        Ok(())
    }

    fn inputs(&mut self, batch: &Batch) -> Result<CpuInputs, BackendError> {
        self.cache.inputs(batch)
    }

    fn inputs_after(&mut self, batch: &Batch, drawn: &Vec<TokenId>) -> Result<CpuInputs, BackendError> {
        self.cache.inputs(&Batch { tokens: drawn.clone(), seqs: batch.seqs.clone() })
    }

    fn rope_table(&mut self, spec: &RopeSpec, inputs: &CpuInputs) -> Result<CpuRope, BackendError> {
        Ok(CpuRope::new(self, spec, inputs))
    }

    fn embed(
        &mut self,
        table: &CpuLinear,
        first_word: u32,
        inputs: &CpuInputs,
    ) -> Result<CpuTensor, BackendError> {
        table.look_up(self, first_word, inputs)
    }

    fn matmul<const N: usize>(
        &mut self,
        x: &CpuTensor,
        weights: &CpuLinear,
    ) -> Result<[CpuTensor; N], BackendError> {
        weights.apply(self, x)
    }

    fn rms_norm(&mut self, x: &CpuTensor, norm: &CpuNorm) -> Result<CpuTensor, BackendError> {
        check("rms_norm: columns", norm.weight.len(), x.n_cols())?;
        Ok(self.normed(x, norm))
    }

    fn attention(
        &mut self,
        qkv: [CpuTensor; 3],
        norms: Option<&CpuHeadNorms>,
        rope: &CpuRope,
        layer: usize,
        spec: &AttentionSpec,
        inputs: &CpuInputs,
    ) -> Result<CpuTensor, BackendError> {
        self.attend(qkv, norms, rope, layer, spec, inputs)
    }

    fn mla(
        &mut self,
        inputs_of_layer: [CpuTensor; 3],
        up: &CpuLatentUp,
        rope: &CpuRope,
        layer: usize,
        spec: &MlaSpec,
        inputs: &CpuInputs,
    ) -> Result<CpuTensor, BackendError> {
        self.attend_latents(inputs_of_layer, up, rope, layer, spec, inputs)
    }

    fn route(
        &mut self,
        logits: &CpuTensor,
        correction: Option<&CpuTensor>,
        spec: &RouterSpec,
    ) -> Result<Routing, BackendError> {
        moe::route(self, logits, correction, spec)
    }

    fn moe(
        &mut self,
        x: &CpuTensor,
        experts: &CpuExperts,
        routing: &Routing,
    ) -> Result<CpuTensor, BackendError> {
        experts.apply(self, x, routing)
    }

    fn swiglu(&mut self, mut gate: CpuTensor, up: CpuTensor) -> Result<CpuTensor, BackendError> {
        check_same("swiglu", &gate, &up)?;
        let (isa, n_cols, up) = (self.isa, gate.n_cols(), up.values());
        self.pool.rows(gate.values_mut(), n_cols, |part, gate| {
            kernels::swiglu(isa, gate, rows(up, n_cols, part));
        });
        Ok(gate)
    }

    fn add(&mut self, mut a: CpuTensor, b: &CpuTensor) -> Result<CpuTensor, BackendError> {
        check_same("add", &a, b)?;
        let (isa, n_cols, b) = (self.isa, a.n_cols(), b.values());
        self.pool.rows(a.values_mut(), n_cols, |part, a| {
            kernels::add_assign(isa, a, rows(b, n_cols, part));
        });
        Ok(a)
    }

    fn all_reduce(&mut self, mut x: CpuTensor) -> Result<CpuTensor, BackendError> {
        if self.group.size() > 1 {
            self.group.all_reduce(x.values_mut().into())?;
        }
        Ok(x)
    }

    fn select_rows(&mut self, x: &CpuTensor, rows: &[u32]) -> Result<CpuTensor, BackendError> {
        for &row in rows {
            check_at_most("select_rows: number of a row", x.n_rows().saturating_sub(1), row as usize)?;
        }
        let n_cols = x.n_cols();
        Ok(self.filled(rows.len(), n_cols, |out| {
            for (row, out) in rows.iter().zip(out.chunks_exact_mut(n_cols.max(1))) {
                out.copy_from_slice(&x.values()[*row as usize * n_cols..][..n_cols]);
            }
        }))
    }

    fn draw(&mut self, logits: &CpuTensor, draw: Draw) -> Result<Vec<TokenId>, BackendError> {
        let mut tokens = vec![TokenId(0); logits.n_rows()];
        draw(logits.values(), &mut tokens);
        Ok(tokens)
    }

    fn finish(&mut self, _: &Vec<TokenId>) -> Result<(), BackendError> {
        Ok(()) // drawn at once
    }

    fn eval(&mut self, x: &CpuTensor, out: &mut Vec<f32>) -> Result<(), BackendError> {
        out.clear();
        out.extend_from_slice(x.values());
        Ok(())
    }
}

fn check_same(op: &'static str, a: &CpuTensor, b: &CpuTensor) -> Result<(), BackendError> {
    let shape = |x: &CpuTensor| format!("{} × {}", x.n_rows(), x.n_cols());
    if (a.n_rows(), a.n_cols()) == (b.n_rows(), b.n_cols()) {
        return Ok(());
    }
    Err(BackendError::Shape { op, expected: shape(a), found: shape(b) })
}
