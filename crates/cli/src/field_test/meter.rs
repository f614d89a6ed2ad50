//! What the machine draws, as the system tells it: `powermetrics` on macOS, RAPL's energy counters on Linux. Both are for root
//! alone on most machines; who may not read them learns how it could be done.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use hw::{
    facts::{NoPower, processors_power},
    sysfs,
    tools::{MacPower, powermetrics},
};

/// Watts of each part of the machine that is told of.
pub(super) type Watts = BTreeMap<String, f64>;

/// Time between two readings of powermetrics, in milliseconds.
const INTERVAL_MS: u64 = 500;
/// Without sudo first, so that the model in the cache does not belong to root.
const HINT: &str = "hint: root can read it: after a run without, sudo onefold field-test";

/// Where power is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meter {
    /// A program of macOS.
    Powermetrics,
    /// Counters of processors under Linux.
    Rapl,
}

impl Meter {
    pub(super) fn of_this_system() -> Meter {
        if cfg!(target_os = "macos") { Meter::Powermetrics } else { Meter::Rapl }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Meter::Powermetrics => "powermetrics",
            Meter::Rapl => "RAPL",
        }
    }

    /// The mean over a time, or why it cannot be read here.
    pub(super) fn read(self, time: Duration) -> Result<Watts, String> {
        match self {
            Meter::Powermetrics => powermetrics(time),
            Meter::Rapl => rapl(Path::new(sysfs::ROOT), time),
        }
    }
}

fn powermetrics(time: Duration) -> Result<Watts, String> {
    let n_samples = (time.as_millis() as u64 / INTERVAL_MS).max(1).to_string();
    let output = Command::new("powermetrics")
        .args(["-f", "plist", "--samplers", "cpu_power,gpu_power,ane_power"])
        .args(["-i", &INTERVAL_MS.to_string(), "-n", &n_samples])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("powermetrics: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(format!("powermetrics: {said}\n{HINT}"));
    }
    powermetrics::samples(&output.stdout).map(|samples| mean(&samples)).map_err(|error| error.to_string())
}

/// The mean of every part over the samples that tell it.
fn mean(samples: &[MacPower]) -> Watts {
    let mut readings: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for reading in samples.iter().flat_map(MacPower::readings) {
        readings.entry(reading.name).or_default().push(reading.watts);
    }
    let mean = |all: Vec<f64>| all.iter().sum::<f64>() / all.len() as f64;
    readings.into_iter().map(|(name, all)| (name, mean(all))).collect()
}

fn rapl(root: &Path, time: Duration) -> Result<Watts, String> {
    let readings = processors_power(root, time).map_err(|error| match error {
        NoPower::NoCounters => error.to_string(),
        NoPower::NotAllowed { .. } => format!("{error}\n{HINT}"),
    })?;
    Ok(readings.into_iter().map(|reading| (reading.name, reading.watts)).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn samples_are_averaged() {
        let sample = |cpu_w, gpu_w| MacPower { cpu_w: Some(cpu_w), gpu_w, ..MacPower::default() };
        let watts = mean(&[sample(1.0, None), sample(2.0, Some(30.0))]);
        assert_eq!(watts, [("CPU", 1.5), ("GPU", 30.0)].map(|(name, watts)| (name.to_owned(), watts)).into());
        assert!(mean(&[]).is_empty());
    }

    #[test]
    fn counters_that_cannot_be_read_come_with_a_hint() {
        let root = tempfile::tempdir().unwrap();
        let time = Duration::from_millis(1);
        assert!(rapl(root.path(), time).unwrap_err().contains("no energy counters"));
        let zone = root.path().join("sys/class/powercap/intel-rapl:0");
        fs::create_dir_all(&zone).unwrap();
        for (file, content) in [("name", "package-0\n"), ("max_energy_range_uj", "1000\n"), ("energy_uj", "")]
        {
            fs::write(zone.join(file), content).unwrap();
        }
        let why = rapl(root.path(), time).unwrap_err();
        assert!(why.contains("package-0") && why.contains("hint: root"), "{why}");
        fs::write(zone.join("energy_uj"), "5000\n").unwrap();
        assert_eq!(rapl(root.path(), time).unwrap(), [("package-0 (intel-rapl:0)".to_owned(), 0.0)].into());
    }
}
