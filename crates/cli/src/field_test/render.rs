//! A report's value as Markdown for people, with the value itself as JSON at the end. It adds nothing that is not in the value.

use serde_json::Value;

/// Sections in the order of the page, by the names that parts carry.
const SECTIONS: [(&str, &str); 5] = [
    ("machine", "Machine"),
    ("conformance", "Conformance"),
    ("links", "Links"),
    ("benchmark", "Benchmark"),
    ("power", "Power"),
];

/// The whole page.
pub(super) fn markdown(report: &Value) -> String {
    let mut page = format!("# {}\n\n", text(&report["report"]));
    page += &format!("onefold {}, {}\n", text(&report["onefold"]), text(&report["date"]));
    if report["quick"] == true {
        page += "\nA quick test: its sizes are too small for its speeds to mean anything.\n";
    }
    if report["finished"] != true {
        page += "\n**The test did not come to its end; what follows is what it had.**\n";
    }
    page += &overview(report);
    for (section, title) in SECTIONS {
        page += &format!("\n## {title}\n");
        for part in parts(report, section) {
            page += &told(section, part);
        }
        if section == "benchmark" {
            page += &speeds(report);
        }
    }
    let json = serde_json::to_string_pretty(report).unwrap_or_default();
    page + &format!("\n## All of it as JSON\n\n```json\n{json}\n```\n")
}

/// Every part and how it went.
fn overview(report: &Value) -> String {
    let row = |part: &Value| ["name", "status", "seconds"].map(|key| text(&part[key]));
    let rows = report["parts"].as_array().into_iter().flatten().map(row);
    table(&["part", "outcome", "seconds"], rows)
}

/// One part in its section.
fn told(section: &str, part: &Value) -> String {
    let result = &part["result"];
    let mut page = String::new();
    if let Some(why) = part["why"].as_str() {
        page += &format!("\n### {}: {}\n\n{}", text(&part["name"]), text(&part["status"]), indented(why));
    }
    page += &match (section, text(&part["name"]).as_str()) {
        (_, _) if result.is_null() => String::new(),
        ("conformance", _) => checks(result),
        ("links", "verbs") => ports(result),
        ("links", "loopback") => round_trips(result),
        ("links", _) => result.as_array().into_iter().flatten().map(tool).collect(),
        ("benchmark", "model") | ("machine", _) => list(result),
        ("power", _) => power(result),
        _ => String::new(),
    };
    page
}

/// `- name: value`, one line each.
fn list(result: &Value) -> String {
    let entries = result.as_object().into_iter().flatten();
    let line =
        |(name, value): (&String, &Value)| format!("- {}: {}\n", name.replace('_', " "), one_line(value));
    format!("\n{}", entries.map(line).collect::<String>())
}

fn checks(result: &Value) -> String {
    let [n_held, n_failed] = ["n_held", "n_failed"].map(|key| result[key].as_u64().unwrap_or(0));
    let tolerance = &result["tolerance"];
    let [value, cache, company] = ["value", "cache", "company"].map(|key| text(&tolerance[key]));
    let mut page = format!(
        "\n### {}: {} of {n_held} checks pass\n\nTolerances: {value}; through the KV cache {cache}; in other company {company}.\n",
        text(&result["how"]),
        n_held.saturating_sub(n_failed)
    );
    let row = |check: &Value| {
        let found = check["error"].as_str().map_or_else(|| "pass".to_owned(), str::to_owned);
        let promised = if check["held"] == true { "" } else { " (not promised here)" };
        [text(&check["name"]), found + promised]
    };
    page += &table(&["check", "found"], result["checks"].as_array().into_iter().flatten().map(row));
    page
}

fn tool(answer: &Value) -> String {
    let said = match &answer["said"] {
        Value::String(said) => said.clone(),
        Value::Null => String::new(),
        value => serde_json::to_string_pretty(value).unwrap_or_default(),
    };
    let heading = format!("\n### `{}`: {}\n", text(&answer["tool"]), one_line(&answer["ended"]));
    let outputs = [said, text(&answer["errors"])];
    let outputs = outputs.iter().filter(|output| !output.is_empty());
    heading + &outputs.map(|output| format!("\n{}", indented(output))).collect::<String>()
}

fn ports(result: &Value) -> String {
    let keys = [
        "device",
        "port",
        "state",
        "link_layer",
        "mtu_bytes",
        "speed_gbps",
        "n_gids",
        "ipv4_gid_index",
        "carries_links",
    ];
    let row = |port: &Value| keys.map(|key| text(&port[key]));
    let rows = result.as_array().into_iter().flatten().map(row);
    let header = ["device", "port", "state", "layer", "MTU", "Gb/s", "GIDs", "of them IPv4", "carries links"];
    format!("\n### Ports as our binding of the verbs library reads them\n{}", table(&header, rows))
}

fn round_trips(result: &Value) -> String {
    let row = |trip: &Value| ["bytes", "us_min", "us_p50", "us_p99"].map(|key| rounded(&trip[key]));
    let rows = result["round_trips"].as_array().into_iter().flatten().map(row);
    let table = table(&["bytes", "µs min", "µs p50", "µs p99"], rows);
    format!("\n### Round trips over our TCP link on loopback\n{table}")
}

