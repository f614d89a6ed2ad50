//! What Linux tells in files below `/proc` and `/sys`. Every reader takes the root under which they lie, so that trees made for
//! tests are read like a machine. What is not there, cannot be read or makes no sense is unknown; nothing is written.

mod net;
mod power;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use base::Bytes;

pub use net::{InfinibandDevice, InfinibandPort, Interface, infiniband, interfaces};
pub use power::{EnergyZone, PowerReading, energy_zones, is_on_battery, power_sensors};

/// The root of a machine's own files.
pub const ROOT: &str = "/";
/// Length of a file at most, in bytes: `/proc/cpuinfo` of a large machine.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Entries of a folder at most.
const MAX_ENTRIES: usize = 4096;

/// How the kernel chooses large pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePages {
    /// For all memory.
    Always,
    /// For memory that asks for it.
    Madvise,
    /// For none.
    Never,
}

/// What the processor can and the kernel lets it, as `/proc/cpuinfo` names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CpuFeatures {
    /// All of them.
    names: BTreeSet<String>,
}

impl CpuFeatures {
    /// Whether this one is there, as in `avx512f`, `amx_int8`, `i8mm`.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Whether anything is known.
    pub fn is_known(&self) -> bool {
        !self.names.is_empty()
    }
}

/// Instructions that there are, from `proc/cpuinfo`: those that the first processor names.
pub fn cpu_features(root: &Path) -> CpuFeatures {
    let text = read(&root.join("proc/cpuinfo")).unwrap_or_default();
    let line = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        matches!(name.trim(), "flags" | "Features").then_some(value)
    });
    CpuFeatures { names: line.unwrap_or_default().split_whitespace().map(str::to_owned).collect() }
}

/// Governors of the processors' frequencies, each once. Virtual machines have none.
pub fn governors(root: &Path) -> BTreeSet<String> {
    let cpus = folders(&root.join("sys/devices/system/cpu"));
    let governors = cpus.into_iter().filter_map(|cpu| read(&cpu.join("cpufreq/scaling_governor")));
    governors.filter(|governor| !governor.is_empty()).collect()
}

/// Whether memory comes in large pages.
pub fn huge_pages(root: &Path) -> Option<HugePages> {
    let text = read(&root.join("sys/kernel/mm/transparent_hugepage/enabled"))?;
    match text.split_once('[')?.1.split_once(']')?.0 {
        "always" => Some(HugePages::Always),
        "madvise" => Some(HugePages::Madvise),
        "never" => Some(HugePages::Never),
        _ => None,
    }
}

/// Swap that is filled, from `proc/meminfo`.
pub fn swap_used(root: &Path) -> Option<Bytes> {
    let text = read(&root.join("proc/meminfo"))?;
    let kibibytes = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    kibibytes("SwapTotal")?.checked_sub(kibibytes("SwapFree")?)?.checked_mul(1024).map(Bytes)
}

/// A small file's text without blanks around it.
fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_FILE_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

fn read_number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    read(path)?.parse().ok()
}

/// What lies in a folder, by name.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().take(MAX_ENTRIES);
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    paths
}

/// The last part of a path.
fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The last part of what a link in the tree points to.
fn target(link: &Path) -> Option<String> {
    fs::read_link(link).ok().map(|target| name(&target)).filter(|name| !name.is_empty())
}
