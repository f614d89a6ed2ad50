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
    qkv: B::Linear, // [heads_shard * head_dim, hidden] and two of [kv_heads_shard * head_dim, hidden]
    o: B::Linear,   // [hidden, heads_shard * head_dim]
}

impl<B: Backend> decoder::Attention<B> for Attention<B> {
    fn load(loader: &mut Loader<'_, B>, layer: u32) -> Result<Self, ModelError> {
        Ok(Attention {
            spec: loader.attention_spec(),
            qkv: loader.linear_with_biases(
                &[(Weight::Q, Weight::QBias), (Weight::K, Weight::KBias), (Weight::V, Weight::VBias)],
                layer,
            )?,
            o: loader.linear(&[Weight::O], layer)?,
        })
    }

    fn forward(
        &self,
        b: &mut B,
        x: &B::Tensor,
        slot: usize,
        step: &StepContext<B>,
    ) -> Result<B::Tensor, ModelError> {
        let qkv = b.matmul(x, &self.qkv)?;
        let y = b.attention(qkv, None, &step.rope, slot, &self.spec, &step.inputs)?;
        let [y] = b.matmul(&y, &self.o)?; // [n_rows, hidden], a partial sum
        Ok(b.all_reduce(y)?)
    }
}
