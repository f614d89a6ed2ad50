//! How long the search takes: `cargo run --release -p plan --example search`. Prints the median of a few runs for clusters of 4 to
//! 1,000 machines, all alike and all different.
#![allow(clippy::unwrap_used)] // numbers are made here

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use plan::cost::{Load, ONEFOLD};
use plan::search::{Aim, Ask, search};
use plan::{Machine, fitted};

const N_RUNS: usize = 5;

fn main() {
    let ask = Ask { load: Load { context_len: 4096, n_sequences: 1 }, aim: Aim::Speed, max_watts: None };
    let model = common::kimi_native();
    println!("{:>9}  {:<14} {:>10}  layout", "machines", "", "ms");
    for n in [4, 8, 64, 1000] {
        for is_mixed in [false, true] {
            let machine = |i: usize| {
                let part = if is_mixed { 1.0 - 0.5 * i as f64 / n as f64 } else { 1.0 };
                let m = common::machine("m", 384.0 * part, 819.0 * part, fitted::M3_ULTRA);
                Machine { n_ports: None, n_rdma_ports: None, ..m }
            };
            let cluster = common::mesh((0..n).map(machine).collect(), common::rdma());
            let mut times_ms = Vec::new();
            let mut form = (0, 0);
            for _ in 0..N_RUNS {
                let start = Instant::now();
                let choice = search(&cluster, &model, ONEFOLD, &ask).unwrap();
                times_ms.push(start.elapsed().as_secs_f64() * 1e3);
                form = (choice.best.layout.tp(), choice.best.layout.pp());
            }
            times_ms.sort_by(f64::total_cmp);
            let what = if is_mixed { "all different" } else { "all alike" };
            println!("{n:>9}  {what:<14} {:>10.1}  {} × {}", times_ms[N_RUNS / 2], form.0, form.1);
        }
    }
}
