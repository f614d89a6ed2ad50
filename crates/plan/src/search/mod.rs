//! The search: from a cluster, a model and what is asked for, to the layout that serves it best, and to the others with the reason
//! why each was not taken. Degrees of freedom: which machines, how many stages, where layers are cut, which machines share
//! layers, and in which proportions. It executes nothing; what this program cannot run is marked in the model.
//!
//! Not searched, because no rank could execute it: expert parallelism, a quantised cache, stages of different width, several
//! batches under way in a pipeline.

mod chain;
mod exact;
mod reasons;
mod stage;

use base::Bytes;

use crate::check::{check_model, unsound};
use crate::cost::{Engine, Layout, Load, Prediction, StageLayout, predict};
use crate::sizes::head_bytes;
use crate::split::cut_layers;
use crate::{Cluster, ModelCost, PlanError};

/// Machines over which every layout is compared; of larger clusters, runs of neighbours are.
pub const MAX_EXACT_MACHINES: usize = 8;

/// Relative difference of speeds that is nothing but rounding.
const ROUNDING: f64 = 1e-12;

/// What a plan is to be good at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aim {
    /// Tokens a second under the load.
    Speed,
    /// Memory left on the fullest machine, of the fastest cut of each set of machines.
    Headroom,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ask {
    /// What the replica serves at once; its cache must fit.
    pub load: Load,
    /// What counts.
    pub aim: Aim,
    /// Watts that all machines together may draw while decoding.
    pub max_watts: Option<f64>,
}

/// A layout and what it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Who holds what.
    pub layout: Layout,
    /// What it does.
    pub prediction: Prediction,
}

/// A layout that was not chosen, or could not be.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    /// In words: "tensor parallel × 2".
    pub what: String,
    /// Why, in words with numbers.
    pub why: String,
    /// The best layout of its form, if there is one.
    pub candidate: Option<Candidate>,
}

/// The outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The best.
    pub best: Candidate,
    /// The best of every other form, and what could not be, each with the reason.
    pub rejected: Vec<Rejected>,
    /// Whether every layout over every set of machines was compared.
    pub is_exact: bool,
}

impl Candidate {
    /// Tokens a second of decode, 0 if unknown: for comparing.
    fn tokens_per_s(&self) -> f64 {
        self.prediction.decode.map_or(0.0, |d| d.tokens_per_s)
    }

    /// The smallest part of its memory that a machine has left.
    pub fn headroom(&self) -> f64 {
        let left = |m: &crate::cost::MemberMemory| {
            m.headroom().map_or(-1.0, |left| left.0 as f64 / m.memory.0.max(1) as f64)
        };
        self.prediction.memory.iter().map(left).fold(1.0, f64::min)
    }

    fn is_within(&self, ask: &Ask) -> bool {
        ask.max_watts.is_none_or(|most| self.prediction.watts.is_some_and(|watts| watts <= most))
    }

    /// Larger is better; fewer machines are better than more that do the same.
    fn rank(&self, ask: &Ask) -> (f64, f64, i64) {
        let n_machines = self.prediction.memory.len() as i64;
        let (speed, headroom) = (self.tokens_per_s(), self.headroom());
        match ask.aim {
            Aim::Speed => (speed, 0.0, -n_machines),
            Aim::Headroom => (headroom, speed, -n_machines),
        }
    }
}

/// Searches.
pub fn search(cluster: &Cluster, model: &ModelCost, engine: Engine, ask: &Ask) -> Result<Choice, PlanError> {
    check_model(&model.spec)?;
    cluster.check()?;
    check_ask(model, ask)?;
    let is_exact = cluster.machines.len() <= MAX_EXACT_MACHINES;
    let stand_in = with_some_bandwidth(cluster);
    let everything = Context { cluster: &stand_in, model, engine, load: ask.load };
    let layouts = if is_exact {
        let all: Vec<usize> = (0..cluster.machines.len()).collect();
        exact::layouts(&everything, &all)
    } else {
        chain::layouts(&everything)
    };
    let candidate = |layout: Layout| {
        let prediction = predict(cluster, model, engine, ask.load, &layout);
        balanced(&Context { cluster, ..everything }, Candidate { layout, prediction })
    };
    let candidates: Vec<Candidate> = layouts.into_iter().map(candidate).collect();
    let best = candidates.iter().filter(|c| c.is_within(ask)).max_by(|a, b| compare(a, b, ask));
    let Some(best) = best else {
        return Err(reasons::no_plan(&everything, ask, &candidates));
    };
    let rejected = reasons::rejected(&everything, ask, best, &candidates);
    Ok(Choice { best: best.clone(), rejected, is_exact })
}

/// The same stages with their layers cut by memory, if that is as fast: among equal machines every cut is.
fn balanced(c: &Context, candidate: Candidate) -> Candidate {
    let spec = &c.model.spec;
    let stages = &candidate.layout.stages;
    if stages.len() < 2 {
        return candidate;
    }
    let layers: Vec<u64> = spec.layers.iter().map(|l| (l.attention + l.ffn + l.replicated).0).collect();
    let memory = |stage: &StageLayout| -> Bytes {
        stage.members.iter().map(|m| c.cluster.machines[m.machine].node.memory).sum()
    };
    // in units in which the weights of all stages fit 32 bits
    let weights: Vec<u32> =
        stages.iter().map(|stage| (memory(stage).0 >> 24).clamp(1, u64::from(u32::MAX)) as u32).collect();
    let cuts = cut_layers(&layers, spec.embedding.0, head_bytes(spec, false).0, &weights);
    let mut layout = candidate.layout.clone();
    for (stage, layers) in layout.stages.iter_mut().zip(cuts) {
        stage.layers = layers;
    }
    let prediction = predict(c.cluster, c.model, c.engine, c.load, &layout);
    let recut = Candidate { layout, prediction };
    let is_as_fast = recut.tokens_per_s() >= candidate.tokens_per_s() * (1.0 - ROUNDING);
    if is_as_fast && recut.headroom() >= candidate.headroom() { recut } else { candidate }
}

/// What a search works on.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) model: &'a ModelCost,
    pub(crate) engine: Engine,
    pub(crate) load: Load,
}

fn compare(a: &Candidate, b: &Candidate, ask: &Ask) -> std::cmp::Ordering {
    let (a, b) = (a.rank(ask), b.rank(ask));
    a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2))
}

/// Where no machine's bandwidth is known, memory alone decides: the cluster with the same bandwidth everywhere.
fn with_some_bandwidth(cluster: &Cluster) -> Cluster {
    let mut cluster = cluster.clone();
    if cluster.machines.iter().all(|m| m.bandwidth.is_none()) {
        cluster.machines.iter_mut().for_each(|m| m.bandwidth = Some(1e9));
    }
    cluster
}

fn check_ask(model: &ModelCost, ask: &Ask) -> Result<(), PlanError> {
    let load = ask.load;
    if load.context_len == 0 {
        return Err(PlanError::ZeroGoal { what: "the context length" });
    }
    if load.n_sequences == 0 {
        return Err(PlanError::ZeroGoal { what: "the number of requests" });
    }
    if load.context_len > model.spec.max_context {
        let (asked, longest) = (load.context_len, model.spec.max_context);
        return Err(PlanError::ContextTooLong { asked, longest });
    }
    if model.spec.layers.len() != model.layers.len() {
        return Err(unsound("layers of the model", model.layers.len(), model.spec.layers.len()));
    }
    Ok(())
}
