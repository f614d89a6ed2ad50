//! What Linux knows of power: energy counters of processors (RAPL, whoever made them), sensors in watts (hwmon), batteries. Most
//! systems let only root read the counters. It takes no time: a rate is two readings, and the caller's clock.

use std::path::Path;

use super::{folders, name, read, read_number};

/// A counter at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnergyZone {
    /// What it counts and its folder, as in `package-0 (intel-rapl:0)`.
    pub name: String,
    /// The counter, in microjoules; `None` if it may not be read.
    pub energy_uj: Option<u64>,
    /// Where it starts again from 0.
    pub max_uj: u64,
}

/// What something draws.
#[derive(Clone, Debug, PartialEq)]
pub struct PowerReading {
    /// What draws it, as in `amdgpu power1`, `package-0 (intel-rapl:0)`.
    pub name: String,
    /// Now, or on average over a short time.
    pub watts: f64,
}

impl EnergyZone {
    /// What was used since an earlier reading of the same zone, in microjoules. A counter may have started again.
    pub fn used_since(&self, before: &EnergyZone) -> Option<u64> {
        let (now, then) = (self.energy_uj?, before.energy_uj?);
        Some(if now < then { before.max_uj.saturating_sub(then).saturating_add(now) } else { now - then })
    }
}

/// The counters of whole processors and their parts; their folders are `intel-rapl:…`, whoever made the processor.
pub fn energy_zones(root: &Path) -> Vec<EnergyZone> {
    let folders = folders(&root.join("sys/class/powercap"));
    let zone = |folder: &std::path::PathBuf| {
        let kind = read(&folder.join("name"))?;
        Some(EnergyZone {
            name: format!("{kind} ({})", name(folder)),
            energy_uj: read_number(&folder.join("energy_uj")),
            max_uj: read_number(&folder.join("max_energy_range_uj"))?,
        })
    };
    folders.iter().filter(|folder| folder.join("energy_uj").exists()).filter_map(zone).collect()
}

/// Sensors that tell watts.
pub fn power_sensors(root: &Path) -> Vec<PowerReading> {
    let mut sensors = Vec::new();
    for chip in folders(&root.join("sys/class/hwmon")) {
        let chip_name = read(&chip.join("name")).unwrap_or_else(|| name(&chip));
        for file in folders(&chip) {
            let file_name = name(&file);
            let Some((sensor, kind)) = file_name.split_once('_') else { continue };
            let has_average = chip.join(format!("{sensor}_average")).exists();
            let is_reading = kind == "average" || kind == "input" && !has_average;
            if !sensor.starts_with("power") || !is_reading {
                continue;
            }
            if let Some(microwatts) = read_number::<u64>(&file) {
                let name = format!("{chip_name} {sensor}");
                sensors.push(PowerReading { name, watts: microwatts as f64 / 1e6 });
            }
        }
    }
    sensors
}

/// Whether a laptop runs on its battery; `None` where there is neither battery nor mains to ask.
pub fn is_on_battery(root: &Path) -> Option<bool> {
    let supplies = folders(&root.join("sys/class/power_supply"));
    let of_kind = |kind: &'static str| {
        supplies.iter().filter(move |supply| read(&supply.join("type")).as_deref() == Some(kind))
    };
    // a mouse has a battery too, and says that it is no part of the machine
    let is_machines = |supply: &&std::path::PathBuf| read(&supply.join("scope")).as_deref() != Some("Device");
    let has_mains = of_kind("Mains").any(|mains| read_number::<u8>(&mains.join("online")) == Some(1));
    let mut batteries = of_kind("Battery").filter(is_machines).peekable();
    batteries.peek()?;
    Some(
        !has_mains
            && batteries.any(|battery| read(&battery.join("status")).as_deref() == Some("Discharging")),
    )
}
