//! The commands as people type them: examples in every help, results that scripts can read, and errors that say what to
//! do. Nothing panics, whatever is typed.
#![allow(clippy::unwrap_used)] // all of it is tests

mod common;

use std::{
    fs,
    io::Read,
    net::TcpListener,
    path::PathBuf,
    process::{Command, Stdio},
};

use common::{gguf, onefold};
use serde_json::{Value, json};
use tempfile::TempDir;
use weights::synthetic::{Arch, Recipe};

/// Its vocabulary ends in unused entries, which only one of the two file formats writes down.
fn tiny() -> Recipe {
    Recipe::tiny(Arch::Llama)
}

fn model() -> (PathBuf, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (gguf(&tiny(), dir.path(), "tiny.gguf"), dir)
}

/// What a command printed, after it ended with this exit code and without a panic.
fn ran(command: &mut Command, code: i32) -> (String, String) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!stderr.contains("panicked"), "{command:?}\n{stderr}");
    assert_eq!(output.status.code(), Some(code), "{command:?}\n{stdout}\n{stderr}");
    (stdout, stderr)
}

/// A command fails, and says all of these.
fn fails(args: &[&str], says: &[&str]) {
    let (_, stderr) = ran(onefold().args(args), 1);
    assert!(stderr.contains("error: "), "{args:?}\n{stderr}");
    for text in says {
        assert!(stderr.contains(text), "{args:?}: expected {text:?} in\n{stderr}");
    }
}

#[test]
fn every_help_has_an_example() {
    let commands =
        ["quickstart", "run", "serve", "pull", "models", "bench", "doctor", "fabric", "plan", "rank"];
    for command in commands {
        let (help, _) = ran(onefold().args([command, "--help"]), 0);
        assert!(help.contains(&format!("\n  onefold {command}")), "{help}");
    }
    let (help, _) = ran(onefold().arg("--help"), 0);
    assert!(help.contains("quickstart") && !help.contains("\n  rank"), "{help}");
}

#[test]
fn both_file_formats_give_the_same_answer() {
    let (model, dir) = model();
    let hf = dir.path().join("hf");
    tiny().write_hf(&hf).unwrap();
    let answer = |path: &PathBuf| {
        let mut command = onefold();
        command.arg("run").arg(path).args(["hello", "--temperature", "0", "--max-tokens", "32"]);
        ran(&mut command, 0)
    };
    let (text, summary) = answer(&model);
    assert!(text.trim().chars().count() > 8, "{text:?}");
    assert!(summary.contains("TTFT") && summary.contains("rank 0 is ready"), "{summary}");
    assert_eq!(answer(&hf).0, text);
}

#[test]
fn a_chat_reads_standard_input() {
    let (model, _dir) = model();
    let mut command = onefold();
    command.arg("run").arg(model).args(["--temperature", "0", "--max-tokens", "4", "--system", "Be brief."]);
    let mut command = assert_cmd::Command::from_std(command);
    let output = command.write_stdin("hello\n\nand now?\n").assert().success().get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(stderr.matches("TTFT").count(), 2, "{stderr}");
}

#[test]
fn more_threads_than_cores_are_noted() {
    let (model, _dir) = model();
    let mut command = onefold();
    command.arg("run").arg(model).args(["hi", "--max-tokens", "1", "--threads", "1000"]);
    let (_, stderr) = ran(&mut command, 0);
    assert!(stderr.contains("note: rank 0 was to have 1000 of its node's cores"), "{stderr}");
}

#[test]
fn benchmarks_print_json() {
    let (model, _dir) = model();
    let mut command = onefold();
    command
        .arg("bench")
        .arg(model)
        .args(["-p", "32", "-n", "8", "--repeat", "2", "--json", "--tp", "2", "-v"]);
    command.args(["--backend", "cpu"]);
    let report: Value = serde_json::from_str(&ran(&mut command, 0).0).unwrap();
    assert_eq!((&report["model"], &report["tp"]), (&"tiny".into(), &2.into()), "{report}");
    let tests = report["tests"].as_array().unwrap();
    assert_eq!(tests.iter().map(|t| t["test"].as_str().unwrap()).collect::<Vec<_>>(), ["pp32", "tg8"]);
    for test in tests {
        assert_eq!(test["tok_s"].as_array().unwrap().len(), 2, "{report}");
        assert!(test["tok_s_median"].as_f64().unwrap() > 0.0, "{report}");
    }
    let graph =
        json!({"nodes_per_token": 0.0, "launches_per_token": 0.0, "evals_per_token": 0.0, "layers": 2});
    assert_eq!(report["graph"], graph, "this backend computes at once");
}

