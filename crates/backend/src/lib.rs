//! Tensors and the dozen fused operations a transformer needs, as a trait that an eager CPU and a lazy graph engine
//! can both keep. A backend computes one rank's share; it knows no architecture, no plan and no sampling.

mod cpu;
mod error;

pub use cpu::{CpuBackend, CpuInputs, CpuLinear, CpuRope, CpuTensor};
pub use error::BackendError;
pub use kernels::{Isa, RopeStyle};

use base::{Batch, MatrixView};

/// How positions turn into rotations of query and key heads.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Which values of a head form a pair.
    pub style: RopeStyle,
    /// Angle per position of each pair, `[rot_dim / 2]`; `rot_dim` may be less than the head's width.
    pub inv_freq: Vec<f32>,
    /// Multiplies sine and cosine (YaRN's attention factor); 1 otherwise.
    pub factor: f32,
}

/// Shape of the attention of this rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads of this rank.
    pub n_heads: usize,
    /// Key and value heads of this rank.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Multiplies `q·k` before the softmax.
    pub scale: f32,
    /// A query sees this many latest positions, its own included; all of them when absent.
    pub window: Option<u32>,
}

/// Size of the paged KV cache of this rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSpec {
    /// Layers of this rank's stage.
    pub n_layers: usize,
    /// Blocks in each layer.
    pub n_blocks: usize,
    /// Tokens in a block.
    pub block_len: usize,
    /// Key and value heads of this rank.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
}

/// One device's tensors and operations.
///
/// Tensors are handles to matrices `[n_rows, n_cols]` of activations; cloning one is cheap. An operation may compute
/// at once or only note what to compute: nothing but [`Backend::eval`] promises a value, and an error of a
/// lazy operation may surface there. Operations that take a tensor by value may reuse its memory.
///
/// Promises that the conformance suite holds: a row's result depends on that row and its sequence alone (not on what
/// else is in the batch, nor on how a prompt was cut into chunks); equal calls give equal bits.
pub trait Backend {
    /// Handle to a matrix of activations.
    type Tensor: Clone;
    /// A linear layer's weights `[n_out, n_in]`, in the form this backend multiplies fastest; also an embedding table.
    type Linear;
    /// What the operations of one step share: positions, block tables.
    type Inputs;
    /// Rotations of one step's positions.
    type Rope;

    /// Prepares a weight `[n_out, n_in]` with an optional bias `[n_out]`.
    fn linear(&mut self, weight: &MatrixView<'_>, bias: Option<&[f32]>)
    -> Result<Self::Linear, BackendError>;
    /// Uploads activations `[n_rows, n_cols]`; a norm's weight is one row.
    fn tensor(&mut self, values: &[f32], n_cols: usize) -> Result<Self::Tensor, BackendError>;
    /// Makes the KV cache of all layers; called once, before the first step.
    fn allocate_cache(&mut self, spec: CacheSpec) -> Result<(), BackendError>;

    /// Takes over the positions and block tables of a step.
    fn inputs(&mut self, batch: &Batch) -> Result<Self::Inputs, BackendError>;
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
    /// `y_i = x · W_iᵀ + b_i` for weights that share their input: `[n_rows, n_in] → [n_rows, n_out_i]`.
    fn matmul<const N: usize>(
        &mut self,
        x: &Self::Tensor,
        weights: [&Self::Linear; N],
    ) -> Result<[Self::Tensor; N], BackendError>;
    /// `x / sqrt(mean(x²) + eps) · weight` over runs of `weight`'s length: whole rows, or each head of a row.
    fn rms_norm(
        &mut self,
        x: &Self::Tensor,
        weight: &Self::Tensor,
        eps: f32,
    ) -> Result<Self::Tensor, BackendError>;
    /// Rotates each head of `x`, `[n_rows, n_heads * head_dim]`.
    fn rope(
        &mut self,
        x: Self::Tensor,
        head_dim: usize,
        rope: &Self::Rope,
    ) -> Result<Self::Tensor, BackendError>;
    /// Writes `k` and `v`, `[n_rows, n_kv_heads * head_dim]`, to the cache of `layer` (counted within the stage), then
    /// attends causally: `q [n_rows, n_heads * head_dim] → [n_rows, n_heads * head_dim]`.
    fn attention(
        &mut self,
        qkv: [&Self::Tensor; 3],
        layer: usize,
        spec: &AttentionSpec,
        inputs: &Self::Inputs,
    ) -> Result<Self::Tensor, BackendError>;
    /// `silu(gate) · up`, elementwise.
    fn swiglu(&mut self, gate: &Self::Tensor, up: &Self::Tensor) -> Result<Self::Tensor, BackendError>;
    /// `a + b`, elementwise.
    fn add(&mut self, a: Self::Tensor, b: &Self::Tensor) -> Result<Self::Tensor, BackendError>;
    /// The sum of `x` over the ranks of this stage; every rank gets the same bits.
    fn all_reduce(&mut self, x: Self::Tensor) -> Result<Self::Tensor, BackendError>;
    /// The given rows of `x`, in that order.
    fn select_rows(&mut self, x: &Self::Tensor, rows: &[u32]) -> Result<Self::Tensor, BackendError>;
    /// Computes `x` and copies it to `out`, `[n_rows * n_cols]`.
    fn eval(&mut self, x: &Self::Tensor, out: &mut Vec<f32>) -> Result<(), BackendError>;
}
