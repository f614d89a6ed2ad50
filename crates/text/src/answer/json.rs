//! A call that is one JSON object, `{"name": …, "arguments": {…}}`, read while it arrives: as soon as the name is known
//! the arguments pass through as the model wrote them. It knows no marks around the object.

use super::function_name;
use super::output::Output;

/// A call under way.
#[derive(Debug, Default)]
pub(super) struct JsonCall {
    object: Object,
    name: Option<String>,
    /// JSON of the current value, where it has to be whole before it says anything.
    value: String,
    /// Arguments that came before the name.
    early: String,
    is_begun: bool,
    /// Names that are calls; with `None` every name is.
    declared: Option<Vec<String>>,
    /// The text so far, for the case that it is no call.
    taken: String,
}

/// What the text read so far is.
#[derive(Debug, PartialEq)]
pub(super) enum Read {
    Open,
    /// A whole call.
    Done,
    /// A call that began well and then was no JSON.
    Broken,
    /// No call.
    NoCall(String),
}

impl JsonCall {
    pub(super) fn new(declared: Option<Vec<String>>) -> JsonCall {
        JsonCall { declared, ..JsonCall::default() }
    }

    /// Reads the next character.
    pub(super) fn push(&mut self, c: char, output: &mut Output) -> Read {
        if !self.is_begun {
            self.taken.push(c);
        }
        let step = self.object.push(c);
        let is_good = match step {
            Step::Layout => true,
            Step::Value => self.value_char(c, output),
            Step::LastOfValue => self.value_char(c, output) && self.value_end(output),
            Step::ValueEnd => self.value_end(output),
            Step::ValueAndEnd => self.value_end(output) && self.end(output),
            Step::End => self.end(output),
            Step::Wrong => false,
        };
        match is_good {
            false => self.give_up(output),
            true if matches!(step, Step::End | Step::ValueAndEnd) => Read::Done,
            true => Read::Open,
        }
    }

    /// The text has ended inside the object.
    pub(super) fn give_up(&mut self, output: &mut Output) -> Read {
        if self.is_begun {
            output.end_call();
            return Read::Broken;
        }
        Read::NoCall(std::mem::take(&mut self.taken))
    }

    fn value_char(&mut self, c: char, output: &mut Output) -> bool {
        match self.object.key.as_str() {
            "arguments" | "parameters" if self.is_begun => output.arguments(c.encode_utf8(&mut [0; 4])),
            "name" | "arguments" | "parameters" => {
                self.value.push(c);
                if self.object.key != "name" && self.name.is_some() && self.value == "{" {
                    return self.begin(output);
                }
            }
            _ => {}
        }
        true
    }

    fn value_end(&mut self, output: &mut Output) -> bool {
        let value = std::mem::take(&mut self.value);
        match self.object.key.as_str() {
            "name" => self.named(&value, output),
            "arguments" | "parameters" if !self.is_begun => {
                // Some models write the object as a string, and nothing for nothing.
                let text = serde_json::from_str::<String>(&value).unwrap_or(value);
                self.early = if text.trim() == "null" { "{}".to_owned() } else { text };
                self.early.trim_start().starts_with('{') && (self.name.is_none() || self.begin(output))
            }
            _ => true,
        }
    }

    fn named(&mut self, value: &str, output: &mut Output) -> bool {
        let name = serde_json::from_str::<String>(value).ok();
        let name = name.as_deref().and_then(function_name).map(str::to_owned);
        let is_declared = |name: &String| self.declared.as_ref().is_none_or(|all| all.contains(name));
        if self.name.is_some() || !name.as_ref().is_some_and(is_declared) {
            return false;
        }
        self.name = name;
        self.early.is_empty() || self.begin(output)
    }

    /// From here on it is a call.
    fn begin(&mut self, output: &mut Output) -> bool {
        let Some(name) = &self.name else { return false };
        output.begin_call(name);
        output.arguments(&std::mem::take(&mut self.early));
        output.arguments(&std::mem::take(&mut self.value));
        self.is_begun = true;
        self.taken = String::new();
        true
    }

