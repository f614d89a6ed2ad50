//! What ranks compute with and who sums: what is chosen unasked, what may be asked for, and the words of every refusal.
#![allow(clippy::unwrap_used)] // a check fails by panicking

use base::{Bytes, LayerBytes, ModelSpec, NodeId};
use plan::BackendKind::{Cpu, Mlx};
use plan::Collectives::{MlxJaccl, MlxRing, Onefold};
use plan::{BackendKind, Collectives, Fence, Goal, Node, Plan, PlanError, Topology};
use proptest::prelude::*;

const MAC: (&[BackendKind], bool) = (&[Mlx, Cpu], true);
const LINUX: (&[BackendKind], bool) = (&[Cpu, Mlx], false);
const PLAIN: (&[BackendKind], bool) = (&[Cpu], false);

fn model() -> ModelSpec {
    ModelSpec {
        hidden: 64,
        n_heads: 4,
        n_kv_heads: 4,
        head_dim: 16,
        ffn: 128,
        vocab: 256,
        max_context: 512,
        head_unit: 1,
        ffn_unit: 32,
        layers: vec![LayerBytes::default(); 4],
        embedding: Bytes(1 << 14),
        head: None,
        latent: None,
    }
}

fn topology(nodes: &[(&[BackendKind], bool)]) -> Topology {
    let node = |(id, (backends, is_mac)): (u32, &(&[BackendKind], bool))| Node {
        id: NodeId(id),
        name: format!("node-{id}"),
        memory: Bytes(1 << 30),
        n_cores: 2,
        backends: backends.to_vec(),
        is_mac: *is_mac,
    };
    Topology { nodes: (0..).zip(nodes).map(node).collect() }
}

fn goal(tp: u32, pp: u32) -> Goal {
    Goal {
        tp,
        pp,
        split: None,
        stage_split: None,
        context_len: 64,
        n_kv_tokens: Some(64),
        threads_per_rank: 1,
        ranks_per_node: None,
        backends: None,
        collectives: None,
        has_jaccl_devices: false,
        fence: Fence::Safe,
    }
}

fn make(nodes: &[(&[BackendKind], bool)], goal: &Goal) -> Result<Plan, PlanError> {
    Plan::make(&topology(nodes), &model(), goal)
}

fn backends(plan: &Plan) -> Vec<BackendKind> {
    plan.ranks().iter().map(|r| r.backend).collect()
}

#[test]
fn unasked_a_rank_computes_with_what_its_node_prefers() {
    let chosen = |nodes: &[_], tp, pp| backends(&make(nodes, &goal(tp, pp)).unwrap());
    assert_eq!(chosen(&[PLAIN], 2, 1), [Cpu, Cpu]);
    assert_eq!(chosen(&[MAC], 1, 2), [Mlx, Mlx]);
    assert_eq!(chosen(&[LINUX, MAC], 1, 2), [Cpu, Mlx], "a pipeline may mix");
    assert_eq!(chosen(&[LINUX, MAC], 2, 1), [Cpu, Cpu], "a stage may not");
    assert_eq!(chosen(&[MAC, LINUX], 2, 1), [Mlx, Mlx], "its first node's preference, among what both have");
    assert_eq!(chosen(&[MAC, PLAIN], 2, 1), [Cpu, Cpu]);
}

