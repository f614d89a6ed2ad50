//! The field test as a user runs it: one command, one report that holds every section, and nothing private in it.
#![allow(clippy::unwrap_used)] // all of it is tests

mod common;

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
};

use common::onefold;
use serde_json::Value;

fn field_test(folder: &Path, args: &[&str]) -> Output {
    let mut command: Command = onefold();
    command.arg("field-test").args(args).current_dir(folder).env("HOME", folder);
    command.stdin(Stdio::null()).output().unwrap()
}

/// A report's page, and the value at its end.
fn read(path: &Path) -> (String, Value) {
    let page = fs::read_to_string(path).unwrap();
    let json = page.rsplit_once("```json\n").unwrap().1.strip_suffix("\n```\n").unwrap();
    let value = serde_json::from_str(json).unwrap();
    (page, value)
}

/// The parts of a section by name.
fn parts<'a>(report: &'a Value, section: &str) -> Vec<(&'a str, &'a Value)> {
    let parts = report["parts"].as_array().unwrap().iter().filter(|part| part["section"] == section);
    parts.map(|part| (part["name"].as_str().unwrap(), part)).collect()
}

#[test]
fn one_command_writes_a_whole_report() {
    let folder = tempfile::tempdir().unwrap();
    let output = field_test(folder.path(), &["--quick", "--output", "report.md"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(stdout, "The report is report.md. Read it, then send it back.\n");

    let (page, report) = read(&folder.path().join("report.md"));
    for section in ["Machine", "Conformance", "Links", "Benchmark", "Power", "All of it as JSON"] {
        assert!(page.contains(&format!("\n## {section}\n")), "{section}\n{page}");
    }
    assert_eq!((&report["quick"], &report["finished"]), (&true.into(), &true.into()));
    assert_eq!(report["onefold"], env!("CARGO_PKG_VERSION"));
    for part in report["parts"].as_array().unwrap() {
        assert_ne!(part["status"], "failed", "{part:#}");
    }
    machine(&report);
    conformance(&report);
    links(&report);
    benchmark(&report);
    // who may read it is the machine's affair
    assert!(["passed", "skipped"].iter().any(|status| parts(&report, "power")[0].1["status"] == *status));
}

fn machine(report: &Value) {
    let [(_, machine), (_, mlx)] = parts(report, "machine")[..] else { panic!("{report:#}") };
    assert!(machine["result"]["cores"].as_u64().unwrap() >= 1);
    if cfg!(feature = "mlx") {
        assert_eq!(mlx["result"]["has_gpu"], cfg!(target_os = "macos"));
        assert!(mlx["result"]["version"].as_str().unwrap().starts_with("0."), "{mlx:#}");
    } else {
        assert_eq!(mlx["status"], "skipped");
        assert!(mlx["why"].as_str().unwrap().contains("--features mlx"), "{mlx:#}");
    }
}

fn conformance(report: &Value) {
    let suites = parts(report, "conformance");
    assert_eq!(suites.len(), if cfg!(feature = "mlx") { 4 } else { 1 });
    for (name, suite) in suites {
        let result = &suite["result"];
        assert!(result["checks"].as_array().unwrap().len() > 40, "{name}");
        assert!(result["n_held"].as_u64().unwrap() > 10, "{name}");
        assert!(result["tolerance"]["value"].as_f64().unwrap() > 0.0, "{name}");
    }
}

fn links(report: &Value) {
    let [(_, tools), (_, verbs), (_, loopback)] = parts(report, "links")[..] else { panic!("{report:#}") };
    let tools = tools["result"].as_array().unwrap();
    assert!(
        tools.iter().any(|tool| tool["tool"] == "ibv_devices" && tool["ended"].is_string()),
        "{tools:#?}"
    );
    // who has devices learns of their ports, all others why there are none
    assert!(verbs["result"].is_array() || verbs["why"].is_string(), "{verbs:#}");
    let trips = loopback["result"]["round_trips"].as_array().unwrap();
    assert!(trips.iter().all(|trip| trip["us_p50"].as_f64().unwrap() > 0.0), "{trips:#?}");
}

fn benchmark(report: &Value) {
    let mut setups = parts(report, "benchmark");
    let (name, model) = setups.remove(0);
    assert_eq!((name, &model["result"]["synthetic"]), ("model", &true.into()));
    setups.retain(|(name, _)| !name.contains("fast"));
    assert_eq!(setups.len(), if cfg!(feature = "mlx") { 5 } else { 2 });
    for (name, setup) in setups {
        let result = &setup["result"];
        let tests: Vec<_> = result["tests"].as_array().unwrap().iter().map(|t| &t["test"]).collect();
        assert_eq!(tests, ["pp16", "tg4"], "{name}");
        assert_eq!(name.contains("2 ranks"), result["tp"] == 2, "{name}");
        let has_graph = result["graph"]["nodes_per_token"].as_f64().unwrap() > 0.0;
        assert_eq!(has_graph, name.contains("mlx"), "{name}");
    }
}

/// A model that cannot be opened fails its part; the rest goes on, and the exit code tells.
#[test]
fn a_part_that_fails_does_not_end_the_report() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    fs::write(&model, "no checkpoint").unwrap();
    let output = field_test(folder.path(), &["--quick", "--model", model.to_str().unwrap()]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("parts failed: model\nhint: "), "{stderr}");
    let stdout = String::from_utf8_lossy(&output.stdout);
    let name = stdout.split(['.', ' ']).find(|word| word.starts_with("onefold-field-test-")).unwrap();
    let (page, report) = read(&folder.path().join(format!("{name}.md")));
    assert!(page.contains("is not a checkpoint"), "{page}");
    assert!(!page.contains(folder.path().to_str().unwrap()), "the home folder is nobody's business");
    let benchmarks = parts(&report, "benchmark");
    assert!(benchmarks.len() > 2 && benchmarks[1..].iter().all(|(_, part)| part["status"] == "passed"));
}

#[test]
fn a_report_that_cannot_be_written_is_an_error_before_the_first_part() {
    let folder = tempfile::tempdir().unwrap();
    let output = field_test(folder.path(), &["--output", "nowhere/report.md"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("cannot write the report nowhere/report.md"), "{stderr}");
    assert!(!stderr.contains("machine …"), "{stderr}");
}

#[test]
fn its_help_has_an_example_and_hides_its_insides() {
    let folder = tempfile::tempdir().unwrap();
    let help = String::from_utf8(field_test(folder.path(), &["--help"]).stdout).unwrap();
    assert!(help.contains("\n  onefold field-test") && !help.contains("--part"), "{help}");
}
