//! Answers of every style, whole and cut anywhere: what is thinking, content, call; and what malformed ones become.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};
use text::{AnswerForm, Part, STYLE_NAMES};

fn tools() -> Value {
    json!([
        {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {
            "place": {"type": "string"}, "days": {"type": "integer"}}}}},
        {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
    ])
}

/// A form with thinking, of the style of this name.
fn form(style: &str) -> AnswerForm {
    AnswerForm::of_template("<think></think>").with_style(style).unwrap()
}

/// Reads an answer whose text comes in these chunks.
fn read<'a>(form: AnswerForm, prompt: &str, chunks: impl IntoIterator<Item = &'a str>) -> Vec<Part> {
    let mut reader = form.reader(prompt, Some(&tools())).unwrap();
    let mut parts: Vec<Part> = chunks.into_iter().flat_map(|chunk| reader.push(chunk)).collect();
    parts.extend(reader.finish());
    merged(parts)
}

/// Pieces of one part put together.
fn merged(parts: Vec<Part>) -> Vec<Part> {
    let mut all: Vec<Part> = Vec::new();
    for part in parts {
        match (all.last_mut(), &part) {
            (Some(Part::Content(text)), Part::Content(more))
            | (Some(Part::Reasoning(text)), Part::Reasoning(more))
            | (Some(Part::Arguments(text)), Part::Arguments(more)) => text.push_str(more),
            _ => all.push(part),
        }
    }
    all
}

fn content(text: &str) -> Part {
    Part::Content(text.into())
}

fn reasoning(text: &str) -> Part {
    Part::Reasoning(text.into())
}

fn call(name: &str, arguments: &str) -> [Part; 3] {
    [Part::Call(name.into()), Part::Arguments(arguments.into()), Part::CallEnd]
}

/// Checks an answer whole, and character by character.
#[track_caller]
fn check(style: &str, text: &str, expected: impl IntoIterator<Item = Part>) {
    let expected: Vec<Part> = expected.into_iter().collect();
    assert_eq!(read(form(style), "", [text]), expected, "{text}");
    let chars: Vec<String> = text.chars().map(String::from).collect();
    assert_eq!(read(form(style), "", chars.iter().map(String::as_str)), expected, "cut: {text}");
}

fn all(parts: impl IntoIterator<Item = Vec<Part>>) -> Vec<Part> {
    parts.into_iter().flatten().collect()
}

#[test]
fn kimi() {
    let section = |calls: &str| format!("<|tool_calls_section_begin|>{calls}<|tool_calls_section_end|>");
    let one = "<|tool_call_begin|>functions.weather:3<|tool_call_argument_begin|>{\"place\": \"Köln\"}<|tool_call_end|>";
    let two = "<|tool_call_begin|> now:4 <|tool_call_argument_begin|> {} <|tool_call_end|>";
    let calls = || [call("weather", "{\"place\": \"Köln\"}").to_vec(), call("now", "{}").to_vec()];
    let both = section(&format!("{one}\n{two}"));
    check("kimi", &format!("I look. {both}"), all([vec![content("I look.")], calls().concat()]));
    let thought = format!("<think>First\n{both}\nthen</think>\n\nDone.");
    check(
        "kimi",
        &thought,
        all([vec![reasoning("First")], calls().concat(), vec![reasoning("then"), content("Done.")]]),
    );
    check("kimi", &format!("<think>hm{}", section(one)), all([vec![reasoning("hm")], calls()[0].clone()]));
    // No section around it, none of the marks after it, and no arguments at all.
    check("kimi", one, calls()[0].clone());
    check("kimi", one.strip_suffix("<|tool_call_end|>").unwrap(), calls()[0].clone());
    check("kimi", &one.replace("{\"place\": \"Köln\"}", ""), call("weather", "{}"));
    // Marks never show, whatever goes wrong.
    check("kimi", "a<|tool_call_begin|>what is this<|tool_call_end|>b", [content("awhat is thisb")]);
    check("kimi", "<|tool_call_begin|>two words:1<|tool_call_argument_begin|>{}", [content("two words:1{}")]);
    check("kimi", "<|tool_call_begin|>now:1<|tool_call_argument_begin|>text", [content("now:1text")]);
    check("kimi", "<|tool_calls_section_end|>x<|tool_call_end|>", [content("x")]);
    let long = format!("<|tool_call_begin|>{}<|tool_call_argument_begin|>{{}}", "x".repeat(5000));
    check("kimi", &long, [content(&format!("{}{{}}", "x".repeat(5000)))]);
}

