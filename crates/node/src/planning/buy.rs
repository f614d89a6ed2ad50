//! Which machines of the catalogue would do: clusters of one kind of Mac, from one machine on, the first of each kind that meets all
//! limits. Beside them the GPUs that hold the same weights, by size alone. Mixed clusters are not tried.

use base::{Bytes, NodeId};
use hw::catalogue::{Carries, Catalogue, Family, LinkKind, MachineKind};
use plan::cost::{Load, ONEFOLD};
use plan::search::{Aim, Ask, Candidate, search};
use plan::{Cluster, Links, ModelCost, PlanError};

use super::machines::{link_kind, machine};

/// Machines in an offer at most.
const MAX_OFFERED: usize = 8;

/// What is asked of a cluster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Sequences and context.
    pub load: Load,
    /// Tokens of decode a second, of all sequences together.
    pub min_tokens_per_s: Option<f64>,
    /// Drawn while decoding.
    pub max_watts: Option<f64>,
    /// For all machines.
    pub max_usd: Option<f64>,
}

/// Machines that would do.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// Name of the kind in the catalogue.
    pub kind: String,
    /// How many.
    pub n: usize,
    /// What links them; `None` for one.
    pub link: Option<String>,
    /// The best plan within the limits.
    pub plan: Candidate,
    /// For all of them, if the price is known.
    pub price_usd: Option<f64>,
}

/// Machines that hold the model and miss a limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Miss {
    /// The machines with their fastest plan.
    pub offer: Offer,
    /// Limits that are missed, each with numbers; at least one.
    pub why: Vec<String>,
}

/// GPUs that hold the weights, nothing else considered.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// What they are.
    pub title: String,
    /// How many.
    pub n: u64,
    /// Drawn at most, the machines around them apart.
    pub watts: Option<f64>,
    /// Price of the GPUs alone.
    pub price_usd: Option<f64>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offers {
    /// Within all limits, cheapest first, those without a price last.
    pub offers: Vec<Offer>,
    /// Of each kind that holds the model, the fewest machines that miss the fewest limits; cheapest first, no price last.
    pub misses: Vec<Miss>,
    /// The alternative.
    pub comparisons: Vec<Comparison>,
}

/// Searches the catalogue.
pub fn offers(catalogue: &Catalogue, model: &ModelCost, limits: &Limits) -> Result<Offers, PlanError> {
    let mut found = Offers { comparisons: comparisons(catalogue, model), ..Offers::default() };
    for kind in catalogue.machines.iter().filter(|kind| kind.family == Family::Mac) {
        let mut nearest: Option<Miss> = None;
        for n in 1..=MAX_OFFERED {
            match offer(catalogue, kind, n, model, limits)? {
                None => {}
                Some(Ok(offer)) => {
                    found.offers.push(offer);
                    nearest = None;
                    break;
                }
                Some(Err(miss)) => {
                    let is_nearer = |known: &Miss| miss.why.len() < known.why.len();
                    if nearest.as_ref().is_none_or(is_nearer) {
                        nearest = Some(miss);
                    }
                }
            }
        }
        found.misses.extend(nearest);
    }
    let price = |offer: &Offer| offer.price_usd.unwrap_or(f64::INFINITY);
    found.offers.sort_by(|a, b| price(a).total_cmp(&price(b)));
    found.misses.sort_by(|a, b| price(&a.offer).total_cmp(&price(&b.offer)));
    Ok(found)
}

fn speed(offer: &Offer) -> f64 {
    offer.plan.prediction.decode.map_or(0.0, |d| d.tokens_per_s)
}

