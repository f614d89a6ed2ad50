//! The proof that parts are a plan. It trusts nothing in them, for they may come from another machine.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::Range;

use base::{Bytes, ModelSpec, NodeId, RankId};

use crate::backend::{check_backends, check_offers};
use crate::sizes::{StageBytes, kv_bytes};
use crate::{BLOCK_LEN_TOKENS, MAX_LAYERS, Node, PlanError, PlanParts, RankPlan, Topology, VOCAB_UNIT_ROWS};

/// Every promise of `Plan`, one function each.
pub(crate) fn check(parts: &PlanParts) -> Result<(), PlanError> {
    check_model(&parts.model)?;
    check_context(parts)?;
    check_order(&parts.ranks)?;
    check_layers(&parts.ranks, parts.model.n_layers())?;
    check_shards(&parts.ranks, &parts.model)?;
    check_bytes(parts)?;
    check_nodes(&parts.topology)?;
    check_backends(parts)?;
    check_cores(&parts.ranks, &parts.topology)?;
    check_fit(&parts.ranks, &parts.topology)
}

/// No count is zero, so that everything can be divided by it, and query heads can be shared out over KV heads.
pub(crate) fn check_model(model: &ModelSpec) -> Result<(), PlanError> {
    let counts = [
        (model.n_layers(), "number of layers"),
        (model.n_heads, "number of query heads"),
        (model.n_kv_heads, "number of KV heads"),
        (model.ffn, "FFN width"),
        (model.vocab, "vocabulary"),
        (model.head_unit, "unit of KV heads"),
        (model.ffn_unit, "unit of FFN columns"),
    ];
    if let Some((_, what)) = counts.iter().find(|(n, _)| *n == 0) {
        return Err(PlanError::ZeroModel { what });
    }
    if model.layers.len() > MAX_LAYERS {
        return Err(PlanError::TooManyLayers { n_layers: model.layers.len() });
    }
    if !model.n_heads.is_multiple_of(model.n_kv_heads) {
        let expected = format!("a multiple of its {} KV heads", model.n_kv_heads);
        return Err(unsound("query heads of the model", expected, model.n_heads));
    }
    Ok(())
}

fn check_context(parts: &PlanParts) -> Result<(), PlanError> {
    let (context_len, longest) = (parts.context_len, parts.model.max_context);
    let kv_tokens = u64::from(parts.n_blocks) * u64::from(BLOCK_LEN_TOKENS);
    if context_len == 0 {
        return Err(PlanError::ZeroGoal { what: "the context length" });
    }
    if context_len > longest {
        return Err(PlanError::ContextTooLong { asked: context_len, longest });
    }
    if kv_tokens < u64::from(context_len) {
        return Err(PlanError::KvTooSmall { kv_tokens, context_len });
    }
    Ok(())
}

/// Ranks are numbered from 0 in (stage, tp_index) order, and every stage has as many.
fn check_order(ranks: &[RankPlan]) -> Result<(), PlanError> {
    let Some(last) = ranks.last() else {
        return Err(unsound("number of ranks", "at least 1", 0));
    };
    let (n_stages, tp) = (u64::from(last.stage) + 1, u64::from(last.tp_index) + 1);
    expect("number of ranks", n_stages.saturating_mul(tp), ranks.len() as u64)?;
    for (i, r) in ranks.iter().enumerate() {
        let (stage, tp_index) = (i as u64 / tp, i as u64 % tp);
        expect(format!("number of entry {i}"), RankId(i as u32), r.rank)?;
        expect(format!("stage of {}", r.rank), stage, u64::from(r.stage))?;
        expect(format!("tp_index of {}", r.rank), tp_index, u64::from(r.tp_index))?;
        expect(format!("embeds of {}", r.rank), stage == 0, r.embeds)?;
        expect(format!("heads of {}", r.rank), stage + 1 == n_stages, r.heads)?;
    }
    Ok(())
}

/// Every layer is on exactly one stage, and all ranks of a stage name the same layers.
fn check_layers(ranks: &[RankPlan], n_layers: u32) -> Result<(), PlanError> {
    for stage in ranks.chunk_by(|a, b| a.stage == b.stage) {
        for r in stage {
            expect_range(format!("layers of {}", r.rank), &stage[0].layers, &r.layers)?;
        }
    }
    let stages = ranks.iter().filter(|r| r.tp_index == 0).map(|r| (r.rank, &r.layers));
    check_partition("layers", stages, n_layers, 1)
}