#[test]
fn deepseek() {
    let fenced = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{\"days\": 2}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    let calls = || all([call("weather", "{\"days\": 2}").to_vec(), call("now", "{}").to_vec()]);
    check("deepseek-v3", fenced, calls());
    check(
        "deepseek-v3",
        &format!("<think>\nok\n</think>\n\nLook:\n\n{fenced}"),
        all([vec![reasoning("ok"), content("Look:")], calls()]),
    );
    check(
        "deepseek-v3",
        "<｜tool▁call▁begin｜>other<｜tool▁sep｜>f\n```json\n{}",
        [content("otherf\n```json\n{}")],
    );
    let bare = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{\"days\": 2}<｜tool▁call▁end｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    check("deepseek-v3.1", bare, calls());
    // What is thought about stays thought.
    check("deepseek-v3.1", &format!("<think>{bare}</think>x"), [reasoning(bare), content("x")]);
}

#[test]
fn hermes() {
    let one = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"place\": \"a \\\"} </tool_call>\", \"x\": [1, {}]}}\n</tool_call>";
    let arguments = "{\"place\": \"a \\\"} </tool_call>\", \"x\": [1, {}]}";
    check("hermes", one, call("weather", arguments));
    let two =
        format!("Two.\n{one}\n<tool_call>{{\"arguments\": {{}}, \"id\": 7, \"name\": \"now\"}}</tool_call>");
    check(
        "hermes",
        &two,
        all([vec![content("Two.")], call("weather", arguments).to_vec(), call("now", "{}").to_vec()]),
    );
    for (object, arguments) in [
        ("{\"name\": \"now\"}", "{}"),
        ("{\"name\": \"now\", \"arguments\": null}", "{}"),
        ("{\"name\": \"now\", \"parameters\": \"{\\\"a\\\": 1}\"}", "{\"a\": 1}"),
        (
            "{\"x\": -1.5e3, \"name\": \"now\", \"y\": \"{\", \"arguments\": {\"k\": null}, \"z\": true}",
            "{\"k\": null}",
        ),
    ] {
        check("hermes", &format!("<tool_call>{object}</tool_call>"), call("now", arguments));
    }
    for wrong in [
        "<tool_call>hello</tool_call>",
        "<tool_call>{\"name\": 5}</tool_call>",
        "<tool_call>{\"name\": \"a b\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>",
        "<tool_call>{\"arguments\": {}}</tool_call>",
        "<tool_call>{name: 1}</tool_call>",
        "<tool_call>{\"name\": \"f\"",
    ] {
        check("hermes", wrong, [content(&wrong.replace("</tool_call>", ""))]);
    }
    check(
        "hermes",
        "<tool_call>{\"name\": \"f\", \"arguments\": {} oops} x</tool_call>y",
        all([call("f", "{}").to_vec(), vec![content("y")]]),
    );
    check(
        "hermes",
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"cut",
        [Part::Call("f".into()), Part::Arguments("{\"cut".into()), Part::CallEnd],
    );
    check(
        "hermes",
        "<think>use <tool_call>{}</tool_call>?</think><tool_call>{\"name\": \"now\"}</tool_call>",
        all([vec![reasoning("use <tool_call>{}</tool_call>?")], call("now", "{}").to_vec()]),
    );
}

