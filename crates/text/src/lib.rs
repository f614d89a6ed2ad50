//! Text and token ids: tokenizers from GGUF metadata or `tokenizer.json`, chat templates, incremental decoding
//! and stop strings. It knows no model, no request and no clock; time is handed in where a template asks for it.

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
mod tokenizer;

pub use detokenizer::Detokenizer;
pub use error::TextError;
pub use gguf::GgufVocab;
pub use stop::{Filtered, StopFilter};
pub use template::ChatTemplate;
pub use tokenizer::Tokenizer;
