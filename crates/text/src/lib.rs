//! Text and token ids: tokenizers from GGUF metadata, `tokenizer.json` or `tiktoken.model`, chat templates, incremental
//! decoding, stop strings, and what an answer says: thinking, content, calls of tools. It knows no model, no request and
//! no clock; time is handed in where a template asks for it.

mod answer;
mod date;
mod detokenizer;
mod error;
mod gguf;
mod json;
mod pieces;
mod pre;
mod python;
mod stop;
mod template;
mod tiktoken;
mod tokenizer;

pub use answer::{AnswerForm, AnswerReader, Arguments, Part, STYLE_NAMES, ToolStyle};
pub use detokenizer::Detokenizer;
pub use error::TextError;
pub use gguf::GgufVocab;
pub use stop::{Filtered, StopFilter};
pub use template::ChatTemplate;
pub use tokenizer::Tokenizer;
