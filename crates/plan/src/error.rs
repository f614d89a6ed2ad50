//! Why there is no plan, in words for the person who asked for it. It knows no numbers but those it is given.

use base::{Bytes, RankId};
use thiserror::Error;

use crate::{BackendKind, Collectives};

/// Why a goal has no plan, or why parts are not a plan.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// The topology is empty.
    #[error("the topology has no node: expected at least 1")]
    NoNodes,
    /// A count of the goal is zero.
    #[error("{what} is 0: expected at least 1\nhint: leave it out for the default")]
    ZeroGoal {
        /// Which count.
        what: &'static str,
    },
    /// A count of the model is zero.
    #[error("the model's {what} is 0: expected at least 1")]
    ZeroModel {
        /// Which count.
        what: &'static str,
    },
    /// More layers than any model has.
    #[error("the model has {n_layers} layers: expected {} at most", crate::MAX_LAYERS)]
    TooManyLayers {
        /// Layers it claims.
        n_layers: usize,
    },
    /// More ranks than things to share out.
    #[error(
        "tensor parallel × {tp}: {n_units} {units} cannot be shared out over {tp} ranks\n\
         hint: use --tp {n_units} or less; --pp spreads the model over more ranks"
    )]
    TooManyRanks {
        /// Ranks asked for.
        tp: u32,
        /// Things to share out.
        n_units: u32,
        /// What they are.
        units: &'static str,
    },
    /// More stages than layers.
    #[error(
        "pipeline parallel × {pp}: {n_layers} layers cannot be shared out over {pp} stages\n\
         hint: use --pp {n_layers} or less"
    )]
    TooManyStages {
        /// Stages asked for.
        pp: u32,
        /// Layers there are.
        n_layers: u32,
    },
    /// Weights and what they are for differ in number.
    #[error(
        "{option} has {found} weights: expected {expected}, one for each {what}\n\
         hint: write {expected} numbers with commas between them"
    )]
    SplitLength {
        /// The option that carries the weights.
        option: &'static str,
        /// What a weight is for.
        what: &'static str,
        /// How many there should be.
        expected: u32,
        /// How many there are.
        found: usize,
    },
    /// Ranks per node that are not those of the plan.
    #[error(
        "ranks per node: expected {n_nodes} counts of at least 1 that add up to {n_ranks}, found {n_counts} that add \
         up to {found}"
    )]
    RanksPerNode {
        /// Nodes of the topology.
        n_nodes: usize,
        /// Counts given.
        n_counts: usize,
        /// Ranks of the plan.
        n_ranks: u32,
        /// Sum of the counts.
        found: u32,
    },
    /// A weight of zero.
    #[error("{option}: weight {position} is 0, expected at least 1\nhint: every {what} needs a share")]
    ZeroWeight {
        /// The option that carries the weights.
        option: &'static str,
        /// What a weight is for.
        what: &'static str,
        /// Which weight, counted from 1.
        position: usize,
    },
    /// A context the model was not made for.
    #[error(
        "a context of {asked} tokens is longer than the model's {longest}\n\
         hint: ask for {longest} tokens or less"
    )]
    ContextTooLong {
        /// Tokens asked for.
        asked: u32,
        /// The model's longest context.
        longest: u32,
    },
    /// A KV cache that cannot hold one sequence.
    #[error(
        "a KV cache of {kv_tokens} tokens cannot hold one sequence of {context_len} tokens\n\
         hint: enlarge the KV cache or shorten the context"
    )]
    KvTooSmall {
        /// Tokens the cache holds.
        kv_tokens: u64,
        /// Longest sequence.
        context_len: u32,
    },
    /// A shard that its node cannot hold.
    #[error(
        "{rank} does not fit on {node}: it needs {needed} ({weights} of weights, {kv} of KV cache), {available} left\n\
         hint: shorten the context, give this rank a smaller share, or use more nodes"
    )]
    DoesNotFit {
        /// The rank.
        rank: RankId,
        /// Its node's name.
        node: String,
        /// Weights and KV cache.
        needed: Bytes,
        /// The weights of it.
        weights: Bytes,
        /// The KV cache of it.
        kv: Bytes,
        /// What the ranks before it left.
        available: Bytes,
    },
    /// Backends that are neither one nor one per rank.
    #[error(
        "--backend names {found} backends: expected 1 for all ranks, or {n_ranks}, one for each\n\
         hint: --backend cpu, for example, is for all"
    )]
    BackendCount {
        /// Ranks of the plan.
        n_ranks: usize,
        /// Backends named.
        found: usize,
    },
    /// A backend that a node does not have.
    #[error("{rank} is to compute with {backend}, but {node} offers: {offers}{}", offer_hint(*.backend))]
    NotOffered {
        /// The rank.
        rank: RankId,
        /// What it is to compute with.
        backend: BackendKind,
        /// Its node's name.
        node: String,
        /// What the node has.
        offers: String,
    },
    /// Ranks of one stage that compute with different backends.
    #[error(
        "stage {stage} mixes backends: expected one, found {} on {} and {} on {}\n\
         hint: name one with --backend; only the stages of a pipeline (--pp) may differ", .a.0, .a.1, .b.0, .b.1
    )]
    MixedBackends {
        /// The stage.
        stage: u32,
        /// A rank of it.
        a: (RankId, BackendKind),
        /// Another one.
        b: (RankId, BackendKind),
    },
    /// Collectives whose conditions do not hold.
    #[error(
        "collectives {collectives} need {expected}, found {found}\nhint: --collectives onefold always works"
    )]
    Collectives {
        /// The collectives.
        collectives: Collectives,
        /// What they need.
        expected: &'static str,
        /// What is not so.
        found: String,
    },
    /// RDMA without devices.
    #[error(
        "collectives {} need to know which RDMA device leads from which rank to which\n\
         hint: --jaccl-devices names a file that says so",
        Collectives::MlxJaccl
    )]
    JacclDevices,
    /// More cables at a machine than it has ports for.
    #[error(
        "{node} has {found} {what}, expected {expected} at most: one port each\n\
         hint: join fewer machines into one mesh, or leave out links; a pipeline needs a link to its neighbours only"
    )]
    Ports {
        /// The machine's name.
        node: String,
        /// What needs ports.
        what: &'static str,
        /// Ports it has.
        expected: u32,
        /// Links there are.
        found: usize,
    },
    /// No layout of a cluster is possible.
    #[error("there is no plan: {why}\nhint: {hint}")]
    NoPlan {
        /// What was expected and found.
        why: String,
        /// What would change it.
        hint: String,
    },
    /// Parts that are not a plan.
    #[error("the plan is not sound: {what}: expected {expected}, found {found}")]
    Unsound {
        /// Which part.
        what: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
}

/// What a person can do where a backend is missing.
fn offer_hint(backend: BackendKind) -> &'static str {
    match backend {
        BackendKind::Mlx => {
            "\nhint: build onefold there with MLX: MLX_DIR=… cargo build --release -p cli --features mlx"
        }
        BackendKind::Cpu => "",
    }
}
