//! From the numbers of a configuration to a model's sizes: every matrix counted once, in the number format it is stored in.
//! It knows widths and counts; which names they have in which file is for others.

use base::{Bytes, ModelSpec};

use crate::model::{Experts, LayerCost, ModelCost, Part};

/// How many bits a value takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Format {
    /// Bits of a value, its share of scales and biases included: 4.5 for 4 bits in groups of 64 with scale and bias.
    pub bits: f64,
    /// Whether it is dequantised on the way.
    pub is_quantised: bool,
    /// Values along a row that cannot be parted.
    pub group_size: u32,
}

impl Format {
    /// 16 bits a value.
    pub const BF16: Format = Format { bits: 16.0, is_quantised: false, group_size: 1 };

    /// `bits` a value and `scale_bits` a group.
    pub fn grouped(bits: u32, group_size: u32, scale_bits: u32) -> Format {
        let bits = f64::from(bits) + f64::from(scale_bits) / f64::from(group_size.max(1));
        Format { bits, is_quantised: true, group_size: group_size.max(1) }
    }

    /// `n` values in this format.
    pub fn part(self, n: u64) -> Part {
        let bytes = Bytes((n as f64 * self.bits / 8.0).round() as u64);
        let (quantised, plain) = if self.is_quantised { (bytes, Bytes(0)) } else { (Bytes(0), bytes) };
        Part { quantised, plain, n_params: n }
    }
}

/// How a model attends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionShape {
    /// Query heads in groups that share keys and values.
    Grouped {
        /// Width of a head.
        head_dim: u32,
    },
    /// Keys and values compressed into a latent (DeepSeek-AI, "DeepSeek-V2", 2024, section 2.1).
    Latent {
        /// Rank of the queries' compression.
        q_rank: u32,
        /// Rank of the keys' and values' compression.
        kv_rank: u32,
        /// Width of a head's part without rotation.
        nope_dim: u32,
        /// Width of the part with rotation, one for all heads.
        rope_dim: u32,
        /// Width of a head's values.
        v_dim: u32,
    },
}

/// Routed experts of all layers but the first ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertShape {
    /// How many, and how many a token uses.
    pub count: Experts,
    /// Columns of each.
    pub ffn: u32,
    /// Columns of all shared experts of a layer together.
    pub shared_ffn: u32,
    /// Layers at the beginning that have a dense feed-forward layer instead.
    pub n_dense_layers: u32,
}

/// A selector of cached tokens beside attention (sparse attention): `[q_rank, n_heads · head_dim]`, `[hidden, head_dim]` and
/// `[hidden, n_heads]`. Its weights count; that it spares reads does not, for no measurement shows it yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexerShape {
    /// Its heads.
    pub n_heads: u32,
    /// Width of each.
    pub head_dim: u32,
}

/// Number formats by kind of weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Formats {
    /// Attention, dense feed-forward layers and shared experts.
    pub dense: Format,
    /// Routed experts.
    pub experts: Format,
    /// What chooses among experts.
    pub gate: Format,
    /// Embedding and output head.
    pub vocab: Format,
}

impl Formats {
    /// One format for everything.
    pub fn all(format: Format) -> Formats {
        Formats { dense: format, experts: format, gate: format, vocab: format }
    }
}

/// The numbers of a configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Layers.
    pub n_layers: u32,
    /// Width of the hidden state.
    pub hidden: u32,
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads.
    pub n_kv_heads: u32,
    /// How it attends.
    pub attention: AttentionShape,
    /// A selector beside attention.
    pub indexer: Option<IndexerShape>,
    /// Columns of a dense feed-forward layer.
    pub ffn: u32,
    /// Routed experts.
    pub experts: Option<ExpertShape>,
    /// Entries of the vocabulary.
    pub vocab: u32,
    /// Whether the embedding is the output head too.
    pub is_tied: bool,
    /// Longest context in tokens.
    pub max_context: u32,
    /// Number formats.
    pub formats: Formats,
}

