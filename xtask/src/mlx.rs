//! `cargo xtask mlx`: gets the pinned MLX library and the engine that is compared with it by pip, then runs the tests
//! that need them and tells in one line how they went. What a test proves is not known here.

mod wheel;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Instant,
};

use anyhow::{Context, Result};
use clap::Args;

use crate::{outcome::Outcome, python::Python, tidy};
pub(crate) use wheel::{VERSION as MLX_VERSION, Wheel, WrongFile};

/// What to do; without options, everything.
#[derive(Args)]
pub(crate) struct MlxArgs {
    /// Only get the library, and print the folder that MLX_DIR must name
    #[arg(long)]
    fetch: bool,
    /// For another platform than this one, as wheels name them
    #[arg(long, requires = "fetch", value_parser = Wheel::PLATFORMS)]
    platform: Option<String>,
}

/// What of a package is tested.
struct Target {
    package: &'static str,
    /// Features of the package.
    features: &'static str,
    /// `--lib`, or the name of a file below `tests`.
    test: &'static str,
    /// Only tests with this in their names.
    only: Option<&'static str>,
}

/// Every test that runs MLX, lowest layer first.
const TARGETS: [Target; 6] = [
    Target { package: "backend", features: "mlx", test: "--lib", only: None },
    Target { package: "backend", features: "mlx", test: "mlx", only: None },
    Target { package: "models", features: "mlx", test: "mlx_lm", only: None },
    Target { package: "engine", features: "mlx", test: "mlx", only: None },
    // the others there compare the CPU, with or without this feature
    Target { package: "cli", features: "mlx", test: "golden", only: Some("on mlx") },
    Target { package: "cli", features: "mlx", test: "mlx", only: None },
];

/// The engine to compare with, and the same MLX as ours below it.
const ENGINE: &str = if cfg!(target_os = "macos") { "mlx-lm==0.32.2" } else { "mlx-lm[cpu]==0.32.2" };

/// Gets what is missing, runs the tests, prints the sum.
pub(crate) fn run(args: &MlxArgs) -> Result<ExitCode> {
    let wheel = match &args.platform {
        Some(platform) => Wheel::of_platform(platform)?,
        None => Wheel::of_this_machine()?,
    };
    let library = fetch(wheel)?;
    if args.fetch {
        println!("{}", library.display());
        return Ok(ExitCode::SUCCESS);
    }
    let start = Instant::now();
    let python = Python::in_venv(&store()?.join("venv"))?;
    let mlx = format!("mlx=={}", wheel::VERSION);
    python.call(&["-m", "pip", "install", "--quiet", ENGINE, &mlx])?;

    let mut sum = Outcome::default();
    for target in &TARGETS {
        sum += target.run(&library, &python)?;
    }
    println!("mlx: {sum} in {} s", start.elapsed().as_secs());
    let is_ci = std::env::var("CI").is_ok_and(|value| value == "true");
    Ok(if sum.is_good(is_ci) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The folder of the unpacked library, got by pip unless it is there.
pub(crate) fn fetch(wheel: &Wheel) -> Result<PathBuf> {
    let store = store()?;
    wheel.fetch(&store, || Python::in_venv(&store.join("venv")))
}

/// Where all that belongs to MLX is kept.
fn store() -> Result<PathBuf> {
    let metadata = tidy::metadata()?;
    let target = metadata["target_directory"].as_str().context("cargo names no target_directory")?;
    Ok(Path::new(target).join("mlx"))
}

impl Target {
    /// Runs the tests one after the other on the main thread, where MLX has to stay, and shows what they print.
    fn run(&self, library: &Path, python: &Python) -> Result<Outcome> {
        println!("=== {} {}", self.package, self.test);
        let mut cargo = Command::new("cargo");
        cargo.args(["test", "--quiet", "--package", self.package, "--features", self.features]);
        match self.test {
            "--lib" => cargo.arg("--lib"),
            file => cargo.args(["--test", file]),
        };
        cargo.args(["--", "--test-threads=1"]).args(self.only);
        cargo.env("MLX_DIR", library).env("ONEFOLD_PYTHON", python.program());
        cargo.env("MLX_ENABLE_TF32", "0"); // on a GPU, f32 is to mean f32
        Outcome::of(&mut cargo)
    }
}
