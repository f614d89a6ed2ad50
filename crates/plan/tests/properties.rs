//! Whatever the model and the goal: a made plan passes the check, its bytes add up to the model's, and a plan that
//! was tampered with is refused.

use base::{Bytes, LayerBytes, ModelSpec, NodeId, RankId};
use plan::{BackendKind, Collectives, Fence, Goal, Node, Plan, PlanError, PlanParts, Topology};
use proptest::prelude::*;

fn any_layer() -> impl Strategy<Value = LayerBytes> {
    (1u64..1 << 40, 1u64..1 << 40, 0u64..1 << 20).prop_map(|(attention, ffn, replicated)| LayerBytes {
        attention: Bytes(attention),
        ffn: Bytes(ffn),
        replicated: Bytes(replicated),
    })
}

fn any_model() -> impl Strategy<Value = ModelSpec> {
    let counts = (1u32..20, 1u32..5, 1u32..300, 1u32..300_000, 1u32..4, 1u32..65);
    let layers = prop::collection::vec(any_layer(), 1..24);
    let vocab_bytes = (1u64..1 << 40, prop::option::of(1u64..1 << 40));
    (counts, layers, vocab_bytes).prop_map(|(counts, layers, (embedding, head))| {
        let (n_kv_heads, group, head_dim, vocab, head_unit, ffn_unit) = counts;
        ModelSpec {
            hidden: 64,
            n_heads: n_kv_heads * group,
            n_kv_heads,
            head_dim,
            ffn: ffn_unit * (1 + vocab % 77) + vocab % 3,
            vocab,
            max_context: 4096,
            head_unit,
            ffn_unit,
            layers,
            embedding: Bytes(embedding),
            head: head.map(Bytes),
            latent: head.map(|bytes| bytes as u32 % 600 + 1),
        }
    })
}

fn any_goal() -> impl Strategy<Value = Goal> {
    let weights = |n: u32| prop::option::of(prop::collection::vec(1u32..1000, n as usize));
    (1u32..6, 1u32..6)
        .prop_flat_map(move |(tp, pp)| {
            let kv_tokens = prop::option::of(1u32..20_000);
            (Just((tp, pp)), weights(tp), weights(pp), 1u32..5000, kv_tokens, 1u32..9)
        })
        .prop_map(|((tp, pp), split, stage_split, context_len, n_kv_tokens, threads_per_rank)| Goal {
            tp,
            pp,
            split,
            stage_split,
            context_len,
            n_kv_tokens,
            threads_per_rank,
            ranks_per_node: None,
            backends: None,
            collectives: None,
            has_jaccl_devices: false,
            fence: Fence::Safe,
        })
}

/// Nodes with plenty of memory, but for the unlucky ones.
fn any_topology() -> impl Strategy<Value = Topology> {
    let memory = prop_oneof![9 => Just(1u64 << 62), 1 => 0u64..1 << 44];
    prop::collection::vec((memory, 0u32..20), 1..5).prop_map(|nodes| Topology {
        nodes: nodes
            .into_iter()
            .enumerate()
            .map(|(i, (memory, n_cores))| Node {
                id: NodeId(i as u32),
                name: format!("n{i}"),
                memory: Bytes(memory),
                n_cores,
                backends: vec![BackendKind::Cpu],
                is_mac: false,
            })
            .collect(),
    })
}

/// What the plan's ranks hold together if nothing is lost and nothing is doubled that need not be.
fn bytes_of(model: &ModelSpec, tp: u32, pp: u32) -> u128 {
    let layer = |l: &LayerBytes| {
        u128::from(l.attention.0) + u128::from(l.ffn.0) + u128::from(tp) * u128::from(l.replicated.0)
    };
    let head = match model.head {
        Some(head) => head,
        None if pp > 1 => model.embedding,
        None => Bytes(0),
    };
    model.layers.iter().map(layer).sum::<u128>() + u128::from(model.embedding.0) + u128::from(head.0)
}