/// `n` machines of a kind: `None` if they do not hold the model, else the plan within the limits or what it misses.
fn offer(
    catalogue: &Catalogue,
    kind: &MachineKind,
    n: usize,
    model: &ModelCost,
    limits: &Limits,
) -> Result<Option<Result<Offer, Miss>>, PlanError> {
    if kind.gpu_memory.0.saturating_mul(n as u64) < model.weights().0 {
        return Ok(None);
    }
    let Some((cluster, link)) = cluster(catalogue, kind, n)? else { return Ok(None) };
    let ask = |max_watts| Ask { load: limits.load, aim: Aim::Speed, max_watts };
    let best = |max_watts| search(&cluster, model, ONEFOLD, &ask(max_watts)).map(|choice| choice.best);
    let (plan, is_cool) = match (best(limits.max_watts), limits.max_watts) {
        (Ok(plan), _) => (plan, true),
        (Err(PlanError::NoPlan { .. }), Some(_)) => match best(None) {
            Ok(plan) => (plan, false),
            Err(_) => return Ok(None),
        },
        (Err(PlanError::NoPlan { .. }), None) => return Ok(None),
        (Err(other), _) => return Err(other),
    };
    // a plan on fewer machines was there before
    if plan.layout.machines().count() < n {
        return Ok(None);
    }
    let price_usd = kind.price_usd.map(|price| price.value * n as f64);
    let offer = Offer { kind: kind.name.clone(), n, link, plan, price_usd };
    let why = missed(&offer, limits, is_cool);
    Ok(Some(if why.is_empty() { Ok(offer) } else { Err(Miss { offer, why }) }))
}

fn missed(offer: &Offer, limits: &Limits, is_cool: bool) -> Vec<String> {
    let mut why = Vec::new();
    if !is_cool {
        let most = limits.max_watts.unwrap_or_default();
        why.push(match offer.plan.prediction.watts {
            Some(watts) => format!("draws {watts:.0} W, {most:.0} W are allowed"),
            None => "its power is unknown".to_owned(),
        });
    }
    if let Some(least) = limits.min_tokens_per_s
        && speed(offer) < least
    {
        why.push(format!("{:.1} tok/s decode, {least:.1} are wanted", speed(offer)));
    }
    match (offer.price_usd, limits.max_usd) {
        (Some(price), Some(most)) if price > most => {
            why.push(format!("{price:.0} USD, {most:.0} USD are allowed"))
        }
        (None, Some(_)) => why.push("its price is unknown".to_owned()),
        _ => {}
    }
    why
}

/// `n` machines and the name of what links them: the best kind for which each has a port for every other one. Machines with too few
/// ports for a mesh are linked over IP by a switch.
fn cluster(
    catalogue: &Catalogue,
    kind: &MachineKind,
    n: usize,
) -> Result<Option<(Cluster, Option<String>)>, PlanError> {
    let number = |i: usize| machine(NodeId(i as u32), &format!("{}-{}", kind.name, i + 1), kind, catalogue);
    let machines = (0..n).map(number).collect();
    let mut links = Links::none(n);
    if n == 1 {
        return Ok(Some((Cluster { machines, links }, None)));
    }
    let Some(link) = catalogue.links.iter().find(|link| can_link(kind, link, n)) else { return Ok(None) };
    let index = links.add_kind(link_kind(link))?;
    links.connect_rest(index)?;
    Ok(Some((Cluster { machines, links }, Some(link.name.clone()))))
}

fn can_link(kind: &MachineKind, link: &LinkKind, n: usize) -> bool {
    let is_known = link.hop_ms.is_some() && link.bandwidth_gb_s.is_some() && !link.is_inside_machine;
    let has_port = match (link.thunderbolt, kind.thunderbolt) {
        (None, _) => true,
        (Some(least), Some(ports)) => {
            let n_ports = if link.carries == Carries::Rdma { ports.n_rdma_ports } else { ports.n_ports };
            ports.generation >= least && n_ports.is_some_and(|ports| ports as usize >= n - 1)
        }
        (Some(_), None) => false,
    };
    is_known && has_port
}

