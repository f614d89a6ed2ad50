//! Llama 2 and 3, Mistral, SmolLM2: grouped-query attention with rotary positions and a gated feed-forward layer.
//! Sources: Touvron et al., "Llama 2" (2023); Grattafiori et al., "The Llama 3 herd of models" (2024).

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
    Weight::K,
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
    q: B::Linear, // [heads_shard * head_dim, hidden]
    k: B::Linear, // [kv_heads_shard * head_dim, hidden]
    v: B::Linear, // [kv_heads_shard * head_dim, hidden]
    o: B::Linear, // [hidden, heads_shard * head_dim]
}

impl<B: Backend> decoder::Attention<B> for Attention<B> {
    fn load(loader: &mut Loader<'_, B>, layer: u32) -> Result<Self, ModelError> {
        Ok(Attention {
            spec: loader.attention_spec(),
            q: loader.linear_with_bias(Weight::Q, Weight::QBias, layer)?,
            k: loader.linear_with_bias(Weight::K, Weight::KBias, layer)?,
            v: loader.linear_with_bias(Weight::V, Weight::VBias, layer)?,
            o: loader.linear(Weight::O, layer)?,
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
        let q = b.rope(q, self.spec.head_dim, &step.rope)?;
        let k = b.rope(k, self.spec.head_dim, &step.rope)?;
        let y = b.attention([&q, &k, &v], slot, &self.spec, &step.inputs)?;
        let [y] = b.matmul(&y, [&self.o])?; // [n_rows, hidden], a partial sum
        Ok(b.all_reduce(y)?)
    }
}
