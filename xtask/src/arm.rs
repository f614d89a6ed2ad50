//! `cargo xtask arm`: builds the tests of the CPU kernels and of the CPU backend for 64-bit ARM Linux and runs them
//! in an emulator, so that NEON's paths run where no such processor is. It does not know what the tests prove, and an
//! emulator does not tell how fast anything is.

use std::{
    path::Path,
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, Result, ensure};

use crate::cross::{self, Tools};
use crate::{outcome::Outcome, tidy};

/// Linked statically: the emulator needs no system libraries.
const TARGET: &str = "aarch64-unknown-linux-musl";
/// The emulator's name for the processor, and the model with every extension that it knows.
const EMULATED: [&str; 2] = ["aarch64", "max"];
/// Where NEON is used, and what holds the CPU backend to its promises.
const TESTS: [&str; 6] = ["--package", "kernels", "--package", "backend", "--lib", "--tests"];
/// The same Rust runs everywhere else, and emulated arithmetic takes its time.
const NOT: [&str; 3] = ["--", "--skip", "cpu_conforms_with_plain_rust"];
/// Random cases of a property.
const N_CASES: &str = "24";

/// Builds, runs, prints the sum. Without the tools it says that, and is no failure.
pub(crate) fn run() -> Result<ExitCode> {
    let metadata = tidy::metadata()?;
    let target = Path::new(metadata["target_directory"].as_str().context("cargo names no target_directory")?);
    let tools = match tools(target) {
        Ok(tools) => tools,
        Err(why) => {
            println!("SKIPPED (1): arm tested nothing, its packages cannot be had: {why:#}");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let start = Instant::now();
    let build = test(&tools, target).arg("--no-run").status().context("cannot start cargo-zigbuild")?;
    ensure!(build.success(), "arm: the build of the tests ended with {build}");
    let (build_time, start) = (start.elapsed(), Instant::now());
    let sum = Outcome::of(test(&tools, target).args(NOT))?;
    println!(
        "arm: {sum} on an emulated processor; built in {} s, run in {} s",
        build_time.as_secs(),
        start.elapsed().as_secs()
    );
    Ok(if sum.is_good(true) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tools(target: &Path) -> Result<Tools> {
    let tools = Tools::get(target)?;
    tools.fetch_crates(TARGET)?;
    Ok(tools)
}

/// Cargo's test command for the emulated processor, in a folder of its own. Only what computes is optimised.
fn test(tools: &Tools, target: &Path) -> Command {
    let [processor, model] = EMULATED;
    let mut cargo = tools.cargo("test");
    cargo.args(["--quiet", "--locked", cross::WITH_STD, "--target", TARGET]).args(TESTS);
    cargo.env("CARGO_PROFILE_DEV_OPT_LEVEL", "0").env("CARGO_PROFILE_DEV_DEBUG", "false");
    cargo.env("CARGO_TARGET_DIR", target.join("arm"));
    let setting = |name: &str| format!("CARGO_TARGET_{}_{name}", TARGET.to_uppercase().replace('-', "_"));
    cargo.env(setting("RUNNER"), tools.emulator(processor)).env("QEMU_CPU", model);
    cargo.env(setting("RUSTFLAGS"), "-Clink-self-contained=no"); // zig has what a program starts with
    cargo.env("PROPTEST_CASES", N_CASES);
    cargo
}
