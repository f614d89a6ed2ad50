//! Answers in which marks open and close what is not content: thinking first, calls where they come. What stands
//! between the marks of a call is the style's own matter.

use super::input::{Found, Input};
use super::output::{Channel, Output};
use super::{END_THINK, Grammar, THINK, Thinking};

/// How a style writes its calls.
pub(super) trait Calls: Send {
    /// Marks that open a call.
    fn opening(&self) -> &'static [&'static str];

    /// Marks around calls that say nothing by themselves: dropped wherever they stand.
    fn silent(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether thinking may hold calls.
    fn in_thinking(&self) -> bool {
        false
    }

    /// Whether an answer whose first character this is, is a call without a mark.
    fn opens_with(&self, first: char) -> bool {
        let _ = first;
        false
    }

    /// Reads on from an opening mark, which is taken already. Once the input has ended, nothing stays open.
    fn read(&mut self, input: &mut Input, output: &mut Output) -> Progress;
}

/// How far a call has come.
#[derive(Debug, PartialEq)]
pub(super) enum Progress {
    /// More text is needed.
    Open,
    /// It is over: what follows is text or the next mark.
    Closed,
    /// It was none. What was taken of it, as far as it is to be seen; what follows is text again.
    NoCall(String),
}

/// Reads thinking and text, and hands over at calls.
pub(super) struct Tagged<C> {
    calls: C,
    place: Place,
    /// Where text goes outside of calls.
    channel: Channel,
    thinks: bool,
}

enum Place {
    Start,
    Text,
    Call,
}

impl<C: Calls> Tagged<C> {
    /// `thinking` is `None` where the model does not think.
    pub(super) fn new(calls: C, thinking: Option<Thinking>) -> Tagged<C> {
        let is_open = thinking == Some(Thinking::Open);
        Tagged {
            calls,
            place: if is_open { Place::Text } else { Place::Start },
            channel: if is_open { Channel::Reasoning } else { Channel::Content },
            thinks: thinking.is_some(),
        }
    }

    /// One step; whether there may be another.
    fn step(&mut self, input: &mut Input, output: &mut Output) -> bool {
        match self.place {
            Place::Start => self.start(input),
            Place::Text => self.text(input, output),
            Place::Call => match self.calls.read(input, output) {
                Progress::Open => false,
                Progress::Closed => self.go(Place::Text),
                Progress::NoCall(text) => {
                    output.text(self.channel, &text);
                    self.go(Place::Text)
                }
            },
        }
    }

    fn go(&mut self, place: Place) -> bool {
        self.place = place;
        true
    }

    /// Blanks before the first mark are kept until it is clear that it is none.
    fn start(&mut self, input: &mut Input) -> bool {
        let text = input.peek();
        let n_blank = text.len() - text.trim_start().len();
        let (blanks, text) = text.split_at(n_blank);
        if self.thinks && !input.is_ended() && THINK.starts_with(text) && text != THINK {
            return false;
        }
        if self.thinks && text.starts_with(THINK) {
            input.take(blanks.len() + THINK.len());
            self.channel = Channel::Reasoning;
            return self.go(Place::Text);
        }
        match text.chars().next() {
            Some(first) if self.calls.opens_with(first) => {
                input.skip_blanks();
                self.go(Place::Call)
            }
            Some(_) => self.go(Place::Text),
            None => input.is_ended() && self.go(Place::Text),
        }
    }

    fn text(&mut self, input: &mut Input, output: &mut Output) -> bool {
        let is_thinking = self.channel == Channel::Reasoning;
        let (opening, silent) = match is_thinking && !self.calls.in_thinking() {
            true => (&[][..], &[][..]),
            false => (self.calls.opening(), self.calls.silent()),
        };
        let end = if is_thinking { &[END_THINK][..] } else { &[] };
        match input.until(&[opening, silent, end].concat()) {
            Found::Text(text) => {
                output.text(self.channel, &text);
                false
            }
            Found::Mark(text, i) => {
                output.text(self.channel, &text);
                if i < opening.len() {
                    return self.go(Place::Call);
                }
                if i >= opening.len() + silent.len() {
                    self.channel = Channel::Content;
                }
                true
            }
        }
    }
}

impl<C: Calls> Grammar for Tagged<C> {
    fn read(&mut self, input: &mut Input, output: &mut Output) {
        while self.step(input, output) {}
    }
}
