//! What the machine draws, as the system tells it: `powermetrics` on macOS, RAPL's energy counters on Linux. Both are for root
//! alone on most machines; who may not read them learns how it could be done.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Watts of each part of the machine that is told of.
pub(super) type Watts = BTreeMap<String, f64>;

/// Energy counters of Linux.
const RAPL_FOLDER: &str = "/sys/class/powercap";
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

/// A counter at one time, in microjoules.
struct Zone {
    name: String,
    energy_uj: u64,
    /// Where it starts again from 0.
    max_uj: u64,
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
            Meter::Rapl => rapl(Path::new(RAPL_FOLDER), time),
        }
    }
}

fn powermetrics(time: Duration) -> Result<Watts, String> {
    let n_samples = (time.as_millis() as u64 / INTERVAL_MS).max(1).to_string();
    let output = Command::new("powermetrics")
        .args([
            "--samplers",
            "cpu_power,gpu_power,ane_power",
            "-i",
            &INTERVAL_MS.to_string(),
            "-n",
            &n_samples,
        ])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("powermetrics: {error}"))?;
    let watts = mean(&String::from_utf8_lossy(&output.stdout));
    if !output.status.success() || watts.is_empty() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(format!("powermetrics: {said}\n{HINT}"));
    }
    Ok(watts)
}

/// The mean of every line such as `GPU Power: 35 mW`.
fn mean(text: &str) -> Watts {
    let mut readings: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for line in text.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let Some(milliwatts) = value.trim().strip_suffix(" mW").and_then(|v| v.parse::<f64>().ok()) else {
            continue;
        };
        readings.entry(name.trim().to_owned()).or_default().push(milliwatts / 1e3);
    }
    let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len() as f64;
    readings.iter().map(|(name, all)| (name.clone(), mean(all))).collect()
}

fn rapl(folder: &Path, time: Duration) -> Result<Watts, String> {
    let (before, started) = (zones(folder)?, Instant::now());
    thread::sleep(time);
    let (after, seconds) = (zones(folder)?, started.elapsed().as_secs_f64());
    let pairs = before.iter().filter_map(|b| Some((b, after.iter().find(|a| a.name == b.name)?)));
    Ok(pairs.map(|(b, a)| (b.name.clone(), used_uj(b, a) as f64 / 1e6 / seconds)).collect())
}

fn used_uj(before: &Zone, after: &Zone) -> u64 {
    let wraps = after.energy_uj < before.energy_uj;
    let beyond = if wraps { before.max_uj.saturating_sub(before.energy_uj) } else { 0 };
    if wraps { beyond + after.energy_uj } else { after.energy_uj - before.energy_uj }
}

/// The counters of whole processors and their parts; their folders are `intel-rapl:…`, whoever made the processor.
fn zones(folder: &Path) -> Result<Vec<Zone>, String> {
    let entries = fs::read_dir(folder).map_err(|_| "there are no energy counters here (RAPL)".to_owned())?;
    let is_zone = |path: &PathBuf| path.join("energy_uj").exists();
    let mut folders: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).filter(is_zone).collect();
    folders.sort();
    if folders.is_empty() {
        return Err("there are no energy counters here (RAPL)".to_owned());
    }
    folders.iter().map(|folder| zone(folder)).collect()
}

fn zone(folder: &Path) -> Result<Zone, String> {
    let text = |name: &str| {
        let path = folder.join(name);
        let read = fs::read_to_string(&path).map(|text| text.trim().to_owned());
        read.map_err(|e| format!("cannot read {}: {e}\n{HINT}", path.display()))
    };
    let number = |name: &str| text(name)?.parse().map_err(|e| format!("{}: {e}", folder.display()));
    let id = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let name = format!("{} ({id})", text("name")?);
    Ok(Zone { name, energy_uj: number("energy_uj")?, max_uj: number("max_energy_range_uj")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_of_powermetrics_are_averaged() {
        let text = "\
*** Sampled system activity (Sun Nov 22 14:30:20 2026 +0000) (500.12ms elapsed) ***

**** Processor usage ****
E-Cluster Online: 100%
CPU Power: 1200 mW
GPU Power: 35 mW
Combined Power (CPU + GPU + ANE): 1235 mW
CPU Power: 800 mW
GPU Power: 45 mW
ANE Power: 0 mW
";
        let expected = [
            ("ANE Power", 0.0),
            ("CPU Power", 1.0),
            ("Combined Power (CPU + GPU + ANE)", 1.235),
            ("GPU Power", 0.04),
        ];
        assert_eq!(mean(text), expected.map(|(name, watts)| (name.to_owned(), watts)).into());
        assert!(mean("powermetrics must be invoked as the superuser").is_empty());
    }

    #[test]
    fn energy_counters_are_found_and_read() {
        let folder = tempfile::tempdir().unwrap();
        let time = Duration::from_millis(1);
        assert!(rapl(&folder.path().join("none"), time).unwrap_err().contains("no energy counters"));
        assert!(rapl(folder.path(), time).unwrap_err().contains("no energy counters"));
        let zone = folder.path().join("intel-rapl:0");
        fs::create_dir(&zone).unwrap();
        fs::create_dir(folder.path().join("intel-rapl")).unwrap(); // the kind, not a counter
        fs::write(zone.join("energy_uj"), "5000\n").unwrap();
        assert!(rapl(folder.path(), time).unwrap_err().contains("intel-rapl:0/name"));
        fs::write(zone.join("name"), "package-0\n").unwrap();
        fs::write(zone.join("max_energy_range_uj"), "262143328850\n").unwrap();
        assert_eq!(rapl(folder.path(), time).unwrap(), [("package-0 (intel-rapl:0)".to_owned(), 0.0)].into());
    }

    #[test]
    fn a_counter_may_start_again() {
        let zone = |energy_uj| Zone { name: String::new(), energy_uj, max_uj: 100 };
        assert_eq!(used_uj(&zone(10), &zone(30)), 20);
        assert_eq!(used_uj(&zone(90), &zone(5)), 15);
    }
}
