//! Hermes, Qwen2.5, Qwen3 and others: each call is a JSON object between `<tool_call>` and `</tool_call>`.

use serde_json::Value;

use super::input::{Found, Input};
use super::json::{JsonCall, Read};
use super::output::Output;
use super::style::Style;
use super::tagged::{Calls, Progress, Tagged};
use super::{Grammar, Thinking};

pub(super) struct Hermes;

pub(super) const BEGIN: &str = "<tool_call>";
pub(super) const END: &str = "</tool_call>";

impl Style for Hermes {
    fn name(&self) -> &'static str {
        "hermes"
    }

    /// Templates that spell calls as XML have the same tag around them.
    fn is_in(&self, template: &str) -> bool {
        template.contains(BEGIN) && !template.contains("<function=") && !template.contains("<parameter=")
    }

    fn marks(&self) -> &'static [&'static str] {
        &[BEGIN, END]
    }

    fn grammar(&self, _: Option<&Value>, thinking: Option<Thinking>) -> Box<dyn Grammar> {
        Box::new(Tagged::new(Objects { place: Place::Start }, thinking))
    }
}

struct Objects {
    place: Place,
}

enum Place {
    Start,
    Call(JsonCall),
    /// After a call that broke: nothing is understood until it is closed.
    Broken,
}

impl Calls for Objects {
    fn opening(&self) -> &'static [&'static str] {
        &[BEGIN]
    }

    fn silent(&self) -> &'static [&'static str] {
        &[END]
    }

    fn read(&mut self, input: &mut Input, output: &mut Output) -> Progress {
        let progress = match &mut self.place {
            Place::Start => match input.skip_blanks() {
                Some('{') => {
                    self.place = Place::Call(JsonCall::default());
                    return self.read(input, output);
                }
                None if !input.is_ended() => Progress::Open,
                _ => Progress::NoCall(BEGIN.to_owned()),
            },
            Place::Call(call) => match read_object(call, input, output) {
                Read::Open => Progress::Open,
                Read::Done => Progress::Closed,
                Read::NoCall(text) => Progress::NoCall(BEGIN.to_owned() + &text),
                Read::Broken => {
                    self.place = Place::Broken;
                    return self.read(input, output);
                }
            },
            Place::Broken => match input.until(&[END]) {
                Found::Text(_) if !input.is_ended() => Progress::Open,
                _ => Progress::Closed,
            },
        };
        if progress != Progress::Open {
            self.place = Place::Start;
        }
        progress
    }
}

/// Feeds what there is to `call`, up to its end.
pub(super) fn read_object(call: &mut JsonCall, input: &mut Input, output: &mut Output) -> Read {
    let mut n_bytes = 0;
    let mut read = Read::Open;
    for c in input.peek().chars() {
        n_bytes += c.len_utf8();
        read = call.push(c, output);
        if read != Read::Open {
            break;
        }
    }
    input.take(n_bytes);
    if read == Read::Open && input.is_ended() {
        return call.give_up(output);
    }
    read
}
