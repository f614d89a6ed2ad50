//! A plan for people: who holds what, how fast, where the time goes, what it costs, and what was not chosen and why.

use ::plan::cost::{Breakdown, Speed};
use anyhow::Result;
use base::Bytes;

use super::{Report, SpeedRow};
use crate::report::{align_right, print as line, table};

/// Width of the bar of a step, in characters.
const BAR_CHARS: usize = 48;
/// What the bar is filled with, term by term.
const BAR_FILLS: [char; 6] = ['█', '▓', '▒', '░', '─', '·'];
/// Reasons that are printed.
const MAX_REASONS: usize = 16;

pub(super) fn print(report: &Report) -> Result<()> {
    head(report)?;
    line(holdings(report))?;
    line("")?;
    line(speeds(report))?;
    line("")?;
    step(report)?;
    costs(report)?;
    others(report)
}

fn head(report: &Report) -> Result<()> {
    let (subject, cost) = (report.subject, &report.subject.cost);
    let params = cost.n_params() as f64 / 1e9;
    let active = cost.n_active_params() / 1e9;
    line(format_args!(
        "{}: {} of weights, {params:.1} B parameters, {active:.1} B a token ({})",
        subject.name,
        cost.weights(),
        subject.source
    ))?;
    line(format_args!("on {}", report.place))?;
    if !cost.is_runnable {
        line("prediction only: this program cannot run a model of this kind yet")?;
    }
    let layout = &report.choice.best.layout;
    let load = report.ask.load;
    line(format_args!(
        "{} for {} of {} tokens of context",
        form(layout.tp(), layout.pp()),
        requests(load.n_sequences),
        load.context_len
    ))?;
    if !report.choice.is_exact {
        line("the cluster is too large to compare everything: neighbourhoods and chains were searched")?;
    }
    Ok(())
}

pub(super) fn form(tp: usize, pp: usize) -> String {
    match (tp, pp) {
        (1, 1) => "one machine".to_owned(),
        (tp, 1) => format!("tensor parallel × {tp}"),
        (1, pp) => format!("pipeline × {pp}"),
        (tp, pp) => format!("tensor parallel × {tp} in a pipeline × {pp}"),
    }
}

pub(super) fn requests(n: u32) -> String {
    if n == 1 { "one request".to_owned() } else { format!("{n} requests") }
}

fn holdings(report: &Report) -> comfy_table::Table {
    let header =
        ["machine", "stage", "layers", "heads", "share", "weights", "KV cache", "activations", "free"];
    let mut table = table(&header);
    let mut memory = report.prediction().memory.iter();
    let spec = &report.subject.cost.spec;
    for (i, stage) in report.choice.best.layout.stages.iter().enumerate() {
        for (member, held) in stage.members.iter().zip(&mut memory) {
            let heads = &member.shard.kv_heads;
            let free = held.headroom().unwrap_or(Bytes(0));
            table.add_row([
                report.machine(member.machine).node.name.clone(),
                i.to_string(),
                format!("{}..{}", stage.layers.start, stage.layers.end),
                format!("{} of {}", heads.len(), spec.n_kv_heads),
                columns(report, member.shard.ffn.len()),
                held.weights.to_string(),
                held.kv.to_string(),
                held.activations.to_string(),
                format!("{free} ({:.0} %)", 100.0 * held.free_part()),
            ]);
        }
    }
    align_right(&mut table, 1..header.len());
    table
}

/// A rank's part of FFN columns: of every expert, where there are experts.
fn columns(report: &Report, n: usize) -> String {
    let spec = &report.subject.cost.spec;
    match report.subject.cost.experts {
        Some(experts) => format!("{n} of {} columns of {} experts", spec.ffn, experts.n),
        None => format!("{n} of {} columns", spec.ffn),
    }
}

/// A speed with its band.
fn tokens(speed: Option<&Speed>) -> String {
    speed.map_or_else(
        || "unknown".to_owned(),
        |s| format!("{} ± {}", figure(s.tokens_per_s), figure(s.tokens_per_s * s.band)),
    )
}

/// Three digits of a number.
pub(super) fn figure(n: f64) -> String {
    match n {
        n if n >= 99.95 => format!("{n:.0}"),
        n if n >= 9.995 => format!("{n:.1}"),
        n => format!("{n:.2}"),
    }
}

fn speeds(report: &Report) -> comfy_table::Table {
    let header = ["context", "requests", "decode tok/s, all together", "prefill tok/s", "TTFT"];
    let mut table = table(&header);
    for row in &report.speeds {
        table.add_row(speed_row(row));
    }
    align_right(&mut table, 0..header.len());
    table
}

