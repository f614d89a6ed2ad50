//! What a layout costs on a cluster: seconds of a step, bytes on every machine, watts. One function for each term, in
//! seconds and bytes; the parameters are data (`fitted`, and the cluster's figures). It chooses nothing.

mod group;
mod memory;
mod power;
mod predict;

use std::ops::{Add, AddAssign, Range};

use base::Shard;

pub(crate) use group::{Group, Rank, hop_s};
pub(crate) use memory::kv_per_layer;
pub use memory::{MemberMemory, activation_bytes};
pub use predict::{Prediction, Speed, predict};

/// Who holds what: stages in order, each with its layers and members.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// At least one.
    pub stages: Vec<StageLayout>,
}

/// One stage.
#[derive(Clone, Debug, PartialEq)]
pub struct StageLayout {
    /// Its layers.
    pub layers: Range<u32>,
    /// Who shares them, in the order of ranks.
    pub members: Vec<Member>,
}

/// One machine's share of a stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Index of the machine in the cluster.
    pub machine: usize,
    /// Its slice of every layer.
    pub shard: Shard,
}

impl Layout {
    /// Ranks of each stage.
    pub fn tp(&self) -> usize {
        self.stages.first().map_or(0, |s| s.members.len())
    }

    /// Stages.
    pub fn pp(&self) -> usize {
        self.stages.len()
    }

    /// Indices of its machines, in the order of ranks.
    pub fn machines(&self) -> impl Iterator<Item = usize> {
        self.stages.iter().flat_map(|s| &s.members).map(|m| m.machine)
    }
}

/// How an engine goes about a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Engine {
    /// Whether every rank holds and computes the whole output head and embedding.
    pub replicates_vocabulary: bool,
    /// Tokens of a prompt that one step computes.
    pub chunk_rows: u32,
}

/// This program's engine: vocabulary shared out, stages one after the other.
pub const ONEFOLD: Engine = Engine { replicates_vocabulary: false, chunk_rows: 512 };

/// What is asked of a replica at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Tokens of each sequence in the cache.
    pub context_len: u32,
    /// Sequences at once.
    pub n_sequences: u32,
}

/// One forward pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Step {
    /// Tokens computed.
    pub(crate) n_rows: f64,
    /// Cached tokens read, over all sequences.
    pub(crate) n_cached: f64,
    /// Cached tokens that each row attends to, where attention is bound by arithmetic (prefill).
    pub(crate) n_attended: f64,
}

impl Step {
    /// One token for each sequence.
    pub(crate) fn decode(load: Load) -> Step {
        let n_rows = f64::from(load.n_sequences);
        Step { n_rows, n_cached: n_rows * f64::from(load.context_len), n_attended: 0.0 }
    }

    /// The average chunk of a prompt.
    pub(crate) fn prefill(n_prompt: u32, chunk_rows: u32) -> Step {
        let mean = f64::from(n_prompt) / 2.0;
        Step { n_rows: f64::from(n_prompt.min(chunk_rows)), n_cached: mean, n_attended: mean }
    }
}

/// Where the seconds of a step go.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Breakdown {
    /// Reading weights.
    pub weights_s: f64,
    /// Reading the cache.
    pub kv_s: f64,
    /// Arithmetic beyond what hides behind reading.
    pub compute_s: f64,
    /// Launches and the like, for each layer.
    pub fixed_s: f64,
    /// Sums over the ranks of a stage.
    pub communication_s: f64,
    /// From stage to stage.
    pub hops_s: f64,
}

impl Breakdown {
    /// All of it.
    pub fn total_s(&self) -> f64 {
        self.weights_s + self.kv_s + self.compute_s + self.fixed_s + self.communication_s + self.hops_s
    }

    /// The terms with their names, as people read them.
    pub fn terms(&self) -> [(&'static str, f64); 6] {
        [
            ("weights", self.weights_s),
            ("KV cache", self.kv_s),
            ("arithmetic", self.compute_s),
            ("fixed per layer", self.fixed_s),
            ("communication", self.communication_s),
            ("between stages", self.hops_s),
        ]
    }

    pub(crate) fn times(self, n: f64) -> Breakdown {
        Breakdown {
            weights_s: self.weights_s * n,
            kv_s: self.kv_s * n,
            compute_s: self.compute_s * n,
            fixed_s: self.fixed_s * n,
            communication_s: self.communication_s * n,
            hops_s: self.hops_s * n,
        }
    }
}

impl Add for Breakdown {
    type Output = Breakdown;
    fn add(self, o: Breakdown) -> Breakdown {
        Breakdown {
            weights_s: self.weights_s + o.weights_s,
            kv_s: self.kv_s + o.kv_s,
            compute_s: self.compute_s + o.compute_s,
            fixed_s: self.fixed_s + o.fixed_s,
            communication_s: self.communication_s + o.communication_s,
            hops_s: self.hops_s + o.hops_s,
        }
    }
}

impl AddAssign for Breakdown {
    fn add_assign(&mut self, other: Breakdown) {
        *self = *self + other;
    }
}
