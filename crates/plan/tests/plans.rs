//! Plans for known models and small goals, and the words of every refusal.

use base::{Bytes, LayerBytes, ModelSpec, NodeId, RankId};
use plan::{BackendKind, Fence, Goal, Node, Plan, PlanError, Topology};

/// 9 query heads in 3 KV groups, 30 layers, embedding used as head.
fn small() -> ModelSpec {
    let layer = LayerBytes { attention: Bytes(553_000), ffn: Bytes(1_658_880), replicated: Bytes(4_608) };
    ModelSpec {
        hidden: 576,
        n_heads: 9,
        n_kv_heads: 3,
        head_dim: 64,
        ffn: 1536,
        vocab: 49_152,
        max_context: 8192,
        head_unit: 1,
        ffn_unit: 32,
        layers: vec![layer; 30],
        embedding: Bytes(30_081_024),
        head: None,
        latent: None,
    }
}

fn nodes(memory: &[u64]) -> Topology {
    let node = |(i, &memory): (usize, &u64)| Node {
        id: NodeId(i as u32 + 7),
        name: format!("node-{i}"),
        memory: Bytes(memory),
        n_cores: 4,
        backends: vec![BackendKind::Cpu],
        is_mac: false,
    };
    Topology { nodes: memory.iter().enumerate().map(node).collect() }
}

fn goal(tp: u32, pp: u32) -> Goal {
    Goal {
        tp,
        pp,
        split: None,
        stage_split: None,
        context_len: 2048,
        n_kv_tokens: None,
        threads_per_rank: 2,
        ranks_per_node: None,
        backends: None,
        collectives: None,
        has_jaccl_devices: false,
        fence: Fence::Safe,
    }
}

const GB: u64 = 1_000_000_000;

fn make(model: &ModelSpec, goal: &Goal) -> Result<Plan, PlanError> {
    Plan::make(&nodes(&[4 * GB]), model, goal)
}

#[test]
fn three_kv_groups_over_two_ranks_are_two_to_one() {
    let plan = make(&small(), &goal(2, 1)).unwrap();
    let [a, b] = plan.ranks() else { panic!("two ranks") };
    assert_eq!((&a.shard.kv_heads, &b.shard.kv_heads), (&(0..2), &(2..3)));
    assert_eq!((&a.shard.vocab, &b.shard.vocab), (&(0..24_576), &(24_576..49_152)));
    assert_eq!((&a.shard.ffn, &b.shard.ffn), (&(0..768), &(768..1536)));
    assert!(a.weights > b.weights, "{} and {}", a.weights, b.weights);
    assert_eq!((a.cores.as_slice(), b.cores.as_slice()), ([0, 1].as_slice(), [2, 3].as_slice()));
    assert_eq!((a.node, b.node), (NodeId(7), NodeId(7)));
    assert_eq!(plan.sampling_rank(), RankId(0));
    assert!(a.embeds && a.heads && b.embeds && b.heads);
    assert_eq!(a.kv.0, 2 * b.kv.0);
}

#[test]
fn a_latent_cache_is_whole_on_every_rank_of_a_stage() {
    let model = ModelSpec { latent: Some(576), ..small() };
    let plan = make(&model, &goal(3, 2)).unwrap();
    let kv = |layers: u64| 2 * 576 * layers * u64::from(plan.n_blocks() * plan.block_len());
    assert!(plan.ranks().iter().all(|r| r.kv.0 == kv(r.layers.len() as u64)));
}

#[test]
fn asked_weights_hold_for_everything() {
    let plan = make(&small(), &Goal { split: Some(vec![3, 1]), ..goal(2, 1) }).unwrap();
    let shard = &plan.ranks()[0].shard;
    assert_eq!((&shard.kv_heads, &shard.ffn, &shard.vocab), (&(0..2), &(0..1152), &(0..36_864)));

    let plan = make(&small(), &Goal { stage_split: Some(vec![1, 2]), ..goal(1, 2) }).unwrap();
    let weights: Vec<_> = plan.ranks().iter().map(|r| r.weights.0 as f64).collect();
    assert!((weights[1] / weights[0] - 2.0).abs() < 0.1, "{weights:?}");
}

#[test]
fn stages_and_groups_together_number_ranks_through_the_groups() {
    let plan = make(&small(), &goal(2, 2)).unwrap();
    let places: Vec<_> = plan.ranks().iter().map(|r| (r.rank.0, r.stage, r.tp_index)).collect();
    assert_eq!(places, [(0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1)]);
    assert_eq!((plan.world_size(), plan.n_stages(), plan.tp_size()), (4, 2, 2));
    assert_eq!(plan.sampling_rank(), RankId(2));
    assert_eq!(plan.stage_ranks(1), [RankId(2), RankId(3)]);
    assert_eq!(plan.stage_ranks(2), []);
    assert_eq!(plan.ranks().iter().map(|r| r.cores.len()).collect::<Vec<_>>(), [1; 4], "4 cores, 4 ranks");
    assert_eq!(plan.notes(&goal(2, 2)).len(), 4, "2 threads were asked for");
    assert_eq!(plan.notes(&Goal { threads_per_rank: 1, ..goal(2, 2) }), [""; 0]);
}