fn speed_row(row: &SpeedRow) -> [String; 5] {
    let p = &row.prediction;
    let first = |text: String| if row.load.n_sequences == 1 { text } else { String::new() };
    let context = format!("{}K", row.load.context_len >> 10);
    let n = row.load.n_sequences.to_string();
    if !row.fits {
        return [context, n, "does not fit".to_owned(), String::new(), String::new()];
    }
    let ttft = p.ttft_s.map_or_else(|| "unknown".to_owned(), seconds);
    [context, n, tokens(p.decode.as_ref()), first(tokens(p.prefill.as_ref())), first(ttft)]
}

fn seconds(s: f64) -> String {
    if s < 0.0995 { format!("{:.0} ms", 1e3 * s) } else { format!("{} s", figure(s)) }
}

fn step(report: &Report) -> Result<()> {
    let Some(decode) = &report.prediction().decode else {
        return line("speeds are unknown: the memory bandwidth of this machine is not known");
    };
    line(format_args!("a step of decode takes {}:", seconds(decode.step.total_s())))?;
    line(format_args!("  {}", bar(&decode.step)))?;
    for ((name, s), fill) in decode.step.terms().into_iter().zip(BAR_FILLS) {
        if s > 0.0 {
            let part = 100.0 * s / decode.step.total_s();
            line(format_args!("  {fill} {name:<16} {:>8.2} ms {part:>3.0} %", 1e3 * s))?;
        }
    }
    let idle = waiting(report);
    if idle > 0.0 {
        line(format_args!(
            "  each machine waits for the other stages {:.0} % of the time; several batches under way would fill it, \
             which this program cannot do yet",
            100.0 * idle
        ))?;
    }
    Ok(())
}

/// Part of a step in which the average machine has nothing to do.
fn waiting(report: &Report) -> f64 {
    let p = report.prediction();
    let Some(decode) = &p.decode else { return 0.0 };
    let n = p.stages_s.len() as f64;
    if n < 2.0 { 0.0 } else { 1.0 - p.stages_s.iter().sum::<f64>() / n / decode.step.total_s() }
}

/// The terms of a step, each as long as its part.
fn bar(step: &Breakdown) -> String {
    let (total, mut upto) = (step.total_s(), 0.0);
    let mut text = String::new();
    let mut n_drawn = 0;
    for ((_, s), fill) in step.terms().into_iter().zip(BAR_FILLS) {
        upto += s;
        let end = (upto / total * BAR_CHARS as f64).round() as usize;
        text.extend(std::iter::repeat_n(fill, end.saturating_sub(n_drawn)));
        n_drawn = end.max(n_drawn);
    }
    text
}

fn costs(report: &Report) -> Result<()> {
    let costs = report.costs();
    let unknown = || "unknown".to_owned();
    let number = |n: Option<f64>, unit: &str| n.map_or_else(unknown, |n| format!("{} {unit}", figure(n)));
    line(format_args!(
        "power while decoding {}, {} a token; machines {}",
        number(report.prediction().watts, "W"),
        number(costs.joules_per_token, "J"),
        number(costs.machines_usd, "USD"),
    ))?;
    line(format_args!(
        "a million tokens: {} of energy at {} USD/kWh, {} of machines used all day for {} years",
        number(costs.energy_usd_per_million, "USD"),
        report.money.usd_per_kwh,
        number(costs.machines_usd_per_million, "USD"),
        report.money.years,
    ))?;
    measured(report)
}

/// Power of pipelines that has been measured, if this plan has such machines.
fn measured(report: &Report) -> Result<()> {
    let layout = &report.choice.best.layout;
    let is_of = |chip: &str| {
        let studio = chip.to_lowercase().replace(' ', "-");
        layout.machines().all(|m| report.machine(m).node.name.contains(&studio))
    };
    for (chip, n, watts) in ::plan::fitted::MEASURED_PIPELINES.into_iter().filter(|(chip, ..)| is_of(chip)) {
        line(format_args!("  measured: {n} × {chip} in a pipeline draw {watts:.0} W together, at the wall"))?;
    }
    Ok(())
}

fn others(report: &Report) -> Result<()> {
    if report.choice.rejected.is_empty() {
        return Ok(());
    }
    line("\nnot chosen:")?;
    for rejected in report.choice.rejected.iter().take(MAX_REASONS) {
        line(format_args!("  {}: {}", rejected.what, rejected.why))?;
    }
    let n_more = report.choice.rejected.len().saturating_sub(MAX_REASONS);
    if n_more > 0 {
        line(format_args!("  and {n_more} more (--json has all)"))?;
    }
    Ok(())
}
