//! Chat templates against jinja2 (`tests/golden/templates.json`), and what a hostile one can do.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use text::ChatTemplate;

fn render(source: &str, messages: Value) -> Result<String, String> {
    let template = ChatTemplate::new(source, "<s>", "</s>").map_err(|e| e.to_string())?;
    template.render(&messages, None, true).map_err(|e| e.to_string())
}

#[test]
fn as_jinja2_renders() {
    let path = format!("{}/tests/golden/templates.json", env!("CARGO_MANIFEST_DIR"));
    let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(cases.len() > 20);
    for (i, case) in cases.iter().enumerate() {
        let template = ChatTemplate::new(case["template"].as_str().unwrap(), "<s>", "</s>").unwrap();
        let tools = Some(&case["tools"]).filter(|tools| !tools.is_null());
        let prompt = case["add_generation_prompt"].as_bool().unwrap();
        match template.render(&case["messages"], tools, prompt) {
            Ok(text) => assert_eq!(case["text"].as_str(), Some(&*text), "case {i}"),
            Err(error) => {
                let expected = case["error"].as_str().unwrap_or_else(|| panic!("case {i}: {error}"));
                assert!(error.to_string().ends_with(expected), "case {i}: {error}");
            }
        }
    }
}

#[test]
fn the_date_is_handed_in() {
    let source = "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% else %}never{% endif %}";
    let template = ChatTemplate::new(source, "", "").unwrap();
    assert_eq!(template.render(&json!([]), None, false).unwrap(), "never");
    let template = template.with_clock(|| 1_721_952_000);
    assert_eq!(template.render(&json!([]), None, false).unwrap(), "26 Jul 2024");
}

#[test]
fn errors_name_the_line() {
    let syntax = render("one\ntwo {% if %}", json!([])).unwrap_err();
    assert!(syntax.contains("line 2"), "{syntax}");
    let refused = render("one\n\n{{ raise_exception('no tools here') }}", json!([])).unwrap_err();
    assert_eq!(refused, "chat template, line 3: no tools here");
    let missing = render("{{ messages[0].a.b }}", json!([{}])).unwrap_err();
    assert!(missing.contains("line 1"), "{missing}");
}

#[test]
fn hostile_templates_end_in_errors() {
    for source in [
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for a in range(9999) %}{{ 'x' * 99999 }}{% endfor %}",
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns | tojson }}",
        "{{ messages | tojson(indent=99999999999999999999) }}",
        "{% include 'chat' %}",
        "{{ strftime_now('%Q') }}",
    ] {
        let error = render(source, json!([])).unwrap_err();
        assert!(error.starts_with("chat template, line"), "{source}: {error}");
    }
    let deep = format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000));
    render(&format!("{{{{ {deep} }}}}"), json!([])).unwrap_err();
    render(&"x".repeat(2 << 20), json!([])).unwrap_err();
}

/// Templates in the manner of each family that calls tools (`tests/golden/styles.json`, made by
/// `xtask/golden/styles.py`).
#[test]
fn as_transformers_renders() {
    let path = format!("{}/tests/golden/styles.json", env!("CARGO_MANIFEST_DIR"));
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let now_s = golden["now_s"].as_u64().unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 100);
    let mut wrong = Vec::new();
    for case in cases {
        let name = case["template"].as_str().unwrap();
        let source = golden["templates"][name].as_str().unwrap();
        let template = ChatTemplate::new(source, "<s>", "</s>").unwrap().with_clock(move || now_s);
        let at = case["conversation"].as_u64().unwrap() as usize;
        let conversation = &golden["conversations"][at];
        let tools = Some(&conversation["tools"]).filter(|tools| !tools.is_null());
        let found = template.render(&conversation["messages"], tools, case["prompt"].as_bool().unwrap());
        match (&found, case["text"].as_str()) {
            (Ok(text), Some(expected)) if text == expected => {}
            (Err(error), None) if error.to_string().ends_with(case["error"].as_str().unwrap()) => {}
            _ => wrong.push(format!("{name}, conversation {at}: expected {case:#}\nfound {found:#?}")),
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n\n"));
}

#[test]
fn styles_are_recognised_in_templates() {
    let path = format!("{}/tests/golden/styles.json", env!("CARGO_MANIFEST_DIR"));
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    for (name, style) in [
        ("kimi", Some("kimi")),
        ("deepseek", Some("deepseek-v3.1")),
        ("qwen", Some("hermes")),
        ("glm", Some("glm")),
        ("harmony", Some("harmony")),
        ("llama", Some("llama3")),
        ("corners", None),
    ] {
        let template = ChatTemplate::new(golden["templates"][name].as_str().unwrap(), "", "").unwrap();
        assert_eq!(template.form().style().map(|style| style.name()), style, "{name}");
        assert_eq!(template.declares_tools(), style.is_some(), "{name}");
    }
    let template = ChatTemplate::new("{{ messages }}", "", "").unwrap();
    assert_eq!(template.with_tool_style("glm").unwrap().form().style().unwrap().name(), "glm");
    let error = ChatTemplate::new("", "", "").unwrap().with_tool_style("quux").err().unwrap().to_string();
    assert!(error.contains("\"quux\"") && error.contains("hermes"), "{error}");
}
