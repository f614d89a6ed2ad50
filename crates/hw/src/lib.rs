//! What this machine is, which machines and links there are to be had, and how people write clusters of them down. What cannot
//! be found out is `None`, never a guess. It does not know what the machine will be used for.

pub mod catalogue;
pub mod cluster;
pub mod diagnose;
pub mod facts;
#[cfg(not(target_os = "macos"))]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
mod nearest;
pub mod sysfs;
pub mod tools;

use std::num::NonZero;
use std::thread::available_parallelism;

use base::Bytes;
#[cfg(not(target_os = "macos"))]
use linux::probe;
#[cfg(target_os = "macos")]
use macos::probe;

/// One machine, as this process sees it: limits set on the process count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its name in the network.
    pub name: Option<String>,
    /// Numbers of the cores this process may pin threads to, ascending: those of its affinity mask, as many as its
    /// quota pays for. `None` where the system does not say, or lets nobody choose as macOS does.
    pub cores: Option<Vec<usize>>,
    /// Memory the process could ever have.
    pub total_memory: Option<Bytes>,
    /// Memory it can have now without swapping.
    pub available_memory: Option<Bytes>,
    /// The processor as its maker calls it.
    pub cpu: Option<String>,
    /// The widest vector instructions, for reports; what kernels use is theirs to say.
    pub vectors: &'static str,
    /// System and version.
    pub os: Option<String>,
}

impl Machine {
    /// Looks at the machine. Call it before pinning threads: a pinned thread sees one core.
    pub fn probe() -> Machine {
        probe()
    }

    /// Cores the process may use: at least 1, for it runs.
    pub fn n_cores(&self) -> u32 {
        let counted = self.cores.as_ref().map(Vec::len);
        counted.or(available_parallelism().ok().map(NonZero::get)).map_or(1, |n| n as u32).max(1)
    }
}

fn known(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(target_arch = "x86_64")]
fn vectors() -> &'static str {
    if is_x86_feature_detected!("avx512f") {
        "AVX-512"
    } else if is_x86_feature_detected!("avx2") {
        "AVX2"
    } else {
        "SSE2"
    }
}

#[cfg(target_arch = "aarch64")]
fn vectors() -> &'static str {
    "NEON"
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn vectors() -> &'static str {
    "none known"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_under_test_has_cores_and_memory() {
        let machine = Machine::probe();
        let cores = machine.cores.clone().unwrap_or_default();
        assert!(cores.is_sorted() && cores.len() <= machine.n_cores() as usize, "{machine:?}");
        assert!(machine.n_cores() >= 1);
        let (total, available) = (machine.total_memory.unwrap(), machine.available_memory.unwrap());
        assert!(Bytes(0) < available && available <= total, "{machine:?}");
    }

    #[test]
    fn unknown_stays_unknown() {
        assert_eq!(known("  "), None);
        assert_eq!(known(" Zen 5 "), Some("Zen 5".into()));
    }
}
