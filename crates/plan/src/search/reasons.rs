//! Why a layout was not chosen, in words with numbers. It compares and phrases; it chooses nothing.

use std::collections::BTreeMap;

use base::Bytes;

use super::{Aim, Ask, Candidate, Context, Rejected, compare};
use crate::cost::{Breakdown, Layout, Load, MemberMemory, activation_bytes, kv_per_layer};
use crate::{PlanError, shards};

/// Speeds closer than this are called equal.
const EQUAL_WITHIN: f64 = 0.005;

/// The best of each form that is not the best of all, then the forms that cannot be, then the machines that were left out.
pub(super) fn rejected(c: &Context, ask: &Ask, best: &Candidate, all: &[Candidate]) -> Vec<Rejected> {
    let mut forms: BTreeMap<(usize, usize), &Candidate> = BTreeMap::new();
    for candidate in all {
        let form = form_of(&candidate.layout);
        let known = forms.entry(form).or_insert(candidate);
        if compare(candidate, known, ask).is_gt() {
            *known = candidate;
        }
    }
    let mut others: Vec<&Candidate> =
        forms.iter().filter(|(form, _)| **form != form_of(&best.layout)).map(|(_, c)| *c).collect();
    others.sort_by(|a, b| compare(b, a, ask));
    let mut rejected: Vec<Rejected> = others.into_iter().map(|other| worse(c, ask, best, other)).collect();
    let n_machines = c.cluster.machines.len().min(super::MAX_EXACT_MACHINES);
    let is_missing = |form: &(usize, usize)| !forms.contains_key(form);
    let forms_of = |n: usize| [(n, 1), (1, n)];
    let missing = (1..=n_machines).flat_map(forms_of).filter(is_missing);
    let mut missing: Vec<(usize, usize)> = missing.collect();
    missing.dedup();
    rejected.extend(missing.into_iter().map(|form| impossible(c, form)));
    if c.cluster.machines.len() <= super::MAX_EXACT_MACHINES {
        rejected.extend(left_out(c, best, all));
    }
    rejected
}

/// That nothing fits or nothing may be, with the nearest miss.
pub(super) fn no_plan(c: &Context, ask: &Ask, all: &[Candidate]) -> PlanError {
    let least = all.iter().filter_map(|c| c.prediction.watts).min_by(f64::total_cmp);
    if let Some(most) = ask.max_watts.filter(|_| !all.is_empty()) {
        let found = least.map_or("unknown".to_owned(), |w| format!("{w:.0} W at least"));
        return PlanError::NoPlan {
            why: format!("expected at most {most:.0} W while decoding, found {found}"),
            hint: "allow more power".to_owned(),
        };
    }
    let kv = whole_kv(c);
    let activations = activation_bytes(c.model, c.engine.chunk_rows, c.load.n_sequences);
    let (weights, memory) = (c.model.weights(), c.cluster.memory());
    let n = c.cluster.machines.len();
    PlanError::NoPlan {
        why: format!(
            "expected room for {weights} of weights, {kv} of KV cache and {activations} of activations on each \
             machine, found {memory} on {n} machine{}, in no arrangement enough",
            if n == 1 { "" } else { "s" }
        ),
        hint: "shorten the context (--context), ask for fewer requests, or use more machines or links"
            .to_owned(),
    }
}

fn whole_kv(c: &Context) -> Bytes {
    let per_token = c.model.kv_bytes_per_layer().0.saturating_mul(c.model.layers.len() as u64);
    let Load { context_len, n_sequences } = c.load;
    Bytes(per_token.saturating_mul(u64::from(context_len) * u64::from(n_sequences)))
}

fn form_of(layout: &Layout) -> (usize, usize) {
    (layout.tp(), layout.pp())
}

