//! `cargo xtask COMMAND`: the project's automation, one module per command. Nothing here is part of the program.

mod arm;
mod bench;
mod collectives;
mod cross;
mod debian;
mod golden;
mod instructions;
mod mac_check;
mod make_model;
mod mlx;
mod outcome;
mod peer;
mod python;
mod rdma_guest;
mod soak;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(bin_name = "cargo xtask", about = "The project's automation")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check the rules of STYLE.md that a machine can check.
    ///
    /// Example: cargo xtask tidy
    Tidy,
    /// Write a random-weight model in a real file format.
    ///
    /// Example: cargo xtask make-model --preset 1b /tmp/llama-1b-q4_0.gguf
    MakeModel(make_model::MakeModelArgs),
    /// Have llama.cpp answer fixed prompts and keep its answers for the tests.
    ///
    /// Example: cargo xtask golden "$(onefold pull smollm2)"
    Golden(golden::GoldenArgs),
    /// Measure onefold beside llama.cpp.
    ///
    /// Example: cargo xtask bench --models 1b --formats Q4_0 --tests decode,prefill
    Bench(bench::BenchArgs),
    /// Get llama.cpp and build it for this machine.
    ///
    /// Example: cargo xtask peer
    Peer,
    /// Get MLX and run every test that needs it.
    ///
    /// Example: MLX_DIR=$(cargo xtask mlx --fetch) cargo build --release --features mlx
    Mlx(mlx::MlxArgs),
    /// Check, link and lay out the program for a Mac, from Linux and with packages alone.
    ///
    /// Example: cargo xtask mac-check
    MacCheck,
    /// Run the tests of the CPU kernels on an emulated 64-bit ARM processor, with packages alone.
    ///
    /// Example: cargo xtask arm
    Arm,
    /// Run the tests of the verbs link on a guest with software RDMA devices, with packages alone.
    ///
    /// Example: cargo xtask rdma-guest
    RdmaGuest,
    /// Compare the instructions of the CPU kernels' operations with those that are kept.
    ///
    /// Example: cargo xtask instructions --bless
    Instructions(instructions::InstructionsArgs),
    /// Measure an all_reduce over TCP loopback beside OpenMPI and MLX's ring.
    ///
    /// Example: cargo xtask collectives --fetch
    Collectives(collectives::CollectivesArgs),
    /// Run random collectives over links of every kind and check every result.
    ///
    /// Example: cargo xtask soak --collectives 20000
    Soak(soak::SoakArgs),
}

fn main() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::MakeModel(args) => make_model::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Golden(args) => golden::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Mlx(args) => mlx::run(&args),
        Command::Arm => arm::run(),
        Command::RdmaGuest => rdma_guest::run(),
        Command::Instructions(args) => instructions::run(&args),
        Command::MacCheck => mac_check::run().map(|()| ExitCode::SUCCESS),
        Command::Bench(args) => bench::run(&args),
        Command::Peer => peer::run().map(|()| ExitCode::SUCCESS),
        Command::Collectives(args) => collectives::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Soak(args) => soak::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Tidy => Ok(if tidy::run()? == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
    }
}
