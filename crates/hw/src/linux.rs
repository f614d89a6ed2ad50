//! The machine as Linux describes it, a container's limits included; other systems that sysinfo reads are no worse
//! off. It does not know macOS, where sysinfo would need Apple's frameworks.

use std::num::NonZero;
use std::thread::available_parallelism;

use base::Bytes;
use sysinfo::{CpuRefreshKind, System};

use crate::{Machine, known, vectors};

pub(crate) fn probe() -> Machine {
    let mut system = System::new();
    system.refresh_memory();
    system.refresh_cpu_list(CpuRefreshKind::nothing());
    // A container's limits, where they are tighter than the machine's.
    let limits = system.cgroup_limits();
    let total_limit = limits.as_ref().map(|l| l.total_memory);
    let free_limit = limits.as_ref().map(|l| l.free_memory);
    Machine {
        name: System::host_name().and_then(|name| known(&name)),
        cores: usable_cores(),
        total_memory: tightest(system.total_memory(), total_limit),
        available_memory: tightest(system.available_memory(), free_limit),
        cpu: system.cpus().first().and_then(|cpu| known(cpu.brand())),
        vectors: vectors(),
        os: System::long_os_version().and_then(|os| known(&os)),
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_tighter_limit_counts() {
        assert_eq!(tightest(0, Some(5)), None);
        assert_eq!(tightest(9, Some(5)), Some(Bytes(5)));
        assert_eq!(tightest(9, Some(u64::MAX)), Some(Bytes(9)));
    }
}
