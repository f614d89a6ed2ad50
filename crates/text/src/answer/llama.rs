//! Llama 3: an answer that is a JSON object, or several with a semicolon between, or such after `<|python_tag|>`. As
//! an answer may be JSON without being a call, only declared names count.

use serde_json::Value;

use super::hermes::read_object;
use super::input::Input;
use super::json::{JsonCall, Read};
use super::output::Output;
use super::style::Style;
use super::tagged::{Calls, Progress, Tagged};
use super::{Grammar, Thinking};

pub(super) struct Llama3;

const PYTHON_TAG: &str = "<|python_tag|>";

impl Style for Llama3 {
    fn name(&self) -> &'static str {
        "llama3"
    }

    fn is_in(&self, template: &str) -> bool {
        template.contains("<|start_header_id|>") && template.contains("\"parameters\"")
    }

    fn marks(&self) -> &'static [&'static str] {
        &[PYTHON_TAG]
    }

    fn grammar(&self, tools: Option<&Value>, thinking: Option<Thinking>) -> Box<dyn Grammar> {
        let name = |tool: &Value| Some(tool.pointer("/function/name")?.as_str()?.to_owned());
        let declared = tools.and_then(Value::as_array).into_iter().flatten().filter_map(name).collect();
        Box::new(Tagged::new(Objects { declared, call: None, is_first: true }, thinking))
    }
}

struct Objects {
    declared: Vec<String>,
    call: Option<JsonCall>,
    is_first: bool,
}

impl Objects {
    fn over(&mut self, progress: Progress) -> Progress {
        (self.call, self.is_first) = (None, true);
        progress
    }
}

impl Calls for Objects {
    fn opening(&self) -> &'static [&'static str] {
        &[PYTHON_TAG]
    }

    fn opens_with(&self, first: char) -> bool {
        first == '{'
    }

    fn read(&mut self, input: &mut Input, output: &mut Output) -> Progress {
        loop {
            let Some(call) = &mut self.call else {
                match input.skip_blanks() {
                    Some('{') => self.call = Some(JsonCall::new(Some(self.declared.clone()))),
                    Some(';') if !self.is_first => drop(input.take(1)),
                    None if !input.is_ended() => return Progress::Open,
                    _ => return self.over(Progress::Closed),
                }
                continue;
            };
            match read_object(call, input, output) {
                Read::Open => return Progress::Open,
                Read::Done => (self.call, self.is_first) = (None, false),
                Read::Broken => return self.over(Progress::Closed),
                Read::NoCall(text) => return self.over(Progress::NoCall(text)),
            }
        }
    }
}
