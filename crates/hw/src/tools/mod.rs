//! What the systems' own tools print, as values: pure functions over text, so that every system's are tested on every other.
//! Whatever they are given, they answer with a value or an error and never panic. They run nothing; `probe` does.

pub mod ifconfig;
pub mod ioreg;
pub mod macmon;
pub mod networksetup;
pub mod pmset;
pub mod powermetrics;
pub mod rdma;
pub mod sysctl;
#[cfg(test)]
mod tests;
pub mod thunderbolt;

use crate::sysfs::PowerReading;

/// Characters of what was found that an error tells at most.
const MAX_FOUND_CHARS: usize = 60;

/// A tool that printed something else than it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{tool}: expected {expected}, found {found:?}")]
pub struct ToolError {
    /// The program.
    pub tool: &'static str,
    /// What would have been understood.
    pub expected: &'static str,
    /// The beginning of what was there.
    pub found: String,
}

impl ToolError {
    fn new(tool: &'static str, expected: &'static str, found: &str) -> ToolError {
        ToolError { tool, expected, found: found.trim().chars().take(MAX_FOUND_CHARS).collect() }
    }
}

/// Watts of a Mac, as far as the tool tells them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MacPower {
    /// The CPU's cores.
    pub cpu_w: Option<f64>,
    /// The GPU.
    pub gpu_w: Option<f64>,
    /// The neural engine.
    pub ane_w: Option<f64>,
    /// These together.
    pub chip_w: Option<f64>,
    /// The memory.
    pub memory_w: Option<f64>,
    /// The whole machine, close to what a meter at the wall says.
    pub system_w: Option<f64>,
}

impl MacPower {
    /// Every part that is told, the nearest to the wall first.
    pub fn readings(&self) -> Vec<PowerReading> {
        let parts = [
            ("system", self.system_w),
            ("chip", self.chip_w),
            ("CPU", self.cpu_w),
            ("GPU", self.gpu_w),
            ("neural engine", self.ane_w),
            ("memory", self.memory_w),
        ];
        let told = parts.into_iter().filter_map(|(name, watts)| Some((name.to_owned(), watts?)));
        told.map(|(name, watts)| PowerReading { name, watts }).collect()
    }

    fn is_empty(&self) -> bool {
        *self == MacPower::default()
    }
}

/// A reading: a number that power can have.
fn watts(value: f64) -> Option<f64> {
    (value.is_finite() && value >= 0.0).then_some(value)
}

/// What follows the name and a colon in a line such as `\tstate:\tPORT_DOWN (1)`.
fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.trim_start().strip_prefix(name)?.trim_start().strip_prefix(':').map(str::trim)
}
