//! The parts of an answer in order, and which of the blanks around them are the model's layout and not its words. It
//! knows no marks.

/// A part of an answer, or the next piece of one. Pieces of one kind that follow each other belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Words for the reader.
    Content(String),
    /// Thinking aloud.
    Reasoning(String),
    /// A call begins: the name of the function.
    Call(String),
    /// The next piece of its arguments: JSON, as far as the model wrote JSON.
    Arguments(String),
    /// The call is complete.
    CallEnd,
}

/// Where text goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Channel {
    Content,
    Reasoning,
}

/// Collects parts. Blanks between two of them are dropped; those around an answer that is all content stay.
#[derive(Debug)]
pub(super) struct Output {
    parts: Vec<Part>,
    channel: Channel,
    /// Blanks that come out when text follows.
    held: String,
    /// Nothing of this part is out yet, and another came before.
    is_fresh: bool,
}

impl Default for Output {
    fn default() -> Output {
        Output { parts: Vec::new(), channel: Channel::Content, held: String::new(), is_fresh: false }
    }
}

impl Output {
    pub(super) fn text(&mut self, channel: Channel, text: &str) {
        if channel != self.channel {
            self.channel = channel;
            self.start_part();
        }
        let Some(text) = self.without_outer_blanks(text) else { return };
        self.push(match channel {
            Channel::Content => Part::Content(text),
            Channel::Reasoning => Part::Reasoning(text),
        });
    }

    pub(super) fn begin_call(&mut self, name: &str) {
        self.start_part();
        self.parts.push(Part::Call(name.to_owned()));
    }

    pub(super) fn arguments(&mut self, text: &str) {
        if let Some(text) = self.without_outer_blanks(text) {
            self.push(Part::Arguments(text));
        }
    }

    pub(super) fn end_call(&mut self) {
        self.start_part();
        self.parts.push(Part::CallEnd);
    }

    /// What came out since the last time.
    pub(super) fn take(&mut self) -> Vec<Part> {
        std::mem::take(&mut self.parts)
    }

    /// The last parts.
    pub(super) fn finish(mut self) -> Vec<Part> {
        let held = std::mem::take(&mut self.held);
        if !held.is_empty() && self.channel == Channel::Content {
            self.push(Part::Content(held));
        }
        self.parts
    }

    fn start_part(&mut self) {
        self.held.clear();
        self.is_fresh = true;
    }

    /// `text` after the blanks that were held, its own last ones held; `None` if that leaves nothing.
    fn without_outer_blanks(&mut self, text: &str) -> Option<String> {
        let text = if self.is_fresh { text.trim_start() } else { text };
        let body = text.trim_end();
        if body.is_empty() {
            self.held.push_str(text);
            return None;
        }
        self.is_fresh = false;
        let out = std::mem::take(&mut self.held) + body;
        self.held.push_str(&text[body.len()..]);
        Some(out)
    }

    fn push(&mut self, part: Part) {
        match (self.parts.last_mut(), &part) {
            (Some(Part::Content(text)), Part::Content(more))
            | (Some(Part::Reasoning(text)), Part::Reasoning(more))
            | (Some(Part::Arguments(text)), Part::Arguments(more)) => text.push_str(more),
            _ => self.parts.push(part),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_between_parts_go_and_others_stay() {
        let mut output = Output::default();
        output.text(Channel::Reasoning, "\n so \n");
        output.text(Channel::Reasoning, "\nit is\n");
        output.text(Channel::Content, "\n\nyes");
        output.text(Channel::Content, " no ");
        output.begin_call("f");
        output.arguments(" {} \n");
        output.end_call();
        output.text(Channel::Content, "\n");
        let expected = [
            Part::Reasoning("so \n\nit is".into()),
            Part::Content("yes no".into()),
            Part::Call("f".into()),
            Part::Arguments("{}".into()),
            Part::CallEnd,
        ];
        assert_eq!(output.finish(), expected);
        let mut plain = Output::default();
        plain.text(Channel::Content, " \n");
        plain.text(Channel::Content, "a\n");
        assert_eq!(plain.finish(), [Part::Content(" \na\n".into())]);
    }
}
