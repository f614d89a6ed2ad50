//! What this machine is: cores, memory, processor, system. What cannot be found out is `None`, never a guess.
//! It does not know what the machine will be used for.

use std::num::NonZero;
use std::thread::available_parallelism;

use base::Bytes;
use sysinfo::{CpuRefreshKind, System};

/// One machine, as this process sees it: limits set on the process count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its name in the network.
    pub name: Option<String>,
    /// Numbers of the cores this process may pin threads to, ascending: those of its affinity mask, as many as its
    /// quota pays for. `None` where the system does not say.
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
        let mut system = System::new();
        system.refresh_memory();
        system.refresh_cpu_list(CpuRefreshKind::nothing());
        // A container's limits, where they are tighter than the machine's.
        let limits = system.cgroup_limits();
        let total_limit = limits.as_ref().map(|l| l.total_memory);
        let free_limit = limits.as_ref().map(|l| l.free_memory);
        Machine {
            name: System::host_name().and_then(known),
            cores: usable_cores(),
            total_memory: tightest(system.total_memory(), total_limit),
            available_memory: tightest(system.available_memory(), free_limit),
            cpu: system.cpus().first().and_then(|cpu| known(cpu.brand().to_owned())),
            vectors: vectors(),
            os: System::long_os_version().and_then(known),
        }
    }

    /// Cores the process may use: at least 1, for it runs.
    pub fn n_cores(&self) -> u32 {
        let counted = self.cores.as_ref().map(Vec::len);
        counted.or(available_parallelism().ok().map(NonZero::get)).map_or(1, |n| n as u32).max(1)
    }
}

fn usable_cores() -> Option<Vec<usize>> {
    let mut cores: Vec<usize> = core_affinity::get_core_ids()?.into_iter().map(|core| core.id).collect();
    cores.sort_unstable();
    cores.truncate(available_parallelism().map_or(usize::MAX, NonZero::get));
    (!cores.is_empty()).then_some(cores)
}

/// A machine without memory is one that does not say.
fn tightest(machine: u64, limit: Option<u64>) -> Option<Bytes> {
    (machine > 0).then(|| Bytes(limit.map_or(machine, |limit| limit.min(machine))))
}

fn known(text: String) -> Option<String> {
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
    fn a_pinned_thread_sees_its_core_only() {
        let pinned = std::thread::spawn(|| {
            let last = core_affinity::get_core_ids()?.pop()?;
            core_affinity::set_for_current(last).then(|| (last.id, Machine::probe()))
        });
        let Some((core, machine)) = pinned.join().unwrap() else { return }; // no pinning here
        if cfg!(target_os = "linux") {
            assert_eq!((machine.cores.as_deref(), machine.n_cores()), (Some([core].as_slice()), 1));
        }
    }

    #[test]
    fn unknown_stays_unknown() {
        assert_eq!(tightest(0, Some(5)), None);
        assert_eq!(tightest(9, Some(5)), Some(Bytes(5)));
        assert_eq!(tightest(9, Some(u64::MAX)), Some(Bytes(9)));
        assert_eq!(known("  ".into()), None);
        assert_eq!(known(" Zen 5 ".into()), Some("Zen 5".into()));
    }
}
