//! The styles there are, and how one is recognised in a chat template. What a style is, its own file says.

use std::fmt;

use serde_json::Value;

use super::{Grammar, Thinking, deepseek, glm, harmony, hermes, kimi, llama};

/// How a family of models calls tools.
#[derive(Clone, Copy)]
pub struct ToolStyle(&'static dyn Style);

impl ToolStyle {
    /// The style of this name.
    pub(super) fn named(name: &str) -> Option<ToolStyle> {
        STYLES.iter().find(|style| style.name() == name).copied().map(ToolStyle)
    }

    /// The first style that a template bears the marks of.
    pub(super) fn of_template(template: &str) -> Option<ToolStyle> {
        STYLES.iter().find(|style| style.is_in(template)).copied().map(ToolStyle)
    }

    pub(super) fn inner(self) -> &'static dyn Style {
        self.0
    }

    /// Its name, as in `STYLE_NAMES`.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// How its templates want the arguments of earlier calls.
    pub fn arguments(self) -> Arguments {
        self.0.arguments()
    }

    /// What its templates call the thinking of earlier answers.
    pub fn reasoning_key(self) -> &'static str {
        self.0.reasoning_key()
    }

    /// The id of a call of `name` that is number `index` of the conversation, where ids have a form.
    pub fn call_id(self, name: &str, index: usize) -> Option<String> {
        self.0.call_id(name, index)
    }
}

impl fmt::Debug for ToolStyle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ToolStyle").field(&self.name()).finish()
    }
}

/// What a style's file says.
pub(super) trait Style: Send + Sync {
    /// The name, for model cards.
    fn name(&self) -> &'static str;

    /// Whether `template` makes conversations for it.
    fn is_in(&self, template: &str) -> bool;

    /// Its marks, as far as they may be control tokens.
    fn marks(&self) -> &'static [&'static str];

    /// How its templates want the arguments of earlier calls.
    fn arguments(&self) -> Arguments {
        Arguments::Object
    }

    /// What its templates call the thinking of earlier answers.
    fn reasoning_key(&self) -> &'static str {
        "reasoning_content"
    }

    /// The id of a call of `name` that is number `index` of the conversation, where ids have a form.
    fn call_id(&self, name: &str, index: usize) -> Option<String> {
        let _ = (name, index);
        None
    }

    /// Whether the whole answer is written in channels, with tools and without.
    fn has_channels(&self) -> bool {
        false
    }

    /// The reader for one answer.
    fn grammar(&self, tools: Option<&Value>, thinking: Option<Thinking>) -> Box<dyn Grammar>;
}

/// How a template is given the arguments of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arguments {
    /// As a value it can look into.
    Object,
    /// As the JSON text that the model wrote.
    Text,
}

/// The first that recognises a template is its style: those with marks of their own come before those that share them.
const STYLES: &[&dyn Style] = &[
    &kimi::Kimi,
    &deepseek::DeepSeekV3,
    &deepseek::DeepSeekV31,
    &harmony::Harmony,
    &glm::Glm,
    &hermes::Hermes,
    &llama::Llama3,
];

/// The names of all styles, for messages.
pub const STYLE_NAMES: &[&str] =
    &["kimi", "deepseek-v3", "deepseek-v3.1", "harmony", "glm", "hermes", "llama3"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_names_is_whole() {
        assert!(STYLES.iter().map(|style| style.name()).eq(STYLE_NAMES.iter().copied()));
    }
}
