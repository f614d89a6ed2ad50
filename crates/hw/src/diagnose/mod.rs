//! What stands between a machine, and the pairs it can see, and full speed: facts become findings, each with what it costs and
//! the command that mends it. Pure: it asks nothing, changes nothing, and says nothing of what is not known.

mod linux;
mod mac;
mod pairs;
#[cfg(test)]
mod tests;

use std::fmt;

use base::Bytes;

use crate::{
    catalogue::{Catalogue, Thunderbolt, ThunderboltGeneration},
    facts::{Facts, System},
};

/// Less than this is no swapping worth a word: systems write out what nobody has used for days.
const SWAP_WORTH_A_WORD: Bytes = Bytes(512 << 20);
/// Less room than this holds no model worth a cluster.
const LOW_DISK: Bytes = Bytes(50_000_000_000);

/// One thing that stands in the way, or that is good to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Its name, for scripts: it stays the same when the words change.
    pub id: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What is.
    pub what: String,
    /// What it costs.
    pub cost: String,
    /// The command that mends it, or what a person has to do.
    pub remedy: String,
}

/// How much a finding matters; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something that should work does not.
    Broken,
    /// It works, slower than it could.
    Slow,
    /// Good to know.
    Note,
}

impl Severity {
    /// Its name, for scripts.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Broken => "broken",
            Severity::Slow => "slow",
            Severity::Note => "note",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// All findings, the worst first.
pub fn diagnose(facts: &Facts, catalogue: &Catalogue) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &facts.system {
        System::Mac(mac) => {
            if let Some(memory) = facts.machine.total_memory {
                mac::wired_limit(mac, memory, &mut findings);
            }
            mac::ports(mac, catalogue, &mut findings);
            mac::network(mac, &mut findings);
        }
        System::Linux(linux) => linux::diagnose(linux, &mut findings),
    }
    pairs::diagnose(facts, catalogue, &mut findings);
    of_any_system(facts, &mut findings);
    findings.sort_by_key(|finding| finding.severity); // stable: what belongs together stays together
    findings
}

fn of_any_system(facts: &Facts, findings: &mut Vec<Finding>) {
    if let Some(used) = facts.swap_used.filter(|used| *used >= SWAP_WORTH_A_WORD) {
        let sees = if matches!(facts.system, System::Mac(_)) { "top -o mem" } else { "top -o %MEM" };
        findings.push(Finding {
            id: "swap-in-use",
            severity: Severity::Slow,
            what: format!("{used} of memory lie on disk"),
            cost: "a model whose weights are swapped out decodes a hundred times slower".to_owned(),
            remedy: format!("see who holds memory, and end what you can spare: {sees}"),
        });
    }
    if let Some(free) = facts.disk_free.filter(|free| *free < LOW_DISK) {
        findings.push(Finding {
            id: "disk-low",
            severity: Severity::Slow,
            what: format!("{free} are free on the disk where models are kept"),
            cost: "large models cannot be fetched to this machine".to_owned(),
            remedy: "see which models lie there: onefold models".to_owned(),
        });
    }
    if facts.is_on_battery == Some(true) {
        findings.push(Finding {
            id: "on-battery",
            severity: Severity::Slow,
            what: "this machine runs on its battery".to_owned(),
            cost: "processors are held back, and the cluster loses a node when it is empty".to_owned(),
            remedy: "plug the charger in".to_owned(),
        });
    }
}

/// Only a radio leads to others.
fn wireless_only() -> Finding {
    Finding {
        id: "wireless-only",
        severity: Severity::Slow,
        what: "only Wi-Fi leads to other machines".to_owned(),
        cost: "every token waits for the radio: milliseconds at each exchange, and more when others use it"
            .to_owned(),
        remedy: "connect a cable: Thunderbolt between Macs, Ethernet elsewhere".to_owned(),
    }
}

/// The ports of a Mac by its model, if the catalogue has it.
fn thunderbolt_of(catalogue: &Catalogue, model: Option<&str>) -> Option<Thunderbolt> {
    catalogue.macs(model?).find_map(|kind| kind.thunderbolt)
}

/// Whether a model has Thunderbolt 5, if that is known.
fn has_tb5(catalogue: &Catalogue, model: Option<&str>) -> Option<bool> {
    Some(thunderbolt_of(catalogue, model)?.generation >= ThunderboltGeneration::Tb5)
}
