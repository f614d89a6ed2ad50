//! The search: equal to brute force on small clusters, never worse than one machine, never worse with more, and honest about what
//! it rejects.
#![allow(clippy::unwrap_used)] // all of it is tests

mod common;

use std::ops::Range;

use base::Bytes;
use common::*;
use plan::cost::{Layout, Load, Member, ONEFOLD, StageLayout, predict};
use plan::fitted;
use plan::search::{Aim, Ask, Choice, search};
use plan::shape::{Format, Formats};
use plan::{Cluster, LinkKind, Links, Machine, ModelCost, Plan, PlanError, shards};
use proptest::prelude::*;

fn ask(context_len: u32, n_sequences: u32) -> Ask {
    Ask { load: Load { context_len, n_sequences }, aim: Aim::Speed, max_watts: None }
}

fn speed(choice: &Choice) -> f64 {
    choice.best.prediction.decode.unwrap().tokens_per_s
}

/// Five layers of which the first is not like the others.
fn small_model() -> ModelCost {
    let mut model = deepseek(affine(4, 64));
    model.layers.drain(1..57);
    model.spec.layers.drain(1..57);
    model
}

/// What the search may do with a group of `n`, written down again without its shortcuts.
fn weightings(n: usize, bandwidths: &[f64]) -> Vec<Vec<u64>> {
    let most = [1_u64, 1, 8, 4][n];
    let mut all: Vec<Vec<u64>> = vec![Vec::new()];
    for _ in 0..n {
        all = all.iter().flat_map(|w| (1..=most).map(move |x| [w.clone(), vec![x]].concat())).collect();
    }
    all.push(bandwidths.iter().map(|b| (b / 1e6) as u64).collect());
    all
}