    fn end(&mut self, output: &mut Output) -> bool {
        if !self.is_begun {
            self.early = "{}".to_owned();
            if !self.begin(output) {
                return false;
            }
        }
        output.end_call();
        true
    }
}

/// Finds keys and values of one JSON object, and its end. Values are not checked, only counted through.
#[derive(Debug, Default)]
struct Object {
    place: Place,
    key: String,
    /// Brackets open inside the current value.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

#[derive(Debug, Default, PartialEq)]
enum Place {
    #[default]
    Start,
    /// A key, or the end of an object that has none yet.
    FirstKey,
    NextKey,
    Key,
    Colon,
    Value,
    /// In a number or a word: ends without a sign of its own.
    Word,
    /// In a string, an array or an object.
    Nested,
    AfterValue,
}

/// What a character is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Layout,
    Value,
    LastOfValue,
    /// The value ended before it.
    ValueEnd,
    /// The value ended before it, and the object with it.
    ValueAndEnd,
    End,
    Wrong,
}

impl Object {
    fn push(&mut self, c: char) -> Step {
        match (&self.place, c) {
            (Place::Key, _) => self.in_key(c),
            (Place::Nested, _) => self.in_nested(c),
            (Place::Word, ',' | '}') | (Place::Word, ' ' | '\n' | '\r' | '\t') => self.after_word(c),
            (Place::Word, c) if c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.') => Step::Value,
            (Place::Start, '{') => self.go(Place::FirstKey, Step::Layout),
            (Place::Start, _) => Step::Wrong,
            (_, ' ' | '\n' | '\r' | '\t') => Step::Layout,
            (Place::FirstKey | Place::NextKey, '"') => {
                self.key.clear();
                self.go(Place::Key, Step::Layout)
            }
            (Place::FirstKey | Place::AfterValue, '}') => Step::End,
            (Place::Colon, ':') => self.go(Place::Value, Step::Layout),
            (Place::AfterValue, ',') => self.go(Place::NextKey, Step::Layout),
            (Place::Value, '"') => {
                (self.depth, self.in_string) = (0, true);
                self.go(Place::Nested, Step::Value)
            }
            (Place::Value, '{' | '[') => {
                self.depth = 1;
                self.go(Place::Nested, Step::Value)
            }
            (Place::Value, c) if c.is_ascii_alphanumeric() || c == '-' => self.go(Place::Word, Step::Value),
            _ => Step::Wrong,
        }
    }

    fn go(&mut self, place: Place, step: Step) -> Step {
        self.place = place;
        step
    }

    /// Keys with escapes are no keys that matter, so they are kept as they are written.
    fn in_key(&mut self, c: char) -> Step {
        match c {
            '"' if !self.is_escaped => return self.go(Place::Colon, Step::Layout),
            _ => self.is_escaped = c == '\\' && !self.is_escaped,
        }
        self.key.push(c);
        Step::Layout
    }

    fn in_nested(&mut self, c: char) -> Step {
        match c {
            _ if self.is_escaped => self.is_escaped = false,
            '\\' if self.in_string => self.is_escaped = true,
            '"' => self.in_string = !self.in_string,
            '{' | '[' if !self.in_string => self.depth += 1,
            '}' | ']' if !self.in_string => self.depth -= 1,
            _ => {}
        }
        match self.depth == 0 && !self.in_string {
            true => self.go(Place::AfterValue, Step::LastOfValue),
            false => Step::Value,
        }
    }

    fn after_word(&mut self, c: char) -> Step {
        match c {
            ',' => self.go(Place::NextKey, Step::ValueEnd),
            '}' => self.go(Place::AfterValue, Step::ValueAndEnd),
            _ => self.go(Place::AfterValue, Step::ValueEnd),
        }
    }
}
