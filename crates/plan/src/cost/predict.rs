//! What a layout does on a cluster: speed of decode and prefill with its error band, memory, watts. The closed formulas only;
//! what is not known is `None`.

use super::group::hop_s;
use super::memory::{MemberMemory, memory};
use super::power::watts;
use super::{Breakdown, Engine, Group, Layout, Load, Rank, Step};
use crate::fitted::{CARRIED_BAND, DERIVED_RATE_BAND, FITTED_BAND, UNSEEN_KIND_BAND};
use crate::{Cluster, Machine, ModelCost};

/// Everything that is predicted of a layout under a load.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// What every rank's machine holds.
    pub memory: Vec<MemberMemory>,
    /// One token for each sequence.
    pub decode: Option<Speed>,
    /// Seconds of each stage in a step of decode, hops apart.
    pub stages_s: Vec<f64>,
    /// Reading a prompt of the context's length, alone.
    pub prefill: Option<Speed>,
    /// Seconds to the first token of such a prompt.
    pub ttft_s: Option<f64>,
    /// Drawn by all machines while decoding.
    pub watts: Option<f64>,
}

/// Tokens a second, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Of all sequences together.
    pub tokens_per_s: f64,
    /// How far off it may be, as a part of it.
    pub band: f64,
    /// Seconds of a step: of decode, or of the average chunk of the prompt.
    pub step: Breakdown,
}

/// Applies the formulas. The layout's indices must be those of the cluster.
pub fn predict(
    cluster: &Cluster,
    model: &ModelCost,
    engine: Engine,
    load: Load,
    layout: &Layout,
) -> Prediction {
    let memory = memory(cluster, model, engine, load, layout);
    let decode = pass(cluster, model, engine, layout, Step::decode(load));
    let chunk = Step::prefill(load.context_len, engine.chunk_rows);
    let has_rates = layout.machines().all(|m| cluster.machines[m].prefill_rate(model).is_some());
    let prefill = pass(cluster, model, engine, layout, chunk).filter(|_| has_rates);
    let band = layout.machines().map(|m| band(&cluster.machines[m], model)).fold(0.0, f64::max);
    let rate_band = layout.machines().any(|m| !cluster.machines[m].prefill.is_measured);
    let speed = |(step, _): &(Breakdown, Vec<f64>), n_rows: f64, band: f64| Speed {
        tokens_per_s: n_rows / step.total_s(),
        band,
        step: *step,
    };
    let decode_speed = decode.as_ref().map(|d| speed(d, f64::from(load.n_sequences), band));
    let more = if rate_band { DERIVED_RATE_BAND } else { 0.0 };
    let prefill = prefill.as_ref().map(|p| speed(p, chunk.n_rows, band + more));
    let one = pass(cluster, model, engine, layout, Step::decode(Load { n_sequences: 1, ..load }));
    let ttft_s =
        prefill.zip(one).map(|(p, (last, _))| f64::from(load.context_len) / p.tokens_per_s + last.total_s());
    let stages_s = decode.as_ref().map_or_else(Vec::new, |d| d.1.clone());
    let watts = decode.as_ref().and_then(|(step, stages)| all_watts(cluster, layout, step, stages));
    Prediction { memory, decode: decode_speed, stages_s, prefill, ttft_s, watts }
}

/// One pass through all stages: the sum, and the seconds of each stage.
fn pass(
    cluster: &Cluster,
    model: &ModelCost,
    engine: Engine,
    layout: &Layout,
    step: Step,
) -> Option<(Breakdown, Vec<f64>)> {
    let mut sum = Breakdown::default();
    let mut stages = Vec::with_capacity(layout.stages.len());
    let mut before: Option<Vec<usize>> = None;
    for (i, stage) in layout.stages.iter().enumerate() {
        let machines: Vec<usize> = stage.members.iter().map(|m| m.machine).collect();
        let ranks = stage.members.iter();
        let ranks = ranks.map(|m| Rank::new(&cluster.machines[m.machine], &m.shard, model, engine)).collect();
        let group = Group::new(cluster, &machines, ranks)?;
        let layers = &model.layers[stage.layers.start as usize..stage.layers.end as usize];
        let mut own = layers
            .chunk_by(|a, b| a == b)
            .map(|same| group.layer(model, &same[0], step).times(same.len() as f64))
            .fold(Breakdown::default(), |a, b| a + b);
        if i + 1 == layout.stages.len() {
            own += group.head(model, step);
        }
        if let Some(before) = &before {
            sum.hops_s += hop_s(cluster, before, &machines, model, step)?;
        }
        stages.push(own.total_s());
        sum += own;
        before = Some(machines);
    }
    Some((sum, stages))
}

fn band(machine: &Machine, model: &ModelCost) -> f64 {
    let constants = &machine.constants;
    let is_seen = model.kind() != crate::LayerKind::Latent || model.experts.is_some();
    let band = if constants.is_fitted { FITTED_BAND } else { CARRIED_BAND };
    band + if is_seen { 0.0 } else { UNSEEN_KIND_BAND }
}

fn all_watts(cluster: &Cluster, layout: &Layout, step: &Breakdown, stages: &[f64]) -> Option<f64> {
    let of_stage = |(stage, turn): (&super::StageLayout, &f64)| -> Option<f64> {
        stage.members.iter().map(|m| watts(&cluster.machines[m.machine], *turn, step.total_s())).sum()
    };
    layout.stages.iter().zip(stages).map(of_stage).sum()
}