/// All benchmarks in one table.
fn speeds(report: &Value) -> String {
    let mut rows = Vec::new();
    for part in parts(report, "benchmark") {
        let result = &part["result"];
        for test in result["tests"].as_array().into_iter().flatten() {
            let is_decode = text(&test["test"]).starts_with("tg");
            let graph = |key: &str| if is_decode { rounded(&result["graph"][key]) } else { String::new() };
            rows.push([
                text(&result["backend"]),
                text(&result["tp"]),
                text(&result["collectives"]),
                text(&result["fence"]),
                text(&test["test"]),
                rounded(&test["tok_s_median"]),
                rounded(&test["tok_s_min"]),
                rounded(&test["tok_s_max"]),
                graph("nodes_per_token"),
                graph("evals_per_token"),
            ]);
        }
    }
    let header = [
        "backend",
        "ranks",
        "sums by",
        "fence",
        "test",
        "tok/s",
        "min",
        "max",
        "graph nodes/token",
        "evaluations/token",
    ];
    let how = "\ntok/s is the median of the runs after one that is not counted; pp is prefill, tg decode. Nodes and evaluations are rank 0's.\n";
    table(&header, rows) + how
}

fn power(result: &Value) -> String {
    let rows = result["decode_w"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, decode)| [name.clone(), rounded(&result["idle_w"][name]), rounded(decode)]);
    let [meter, backend] = ["meter", "backend"].map(|key| text(&result[key]));
    let rate = rounded(&result["decode_tok_s"]);
    table(&[&meter, "W at rest", "W in decode"], rows) + &format!("\nDecode on {backend}: {rate} tok/s.\n")
}

fn parts<'a>(report: &'a Value, section: &'a str) -> impl Iterator<Item = &'a Value> {
    report["parts"].as_array().into_iter().flatten().filter(move |part| part["section"] == section)
}

/// A table; what is in a cell cannot end it.
fn table<const N: usize>(header: &[&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut page = format!("\n{}|{}\n", row(&header.map(str::to_owned)), "---|".repeat(N));
    for cells in rows {
        page += &row(&cells.map(|cell| cell.replace(['\n', '\r'], " ").replace('|', "\\|")));
    }
    page
}

/// A text as it is, whatever it holds.
fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

/// A text, or a value's JSON; nothing for null.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        value => value.to_string(),
    }
}

fn one_line(value: &Value) -> String {
    text(value).replace(['\n', '\r'], " ")
}

/// A measurement with as many digits as mean something to people.
fn rounded(value: &Value) -> String {
    match value {
        Value::Number(n) if n.is_f64() => n.as_f64().map_or_else(String::new, |n| format!("{n:.2}")),
        value => text(value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_has_every_section_and_its_json() {
        let parts = json!([
            {"section": "machine", "name": "machine", "status": "passed", "result": {"cpu": "M5 Max", "memory_bytes": 5}},
            {"section": "conformance", "name": "conformance of cpu", "status": "failed", "why": "1 of 2 checks failed: moe",
                "result": {"how": "cpu with NEON", "n_held": 2, "n_failed": 1, "tolerance": {"value": 1e-5, "cache": 1e-3, "company": 0.0},
                    "checks": [{"name": "norm", "held": true}, {"name": "moe", "held": true, "error": "expected 1 | found\n2"}]}},
            {"section": "links", "name": "links", "status": "passed",
                "result": [{"tool": "ibv_devices", "ended": "not on this machine"}, {"tool": "ip", "ended": "exit status: 0", "said": "```\n# no heading"}]},
            {"section": "benchmark", "name": "b", "status": "passed",
                "result": {"backend": "mlx", "tp": 2, "collectives": "mlx-ring", "fence": "safe",
                    "graph": {"nodes_per_token": 11.5, "evals_per_token": 1.0},
                    "tests": [{"test": "pp16", "tok_s_median": 10.0}, {"test": "tg4", "tok_s_median": 2.345, "tok_s_min": 2.0, "tok_s_max": 3.0}]}},
            {"section": "power", "name": "power", "status": "skipped", "why": "for root alone", "result": null},
        ]);
        let report = json!({"report": "onefold field test", "finished": true, "quick": true, "parts": parts});
        let page = markdown(&report);
        for (_, title) in SECTIONS {
            assert!(page.contains(&format!("\n## {title}\n")), "{title}");
        }
        for line in [
            "- cpu: M5 Max",
            "### cpu with NEON: 1 of 2 checks pass",
            "| moe | expected 1 \\| found 2 |",
            "### `ibv_devices`: not on this machine",
            "    # no heading",
            "| mlx | 2 | mlx-ring | safe | tg4 | 2.35 | 2.00 | 3.00 | 11.50 | 1.00 |",
            "### power: skipped",
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
        let json = page.split("```json\n").nth(1).unwrap().strip_suffix("\n```\n").unwrap();
        assert_eq!(serde_json::from_str::<Value>(json).unwrap(), report);
    }
}
