//! `cargo xtask soak`: collectives over links of every kind, with delays, every result checked. The work is the example
//! `soak` of the crate `collective`.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

#[derive(Args)]
pub(crate) struct SoakArgs {
    /// How many; ten million take hours, some ten thousand are enough to see that nothing broke.
    #[arg(long, default_value_t = 10_000_000)]
    collectives: u64,
    /// Another seed, other calls
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(crate) fn run(args: &SoakArgs) -> Result<()> {
    let example = ["run", "--release", "--quiet", "--package", "collective", "--example", "soak", "--"];
    let mut cargo = Command::new("cargo");
    cargo.args(example).args([args.collectives, args.seed].map(|n| n.to_string()));
    let status = cargo.status().context("cannot start cargo")?;
    ensure!(status.success(), "the soak ended with {status}");
    Ok(())
}
