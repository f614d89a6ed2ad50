//! gpt-oss (harmony): an answer is a run of messages, each with a channel. Analysis is thinking, final and commentary are
//! content, and a message with a function as its recipient is a call whose body is the arguments.

use serde_json::Value;

use super::input::Input;
use super::output::{Channel, Output};
use super::style::Style;
use super::{Grammar, MAX_HEAD_BYTES, Thinking, function_name};

pub(super) struct Harmony;

const START: &str = "<|start|>";
const CHANNEL: &str = "<|channel|>";
const CONSTRAIN: &str = "<|constrain|>";
const MESSAGE: &str = "<|message|>";
const MARKS: &[&str] = &[START, CHANNEL, CONSTRAIN, MESSAGE, "<|end|>", "<|call|>", "<|return|>"];

impl Style for Harmony {
    fn name(&self) -> &'static str {
        "harmony"
    }

    fn is_in(&self, template: &str) -> bool {
        template.contains(CHANNEL) && template.contains(MESSAGE)
    }

    fn marks(&self) -> &'static [&'static str] {
        MARKS
    }

    fn reasoning_key(&self) -> &'static str {
        "thinking"
    }

    fn has_channels(&self) -> bool {
        true
    }

    fn grammar(&self, tools: Option<&Value>, _: Option<Thinking>) -> Box<dyn Grammar> {
        Box::new(Messages { has_tools: tools.is_some(), place: Place::Head })
    }
}

struct Messages {
    has_tools: bool,
    place: Place,
}

enum Place {
    /// Before the body of a message.
    Head,
    Text(Channel),
    /// Before the arguments of this function.
    Call(String),
    Arguments,
}

impl Messages {
    /// One step; whether there may be another.
    fn step(&mut self, input: &mut Input, output: &mut Output) -> bool {
        match &self.place {
            Place::Head => self.head(input),
            Place::Text(channel) => {
                let channel = *channel;
                self.body(input, |text| output.text(channel, text))
            }
            Place::Arguments => {
                let is_over = self.body(input, |text| output.arguments(text));
                if is_over || input.is_ended() {
                    output.end_call();
                    self.place = Place::Head;
                }
                is_over
            }
            Place::Call(name) => {
                let first = input.skip_blanks();
                let (at, mark) = input.find(MARKS);
                let is_empty = mark.is_some() && at == 0 || first.is_none() && input.is_ended();
                if first != Some('{') && !is_empty {
                    let is_open = first.is_none() || at == 0;
                    return !is_open && self.go(Place::Text(Channel::Content));
                }
                output.begin_call(name);
                if is_empty {
                    output.arguments("{}");
                }
                self.go(Place::Arguments)
            }
        }
    }

    fn go(&mut self, place: Place) -> bool {
        self.place = place;
        true
    }

    /// Looks for the mark before the body. Text that cannot be a head is content.
    fn head(&mut self, input: &mut Input) -> bool {
        let text = input.peek().trim_start();
        if text.is_empty() {
            return false;
        }
        let is_head = [START, CHANNEL, MESSAGE, "to="]
            .iter()
            .any(|start| text.starts_with(start) || !input.is_ended() && start.starts_with(text));
        let (len, message) = input.find(&[MESSAGE]);
        if is_head && message.is_some() && len <= MAX_HEAD_BYTES {
            let head = input.take(len);
            input.take(MESSAGE.len());
            let place = self.place_of(&head);
            return self.go(place);
        }
        let is_short = input.peek().len() <= MAX_HEAD_BYTES + MESSAGE.len();
        if is_head && message.is_none() && is_short {
            if input.is_ended() {
                // The answer broke off before there was a message.
                input.take(input.peek().len());
            }
            return false;
        }
        input.skip_blanks();
        // A mark that makes no head here says nothing.
        for mark in MARKS {
            match input.take_mark(mark) {
                Some(true) => return true,
                Some(false) => {}
                None => return false,
            }
        }
        self.go(Place::Text(Channel::Content))
    }

    /// What a message with this head is. The recipient may stand before the channel and after it.
    fn place_of(&self, head: &str) -> Place {
        let word_after = |mark: &str| {
            let (_, after) = head.split_once(mark)?;
            after.split(|c: char| c.is_whitespace() || c == '<').next()
        };
        let function = word_after("to=functions.").and_then(function_name);
        match function {
            Some(name) if self.has_tools => Place::Call(name.to_owned()),
            _ if word_after(CHANNEL) == Some("analysis") => Place::Text(Channel::Reasoning),
            _ => Place::Text(Channel::Content),
        }
    }

    /// Passes a body on; whether it is over.
    fn body(&mut self, input: &mut Input, mut pass: impl FnMut(&str)) -> bool {
        match input.find(MARKS) {
            (len, None) => {
                pass(&input.take(len));
                false
            }
            (len, Some(i)) => {
                pass(&input.take(len));
                // A mark that begins a head is left to it.
                if ![START, CHANNEL].contains(&MARKS[i]) {
                    input.take(MARKS[i].len());
                }
                self.go(Place::Head)
            }
        }
    }
}

impl Grammar for Messages {
    fn read(&mut self, input: &mut Input, output: &mut Output) {
        while self.step(input, output) {}
    }
}
