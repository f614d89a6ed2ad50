//! Vocabularies as `tokenizer.json` and `tokenizer_config.json` carry them. It reads BPE models and the steps that
//! decoder-only language models use; anything else is an error that names it.

use base::TokenId;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::{AddedToken, Model as _};

use crate::TextError;
use crate::pieces::{Pieces, Role, Spelling, byte_piece};
use crate::tokenizer::{MAX_TOKENS, Merges, Model, Parts};

const TOKENIZER: &str = "tokenizer.json";
pub(crate) const CONFIG: &str = "tokenizer_config.json";

pub(crate) const GENERATION: &str = "generation_config.json";

const NORMALIZERS: &[&str] =
    &["Sequence", "NFC", "NFD", "NFKC", "NFKD", "Prepend", "Replace", "Lowercase", "Strip"];
const PRE_TOKENIZERS: &[&str] = &["Sequence", "Split", "ByteLevel", "Digits", "Metaspace", "Punctuation"];
const POST_PROCESSORS: &[&str] = &["Sequence", "TemplateProcessing", "ByteLevel"];
const DECODERS: &[&str] = &["Sequence", "ByteLevel", "ByteFallback", "Metaspace", "Replace", "Fuse", "Strip"];

#[derive(Deserialize)]
struct Probe {
    model: ModelProbe,
}

/// Looked at before the model is built, which trusts these fields.
#[derive(Deserialize)]
struct ModelProbe {
    #[serde(rename = "type")]
    kind: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    added_tokens: Vec<Added>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    post_processor: Option<Value>,
    decoder: Option<Value>,
    model: BPE,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    #[serde(flatten)]
    token: AddedToken,
}

