//! Findings of pairs of Macs, from what each says of itself: builds that differ, cables that are missing or crossed. It does not know
//! how the machines got each other's word.

use crate::{
    catalogue::Catalogue,
    facts::{Facts, Peer},
    tools::thunderbolt::{Cable, cables},
};

use super::{Finding, Severity, has_tb5, mac::port_name};

/// Peers that are looked at, for pairs grow with the square.
const MAX_PEERS: usize = 64;

/// This machine and its peers, each with each.
pub(super) fn diagnose(facts: &Facts, catalogue: &Catalogue, findings: &mut Vec<Finding>) {
    let this = facts.as_peer();
    let all: Vec<&Peer> = std::iter::once(&this).chain(&facts.peers).take(MAX_PEERS).collect();
    for (at, from) in all.iter().enumerate() {
        for to in &all[at + 1..] {
            pair(from, to, catalogue, findings);
        }
    }
}

fn pair(from: &Peer, to: &Peer, catalogue: &Catalogue, findings: &mut Vec<Finding>) {
    let names = format!("{} and {}", from.name, to.name);
    if let (Some(a), Some(b)) = (&from.build, &to.build)
        && a != b
    {
        findings.push(Finding {
            id: "builds-differ",
            severity: Severity::Broken,
            what: format!("{names} run different builds of macOS: {a} and {b}"),
            cost: "RDMA between them fails or loses data: all Macs of a mesh need the same build".to_owned(),
            remedy: "on the older one: sudo softwareupdate --install --all --restart".to_owned(),
        });
    }
    if from.ports.is_empty() || to.ports.is_empty() {
        return; // no Macs, or not known
    }
    let cables = cables(&from.ports, &to.ports);
    if cables.is_empty() {
        let can_rdma = [from, to].iter().all(|peer| has_tb5(catalogue, peer.model.as_deref()) != Some(false));
        let kind = if can_rdma { "Thunderbolt 5" } else { "Thunderbolt" };
        findings.push(Finding {
            id: "cable-missing",
            severity: Severity::Slow,
            what: format!("no cable leads from {} to {}", from.name, to.name),
            cost: "links do not route: this pair exchanges over the network, and cannot share layers (tensor parallel)".to_owned(),
            remedy: format!("connect them with a {kind} cable"),
        });
    }
    if is_crossed(&cables, from, to) {
        findings.push(Finding {
            id: "cables-crossed",
            severity: Severity::Broken,
            what: format!("the cables between {names} are crossed: {}", ends(&cables, from, to)),
            cost: "with several cables between two Macs, ports are paired in their order: each end would wait at the other cable"
                .to_owned(),
            remedy: "swap the cables at one end, so that lower ports meet lower ports".to_owned(),
        });
    }
}

/// Several direct cables whose order differs at the ends; ports are in order.
fn is_crossed(cables: &[Cable], from: &Peer, to: &Peer) -> bool {
    let direct = cables.iter().filter(|cable| cable.is_direct);
    let numbers = direct
        .filter_map(|cable| Some((from.ports.get(cable.from)?.number?, to.ports.get(cable.to)?.number?)));
    let mut numbers: Vec<(u32, u32)> = numbers.collect();
    numbers.sort_unstable();
    !numbers.is_sorted_by_key(|(_, to)| *to)
}

fn ends(cables: &[Cable], from: &Peer, to: &Peer) -> String {
    let name = |peer: &Peer, place: usize| peer.ports.get(place).map(port_name).unwrap_or_default();
    let end = |cable: &Cable| format!("{} to {}", name(from, cable.from), name(to, cable.to));
    cables.iter().filter(|cable| cable.is_direct).map(end).collect::<Vec<_>>().join(", ")
}
