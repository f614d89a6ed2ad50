//! `cargo xtask mac-check`: from Linux and with packages alone, checks the workspace for Apple silicon, links the
//! program against MLX for macOS and lays out what a release holds. Nothing of it can be run here: whether it works
//! on a Mac, a Mac has to say. What a release is, is known in `release`.

mod macho;
mod release;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::cross::{self, Tools};
use crate::{mlx, tidy};

/// What Macs are.
const TARGET: &str = "aarch64-apple-darwin";
/// The wheel that has all of MLX: kernels for neural accelerators and collectives over RDMA.
const PLATFORM: &str = "macosx_26_0_arm64";
/// What is built for a Mac.
const FEATURES: &str = "cli/mlx";
/// What is type-checked: everything, tests included.
const WORKSPACE: [&str; 4] = ["--workspace", "--all-targets", "--features", "models/mlx"];

/// Checks, links, lays out; says so in one line. Without the tools it says that, and is no failure.
pub(crate) fn run() -> Result<()> {
    let metadata = tidy::metadata()?;
    let target = metadata["target_directory"].as_str().context("cargo names no target_directory")?;
    let store = Path::new(target).join("mac-check");
    let start = Instant::now();
    let (tools, library) = match packages(Path::new(target)) {
        Ok(got) => got,
        Err(why) if why.is::<mlx::WrongFile>() => return Err(why),
        Err(why) => {
            println!("SKIPPED (1): mac-check checked nothing, its packages cannot be had: {why:#}");
            return Ok(());
        }
    };
    let tools_time = start.elapsed();
    let builds = store.join("target");
    let checked = timed(cargo(&tools, "check", &builds, &library).args(WORKSPACE))?;
    let linked = timed(cargo(&tools, "zigbuild", &builds, &library).args(["--package", "cli"]))?;
    let program = builds.join(TARGET).join("debug/onefold");
    let folder = store.join("onefold-macos-arm64");
    let summary = release::lay_out(&program, &library, &folder)?;
    println!(
        "mac-check: tools {} s, workspace and tests type-checked {} s, onefold linked {} s; {summary} in {}; nothing was run",
        tools_time.as_secs(),
        checked.as_secs(),
        linked.as_secs(),
        folder.display()
    );
    Ok(())
}

/// The tools, the sources of every crate, and the folder of MLX's library.
fn packages(target: &Path) -> Result<(Tools, PathBuf)> {
    let tools = Tools::get(target)?;
    tools.fetch_crates(TARGET)?;
    Ok((tools, mlx::fetch(mlx::Wheel::of_platform(PLATFORM)?)?))
}

/// Cargo for a Mac, in a folder of its own so that it takes nothing from builds for this machine. Not optimised: what is
/// linked against is the same, in a fraction of the time.
fn cargo(tools: &Tools, subcommand: &str, builds: &Path, library: &Path) -> Command {
    let mut cargo = tools.cargo(subcommand);
    cargo.args(["--quiet", "--locked", cross::WITH_STD, "--target", TARGET, "--features", FEATURES]);
    for package in ["backend", "kernels", "sha2", "weights"] {
        cargo.args(["--config", &format!("profile.dev.package.{package}.opt-level=0")]);
    }
    cargo.env("CARGO_PROFILE_DEV_OPT_LEVEL", "0").env("CARGO_PROFILE_DEV_DEBUG", "false");
    cargo.env("CARGO_PROFILE_DEV_STRIP", "none"); // the strippers here do not know the format
    cargo.env("CARGO_TARGET_DIR", builds).env("MLX_DIR", library);
    cargo
}

/// Runs a command that shows its own errors.
fn timed(command: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    let status =
        command.status().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let subcommand = command.get_args().next().unwrap_or_default().display();
    ensure!(status.success(), "mac-check: cargo {subcommand} for {TARGET} ended with {status}");
    Ok(start.elapsed())
}
