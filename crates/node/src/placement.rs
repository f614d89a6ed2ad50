//! From what a person asked for to a goal the planner understands, and from machines to a topology.

use std::path::PathBuf;

use base::{Bytes, ModelSpec, NodeId};
use hw::Machine;
use plan::{BackendKind, Collectives, Fence, Goal, Node};

use crate::rank::offered;

/// Longest context that is set up unless asked for, in tokens: long contexts cost memory that most do not need.
pub const DEFAULT_CONTEXT_TOKENS: u32 = 8192;

/// How a person wants a model shared out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Ranks that share every layer.
    pub tp: u32,
    /// Stages that share out the layers.
    pub pp: u32,
    /// Weights of the ranks of a tensor group.
    pub split: Option<Vec<u32>>,
    /// Weights of the stages.
    pub stage_split: Option<Vec<u32>>,
    /// Threads of each rank; all cores shared out when absent.
    pub threads: Option<u32>,
    /// Longest sequence in tokens.
    pub context: Option<u32>,
    /// Tokens of the KV cache over all sequences.
    pub n_kv_tokens: Option<u32>,
    /// What ranks compute with, one for all or one each; what their nodes prefer when absent.
    pub backends: Option<Vec<BackendKind>>,
    /// Who sums inside a layer.
    pub collectives: Option<Collectives>,
    /// How collectives wait for a GPU.
    pub fence: Fence,
    /// File that says which RDMA device leads from which rank to which: JSON, one list for each rank.
    pub jaccl_devices: Option<PathBuf>,
}

impl Placement {
    /// Ranks of the whole replica.
    pub fn world_size(&self) -> u32 {
        self.tp.saturating_mul(self.pp)
    }

    /// The goal over `nodes`, the last `n_remote` of which hold one rank each.
    pub(crate) fn goal(&self, model: &ModelSpec, nodes: &[Node], n_remote: u32) -> Goal {
        let n_local = self.world_size().saturating_sub(n_remote);
        let cores = nodes.first().map_or(1, |node| node.n_cores);
        Goal {
            tp: self.tp,
            pp: self.pp,
            split: self.split.clone(),
            stage_split: self.stage_split.clone(),
            context_len: self.context.unwrap_or(model.max_context.min(DEFAULT_CONTEXT_TOKENS)),
            n_kv_tokens: self.n_kv_tokens,
            threads_per_rank: self.threads.unwrap_or((cores / n_local.max(1)).max(1)),
            ranks_per_node: Some(
                std::iter::once(n_local).chain(std::iter::repeat_n(1, n_remote as usize)).collect(),
            ),
            backends: self.backends.clone(),
            collectives: self.collectives,
            has_jaccl_devices: self.jaccl_devices.is_some(),
            fence: self.fence,
        }
    }
}

/// This machine as the planner sees it.
pub(crate) fn this_node(id: NodeId, machine: &Machine) -> Node {
    Node {
        id,
        name: machine.name.clone().unwrap_or_else(|| "this machine".to_owned()),
        // a system that does not say how much memory it has is taken at its word when it runs out
        memory: machine.available_memory.unwrap_or(Bytes(u64::MAX)),
        n_cores: machine.n_cores(),
        backends: offered(),
        is_mac: cfg!(target_os = "macos"),
    }
}
