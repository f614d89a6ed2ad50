//! The `onefold` command. Reads the command line, calls `node`, and tells people what happened; computes nothing.

mod args;
mod bench;
mod chat;
mod doctor;
mod fabric;
mod field_test;
mod models;
mod plan;
mod quickstart;
mod report;
mod serve;
mod start;

use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Quickstart(args) => quickstart::run(&args),
        Command::Run(args) => chat::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Pull(args) => models::pull(&args),
        Command::Models(args) => models::list(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Fabric(args) => fabric::run(&args.command),
        Command::FieldTest(args) => field_test::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Rank(args) => serve::rank(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if report::is_closed_output(&error) => ExitCode::SUCCESS,
        Err(error) => {
            report::error(&error);
            ExitCode::FAILURE
        }
    }
}
