//! Seconds of one step on the ranks of a stage. All ranks wait for each other after attention and again after the feed-forward
//! layer, so each half takes as long as its slowest rank.
//!
//! Per layer: `max_r attention_r + max_r ffn_r + max_r fixed_r + 2 · all_reduce`, where a rank reads its share of what is cut
//! and all of what is not:
//! `quantised / (BW · e_q) + plain / (BW · e_b) + cache / (BW · e_kv)`, or computes `flops / R` if that is longer.
//! Parameters: fitted on the rows in `tests/measured.rs`.

use base::Shard;

use super::{Breakdown, Engine, Step};
use crate::{Cluster, LayerCost, Machine, ModelCost, Part};

/// Bytes of a value that ranks exchange.
const EXCHANGED_VALUE_BYTES: f64 = 2.0;
/// Part of a link's bandwidth that large all_reduces reach: 8 of 9.4 GB/s over Thunderbolt 5.
const BANDWIDTH_REACHED: f64 = 0.85;

/// A machine and its part of everything that is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rank<'a> {
    pub(crate) machine: &'a Machine,
    pub(crate) heads: f64,
    pub(crate) ffn: f64,
    pub(crate) vocab: f64,
}

impl<'a> Rank<'a> {
    pub(crate) fn new(machine: &'a Machine, shard: &Shard, model: &ModelCost, engine: Engine) -> Rank<'a> {
        let part = |len: usize, n: u32| len as f64 / f64::from(n.max(1));
        let spec = &model.spec;
        let vocab = part(shard.vocab.len(), spec.vocab);
        Rank {
            machine,
            heads: part(shard.kv_heads.len(), spec.n_kv_heads),
            ffn: part(shard.ffn.len(), spec.ffn),
            vocab: if engine.replicates_vocabulary { 1.0 } else { vocab },
        }
    }
}

/// The ranks of a stage, and how long they take to sum.
#[derive(Clone, Debug)]
pub(crate) struct Group<'a> {
    pub(crate) ranks: Vec<Rank<'a>>,
    /// A small all_reduce, in seconds.
    all_reduce_s: f64,
    /// What a byte of a large one costs, in seconds.
    all_reduce_byte_s: f64,
}

/// What a rank reads and computes in one half of a layer.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    quantised: f64,
    plain: f64,
    kv: f64,
    flops: f64,
}

impl Work {
    fn add(&mut self, part: Part, read: f64, computed: f64, n_rows: f64) {
        self.quantised += part.quantised.0 as f64 * read;
        self.plain += part.plain.0 as f64 * read;
        self.flops += 2.0 * n_rows * part.n_params as f64 * computed;
    }
}

