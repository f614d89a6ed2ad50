//! A set of machines that could be a stage, with every way to share its layers: seconds and bytes of any run of layers at once,
//! from sums over the layers before it.

use base::{Bytes, Shard};

use super::Context;
use crate::cost::{Group, Rank, Step, activation_bytes, kv_per_layer};
use crate::sizes::{head_bytes, part};
use crate::{Machine, ModelCost, shards};

/// Largest weight of a machine in a group of so many; the weights of all groups are every combination.
const MAX_WEIGHTS: [u64; 9] = [1, 1, 8, 4, 3, 2, 2, 2, 2];

/// Machines in the order of ranks, and the ways to share layers among them.
pub(super) struct Set {
    pub(super) machines: Vec<usize>,
    pub(super) splits: Vec<Split>,
}

/// One way.
pub(super) struct Split {
    pub(super) shards: Vec<Shard>,
    /// Seconds of the layers before each.
    pub(super) upto_s: Vec<f64>,
    /// Seconds of the output head.
    pub(super) head_s: f64,
    /// For each end, the first start after 0 with which the layers fit; the end itself if none does.
    pub(super) first_start: Vec<usize>,
    /// For each end, whether all layers before it fit.
    pub(super) fits_from_0: Vec<bool>,
}

/// Bytes before each layer, by how they are cut.
pub(super) struct Sums {
    attention: Vec<u64>,
    ffn: Vec<u64>,
    replicated: Vec<u64>,
}

impl Sums {
    pub(super) fn of(model: &ModelCost) -> Sums {
        let upto = |bytes: fn(&base::LayerBytes) -> u64| {
            let mut sum = 0_u64;
            let before = model.spec.layers.iter().map(|l| {
                sum = sum.saturating_add(bytes(l));
                sum
            });
            std::iter::once(0).chain(before).collect()
        };
        Sums {
            attention: upto(|l| l.attention.0),
            ffn: upto(|l| l.ffn.0),
            replicated: upto(|l| l.replicated.0),
        }
    }
}

impl Set {
    /// `None` if the machines cannot be a stage: a link or a figure is missing, or there are more of them than units.
    pub(super) fn new(c: &Context, sums: &Sums, machines: &[usize]) -> Option<Set> {
        let members: Vec<&Machine> = machines.iter().map(|&m| &c.cluster.machines[m]).collect();
        let mut splits: Vec<Split> = Vec::new();
        for weights in weightings(&members) {
            let shards = shards(&c.model.spec, &weights).ok()?;
            if splits.iter().any(|s| s.shards == shards) {
                continue;
            }
            splits.push(Split::new(c, sums, machines, shards)?);
        }
        Some(Set { machines: machines.to_vec(), splits })
    }
}

/// Weights by which machines may share layers: every small combination, and in proportion to their bandwidth. They do not depend on
/// memory, so more memory takes no way to share away. Equal machines share evenly, which no other way beats.
fn weightings(members: &[&Machine]) -> Vec<Vec<u64>> {
    let n = members.len();
    let is_equal = |a: &Machine, b: &Machine| {
        (a.bandwidth, a.constants, a.prefill, a.node.memory)
            == (b.bandwidth, b.constants, b.prefill, b.node.memory)
    };
    let mut all = vec![vec![1; n]];
    if members.iter().all(|m| is_equal(m, members[0])) {
        return all;
    }
    let bandwidths = members.iter().map(|m| m.bandwidth.map_or(1, |b| (b / 1e6) as u64).max(1));
    all.push(bandwidths.collect());
    let most = MAX_WEIGHTS.get(n).copied().unwrap_or(1);
    let n_combinations = most.saturating_pow(n as u32);
    let digits = |i: u64| (0..n as u32).map(move |place| 1 + i / most.pow(place) % most);
    all.extend((0..n_combinations).map(|i| digits(i).collect::<Vec<u64>>()).filter(|w| gcd(w) == 1));
    all
}

fn gcd(weights: &[u64]) -> u64 {
    let two = |mut a: u64, mut b: u64| {
        while b > 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    weights.iter().copied().fold(0, two)
}

impl Split {
    fn new(c: &Context, sums: &Sums, machines: &[usize], shards: Vec<Shard>) -> Option<Split> {
        let ranks = machines.iter().zip(&shards);
        let ranks = ranks.map(|(&m, s)| Rank::new(&c.cluster.machines[m], s, c.model, c.engine)).collect();
        let group = Group::new(c.cluster, machines, ranks)?;
        let step = Step::decode(c.load);
        let mut upto_s = vec![0.0];
        for same in c.model.layers.chunk_by(|a, b| a == b) {
            let own = group.layer(c.model, &same[0], step).total_s();
            for _ in same {
                upto_s.push(upto_s[upto_s.len() - 1] + own);
            }
        }
        let head_s = group.head(c.model, step).total_s();
        let (first_start, fits_from_0) = runs_that_fit(c, sums, machines, &shards);
        Some(Split { shards, upto_s, head_s, first_start, fits_from_0 })
    }
}

/// For each end: the first start after 0 that fits, and whether 0 does.
fn runs_that_fit(c: &Context, sums: &Sums, machines: &[usize], shards: &[Shard]) -> (Vec<usize>, Vec<bool>) {
    let n_layers = c.model.layers.len();
    let activations = activation_bytes(c.model, c.engine.chunk_rows, c.load.n_sequences).0;
    let members: Vec<_> = machines
        .iter()
        .zip(shards)
        .map(|(&m, s)| (s, kv_per_layer(c.model, s, c.load).0, c.cluster.machines[m].node.memory.0))
        .collect();
    let fits = |start: usize, end: usize| {
        start < end
            && members.iter().all(|&(shard, kv, memory)| {
                let weights = weights(c, sums, shard, start, end);
                let kv = kv.saturating_mul((end - start) as u64);
                weights.saturating_add(kv).saturating_add(activations) <= memory
            })
    };
    let mut first_start = vec![0; n_layers + 1];
    // mostly everything fits: one look, for a shorter run needs less
    let mut start = 1;
    let all_fit = fits(start, n_layers);
    for (end, first) in first_start.iter_mut().enumerate().skip(1) {
        while !all_fit && start < end && !fits(start, end) {
            start += 1;
        }
        *first = start.min(end);
    }
    let mut fits_from_0 = vec![false; n_layers + 1];
    fits_from_0[n_layers] = fits(0, n_layers);
    let ends: Vec<usize> = (1..n_layers).collect();
    let n_fit = if fits_from_0[n_layers] { ends.len() } else { ends.partition_point(|&end| fits(0, end)) };
    fits_from_0[1..=n_fit].fill(true);
    (first_start, fits_from_0)
}

/// Bytes of a run of layers on one rank, with embedding and output head where the run has them.
fn weights(c: &Context, sums: &Sums, shard: &Shard, start: usize, end: usize) -> u64 {
    let spec = &c.model.spec;
    let run = |upto: &[u64]| Bytes(upto[end] - upto[start]);
    let mut vocab = Bytes(0);
    if start == 0 {
        vocab += spec.embedding;
    }
    if end == c.model.layers.len() {
        vocab += head_bytes(spec, start == 0);
    }
    let rows = if c.engine.replicates_vocabulary { 0..spec.vocab } else { shard.vocab.clone() };
    let sum = part(run(&sums.attention), &shard.kv_heads, spec.n_kv_heads)
        + part(run(&sums.ffn), &shard.ffn, spec.ffn)
        + part(vocab, &rows, spec.vocab)
        + run(&sums.replicated);
    sum.0
}
