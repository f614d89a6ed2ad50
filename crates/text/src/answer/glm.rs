//! GLM-4.5 and later: the function's name and pairs of `<arg_key>` and `<arg_value>` between `<tool_call>` and
//! `</tool_call>`. Values that are strings are written bare, so the declared types say which are.

use std::collections::HashSet;

use serde_json::Value;

use super::hermes::{BEGIN, END};
use super::input::{Found, Input};
use super::output::Output;
use super::style::Style;
use super::tagged::{Calls, Progress, Tagged};
use super::{Grammar, MAX_HEAD_BYTES, Thinking, function_name};

pub(super) struct Glm;

const KEY: &str = "<arg_key>";
const END_KEY: &str = "</arg_key>";
const VALUE: &str = "<arg_value>";
const END_VALUE: &str = "</arg_value>";

impl Style for Glm {
    fn name(&self) -> &'static str {
        "glm"
    }

    fn is_in(&self, template: &str) -> bool {
        template.contains(KEY)
    }

    fn marks(&self) -> &'static [&'static str] {
        &[BEGIN, END, KEY, END_KEY, VALUE, END_VALUE]
    }

    fn grammar(&self, tools: Option<&Value>, thinking: Option<Thinking>) -> Box<dyn Grammar> {
        let pairs = Pairs {
            strings: tools.map(declared_strings).unwrap_or_default(),
            name: String::new(),
            n_pairs: 0,
            place: Place::Name,
        };
        Box::new(Tagged::new(pairs, thinking))
    }
}

/// Function and parameter of every parameter that can only be a string.
fn declared_strings(tools: &Value) -> HashSet<(String, String)> {
    let mut strings = HashSet::new();
    for function in tools.as_array().into_iter().flatten().filter_map(|tool| tool.get("function")) {
        let name = function.get("name").and_then(Value::as_str).unwrap_or_default();
        let properties = function.pointer("/parameters/properties").and_then(Value::as_object);
        for (key, schema) in properties.into_iter().flatten() {
            if schema.get("type") == Some(&Value::from("string")) {
                strings.insert((name.to_owned(), key.clone()));
            }
        }
    }
    strings
}

struct Pairs {
    strings: HashSet<(String, String)>,
    name: String,
    n_pairs: usize,
    place: Place,
}

enum Place {
    Name,
    Pair,
    Key,
    /// Before the value of this key.
    Before(String),
    /// In a string, which passes on as it comes.
    Text,
    /// In a value that has to be whole.
    Json(String),
}

/// What a step found out.
enum Next {
    Go(Place),
    Stop(Progress),
}

impl Pairs {
    fn step(&mut self, input: &mut Input, output: &mut Output) -> Next {
        match &mut self.place {
            Place::Name => self.name(input, output),
            Place::Pair => match input.until(&[KEY, END]) {
                Found::Mark(_, 0) => Next::Go(Place::Key),
                Found::Mark(..) => {
                    output.arguments(if self.n_pairs == 0 { "{}" } else { "}" });
                    closed(output)
                }
                Found::Text(_) => open_or(input, || closed(output)),
            },
            Place::Key => match input.find(&[END_KEY]) {
                (len, Some(_)) if len <= MAX_HEAD_BYTES => {
                    let key = input.take(len);
                    input.take(END_KEY.len());
                    Next::Go(Place::Before(key.trim().to_owned()))
                }
                (_, None) if input.peek().len() <= MAX_HEAD_BYTES + END_KEY.len() => {
                    open_or(input, || closed(output))
                }
                _ => closed(output),
            },
            Place::Before(key) => {
                let key = std::mem::take(key);
                match input.until(&[VALUE]) {
                    Found::Mark(..) => self.pair(key, output),
                    Found::Text(_) if input.is_ended() => closed(output),
                    Found::Text(_) => {
                        self.place = Place::Before(key);
                        Next::Stop(Progress::Open)
                    }
                }
            }
            Place::Text => match input.until(&[END_VALUE]) {
                Found::Mark(text, _) => {
                    output.arguments(&(escaped(&text) + "\""));
                    Next::Go(Place::Pair)
                }
                Found::Text(text) => {
                    output.arguments(&escaped(&text));
                    open_or(input, || closed(output))
                }
            },
            Place::Json(value) => match input.until(&[END_VALUE]) {
                Found::Mark(text, _) => {
                    value.push_str(&text);
                    output.arguments(&json_of(value));
                    Next::Go(Place::Pair)
                }
                Found::Text(text) => {
                    value.push_str(&text);
                    open_or(input, || closed(output))
                }
            },
        }
    }

    fn name(&mut self, input: &mut Input, output: &mut Output) -> Next {
        let no_call = || Next::Stop(Progress::NoCall(BEGIN.to_owned()));
        match input.find(&[KEY, END]) {
            (_, None) if input.peek().len() > MAX_HEAD_BYTES + KEY.len() => no_call(),
            (_, None) => open_or(input, no_call),
            (len, Some(_)) => match function_name(&input.peek()[..len]) {
                Some(name) if len <= MAX_HEAD_BYTES => {
                    output.begin_call(name);
                    (self.name, self.n_pairs) = (name.to_owned(), 0);
                    input.take(len);
                    Next::Go(Place::Pair)
                }
                _ => no_call(),
            },
        }
    }

    /// Writes the key; its value follows.
    fn pair(&mut self, key: String, output: &mut Output) -> Next {
        let before = if self.n_pairs == 0 { "{" } else { ", " };
        self.n_pairs += 1;
        output.arguments(&format!("{before}\"{}\": ", escaped(&key)));
        if !self.strings.contains(&(self.name.clone(), key)) {
            return Next::Go(Place::Json(String::new()));
        }
        output.arguments("\"");
        Next::Go(Place::Text)
    }
}

impl Calls for Pairs {
    fn opening(&self) -> &'static [&'static str] {
        &[BEGIN]
    }

    fn silent(&self) -> &'static [&'static str] {
        &[END]
    }

    fn read(&mut self, input: &mut Input, output: &mut Output) -> Progress {
        loop {
            match self.step(input, output) {
                Next::Go(place) => self.place = place,
                Next::Stop(Progress::Open) => return Progress::Open,
                Next::Stop(progress) => {
                    self.place = Place::Name;
                    return progress;
                }
            }
        }
    }
}

fn open_or(input: &Input, at_end: impl FnOnce() -> Next) -> Next {
    if input.is_ended() { at_end() } else { Next::Stop(Progress::Open) }
}

fn closed(output: &mut Output) -> Next {
    output.end_call();
    Next::Stop(Progress::Closed)
}

/// `text` inside the quotes of a JSON string.
fn escaped(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// A value as JSON: itself if it is some, else a string.
fn json_of(value: &str) -> String {
    match serde_json::from_str::<serde::de::IgnoredAny>(value) {
        Ok(_) => value.trim().to_owned(),
        Err(_) => Value::from(value).to_string(),
    }
}
