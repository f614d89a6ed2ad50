//! A drawing of a plan: the machines with what fills their memory and their links, and below it a step of decode over time.

use std::fmt::Write;

use ::plan::cost::Breakdown;

use super::Report;

/// Width of the drawing, and of a machine with its gap, in pixels.
const WIDTH: f64 = 960.0;
const BOX_WIDTH: f64 = 170.0;
const BOX_HEIGHT: f64 = 96.0;
const GAP: f64 = 18.0;
/// A row of the timeline.
const ROW_HEIGHT: f64 = 26.0;
/// Where the timeline begins, from the left.
const LABEL_WIDTH: f64 = 170.0;
/// Machines drawn at most; of more, the first.
const MAX_DRAWN: usize = 64;
/// Colours of the terms of a step.
const COLOURS: [&str; 6] = ["#3b6ea5", "#6aa84f", "#8e7cc3", "#b7b7b7", "#e69138", "#cc4125"];

pub(super) fn draw(report: &Report) -> String {
    let machines: Vec<usize> = report.choice.best.layout.machines().take(MAX_DRAWN).collect();
    let n_columns = (WIDTH / (BOX_WIDTH + GAP)) as usize;
    let n_rows = machines.len().div_ceil(n_columns);
    let topology_height = n_rows as f64 * (BOX_HEIGHT + 3.0 * GAP);
    let n_stages = report.choice.best.layout.pp().min(MAX_DRAWN);
    let height = 40.0 + topology_height + 90.0 + n_stages as f64 * ROW_HEIGHT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(&mut svg, 10.0, 24.0, &format!("{} on {}", report.subject.name, report.place));
    let centre = |i: usize| {
        let (row, column) = ((i / n_columns) as f64, (i % n_columns) as f64);
        (10.0 + column * (BOX_WIDTH + GAP), 44.0 + row * (BOX_HEIGHT + 3.0 * GAP))
    };
    links(&mut svg, report, &machines, &centre);
    boxes(&mut svg, report, &centre);
    timeline(&mut svg, report, 60.0 + topology_height);
    svg.push_str("</svg>\n");
    svg
}

/// Lines between neighbours in the order of ranks, and arcs to the others of a stage.
fn links(svg: &mut String, report: &Report, machines: &[usize], at: &impl Fn(usize) -> (f64, f64)) {
    for (i, &a) in machines.iter().enumerate() {
        for (j, &b) in machines.iter().enumerate().skip(i + 1) {
            let Some(link) = report.cluster.links.between(a, b) else { continue };
            let ((x1, y1), (x2, y2)) = (at(i), at(j));
            let (x1, y1) = (x1 + BOX_WIDTH / 2.0, y1 + BOX_HEIGHT);
            let (x2, y2) = (x2 + BOX_WIDTH / 2.0, y2 + BOX_HEIGHT);
            let (mid, low) = ((x1 + x2) / 2.0, y1.max(y2) + 8.0 + 10.0 * (j - i) as f64);
            let colour = if link.is_rdma { "#3b6ea5" } else { "#b7b7b7" };
            let _ = writeln!(
                svg,
                "<path d=\"M{x1} {y1} Q{mid} {low} {x2} {y2}\" fill=\"none\" stroke=\"{colour}\"><title>{}</title></path>",
                escaped(&link.name)
            );
        }
    }
}

fn boxes(svg: &mut String, report: &Report, at: &impl Fn(usize) -> (f64, f64)) {
    let stages = report.choice.best.layout.stages.iter().enumerate();
    let members = stages.flat_map(|(i, stage)| stage.members.iter().map(move |member| (i, stage, member)));
    let memory = &report.prediction().memory;
    for (n, ((stage_index, stage, member), held)) in members.zip(memory).enumerate().take(MAX_DRAWN) {
        let (x, y) = at(n);
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{BOX_WIDTH}\" height=\"{BOX_HEIGHT}\" fill=\"#f7f7f7\" stroke=\"#333\"/>"
        );
        let mut from = x + 8.0;
        let full = BOX_WIDTH - 16.0;
        let parts = [(held.weights, COLOURS[0]), (held.kv, COLOURS[1]), (held.activations, COLOURS[2])];
        for (bytes, colour) in parts {
            let width = full * bytes.0 as f64 / held.memory.0.max(1) as f64;
            rect(svg, (from, y + 70.0), (width, 16.0), colour);
            from += width;
        }
        let node = &report.machine(member.machine).node;
        let lines = [
            node.name.clone(),
            format!("stage {stage_index}, layers {}..{}", stage.layers.start, stage.layers.end),
            format!("{} of {}", held.needed(), held.memory),
        ];
        for (i, words) in lines.iter().enumerate() {
            text(svg, x + 8.0, y + 18.0 + 18.0 * i as f64, words);
        }
    }
}

/// A step of decode: each stage in its turn, and the whole by its terms.
fn timeline(svg: &mut String, report: &Report, top: f64) {
    let p = report.prediction();
    let Some(decode) = &p.decode else {
        return text(svg, 10.0, top, "speeds are unknown");
    };
    let total = decode.step.total_s();
    text(svg, 10.0, top, &format!("a step of decode: {:.1} ms", 1e3 * total));
    let scale = (WIDTH - LABEL_WIDTH - 20.0) / total;
    let n_hops = p.stages_s.len().saturating_sub(1).max(1) as f64;
    let hop_s = decode.step.hops_s / n_hops;
    let mut start_s = 0.0;
    for (i, turn_s) in p.stages_s.iter().enumerate().take(MAX_DRAWN) {
        let y = top + 12.0 + i as f64 * ROW_HEIGHT;
        text(svg, 10.0, y + 15.0, &format!("stage {i}"));
        rect(svg, (LABEL_WIDTH + start_s * scale, y), (turn_s * scale, ROW_HEIGHT - 6.0), COLOURS[0]);
        start_s += turn_s + hop_s;
    }
    let y = top + 20.0 + p.stages_s.len().min(MAX_DRAWN) as f64 * ROW_HEIGHT;
    terms(svg, &decode.step, scale, y);
}

fn terms(svg: &mut String, step: &Breakdown, scale: f64, y: f64) {
    text(svg, 10.0, y + 15.0, "where it goes");
    let (mut x, mut label) = (LABEL_WIDTH, LABEL_WIDTH);
    for ((name, s), colour) in step.terms().into_iter().zip(COLOURS) {
        if s <= 0.0 {
            continue;
        }
        rect(svg, (x, y), (s * scale, ROW_HEIGHT - 6.0), colour);
        x += s * scale;
        rect(svg, (label, y + 30.0), (10.0, 10.0), colour);
        text(svg, label + 14.0, y + 39.0, &format!("{name} {:.1} ms", 1e3 * s));
        label += 150.0;
    }
}

fn rect(svg: &mut String, (x, y): (f64, f64), (width, height): (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
    );
}

fn text(svg: &mut String, x: f64, y: f64, words: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escaped(words));
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
