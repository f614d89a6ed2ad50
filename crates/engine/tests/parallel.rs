//! One model on one rank and on many: pipeline splits give the same bits, tensor splits the same greedy tokens. Ranks are
//! threads here, joined by in-memory links; everything else is what rank processes run.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

use std::{collections::BTreeMap, path::Path, thread, time::Duration};

use backend::{CpuBackend, Isa};
use base::{Bytes, NodeId, Output, RankId, Request, RequestId, Sampled, SamplingParams, TokenId};
use collective::{DEADLINE_S, Group, Mesh, Solo, World};
use engine::{Engine, Runner, SchedulerConfig};
use models::Description;
use plan::{Goal, Node, Plan, RankPlan, Topology};
use transport::{Link, MemoryLink};
use weights::{
    Checkpoint,
    synthetic::{Arch, Recipe},
};

/// Largest difference of any log-probability between one rank and a tensor split: sums of partial products round
/// differently.
const MAX_TP_DELTA: f32 = 1e-2;

type Answers = BTreeMap<RequestId, Vec<Sampled>>;
type Links = Vec<(RankId, Box<dyn Link>)>;

#[derive(Clone, Copy)]
struct Grid {
    tp: u32,
    pp: u32,
    split: Option<&'static [u32]>,
}

const fn grid(tp: u32, pp: u32) -> Grid {
    Grid { tp, pp, split: None }
}

fn recipe(arch: Arch) -> Recipe {
    // 9 query heads in 3 groups, as SmolLM2 has them, and enough layers for five stages
    Recipe {
        n_layers: 6,
        hidden: 288,
        n_heads: 9,
        n_kv_heads: 3,
        head_dim: 32,
        ffn: 384,
        ..Recipe::tiny(arch)
    }
}

fn plan(description: &Description, grid: Grid) -> Plan {
    let node = Node { id: NodeId(0), name: "here".to_owned(), memory: Bytes(8 << 30), n_cores: 1 };
    let goal = Goal {
        tp: grid.tp,
        pp: grid.pp,
        split: grid.split.map(<[u32]>::to_vec),
        stage_split: None,
        context_len: 128,
        n_kv_tokens: Some(1024),
        threads_per_rank: 1,
        ranks_per_node: None,
    };
    Plan::make(&Topology { nodes: vec![node] }, &description.spec, &goal).unwrap()
}

/// Links between all ranks: `links[a]` holds rank `a`'s ends.
fn all_links(n: u32) -> Vec<Links> {
    let mut links: Vec<Links> = (0..n).map(|_| Vec::new()).collect();
    for a in 0..n {
        for b in a + 1..n {
            let (to_b, to_a) = MemoryLink::pair();
            links[a as usize].push((RankId(b), Box::new(to_b)));
            links[b as usize].push((RankId(a), Box::new(to_a)));
        }
    }
    links
}

fn runner(path: &Path, plan: &Plan, me: &RankPlan, links: Links) -> Runner<CpuBackend> {
    let checkpoint = Checkpoint::open(path).unwrap();
    let description = Description::read(&checkpoint).unwrap();
    let world = World::new(me.rank, links, Duration::from_secs(DEADLINE_S)).unwrap().shared();
    let group = || -> Box<dyn Group> {
        match plan.tp_size() {
            1 => Box::new(Solo),
            _ => Box::new(Mesh::new(world.clone(), plan.stage_ranks(me.stage)).unwrap()),
        }
    };
    let mut backend = CpuBackend::new(kernels::Pool::new(&[]), Isa::detect(), group());
    let model = models::load(&checkpoint, &description, plan, me, &mut backend).unwrap();
    let group = group();
    Runner::new(plan.clone(), me.clone(), model, backend, world, group)
}

fn requests(vocab: u32) -> Vec<Request> {
    let prompt = |id: u32, n: u32| (0..n).map(|i| TokenId((id * 37 + i * i * 11) % vocab)).collect();
    let sampling = SamplingParams { temperature: 0.0, n_logprobs: Some(vocab), ..SamplingParams::default() };
    let request = |id: u32, n: u32| Request {
        id: RequestId(u64::from(id)),
        prompt: prompt(id, n),
        max_tokens: 12,
        stop_tokens: vec![],
        sampling: sampling.clone(),
    };
    vec![request(1, 1), request(2, 40), request(3, 17), request(4, 90)]
}

