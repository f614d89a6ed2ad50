//! Who computes what: a topology, a model's sizes and a goal become one checked `Plan`, or an error that says why not.
//! Pure arithmetic: no I/O, no clock, no architecture names. A rank reads its entry and derives nothing itself.

mod backend;
mod check;
mod cluster;
pub mod cost;
mod error;
pub mod fitted;
mod make;
mod model;
pub mod search;
pub mod shape;
mod sizes;
mod split;

use std::ops::Range;

use base::{Bytes, ModelSpec, NodeId, RankId, Shard};

pub use backend::{BackendKind, Collectives, Fence};
pub use cluster::{Cluster, LinkKind, Links, MAX_LINK_KINDS, MAX_MACHINES, Machine, PrefillRates};
pub use error::PlanError;
pub use make::shards;
pub use model::{Experts, KV_VALUE_BYTES, LayerCost, LayerKind, ModelCost, Part};

/// Tokens per KV block.
pub const BLOCK_LEN_TOKENS: u32 = 16;
/// Vocabulary rows that stay together; the last shard takes the rest.
pub const VOCAB_UNIT_ROWS: u32 = 16;
/// Layers of a model at most; the deepest known ones have less than 130.
pub const MAX_LAYERS: usize = 1024;

/// The machines a plan may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// In the order in which ranks are placed.
    pub nodes: Vec<Node>,
}

/// One machine as the planner sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its id, unique in the topology.
    pub id: NodeId,
    /// What people call it.
    pub name: String,
    /// Memory that weights and KV cache may fill.
    pub memory: Bytes,
    /// Cores that may be used.
    pub n_cores: u32,
    /// What it can compute with, preferred first.
    pub backends: Vec<BackendKind>,
    /// Whether it is a Mac, which some collectives need.
    pub is_mac: bool,
}

/// How a model is to be shared out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goal {
    /// Ranks that share each layer.
    pub tp: u32,
    /// Stages that share out the layers.
    pub pp: u32,
    /// One weight per rank of each stage's tensor group; `None` is even.
    pub split: Option<Vec<u32>>,
    /// One weight per stage; `None` is even.
    pub stage_split: Option<Vec<u32>>,
    /// Longest sequence, in tokens.
    pub context_len: u32,
    /// Tokens the KV cache holds over all sequences; `None` takes a default that fits the memory.
    pub n_kv_tokens: Option<u32>,
    /// Threads each rank computes with, as far as the node has cores.
    pub threads_per_rank: u32,
    /// Ranks on each node of the topology, in its order; `None` is even.
    pub ranks_per_node: Option<Vec<u32>>,
    /// What the ranks compute with: one for all, or one each; `None` takes what their nodes prefer.
    pub backends: Option<Vec<BackendKind>>,
    /// Who sums inside a layer; `None` takes MLX's own collectives where they are proven, else ours.
    pub collectives: Option<Collectives>,
    /// Whether it is known which RDMA device leads from which rank to which.
    pub has_jaccl_devices: bool,
    /// How collectives wait for a GPU.
    pub fence: Fence,
}

/// One rank's entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankPlan {
    /// Its number: ranks count from 0 through stage 0's tensor group, then stage 1's, and so on.
    pub rank: RankId,
    /// Where it runs.
    pub node: NodeId,
    /// Its stage.
    pub stage: u32,
    /// Its place in the stage's tensor group.
    pub tp_index: u32,
    /// The stage's layers.
    pub layers: Range<u32>,
    /// Its slice of each of these layers.
    pub shard: Shard,
    /// One thread for each of these, numbered among the node's usable cores. Empty: one thread that is not pinned.
    pub cores: Vec<u32>,
    /// What it computes with: the same on every rank of the stage.
    pub backend: BackendKind,
    /// Whether it holds its vocabulary rows of the embedding (first stage).
    pub embeds: bool,
    /// Whether it holds its vocabulary rows of the output head (last stage).
    pub heads: bool,
    /// Bytes of its weights.
    pub weights: Bytes,
    /// Bytes of its KV cache.
    pub kv: Bytes,
}

/// A plan's plain parts, as they are made or arrive from elsewhere; `Plan::new` checks them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanParts {
    /// The model's sizes; a rank compares them with those of the checkpoint it opens.
    pub model: ModelSpec,
    /// The machines.
    pub topology: Topology,
    /// One entry per rank, in the order of their numbers.
    pub ranks: Vec<RankPlan>,
    /// Longest sequence, in tokens.
    pub context_len: u32,
    /// KV blocks on every rank.
    pub n_blocks: u32,
    /// Who sums inside a layer.
    pub collectives: Collectives,
    /// How collectives wait for a GPU.
    pub fence: Fence,
}