/// The shards of every stage are a partition of heads, columns and rows, cut between units.
fn check_shards(ranks: &[RankPlan], model: &ModelSpec) -> Result<(), PlanError> {
    for stage in ranks.chunk_by(|a, b| a.stage == b.stage) {
        let shards = || stage.iter().map(|r| (r.rank, &r.shard));
        let kv_heads = shards().map(|(rank, s)| (rank, &s.kv_heads));
        check_partition("KV heads", kv_heads, model.n_kv_heads, model.head_unit)?;
        check_partition("FFN columns", shards().map(|(rank, s)| (rank, &s.ffn)), model.ffn, model.ffn_unit)?;
        check_partition(
            "vocabulary rows",
            shards().map(|(rank, s)| (rank, &s.vocab)),
            model.vocab,
            VOCAB_UNIT_ROWS,
        )?;
    }
    Ok(())
}

/// The ranges follow each other from 0 to `n`, none empty, all cuts at multiples of `unit`.
fn check_partition<'a>(
    what: &str,
    ranges: impl Iterator<Item = (RankId, &'a Range<u32>)>,
    n: u32,
    unit: u32,
) -> Result<(), PlanError> {
    let mut end = 0;
    for (rank, range) in ranges {
        expect(format!("first of the {what} of {rank}"), end, range.start)?;
        if range.end <= range.start || range.end > n {
            return Err(unsound(
                format!("end of the {what} of {rank}"),
                format!("in {}..={n}", u64::from(range.start) + 1),
                range.end,
            ));
        }
        if range.end != n && !range.end.is_multiple_of(unit) {
            let expected = format!("a multiple of {unit}");
            return Err(unsound(format!("end of the {what} of {rank}"), expected, range.end));
        }
        end = range.end;
    }
    expect(format!("number of {what} over all ranks"), n, end)
}

fn check_bytes(parts: &PlanParts) -> Result<(), PlanError> {
    for r in &parts.ranks {
        let stage = StageBytes::of(&parts.model, r.layers.clone(), r.embeds, r.heads);
        expect(format!("weights of {}", r.rank), stage.of_shard(&parts.model, &r.shard), r.weights)?;
        let kv = kv_bytes(&parts.model, &r.layers, &r.shard, parts.n_blocks);
        expect(format!("KV cache of {}", r.rank), kv, r.kv)?;
    }
    Ok(())
}

pub(crate) fn check_nodes(topology: &Topology) -> Result<(), PlanError> {
    if topology.nodes.is_empty() {
        return Err(PlanError::NoNodes);
    }
    topology.nodes.iter().try_for_each(check_offers)?;
    let mut ids = BTreeSet::new();
    match topology.nodes.iter().find(|n| !ids.insert(n.id)) {
        Some(twice) => Err(unsound("ids of the nodes", "each once", twice.id)),
        None => Ok(()),
    }
}

/// Ranks of one node share no core and name only cores it has.
fn check_cores(ranks: &[RankPlan], topology: &Topology) -> Result<(), PlanError> {
    let mut taken = BTreeSet::new();
    for r in ranks {
        let n_cores = node_of(topology, r.node)?.n_cores;
        for &core in &r.cores {
            if core >= n_cores {
                return Err(unsound(format!("cores of {}", r.rank), format!("below {n_cores}"), core));
            }
            if !taken.insert((r.node, core)) {
                return Err(unsound(format!("cores of {}", r.rank), "cores of its own", core));
            }
        }
    }
    Ok(())
}

/// Weights and KV cache of all ranks of a node fit its memory.
fn check_fit(ranks: &[RankPlan], topology: &Topology) -> Result<(), PlanError> {
    for node in &topology.nodes {
        let mut available = node.memory;
        for r in ranks.iter().filter(|r| r.node == node.id) {
            let needed = r.weights + r.kv;
            let Some(left) = available.0.checked_sub(needed.0) else {
                let (rank, weights, kv, node) = (r.rank, r.weights, r.kv, node.name.clone());
                return Err(PlanError::DoesNotFit { rank, node, needed, weights, kv, available });
            };
            available = Bytes(left);
        }
    }
    Ok(())
}

/// The node with this id.
pub(crate) fn node_of(topology: &Topology, id: NodeId) -> Result<&Node, PlanError> {
    topology
        .nodes
        .iter()
        .find(|n| n.id == id)
        .ok_or_else(|| unsound("node of a rank", "one of the topology", id))
}

fn expect<T: PartialEq + Display>(what: impl Into<String>, expected: T, found: T) -> Result<(), PlanError> {
    if expected == found { Ok(()) } else { Err(unsound(what, expected, found)) }
}

fn expect_range(what: String, expected: &Range<u32>, found: &Range<u32>) -> Result<(), PlanError> {
    if expected == found {
        return Ok(());
    }
    Err(unsound(what, format!("{expected:?}"), format!("{found:?}")))
}

/// A part that is not what it should be.
pub(crate) fn unsound(what: impl Into<String>, expected: impl Display, found: impl Display) -> PlanError {
    PlanError::Unsound { what: what.into(), expected: expected.to_string(), found: found.to_string() }
}
