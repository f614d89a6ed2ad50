//! Qwen2 and Qwen2.5: Llama's layer with biases on queries, keys and values, which its files must therefore have.
//! Source: Yang et al., "Qwen2 technical report" (2024).

use crate::names::Weight;

/// The weights of a layer; it runs as Llama's [`Attention`](crate::llama::Attention), whose loader takes the biases along.
pub(crate) const LAYER_WEIGHTS: &[Weight] = &[
    Weight::AttentionNorm,
    Weight::Q,
    Weight::QBias,
    Weight::K,
    Weight::KBias,
    Weight::V,
    Weight::VBias,
    Weight::O,
    Weight::MlpNorm,
    Weight::Gate,
    Weight::Up,
    Weight::Down,
];