/// Who computes what. A value of this type has passed every check of `Plan::new`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    parts: PlanParts,
}

impl Plan {
    /// The best simple plan for a goal.
    pub fn make(topology: &Topology, model: &ModelSpec, goal: &Goal) -> Result<Plan, PlanError> {
        Plan::new(make::make(topology, model, goal)?)
    }

    /// The plan that a searched layout is, one rank on each of its machines, with a cache for the load. Its sizes must be those of a
    /// model with heads' keys and values, which is all that ranks run.
    pub fn of_layout(
        cluster: &Cluster,
        model: &ModelSpec,
        load: cost::Load,
        layout: &cost::Layout,
    ) -> Result<Plan, PlanError> {
        Plan::new(make::of_layout(cluster, model, load, layout)?)
    }

    /// Checks that every layer is on exactly one stage, that the shards of every stage are whole, that byte counts
    /// are right and fit the nodes, that ranks are numbered in (stage, tp_index) order, and that the nodes can run the
    /// backends and collectives.
    pub fn new(parts: PlanParts) -> Result<Plan, PlanError> {
        check::check(&parts)?;
        Ok(Plan { parts })
    }

    /// The plain parts, to be sent elsewhere.
    pub fn parts(&self) -> &PlanParts {
        &self.parts
    }

    /// The model's sizes.
    pub fn model(&self) -> &ModelSpec {
        &self.parts.model
    }

    /// One entry per rank, in the order of their numbers; never empty.
    pub fn ranks(&self) -> &[RankPlan] {
        &self.parts.ranks
    }

    /// The entry of one rank; `None` if the plan has no such rank.
    pub fn rank(&self, rank: RankId) -> Option<&RankPlan> {
        self.ranks().get(rank.index())
    }

    /// The node a rank runs on; `None` if the plan has no such rank.
    pub fn node_of(&self, rank: RankId) -> Option<&Node> {
        let id = self.rank(rank)?.node;
        self.parts.topology.nodes.iter().find(|n| n.id == id)
    }

    /// Number of ranks.
    pub fn world_size(&self) -> u32 {
        self.ranks().len() as u32
    }

    /// Number of stages.
    pub fn n_stages(&self) -> u32 {
        self.ranks().last().map_or(0, |r| r.stage + 1)
    }

    /// Ranks of each stage.
    pub fn tp_size(&self) -> u32 {
        self.ranks().last().map_or(0, |r| r.tp_index + 1)
    }

    /// The ranks of one stage, in order; empty if there is no such stage.
    pub fn stage_ranks(&self, stage: u32) -> Vec<RankId> {
        self.ranks().iter().filter(|r| r.stage == stage).map(|r| r.rank).collect()
    }

    /// The rank that samples: the first of the last stage.
    pub fn sampling_rank(&self) -> RankId {
        RankId(self.world_size() - self.tp_size())
    }

    /// What differs from the goal without making it impossible, one sentence each, for a person to read.
    pub fn notes(&self, goal: &Goal) -> Vec<String> {
        let short = |r: &&RankPlan| (r.cores.len() as u32) < goal.threads_per_rank;
        let note = |r: &RankPlan| {
            let (rank, asked, n_cores) = (r.rank, goal.threads_per_rank, r.cores.len());
            format!("{rank} was to have {asked} of its node's cores for its own, its share is {n_cores}")
        };
        let mut notes: Vec<String> = self.ranks().iter().filter(short).map(note).collect();
        if self.fence() == Fence::Fast && !self.ranks().iter().any(|r| r.backend == BackendKind::Mlx) {
            notes.push("the fast fence changes nothing: no rank computes with mlx".to_owned());
        }
        notes
    }

    /// Tokens per KV block.
    pub fn block_len(&self) -> u32 {
        BLOCK_LEN_TOKENS
    }

    /// KV blocks on every rank; together they hold at least one sequence of `context_len` tokens.
    pub fn n_blocks(&self) -> u32 {
        self.parts.n_blocks
    }

    /// Longest sequence, in tokens.
    pub fn context_len(&self) -> u32 {
        self.parts.context_len
    }

    /// Who sums inside a layer.
    pub fn collectives(&self) -> Collectives {
        self.parts.collectives
    }

    /// How collectives wait for a GPU.
    pub fn fence(&self) -> Fence {
        self.parts.fence
    }
}