/// A form in words.
pub(super) fn form_in_words((tp, pp): (usize, usize)) -> String {
    match (tp, pp) {
        (1, 1) => "one machine".to_owned(),
        (tp, 1) => format!("tensor parallel × {tp}"),
        (1, pp) => format!("pipeline × {pp}"),
        (tp, pp) => format!("tensor parallel × {tp} in a pipeline × {pp}"),
    }
}

fn worse(c: &Context, ask: &Ask, best: &Candidate, other: &Candidate) -> Rejected {
    let form = form_of(&other.layout);
    let mut why: Vec<String> = uneven(c, &other.layout).into_iter().collect();
    let over = ask.max_watts.filter(|_| !other.is_within(ask));
    if let Some(most) = over {
        why.push(match other.prediction.watts {
            Some(watts) => format!("draws {watts:.0} W, {most:.0} W are allowed"),
            None => "its power is unknown".to_owned(),
        });
    }
    why.push(slower(best, other));
    if ask.aim == Aim::Headroom {
        let [a, b] = [best, other].map(|c| 100.0 * c.headroom());
        why.push(format!("leaves {b:.0} % of the fullest machine's memory instead of {a:.0} %"));
    }
    Rejected { what: form_in_words(form), why: why.join(", "), candidate: Some(other.clone()) }
}

/// How much slower, and what grew most.
fn slower(best: &Candidate, other: &Candidate) -> String {
    let (Some(a), Some(b)) = (best.prediction.decode, other.prediction.decode) else {
        return "its speed is unknown".to_owned();
    };
    let part = b.tokens_per_s / a.tokens_per_s - 1.0;
    let speeds = format!("{:.1} instead of {:.1} tok/s decode", b.tokens_per_s, a.tokens_per_s);
    let verdict = if part.abs() < EQUAL_WITHIN {
        "as fast".to_owned()
    } else if part < 0.0 {
        format!("{:.0} % slower", -100.0 * part)
    } else {
        format!("{:.0} % faster", 100.0 * part)
    };
    let watts = best.prediction.watts.zip(other.prediction.watts);
    let watts = watts.map(|(a, b)| format!("; {b:.0} W instead of {a:.0}")).unwrap_or_default();
    format!("{verdict} ({speeds}{}{watts})", grown(&a.step, &b.step))
}

fn grown(best: &Breakdown, other: &Breakdown) -> String {
    let terms = best.terms().into_iter().zip(other.terms());
    let grown =
        terms.map(|((name, a), (_, b))| (name, a, b)).max_by(|x, y| (x.2 - x.1).total_cmp(&(y.2 - y.1)));
    match grown {
        Some((name, a, b)) if b > a => format!("; {name} {:.1} ms instead of {:.1}", 1e3 * b, 1e3 * a),
        _ => String::new(),
    }
}

/// How heads are split where it is not evenly.
fn uneven(c: &Context, layout: &Layout) -> Option<String> {
    let stage = layout.stages.first().filter(|s| s.members.len() > 1)?;
    let lengths: Vec<usize> = stage.members.iter().map(|m| m.shard.kv_heads.len()).collect();
    let is_even = lengths.iter().all(|&n| n == lengths[0]);
    let words: Vec<String> = lengths.iter().map(ToString::to_string).collect();
    let n_heads = c.model.spec.n_kv_heads;
    let what = if c.model.spec.n_heads == n_heads { "heads" } else { "KV heads" };
    (!is_even).then(|| format!("{n_heads} {what} split {}", words.join("/")))
}

fn impossible(c: &Context, (tp, pp): (usize, usize)) -> Rejected {
    let what = form_in_words((tp, pp));
    let why = no_units(c, tp, pp).or_else(|| no_links(c, tp, pp)).unwrap_or_else(|| no_room(c, tp, pp));
    Rejected { what, why, candidate: None }
}

fn no_units(c: &Context, tp: usize, pp: usize) -> Option<String> {
    if pp > c.model.layers.len() {
        return Some(format!("there are {} layers", c.model.layers.len()));
    }
    match shards(&c.model.spec, &vec![1; tp]) {
        Err(PlanError::TooManyRanks { n_units, units, .. }) => {
            Some(format!("{n_units} {units} cannot be shared out over {tp} machines"))
        }
        _ => None,
    }
}

