//! The machine's own limits, measured beside the tests by an example of `kernels`: reading memory, and dot products of
//! registers. It knows how the example is built and what it prints.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use base::DType;
use serde_json::Value;
use weights::synthetic::Quant;

/// The program that measures.
pub(super) struct Meter(PathBuf);

/// The best that was seen for some threads.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Limits {
    /// GB/s.
    pub(super) read: f64,
    /// Billions of operations a second over 8-bit integers; 0 where this machine has no such instruction.
    int8: f64,
    /// The same over BF16.
    bf16: f64,
}

impl Meter {
    /// Builds it unless it is up to date.
    pub(super) fn build(target: &Path) -> Result<Meter> {
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--quiet", "--release", "--package", "kernels", "--example", "roofline"]);
        let status = cargo.status().context("cargo does not run")?;
        ensure!(status.success(), "the example roofline does not build: {status}");
        Ok(Meter(target.join("release/examples/roofline")))
    }

    /// The limits of 1 and of 2 threads.
    pub(super) fn measure(&self) -> Result<[Limits; 2]> {
        let output =
            Command::new(&self.0).args(["--json", "1", "2"]).output().context("cannot start roofline")?;
        ensure!(output.status.success(), "roofline failed: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        let limits = text.lines().map(Limits::read).collect::<Result<Vec<_>>>()?;
        let Ok(limits) = <[Limits; 2]>::try_from(limits) else { bail!("roofline printed {text}") };
        Ok(limits)
    }
}

impl Limits {
    /// From a line of the example.
    pub(super) fn read(line: &str) -> Result<Limits> {
        let value: Value = serde_json::from_str(line)?;
        let number =
            |name: &str| value[name].as_f64().with_context(|| format!("roofline: no {name} in {line}"));
        Ok(Limits { read: number("read_gb_s")?, int8: number("int8_gop_s")?, bf16: number("bf16_gop_s")? })
    }

    /// The higher of each.
    pub(super) fn max(self, other: Limits) -> Limits {
        Limits {
            read: self.read.max(other.read),
            int8: self.int8.max(other.int8),
            bf16: self.bf16.max(other.bf16),
        }
    }

    /// Most operations a second for weights of this format, and their name; `None` where this machine has no such
    /// instruction.
    pub(super) fn peak(self, quant: Quant) -> Option<(f64, &'static str)> {
        let (peak, name) = match quant {
            Quant::Uniform(DType::BF16) => (self.bf16, "BF16 peak"),
            _ => (self.int8, "VNNI peak"),
        };
        (peak > 0.0).then_some((peak, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_example_is_read_and_the_best_is_kept() {
        let line = r#"{"threads": 1, "read_gb_s": 26.42, "int8_gop_s": 472.8, "bf16_gop_s": 0.0}"#;
        let limits = Limits::read(line).unwrap();
        assert_eq!(limits, Limits { read: 26.42, int8: 472.8, bf16: 0.0 });
        assert_eq!(limits.max(Limits { read: 30.0, ..Limits::default() }), Limits { read: 30.0, ..limits });
        assert_eq!(limits.peak(Quant::Q4KM), Some((472.8, "VNNI peak")));
        assert_eq!(limits.peak(Quant::Uniform(DType::BF16)), None);
        assert!(Limits::read(r#"{"threads": 1}"#).is_err());
    }
}
