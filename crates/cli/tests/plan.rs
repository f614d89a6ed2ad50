//! `onefold plan` as people type it: what it prints, what it says it cannot know, and what it refuses.
#![allow(clippy::unwrap_used)] // all of it is tests

mod common;

use std::{fs, path::Path, process::Stdio};

use common::{gguf, onefold};
use serde_json::Value;
use weights::synthetic::{Arch, Recipe};

const STUDIOS: &str = "4x mac-studio-m3-ultra-512 over tb5-rdma";

/// What `onefold plan` printed, after it ended with this exit code and without a panic.
fn plan(args: &[&str], code: i32) -> (String, String) {
    let output = onefold().arg("plan").args(args).stdin(Stdio::null()).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!stderr.contains("panicked"), "{args:?}\n{stderr}");
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{stdout}\n{stderr}");
    (stdout, stderr)
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&plan(&[args, &["--json"]].concat(), 0).0).unwrap()
}

#[test]
fn four_studios_run_kimi() {
    let (text, _) = plan(&["kimi-k2-thinking", "--on", STUDIOS], 0);
    for says in [
        "594.2 GB of weights",
        "tensor parallel × 4 for one request",
        "16 of 64",
        "512 of 2048 columns of 384 experts",
        "power while decoding",
        "measured: 4 × M3 Ultra in a pipeline draw 526 W",
        "128K",
        "not chosen:",
        "64 heads split 22/21/21",
        "pipeline × 4: ",
        " W instead of ",
        "fixed per layer",
    ] {
        assert!(text.contains(says), "expected {says:?} in\n{text}");
    }
    let report = json(&["kimi-k2-thinking", "--on", STUDIOS]);
    let decode = &report["plan"]["prediction"]["decode"];
    let (speed, band) = (decode["tok_s"].as_f64().unwrap(), decode["band"].as_f64().unwrap());
    assert!((20.0..45.0).contains(&speed) && band == 0.15, "{decode}");
    assert_eq!(report["machines_usd"], 4.0 * 9499.0);
    assert_eq!(report["plan"]["ranks"].as_array().unwrap().len(), 4);
    assert_eq!(report["speeds"].as_array().unwrap().len(), 9);
    let watts = report["plan"]["prediction"]["watts"].as_f64().unwrap();
    assert!(watts > 900.0, "four machines that all compute: {watts}");
}

#[test]
fn this_machine_is_planned_without_a_live_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let model = gguf(&Recipe::tiny(Arch::Llama), dir.path(), "tiny.gguf");
    let (text, _) = plan(&[model.to_str().unwrap(), "--context", "64"], 0);
    assert!(text.contains("no live cluster yet") && text.contains("0..2"), "{text}");
    assert!(!text.contains("prediction only"), "{text}");
    let report = json(&[model.to_str().unwrap(), "--context", "64"]);
    assert_eq!(report["model"]["is_runnable"], true);
    assert_eq!(report["plan"]["tp"], 1);
}

#[test]
fn configurations_and_cluster_files_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config.json");
    fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../node/configs/qwen3-235b-a22b-8bit.json"),
        &config,
    )
    .unwrap();
    let cluster = dir.path().join("cluster.toml");
    fs::write(
        &cluster,
        "over = \"10gbe\"\n[[machine]]\nkind = \"mac-studio-m3-ultra-256\"\nname = \"studio\"\ncount = 2\n\
         [[machine]]\nkind = \"mac-mini-m4-pro-64\"\nname = \"mini\"\n\
         [[link]]\nkind = \"tb5-rdma\"\nbetween = [\"studio\"]\n",
    )
    .unwrap();
    let svg = dir.path().join("plan.svg");
    let args = [config.to_str().unwrap(), "--on", cluster.to_str().unwrap(), "--svg", svg.to_str().unwrap()];
    let (text, _) = plan(&args, 0);
    assert!(text.contains("tensor parallel × 2"), "{text}");
    assert!(text.contains("using mini: linked by 10gbe (no RDMA), with it, "), "{text}");
    let drawn = fs::read_to_string(svg).unwrap();
    assert!(
        drawn.starts_with("<svg") && drawn.ends_with("</svg>\n") && drawn.contains("studio-1"),
        "{drawn}"
    );
    assert!(plan(&[dir.path().to_str().unwrap(), "--on", STUDIOS], 0).0.contains("249.8 GB"));
}

#[test]
fn what_to_buy_comes_with_watts_and_prices() {
    let (text, _) = plan(&["--buy", "kimi-k2-thinking"], 0);
    for says in ["2 × mac-studio-m3-ultra-512", "tb5-rdma", "19 × ", "10.9 kW", "526 W", "predictions"] {
        assert!(text.contains(says), "expected {says:?} in\n{text}");
    }
    let limits = ["--min-tok-s", "20", "--max-watts", "500", "--max-usd", "40000"];
    let found = json(&[&["--buy", "kimi-k2-thinking"][..], &limits].concat());
    for offer in found["offers"].as_array().unwrap() {
        assert!(offer["prediction"]["watts"].as_f64().unwrap() <= 500.0, "{offer}");
        assert!(offer["prediction"]["decode"]["tok_s"].as_f64().unwrap() >= 20.0, "{offer}");
        assert!(offer["price_usd"].as_f64().unwrap() <= 40_000.0, "{offer}");
    }
    let misses = found["misses"].as_array().unwrap();
    let studio = misses.iter().find(|m| m["offer"]["machine"] == "mac-studio-m3-ultra-512").unwrap();
    assert!(studio["why"][0].as_str().unwrap().contains("500 W are allowed"), "{studio}");
}

#[test]
fn what_cannot_be_planned_is_explained() {
    let fails = |args: &[&str], says: &[&str]| {
        let (_, stderr) = plan(args, 1);
        assert!(says.iter().all(|text| stderr.contains(text)), "{args:?}: {says:?} in\n{stderr}");
    };
    fails(&["no-such-model"], &["no-such-model", "kimi-k2-thinking"]);
    fails(&["smollm2-1.7b-instruct"], &["onefold pull smollm2-1.7b-instruct"]);
    fails(&["qwen3-4b", "--on", "4x mac-studio-m3-ultra-521 over tb5-rdma"], &["hint: did you mean"]);
    fails(&["qwen3-4b", "--on", "9x mac-studio-m3-ultra-512 over tb5-rdma"], &["port"]);
    fails(&["qwen3-4b", "--on", "/nonexistent.toml"], &["cannot read /nonexistent.toml"]);
    fails(
        &["kimi-k2-thinking", "--on", "2x mac-mini-m4-pro-64 over tb5-rdma"],
        &["there is no plan", "594.2 GB", "2 machines", "hint:"],
    );
    fails(&["kimi-k2-thinking", "--on", STUDIOS, "--max-watts", "50"], &["at most 50 W", "hint:"]);
    fails(&["qwen3-4b", "--context", "99999999", "--on", STUDIOS], &["99999999", "hint:"]);
    for args in [
        "qwen3-4b --max-watts 0",
        "qwen3-4b --usd-per-kwh nan",
        "qwen3-4b --requests 0",
        "qwen3-4b --min-tok-s 3",
        "--buy qwen3-4b --svg x",
        "--buy qwen3-4b --on dgx-spark",
    ] {
        let args: Vec<&str> = args.split(' ').collect();
        assert!(plan(&args, 2).1.contains("error: "), "{args:?}");
    }
}
