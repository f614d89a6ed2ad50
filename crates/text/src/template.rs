//! Chat templates: a conversation written as the one text a model was trained on. The language is Jinja as the
//! models' own tools run it. It knows no model and no tokens.

use std::io;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value, context};
use minijinja_contrib::pycompat;

use crate::answer::{AnswerForm, STYLE_NAMES};
use crate::python::{self, JsonStyle};
use crate::{TextError, date};

/// Instructions one rendering may take; a long conversation takes some hundred thousand.
const MAX_INSTRUCTIONS: u64 = 10_000_000;
/// Depth of macros and blocks in one another.
const MAX_RECURSION: usize = 200;
/// Bytes of a template.
const MAX_SOURCE_BYTES: usize = 1 << 20;
/// Bytes of a rendered conversation.
const MAX_RENDERED_BYTES: usize = 64 << 20;
/// Spaces one level of pretty-printed JSON may take.
const MAX_INDENT: usize = 16;

const NAME: &str = "chat";

/// A chat template, ready to render. Instructions, recursion and the text's size are bounded; the memory of values
/// in between is not, so a template is trusted as far as the weights it comes with.
pub struct ChatTemplate {
    environment: Environment<'static>,
    form: AnswerForm,
    declares_tools: bool,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Parses `source`; `bos` and `eos` are what the template knows as `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// If it is not a template; the error names the line.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<ChatTemplate, TextError> {
        if source.len() > MAX_SOURCE_BYTES {
            let why = format!("it has {} bytes; expected at most {MAX_SOURCE_BYTES}", source.len());
            return Err(TextError::Template { line: 0, why });
        }
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_fuel(Some(MAX_INSTRUCTIONS));
        environment.set_recursion_limit(MAX_RECURSION);
        environment.set_unknown_method_callback(|state, value, method, args| {
            match python::string_method(value, method, args)? {
                Some(result) => Ok(result),
                None => pycompat::unknown_method_callback(state, value, method, args),
            }
        });
        environment.set_formatter(format);
        environment.add_filter("tojson", to_json);
        // As in Python: nothing is no list, and what is not there is an empty one.
        environment.add_test("iterable", |value: &Value| {
            value.is_undefined() || !value.is_none() && value.try_iter().is_ok()
        });
        environment.add_filter("string", |value: &Value| python::text(value));
        environment.add_function("raise_exception", |why: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, why))
        });
        environment.add_template_owned(NAME, source.to_owned()).map_err(failed)?;
        // Some set the name themselves in a branch, so what is undeclared says too little.
        let mut words = source.split(|c: char| !c.is_alphanumeric() && c != '_');
        let declares_tools = words.any(|word| word == "tools");
        let form = AnswerForm::of_template(source);
        Ok(ChatTemplate { environment, form, declares_tools, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// The same template for a model that calls tools in the style of this name.
    ///
    /// # Errors
    /// If no style has it.
    pub fn with_tool_style(mut self, name: &str) -> Result<ChatTemplate, TextError> {
        self.form = self.form.with_style(name).ok_or_else(|| TextError::UnknownStyle {
            found: name.to_owned(),
            known: STYLE_NAMES.join(", "),
        })?;
        Ok(self)
    }

    /// How the model's answers are written.
    pub fn form(&self) -> AnswerForm {
        self.form
    }

    /// Whether conversations can declare tools.
    pub fn declares_tools(&self) -> bool {
        self.declares_tools
    }

    /// Lets the template ask for the date (`strftime_now`, in UTC). Without a clock that function is undefined,
    /// and templates that use it fall back to a fixed date.
    pub fn with_clock(mut self, unix_s: impl Fn() -> u64 + Send + Sync + 'static) -> ChatTemplate {
        self.environment.add_function("strftime_now", move |format: String| {
            date::strftime(&format, unix_s()).ok_or_else(|| {
                Error::new(ErrorKind::InvalidOperation, format!("date format {format:?} is not known"))
            })
        });
        self
    }

    /// The text of a conversation. `add_generation_prompt` ends it with the beginning of the model's answer.
    ///
    /// # Errors
    /// If the template refuses the conversation, or takes too long over it; the error names the line.
    pub fn render(
        &self,
        messages: &serde_json::Value,
        tools: Option<&serde_json::Value>,
        add_generation_prompt: bool,
    ) -> Result<String, TextError> {
        let context = context! {
            messages => messages,
            tools => tools,
            documents => (),
            add_generation_prompt => add_generation_prompt,
            bos_token => self.bos,
            eos_token => self.eos,
        };
        let mut text = Bounded(Vec::new());
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render_captured_to(context, &mut text).map(drop))
            .map_err(failed)?;
        String::from_utf8(text.0).map_err(|e| TextError::Template { line: 0, why: e.to_string() })
    }
}

/// Takes only so many bytes.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_RENDERED_BYTES {
            return Err(io::Error::other(format!("more than {MAX_RENDERED_BYTES} bytes of text")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The innermost cause, with the line it came from.
fn failed(error: Error) -> TextError {
    let line = error.line().unwrap_or(0);
    let mut why = match (error.kind(), error.detail()) {
        (ErrorKind::InvalidOperation, Some(detail)) => detail.to_owned(),
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (ErrorKind::OutOfFuel, None) => format!("more than {MAX_INSTRUCTIONS} instructions"),
        (kind, None) => kind.to_string(),
    };
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        why = format!("{why}: {cause}");
        source = cause.source();
    }
    TextError::Template { line, why }
}

/// `{{ value }}` as Python would print it.
fn format(out: &mut Output, state: &State, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None | ValueKind::Bool | ValueKind::Number | ValueKind::Seq | ValueKind::Map => {
            out.write_str(&python::text(value)?).map_err(Error::from)
        }
        _ => minijinja::escape_formatter(out, state, value),
    }
}

/// `json.dumps` with the arguments templates give it.
fn to_json(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<Value, Error> {
    let indent = indent.or(options.get("indent")?).map(|n| n.min(MAX_INDENT));
    let separators: Option<Vec<String>> = options.get("separators")?;
    let [item_separator, key_separator] = match separators.as_deref() {
        Some([item, key]) => [item.clone(), key.clone()],
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "expected two separators")),
        None if indent.is_some() => [",".to_owned(), ": ".to_owned()],
        None => [", ".to_owned(), ": ".to_owned()],
    };
    let style = JsonStyle {
        indent,
        item_separator,
        key_separator,
        ensure_ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    style.dumps(value).map(Value::from)
}
