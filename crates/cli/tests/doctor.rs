//! `onefold doctor` on the machine under test: what it prints, for people and for scripts, and what it takes from others.
#![allow(clippy::unwrap_used)] // all of it is tests

mod common;

use std::fs;

use common::onefold;
use serde_json::{Value, json};

fn doctor(args: &[&str]) -> (Option<i32>, String, String) {
    let output = onefold().arg("doctor").args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn findings(text: &str) -> Vec<Value> {
    serde_json::from_str::<Value>(text).unwrap()["findings"].as_array().unwrap().clone()
}

#[test]
fn findings_are_no_failure() {
    let (code, stdout, stderr) = doctor(&[]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
    assert!(stdout.contains("cores") && stdout.contains("GB/s from memory"), "{stdout}");
    assert_eq!(stdout.matches("costs: ").count(), stdout.matches("mend:  ").count());
}

#[test]
fn scripts_get_json() {
    let (code, stdout, _) = doctor(&["--json"]);
    assert_eq!(code, Some(0));
    for finding in findings(&stdout) {
        for field in ["id", "severity", "what", "cost", "remedy"] {
            assert!(finding[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {finding}");
        }
    }
    let value: Value = serde_json::from_str(&stdout).unwrap();
    assert!(value["memory_gb_s"].as_f64().is_some_and(|speed| speed > 0.0), "{value}");
    assert!(value["peer"]["name"].is_string() && value["unanswered"].is_array());
}

#[test]
fn other_machines_are_judged_beside_this_one() {
    let dir = tempfile::tempdir().unwrap();
    let word = |name: &str, value: &Value| {
        let path = dir.path().join(name);
        fs::write(&path, value.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let mac = |name: &str, build: &str| json!({"peer": {"name": name, "model": "Mac15,14", "build": build, "ports": []}});
    let (one, two) = (word("one", &mac("one", "25C56")), word("two", &mac("two", "25B11")));
    let (code, stdout, _) = doctor(&["--json", "--beside", &one, "--beside", &two]);
    assert_eq!(code, Some(0));
    let found = findings(&stdout);
    assert_eq!(found[0]["id"], "builds-differ", "{stdout}");
    assert!(found[0]["what"].as_str().unwrap().starts_with("one and two run different builds"), "{stdout}");

    let nonsense = word("nonsense", &json!({"peer": 3}));
    for bad in [nonsense.as_str(), "/nonexistent/file", "/"] {
        let (code, _, stderr) = doctor(&["--beside", bad]);
        assert_eq!(code, Some(1), "{bad}");
        assert!(stderr.contains(bad) && stderr.contains("hint: "), "{stderr}");
    }
}
