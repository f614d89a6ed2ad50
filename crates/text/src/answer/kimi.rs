//! Kimi K2: a section of calls, each `functions.NAME:INDEX` and JSON between control tokens. The index counts the calls
//! of the whole conversation, and together with the name it is the call's id. Calls may stand inside the thinking.

use serde_json::Value;

use super::sectioned::{Section, Sectioned, plain_name};
use super::style::{Arguments, Style};
use super::tagged::Tagged;
use super::{Grammar, Thinking};

pub(super) struct Kimi;

const BEGIN: &str = "<|tool_call_begin|>";
const SEPARATOR: &str = "<|tool_call_argument_begin|>";
const END: &str = "<|tool_call_end|>";
const SECTION_BEGIN: &str = "<|tool_calls_section_begin|>";
const SECTION_END: &str = "<|tool_calls_section_end|>";

const SECTION: Section = Section {
    opening: &[BEGIN],
    separator: SEPARATOR,
    closing: &[END],
    silent: &[SEPARATOR, END, SECTION_BEGIN, SECTION_END],
    name: |before, between| {
        let id = before.trim();
        let id = id.strip_prefix("functions.").unwrap_or(id);
        let is_index = |digits: &str| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let name = id.rsplit_once(':').filter(|(_, index)| is_index(index)).map_or(id, |(name, _)| name);
        plain_name(name).filter(|_| between.trim().is_empty())
    },
    in_thinking: true,
};

impl Style for Kimi {
    fn name(&self) -> &'static str {
        "kimi"
    }

    fn is_in(&self, template: &str) -> bool {
        template.contains(SECTION_BEGIN)
    }

    fn marks(&self) -> &'static [&'static str] {
        &[BEGIN, SEPARATOR, END, SECTION_BEGIN, SECTION_END]
    }

    fn arguments(&self) -> Arguments {
        Arguments::Text
    }

    fn call_id(&self, name: &str, index: usize) -> Option<String> {
        Some(format!("functions.{name}:{index}"))
    }

    fn grammar(&self, _: Option<&Value>, thinking: Option<Thinking>) -> Box<dyn Grammar> {
        Box::new(Tagged::new(Sectioned::new(&SECTION), thinking))
    }
}
