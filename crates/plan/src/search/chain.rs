//! Clusters that are too large to compare everything: exact search over a bounded number of neighbourhoods, every machine alone,
//! and, for models that need more machines, chains of neighbours. Bounded by the constants below, not by the cluster's size.

use std::collections::HashSet;

use super::stage::{Set, Sums};
use super::{Context, MAX_EXACT_MACHINES, exact};
use crate::cost::Layout;
use crate::{LinkKind, Machine};

/// Machines around which neighbourhoods and chains are grown, at most.
const MAX_SEEDS: usize = 12;
/// Widths of the stages of a chain.
const CHAIN_WIDTHS: [usize; 4] = [1, 2, 4, 8];

/// What is liked in the next machine.
#[derive(Clone, Copy)]
enum Preference {
    Bandwidth,
    Memory,
}

/// Layouts worth comparing.
pub(super) fn layouts(c: &Context) -> Vec<Layout> {
    let mut layouts: Vec<Layout> = Vec::new();
    let mut pools = HashSet::new();
    for seed in seeds(c) {
        for preference in [Preference::Bandwidth, Preference::Memory] {
            let mut pool = neighbourhood(c, seed, preference, MAX_EXACT_MACHINES, &[]);
            pool.sort_unstable();
            if pools.insert(pool.clone()) {
                layouts.extend(exact::layouts(c, &pool));
            }
        }
    }
    let sums = Sums::of(c.model);
    let alone =
        (0..c.cluster.machines.len()).filter_map(|m| exact::in_order(c, &[Set::new(c, &sums, &[m])?]));
    layouts.extend(alone);
    for seed in seeds(c) {
        for tp in CHAIN_WIDTHS {
            for preference in [Preference::Bandwidth, Preference::Memory] {
                layouts.extend(chain(c, &sums, seed, tp, preference));
            }
        }
    }
    layouts
}

/// The fastest and the largest machine, and one of each other sort, in the order of their bandwidth.
fn seeds(c: &Context) -> Vec<usize> {
    let machines = &c.cluster.machines;
    let mut order: Vec<usize> = (0..machines.len()).collect();
    let by_bandwidth = |m: &usize| std::cmp::Reverse(machines[*m].bandwidth.unwrap_or(0.0) as u64);
    order.sort_by_key(|m| (by_bandwidth(m), std::cmp::Reverse(machines[*m].node.memory)));
    let mut sorts = HashSet::new();
    let sort_of = |m: &Machine| (m.bandwidth.unwrap_or(0.0) as u64, m.node.memory);
    let mut seeds: Vec<usize> =
        order.iter().copied().filter(|&m| sorts.insert(sort_of(&machines[m]))).collect();
    seeds.truncate(MAX_SEEDS);
    seeds.extend((0..machines.len()).max_by_key(|&m| machines[m].node.memory));
    seeds
}

/// `n` machines around `seed`, none of `taken`: again and again the one with the best links to all so far, then the preferred one.
fn neighbourhood(c: &Context, seed: usize, preference: Preference, n: usize, taken: &[bool]) -> Vec<usize> {
    let machines = &c.cluster.machines;
    let mut pool = vec![seed];
    while pool.len() < n {
        let is_free = |m: &usize| !pool.contains(m) && !taken.get(*m).copied().unwrap_or(false);
        let best = (0..machines.len()).filter(is_free).max_by(|&a, &b| {
            let score = |m: usize| (closeness(c, &pool, m), liked(&machines[m], preference));
            let (a, b) = (score(a), score(b));
            a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1))
        });
        match best.filter(|&m| closeness(c, &pool, m) > 0.0) {
            Some(best) => pool.push(best),
            None => break,
        }
    }
    pool
}

/// Sum over the links to a pool of how many small sums a second each carries.
fn closeness(c: &Context, pool: &[usize], m: usize) -> f64 {
    let of = |link: &LinkKind| link.all_reduce_s(2).or(link.hop_s).map_or(0.0, |s| 1.0 / s.max(1e-9));
    pool.iter().filter_map(|&p| c.cluster.links.between(p, m)).map(of).sum()
}

fn liked(machine: &Machine, preference: Preference) -> f64 {
    let (bandwidth, memory) = (machine.bandwidth.unwrap_or(0.0), machine.node.memory.0 as f64);
    match preference {
        Preference::Bandwidth => bandwidth + memory * 1e-6,
        Preference::Memory => memory + bandwidth * 1e-6,
    }
}

/// A pipeline of groups of `tp` neighbours from `seed` on, just long enough for the model.
fn chain(c: &Context, sums: &Sums, seed: usize, tp: usize, preference: Preference) -> Option<Layout> {
    let machines = &c.cluster.machines;
    let mut taken = vec![false; machines.len()];
    let mut sets: Vec<Set> = Vec::new();
    let mut held = 0_u64;
    let mut next = Some(seed);
    while let Some(start) = next
        && sets.len() < c.model.layers.len()
    {
        let group = neighbourhood(c, start, preference, tp, &taken);
        if group.len() < tp {
            return None;
        }
        group.iter().for_each(|&m| taken[m] = true);
        held = group.iter().fold(held, |sum, &m| sum.saturating_add(machines[m].node.memory.0));
        sets.push(Set::new(c, sums, &group)?);
        if held >= c.model.weights().0
            && let Some(layout) = exact::in_order(c, &sets)
        {
            return Some(layout);
        }
        let end = group[0];
        let reachable = |&m: &usize| !taken[m] && closeness(c, &[end], m) > 0.0;
        next = (0..machines.len())
            .filter(reachable)
            .max_by(|&a, &b| liked(&machines[a], preference).total_cmp(&liked(&machines[b], preference)));
    }
    None
}