#[test]
fn benchmarks_print_a_table() {
    let (model, _dir) = model();
    let mut command = onefold();
    command.arg("bench").arg(model).args(["-p", "16", "-n", "4", "-r", "1", "--pp", "2"]);
    command.args(["--backend", "cpu,cpu", "--verbose"]);
    let (table, _) = ran(&mut command, 0);
    assert!(["pp16", "tg4", "tok/s", "1 × 2", "no graph"].iter().all(|text| table.contains(text)), "{table}");
}

#[test]
fn models_are_listed() {
    let list: Value = serde_json::from_str(&ran(onefold().args(["models", "--json"]), 0).0).unwrap();
    let ids: Vec<_> = list.as_array().unwrap().iter().map(|card| card["id"].as_str().unwrap()).collect();
    assert!(ids.contains(&node::models::DEFAULT_MODEL), "{ids:?}");
    let (table, _) = ran(onefold().arg("models"), 0);
    assert!(ids.iter().all(|id| table.contains(id)), "{table}");
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let mut child =
        onefold().args(["models", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert!(child.wait().unwrap().success() && stderr.is_empty(), "{stderr}");
}

#[test]
fn unknown_models_come_with_a_proposal() {
    fails(&["run", "smolm2", "hi"], &["\"smolm2\"", "hint: did you mean smollm2-135m-instruct?"]);
    fails(&["pull", "zzz"], &["\"zzz\"", "hint: list the known models with `onefold models`"]);
    fails(&["serve", "./missing.gguf", "--port", "0"], &["./missing.gguf", "hint: check the path"]);
}

#[test]
fn files_that_are_no_model_are_named() {
    let (model, dir) = model();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let whole = fs::read(model).unwrap();
    let text = file("text.gguf", b"The sky is blue because it is.");
    fails(
        &["run", &text, "hi"],
        &["text.gguf is not a checkpoint", "found \"The \"", "hint: give a .gguf file"],
    );
    let empty = file("empty.gguf", b"");
    fails(&["run", &empty, "hi"], &["empty.gguf is not a checkpoint", "hint:"]);
    let cut = file("cut.gguf", &whole[..whole.len() / 2]);
    fails(&["run", &cut, "hi"], &["cut.gguf at byte", "tensor \"", "found a file of"]);
    let stump = file("stump.gguf", &whole[..1000]);
    fails(&["run", &stump, "hi"], &["stump.gguf at byte", "expected"]);
    fails(&["run", dir.path().to_str().unwrap(), "hi"], &["has no config.json", "hint: name a .gguf file"]);
}

#[test]
fn placements_that_cannot_be_are_explained() {
    let (model, _dir) = model();
    let model = model.to_str().unwrap();
    for (args, says) in [
        ("--tp 4", &["2 KV head groups", "hint: use --tp 2 or less"][..]),
        ("--pp 3", &["2 layers", "hint: use --pp 2 or less"]),
        ("--tp 0", &["--tp", "hint:"]),
        ("--threads 0", &["threads is 0", "hint:"]),
        ("--tp 4294967295 --pp 4294967295", &["hint:"]),
        ("--tp 2 --split 1,2,3", &["--split has 3 weights: expected 2", "hint: write 2 numbers"]),
        ("--tp 2 --split 0,1", &["--split: weight 1 is 0", "hint:"]),
        ("--pp 2 --stage-split 1", &["--stage-split has 1 weights: expected 2", "hint:"]),
        ("--context 513", &["513 tokens is longer than the model's 512", "hint: ask for 512 tokens or less"]),
        ("--kv-tokens 16", &["16 tokens cannot hold one sequence of 512", "hint:"]),
        ("--kv-tokens 4294967295", &["rank 0 does not fit", "of KV cache", "hint:"]),
        ("--backend cpu,cpu", &["--backend names 2 backends: expected 1 for all ranks", "hint:"]),
        ("--tp 2 --backend cpu --collectives mlx-ring", &["mlx-ring need every rank on mlx", "hint:"]),
        ("--tp 2 --collectives mlx-jaccl", &["--jaccl-devices", "hint:"]),
        ("--tp 2 --jaccl-devices /nonexistent", &["cannot read the RDMA devices /nonexistent"]),
        ("--tp 2 --jaccl-devices /dev/null", &["the RDMA devices /dev/null", "for each of 2 ranks", "hint:"]),
    ] {
        let args: Vec<&str> = ["run", model, "hi"].into_iter().chain(args.split(' ')).collect();
        fails(&args, says);
    }
}

#[cfg(not(feature = "mlx"))]
#[test]
fn a_build_without_mlx_says_how_to_get_it() {
    let (model, _dir) = model();
    let says = [
        "rank 0 is to compute with mlx",
        "offers: cpu",
        "hint: build onefold there with MLX",
        "--features mlx",
    ];
    fails(&["run", model.to_str().unwrap(), "hi", "--backend", "mlx"], &says);
}

#[test]
fn options_out_of_range_are_refused() {
    let (model, dir) = model();
    let model = model.to_str().unwrap();
    for args in [
        "run MODEL hi --max-tokens 0",
        "run MODEL hi --temperature -1",
        "run MODEL hi --temperature NaN",
        "run MODEL hi --split 1,x",
        "bench MODEL --repeat 0",
        "serve MODEL --port 70000",
        "serve MODEL --max-requests 0",
        "serve MODEL --remote 1",
        "serve MODEL --listen 127.0.0.1:0",
        "run MODEL hi --backend gpu",
        "run MODEL hi --collectives ring",
        "run MODEL hi --fence none",
        "run MODEL hi --step-deadline 0",
        "run MODEL hi --step-deadline 86401",
    ] {
        let (_, stderr) = ran(onefold().args(args.split(' ').map(|arg| arg.replace("MODEL", model))), 2);
        let option = args.split(' ').find(|arg| arg.starts_with("--")).unwrap();
        assert!(stderr.contains("error: ") && stderr.contains(option), "{args}\n{stderr}");
    }
    fails(&["run", model, "hi", "--context", "8"], &["the context 8", "hint: --context makes it longer"]);
    for lengths in [["-p", "512"], ["-n", "511"], ["-p", "4294967295"], ["-n", "4294967295"]] {
        fails(&[&["bench", model][..], &lengths].concat(), &["the context 512", "hint: --context"]);
    }
    fails(&["bench", model, "-p", "0", "-n", "0"], &["nothing to measure"]);

    let remote = ["serve", model, "--port", "0", "--tp", "2", "--remote", "1", "--listen"];
    fails(&[&remote[..], &["127.0.0.1:0"]].concat(), &["--secret-file", "hint:"]);
    let secret = dir.path().join("secret");
    fs::write(&secret, "too short").unwrap();
    let secret = ["--secret-file", secret.to_str().unwrap()];
    fails(&[&remote[..], &["127.0.0.1:0"], &secret].concat(), &["9 characters", "hint:"]);
    fs::write(secret[1], "x".repeat(32)).unwrap();
    fails(&[&remote[..], &["0.0.0.0:0"], &secret].concat(), &["--listen", "0.0.0.0:0", "hint:"]);
    fails(&[&remote[..], &["192.0.2.1:0"], &secret].concat(), &["cannot listen on 192.0.2.1:0", "hint:"]);
    fails(
        &[&["serve", model, "--port", "0", "--remote", "1", "--listen", "127.0.0.1:0"][..], &secret].concat(),
        &["--remote: expected less than the 1 ranks", "hint:"],
    );
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    fails(
        &[&["rank", "--rank", "0", "--connect", &nobody][..], &secret].concat(),
        &[&format!("cannot reach {nobody}"), "hint:"],
    );
}

#[test]
fn a_port_in_use_is_known_before_the_model_is_loaded() {
    let (model, _dir) = model();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (_, stderr) = ran(onefold().arg("serve").arg(&model).args(["--port", &port]), 1);
    assert!(stderr.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{stderr}");
    assert!(
        stderr.contains("hint: --port chooses another port") && !stderr.contains("is ready:"),
        "{stderr}"
    );
    let model = model.to_str().unwrap();
    fails(&["serve", model, "--port", "0", "--host", "192.0.2.1"], &["192.0.2.1", "hint: --host"]);
}