#[test]
fn unasked_mlx_sums_on_macs_that_hold_a_rank_each() {
    let chosen = |nodes: &[_], goal: &Goal| make(nodes, goal).unwrap().collectives();
    let devices = |goal| Goal { has_jaccl_devices: true, ..goal };
    assert_eq!(chosen(&[MAC, MAC], &goal(2, 1)), MlxRing);
    assert_eq!(chosen(&[MAC; 4], &goal(2, 2)), MlxRing);
    assert_eq!(chosen(&[MAC, MAC], &devices(goal(2, 1))), MlxJaccl);
    assert_eq!(chosen(&[MAC], &goal(1, 1)), Onefold, "nothing to sum");
    assert_eq!(chosen(&[MAC, MAC], &devices(goal(1, 2))), Onefold, "nothing to sum");
    assert_eq!(chosen(&[MAC], &goal(2, 1)), Onefold, "both on one Mac");
    assert_eq!(chosen(&[MAC, LINUX], &goal(2, 1)), Onefold, "not only Macs");
    assert_eq!(chosen(&[MAC, MAC], &Goal { backends: Some(vec![Cpu]), ..goal(2, 1) }), Onefold, "not on mlx");
    assert_eq!(chosen(&[MAC, MAC], &Goal { collectives: Some(Onefold), ..devices(goal(2, 1)) }), Onefold);
}

#[test]
fn what_is_asked_for_holds() {
    let asked = |nodes: &[_], backends: &[_], goal: Goal| {
        make(nodes, &Goal { backends: Some(backends.to_vec()), ..goal }).unwrap()
    };
    assert_eq!(backends(&asked(&[LINUX], &[Mlx], goal(2, 1))), [Mlx, Mlx]);
    assert_eq!(backends(&asked(&[LINUX], &[Cpu, Mlx], goal(1, 2))), [Cpu, Mlx]);
    assert_eq!(backends(&asked(&[LINUX], &[Mlx, Mlx, Cpu, Cpu], goal(2, 2))), [Mlx, Mlx, Cpu, Cpu]);
    let ring = Goal { collectives: Some(MlxRing), fence: Fence::Fast, ..goal(2, 1) };
    let plan = asked(&[LINUX], &[Mlx], ring.clone());
    assert_eq!((plan.collectives(), plan.fence()), (MlxRing, Fence::Fast), "MLX's ring runs on Linux too");
    assert_eq!(plan.notes(&ring), [""; 0]);
    let idle = Goal { fence: Fence::Fast, ..goal(1, 1) };
    assert_eq!(make(&[PLAIN], &idle).unwrap().notes(&idle).len(), 1);
}

#[test]
fn refusals_name_the_thing_the_expected_and_the_found() {
    let says = |nodes: &[_], goal: Goal, words: &str| {
        let message = make(nodes, &goal).unwrap_err().to_string();
        assert!(message.contains(words) && message.contains("\nhint: "), "{message}");
    };
    let on = |backends: &[_], goal| Goal { backends: Some(backends.to_vec()), ..goal };
    let by = |collectives, goal| Goal { collectives: Some(collectives), has_jaccl_devices: true, ..goal };
    says(
        &[PLAIN],
        on(&[Mlx], goal(1, 1)),
        "rank 0 is to compute with mlx, but node-0 offers: cpu\nhint: build",
    );
    says(&[LINUX, PLAIN], on(&[Mlx], goal(1, 2)), "rank 1 is to compute with mlx, but node-1 offers: cpu");
    says(
        &[LINUX],
        on(&[Cpu, Mlx, Cpu], goal(1, 2)),
        "--backend names 3 backends: expected 1 for all ranks, or 2",
    );
    says(&[LINUX], on(&[], goal(1, 1)), "--backend names 0 backends");
    let mixed = "stage 1 mixes backends: expected one, found rank 2 on mlx and rank 3 on cpu";
    says(&[LINUX], on(&[Cpu, Cpu, Mlx, Cpu], goal(2, 2)), mixed);
    says(&[(&[Mlx], true), PLAIN], goal(2, 1), "stage 0 mixes backends");
    says(&[LINUX], by(MlxRing, goal(2, 1)), "mlx-ring need every rank on mlx, found rank 0 on cpu");
    says(&[LINUX], by(MlxRing, on(&[Mlx, Cpu], goal(1, 2))), "found rank 1 on cpu");
    says(&[MAC], by(MlxRing, goal(1, 2)), "mlx-ring need several ranks in each stage, found one");
    says(&[MAC, LINUX], by(MlxJaccl, goal(2, 1)), "mlx-jaccl need Macs only, found node-1");
    let blind = Goal { has_jaccl_devices: false, ..by(MlxJaccl, goal(2, 1)) };
    says(&[MAC, MAC], blind, "mlx-jaccl need to know which RDMA device");
    let none = make(&[(&[], false)], &goal(1, 1)).unwrap_err().to_string();
    assert!(none.contains("backends of node-0: expected at least 1, each once, found none"), "{none}");
}

