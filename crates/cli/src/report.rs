//! What people read: the plan as a table, progress bars, errors with their hints.

use std::{
    fmt::Display,
    io::{self, Write},
    time::Duration,
};

use base::{Bytes, RankId};
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use node::models::Progress;
use plan::{Collectives, Plan, RankPlan};

/// A line of results on standard output.
pub(crate) fn print(line: impl Display) -> anyhow::Result<()> {
    Ok(writeln!(io::stdout(), "{line}")?)
}

/// Whether somebody closed standard output, as `head` does when it has enough: nothing went wrong then.
pub(crate) fn is_closed_output(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Prints an error and what caused it; a message may end with a hint of its own.
pub(crate) fn error(error: &anyhow::Error) {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        // wrapped errors often repeat their source
        if !parts.last().is_some_and(|last| last.contains(&cause)) {
            parts.push(cause);
        }
    }
    eprintln!("error: {}", parts.join("\n  because: "));
}

/// An empty table in the style of all tables here.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(header);
    table
}

/// Aligns columns to the right.
pub(crate) fn align_right(table: &mut Table, columns: impl IntoIterator<Item = usize>) {
    for column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Who holds what, in bytes.
pub(crate) fn plan(plan: &Plan) -> Table {
    let header = [
        "rank",
        "node",
        "backend",
        "stage",
        "layers",
        "KV heads",
        "FFN columns",
        "vocabulary",
        "weights",
        "KV cache",
    ];
    let mut table = table(&header);
    for r in plan.ranks() {
        table.add_row(plan_row(plan, r));
    }
    let sum = |bytes: fn(&RankPlan) -> Bytes| plan.ranks().iter().map(bytes).sum::<Bytes>().to_string();
    if plan.world_size() > 1 {
        let mut row = vec![String::new(); header.len() - 2];
        row[0] = "all".to_owned();
        row.extend([sum(|r| r.weights), sum(|r| r.kv)]);
        table.add_row(row);
    }
    align_right(&mut table, 3..header.len());
    table
}

fn plan_row(plan: &Plan, r: &RankPlan) -> Vec<String> {
    let range = |range: &std::ops::Range<u32>| format!("{}..{}", range.start, range.end);
    let node = plan.node_of(r.rank).map_or_else(String::new, |n| n.name.clone());
    let vocab = if r.embeds || r.heads { range(&r.shard.vocab) } else { "-".to_owned() };
    vec![
        r.rank.0.to_string(),
        node,
        r.backend.to_string(),
        r.stage.to_string(),
        range(&r.layers),
        range(&r.shard.kv_heads),
        range(&r.shard.ffn),
        vocab,
        r.weights.to_string(),
        r.kv.to_string(),
    ]
}

/// Who sums inside a layer, where it is not our own group.
pub(crate) fn collectives(plan: &Plan) -> Option<String> {
    let collectives = plan.collectives();
    let fence = plan.fence();
    (collectives != Collectives::Onefold)
        .then(|| format!("{collectives} sums inside a layer, with the {fence} fence"))
}

/// What a rank's links go over, as the end of a line.
pub(crate) fn links(links: &[(RankId, String)]) -> String {
    let to = |(peer, over): &(RankId, String)| format!(", to {peer} over {over}");
    links.iter().map(to).collect()
}

/// How long something took, for people.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

/// A progress bar on standard error, for fetching.
pub(crate) struct FetchBar {
    bar: ProgressBar,
}

impl FetchBar {
    pub(crate) fn new() -> FetchBar {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        FetchBar { bar }
    }
}

impl Progress for FetchBar {
    fn message(&mut self, text: &str) {
        self.bar.suspend(|| eprintln!("{text}"));
    }

    fn bytes(&mut self, done: Bytes, total: Option<Bytes>) {
        let template = match total {
            Some(_) => "  {bar:32} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}",
            None => "  {spinner} {decimal_bytes} {decimal_bytes_per_sec}",
        };
        if let Some(total) = total {
            self.bar.set_length(total.0);
        }
        self.bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| default_style()));
        self.bar.set_position(done.0);
        if total == Some(done) {
            self.bar.finish_and_clear();
        }
    }
}

fn default_style() -> ProgressStyle {
    ProgressStyle::default_bar()
}