#[test]
fn glm() {
    let one = "<tool_call>weather\n<arg_key>place</arg_key>\n<arg_value>5 \"é\"\n</arg_value>\n<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>";
    check("glm", one, call("weather", "{\"place\": \"5 \\\"é\\\"\\n\", \"days\": 2}"));
    let loose = "x <tool_call>other<arg_key>a</arg_key><arg_value>{\"b\": [1]}</arg_value><arg_key>c</arg_key><arg_value>not json</arg_value></tool_call><tool_call>now</tool_call>";
    check(
        "glm",
        loose,
        all([
            vec![content("x")],
            call("other", "{\"a\": {\"b\": [1]}, \"c\": \"not json\"}").to_vec(),
            call("now", "{}").to_vec(),
        ]),
    );
    check("glm", "<tool_call>two words</tool_call>", [content("<tool_call>two words")]);
    check("glm", "<tool_call>now", [content("<tool_call>now")]);
    check(
        "glm",
        "<tool_call>weather<arg_key>place</arg_key><arg_value>cut",
        [Part::Call("weather".into()), Part::Arguments("{\"place\": \"cut".into()), Part::CallEnd],
    );
}

#[test]
fn harmony() {
    let analysis = "<|channel|>analysis<|message|>Think.<|end|>";
    let last = "<|start|>assistant<|channel|>final<|message|>Hello <b>.";
    check("harmony", &format!("{analysis}{last}"), [reasoning("Think."), content("Hello <b>.")]);
    for head in [
        "<|channel|>commentary to=functions.weather <|constrain|>json",
        "<|start|>assistant<|channel|>commentary to=functions.weather<|constrain|>json",
        "<|start|>assistant to=functions.weather<|channel|>commentary json",
        " to=functions.weather<|channel|>commentary",
    ] {
        check(
            "harmony",
            &format!("{head}<|message|>{{\"days\": 1}}<|call|>"),
            call("weather", "{\"days\": 1}"),
        );
        check("harmony", &format!("{head}<|message|>{{\"days\": 1}}"), call("weather", "{\"days\": 1}"));
        check("harmony", &format!("{head}<|message|><|call|>"), call("weather", "{}"));
        check("harmony", &format!("{head}<|message|>no json<|end|>"), [content("no json")]);
    }
    let preamble = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.now<|channel|>commentary<|message|>{}<|call|>";
    check("harmony", preamble, all([vec![content("I look.")], call("now", "{}").to_vec()]));
    check("harmony", "the plain truth", [content("the plain truth")]);
    check("harmony", "<|channel|>analysis", []);
    check("harmony", "<|message|>x<|channel|>final<|message|>y", [content("xy")]);
    let without = form("harmony").reader("", None).unwrap();
    let mut without = without;
    let mut parts = without.push("<|channel|>commentary to=functions.now<|message|>{}");
    parts.extend(without.finish());
    assert_eq!(parts, [content("{}")], "without tools nothing is a call");
}

#[test]
fn llama3() {
    let one = "{\"name\": \"weather\", \"parameters\": {\"days\": 1}}";
    let two = "{\"type\": \"function\", \"name\": \"now\", \"parameters\": {}}";
    let calls = || all([call("weather", "{\"days\": 1}").to_vec(), call("now", "{}").to_vec()]);
    check("llama3", one, call("weather", "{\"days\": 1}"));
    check("llama3", &format!("{one}; {two}"), calls());
    check("llama3", &format!("Sure: <|python_tag|>{one}\n{two}"), all([vec![content("Sure:")], calls()]));
    for plain in [
        "{\"name\": \"Bob\", \"parameters\": {}}",
        "{\"answer\": 42}",
        "{ this is a set }",
        "{\"name\": \"weather\"",
        "A {\"name\": \"weather\", \"parameters\": {}}",
    ] {
        check("llama3", plain, [content(plain)]);
    }
    check("llama3", "<|python_tag|>print(1)", [content("print(1)")]);
}

#[test]
fn thinking_without_tools() {
    let read = |prompt: &str, text: &str| {
        let mut reader = AnswerForm::of_template("a </think> b").reader(prompt, None).unwrap();
        let mut parts = reader.push(text);
        parts.extend(reader.finish());
        merged(parts)
    };
    assert_eq!(read("", "\n<think>\nso\n</think>\n\nyes\n"), [reasoning("so"), content("yes\n")]);
    assert_eq!(read("x<think>\n", "so</think>yes"), [reasoning("so"), content("yes")]);
    assert_eq!(read("", "<think>never ends "), [reasoning("never ends")]);
    assert_eq!(read("", " say <think> aloud</think>\n"), [content(" say <think> aloud</think>\n")]);
    assert_eq!(read("", "<thin"), [content("<thin")]);
    assert_eq!(read("", "<think></think>a"), [content("a")]);
    assert!(AnswerForm::of_template("none").reader("", Some(&tools())).is_none());
}

