//! A Linux machine, put together from its files. What is at the other ends of its wires it does not know.

use std::{
    collections::BTreeSet,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use base::Bytes;

use crate::{
    Machine,
    sysfs::{self, CpuFeatures, EnergyZone, HugePages, InfinibandDevice, Interface, PowerReading},
};

use super::{Facts, System};

/// Time between two readings of an energy counter, in milliseconds.
const ENERGY_MS: u64 = 200;

/// What only Linux has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Linux {
    /// Instructions.
    pub features: CpuFeatures,
    /// How processors choose their frequency; empty where nobody can.
    pub governors: BTreeSet<String>,
    /// Whether memory comes in large pages.
    pub huge_pages: Option<HugePages>,
    /// Its network interfaces.
    pub interfaces: Vec<Interface>,
    /// Its RDMA devices.
    pub infiniband: Vec<InfinibandDevice>,
    /// Its NVIDIA GPUs; empty without their driver.
    pub gpus: Vec<NvidiaGpu>,
}

/// A GPU as NVIDIA's driver tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct NvidiaGpu {
    /// As its maker calls it.
    pub name: String,
    /// All its memory.
    pub memory: Option<Bytes>,
    /// Memory in use.
    pub memory_used: Option<Bytes>,
    /// Drawn now.
    pub watts: Option<f64>,
}

/// Why nobody knows what processors draw.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPower {
    /// Virtual machines have none, for example.
    #[error("there are no energy counters here (RAPL)")]
    NoCounters,
    /// The counters are for root alone.
    #[error("the energy counter of {zone} cannot be read")]
    NotAllowed {
        /// The first that cannot be read.
        zone: String,
    },
}

/// Reads everything below a root.
pub(super) fn facts(machine: Machine, root: &Path) -> Facts {
    let linux = Linux {
        features: sysfs::cpu_features(root),
        governors: sysfs::governors(root),
        huge_pages: sysfs::huge_pages(root),
        interfaces: sysfs::interfaces(root),
        infiniband: sysfs::infiniband(root),
        gpus: Vec::new(),
    };
    let mut unanswered = Vec::new();
    let mut power = match processors_power(root, Duration::from_millis(ENERGY_MS)) {
        Ok(power) => power,
        Err(NoPower::NoCounters) => Vec::new(),
        Err(error) => {
            unanswered.push(error.to_string());
            Vec::new()
        }
    };
    power.extend(sysfs::power_sensors(root));
    Facts {
        machine,
        swap_used: sysfs::swap_used(root),
        disk_free: None,
        is_on_battery: sysfs::is_on_battery(root),
        memory_gb_s: None,
        power,
        peers: Vec::new(),
        unanswered,
        system: System::Linux(linux),
    }
}

/// What processors draw, the mean over a time, from their energy counters.
pub fn processors_power(root: &Path, time: Duration) -> Result<Vec<PowerReading>, NoPower> {
    let (before, started) = (sysfs::energy_zones(root), Instant::now());
    if before.is_empty() {
        return Err(NoPower::NoCounters);
    }
    if let Some(zone) = before.iter().find(|zone| zone.energy_uj.is_none()) {
        return Err(NoPower::NotAllowed { zone: zone.name.clone() });
    }
    thread::sleep(time);
    let (after, seconds) = (sysfs::energy_zones(root), started.elapsed().as_secs_f64());
    let reading = |zone: &EnergyZone| {
        let earlier = before.iter().find(|earlier| earlier.name == zone.name)?;
        let watts = zone.used_since(earlier)? as f64 / 1e6 / seconds;
        Some(PowerReading { name: zone.name.clone(), watts })
    };
    Ok(after.iter().filter_map(reading).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_machine_without_files_is_unknown() {
        let root = tempfile::tempdir().unwrap();
        let facts = facts(Machine::probe(), root.path());
        assert_eq!(facts.system, System::Linux(Linux::default()));
        assert_eq!((facts.swap_used, facts.power.len(), facts.unanswered.len()), (None, 0, 0));
    }

    #[test]
    fn energy_becomes_power() {
        let root = tempfile::tempdir().unwrap();
        let zone = root.path().join("sys/class/powercap/intel-rapl:0");
        fs::create_dir_all(&zone).unwrap();
        for (file, content) in [("name", "package-0"), ("energy_uj", "77"), ("max_energy_range_uj", "1000")] {
            fs::write(zone.join(file), content).unwrap();
        }
        let expected = PowerReading { name: "package-0 (intel-rapl:0)".to_owned(), watts: 0.0 };
        assert_eq!(processors_power(root.path(), Duration::from_millis(1)), Ok(vec![expected]));
        fs::write(zone.join("energy_uj"), "").unwrap();
        let facts = facts(Machine::probe(), root.path());
        assert!(facts.power.is_empty() && facts.unanswered[0].contains("package-0"), "{facts:?}");
    }
}
