//! What can go wrong with a vocabulary, a text or a template. It names the thing; it does not know which file
//! the thing came from.

use thiserror::Error;

/// Why a tokenizer or template could not be built or used.
#[derive(Debug, Error)]
pub enum TextError {
    /// The kind of vocabulary is not one this crate reads.
    #[error(
        "tokenizer model \"{found}\" is not supported; expected one of: {known}\nhint: use a checkpoint whose vocabulary is of one of these kinds"
    )]
    UnknownModel {
        /// As the file names it.
        found: String,
        /// The kinds there are.
        known: &'static str,
    },
    /// The rule that cuts text into words is not known by name.
    #[error(
        "pre-tokenizer \"{found}\" (tokenizer.ggml.pre) is not known; known are: {known}\nhint: use the model's directory with tokenizer.json instead of the GGUF file"
    )]
    UnknownPre {
        /// As the file names it.
        found: String,
        /// The names there are.
        known: String,
    },
    /// The vocabulary contradicts itself.
    #[error("vocabulary: {0}")]
    Vocabulary(String),
    /// `tokenizer.json`, `tiktoken.model` or `tokenizer_config.json` cannot be read.
    #[error("{file}: {why}")]
    File {
        /// Which of them.
        file: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// No style of calling tools has this name.
    #[error("tool style \"{found}\" is not known; expected one of: {known}")]
    UnknownStyle {
        /// The name.
        found: String,
        /// The names there are.
        known: String,
    },
    /// A text could not be turned into tokens.
    #[error("text of {n_bytes} bytes could not be encoded: {why}")]
    Encode {
        /// Length of the text.
        n_bytes: usize,
        /// The tokenizer's own words.
        why: String,
    },
    /// The chat template is wrong, or refused the conversation.
    #[error("chat template, line {line}: {why}")]
    Template {
        /// Line of the template, from 1; 0 when it is not known.
        line: usize,
        /// What the template engine or the template itself says.
        why: String,
    },
}
