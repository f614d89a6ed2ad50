//! Decode and prefill of one model in every setup, both sides in turns: onefold through its whole stack, llama.cpp as
//! its own benchmark does it. From the medians come the rows against llama.cpp, against the machine's limits, and of
//! two ranks against one.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weights::synthetic::Quant;

use super::{
    Bench, Test,
    llama::{Both, Llama, Setting},
    models::{Model, Name},
    roofline::Limits,
    table::{Figure, Goal, Row, Samples, Section},
};

/// Runs of a test before it is the other side's turn.
const MAX_RUNS_IN_TURN: u32 = 3;
/// Tokens of onefold's longest sequence.
const CONTEXT_LEN: &str = "1024";

/// How onefold is run. llama.cpp, which has one process, has as many threads as this has in all.
struct Setup {
    name: &'static str,
    tp: u32,
    threads: u32,
}

const ONE_THREAD: usize = 0;
const TWO_RANKS: usize = 2;
const SETUPS: [Setup; 3] = [
    Setup { name: "1 thread", tp: 1, threads: 1 },
    Setup { name: "2 threads", tp: 1, threads: 2 },
    Setup { name: "2 ranks × 1 thread", tp: 2, threads: 1 },
];

/// One test's numbers in every setup.
struct Measured {
    test: Test,
    ours: [Samples; 3],
    /// With 1 and with 2 threads.
    theirs: [Both; 2],
}

/// Measures one model and returns its rows.
pub(super) fn run(bench: &Bench, model: &Model) -> Result<Vec<Row>> {
    let start = |n_threads| Llama::start(&bench.python, &model.path, n_threads);
    let mut peers = [start(1)?, start(2)?];
    let tests = [Test::Prefill, Test::Decode].into_iter().filter(|test| bench.tests.contains(test));
    let mut measured: Vec<_> =
        tests.map(|test| Measured { test, ours: Default::default(), theirs: Default::default() }).collect();
    let mut limits = [Limits::default(); 2];
    let mut n_left = bench.n_runs;
    while n_left > 0 {
        let n_runs = n_left.min(MAX_RUNS_IN_TURN);
        n_left -= n_runs;
        if model.is_large {
            let now = bench.meter.measure()?;
            limits = [limits[0].max(now[0]), limits[1].max(now[1])];
        }
        for (i, setup) in SETUPS.iter().enumerate() {
            onefold(&bench.onefold, &model.path, setup, i, n_runs, &mut measured)?;
            let Some(peer) = peers.get_mut(i) else { continue };
            for Measured { test, theirs, .. } in &mut measured {
                for setting in Setting::ALL {
                    let (name, n) = (test.short_name(), test.n_tokens());
                    theirs[i].of(setting).extend(peer.rates(setting, name, n, n_runs)?);
                }
            }
        }
    }
    Ok(measured.iter().flat_map(|measured| rows(model, measured, &limits)).collect())
}

/// One turn of onefold in a setup.
fn onefold(
    program: &Path,
    model: &Path,
    setup: &Setup,
    i: usize,
    n_runs: u32,
    measured: &mut [Measured],
) -> Result<()> {
    let n_tokens = |test| {
        let is_wanted = measured.iter().any(|measured| measured.test == test);
        if is_wanted { test.n_tokens() } else { 0 }.to_string()
    };
    let output = Command::new(program)
        .arg("bench")
        .arg(model)
        .args(["--json", "--tp", &setup.tp.to_string(), "--threads", &setup.threads.to_string()])
        .args(["-p", &n_tokens(Test::Prefill), "-n", &n_tokens(Test::Decode)])
        .args(["--repeat", &n_runs.to_string(), "--context", CONTEXT_LEN])
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "onefold with {} failed: {errors}", setup.name);
    let report: Value = serde_json::from_slice(&output.stdout)?;
    for Measured { test, ours, .. } in measured {
        let results = report["tests"].as_array().into_iter().flatten();
        let name = test.name();
        let rates = results.filter(|result| result["test"] == name).filter_map(|r| r["tok_s"].as_array());
        ours[i].extend(rates.flatten().filter_map(Value::as_f64));
        ensure!(!ours[i].is_empty(), "onefold has not measured {name}: {report}");
    }
    Ok(())
}

fn rows(model: &Model, measured: &Measured, limits: &[Limits; 2]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (i, limits) in limits.iter().enumerate() {
        let ours = measured.ours[i].figure("tok/s");
        let theirs = measured.theirs[i].highest("tok/s");
        let mut row = |section, ours, against, goal| {
            let (setup, test) = (SETUPS[i].name.to_owned(), measured.test.name());
            rows.push(Row { section, model: model.title(), setup, test, ours, against, goal: Some(goal) });
        };
        let limit = model.is_large.then(|| against_limit(model, measured.test, &ours, *limits)).flatten();
        let section = if measured.test == Test::Decode { Section::Decode } else { Section::Prefill };
        row(section, ours, theirs, speed_goal(measured.test, model.quant));
        if let Some((ours, limit, goal)) = limit {
            row(Section::Roofline, ours, limit, goal);
        }
    }
    rows.extend(rank_rows(model, measured, limits));
    rows
}

/// What llama.cpp's speed is to be multiplied with.
fn speed_goal(test: Test, quant: Quant) -> Goal {
    match (test, quant) {
        (Test::Prefill, Quant::Uniform(base::DType::BF16)) => Goal::AtLeast(1.2),
        (Test::Prefill, _) => Goal::AtLeast(2.0),
        _ => Goal::AtLeast(1.5),
    }
}

