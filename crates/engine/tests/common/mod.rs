//! Replicas of small random models whose ranks are threads, joined by in-memory links; everything else is what rank
//! processes run.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)] // a panic is how a test fails; each test uses its part

use std::{collections::BTreeMap, path::Path, thread, time::Duration};

use backend::{Backend, CpuBackend, Isa};
use base::{Bytes, NodeId, Output, RankId, Request, RequestId, Sampled, SamplingParams, TokenId};
use collective::{DEADLINE_S, Group, Mesh, SharedWorld, Solo, World};
use engine::{Engine, Executor, Runner, SchedulerConfig};
use models::Description;
use plan::{BackendKind, Fence, Goal, Node, Plan, RankPlan, Topology};
use transport::{Link, MemoryLink};
use weights::{
    Checkpoint,
    synthetic::{Arch, Recipe},
};

pub type Answers = BTreeMap<RequestId, Vec<Sampled>>;
pub type Links = Vec<(RankId, Box<dyn Link>)>;

#[derive(Clone, Copy)]
pub struct Grid {
    pub tp: u32,
    pub pp: u32,
    pub split: Option<&'static [u32]>,
}

pub const fn grid(tp: u32, pp: u32) -> Grid {
    Grid { tp, pp, split: None }
}

pub fn recipe(arch: Arch) -> Recipe {
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

pub fn plan(description: &Description, grid: Grid, backends: &[BackendKind]) -> Plan {
    let node = Node {
        id: NodeId(0),
        name: "here".to_owned(),
        memory: Bytes(8 << 30),
        n_cores: 1,
        backends: vec![BackendKind::Cpu, BackendKind::Mlx],
        is_mac: false,
    };
    let goal = Goal {
        tp: grid.tp,
        pp: grid.pp,
        split: grid.split.map(<[u32]>::to_vec),
        stage_split: None,
        context_len: 128,
        n_kv_tokens: Some(1024),
        threads_per_rank: 1,
        ranks_per_node: None,
        backends: Some(backends.to_vec()),
        collectives: None,
        has_jaccl_devices: false,
        fence: Fence::Safe,
    };
    Plan::make(&Topology { nodes: vec![node] }, &description.spec, &goal).unwrap()
}

/// Links between all ranks: `links[a]` holds rank `a`'s ends.
pub fn all_links(n: u32) -> Vec<Links> {
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

pub fn group(plan: &Plan, me: &RankPlan, world: &SharedWorld) -> Box<dyn Group> {
    match plan.tp_size() {
        1 => Box::new(Solo),
        _ => Box::new(Mesh::new(world.clone(), plan.stage_ranks(me.stage)).unwrap()),
    }
}

/// A rank whose backend `make` builds over its tensor group.
pub fn runner<B: Backend + 'static>(
    path: &Path,
    plan: &Plan,
    me: &RankPlan,
    links: Links,
    make: impl FnOnce(Box<dyn Group>) -> B,
) -> Runner<B> {
    let checkpoint = Checkpoint::open(path).unwrap();
    let description = Description::read(&checkpoint).unwrap();
    let world = World::new(me.rank, links, Duration::from_secs(DEADLINE_S)).unwrap().shared();
    let mut backend = make(group(plan, me, &world));
    let model = models::load(&checkpoint, &description, plan, me, &mut backend).unwrap();
    let group = group(plan, me, &world);
    Runner::new(plan.clone(), me.clone(), model, backend, world, group)
}

pub fn cpu(group: Box<dyn Group>) -> CpuBackend {
    CpuBackend::new(kernels::Pool::new(&[]), Isa::detect(), group)
}

pub fn requests(vocab: u32) -> Vec<Request> {
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

pub fn engine<B: Backend>(runner: Runner<B>, plan: &Plan) -> Engine<Runner<B>> {
    let vocab = plan.model().vocab;
    Engine::new(SchedulerConfig::new(plan.block_len(), plan.n_blocks(), plan.context_len(), vocab), runner)
        .unwrap()
}

/// Runs what was submitted to its end: all requests' tokens with the log-probabilities of the whole vocabulary.
pub fn drain<E: Executor>(engine: &mut Engine<E>) -> Answers {
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
}

/// The requests' answers by a replica whose first rank has the backend of `first` and all others the CPU's.
pub fn answers<B: Backend + 'static>(
    path: &Path,
    grid: Grid,
    backends: &[BackendKind],
    first: impl FnOnce(Box<dyn Group>) -> B,
) -> Answers {
    let description = Description::read(&Checkpoint::open(path).unwrap()).unwrap();
    let plan = plan(&description, grid, backends);
    let mut links = all_links(plan.world_size()).into_iter();
    let first_links = links.next().unwrap();
    thread::scope(|scope| {
        for (me, links) in plan.ranks()[1..].iter().zip(links) {
            let plan = &plan;
            scope.spawn(move || runner(path, plan, me, links, cpu).follow(|_| {}));
        }
        let mut engine = engine(runner(path, &plan, &plan.ranks()[0], first_links, first), &plan);
        requests(description.spec.vocab).into_iter().for_each(|r| engine.submit(r));
        drain(&mut engine)
    })
}

/// The path of a small random model.
pub fn with_model(arch: Arch, test: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    recipe(arch).write_gguf(&path).unwrap();
    test(&path);
}

/// Largest difference of a log-probability; the tokens must be the same.
pub fn max_delta(a: &Answers, b: &Answers) -> f32 {
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
