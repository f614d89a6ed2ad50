//! Tensors and the dozen fused operations a transformer needs, as a trait that an eager CPU and a lazy graph engine
//! can both keep. A backend computes one rank's share; it knows no architecture, no plan and no sampling.

mod affine;
mod checks;
pub mod conformance;
mod cpu;
mod error;
#[cfg(feature = "mlx")]
mod mlx;
mod scaled;
mod spec;

pub use cpu::CpuBackend;
pub use error::BackendError;
pub use kernels::{Isa, RopeStyle};
#[cfg(feature = "mlx")]
pub use mlx::{MlxBackend, MlxGroup, MlxMemory, MlxOptions};
pub use spec::{AttentionSpec, CacheRow, CacheSpec, MlaSpec, RopeSpec, RouterSpec, Scoring};

use base::{Batch, TokenId, WeightView};

/// One of the weights of a linear layer, `[n_out, n_in]`, with an optional bias `[n_out]`.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    /// The stored weight.
    pub weight: WeightView<'a>,
    /// Added to every row of the result.
    pub bias: Option<&'a [f32]>,
}

/// The three matrices of some experts of a layer, one entry per expert, in the order of their numbers.
#[derive(Clone, Copy)]
pub struct ExpertParts<'a> {
    /// Number of the first of them among all experts of the layer.
    pub first: u32,
    /// Each `[ffn, hidden]`.
    pub gate: &'a [WeightView<'a>],
    /// Each `[ffn, hidden]`.
    pub up: &'a [WeightView<'a>],
    /// Each `[hidden, ffn]`.
    pub down: &'a [WeightView<'a>],
}

/// Up-projections of latent attention, as checkpoints keep them.
#[derive(Clone, Copy)]
pub enum LatentParts<'a> {
    /// `[n_heads * (nope_dim + v_dim), latent_dim]`: for each head that of its keys, then that of its values.
    Joined(WeightView<'a>),
    /// One each for every head.
    Apart {
        /// With rows and columns exchanged, each `[latent_dim, nope_dim]`.
        keys: &'a [WeightView<'a>],
        /// Each `[v_dim, latent_dim]`.
        values: &'a [WeightView<'a>],
    },
}

/// Draws tokens, one for each row, from the values of logits `[n_rows, n_words]`.
pub type Draw = Box<dyn FnOnce(&[f32], &mut [TokenId]) + Send>;

/// What a lazy backend has handed to its device so far; an eager one has no graph and counts nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Operations of the graphs that were queued.
    pub n_nodes: u64,
    /// Those of them that launch something; the others only look at memory another way.
    pub n_launches: u64,
    /// Graphs that were queued.
    pub n_evals: u64,
}

/// One device's tensors and operations.
///
/// Tensors are handles to matrices `[n_rows, n_cols]` of activations; cloning one is cheap. An operation may compute
/// at once or only note what to compute: nothing but [`Backend::eval`] promises a value, and an error of a
/// lazy operation may surface there; after it the backend still computes what does not depend on what failed.
/// Operations that take a tensor by value may reuse its memory.
///
/// Promises that the conformance suite holds: a row's result depends on that row and its sequence alone, not on what
/// else is in the batch, nor on how a prompt was cut into chunks: to the bit on the CPU, up to rounding on devices
/// that choose another kernel for another number of rows; equal calls give equal bits.
pub trait Backend {
    /// Handle to a matrix of activations.
    type Tensor: Clone;
    /// Weights that share their input, in the form this backend multiplies fastest; with one part also an
    /// embedding table.
    type Linear;
    /// Weights of some experts of a layer.
    type Experts;
    /// Up-projections of latent attention.
    type LatentUp;
    /// Weight of an RMSNorm over rows.
    type Norm;
    /// Weights of an RMSNorm over each head of queries and keys.
    type HeadNorms;
    /// Which experts each row goes to, and with what weight.
    type Routing;
    /// What the operations of one step share: tokens, positions, block tables.
    type Inputs;
    /// Rotations of one step's positions.
    type Rope;
    /// Tokens drawn from logits, or about to be.
    type Drawn;

    /// Whether weights are to be read into memory and not mapped: a device's arrays are a copy already, and the pages of the file
    /// beside them would take the same memory twice.
    const READS_WEIGHTS: bool;
    /// Whether [`Backend::draw`] only queues, so that the next step can be queued before its tokens are known.
    const QUEUES: bool;