/// Nominal memory over weights, rounded up.
fn comparisons(catalogue: &Catalogue, model: &ModelCost) -> Vec<Comparison> {
    let Bytes(weights) = model.weights();
    let gpus = catalogue.machines.iter().filter(|kind| kind.family != Family::Mac);
    let compare = |kind: &MachineKind| {
        let n = weights.div_ceil(nominal(kind.memory)).max(1);
        let all = |figure: Option<hw::catalogue::Figure>| figure.map(|f| f.value * n as f64);
        Comparison { title: kind.title.clone(), n, watts: all(kind.max_w), price_usd: all(kind.price_usd) }
    };
    gpus.map(compare).collect()
}

/// What a GPU is sold with counts 10^9 bytes for each GB here, as its buyers do.
fn nominal(memory: Bytes) -> u64 {
    (memory.0 >> 30).max(1) * 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{Catalog, FetchConfig, Fetcher};
    use crate::planning::subject;

    fn kimi() -> ModelCost {
        let fetcher = Fetcher::new(FetchConfig::new("/nonexistent".into()));
        subject("kimi-k2-thinking", &Catalog::default(), &fetcher).unwrap().cost
    }

    fn limits() -> Limits {
        let load = Load { context_len: 8192, n_sequences: 1 };
        Limits { load, min_tokens_per_s: None, max_watts: None, max_usd: None }
    }

    #[test]
    fn the_founding_claim_is_told_with_its_power() {
        let catalogue = Catalogue::embedded().unwrap();
        let found = offers(&catalogue, &kimi(), &limits()).unwrap();
        let studio = found.offers.iter().find(|o| o.kind == "mac-studio-m3-ultra-512").unwrap();
        assert_eq!((studio.n, studio.price_usd), (2, Some(18_998.0)), "two hold it already");
        let gpu = found.comparisons.iter().find(|c| c.title.contains("5090")).unwrap();
        assert_eq!((gpu.n, gpu.watts), (19, Some(10_925.0)));

        let kind = catalogue.machine("mac-studio-m3-ultra-512").unwrap();
        let (four, link) = cluster(&catalogue, kind, 4).unwrap().unwrap();
        assert_eq!(link.as_deref(), Some("tb5-rdma"));
        let ask = Ask { load: limits().load, aim: Aim::Speed, max_watts: None };
        let choice = search(&four, &kimi(), ONEFOLD, &ask).unwrap();
        let tensor = choice.best.prediction.watts.unwrap();
        let form = |r: &&plan::search::Rejected| r.what == "pipeline × 4";
        let pipeline = choice.rejected.iter().find(form).unwrap().candidate.as_ref().unwrap();
        let pipeline = pipeline.prediction.watts.unwrap();
        println!("tensor {tensor:.0} W, pipeline {pipeline:.0} W, of the pipeline 526 W are measured");
        assert!(tensor > 900.0 && (pipeline / 526.0 - 1.0).abs() < 0.1, "{tensor} {pipeline}");
    }

    #[test]
    fn limits_are_kept_and_misses_named() {
        let catalogue = Catalogue::embedded().unwrap();
        let tight = Limits {
            min_tokens_per_s: Some(20.0),
            max_watts: Some(500.0),
            max_usd: Some(40_000.0),
            ..limits()
        };
        let found = offers(&catalogue, &kimi(), &tight).unwrap();
        for offer in &found.offers {
            assert!(offer.plan.prediction.watts.unwrap() <= 500.0 && speed(offer) >= 20.0, "{offer:?}");
        }
        let miss = found.misses.iter().find(|m| m.offer.kind == "mac-studio-m3-ultra-512").unwrap();
        assert_eq!(miss.offer.n, 2);
        assert!(matches!(&miss.why[..], [why] if why.contains("500 W are allowed")), "{:?}", miss.why);
        let prices: Vec<f64> = found.offers.iter().filter_map(|o| o.price_usd).collect();
        assert!(prices.is_sorted());
    }
}