fn no_links(c: &Context, tp: usize, pp: usize) -> Option<String> {
    let n = c.cluster.machines.len();
    let name = |m: usize| &c.cluster.machines[m].node.name;
    let unknown = (0..n).find(|&m| c.cluster.machines[m].bandwidth.is_none());
    if let Some(m) = unknown {
        return Some(format!("the memory bandwidth of {} is unknown", name(m)));
    }
    let links = &c.cluster.links;
    for a in 0..n {
        for b in 0..a {
            match links.between(a, b) {
                None => return Some(format!("{} and {} are not linked", name(b), name(a))),
                Some(link) if tp > 1 && link.all_reduce_s(tp).is_none() => {
                    return Some(format!("how long a sum takes over {} is unknown", link.name));
                }
                Some(link) if pp > 1 && link.hop_s.is_none() => {
                    return Some(format!("how long a hop takes over {} is unknown", link.name));
                }
                Some(_) => {}
            }
        }
    }
    None
}

fn no_room(c: &Context, tp: usize, pp: usize) -> String {
    let Ok(shards) = shards(&c.model.spec, &vec![1; tp]) else { return "its shards are none".to_owned() };
    let n = (tp * pp) as u64;
    let kv = kv_per_layer(c.model, &shards[0], c.load).0.saturating_mul(c.model.layers.len() as u64);
    let activations = activation_bytes(c.model, c.engine.chunk_rows, c.load.n_sequences);
    let needed = Bytes(c.model.weights().0 / n) + Bytes(kv / pp as u64) + activations;
    let mut memory: Vec<Bytes> = c.cluster.machines.iter().map(|m| m.node.memory).collect();
    memory.sort_unstable_by(|a, b| b.cmp(a));
    let smallest = memory.get(n as usize - 1).copied().unwrap_or_default();
    let largest = if n == 1 {
        format!("the largest has {smallest}")
    } else {
        format!("the {n} largest have {smallest} or more")
    };
    format!("it does not fit: about {needed} on each machine, {largest}")
}

/// Machines that the best layout does not use, with the best one that does.
fn left_out(c: &Context, best: &Candidate, all: &[Candidate]) -> Vec<Rejected> {
    let used: Vec<usize> = best.layout.machines().collect();
    let without = (0..c.cluster.machines.len()).filter(|m| !used.contains(m));
    let reason = |m: usize| {
        let with_it = all.iter().filter(|a| a.layout.machines().any(|used| used == m));
        let next = with_it.max_by(|a, b| a.tokens_per_s().total_cmp(&b.tokens_per_s()));
        let link = worst_link(c, m).map(|name| format!("linked by {name}, ")).unwrap_or_default();
        let why = match next {
            Some(next) => {
                format!("{link}with it, {} is {}", form_in_words(form_of(&next.layout)), slower(best, next))
            }
            None => format!("{link}no arrangement holds the model with it"),
        };
        Rejected { what: format!("using {}", c.cluster.machines[m].node.name), why, candidate: next.cloned() }
    };
    without.map(reason).collect()
}

/// Its links, if none of them carries RDMA.
fn worst_link(c: &Context, m: usize) -> Option<String> {
    let others = (0..c.cluster.machines.len()).filter(|&o| o != m);
    let links: Vec<_> = others.filter_map(|o| c.cluster.links.between(m, o)).collect();
    let first = links.first()?;
    links.iter().all(|l| !l.is_rdma).then(|| format!("{} (no RDMA)", first.name))
}

impl MemberMemory {
    /// Part of the memory that is left, from 0 to 1.
    pub fn free_part(&self) -> f64 {
        self.headroom().map_or(0.0, |left| left.0 as f64 / self.memory.0.max(1) as f64)
    }
}
