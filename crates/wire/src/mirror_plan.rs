//! The wire's picture of a plan. What arrives is a plan only after `Plan::new` has checked it here again.

use std::ops::Range;

use base::{Bytes, LayerBytes, ModelSpec, NodeId, RankId, Shard};
use plan::{BackendKind, Collectives, Fence, Node, Plan, PlanParts, RankPlan, Topology};
use serde::{Deserialize, Serialize};

use crate::WireError;

#[derive(Serialize, Deserialize)]
pub(crate) struct PlanWire {
    model: ModelWire,
    nodes: Vec<NodeWire>,
    ranks: Vec<RankWire>,
    context_len: u32,
    n_blocks: u32,
    collectives: CollectivesWire,
    fence: FenceWire,
}

#[derive(Serialize, Deserialize)]
enum BackendWire {
    Cpu,
    Mlx,
}

#[derive(Serialize, Deserialize)]
enum CollectivesWire {
    Onefold,
    MlxRing,
    MlxJaccl,
}

#[derive(Serialize, Deserialize)]
enum FenceWire {
    Safe,
    Fast,
}

#[derive(Serialize, Deserialize)]
struct ModelWire {
    hidden: u32,
    n_heads: u32,
    n_kv_heads: u32,
    head_dim: u32,
    ffn: u32,
    vocab: u32,
    max_context: u32,
    head_unit: u32,
    ffn_unit: u32,
    layers: Vec<LayerWire>,
    embedding: u64,
    head: Option<u64>,
    latent: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct LayerWire {
    attention: u64,
    ffn: u64,
    replicated: u64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct NodeWire {
    id: u32,
    name: String,
    memory: u64,
    n_cores: u32,
    backends: Vec<BackendWire>,
    is_mac: bool,
}

#[derive(Serialize, Deserialize)]
struct RankWire {
    rank: u32,
    node: u32,
    stage: u32,
    tp_index: u32,
    layers: Range<u32>,
    kv_heads: Range<u32>,
    ffn: Range<u32>,
    vocab: Range<u32>,
    cores: Vec<u32>,
    backend: BackendWire,
    embeds: bool,
    heads: bool,
    weights: u64,
    kv: u64,
}

impl From<&Plan> for PlanWire {
    fn from(plan: &Plan) -> PlanWire {
        let PlanParts { model, topology, ranks, context_len, n_blocks, collectives, fence } = plan.parts();
        PlanWire {
            model: model.into(),
            nodes: topology.nodes.iter().map(NodeWire::from).collect(),
            ranks: ranks.iter().map(RankWire::from).collect(),
            context_len: *context_len,
            n_blocks: *n_blocks,
            collectives: (*collectives).into(),
            fence: (*fence).into(),
        }
    }
}

impl TryFrom<PlanWire> for Plan {
    type Error = WireError;

    fn try_from(plan: PlanWire) -> Result<Plan, WireError> {
        let parts = PlanParts {
            model: plan.model.into(),
            topology: Topology { nodes: plan.nodes.into_iter().map(Node::from).collect() },
            ranks: plan.ranks.into_iter().map(RankPlan::from).collect(),
            context_len: plan.context_len,
            n_blocks: plan.n_blocks,
            collectives: plan.collectives.into(),
            fence: plan.fence.into(),
        };
        Ok(Plan::new(parts)?)
    }
}

impl From<&ModelSpec> for ModelWire {
    fn from(model: &ModelSpec) -> ModelWire {
        let layer = |layer: &LayerBytes| LayerWire {
            attention: layer.attention.0,
            ffn: layer.ffn.0,
            replicated: layer.replicated.0,
        };
        ModelWire {
            hidden: model.hidden,
            n_heads: model.n_heads,
            n_kv_heads: model.n_kv_heads,
            head_dim: model.head_dim,
            ffn: model.ffn,
            vocab: model.vocab,
            max_context: model.max_context,
            head_unit: model.head_unit,
            ffn_unit: model.ffn_unit,
            layers: model.layers.iter().map(layer).collect(),
            embedding: model.embedding.0,
            head: model.head.map(|head| head.0),
            latent: model.latent,
        }
    }
}

impl From<ModelWire> for ModelSpec {
    fn from(model: ModelWire) -> ModelSpec {
        let layer = |layer: LayerWire| LayerBytes {
            attention: Bytes(layer.attention),
            ffn: Bytes(layer.ffn),
            replicated: Bytes(layer.replicated),
        };
        ModelSpec {
            hidden: model.hidden,
            n_heads: model.n_heads,
            n_kv_heads: model.n_kv_heads,
            head_dim: model.head_dim,
            ffn: model.ffn,
            vocab: model.vocab,
            max_context: model.max_context,
            head_unit: model.head_unit,
            ffn_unit: model.ffn_unit,
            layers: model.layers.into_iter().map(layer).collect(),
            embedding: Bytes(model.embedding),
            head: model.head.map(Bytes),
            latent: model.latent,
        }
    }
}

impl From<&Node> for NodeWire {
    fn from(node: &Node) -> NodeWire {
        let Node { id, name, memory, n_cores, backends, is_mac } = node;
        let backends = backends.iter().map(|kind| (*kind).into()).collect();
        NodeWire {
            id: id.0,
            name: name.clone(),
            memory: memory.0,
            n_cores: *n_cores,
            backends,
            is_mac: *is_mac,
        }
    }
}

impl From<NodeWire> for Node {
    fn from(node: NodeWire) -> Node {
        let NodeWire { id, name, memory, n_cores, backends, is_mac } = node;
        let backends = backends.into_iter().map(BackendKind::from).collect();
        Node { id: NodeId(id), name, memory: Bytes(memory), n_cores, backends, is_mac }
    }
}

/// Both directions of an enum whose variants have the same names on the wire.
macro_rules! same_variants {
    ($real:ident, $mirror:ident { $($variant:ident),* }) => {
        impl From<$real> for $mirror {
            fn from(real: $real) -> $mirror {
                match real { $($real::$variant => $mirror::$variant),* }
            }
        }

        impl From<$mirror> for $real {
            fn from(mirror: $mirror) -> $real {
                match mirror { $($mirror::$variant => $real::$variant),* }
            }
        }
    };
}

same_variants!(BackendKind, BackendWire { Cpu, Mlx });
same_variants!(Collectives, CollectivesWire { Onefold, MlxRing, MlxJaccl });
same_variants!(Fence, FenceWire { Safe, Fast });

impl From<&RankPlan> for RankWire {
    fn from(rank: &RankPlan) -> RankWire {
        RankWire {
            rank: rank.rank.0,
            node: rank.node.0,
            stage: rank.stage,
            tp_index: rank.tp_index,
            layers: rank.layers.clone(),
            kv_heads: rank.shard.kv_heads.clone(),
            ffn: rank.shard.ffn.clone(),
            vocab: rank.shard.vocab.clone(),
            cores: rank.cores.clone(),
            backend: rank.backend.into(),
            embeds: rank.embeds,
            heads: rank.heads,
            weights: rank.weights.0,
            kv: rank.kv.0,
        }
    }
}

impl From<RankWire> for RankPlan {
    fn from(rank: RankWire) -> RankPlan {
        RankPlan {
            rank: RankId(rank.rank),
            node: NodeId(rank.node),
            stage: rank.stage,
            tp_index: rank.tp_index,
            layers: rank.layers,
            shard: Shard { kv_heads: rank.kv_heads, ffn: rank.ffn, vocab: rank.vocab },
            cores: rank.cores,
            backend: rank.backend.into(),
            embeds: rank.embeds,
            heads: rank.heads,
            weights: Bytes(rank.weights),
            kv: Bytes(rank.kv),
        }
    }
}