impl<'a> Group<'a> {
    /// `None` where two of the machines have no link, or something about one of them is not known.
    pub(crate) fn new(cluster: &Cluster, machines: &[usize], ranks: Vec<Rank<'a>>) -> Option<Group<'a>> {
        let n = machines.len();
        let (mut all_reduce_s, mut all_reduce_byte_s) = (0.0_f64, 0.0_f64);
        for (i, &a) in machines.iter().enumerate() {
            cluster.machines[a].bandwidth?;
            for &b in &machines[..i] {
                let link = cluster.links.between(a, b)?;
                all_reduce_s = all_reduce_s.max(link.all_reduce_s(n)?);
                // every rank sends and receives 2 (n − 1) / n of the bytes
                let passes = 2.0 * (n as f64 - 1.0) / n as f64;
                all_reduce_byte_s = all_reduce_byte_s.max(passes / (link.bandwidth? * BANDWIDTH_REACHED));
            }
        }
        Some(Group { ranks, all_reduce_s, all_reduce_byte_s })
    }

    /// Seconds of one layer.
    pub(crate) fn layer(&self, model: &ModelCost, layer: &LayerCost, step: Step) -> Breakdown {
        let attention = self.slowest(model, |rank| attention_work(model, layer, rank, step));
        let ffn = self.slowest(model, |rank| ffn_work(model, layer, rank, step));
        let fixed = |rank: &Rank| rank.machine.constants.layer_s.of(model.kind());
        let mut sum = attention + ffn;
        sum.fixed_s = self.ranks.iter().map(fixed).fold(0.0, f64::max);
        sum.communication_s = 2.0 * self.all_reduce_s(model, step);
        sum
    }

    /// Seconds of the output head, once a step.
    pub(crate) fn head(&self, model: &ModelCost, step: Step) -> Breakdown {
        self.slowest(model, |rank| {
            let mut work = Work::default();
            work.add(model.head, rank.vocab, rank.vocab, step.n_rows);
            work
        })
    }

    /// An all_reduce of `n_rows` hidden states; the measured latency is that of one.
    fn all_reduce_s(&self, model: &ModelCost, step: Step) -> f64 {
        let bytes = (step.n_rows - 1.0).max(0.0) * f64::from(model.spec.hidden) * EXCHANGED_VALUE_BYTES;
        self.all_reduce_s + bytes * self.all_reduce_byte_s
    }

    /// What the rank that takes longest spends.
    fn slowest(&self, model: &ModelCost, work: impl Fn(&Rank) -> Work) -> Breakdown {
        let spent = self.ranks.iter().map(|rank| seconds(model, rank.machine, work(rank)));
        spent.max_by(|a, b| a.total_s().total_cmp(&b.total_s())).unwrap_or_default()
    }
}

fn attention_work(model: &ModelCost, layer: &LayerCost, rank: &Rank, step: Step) -> Work {
    let mut work = Work::default();
    work.add(layer.attention, rank.heads, rank.heads, step.n_rows);
    work.add(layer.replicated, 1.0, 1.0, step.n_rows);
    let kv_share = match model.spec.latent {
        None => rank.heads,
        Some(_) => 1.0,
    };
    work.kv = step.n_cached * model.kv_bytes_per_layer().0 as f64 * kv_share;
    work.flops += step.n_rows * step.n_attended * model.attention_flops * rank.heads;
    work
}

fn ffn_work(model: &ModelCost, layer: &LayerCost, rank: &Rank, step: Step) -> Work {
    let mut work = Work::default();
    work.add(layer.ffn, rank.ffn, rank.ffn, step.n_rows);
    let (read, computed) = (model.expert_share(step.n_rows), model.expert_share(1.0));
    work.add(layer.experts, read * rank.ffn, computed * rank.ffn, step.n_rows);
    work
}

/// Reading, or arithmetic where that takes longer and its rate is known.
fn seconds(model: &ModelCost, machine: &Machine, work: Work) -> Breakdown {
    let c = &machine.constants;
    let bandwidth = machine.bandwidth.unwrap_or(f64::INFINITY); // `Group::new` has refused the unknown
    let kv_reached = match model.spec.latent {
        None => c.kv_heads,
        Some(_) => c.kv_latent,
    };
    let weights_s = (work.quantised / c.quantised + work.plain / c.plain) / bandwidth;
    let kv_s = work.kv / (bandwidth * kv_reached);
    let computing_s = machine.prefill_rate(model).map_or(0.0, |rate| work.flops / rate);
    Breakdown { weights_s, kv_s, compute_s: (computing_s - weights_s - kv_s).max(0.0), ..Default::default() }
}

impl Machine {
    /// Operations a second it reaches on this model; `None` if nobody knows.
    pub(crate) fn prefill_rate(&self, model: &ModelCost) -> Option<f64> {
        match model.kind() {
            crate::LayerKind::Dense => self.prefill.dense,
            crate::LayerKind::Experts | crate::LayerKind::Latent => self.prefill.experts,
        }
    }
}

/// Handing `n_rows` hidden states from a stage to the next; `None` without a link or its figures.
pub(crate) fn hop_s(
    cluster: &Cluster,
    from: &[usize],
    to: &[usize],
    model: &ModelCost,
    step: Step,
) -> Option<f64> {
    let bytes = step.n_rows * f64::from(model.spec.hidden) * EXCHANGED_VALUE_BYTES;
    let one = |(&a, &b): (&usize, &usize)| {
        let link = cluster.links.between(a, b)?;
        Some(link.hop_s? + bytes / (link.bandwidth? * BANDWIDTH_REACHED))
    };
    from.iter().zip(to).map(one).try_fold(0.0, |most: f64, hop| Some(most.max(hop?)))
}