/// All requests' tokens with the log-probabilities of the whole vocabulary.
fn answers(path: &Path, grid: Grid) -> Answers {
    let checkpoint = Checkpoint::open(path).unwrap();
    let description = Description::read(&checkpoint).unwrap();
    let plan = plan(&description, grid);
    let mut links = all_links(plan.world_size()).into_iter();
    let first = links.next().unwrap();
    thread::scope(|scope| {
        for (me, links) in plan.ranks()[1..].iter().zip(links) {
            let plan = &plan;
            scope.spawn(move || runner(path, plan, me, links).follow());
        }
        let spec = &description.spec;
        let config = SchedulerConfig::new(plan.block_len(), plan.n_blocks(), plan.context_len(), spec.vocab);
        let mut engine = Engine::new(config, runner(path, &plan, &plan.ranks()[0], first)).unwrap();
        requests(spec.vocab).into_iter().for_each(|r| engine.submit(r));
        let mut answers = Answers::new();
        while engine.has_work() {
            for output in engine.step().unwrap() {
                match output {
                    Output::Token { id, sampled } => answers.entry(id).or_default().push(sampled),
                    Output::Finished { .. } => {}
                    Output::Failed { message, .. } => panic!("{message}"),
                }
            }
        }
        answers
    })
}

fn with_model(arch: Arch, test: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    recipe(arch).write_gguf(&path).unwrap();
    test(&path);
}

fn pipelines_give_the_same_bits(arch: Arch) {
    with_model(arch, |path| {
        let one = answers(path, grid(1, 1));
        assert!(one.values().all(|tokens| tokens.len() == 12));
        for pp in [2, 3, 5] {
            assert!(answers(path, grid(1, pp)) == one, "pp {pp} differs from one rank");
        }
    });
}

fn tensor_splits_agree(arch: Arch) {
    with_model(arch, |path| {
        let one = answers(path, grid(1, 1));
        let uneven = Grid { tp: 2, pp: 1, split: Some(&[1, 2]) };
        for g in [grid(2, 1), uneven, grid(3, 1), grid(2, 2)] {
            let delta = max_delta(&one, &answers(path, g));
            println!("tp {} pp {} split {:?}: max |Δ log-probability| {delta}", g.tp, g.pp, g.split);
            assert!(delta < MAX_TP_DELTA, "tp {} pp {}: {delta}", g.tp, g.pp);
        }
    });
}

/// Largest difference of a log-probability; the tokens must be the same.
fn max_delta(a: &Answers, b: &Answers) -> f32 {
    let mut max = 0f32;
    for (id, tokens) in a {
        for (position, (x, y)) in tokens.iter().zip(&b[id]).enumerate() {
            assert_eq!(x.token, y.token, "{id}, position {position}");
            let other: BTreeMap<_, _> = y.top.iter().copied().collect();
            max = x.top.iter().map(|(t, lp)| (lp - other[t]).abs()).fold(max, f32::max);
        }
    }
    max
}

#[test]
fn llama_pipelines_give_the_same_bits() {
    pipelines_give_the_same_bits(Arch::Llama);
}

#[test]
fn qwen2_pipelines_give_the_same_bits() {
    pipelines_give_the_same_bits(Arch::Qwen2);
}

#[test]
fn qwen3_pipelines_give_the_same_bits() {
    pipelines_give_the_same_bits(Arch::Qwen3);
}

#[test]
fn llama_tensor_splits_agree() {
    tensor_splits_agree(Arch::Llama);
}

#[test]
fn qwen2_tensor_splits_agree() {
    tensor_splits_agree(Arch::Qwen2);
}

#[test]
fn qwen3_tensor_splits_agree() {
    tensor_splits_agree(Arch::Qwen3);
}
