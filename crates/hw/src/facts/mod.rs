//! Everything that can be found out about this machine without changing it: what it is made of, how it is set, what it is
//! linked to, what it draws, how fast its memory is. Takes seconds; `Machine::probe` is the short form. It judges nothing.

mod bandwidth;
#[cfg(any(target_os = "macos", test))]
pub(crate) mod child;
mod linux;
pub(crate) mod mac;
#[cfg(target_os = "linux")]
mod nvml;

use std::path::Path;

use base::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Machine, sysfs::PowerReading, tools::thunderbolt::Port};

pub use bandwidth::memory_bandwidth_gb_s;
pub use linux::{Linux, NoPower, NvidiaGpu, processors_power};
pub use mac::{Ask, Mac};

/// One machine, and what it was told of others.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// What it is.
    pub machine: Machine,
    /// What only its system has.
    pub system: System,
    /// Memory that is written to disk for want of room.
    pub swap_used: Option<Bytes>,
    /// Room on the disk where models are kept.
    pub disk_free: Option<Bytes>,
    /// Whether it runs on a battery; `None` where it has none or does not say.
    pub is_on_battery: Option<bool>,
    /// What its processors get from memory, measured, in 10^9 bytes a second.
    pub memory_gb_s: Option<f64>,
    /// What draws how much.
    pub power: Vec<PowerReading>,
    /// Other machines of the cluster, as they described themselves.
    pub peers: Vec<Peer>,
    /// What could not be asked, and why.
    pub unanswered: Vec<String>,
}

/// What only one system has.
#[derive(Clone, Debug, PartialEq)]
pub enum System {
    /// macOS.
    Mac(Mac),
    /// Linux, and what looks like it.
    Linux(Linux),
}

/// What a machine tells others about itself, so that pairs can be judged: a border type, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name in the network.
    pub name: String,
    /// What the system calls the model, as in `Mac15,14`.
    pub model: Option<String>,
    /// The system's build, as in `25C56`.
    pub build: Option<String>,
    /// Its Thunderbolt ports, in order.
    #[serde(default)]
    pub ports: Vec<Port>,
}

impl Facts {
    /// Looks at this machine; `models` is where models are kept. Call it before pinning threads. Nothing takes longer than
    /// its limit, all of it some seconds, and no setting is changed.
    pub fn probe(models: &Path) -> Facts {
        let machine = Machine::probe();
        let mut facts = ask(machine);
        facts.disk_free = disk_free(models);
        facts.memory_gb_s = memory_bandwidth_gb_s(facts.machine.n_cores(), facts.machine.available_memory);
        facts
    }

    /// What a Mac's tools say; `ask` runs a program with arguments and gives its output, or says why not.
    pub fn of_mac(machine: Machine, ask: &Ask) -> Facts {
        mac::facts(machine, ask)
    }

    /// What files below a root say, and a short time between two readings of the processors' energy.
    pub fn of_linux(machine: Machine, root: &Path) -> Facts {
        linux::facts(machine, root)
    }

    /// What others may know of this machine.
    pub fn as_peer(&self) -> Peer {
        let (settings, ports) = match &self.system {
            System::Mac(mac) => (mac.settings.clone(), mac.ports.clone().unwrap_or_default()),
            System::Linux(_) => Default::default(),
        };
        let name = self.machine.name.clone().unwrap_or_else(|| "this machine".to_owned());
        Peer { name, model: settings.model, build: settings.build, ports }
    }
}

#[cfg(target_os = "macos")]
fn ask(machine: Machine) -> Facts {
    Facts::of_mac(machine, &child::output)
}

#[cfg(not(target_os = "macos"))]
fn ask(machine: Machine) -> Facts {
    let mut facts = Facts::of_linux(machine, Path::new(crate::sysfs::ROOT));
    #[cfg(target_os = "linux")]
    if let System::Linux(linux) = &mut facts.system {
        linux.gpus = nvml::gpus();
    }
    facts
}

/// Room on the disk of a folder, or of the nearest one above that is there.
fn disk_free(folder: &Path) -> Option<Bytes> {
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let disk = rustix::fs::statvfs(there).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize).map(Bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_looked_at() {
        let facts = Facts::probe(Path::new("/nonexistent/models"));
        assert!(facts.disk_free.is_some_and(|free| free.0 > 0), "the root's");
        assert!(facts.memory_gb_s.is_some_and(|speed| speed > 0.1), "{facts:?}");
        let peer = facts.as_peer();
        assert!(!peer.name.is_empty());
        let text = serde_json::to_string(&peer).unwrap();
        assert_eq!(serde_json::from_str::<Peer>(&text).unwrap(), peer);
        if cfg!(target_os = "linux") {
            let System::Linux(linux) = &facts.system else { panic!("{facts:?}") };
            assert!(linux.features.is_known());
        }
    }
}
