//! A model as the cost model sees it: the sizes that ranks share out, and how many of their bytes and operations one token needs.
//! It knows numbers, not names, and nothing of machines.

use std::ops::{Add, AddAssign};

use base::{Bytes, LayerBytes, ModelSpec};

/// Bytes of a cached value.
pub const KV_VALUE_BYTES: u64 = 2;

/// Weights that are held and cut together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Bytes in quantised formats, scales included.
    pub quantised: Bytes,
    /// Bytes in 16 or 32 bits a value.
    pub plain: Bytes,
    /// Number of values.
    pub n_params: u64,
}

impl Part {
    /// All bytes.
    pub fn bytes(&self) -> Bytes {
        self.quantised + self.plain
    }
}

impl Add for Part {
    type Output = Part;
    fn add(self, other: Part) -> Part {
        Part {
            quantised: self.quantised + other.quantised,
            plain: self.plain + other.plain,
            n_params: self.n_params.saturating_add(other.n_params),
        }
    }
}

impl AddAssign for Part {
    fn add_assign(&mut self, other: Part) {
        *self = *self + other;
    }
}

/// One layer's weights by how they are cut, and how much of them a token reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerCost {
    /// Projections of attention, cut by heads.
    pub attention: Part,
    /// Dense feed-forward layer and shared experts, cut by columns.
    pub ffn: Part,
    /// All routed experts of the layer, each cut by columns.
    pub experts: Part,
    /// What every rank of the stage holds and reads whole: norms, the gate, projections into a latent.
    pub replicated: Part,
}

/// Routed experts of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Experts {
    /// How many there are.
    pub n: u32,
    /// How many a token uses.
    pub n_active: u32,
}

/// Layers whose fixed cost has been fitted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// Heads' keys and values, dense feed-forward layers.
    Dense,
    /// Heads' keys and values, routed experts.
    Experts,
    /// A latent cache.
    Latent,
}

/// A model's sizes and what a token needs of them.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelCost {
    /// What ranks share out; its bytes are those of `layers`.
    pub spec: ModelSpec,
    /// The same layers, in more detail.
    pub layers: Vec<LayerCost>,
    /// The output head, or the embedding that stands in for it: read whole for every token.
    pub head: Part,
    /// Routed experts, where there are any.
    pub experts: Option<Experts>,
    /// Operations of attention in one layer for one query token and one cached token, in prefill.
    pub attention_flops: f64,
    /// Whether this program has an engine for it; other models are predicted only.
    pub is_runnable: bool,
}

impl ModelCost {
    /// The same layers as sizes to be shared out.
    pub fn layer_bytes(layers: &[LayerCost]) -> Vec<LayerBytes> {
        let bytes = |l: &LayerCost| LayerBytes {
            attention: l.attention.bytes(),
            ffn: l.ffn.bytes() + l.experts.bytes(),
            replicated: l.replicated.bytes(),
        };
        layers.iter().map(bytes).collect()
    }

    /// Bytes of all weights, as a file holds them.
    pub fn weights(&self) -> Bytes {
        let layers: Bytes = self.spec.layers.iter().map(|l| l.attention + l.ffn + l.replicated).sum();
        layers + self.spec.embedding + self.spec.head.unwrap_or_default()
    }

    /// Values of all weights.
    pub fn n_params(&self) -> u64 {
        let layer = |l: &LayerCost| l.attention + l.ffn + l.experts + l.replicated;
        let layers = self.layers.iter().map(layer).fold(Part::default(), Add::add);
        let n_tables = if self.spec.head.is_some() { 2 } else { 1 };
        layers.n_params + n_tables * self.head.n_params
    }

    /// Values of the weights that one token meets, the output head included and the embedding not.
    pub fn n_active_params(&self) -> f64 {
        let layers: f64 = (0..self.layers.len()).map(|i| self.layer_active_params(i)).sum();
        layers + self.head.n_params as f64
    }

    /// The same of one layer.
    pub(crate) fn layer_active_params(&self, layer: usize) -> f64 {
        let l = &self.layers[layer];
        let whole = (l.attention + l.ffn + l.replicated).n_params as f64;
        whole + l.experts.n_params as f64 * self.expert_share(1.0)
    }

    /// Part of a layer's experts that a batch of `n` tokens reads: with each token choosing `k` of `e` evenly,
    /// `1 − (1 − k/e)ⁿ` of them are chosen by one token at least.
    pub fn expert_share(&self, n: f64) -> f64 {
        self.experts.map_or(0.0, |e| 1.0 - (1.0 - f64::from(e.n_active) / f64::from(e.n.max(1))).powf(n))
    }

    /// Bytes that one token adds to the cache of one layer over all heads.
    pub fn kv_bytes_per_layer(&self) -> Bytes {
        match self.spec.latent {
            None => Bytes(self.spec.kv_bytes_per_head().0 * u64::from(self.spec.n_kv_heads)),
            Some(n_values) => Bytes(KV_VALUE_BYTES * u64::from(n_values)),
        }
    }

    /// Which fixed cost its layers have.
    pub fn kind(&self) -> LayerKind {
        match (self.spec.latent, self.experts) {
            (Some(_), _) => LayerKind::Latent,
            (None, Some(_)) => LayerKind::Experts,
            (None, None) => LayerKind::Dense,
        }
    }
}
