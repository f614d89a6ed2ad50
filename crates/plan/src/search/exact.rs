//! Every layout over every subset of a few machines, by dynamic programming. Seconds of a step are a sum over stages, of the layers
//! each has and of the hop before it, so the best way to have placed the first layers on a set of machines with a given last stage
//! does not depend on what follows:
//!
//! `D[used, last, end] = min over start, before of D[used \ last, before, start] + hop(before, last) + seconds(last, start..end)`.
//!
//! The minimum over `start` slides over a window, for what fits is a run: the work is about
//! `2ⁿ · stages · (stages + ways to share) · layers`.

use std::collections::{HashMap, VecDeque};

use super::Context;
use super::stage::{Set, Split, Sums};
use crate::cost::{Layout, Member, StageLayout, Step, hop_s};

/// Seconds until a layer, and how it was got there.
#[derive(Clone)]
struct Row {
    /// For each end.
    seconds: Vec<f64>,
    from: Vec<From>,
}

#[derive(Clone, Copy, Default)]
struct From {
    split: usize,
    start: usize,
    /// Set of the stage before.
    before: usize,
}

/// The fastest layout of each width over each subset of `pool`.
pub(super) fn layouts(c: &Context, pool: &[usize]) -> Vec<Layout> {
    let sums = Sums::of(c.model);
    (1..=pool.len()).flat_map(|tp| layouts_of_width(c, &sums, pool, tp)).collect()
}

fn layouts_of_width(c: &Context, sums: &Sums, pool: &[usize], tp: usize) -> Vec<Layout> {
    let n = pool.len() as u32;
    let masks = (1_u32..1 << n).filter(|mask| mask.count_ones() as usize == tp);
    let set = |mask: u32| {
        let machines: Vec<usize> = (0..n).filter(|i| mask >> i & 1 == 1).map(|i| pool[i as usize]).collect();
        Some((mask, Set::new(c, sums, &machines)?))
    };
    let sets: Vec<(u32, Set)> = masks.filter_map(set).collect();
    let hops = hops(c, &sets);
    let mut rows: HashMap<(u32, usize), Row> = HashMap::new();
    let mut layouts = Vec::new();
    for used in (1_u32..1 << n).filter(|used| (used.count_ones() as usize).is_multiple_of(tp)) {
        for (at, (mask, set)) in sets.iter().enumerate().filter(|(_, (mask, _))| used & mask == *mask) {
            let row = match used ^ mask {
                0 => first_stage(set, c.model.layers.len()),
                rest => later_stage(set, c.model.layers.len(), &arrivals(&rows, &hops, rest, at, sets.len())),
            };
            rows.insert((used, at), row);
        }
        let done = |at: &usize| {
            rows.get(&(used, *at)).map_or(f64::INFINITY, |row| row.seconds[c.model.layers.len()])
        };
        let last = (0..sets.len()).min_by(|a, b| done(a).total_cmp(&done(b)));
        if let Some(last) = last.filter(|at| done(at).is_finite()) {
            layouts.push(follow(&sets, &rows, used, last, c.model.layers.len()));
        }
    }
    layouts
}

/// Seconds from the end of each set's stage to the start of each other's; `None` where they cannot follow each other.
fn hops(c: &Context, sets: &[(u32, Set)]) -> Vec<Option<f64>> {
    let step = Step::decode(c.load);
    let mut hops = Vec::with_capacity(sets.len() * sets.len());
    for (before_mask, before) in sets {
        for (mask, set) in sets {
            let is_apart = before_mask & mask == 0;
            let hop = || hop_s(c.cluster, &before.machines, &set.machines, c.model, step);
            hops.push(if is_apart { hop() } else { None });
        }
    }
    hops
}

/// For each layer, the fewest seconds after which the stage `at` can begin with it, and the stage before.
fn arrivals(
    rows: &HashMap<(u32, usize), Row>,
    hops: &[Option<f64>],
    used: u32,
    at: usize,
    n_sets: usize,
) -> Vec<(f64, usize)> {
    let mut arrivals: Vec<(f64, usize)> = Vec::new();
    for before in 0..n_sets {
        let (Some(row), Some(hop)) = (rows.get(&(used, before)), hops[before * n_sets + at]) else {
            continue;
        };
        arrivals.resize(row.seconds.len(), (f64::INFINITY, 0));
        for (arrival, seconds) in arrivals.iter_mut().zip(&row.seconds) {
            if seconds + hop < arrival.0 {
                *arrival = (seconds + hop, before);
            }
        }
    }
    arrivals
}

