//! A model opened by the serving process: what its files say, and from them, when asked, its tokenizer and chat
//! template. No weight is read.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use base::{Bytes, TokenId};
use models::{Description, ModelError};
use text::{ChatTemplate, GgufVocab, TextError, Tokenizer};
use weights::{Checkpoint, GgufMetadata, Source, WeightsError};

/// A model ready to be planned.
pub struct OpenModel {
    /// The name it is served under.
    pub id: String,
    /// Other names it answers to.
    pub aliases: Vec<String>,
    /// How it calls tools, where its card knows better than its chat template shows.
    pub tool_style: Option<String>,
    /// Its file or directory, absolute.
    pub path: PathBuf,
    /// Structure and sizes.
    pub description: Description,
    checkpoint: Checkpoint,
}

/// What a model is spoken to with.
pub struct ModelText {
    /// Text to token ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// How a conversation becomes text; absent for models that only complete.
    pub template: Option<ChatTemplate>,
}

/// Why a model cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file beside the weights.
    #[error("cannot read {}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The weights.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The architecture or its numbers.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Tokenizer or template.
    #[error("{}: {source}", .path.display())]
    Text {
        /// The model.
        path: PathBuf,
        /// Why.
        source: TextError,
    },
    /// More tokens than the model has words for.
    #[error("{}: the tokenizer has {n_tokens} tokens, the embedding table {vocab} rows", .path.display())]
    Vocabulary {
        /// The model.
        path: PathBuf,
        /// Tokens of the tokenizer.
        n_tokens: usize,
        /// Rows of the embedding.
        vocab: u32,
    },
}

impl OpenModel {
    /// Opens a GGUF file or a directory with safetensors.
    pub fn open(path: &Path) -> Result<OpenModel, OpenError> {
        let path = fs::canonicalize(path).map_err(|source| file_error(path, source))?;
        let checkpoint = Checkpoint::open(&path)?;
        let description = Description::read(&checkpoint)?;
        let id = path.file_stem().map_or_else(|| "model".to_owned(), |s| s.to_string_lossy().into_owned());
        Ok(OpenModel { id, aliases: Vec::new(), tool_style: None, path, description, checkpoint })
    }

    /// Reads tokenizer and template, which takes about as long as a rank takes to load a small model.
    pub fn text(&self) -> Result<ModelText, OpenError> {
        let text_error = |source| OpenError::Text { path: self.path.clone(), source };
        let (tokenizer, template) = match self.checkpoint.metadata() {
            Source::Gguf(metadata) => {
                let tokenizer = Tokenizer::from_gguf(gguf_vocab(metadata)?).map_err(text_error)?;
                let source = metadata.optional("tokenizer.chat_template", GgufMetadata::str)?;
                (tokenizer, source.map(str::to_owned))
            }
            Source::Hf { dir, .. } => hf_text(dir)?,
        };
        let vocab = self.description.spec.vocab;
        if tokenizer.n_tokens() > vocab as usize {
            return Err(OpenError::Vocabulary {
                path: self.path.clone(),
                n_tokens: tokenizer.n_tokens(),
                vocab,
            });
        }
        let template =
            template.map(|source| self.template(&source, &tokenizer)).transpose().map_err(text_error)?;
        Ok(ModelText { tokenizer: Arc::new(tokenizer), template })
    }

    fn template(&self, source: &str, tokenizer: &Tokenizer) -> Result<ChatTemplate, TextError> {
        let template = ChatTemplate::new(source, &tokenizer.bos_text(), &tokenizer.eos_text())?;
        let template = template.with_clock(crate::server::unix_time_s);
        match &self.tool_style {
            Some(style) => template.with_tool_style(style),
            None => Ok(template),
        }
    }

    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> Bytes {
        let spec = &self.description.spec;
        let layers: Bytes = spec.layers.iter().map(|l| l.attention + l.ffn + l.replicated).sum();
        layers + spec.embedding + spec.head.unwrap_or_default()
    }
}

fn file_error(path: &Path, source: std::io::Error) -> OpenError {
    OpenError::File { path: path.to_owned(), source }
}

fn gguf_vocab(m: &GgufMetadata) -> Result<GgufVocab, WeightsError> {
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let token = |name: &str| Ok::<_, WeightsError>(m.optional(&key(name), GgufMetadata::u32)?.map(TokenId));
    let flag = |name: &str| m.optional(&key(name), GgufMetadata::bool);
    Ok(GgufVocab {
        model: m.str(&key("model"))?.to_owned(),
        pre: m.optional(&key("pre"), GgufMetadata::str)?.unwrap_or_default().to_owned(),
        tokens: m.str_array(&key("tokens"))?,
        scores: m.optional(&key("scores"), GgufMetadata::f32_array)?.unwrap_or_default(),
        token_types: m.optional(&key("token_type"), GgufMetadata::i32_array)?.unwrap_or_default(),
        merges: m.optional(&key("merges"), GgufMetadata::str_array)?.unwrap_or_default(),
        bos: token("bos_token_id")?,
        eos: token("eos_token_id")?,
        unk: token("unknown_token_id")?,
        add_bos: flag("add_bos_token")?,
        add_eos: flag("add_eos_token")?,
        add_space_prefix: flag("add_space_prefix")?,
    })
}

/// Tokenizer and template of a Hugging Face directory; newer ones keep the template in a file of its own.
fn hf_text(dir: &Path) -> Result<(Tokenizer, Option<String>), OpenError> {
    let text_error = |source| OpenError::Text { path: dir.to_owned(), source };
    let config = dir.join("tokenizer_config.json");
    let tokenizer = match optional_file(&dir.join("tiktoken.model"))? {
        // Without its special tokens this vocabulary is none.
        Some(ranks) => Tokenizer::from_tiktoken(
            &ranks,
            &fs::read(&config).map_err(|source| file_error(&config, source))?,
        ),
        None => {
            let json = dir.join("tokenizer.json");
            let json = fs::read(&json).map_err(|source| file_error(&json, source))?;
            Tokenizer::from_json(&json, optional_file(&config)?.as_deref())
        }
    };
    let mut tokenizer = tokenizer.map_err(text_error)?;
    if let Some(generation) = optional_file(&dir.join("generation_config.json"))? {
        tokenizer = tokenizer.with_generation_config(&generation).map_err(text_error)?;
    }
    let template = match optional_file(&dir.join("chat_template.jinja"))? {
        Some(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        None => tokenizer.chat_template().map(str::to_owned),
    };
    Ok((tokenizer, template))
}

fn optional_file(path: &Path) -> Result<Option<Vec<u8>>, OpenError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(file_error(path, e)),
    }
}
