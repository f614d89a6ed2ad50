//! `onefold fabric`: which links this machine has and what limits them, and what a link gives.

use anyhow::Result;
use base::Bytes;
use node::{
    SecretLine,
    fabric::{self, BenchRow, Effort, FabricBench, Finding, LinkReport},
};
use serde_json::{Value, json};

use crate::{
    args::{FabricBenchArgs, FabricCommand, FabricLinksArgs, FabricListenArgs},
    report,
};

/// Runs one of the commands.
pub(crate) fn run(command: &FabricCommand) -> Result<()> {
    match command {
        FabricCommand::Links(args) => links(args),
        FabricCommand::Bench(args) => bench(args),
        FabricCommand::Listen(args) => listen(args),
    }
}

fn links(args: &FabricLinksArgs) -> Result<()> {
    let links = fabric::judge(&fabric::look()?);
    if args.json {
        let links: Vec<_> = links.iter().map(link_json).collect();
        return report::print(serde_json::to_string_pretty(&links)?);
    }
    let mut table = report::table(&["interface", "kind", "addresses", "RDMA", "what limits it"]);
    for link in &links {
        let addresses: Vec<_> = link.addresses.iter().map(ToString::to_string).collect();
        let rdma = if link.has_rdma { "yes" } else { "no" };
        table.add_row([&link.name, &link.kind, &addresses.join("\n"), rdma, &limits(&link.findings)]);
    }
    report::print(table)?;
    hints(links.iter().flat_map(|link| link.findings.iter().map(|finding| (link.name.as_str(), finding))))
}

fn bench(args: &FabricBenchArgs) -> Result<()> {
    let effort = if args.quick { Effort::Quick } else { Effort::Full };
    let tell = |text: &str| eprintln!("{text}");
    let benches = match (&args.peer, &args.secret_file) {
        (Some(peer), Some(file)) => {
            vec![fabric::bench_peer(peer, &SecretLine::read_file(file)?, effort, tell)?]
        }
        _ => fabric::bench_here(effort, tell)?,
    };
    if args.json {
        let benches: Vec<_> = benches.iter().map(bench_json).collect();
        return report::print(serde_json::to_string_pretty(&benches)?);
    }
    benches.iter().try_for_each(print_bench)
}

fn listen(args: &FabricListenArgs) -> Result<()> {
    let secret = SecretLine::read_file(&args.secret_file)?;
    Ok(fabric::serve_bench(args.address, &secret, |line| eprintln!("{line}"))?)
}

fn print_bench(bench: &FabricBench) -> Result<()> {
    report::print(format_args!("{}, {}", bench.peer, bench.link))?;
    let header = [
        "message",
        "one way us p50",
        "p99",
        "floor p50",
        "there GB/s",
        "back GB/s",
        "both, each GB/s",
        "round trips",
    ];
    let mut table = report::table(&header);
    for row in &bench.rows {
        let BenchRow { latency_us_p50, latency_us_p99, there_gb_s, back_gb_s, both_gb_s, .. } = row;
        table.add_row([
            size(row.n_bytes),
            format!("{latency_us_p50:.1}"),
            format!("{latency_us_p99:.1}"),
            row.floor_us_p50.map_or_else(|| "-".to_owned(), |us| format!("{us:.1}")),
            format!("{there_gb_s:.3}"),
            format!("{back_gb_s:.3}"),
            format!("{both_gb_s:.3}"),
            row.n_rounds.to_string(),
        ]);
    }
    report::align_right(&mut table, 0..header.len());
    report::print(table)?;
    report::print(
        "one way is half of a round trip; the floor is the same over a bare socket, both ends spinning; GB are 10^9 bytes",
    )?;
    if let Some(note) = &bench.note {
        report::print(format_args!("no verbs: {note}"))?;
    }
    for finding in &bench.findings {
        report::print(format_args!("limited by: {}", finding.limit))?;
    }
    hints(bench.findings.iter().map(|finding| (bench.link.as_str(), finding)))
}

/// What would help, one line for each finding that knows.
fn hints<'a>(findings: impl Iterator<Item = (&'a str, &'a Finding)>) -> Result<()> {
    for (name, finding) in findings {
        if let Some(hint) = finding.hint {
            report::print(format_args!("hint: {name}: {hint}"))?;
        }
    }
    Ok(())
}

fn limits(findings: &[Finding]) -> String {
    let limits: Vec<_> = findings.iter().map(|finding| finding.limit.as_str()).collect();
    limits.join("\n")
}

/// In powers of two, as messages are chosen.
fn size(n_bytes: usize) -> String {
    match n_bytes {
        n if n >= 1 << 20 => format!("{} MiB", n >> 20),
        n if n >= 1 << 10 => format!("{} KiB", n >> 10),
        n => Bytes(n as u64).to_string(),
    }
}

fn link_json(link: &LinkReport) -> Value {
    json!({
        "name": link.name,
        "kind": link.kind,
        "speed_mbps": link.speed_mbps,
        "addresses": link.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "rdma": link.has_rdma,
        "findings": findings_json(&link.findings),
    })
}

fn bench_json(bench: &FabricBench) -> Value {
    let row = |row: &BenchRow| {
        json!({
            "bytes": row.n_bytes,
            "rounds": row.n_rounds,
            "latency_us_p50": row.latency_us_p50,
            "latency_us_p99": row.latency_us_p99,
            "floor_us_p50": row.floor_us_p50,
            "there_gb_s": row.there_gb_s,
            "back_gb_s": row.back_gb_s,
            "both_gb_s": row.both_gb_s,
        })
    };
    json!({
        "peer": bench.peer,
        "link": bench.link,
        "latency": "half of a round trip",
        "no_verbs": bench.note,
        "findings": findings_json(&bench.findings),
        "rows": bench.rows.iter().map(row).collect::<Vec<_>>(),
    })
}

fn findings_json(findings: &[Finding]) -> Vec<Value> {
    findings.iter().map(|finding| json!({"limit": finding.limit, "hint": finding.hint})).collect()
}
