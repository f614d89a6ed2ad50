//! The parts that run in a process of their own: their names on the command line, and what such a process does.

use anyhow::{Context, Result};
use base::DType;

use super::{conformance, loopback, power, verbs};
use crate::{args::FieldTestArgs, report::print};

/// A part with its own process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Which MLX there is.
    Mlx,
    /// Conformance of our own kernels.
    Cpu,
    /// Conformance of MLX with 32-bit activations.
    MlxF32,
    /// The same with 16-bit ones.
    MlxF16,
    /// The same with the other 16-bit ones.
    MlxBf16,
    /// Our binding of the verbs library.
    Verbs,
    /// Our link from this machine to itself.
    Loopback,
    /// Power at rest and while decoding.
    Power,
}

impl Part {
    pub(crate) const ALL: &[Part] = &[
        Part::Mlx,
        Part::Cpu,
        Part::MlxF32,
        Part::MlxF16,
        Part::MlxBf16,
        Part::Verbs,
        Part::Loopback,
        Part::Power,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Part::Mlx => "mlx",
            Part::Cpu => "cpu",
            Part::MlxF32 => "mlx-f32",
            Part::MlxF16 => "mlx-f16",
            Part::MlxBf16 => "mlx-bf16",
            Part::Verbs => "verbs",
            Part::Loopback => "loopback",
            Part::Power => "power",
        }
    }

    /// Format of the activations that it checks MLX with.
    fn activations(self) -> Option<DType> {
        match self {
            Part::MlxF32 => Some(DType::F32),
            Part::MlxF16 => Some(DType::F16),
            Part::MlxBf16 => Some(DType::BF16),
            _ => None,
        }
    }

    /// What its process needs in its environment.
    pub(super) fn environment(self) -> Option<(&'static str, &'static str)> {
        // on a GPU, 32 bits are to mean 32 bits
        (self == Part::MlxF32).then_some(("MLX_ENABLE_TF32", "0"))
    }
}

/// Runs one part on this thread and prints what came of it.
pub(super) fn run(part: Part, args: &FieldTestArgs) -> Result<()> {
    let outcome = match part {
        Part::Mlx => mlx::device()?,
        Part::Cpu => conformance::cpu(),
        Part::Verbs => verbs::ask()?,
        Part::Loopback => loopback::measure(args.quick)?,
        Part::Power => {
            power::measure(args.model.as_deref().context("--part power needs --model")?, args.quick)?
        }
        Part::MlxF32 | Part::MlxF16 | Part::MlxBf16 => {
            mlx::conformance(part.activations().context("no format")?)?
        }
    };
    print(outcome.to_json())
}

#[cfg(feature = "mlx")]
use super::mlx;

#[cfg(not(feature = "mlx"))]
mod mlx {
    use anyhow::Result;
    use base::DType;

    use super::super::outcome::Outcome;

    pub(super) fn device() -> Result<Outcome> {
        let why =
            "this onefold was built without MLX\nhint: MLX_DIR=… cargo build --release -p cli --features mlx";
        Ok(Outcome::skipped(why))
    }

    pub(super) fn conformance(_: DType) -> Result<Outcome> {
        device()
    }
}
