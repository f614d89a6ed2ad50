//! From a goal to the parts of a plan: layers over stages, heads, columns and rows over ranks, ranks over nodes,
//! memory over KV blocks. What it makes is checked like any other parts.

use std::ops::Range;

use base::{Bytes, ModelSpec, RankId, Shard};

use crate::backend::{choose_backends, choose_collectives};
use crate::check::{check_model, check_nodes};
use crate::cost::{Layout, Load, StageLayout};
use crate::sizes::{StageBytes, head_bytes, kv_bytes};
use crate::split::{apportion, cut_layers, runs};
use crate::{
    BLOCK_LEN_TOKENS, BackendKind, Cluster, Collectives, Fence, Goal, Node, PlanError, PlanParts, RankPlan,
    Topology, VOCAB_UNIT_ROWS,
};

/// Sequences of full length that the KV cache holds by default, where memory allows.
const DEFAULT_KV_SEQUENCES: u64 = 4;
/// Part of the memory beside the weights that the default KV cache may take beyond one sequence, in percent.
const DEFAULT_KV_MEMORY_PERCENT: u128 = 50;

/// The parts of the best simple plan.
pub(crate) fn make(topology: &Topology, model: &ModelSpec, goal: &Goal) -> Result<PlanParts, PlanError> {
    check_model(model)?;
    check_nodes(topology)?;
    check_goal(model, goal)?;
    check_ranks_per_node(topology, goal)?;
    let mut ranks = ranks_of(model, share_out(model, goal)?);
    place(&mut ranks, topology, goal);
    choose_backends(&mut ranks, topology, goal)?;
    let collectives = choose_collectives(&ranks, topology, goal)?;
    let n_blocks = n_blocks(&ranks, topology, model, goal);
    for r in &mut ranks {
        r.kv = kv_bytes(model, &r.layers, &r.shard, n_blocks);
    }
    Ok(PlanParts {
        model: model.clone(),
        topology: topology.clone(),
        ranks,
        context_len: goal.context_len,
        n_blocks,
        collectives,
        fence: goal.fence,
    })
}

fn check_goal(model: &ModelSpec, goal: &Goal) -> Result<(), PlanError> {
    let counts = [
        (goal.tp, "tensor parallel (--tp)"),
        (goal.pp, "pipeline parallel (--pp)"),
        (goal.context_len, "the context length"),
        (goal.threads_per_rank, "the number of threads"),
    ];
    if let Some((_, what)) = counts.iter().find(|(n, _)| *n == 0) {
        return Err(PlanError::ZeroGoal { what });
    }
    if goal.pp > model.n_layers() {
        return Err(PlanError::TooManyStages { pp: goal.pp, n_layers: model.n_layers() });
    }
    let units = [
        (model.n_kv_heads.div_ceil(model.head_unit), "KV head groups"),
        (model.ffn.div_ceil(model.ffn_unit), "groups of FFN columns"),
        (model.vocab.div_ceil(VOCAB_UNIT_ROWS), "groups of vocabulary rows"),
    ];
    if let Some(&(n_units, units)) = units.iter().find(|(n_units, _)| *n_units < goal.tp) {
        return Err(PlanError::TooManyRanks { tp: goal.tp, n_units, units });
    }
    check_weights("--split", "rank of a stage", goal.split.as_deref(), goal.tp)?;
    check_weights("--stage-split", "stage", goal.stage_split.as_deref(), goal.pp)
}

fn check_ranks_per_node(topology: &Topology, goal: &Goal) -> Result<(), PlanError> {
    let Some(counts) = &goal.ranks_per_node else { return Ok(()) };
    let (n_ranks, found) = (goal.tp * goal.pp, counts.iter().sum());
    if counts.len() != topology.nodes.len() || counts.contains(&0) || found != n_ranks {
        let (n_nodes, n_counts) = (topology.nodes.len(), counts.len());
        return Err(PlanError::RanksPerNode { n_nodes, n_counts, n_ranks, found });
    }
    Ok(())
}