    /// Prepares weights `[n_out_i, n_in]` that are applied to the same input.
    fn linear(&mut self, parts: &[Part<'_>]) -> Result<Self::Linear, BackendError>;
    /// Prepares experts; all of them have the same shapes.
    fn experts(&mut self, parts: &ExpertParts<'_>) -> Result<Self::Experts, BackendError>;
    /// Prepares the up-projections of latent attention.
    fn latent_up(&mut self, parts: &LatentParts<'_>, spec: &MlaSpec) -> Result<Self::LatentUp, BackendError>;
    /// Prepares `x / sqrt(mean(x²) + eps) · weight` over rows of `weight`'s length.
    fn norm(&mut self, weight: &[f32], eps: f32) -> Result<Self::Norm, BackendError>;
    /// Prepares the same over each head of queries and keys, `q` and `k` being `[head_dim]`.
    fn head_norms(
        &mut self,
        q: &[f32],
        k: &[f32],
        eps: f32,
        spec: &AttentionSpec,
    ) -> Result<Self::HeadNorms, BackendError>;
    /// Uploads activations `[n_rows, n_cols]`.
    fn tensor(&mut self, values: &[f32], n_cols: usize) -> Result<Self::Tensor, BackendError>;
    /// Makes the KV cache of all layers; called once, before the first step.
    fn allocate_cache(&mut self, spec: CacheSpec) -> Result<(), BackendError>;

    /// Takes over the tokens, positions and block tables of a step.
    fn inputs(&mut self, batch: &Batch) -> Result<Self::Inputs, BackendError>;
    /// The same for a step whose tokens are `drawn`, whatever `batch` says they are.
    fn inputs_after(&mut self, batch: &Batch, drawn: &Self::Drawn) -> Result<Self::Inputs, BackendError>;
    /// Rotations for the step's positions.
    fn rope_table(&mut self, spec: &RopeSpec, inputs: &Self::Inputs) -> Result<Self::Rope, BackendError>;

    /// Rows of `table` for the step's tokens, `[n_rows, hidden]`. The table's row 0 is word `first_word`; words it
    /// does not hold give zeros, so the sum over a vocabulary-parallel group is the embedding.
    fn embed(
        &mut self,
        table: &Self::Linear,
        first_word: u32,
        inputs: &Self::Inputs,
    ) -> Result<Self::Tensor, BackendError>;
    /// `y_i = x · W_iᵀ + b_i` for the `N` parts of `weights`: `[n_rows, n_in] → [n_rows, n_out_i]`.
    fn matmul<const N: usize>(
        &mut self,
        x: &Self::Tensor,
        weights: &Self::Linear,
    ) -> Result<[Self::Tensor; N], BackendError>;
    /// Normalises each row.
    fn rms_norm(&mut self, x: &Self::Tensor, norm: &Self::Norm) -> Result<Self::Tensor, BackendError>;
    /// Normalises (if asked) and rotates the heads of `q` and `k`, writes `k` and `v`, `[n_rows, n_kv_heads * head_dim]`, to
    /// the cache of `layer` (counted within the stage), then attends causally:
    /// `q [n_rows, n_heads * head_dim] → [n_rows, n_heads * head_dim]`.
    fn attention(
        &mut self,
        qkv: [Self::Tensor; 3],
        norms: Option<&Self::HeadNorms>,
        rope: &Self::Rope,
        layer: usize,
        spec: &AttentionSpec,
        inputs: &Self::Inputs,
    ) -> Result<Self::Tensor, BackendError>;
    /// Multi-head latent attention (DeepSeek-V2, 2024, section 2.1). The inputs are the queries
    /// `[n_rows, n_heads * (nope_dim + rope_dim)]`, the normalised latent `[n_rows, latent_dim]` and the keys' shared rotary part
    /// `[n_rows, rope_dim]`. Rotates the rotary parts, writes latent and rotary key to the cache of `layer`, then
    /// attends causally: `→ [n_rows, n_heads * v_dim]`.
    fn mla(
        &mut self,
        inputs_of_layer: [Self::Tensor; 3],
        up: &Self::LatentUp,
        rope: &Self::Rope,
        layer: usize,
        spec: &MlaSpec,
        inputs: &Self::Inputs,
    ) -> Result<Self::Tensor, BackendError>;
    /// Chooses experts from the gate's logits `[n_rows, n_experts]`; `correction [n_experts]` is added to the scores
    /// for choosing, not for weighting.
    fn route(
        &mut self,
        logits: &Self::Tensor,
        correction: Option<&Self::Tensor>,
        spec: &RouterSpec,
    ) -> Result<Self::Routing, BackendError>;
    /// `y = Σ w_e · down_e(silu(gate_e x) · up_e x)` over the experts of each row that are in `experts`:
    /// `[n_rows, hidden] → [n_rows, hidden]`; so the sum over an expert-parallel group is the layer.
    fn moe(
        &mut self,
        x: &Self::Tensor,
        experts: &Self::Experts,
        routing: &Self::Routing,
    ) -> Result<Self::Tensor, BackendError>;
    /// `silu(gate) · up`, elementwise.
    fn swiglu(&mut self, gate: Self::Tensor, up: Self::Tensor) -> Result<Self::Tensor, BackendError>;
    /// `a + b`, elementwise.
    fn add(&mut self, a: Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor, BackendError>;
    /// The sum of `x` over the ranks of this stage; every rank gets the same bits.
    fn all_reduce(&mut self, x: Self::Tensor) -> Result<Self::Tensor, BackendError>;
    /// The given rows of `x`, in that order.
    fn select_rows(&mut self, x: &Self::Tensor, rows: &[u32]) -> Result<Self::Tensor, BackendError>;
    /// Begins to compute `logits [n_rows, n_words]`, from which `draw`, on the host, then draws a token for each row.
    fn draw(&mut self, logits: &Self::Tensor, draw: Draw) -> Result<Self::Drawn, BackendError>;
    /// Waits until `drawn` is drawn.
    fn finish(&mut self, drawn: &Self::Drawn) -> Result<(), BackendError>;
    /// Computes `x` and copies it to `out`, `[n_rows * n_cols]`.
    fn eval(&mut self, x: &Self::Tensor, out: &mut Vec<f32>) -> Result<(), BackendError>;

    /// What was queued so far.
    fn counters(&self) -> Counters {
        Counters::default()
    }
}
