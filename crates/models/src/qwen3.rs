//! Qwen3 dense: Llama's layer with RMSNorm on each head's queries and keys before the rotation, and no biases.
//! Source: Yang et al., "Qwen3 technical report" (2025).

use backend::{AttentionSpec, Backend};

use crate::{
    ModelError,
    decoder::{self, StepContext},
    loader::Loader,
    names::Weight,
};

/// The weights of a layer.
pub(crate) const LAYER_WEIGHTS: &[Weight] = &[
    Weight::AttentionNorm,
    Weight::Q,
    Weight::QNorm,
    Weight::K,
    Weight::KNorm,
    Weight::V,
    Weight::O,
    Weight::MlpNorm,
    Weight::Gate,
    Weight::Up,
    Weight::Down,
];

/// Attention of one layer, this rank's heads.
pub(crate) struct Attention<B: Backend> {
    spec: AttentionSpec,
    norm_eps: f32,
    q: B::Linear,      // [heads_shard * head_dim, hidden]
    k: B::Linear,      // [kv_heads_shard * head_dim, hidden]
    v: B::Linear,      // [kv_heads_shard * head_dim, hidden]
    o: B::Linear,      // [hidden, heads_shard * head_dim]
    q_norm: B::Tensor, // [head_dim]
    k_norm: B::Tensor, // [head_dim]
}

impl<B: Backend> decoder::Attention<B> for Attention<B> {
    fn load(loader: &mut Loader<'_, B>, layer: u32) -> Result<Self, ModelError> {
        Ok(Attention {
            spec: loader.attention_spec(),
            norm_eps: loader.config.norm_eps,
            q: loader.linear(Weight::Q, layer)?,
            k: loader.linear(Weight::K, layer)?,
            v: loader.linear(Weight::V, layer)?,
            o: loader.linear(Weight::O, layer)?,
            q_norm: loader.norm(Weight::QNorm, layer)?,
            k_norm: loader.norm(Weight::KNorm, layer)?,
        })
    }

    fn forward(
        &self,
        b: &mut B,
        x: &B::Tensor,
        slot: usize,
        step: &StepContext<B>,
    ) -> Result<B::Tensor, ModelError> {
        let [q, k, v] = b.matmul(x, [&self.q, &self.k, &self.v])?;
        let q = b.rms_norm(&q, &self.q_norm, self.norm_eps)?; // over each head
        let k = b.rms_norm(&k, &self.k_norm, self.norm_eps)?;
        let q = b.rope(q, self.spec.head_dim, &step.rope)?;
        let k = b.rope(k, self.spec.head_dim, &step.rope)?;
        let y = b.attention([&q, &k, &v], slot, &self.spec, &step.inputs)?;
        let [y] = b.matmul(&y, [&self.o])?; // [n_rows, hidden], a partial sum
        Ok(b.all_reduce(y)?)
    }
}