fn any_goal() -> impl Strategy<Value = Goal> {
    let kind = || prop_oneof![Just(Cpu), Just(Mlx)];
    let collectives = prop::option::of(prop_oneof![Just(Onefold), Just(MlxRing), Just(MlxJaccl)]);
    (1u32..4, 1u32..4)
        .prop_flat_map(move |(tp, pp)| {
            let each = prop::collection::vec(kind(), (tp * pp) as usize);
            let one = kind().prop_map(|kind| vec![kind]);
            (Just((tp, pp)), prop::option::of(prop_oneof![each, one]))
        })
        .prop_flat_map(move |asked| (Just(asked), collectives.clone(), any::<bool>()))
        .prop_map(|(((tp, pp), backends), collectives, has_jaccl_devices)| Goal {
            backends,
            collectives,
            has_jaccl_devices,
            ..goal(tp, pp)
        })
}

fn any_nodes() -> impl Strategy<Value = Vec<(&'static [BackendKind], bool)>> {
    let mac_with_mlx_only: (&[BackendKind], bool) = (&[Mlx], true);
    let node = prop_oneof![Just(MAC), Just(LINUX), Just(PLAIN), Just(mac_with_mlx_only)];
    prop::collection::vec(node, 1..5)
}

/// Whether MLX's collectives can run, said another way than the check says it.
fn mlx_can_sum(plan: &Plan, collectives: Collectives) -> bool {
    let all_mlx = !backends(plan).contains(&Cpu);
    let all_macs = plan.ranks().iter().all(|r| plan.node_of(r.rank).unwrap().is_mac);
    all_mlx && plan.tp_size() > 1 && (all_macs || collectives == MlxRing)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_made_plan_can_run(nodes in any_nodes(), goal in any_goal()) {
        let Ok(plan) = make(&nodes, &goal) else { return Ok(()) };
        prop_assert_eq!(Plan::new(plan.parts().clone()), Ok(plan.clone()));
        for r in plan.ranks() {
            prop_assert!(plan.node_of(r.rank).unwrap().backends.contains(&r.backend));
            let first = plan.stage_ranks(r.stage)[0];
            prop_assert_eq!(plan.rank(first).unwrap().backend, r.backend);
        }
        prop_assert!(plan.collectives() == Onefold || mlx_can_sum(&plan, plan.collectives()));
        prop_assert!(goal.collectives.is_none_or(|asked| asked == plan.collectives()));
    }

    /// Nobody has to ask for anything, unless nodes of a stage have nothing in common.
    #[test]
    fn unasked_there_is_a_plan(nodes in any_nodes(), tp in 1u32..4, pp in 1u32..4) {
        match make(&nodes, &goal(tp, pp)) {
            Ok(_) => {}
            Err(PlanError::MixedBackends { a, b, .. }) => prop_assert_ne!(a.1, b.1),
            Err(other) => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn other_collectives_are_refused_where_they_cannot_run(nodes in any_nodes(), goal in any_goal(), i in 0usize..3) {
        let Ok(plan) = make(&nodes, &goal) else { return Ok(()) };
        let collectives = Collectives::ALL[i];
        let mut parts = plan.parts().clone();
        parts.collectives = collectives;
        let can = collectives == Onefold || mlx_can_sum(&plan, collectives);
        prop_assert_eq!(Plan::new(parts).is_ok(), can);
    }
}
