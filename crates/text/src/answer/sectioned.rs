//! Calls between control tokens: an opening mark, a head with the function's name, a separator, JSON, a closing mark;
//! several calls may stand in a section. What the marks are and how a head is read, the style says.

use super::input::Input;
use super::output::Output;
use super::tagged::{Calls, Progress};
use super::{MAX_HEAD_BYTES, function_name};

/// Bytes of the longest mark, roomily.
const MAX_MARK_BYTES: usize = 64;

/// What tells one such style from another.
pub(super) struct Section {
    /// Opens a call; one mark.
    pub(super) opening: &'static [&'static str],
    pub(super) separator: &'static str,
    /// Close the arguments.
    pub(super) closing: &'static [&'static str],
    /// All marks that mean nothing outside a call, the two above included.
    pub(super) silent: &'static [&'static str],
    /// The function's name in what stands before the separator, and between it and the arguments.
    pub(super) name: fn(&str, &str) -> Option<String>,
    pub(super) in_thinking: bool,
}

/// Reads the calls of such a style.
pub(super) struct Sectioned {
    section: &'static Section,
    in_arguments: bool,
}

/// What a head turned out to be.
enum Head {
    Open,
    Wrong,
    /// A name, the bytes of the head, and whether arguments follow.
    Call(String, usize, bool),
}

impl Sectioned {
    pub(super) fn new(section: &'static Section) -> Sectioned {
        Sectioned { section, in_arguments: false }
    }

    fn head(&self, input: &Input) -> Head {
        let stops = [&[self.section.separator], self.section.opening, self.section.silent].concat();
        let open = match input.is_ended() || input.peek().len() > MAX_HEAD_BYTES + MAX_MARK_BYTES {
            true => Head::Wrong,
            false => Head::Open,
        };
        let (at, stop) = input.find(&stops);
        match stop {
            None => return open,
            Some(0) if at <= MAX_HEAD_BYTES => {}
            Some(_) => return Head::Wrong,
        }
        let before = &input.peek()[..at];
        let start = at + self.section.separator.len();
        let mut after = Input::default();
        after.push(&input.peek()[start..]);
        if input.is_ended() {
            after.end();
        }
        // The arguments, or a mark where they should be: a call without any.
        let (len, next) = after.find(&[&["{"], self.section.opening, self.section.silent].concat());
        let Some(next) = next else { return open };
        if start + len > MAX_HEAD_BYTES {
            return Head::Wrong;
        }
        match (self.section.name)(before, &after.peek()[..len]) {
            Some(name) => Head::Call(name, start + len, next == 0),
            None => Head::Wrong,
        }
    }

    fn arguments(&mut self, input: &mut Input, output: &mut Output) -> Progress {
        let Section { opening, closing, silent, .. } = self.section;
        let (len, mark) = input.find(&[*closing, opening, silent].concat());
        output.arguments(&input.take(len));
        if mark.is_none() && !input.is_ended() {
            return Progress::Open;
        }
        // Other marks close the call too, and are left where they are.
        if let Some(mark) = mark.and_then(|i| closing.get(i)) {
            input.take(mark.len());
        }
        output.end_call();
        self.in_arguments = false;
        Progress::Closed
    }
}

impl Calls for Sectioned {
    fn opening(&self) -> &'static [&'static str] {
        self.section.opening
    }

    fn silent(&self) -> &'static [&'static str] {
        self.section.silent
    }

    fn in_thinking(&self) -> bool {
        self.section.in_thinking
    }

    fn read(&mut self, input: &mut Input, output: &mut Output) -> Progress {
        if !self.in_arguments {
            match self.head(input) {
                Head::Open => return Progress::Open,
                Head::Wrong => return Progress::NoCall(String::new()),
                Head::Call(name, n_bytes, has_arguments) => {
                    output.begin_call(&name);
                    input.take(n_bytes);
                    if !has_arguments {
                        output.arguments("{}");
                    }
                    self.in_arguments = true;
                }
            }
        }
        self.arguments(input, output)
    }
}

/// A name as it stands.
pub(super) fn plain_name(text: &str) -> Option<String> {
    function_name(text).map(str::to_owned)
}
