//! Bytes that a layout puts on every machine: weights, KV cache for the asked context, activations. It knows no speeds.

use base::{Bytes, Shard};

use super::{Engine, Layout, Load, StageLayout};
use crate::sizes::{StageBytes, part};
use crate::{BLOCK_LEN_TOKENS, Cluster, ModelCost};

/// Bytes of an activation.
const ACTIVATION_VALUE_BYTES: u64 = 4;

/// What one machine holds of a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberMemory {
    /// Index of the machine.
    pub machine: usize,
    /// Weights.
    pub weights: Bytes,
    /// KV cache of all sequences.
    pub kv: Bytes,
    /// What a step needs while it runs.
    pub activations: Bytes,
    /// What it may fill.
    pub memory: Bytes,
}

impl MemberMemory {
    /// All it needs.
    pub fn needed(&self) -> Bytes {
        self.weights + self.kv + self.activations
    }

    /// What is left; `None` if it does not fit.
    pub fn headroom(&self) -> Option<Bytes> {
        self.memory.0.checked_sub(self.needed().0).map(Bytes)
    }
}

/// Bytes a step of `n_rows` tokens needs on one rank: hidden states and their norms, queries, keys and values, two runs of FFN
/// columns for each expert that computes, and a row of logits for each sequence. An upper bound by the largest buffers.
pub fn activation_bytes(model: &ModelCost, n_rows: u32, n_sequences: u32) -> Bytes {
    let spec = &model.spec;
    let wide = |n: u32| u64::from(n);
    let n_active = model.experts.map_or(1, |e| wide(e.n_active) + 1);
    let heads = 3 * wide(spec.n_heads) * wide(spec.head_dim);
    let row = 4 * wide(spec.hidden) + heads + 2 * wide(spec.ffn) * n_active;
    let logits = wide(n_sequences) * wide(spec.vocab);
    Bytes((wide(n_rows) * row + logits) * ACTIVATION_VALUE_BYTES)
}

/// What each member of each stage holds, in the order of ranks.
pub(crate) fn memory(
    cluster: &Cluster,
    model: &ModelCost,
    engine: Engine,
    load: Load,
    layout: &Layout,
) -> Vec<MemberMemory> {
    let activations = activation_bytes(model, engine.chunk_rows, load.n_sequences);
    let n_stages = layout.stages.len();
    let mut all = Vec::new();
    for (i, stage) in layout.stages.iter().enumerate() {
        for member in &stage.members {
            let weights = stage_weights(model, engine, stage, &member.shard, i == 0, i + 1 == n_stages);
            let kv = Bytes(kv_per_layer(model, &member.shard, load).0 * stage.layers.len() as u64);
            let memory = cluster.machines[member.machine].node.memory;
            all.push(MemberMemory { machine: member.machine, weights, kv, activations, memory });
        }
    }
    all
}

fn stage_weights(
    model: &ModelCost,
    engine: Engine,
    stage: &StageLayout,
    shard: &Shard,
    embeds: bool,
    heads: bool,
) -> Bytes {
    let spec = &model.spec;
    let all_rows = Shard { vocab: 0..spec.vocab, ..shard.clone() };
    let held = if engine.replicates_vocabulary { &all_rows } else { shard };
    StageBytes::of(spec, stage.layers.clone(), embeds, heads).of_shard(spec, held)
}

/// Cache of one layer on one rank, in whole blocks.
pub(crate) fn kv_per_layer(model: &ModelCost, shard: &Shard, load: Load) -> Bytes {
    let n_blocks = u64::from(load.context_len.div_ceil(BLOCK_LEN_TOKENS)) * u64::from(load.n_sequences);
    let n_tokens = n_blocks * u64::from(BLOCK_LEN_TOKENS);
    let all = Bytes(model.kv_bytes_per_layer().0.saturating_mul(n_tokens));
    match model.spec.latent {
        None => part(all, &shard.kv_heads, model.spec.n_kv_heads),
        Some(_) => all,
    }
}