#[test]
fn ranks_lie_on_nodes_in_contiguous_runs() {
    let topology = nodes(&[4 * GB, 4 * GB]);
    let on = |tp, pp| -> Vec<u32> {
        let plan = Plan::make(&topology, &small(), &goal(tp, pp)).unwrap();
        plan.ranks().iter().map(|r| r.node.0 - 7).collect()
    };
    assert_eq!(on(1, 1), [0]);
    assert_eq!(on(2, 1), [0, 1]);
    assert_eq!(on(3, 1), [0, 0, 1]);
    assert_eq!(on(2, 2), [0, 0, 1, 1]);
    assert_eq!(on(1, 5), [0, 0, 0, 1, 1]);
}

#[test]
fn more_ranks_than_cores_run_unpinned() {
    let plan = make(&small(), &goal(1, 5)).unwrap();
    assert!(plan.ranks().iter().all(|r| r.cores.is_empty()));
}

#[test]
fn the_cache_is_as_large_as_asked_or_as_memory_allows() {
    let blocks = |memory, n_kv_tokens| {
        let goal = Goal { n_kv_tokens, ..goal(1, 1) };
        Plan::make(&nodes(&[memory]), &small(), &goal).map(|p| p.n_blocks())
    };
    let per_block = 16 * 30 * 3 * 256;
    let weights = make(&small(), &goal(1, 1)).unwrap().ranks()[0].weights.0;
    assert_eq!(blocks(4 * GB, None), Ok(4 * 2048 / 16), "four sequences");
    assert_eq!(blocks(4 * GB, Some(5000)), Ok(313));
    assert_eq!(blocks(weights + 400 * per_block, None), Ok(200), "half of what is left");
    assert_eq!(blocks(weights + 130 * per_block, None), Ok(128), "but one sequence at least");
    assert!(matches!(blocks(weights + 127 * per_block, None), Err(PlanError::DoesNotFit { .. })));
    assert_eq!(blocks(weights + 400 * per_block, Some(400 * 16)), Ok(400));
}

#[test]
fn refusals_name_the_thing_the_expected_and_the_found() {
    let model = small();
    let says = |goal: Goal, words: &str| {
        let message = make(&model, &goal).unwrap_err().to_string();
        assert!(message.contains(words) && message.contains("\nhint: "), "{message}");
    };
    says(goal(4, 1), "tensor parallel × 4: 3 KV head groups cannot be shared out over 4 ranks");
    says(goal(1, 31), "pipeline parallel × 31: 30 layers cannot be shared out over 31 stages");
    says(goal(0, 1), "tensor parallel (--tp) is 0");
    says(Goal { threads_per_rank: 0, ..goal(1, 1) }, "the number of threads is 0");
    says(Goal { split: Some(vec![1; 3]), ..goal(2, 1) }, "--split has 3 weights: expected 2");
    says(Goal { stage_split: Some(vec![]), ..goal(1, 2) }, "--stage-split has 0 weights: expected 2");
    says(Goal { split: Some(vec![1, 0]), ..goal(2, 1) }, "--split: weight 2 is 0");
    says(Goal { context_len: 9000, ..goal(1, 1) }, "9000 tokens is longer than the model's 8192");
    says(Goal { n_kv_tokens: Some(2000), ..goal(1, 1) }, "2000 tokens cannot hold one sequence of 2048");
    let tight = Plan::make(&nodes(&[4 * GB, 1_000_000]), &model, &goal(2, 1)).unwrap_err().to_string();
    assert!(
        tight.starts_with("rank 1 does not fit on node-1: it needs ") && tight.contains("1.0 MB left"),
        "{tight}"
    );
    assert_eq!(Plan::make(&nodes(&[]), &model, &goal(1, 1)), Err(PlanError::NoNodes));
}

#[test]
fn ranks_of_one_node_share_its_memory() {
    let plan = make(&small(), &goal(2, 1)).unwrap();
    let needed = |r: &plan::RankPlan| (r.weights + r.kv).0;
    let mut parts = plan.parts().clone();
    parts.topology.nodes[0].memory = Bytes(plan.ranks().iter().map(needed).sum());
    assert!(Plan::new(parts.clone()).is_ok(), "to the byte");
    parts.topology.nodes[0].memory.0 -= 1;
    let refused = Plan::new(parts);
    assert!(matches!(refused, Err(PlanError::DoesNotFit { rank: RankId(1), .. })), "{refused:?}");
}

#[test]
fn claims_beyond_reason_are_refused_at_once() {
    let mut model = small();
    model.layers = vec![LayerBytes::default(); 100_000];
    assert_eq!(make(&model, &goal(1, 1)), Err(PlanError::TooManyLayers { n_layers: 100_000 }));
    model = ModelSpec { n_kv_heads: 0, ..small() };
    assert_eq!(make(&model, &goal(1, 1)), Err(PlanError::ZeroModel { what: "number of KV heads" }));
    model = ModelSpec { n_heads: 10, ..small() };
    assert!(matches!(make(&model, &goal(1, 1)), Err(PlanError::Unsound { .. })));
}

#[test]
fn nodes_hold_as_many_ranks_as_asked() {
    let topology = nodes(&[8 * GB, 8 * GB]);
    let uneven = |counts: &[u32]| Goal { ranks_per_node: Some(counts.to_vec()), ..goal(3, 1) };
    let plan = Plan::make(&topology, &small(), &uneven(&[2, 1])).unwrap();
    assert_eq!(plan.ranks().iter().map(|r| r.node.0 - 7).collect::<Vec<_>>(), [0, 0, 1]);
    for wrong in [&[3, 1][..], &[3], &[3, 0]] {
        let refused = Plan::make(&topology, &small(), &uneven(wrong)).unwrap_err();
        assert!(refused.to_string().starts_with("ranks per node: expected 2 counts"), "{refused}");
    }
}
