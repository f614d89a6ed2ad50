//! The file form of a cluster: TOML with machines and links. It does not know which ports machines have.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::{catalogue::Catalogue, nearest::nearest};

use super::{Cluster, ClusterError, ClusterLink, check_size, members};

/// Cables between two machines at most.
const MAX_CABLES: u32 = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    over: Option<String>,
    #[serde(default)]
    machine: Vec<MachineEntry>,
    #[serde(default)]
    link: Vec<LinkEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MachineEntry {
    kind: String,
    #[serde(default = "one")]
    count: u32,
    name: Option<String>,
    price_usd: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkEntry {
    kind: String,
    between: Vec<String>,
    #[serde(default = "one")]
    cables: u32,
    price_usd: Option<f64>,
}

fn one() -> u32 {
    1
}

pub(super) fn parse(text: &str, catalogue: &Catalogue) -> Result<Cluster, ClusterError> {
    let file: File = toml::from_str(text).map_err(|e| problem(e.to_string().trim_end()))?;
    check_size(file.machine.iter().map(|entry| entry.count))?;
    let mut cluster = Cluster { members: Vec::new(), links: Vec::new() };
    let mut places: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for entry in &file.machine {
        add_machines(&mut cluster, &mut places, entry, catalogue)?;
    }
    for entry in &file.link {
        cluster.links.push(link(entry, &places, catalogue)?);
    }
    if let Some(over) = &file.over {
        let kind = catalogue.link(over)?.clone();
        let among: Vec<usize> = (0..cluster.members.len()).collect();
        if among.len() > 1 {
            cluster.links.push(ClusterLink { kind, among, n_cables: 1, price_usd: None });
        }
    }
    Ok(cluster)
}

/// Adds an entry's members, and their places by the name of each and of the entry.
fn add_machines(
    cluster: &mut Cluster,
    places: &mut BTreeMap<String, Vec<usize>>,
    entry: &MachineEntry,
    catalogue: &Catalogue,
) -> Result<(), ClusterError> {
    let name = entry.name.as_ref().unwrap_or(&entry.kind);
    if name.trim().is_empty() || entry.count == 0 {
        return Err(problem(format_args!("machine {name:?}: expected a name and a count of at least 1")));
    }
    check_price(name, entry.price_usd)?;
    let kind = catalogue.machine(&entry.kind)?;
    let first = cluster.members.len();
    cluster.members.extend(members(name, entry.count, kind, entry.price_usd));
    let all: Vec<usize> = (first..cluster.members.len()).collect();
    let each = all.iter().map(|&place| (cluster.members[place].name.clone(), vec![place]));
    let group = (entry.count > 1).then(|| (name.clone(), all.clone()));
    for (name, places_of_name) in each.chain(group) {
        if places.insert(name.clone(), places_of_name).is_some() {
            return Err(problem(format_args!("machine {name:?}: its name is there twice")));
        }
    }
    Ok(())
}

fn link(
    entry: &LinkEntry,
    places: &BTreeMap<String, Vec<usize>>,
    catalogue: &Catalogue,
) -> Result<ClusterLink, ClusterError> {
    let kind = catalogue.link(&entry.kind)?.clone();
    check_price(&entry.kind, entry.price_usd)?;
    if entry.cables == 0 || entry.cables > MAX_CABLES {
        let found = entry.cables;
        return Err(problem(format_args!(
            "link {}: cables: expected from 1 to {MAX_CABLES}, found {found}",
            kind.name
        )));
    }
    let mut among = BTreeSet::new();
    for name in &entry.between {
        let Some(found) = places.get(name) else {
            let nearest = nearest(name, places.keys().map(String::as_str));
            let hint = if nearest.is_empty() {
                String::new()
            } else {
                format!("\nhint: did you mean {}?", nearest.join(" or "))
            };
            return Err(problem(format_args!(
                "link {}: between: there is no machine {name:?}{hint}",
                kind.name
            )));
        };
        among.extend(found);
    }
    if among.len() < 2 {
        return Err(problem(format_args!(
            "link {}: between: expected two machines or more, found {}",
            kind.name,
            among.len()
        )));
    }
    let among = among.into_iter().collect();
    Ok(ClusterLink { kind, among, n_cables: entry.cables, price_usd: entry.price_usd })
}

fn check_price(of: &str, price_usd: Option<f64>) -> Result<(), ClusterError> {
    match price_usd {
        Some(price) if !(price.is_finite() && price >= 0.0) => {
            Err(problem(format_args!("{of}: price_usd: expected a number of 0 or more, found {price}")))
        }
        _ => Ok(()),
    }
}

fn problem(problem: impl ToString) -> ClusterError {
    ClusterError::File { problem: problem.to_string() }
}
