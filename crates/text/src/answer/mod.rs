//! What a model writes, taken apart while it writes: thinking, content, and calls of tools with their arguments. Each
//! style of writing is a file here over one trait; how the text is cut into chunks never changes what comes out. It
//! knows no request, no dialect and no tokens.

mod deepseek;
mod glm;
mod harmony;
mod hermes;
mod input;
mod json;
mod kimi;
mod llama;
mod output;
mod sectioned;
mod style;
mod tagged;

pub use output::Part;
pub use style::{Arguments, STYLE_NAMES, ToolStyle};

use input::Input;
use output::Output;
use serde_json::Value;
use tagged::{Calls, Tagged};

/// How a model writes its answers, as far as its chat template shows.
#[derive(Clone, Copy, Debug)]
pub struct AnswerForm {
    style: Option<ToolStyle>,
    thinks: bool,
}

/// Reads one answer.
pub struct AnswerReader {
    input: Input,
    output: Output,
    grammar: Box<dyn Grammar>,
}

/// How one style reads. It takes from the input what it understands and leaves what more text could change; once the
/// input has ended it takes everything.
trait Grammar: Send {
    fn read(&mut self, input: &mut Input, output: &mut Output);
}

/// Bytes that may stand between the mark that opens a call and its arguments.
const MAX_HEAD_BYTES: usize = 4096;
/// Bytes of a function's name.
const MAX_NAME_BYTES: usize = 256;

const THINK: &str = "<think>";
const END_THINK: &str = "</think>";

impl AnswerForm {
    /// The form that a chat template was written for. The first style that the template bears marks of is taken.
    pub fn of_template(template: &str) -> AnswerForm {
        AnswerForm { style: ToolStyle::of_template(template), thinks: template.contains(END_THINK) }
    }

    /// The same with another style of calls; `None` if there is none of that name.
    pub fn with_style(self, name: &str) -> Option<AnswerForm> {
        Some(AnswerForm { style: Some(ToolStyle::named(name)?), ..self })
    }

    /// How calls are written, if that is known.
    pub fn style(&self) -> Option<ToolStyle> {
        self.style
    }

    /// The control tokens that a reader has to see.
    pub fn marks(&self) -> Vec<&'static str> {
        let style = self.style.map_or(&[][..], |style| style.inner().marks());
        style.iter().copied().chain([THINK, END_THINK]).collect()
    }

    /// A reader for the answer to `prompt`, a rendered conversation. `tools` are the declared ones; without them
    /// nothing is a call. `None` if every answer is content as it stands.
    pub fn reader(&self, prompt: &str, tools: Option<&Value>) -> Option<AnswerReader> {
        let style = self.style.map(ToolStyle::inner).filter(|style| tools.is_some() || style.has_channels());
        let grammar = match style {
            Some(style) => style.grammar(tools, self.thinking(prompt)),
            None => Box::new(Tagged::new(NoCalls, Some(self.thinking(prompt)?))),
        };
        Some(AnswerReader { input: Input::default(), output: Output::default(), grammar })
    }

    /// Where an answer to `prompt` stands in its thinking; `None` for models that do not think.
    fn thinking(&self, prompt: &str) -> Option<Thinking> {
        let is_open = prompt.trim_end().ends_with(THINK);
        self.thinks.then_some(if is_open { Thinking::Open } else { Thinking::Possible })
    }
}

/// What an answer begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Thinking {
    /// Perhaps the mark that opens thinking.
    Possible,
    /// Thinking: the prompt has opened it.
    Open,
}

impl AnswerReader {
    /// Takes the next chunk of text and says what it completes.
    pub fn push(&mut self, chunk: &str) -> Vec<Part> {
        self.input.push(chunk);
        self.grammar.read(&mut self.input, &mut self.output);
        self.output.take()
    }

    /// The answer has ended: what could have become something else is what it is.
    pub fn finish(mut self) -> Vec<Part> {
        self.input.end();
        self.grammar.read(&mut self.input, &mut self.output);
        self.output.finish()
    }
}

/// `text` without blanks around it, if it can be the name of a function.
fn function_name(text: &str) -> Option<&str> {
    let name = text.trim();
    let is_odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | '{' | '}' | '"');
    (!name.is_empty() && name.len() <= MAX_NAME_BYTES && !name.contains(is_odd)).then_some(name)
}

/// For models whose calls are not known, and requests without tools.
struct NoCalls;

impl Calls for NoCalls {
    fn opening(&self) -> &'static [&'static str] {
        &[]
    }

    fn read(&mut self, _: &mut Input, _: &mut Output) -> tagged::Progress {
        tagged::Progress::Closed
    }
}
