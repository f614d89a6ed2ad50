//! DeepSeek V3 and R1, and V3.1: a section of calls between control tokens. The older style fences the JSON as a
//! block of code and says that a call is a function's; the newer one has the name and the JSON alone.

use serde_json::Value;

use super::sectioned::{Section, Sectioned, plain_name};
use super::style::{Arguments, Style};
use super::tagged::Tagged;
use super::{Grammar, Thinking};

pub(super) struct DeepSeekV3;
pub(super) struct DeepSeekV31;

const BEGIN: &str = "<｜tool▁call▁begin｜>";
const SEPARATOR: &str = "<｜tool▁sep｜>";
const END: &str = "<｜tool▁call▁end｜>";
const SECTION_BEGIN: &str = "<｜tool▁calls▁begin｜>";
const SECTION_END: &str = "<｜tool▁calls▁end｜>";
const SILENT: &[&str] = &[SEPARATOR, END, SECTION_BEGIN, SECTION_END];
const MARKS: &[&str] = &[BEGIN, SEPARATOR, END, SECTION_BEGIN, SECTION_END];
const FENCE: &str = "```json";

const FENCED: Section = Section {
    opening: &[BEGIN],
    separator: SEPARATOR,
    closing: &[END, "\n```<｜tool▁call▁end｜>"],
    silent: SILENT,
    name: |before, between| {
        let (name, fence) = between.split_once('\n').unwrap_or((between, FENCE));
        plain_name(name).filter(|_| before.trim() == "function" && fence.trim() == FENCE)
    },
    in_thinking: false,
};

const BARE: Section = Section {
    closing: &[END],
    name: |before, between| plain_name(before).filter(|_| between.trim().is_empty()),
    ..FENCED
};

impl Style for DeepSeekV3 {
    fn name(&self) -> &'static str {
        "deepseek-v3"
    }

    fn is_in(&self, template: &str) -> bool {
        template.contains(SECTION_BEGIN) && template.contains(FENCE)
    }

    fn marks(&self) -> &'static [&'static str] {
        MARKS
    }

    fn arguments(&self) -> Arguments {
        Arguments::Text
    }

    fn grammar(&self, _: Option<&Value>, thinking: Option<Thinking>) -> Box<dyn Grammar> {
        Box::new(Tagged::new(Sectioned::new(&FENCED), thinking))
    }
}

impl Style for DeepSeekV31 {
    fn name(&self) -> &'static str {
        "deepseek-v3.1"
    }

    fn is_in(&self, template: &str) -> bool {
        template.contains(SECTION_BEGIN)
    }

    fn marks(&self) -> &'static [&'static str] {
        MARKS
    }

    fn arguments(&self) -> Arguments {
        Arguments::Text
    }

    fn grammar(&self, _: Option<&Value>, thinking: Option<Thinking>) -> Box<dyn Grammar> {
        Box::new(Tagged::new(Sectioned::new(&BARE), thinking))
    }
}