/// One change that makes a plan unsound, chosen by `kind` and `which`.
fn tamper(parts: &mut PlanParts, kind: u32, which: usize) {
    let n_ranks = parts.ranks.len();
    let r = &mut parts.ranks[which % n_ranks];
    match kind {
        0 => r.layers.end += 1,
        1 => r.layers.start += 1,
        2 => r.shard.kv_heads.end += 1,
        3 => r.shard.ffn.start += 1,
        4 => r.shard.vocab.end -= 1,
        5 => r.weights.0 += 1,
        6 => r.kv.0 -= 1,
        7 => r.rank = RankId(r.rank.0 + 1),
        8 => r.stage = u32::MAX,
        9 => r.tp_index = u32::MAX,
        10 => r.node = NodeId(99),
        11 => r.cores.push(20),
        12 => r.cores = vec![0, 0],
        13 => r.embeds = !r.embeds,
        14 => r.heads = !r.heads,
        15 => r.shard.kv_heads = r.shard.kv_heads.start..r.shard.kv_heads.start,
        16 => parts.n_blocks = 0,
        17 => parts.context_len = 4097,
        18 => parts.context_len = 0,
        19 => drop(parts.ranks.pop()),
        20 => parts.ranks.push(parts.ranks[0].clone()),
        21 => parts.topology.nodes.clear(),
        22 => parts.topology.nodes.iter_mut().for_each(|n| n.memory = Bytes(0)),
        23 => parts.topology.nodes.push(parts.topology.nodes[0].clone()),
        24 => drop(parts.model.layers.pop()),
        25 => parts.model.layers.push(LayerBytes::default()),
        26 => parts.model.head_unit = 0,
        27 => parts.model.vocab += 1,
        28 => parts.model.n_kv_heads *= 2,
        29 => r.backend = BackendKind::Mlx,
        30 => parts.collectives = Collectives::MlxRing,
        31 => parts.collectives = Collectives::MlxJaccl,
        32 => parts.topology.nodes[0].backends.clear(),
        33 => parts.topology.nodes[0].backends.push(BackendKind::Cpu),
        _ => (r.shard.ffn.start, r.shard.ffn.end) = (u32::MAX, 0),
    }
}
const N_KINDS: u32 = 35;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_made_plan_is_sound_and_holds_the_model_once(
        model in any_model(), goal in any_goal(), topology in any_topology(),
    ) {
        let Ok(plan) = Plan::make(&topology, &model, &goal) else { return Ok(()) };
        prop_assert_eq!(Plan::new(plan.parts().clone()), Ok(plan.clone()));
        prop_assert_eq!((plan.tp_size(), plan.n_stages()), (goal.tp, goal.pp));
        let held: u128 = plan.ranks().iter().map(|r| u128::from(r.weights.0)).sum();
        prop_assert_eq!(held, bytes_of(&model, goal.tp, goal.pp));
        prop_assert!(plan.n_blocks() * plan.block_len() >= goal.context_len);
        if let Some(n_kv_tokens) = goal.n_kv_tokens {
            prop_assert!(plan.n_blocks() * plan.block_len() >= n_kv_tokens);
        }
    }

    #[test]
    fn a_goal_is_refused_only_for_a_reason(model in any_model(), goal in any_goal(), topology in any_topology()) {
        let reason = match Plan::make(&topology, &model, &goal) {
            Ok(_) => return Ok(()),
            Err(reason) => reason,
        };
        let holds = match &reason {
            PlanError::TooManyRanks { tp, n_units, .. } => n_units < tp,
            PlanError::TooManyStages { pp, n_layers } => n_layers < pp,
            PlanError::ContextTooLong { asked, longest } => asked > longest,
            PlanError::KvTooSmall { kv_tokens, context_len } => *kv_tokens < u64::from(*context_len),
            PlanError::DoesNotFit { needed, available, .. } => needed > available,
            _ => false,
        };
        prop_assert!(holds, "{}", reason);
    }

    #[test]
    fn a_plan_that_was_tampered_with_is_refused(
        model in any_model(), goal in any_goal(), topology in any_topology(),
        kind in 0..N_KINDS, which in any::<usize>(),
    ) {
        let Ok(plan) = Plan::make(&topology, &model, &goal) else { return Ok(()) };
        let mut parts = plan.parts().clone();
        tamper(&mut parts, kind, which);
        prop_assert!(Plan::new(parts.clone()).is_err(), "kind {} of {:?}", kind, parts);
    }
}