/// What the tokens of a second cost the machine, what it could do, and the share that is wanted.
fn against_limit(model: &Model, test: Test, ours: &Figure, limits: Limits) -> Option<(Figure, Figure, Goal)> {
    if test == Test::Decode {
        let read = ours.scaled(model.decode_bytes as f64 / 1e9, "GB/s");
        return Some((read, Figure::single(limits.read, "GB/s").of("memory"), Goal::AtLeast(0.85)));
    }
    let (peak, name) = limits.peak(model.quant)?;
    let computed = ours.scaled(2.0 * model.prefill_values as f64 / 1e9, "GOP/s");
    Some((computed, Figure::single(peak, "GOP/s").of(name), Goal::AtLeast(0.5)))
}

/// Two ranks against one, and against llama.cpp with as many threads. The goals are the large model's: a small one's
/// decode is over before the sums between its layers are.
fn rank_rows(model: &Model, measured: &Measured, limits: &[Limits; 2]) -> [Row; 2] {
    let is_goal = model.name == Name::OneBillion;
    let goal = |ratio| is_goal.then_some(Goal::AtLeast(ratio));
    let row = |against, goal, note: &str| Row {
        section: Section::Ranks,
        model: model.title(),
        setup: SETUPS[TWO_RANKS].name.to_owned(),
        test: measured.test.name() + note,
        ours: measured.ours[TWO_RANKS].figure("tok/s"),
        against,
        goal,
    };
    let (wanted, note) = match measured.test {
        Test::Decode if model.is_large => {
            (1.9, format!(" (memory allows {:.2})", limits[1].read / limits[0].read))
        }
        Test::Decode => (1.9, String::new()),
        _ => (1.85, String::new()),
    };
    let one = measured.ours[ONE_THREAD].figure("tok/s").of("1 rank × 1 thread");
    let peer = measured.theirs[1].highest("tok/s");
    [row(one, goal(wanted), &note), row(peer, goal(1.3), "")]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: Name, is_large: bool) -> Model {
        let (quant, path) = (Quant::Q4KM, "model.gguf".into());
        let control_tokens = Vec::new();
        Model {
            name,
            quant,
            path,
            is_large,
            decode_bytes: 500_000_000,
            prefill_values: 1_000_000_000,
            control_tokens,
        }
    }

    /// 40, 50 and 60 tok/s of ours; 20 and 30 of llama.cpp plain, 10 repacked.
    fn measured(test: Test) -> Measured {
        let ours = [40.0, 50.0, 60.0].map(|rate| Samples::from_iter([rate]));
        let theirs = [20.0, 30.0].map(|rate| {
            let mut both = Both::default();
            both.of(Setting::Repack).extend([10.0]);
            both.of(Setting::Plain).extend([rate]);
            both
        });
        Measured { test, ours, theirs }
    }

    fn limits() -> [Limits; 2] {
        [
            r#"{"read_gb_s": 25, "int8_gop_s": 400, "bf16_gop_s": 0}"#,
            r#"{"read_gb_s": 30, "int8_gop_s": 800, "bf16_gop_s": 0}"#,
        ]
        .map(|line| Limits::read(line).unwrap())
    }

    fn ratios(rows: &[Row]) -> Vec<(Section, f64, Option<Goal>)> {
        rows.iter().map(|row| (row.section, row.ratio(), row.goal)).collect()
    }

    #[test]
    fn a_large_model_is_held_against_llama_cpp_the_machine_and_one_rank() {
        let rows = rows(&model(Name::OneBillion, true), &measured(Test::Decode), &limits());
        let at_least = |goal| Some(Goal::AtLeast(goal));
        let expected = [
            (Section::Decode, 2.0, at_least(1.5)),
            (Section::Roofline, 40.0 * 0.5 / 25.0, at_least(0.85)),
            (Section::Decode, 50.0 / 30.0, at_least(1.5)),
            (Section::Roofline, 50.0 * 0.5 / 30.0, at_least(0.85)),
            (Section::Ranks, 1.5, at_least(1.9)),
            (Section::Ranks, 2.0, at_least(1.3)),
        ];
        assert_eq!(ratios(&rows), expected);
        assert_eq!(rows[4].test, "tg128 (memory allows 1.20)");
    }

    #[test]
    fn a_small_model_has_no_limits_and_its_ranks_no_goals() {
        let rows = rows(&model(Name::SmolLm2, false), &measured(Test::Prefill), &limits());
        let goals: Vec<_> = rows.iter().map(|row| (row.section, row.goal)).collect();
        let speed = (Section::Prefill, Some(Goal::AtLeast(2.0)));
        assert_eq!(goals, [speed, speed, (Section::Ranks, None), (Section::Ranks, None)]);
    }

    #[test]
    fn bf16_has_a_goal_and_a_peak_of_its_own() {
        let quant = Quant::Uniform(base::DType::BF16);
        assert_eq!(speed_goal(Test::Prefill, quant), Goal::AtLeast(1.2));
        let model = Model { quant, ..model(Name::OneBillion, true) };
        let ours = Figure::single(100.0, "tok/s");
        assert!(against_limit(&model, Test::Prefill, &ours, limits()[0]).is_none(), "no such instruction");
    }
}