/// Every ordered choice of `pp` disjoint groups of `tp` machines, members ascending.
fn groupings(n: usize, tp: usize, pp: usize) -> Vec<Vec<Vec<usize>>> {
    let groups: Vec<Vec<usize>> = (0_u32..1 << n)
        .filter(|mask| mask.count_ones() as usize == tp)
        .map(|mask| (0..n).filter(|i| mask >> i & 1 == 1).collect())
        .collect();
    let mut all: Vec<Vec<Vec<usize>>> = vec![Vec::new()];
    for _ in 0..pp {
        let longer = |so_far: &Vec<Vec<usize>>| -> Vec<Vec<Vec<usize>>> {
            let is_apart = |g: &&Vec<usize>| !so_far.iter().flatten().any(|m| g.contains(m));
            groups.iter().filter(is_apart).map(|g| [so_far.clone(), vec![g.clone()]].concat()).collect()
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}

/// Every way to cut `n` layers into `pp` runs.
fn cuts(n: u32, pp: usize) -> Vec<Vec<Range<u32>>> {
    let mut all: Vec<Vec<Range<u32>>> = vec![Vec::new()];
    for stage in 0..pp {
        let is_last = stage + 1 == pp;
        let longer = |so_far: &Vec<Range<u32>>| -> Vec<Vec<Range<u32>>> {
            let start = so_far.last().map_or(0, |r| r.end);
            let ends = if is_last { n..=n } else { start + 1..=n };
            let longer = |end: u32| {
                let run = start..end;
                [so_far.clone(), vec![run]].concat()
            };
            ends.filter(|&end| end > start).map(longer).collect()
        };
        all = all.iter().flat_map(longer).collect();
    }
    all
}

fn all_layouts(cluster: &Cluster, model: &ModelCost) -> Vec<Layout> {
    let n = cluster.machines.len();
    let mut layouts = Vec::new();
    for (tp, pp) in (1..=n).flat_map(|tp| (1..=n / tp).map(move |pp| (tp, pp))) {
        for groups in groupings(n, tp, pp) {
            let ways = |group: &Vec<usize>| -> Vec<Vec<Member>> {
                let bandwidths: Vec<f64> =
                    group.iter().map(|&m| cluster.machines[m].bandwidth.unwrap()).collect();
                let members = |weights: Vec<u64>| {
                    let shards = shards(&model.spec, &weights).ok()?;
                    let member = |(&machine, shard)| Member { machine, shard };
                    Some(group.iter().zip(shards).map(member).collect())
                };
                let mut ways: Vec<Vec<Member>> =
                    weightings(tp, &bandwidths).into_iter().filter_map(members).collect();
                ways.dedup();
                ways
            };
            let mut chosen: Vec<Vec<Vec<Member>>> = vec![Vec::new()];
            for group in &groups {
                let ways = ways(group);
                chosen = chosen
                    .iter()
                    .flat_map(|c| ways.iter().map(move |w| [c.clone(), vec![w.clone()]].concat()))
                    .collect();
            }
            for cut in cuts(model.spec.n_layers(), pp) {
                layouts.extend(chosen.iter().map(|stages| {
                    let stage = |(layers, members): (&Range<u32>, &Vec<Member>)| StageLayout {
                        layers: layers.clone(),
                        members: members.clone(),
                    };
                    Layout { stages: cut.iter().zip(stages).map(stage).collect() }
                }));
            }
        }
    }
    layouts
}

/// Tokens a second of the best layout there is.
fn brute_force(cluster: &Cluster, model: &ModelCost, load: Load) -> Option<f64> {
    let of = |layout: &Layout| {
        let found = predict(cluster, model, ONEFOLD, load, layout);
        let fits = found.memory.iter().all(|m| m.headroom().is_some());
        found.decode.filter(|_| fits).map(|d| d.tokens_per_s)
    };
    all_layouts(cluster, model).iter().filter_map(of).max_by(f64::total_cmp)
}

/// Machines of any speed and memory; some pairs are linked by RDMA, some by TCP, some not at all.
fn any_cluster(n_machines: Range<usize>) -> impl Strategy<Value = Cluster> {
    let machine = (2.0_f64..60.0, prop_oneof![Just(819.0), Just(546.0), 100.0..900.0_f64], any::<bool>());
    n_machines.prop_flat_map(move |n| {
        let links = prop::collection::vec(0_u8..4, n * n);
        (prop::collection::vec(machine.clone(), n), links).prop_map(move |(machines, kinds)| {
            let made = |(i, (gb, bandwidth, is_ultra)): (usize, (f64, f64, bool))| {
                let constants = if is_ultra { fitted::M3_ULTRA } else { fitted::M4_MAX };
                let mut m = common::machine(&format!("m{i}"), gb, bandwidth, constants);
                m.node.id = base::NodeId(i as u32);
                (m.n_ports, m.n_rdma_ports) = (None, None);
                m
            };
            let mut links = Links::none(n);
            let [fast, slow] = [rdma(), tcp()].map(|kind| links.add_kind(kind).unwrap());
            for a in 0..n {
                for b in 0..a {
                    match kinds[a * n + b] {
                        0 | 1 => links.connect(a, b, fast).unwrap(),
                        2 => links.connect(a, b, slow).unwrap(),
                        _ => {}
                    }
                }
            }
            Cluster { machines: machines.into_iter().enumerate().map(made).collect(), links }
        })
    })
}

fn any_load() -> impl Strategy<Value = Load> {
    (prop_oneof![Just(1024_u32), 1_u32..60_000], prop_oneof![Just(1_u32), 1_u32..20])
        .prop_map(|(context_len, n_sequences)| Load { context_len, n_sequences })
}

fn best(cluster: &Cluster, model: &ModelCost, load: Load) -> Option<f64> {
    let ask = Ask { load, ..ask(1, 1) };
    search(cluster, model, ONEFOLD, &ask).ok().map(|choice| speed(&choice))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_layout_beats_the_chosen_one(cluster in any_cluster(1..4), load in any_load()) {
        let model = small_model();
        let (found, expected) = (best(&cluster, &model, load), brute_force(&cluster, &model, load));
        match (found, expected) {
            (None, None) => {}
            (Some(found), Some(expected)) => prop_assert!((found / expected - 1.0).abs() < 1e-9, "{found} {expected}"),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn a_chosen_layout_is_whole_and_fits(cluster in any_cluster(1..9), load in any_load()) {
        let model = small_model();
        let Ok(choice) = search(&cluster, &model, ONEFOLD, &Ask { load, ..ask(1, 1) }) else { return Ok(()) };
        let layout = &choice.best.layout;
        let mut machines: Vec<usize> = layout.machines().collect();
        machines.sort_unstable();
        machines.dedup();
        prop_assert_eq!(machines.len(), layout.tp() * layout.pp(), "each machine once");
        let mut end = 0;
        for stage in &layout.stages {
            prop_assert_eq!(stage.layers.start, end);
            prop_assert!(stage.layers.end > end && stage.members.len() == layout.tp());
            end = stage.layers.end;
            let mut heads = 0;
            for member in &stage.members {
                prop_assert_eq!(member.shard.kv_heads.start, heads);
                heads = member.shard.kv_heads.end;
            }
            prop_assert_eq!(heads, model.spec.n_kv_heads);
        }
        prop_assert_eq!(end, model.spec.n_layers());
        prop_assert!(choice.best.prediction.memory.iter().all(|m| m.headroom().is_some()));
    }

    #[test]
    fn a_layout_of_a_dense_model_is_a_plan(cluster in any_cluster(1..7), load in any_load()) {
        let model = llama_8b(affine(4, 64));
        let Ok(choice) = search(&cluster, &model, ONEFOLD, &Ask { load, ..ask(1, 1) }) else { return Ok(()) };
        let plan = Plan::of_layout(&cluster, &model.spec, load, &choice.best.layout);
        let plan = plan.map_err(|e| TestCaseError::fail(e.to_string()))?;
        let held = choice.best.prediction.memory.iter().map(|m| (m.weights, m.kv));
        prop_assert!(plan.ranks().iter().map(|r| (r.weights, r.kv)).eq(held));
    }

    #[test]
    fn a_cluster_is_never_worse_than_its_best_machine(cluster in any_cluster(1..9), load in any_load()) {
        let model = small_model();
        for machine in &cluster.machines {
            if let Some(alone) = best(&Cluster::alone(machine.clone()), &model, load) {
                let all = best(&cluster, &model, load);
                prop_assert!(all.is_some_and(|all| all >= alone * (1.0 - 1e-12)), "{all:?} {alone}");
            }
        }
    }

    #[test]
    fn more_memory_and_faster_links_never_hurt(
        cluster in any_cluster(2..6), load in any_load(), which in any::<usize>(), gb in 0_u64..300, factor in 1.0_f64..4.0,
    ) {
        let model = small_model();
        let before = best(&cluster, &model, load).unwrap_or(0.0);
        let mut larger = cluster.clone();
        let n = larger.machines.len();
        larger.machines[which % n].node.memory.0 += gb << 27;
        let after = best(&larger, &model, load).unwrap_or(0.0);
        prop_assert!(after >= before * (1.0 - 1e-12), "memory: {after} {before}");

        let mut links = Links::none(n);
        for (a, b, kind) in cluster.links.iter() {
            let faster = LinkKind {
                bandwidth: kind.bandwidth.map(|x| x * factor),
                all_reduce_two_s: kind.all_reduce_two_s.map(|x| x / factor),
                all_reduce_more_s: kind.all_reduce_more_s / factor,
                hop_s: kind.hop_s.map(|x| x / factor),
                ..kind.clone()
            };
            let kind = links.add_kind(faster).unwrap();
            links.connect(a, b, kind).unwrap();
        }
        let after = best(&Cluster { links, ..cluster }, &model, load).unwrap_or(0.0);
        prop_assert!(after >= before * (1.0 - 1e-12), "links: {after} {before}");
    }

    #[test]
    fn what_is_not_known_does_no_harm(mut cluster in any_cluster(1..5), load in any_load(), which in any::<usize>()) {
        let n = cluster.machines.len();
        cluster.machines[which % n] = Machine {
            bandwidth: None,
            idle_w: None,
            active_w: None,
            ..cluster.machines[which % n].clone()
        };
        if let Ok(choice) = search(&cluster, &small_model(), ONEFOLD, &Ask { load, ..ask(1, 1) }) {
            let is_used = choice.best.layout.machines().any(|m| m == which % n);
            prop_assert!(!is_used || n == 1);
            prop_assert_eq!(choice.best.prediction.decode.is_none(), is_used);
            prop_assert_eq!(choice.best.prediction.watts.is_none(), is_used);
        }
    }
}

#[test]
fn four_studios_share_layers_over_rdma_and_follow_each_other_over_tcp() {
    let model = kimi(affine(4, 32));
    let fast = search(&mesh(vec![m3_ultra(); 4], rdma()), &model, ONEFOLD, &ask(4096, 1)).unwrap();
    assert_eq!((fast.best.layout.tp(), fast.best.layout.pp(), fast.is_exact), (4, 1, true));
    let slow = search(&mesh(vec![m3_ultra(); 4], tcp()), &model, ONEFOLD, &ask(4096, 1)).unwrap();
    assert_eq!((slow.best.layout.tp(), slow.best.layout.pp()), (1, 2), "the fewest hops that hold it");
    let says = |choice: &Choice, what: &str, why: &str| {
        let found = choice.rejected.iter().find(|r| r.what == what);
        assert!(found.is_some_and(|r| r.why.contains(why)), "{what}: {:#?}", choice.rejected);
    };
    says(&fast, "tensor parallel × 3", "64 heads split 22/21/21");
    says(&fast, "tensor parallel × 3", "% slower");
    says(&fast, "one machine", "it does not fit: about");
    says(&slow, "tensor parallel × 2", "communication");
    let spare = slow.rejected.iter().filter(|r| r.what.starts_with("using studio-"));
    assert_eq!(spare.filter(|r| r.why.contains("linked by tb5-ip (no RDMA)")).count(), 2);
    let held: Vec<f64> = slow.best.prediction.memory.iter().map(|m| m.free_part()).collect();
    assert!((held[0] - held[1]).abs() < 0.05, "equal machines hold as much: {held:?}");
}

#[test]
fn heads_that_do_not_go_round_are_named() {
    let choice =
        search(&mesh(vec![m3_ultra(); 5], rdma()), &qwen3_235b(affine(8, 64)), ONEFOLD, &ask(1024, 1))
            .unwrap();
    let five = choice.rejected.iter().find(|r| r.what == "tensor parallel × 5").unwrap();
    assert_eq!(five.why, "4 KV head groups cannot be shared out over 5 machines");
}

#[test]
fn power_and_headroom_choose_differently() {
    let (cluster, model) = (mesh(vec![m3_ultra(); 4], rdma()), kimi_native());
    let capped = Ask { max_watts: Some(700.0), ..ask(4096, 1) };
    let choice = search(&cluster, &model, ONEFOLD, &capped).unwrap();
    assert!(choice.best.prediction.watts.unwrap() <= 700.0);
    assert!(choice.rejected.iter().any(|r| r.why.contains("700 W are allowed")), "{:#?}", choice.rejected);
    let roomy = search(&cluster, &model, ONEFOLD, &Ask { aim: Aim::Headroom, ..ask(4096, 1) }).unwrap();
    assert!(roomy.best.headroom() >= choice.best.headroom());
    let none = search(&cluster, &model, ONEFOLD, &Ask { max_watts: Some(50.0), ..ask(4096, 1) }).unwrap_err();
    assert!(none.to_string().contains("at most 50 W") && none.to_string().contains("hint:"), "{none}");
}

#[test]
fn refusals_say_what_is_missing() {
    let model = kimi_native();
    let small = mesh(vec![m4_max(); 2], rdma());
    let none = search(&small, &model, ONEFOLD, &ask(1024, 1)).unwrap_err().to_string();
    assert!(
        none.contains("594.") && none.contains("192.0 GB on 2 machines") && none.contains("hint:"),
        "{none}"
    );
    let long = search(&small, &model, ONEFOLD, &ask(1 << 30, 1)).unwrap_err();
    assert!(matches!(long, PlanError::ContextTooLong { .. }), "{long}");
    let mut links = Links::none(7);
    let kind = links.add_kind(rdma()).unwrap();
    links.connect_rest(kind).unwrap();
    let number = |i: u32| {
        let mut m = m3_ultra();
        m.node.id = base::NodeId(i);
        m
    };
    let crowded = Cluster { machines: (0..7).map(number).collect(), links };
    let refused = search(&crowded, &model, ONEFOLD, &ask(1024, 1)).unwrap_err().to_string();
    assert!(refused.contains("studio has 6 RDMA links, expected 5 at most"), "{refused}");
}

#[test]
fn large_clusters_are_searched_too() {
    let model = kimi_native();
    let mut machines = vec![Machine { n_ports: None, n_rdma_ports: None, ..m4_max() }; 60];
    machines.extend(vec![Machine { n_ports: None, n_rdma_ports: None, ..m3_ultra() }; 4]);
    let four = search(&mesh(machines[60..].to_vec(), rdma()), &model, ONEFOLD, &ask(1024, 1)).unwrap();
    let choice = search(&mesh(machines, rdma()), &model, ONEFOLD, &ask(1024, 1)).unwrap();
    assert!(!choice.is_exact && speed(&choice) >= speed(&four), "{} {}", speed(&choice), speed(&four));

    let minis =
        vec![
            Machine { n_ports: None, n_rdma_ports: None, ..machine("mini", 48.0, 273.0, fitted::M4_MAX) };
            64
        ];
    let choice = search(&mesh(minis, tcp()), &model, ONEFOLD, &ask(1024, 1)).unwrap();
    assert!(choice.best.layout.machines().count() > 8, "a chain");
}

#[test]
fn sizes_of_the_least_model_are_searched() {
    let shape = plan::shape::Shape {
        n_layers: 1,
        hidden: 64,
        n_heads: 1,
        n_kv_heads: 1,
        attention: plan::shape::AttentionShape::Grouped { head_dim: 64 },
        indexer: None,
        ffn: 1,
        experts: None,
        vocab: 1,
        is_tied: true,
        max_context: 1,
        formats: Formats::all(Format::BF16),
    };
    let mut cluster = mesh(vec![m3_ultra(); 2], rdma());
    let choice = search(&cluster, &shape.cost(), ONEFOLD, &ask(1, 1)).unwrap();
    assert_eq!(choice.best.layout.machines().count(), 1);
    cluster.machines.iter_mut().for_each(|m| m.node.memory = Bytes(0));
    assert!(search(&cluster, &shape.cost(), ONEFOLD, &ask(1, 1)).is_err());
}