fn first_stage(set: &Set, n_layers: usize) -> Row {
    let mut row =
        Row { seconds: vec![f64::INFINITY; n_layers + 1], from: vec![From::default(); n_layers + 1] };
    for (split, way) in set.splits.iter().enumerate() {
        for end in (1..=n_layers).filter(|&end| way.fits_from_0[end]) {
            let head = if end == n_layers { way.head_s } else { 0.0 };
            if way.upto_s[end] + head < row.seconds[end] {
                row.seconds[end] = way.upto_s[end] + head;
                row.from[end] = From { split, ..From::default() };
            }
        }
    }
    row
}

fn later_stage(set: &Set, n_layers: usize, arrivals: &[(f64, usize)]) -> Row {
    let mut row =
        Row { seconds: vec![f64::INFINITY; n_layers + 1], from: vec![From::default(); n_layers + 1] };
    if arrivals.is_empty() {
        return row;
    }
    for (split, way) in set.splits.iter().enumerate() {
        slide(way, n_layers, arrivals, |end, start, seconds| {
            if seconds < row.seconds[end] {
                row.seconds[end] = seconds;
                row.from[end] = From { split, start, before: arrivals[start].1 };
            }
        });
    }
    row
}

/// Calls `found` with the best start for every end that has one.
fn slide(way: &Split, n_layers: usize, arrivals: &[(f64, usize)], mut found: impl FnMut(usize, usize, f64)) {
    let gain = |start: usize| arrivals[start].0 - way.upto_s[start];
    let mut window: VecDeque<usize> = VecDeque::new(); // starts, their gains ascending
    for end in 2..=n_layers {
        let newest = end - 1;
        while window.back().is_some_and(|&start| gain(start) >= gain(newest)) {
            window.pop_back();
        }
        window.push_back(newest);
        while window.front().is_some_and(|&start| start < way.first_start[end]) {
            window.pop_front();
        }
        if let Some(&start) = window.front() {
            let head = if end == n_layers { way.head_s } else { 0.0 };
            found(end, start, gain(start) + way.upto_s[end] + head);
        }
    }
}

/// The layout, read backwards from its last stage.
fn follow(
    sets: &[(u32, Set)],
    rows: &HashMap<(u32, usize), Row>,
    mut used: u32,
    mut at: usize,
    n_layers: usize,
) -> Layout {
    let mut stages = Vec::new();
    let mut end = n_layers;
    while let Some(row) = rows.get(&(used, at)) {
        let from = row.from[end];
        let (mask, set) = &sets[at];
        stages.push(stage(set, from.split, from.start, end));
        (used, at, end) = (used ^ mask, from.before, from.start);
    }
    stages.reverse();
    Layout { stages }
}

pub(super) fn stage(set: &Set, split: usize, start: usize, end: usize) -> StageLayout {
    let members = set.machines.iter().zip(&set.splits[split].shards);
    let members = members.map(|(&machine, shard)| Member { machine, shard: shard.clone() }).collect();
    StageLayout { layers: start as u32..end as u32, members }
}

/// The fastest layout with exactly these stages in this order, if it fits.
pub(super) fn in_order(c: &Context, sets: &[Set]) -> Option<Layout> {
    let n_layers = c.model.layers.len();
    let step = Step::decode(c.load);
    let mut rows = vec![first_stage(sets.first()?, n_layers)];
    for pair in sets.windows(2) {
        let hop = hop_s(c.cluster, &pair[0].machines, &pair[1].machines, c.model, step)?;
        let before = &rows[rows.len() - 1];
        let arrivals: Vec<(f64, usize)> = before.seconds.iter().map(|s| (s + hop, 0)).collect();
        rows.push(later_stage(&pair[1], n_layers, &arrivals));
    }
    rows.last().filter(|row| row.seconds[n_layers].is_finite())?;
    let mut end = n_layers;
    let mut stages = Vec::new();
    for (set, row) in sets.iter().zip(&rows).rev() {
        let from = row.from[end];
        stages.push(stage(set, from.split, from.start, end));
        end = from.start;
    }
    stages.reverse();
    Some(Layout { stages })
}