#[test]
fn a_template_shows_its_style() {
    for (template, style) in [
        ("{{ '<|tool_calls_section_begin|>' }}", Some("kimi")),
        ("<｜tool▁calls▁begin｜> ```json", Some("deepseek-v3")),
        ("<｜tool▁calls▁begin｜>", Some("deepseek-v3.1")),
        ("<|start|><|channel|><|message|>", Some("harmony")),
        ("<tool_call><arg_key>", Some("glm")),
        ("<tool_call>{\"name\"", Some("hermes")),
        ("<tool_call><function=", None),
        ("<|start_header_id|> \"parameters\"", Some("llama3")),
        ("<|start_header_id|>", None),
    ] {
        assert_eq!(AnswerForm::of_template(template).style().map(|style| style.name()), style, "{template}");
    }
    assert!(AnswerForm::of_template("").with_style("klingon").is_none());
}

/// Texts in which marks of all styles, their beginnings and JSON meet.
fn marked() -> impl Strategy<Value = String> {
    const PIECES: &[&str] = &[
        "<think>",
        "</think>",
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>",
        "functions.now:0",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
        "<|tool_calls_section_end|>",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "function",
        "<｜tool▁sep｜>",
        "now\n```json\n",
        "\n```",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁end｜>",
        "<tool_call>",
        "</tool_call>",
        "<arg_key>",
        "</arg_key>",
        "<arg_value>",
        "</arg_value>",
        "<|start|>",
        "assistant",
        "<|channel|>",
        "analysis",
        "final",
        "commentary to=functions.now ",
        "<|constrain|>",
        "<|message|>",
        "<|end|>",
        "<|call|>",
        "<|python_tag|>",
        "{\"name\": \"now\", \"arguments\": {\"a\": 1}}",
        "{\"name\": \"now\",",
        "\"arguments\": {",
        "{",
        "}",
        "\"",
        ";",
        "\\",
        " ",
        "\n",
        "é",
        "<",
        "<|",
        "weather",
        "place",
        "5",
    ];
    prop::collection::vec(prop::sample::select(PIECES), 0..25).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn cuts_change_nothing(text in marked(), cuts in prop::collection::vec(0usize..400, 0..12), open: bool) {
        let mut cuts: Vec<usize> =
            cuts.into_iter().filter(|&at| at <= text.len() && text.is_char_boundary(at)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let chars: Vec<String> = text.chars().map(String::from).collect();
        for style in STYLE_NAMES {
            let prompt = if open { "<think>" } else { "" };
            let whole = read(form(style), prompt, [&*text]);
            let cut = read(form(style), prompt, cuts.windows(2).map(|at| &text[at[0]..at[1]]));
            prop_assert_eq!(&whole, &cut, "{}", style);
            let by_char = read(form(style), prompt, chars.iter().map(String::as_str));
            prop_assert_eq!(&whole, &by_char, "{}", style);
            check_order(&whole);
        }
    }

    #[test]
    fn text_without_marks_stays(text in "[a-z \n.,é漢{}\"]{0,60}") {
        for style in ["kimi", "deepseek-v3", "hermes", "glm"] {
            let expected: Vec<Part> = if text.is_empty() { vec![] } else { vec![content(&text)] };
            prop_assert_eq!(read(form(style), "", [&*text]), expected);
        }
    }
}

/// A call has its name, then arguments, then its end, and nothing else between; control marks show nowhere.
fn check_order(parts: &[Part]) {
    let mut in_call = false;
    for part in parts {
        match part {
            Part::Call(name) => {
                assert!(!in_call && !name.is_empty());
                in_call = true;
            }
            Part::Arguments(_) => assert!(in_call),
            Part::CallEnd => assert!(std::mem::take(&mut in_call)),
            Part::Content(_) | Part::Reasoning(_) => assert!(!in_call),
        }
    }
    assert!(!in_call);
}