#[derive(Default, Deserialize)]
struct Config {
    bos_token: Option<Name>,
    eos_token: Option<Name>,
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    chat_template: Option<Templates>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Name {
    Plain(String),
    Token { content: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
pub(crate) struct NamedTemplate {
    name: String,
    template: String,
}

/// The field of `generation_config.json` that matters here.
#[derive(Deserialize)]
struct Generation {
    eos_token_id: Option<OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

/// The tokens that end an answer.
pub(crate) fn stop_tokens(generation: &[u8]) -> Result<Vec<TokenId>, TextError> {
    let Generation { eos_token_id } = parse(GENERATION, generation)?;
    Ok(match eos_token_id {
        None => Vec::new(),
        Some(OneOrMany::One(id)) => vec![TokenId(id)],
        Some(OneOrMany::Many(ids)) => ids.into_iter().map(TokenId).collect(),
    })
}

pub(crate) fn read(tokenizer: &[u8], config: Option<&[u8]>) -> Result<Parts, TextError> {
    let probe: Probe = parse(TOKENIZER, tokenizer)?;
    check_model(probe.model)?;
    let mut file: File = parse(TOKENIZER, tokenizer)?;
    let config: Config = config.map_or(Ok(Config::default()), |bytes| parse(CONFIG, bytes))?;
    check_steps("normalizer", &file.normalizer, NORMALIZERS)?;
    check_steps("pre_tokenizer", &file.pre_tokenizer, PRE_TOKENIZERS)?;
    check_steps("post_processor", &file.post_processor, POST_PROCESSORS)?;
    check_steps("decoder", &file.decoder, DECODERS)?;
    // Leaving merges out at random is for training.
    file.model.dropout = None;
    let added = added(&file);
    let pieces = pieces(&file, &added)?;
    let id = |name: &Option<Name>| name.as_ref().and_then(|name| find(&file.model, &added, name.text()));
    let (bos, eos) = (id(&config.bos_token), id(&config.eos_token));
    let by_template = file.post_processor.as_ref().map(around).transpose()?.flatten();
    let Around { before: prefix, after: suffix } = by_template.unwrap_or_else(|| Around {
        before: bos.filter(|_| config.add_bos_token == Some(true)).into_iter().collect(),
        after: eos.filter(|_| config.add_eos_token == Some(true)).into_iter().collect(),
    });
    Ok(Parts {
        model: Model::Merges(Box::new(Merges {
            normalizer: step(&file.normalizer)?,
            pre_tokenizer: step(&file.pre_tokenizer)?,
            model: file.model,
        })),
        added,
        pieces,
        bos: bos.or(prefix.first().copied()),
        eos,
        prefix,
        suffix,
        chat_template: config.chat_template.and_then(Templates::default_one),
    })
}

impl Name {
    pub(crate) fn text(&self) -> &str {
        match self {
            Name::Plain(text) | Name::Token { content: text } => text,
        }
    }
}

impl Templates {
    pub(crate) fn default_one(self) -> Option<String> {
        match self {
            Templates::One(template) => Some(template),
            Templates::Named(all) => all.into_iter().find(|t| t.name == "default").map(|t| t.template),
        }
    }
}

pub(crate) fn wrong(file: &'static str, why: impl ToString) -> TextError {
    TextError::File { file, why: why.to_string() }
}

pub(crate) fn parse<T: DeserializeOwned>(file: &'static str, bytes: &[u8]) -> Result<T, TextError> {
    serde_json::from_slice(bytes).map_err(|e| wrong(file, e))
}

fn check_model(model: ModelProbe) -> Result<(), TextError> {
    if let Some(found) = model.kind.filter(|kind| kind != "BPE") {
        return Err(TextError::UnknownModel { found, known: "BPE" });
    }
    let affixes = [model.continuing_subword_prefix, model.end_of_word_suffix];
    match affixes.into_iter().flatten().find(|affix| !affix.is_empty()) {
        Some(affix) => Err(wrong(TOKENIZER, format!("word affix {affix:?} is not supported; expected none"))),
        None => Ok(()),
    }
}

/// Every `type` inside a step, in order.
fn types(step: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    if let Some(kind) = step.get("type").and_then(Value::as_str) {
        found.push(kind);
    }
    let parts = ["normalizers", "pretokenizers", "processors", "decoders"];
    for part in parts.iter().filter_map(|key| step.get(key)?.as_array()).flatten() {
        found.extend(types(part));
    }
    found
}

fn check_steps(what: &str, step: &Option<Value>, known: &[&str]) -> Result<(), TextError> {
    match step.iter().flat_map(types).find(|kind| !known.contains(kind)) {
        Some(found) => Err(wrong(
            TOKENIZER,
            format!("{what} \"{found}\" is not supported; expected one of: {}", known.join(", ")),
        )),
        None => Ok(()),
    }
}

fn step<T: DeserializeOwned>(step: &Option<Value>) -> Result<Option<T>, TextError> {
    step.clone().map(serde_json::from_value).transpose().map_err(|e| wrong(TOKENIZER, e))
}

fn added(file: &File) -> Vec<(TokenId, AddedToken)> {
    let added = file.added_tokens.iter().filter(|added| !added.token.content.is_empty());
    added
        .map(|Added { id, token }| {
            // Control tokens are looked for in the text as it came, before anything is taken out of it.
            let normalized = token.normalized && !token.special;
            (TokenId(*id), token.clone().normalized(normalized))
        })
        .collect()
}

fn find(model: &BPE, added: &[(TokenId, AddedToken)], text: &str) -> Option<TokenId> {
    let added = added.iter().find(|(_, token)| token.content == text).map(|(id, _)| *id);
    added.or_else(|| model.token_to_id(text).map(TokenId))
}

fn pieces(file: &File, added: &[(TokenId, AddedToken)]) -> Result<Pieces, TextError> {
    let decoder = file.decoder.as_ref().ok_or_else(|| wrong(TOKENIZER, "decoder is missing"))?;
    let kinds = types(decoder);
    let spelling = if kinds.contains(&"ByteLevel") { Spelling::ByteLevel } else { Spelling::SentencePiece };
    let vocab = file.model.get_vocab();
    let last = vocab.values().copied().chain(added.iter().map(|(id, _)| id.0)).max();
    let n = last.map_or(0, |id| id as usize + 1);
    if n == 0 || n > MAX_TOKENS {
        return Err(wrong(TOKENIZER, format!("{n} tokens; expected 1 to {MAX_TOKENS}")));
    }
    // Ids that nothing has are silent.
    let mut entries = vec![("", Role::Control); n];
    for (text, &id) in &vocab {
        let is_byte = file.model.byte_fallback && byte_piece(text).is_some();
        entries[id as usize] = (text, if is_byte { Role::Byte } else { Role::Text });
    }
    for (id, token) in added {
        let role = if token.special { Role::Control } else { Role::Verbatim };
        entries[id.0 as usize] = (&token.content, role);
    }
    let mut pieces = Pieces::new(strips_space(decoder));
    for (text, role) in entries {
        pieces.push(text, role, spelling);
    }
    Ok(pieces)
}

/// Whether the decoder takes a space off the beginning of a text.
fn strips_space(decoder: &Value) -> bool {
    let inner = decoder.get("decoders").and_then(Value::as_array);
    if inner.is_some_and(|steps| steps.iter().any(strips_space)) {
        return true;
    }
    match decoder.get("type").and_then(Value::as_str) {
        Some("Strip") => decoder.get("start").and_then(Value::as_u64).is_some_and(|n| n > 0),
        Some("Metaspace") => {
            let scheme = decoder.get("prepend_scheme").and_then(Value::as_str);
            scheme != Some("never") && decoder.get("add_prefix_space") != Some(&Value::Bool(false))
        }
        _ => false,
    }
}

/// Tokens that go before and after a text.
#[derive(Default)]
struct Around {
    before: Vec<TokenId>,
    after: Vec<TokenId>,
}

/// What the post-processor puts around a text; `None` if it has no say in it.
fn around(processor: &Value) -> Result<Option<Around>, TextError> {
    for step in processor.get("processors").and_then(Value::as_array).into_iter().flatten() {
        if let Some(found) = around(step)? {
            return Ok(Some(found));
        }
    }
    let Some(template) = processor.get("single").and_then(Value::as_array) else { return Ok(None) };
    let (mut found, mut is_before) = (Around::default(), true);
    for piece in template {
        if piece.get("Sequence").is_some() {
            is_before = false;
        } else if let Some(name) = piece.pointer("/SpecialToken/id").and_then(Value::as_str) {
            let ids = processor.get("special_tokens").and_then(|all| all.get(name)?.get("ids"));
            let ids: Vec<u32> = ids
                .and_then(|ids| serde_json::from_value(ids.clone()).ok())
                .ok_or_else(|| wrong(TOKENIZER, format!("post_processor has no ids for \"{name}\"")))?;
            let side = if is_before { &mut found.before } else { &mut found.after };
            side.extend(ids.into_iter().map(TokenId));
        }
    }
    Ok(Some(found))
}