impl Shape {
    /// The sizes that follow.
    pub fn cost(&self) -> ModelCost {
        let layers: Vec<LayerCost> = (0..self.n_layers).map(|i| self.layer(i)).collect();
        let table = self.formats.vocab.part(product(&[self.vocab, self.hidden]));
        let columns = self.experts.map_or(self.ffn, |e| e.ffn);
        let spec = ModelSpec {
            hidden: self.hidden,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim(),
            ffn: columns,
            vocab: self.vocab,
            max_context: self.max_context,
            head_unit: self.head_unit(),
            ffn_unit: self.formats.experts.group_size.max(self.formats.dense.group_size).min(columns.max(1)),
            layers: ModelCost::layer_bytes(&layers),
            embedding: table.bytes(),
            head: (!self.is_tied).then_some(table.bytes()),
            latent: self.latent(),
        };
        ModelCost {
            spec,
            layers,
            head: table,
            experts: self.experts.map(|e| e.count),
            attention_flops: self.attention_flops(),
            is_runnable: false,
        }
    }

    fn layer(&self, layer: u32) -> LayerCost {
        let f = &self.formats;
        let three = |columns: u32| 3 * product(&[self.hidden, columns]); // gate, up and down
        let (attention, mut replicated) = self.attention_parts();
        replicated += Format::BF16.part(2 * u64::from(self.hidden)); // norms
        let routed = self.experts.filter(|e| layer >= e.n_dense_layers);
        let Some(e) = routed else {
            return LayerCost {
                attention,
                ffn: f.dense.part(three(self.ffn)),
                experts: Part::default(),
                replicated,
            };
        };
        replicated += f.gate.part(product(&[self.hidden, e.count.n]));
        let experts = f.experts.part(u64::from(e.count.n) * three(e.ffn));
        LayerCost { attention, ffn: f.dense.part(three(e.shared_ffn)), experts, replicated }
    }

    /// Weights of attention that are cut by heads, and those that are not.
    fn attention_parts(&self) -> (Part, Part) {
        let format = self.formats.dense;
        let (hidden, heads, kv_heads) = (self.hidden, self.n_heads, self.n_kv_heads);
        match self.attention {
            AttentionShape::Grouped { head_dim } => {
                let n = 2 * product(&[hidden, heads, head_dim]) + 2 * product(&[hidden, kv_heads, head_dim]);
                (format.part(n), Part::default())
            }
            AttentionShape::Latent { q_rank, kv_rank, nope_dim, rope_dim, v_dim } => {
                let cut = product(&[q_rank, heads, nope_dim + rope_dim])
                    + product(&[kv_rank, heads, nope_dim + v_dim])
                    + product(&[heads, v_dim, hidden]);
                let selector = self.indexer.map_or(0, |s| {
                    product(&[q_rank, s.n_heads, s.head_dim]) + product(&[hidden, s.head_dim + s.n_heads])
                });
                let whole = product(&[hidden, q_rank]) + product(&[hidden, kv_rank + rope_dim]) + selector;
                (format.part(cut), format.part(whole))
            }
        }
    }

    fn head_dim(&self) -> u32 {
        match self.attention {
            AttentionShape::Grouped { head_dim } => head_dim,
            AttentionShape::Latent { v_dim, .. } => v_dim,
        }
    }

    /// The fewest KV heads whose query heads end between groups of the output projection.
    fn head_unit(&self) -> u32 {
        let width = self.n_heads / self.n_kv_heads.max(1) * self.head_dim();
        let fits = |unit: &u32| (unit * width).is_multiple_of(self.formats.dense.group_size);
        (1..=self.n_kv_heads).find(fits).unwrap_or(self.n_kv_heads.max(1))
    }

    fn latent(&self) -> Option<u32> {
        match self.attention {
            AttentionShape::Grouped { .. } => None,
            AttentionShape::Latent { kv_rank, rope_dim, .. } => Some(kv_rank + rope_dim),
        }
    }

    /// Multiply and add for a score and for a value, over all heads.
    fn attention_flops(&self) -> f64 {
        let width = match self.attention {
            AttentionShape::Grouped { head_dim } => 2 * head_dim,
            AttentionShape::Latent { nope_dim, rope_dim, v_dim, .. } => nope_dim + rope_dim + v_dim,
        };
        2.0 * f64::from(self.n_heads) * f64::from(width)
    }
}

fn product(sides: &[u32]) -> u64 {
    sides.iter().map(|&side| u64::from(side)).product()
}