fn check_weights(
    option: &'static str,
    what: &'static str,
    weights: Option<&[u32]>,
    expected: u32,
) -> Result<(), PlanError> {
    let Some(weights) = weights else { return Ok(()) };
    if weights.len() != expected as usize {
        return Err(PlanError::SplitLength { option, what, expected, found: weights.len() });
    }
    match weights.iter().position(|&w| w == 0) {
        Some(i) => Err(PlanError::ZeroWeight { option, what, position: i + 1 }),
        None => Ok(()),
    }
}

/// Layers and shards of every stage, as asked for.
type Stages = Vec<(Range<u32>, Vec<Shard>)>;

/// Layers over stages and shards over ranks, by the weights asked for or evenly.
fn share_out(model: &ModelSpec, goal: &Goal) -> Result<Stages, PlanError> {
    let even = vec![1; goal.pp as usize];
    let layers: Vec<u64> = model.layers.iter().map(|l| (l.attention + l.ffn + l.replicated).0).collect();
    let head = head_bytes(model, goal.pp == 1);
    let stages = cut_layers(&layers, model.embedding.0, head.0, goal.stage_split.as_deref().unwrap_or(&even));
    let shards = asked_shards(model, goal)?;
    Ok(stages.into_iter().map(|layers| (layers, shards.clone())).collect())
}

/// The ranks with their layers, shards and weights; nodes, cores, backends and KV bytes follow.
fn ranks_of(model: &ModelSpec, stages: Stages) -> Vec<RankPlan> {
    let n_stages = stages.len();
    let mut ranks = Vec::new();
    for (stage, (layers, shards)) in stages.into_iter().enumerate() {
        let (embeds, heads) = (stage == 0, stage + 1 == n_stages);
        let bytes = StageBytes::of(model, layers.clone(), embeds, heads);
        for (tp_index, shard) in shards.into_iter().enumerate() {
            ranks.push(RankPlan {
                rank: RankId(ranks.len() as u32),
                node: Default::default(),
                stage: stage as u32,
                tp_index: tp_index as u32,
                layers: layers.clone(),
                weights: bytes.of_shard(model, &shard),
                kv: Bytes(0),
                shard,
                cores: Vec::new(),
                backend: BackendKind::Cpu,
                embeds,
                heads,
            });
        }
    }
    ranks
}

/// The parts of the plan that a layout is, one rank on each of its machines.
pub(crate) fn of_layout(
    cluster: &Cluster,
    model: &ModelSpec,
    load: Load,
    layout: &Layout,
) -> Result<PlanParts, PlanError> {
    check_model(model)?;
    let shards = |stage: &StageLayout| stage.members.iter().map(|m| m.shard.clone()).collect();
    let stages = layout.stages.iter().map(|stage| (stage.layers.clone(), shards(stage))).collect();
    let nodes: Vec<Node> = layout.machines().map(|m| cluster.machines[m].node.clone()).collect();
    let topology = Topology { nodes };
    check_nodes(&topology)?;
    let n_blocks = load.context_len.div_ceil(BLOCK_LEN_TOKENS).saturating_mul(load.n_sequences);
    let mut ranks = ranks_of(model, stages);
    for (r, node) in ranks.iter_mut().zip(&topology.nodes) {
        r.node = node.id;
        r.backend = node.backends[0];
        r.kv = kv_bytes(model, &r.layers, &r.shard, n_blocks);
    }
    let (collectives, fence, context_len) = (Collectives::Onefold, Fence::Safe, load.context_len);
    Ok(PlanParts { model: model.clone(), topology, ranks, context_len, n_blocks, collectives, fence })
}

/// The shards of one stage, by the weights asked for or evenly.
fn asked_shards(model: &ModelSpec, goal: &Goal) -> Result<Vec<Shard>, PlanError> {
    match &goal.split {
        Some(split) => shards(model, &split.iter().map(|&w| u64::from(w)).collect::<Vec<_>>()),
        None => shards(model, &vec![1; goal.tp as usize]),
    }
}

/// The shards of one stage by weights, one for each rank. Uneven heads are not made up for with FFN columns: all ranks wait for
/// each other after attention and again after the feed-forward layer, so each has its own slowest rank.
pub fn shards(model: &ModelSpec, weights: &[u64]) -> Result<Vec<Shard>, PlanError> {
    let cut = |n: u32, unit: u32, units: &'static str| {
        let n_units = n.div_ceil(unit);
        let sizes = apportion(u64::from(n_units), weights);
        let sizes = sizes.ok_or(PlanError::TooManyRanks { tp: weights.len() as u32, n_units, units })?;
        Ok(runs(n, unit, &sizes))
    };
    let kv_heads = cut(model.n_kv_heads, model.head_unit, "KV head groups")?;
    let vocab = cut(model.vocab, VOCAB_UNIT_ROWS, "groups of vocabulary rows")?;
    let ffn = cut(model.ffn, model.ffn_unit, "groups of FFN columns")?;
    let shard = |((kv_heads, ffn), vocab)| Shard { kv_heads, ffn, vocab };
    Ok(kv_heads.into_iter().zip(ffn).zip(vocab).map(shard).collect())
}

/// Puts ranks on nodes in contiguous runs, of the lengths asked for or even, and shares out each node's cores.
fn place(ranks: &mut [RankPlan], topology: &Topology, goal: &Goal) {
    let (n_ranks, threads_per_rank) = (ranks.len(), goal.threads_per_rank);
    let n_nodes = topology.nodes.len().min(n_ranks);
    let even = (0..n_ranks).map(|i| i * n_nodes / n_ranks).collect();
    let node_indices: Vec<usize> = goal.ranks_per_node.as_ref().map_or(even, |counts| {
        (0..).zip(counts).flat_map(|(node, &n)| std::iter::repeat_n(node, n as usize)).collect()
    });
    for (r, node) in ranks.iter_mut().zip(node_indices) {
        r.node = topology.nodes[node].id;
    }
    for (run, node) in ranks.chunk_by_mut(|a, b| a.node == b.node).zip(&topology.nodes) {
        let n_cores = threads_per_rank.min(node.n_cores / run.len() as u32);
        for (i, r) in run.iter_mut().enumerate() {
            r.cores = (i as u32 * n_cores..(i as u32 + 1) * n_cores).collect();
        }
    }
}

/// KV blocks as asked for; else for several sequences, or as many as the memory holds, but never fewer than one
/// sequence needs: whether that fits is for the check to say.
fn n_blocks(ranks: &[RankPlan], topology: &Topology, model: &ModelSpec, goal: &Goal) -> u32 {
    if let Some(n_kv_tokens) = goal.n_kv_tokens {
        return n_kv_tokens.div_ceil(BLOCK_LEN_TOKENS);
    }
    let one_sequence = goal.context_len.div_ceil(BLOCK_LEN_TOKENS);
    let room = topology.nodes.iter().filter_map(|node| n_blocks_on(node, ranks, model)).min();
    let wanted = u64::from(one_sequence) * DEFAULT_KV_SEQUENCES;
    let n_blocks = wanted.min(room.unwrap_or(wanted)).max(u64::from(one_sequence));
    u32::try_from(n_blocks).unwrap_or(u32::MAX)
}

/// Blocks that the default share of a node's memory holds; `None` if the node bounds nothing.
fn n_blocks_on(node: &Node, ranks: &[RankPlan], model: &ModelSpec) -> Option<u64> {
    let here = || ranks.iter().filter(|r| r.node == node.id);
    let weights: Bytes = here().map(|r| r.weights).sum();
    let per_block: Bytes = here().map(|r| kv_bytes(model, &r.layers, &r.shard, 1)).sum();
    let free = u128::from(node.memory.0.saturating_sub(weights.0));
    (free * DEFAULT_KV_MEMORY_PERCENT / 100).checked_div(u128::from(per_block.0)).map(|n| n as u64)
}
