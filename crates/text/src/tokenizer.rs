//! The tokenizer: text to token ids and back, whichever file it was read from. Merging is the `tokenizers` crate's;
//! here are the control tokens, the byte table and what surrounds a text. It knows no chat format.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use aho_corasick::AhoCorasick;
use base::TokenId;
use serde_json::Value;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::tokenizer::OffsetType;
use tokenizers::{
    AddedToken, AddedVocabulary, Model as _, NormalizedString, Normalizer, NormalizerWrapper,
    OffsetReferential, PreTokenizer, PreTokenizerWrapper,
};

use crate::pieces::Pieces;
use crate::tiktoken::{self, Ranks};
use crate::{Detokenizer, GgufVocab, TextError, gguf, json};

/// Tokens that end an answer in one family or another, beside the one a file calls EOS.
pub(crate) const END_OF_TURN: &[&str] = &[
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|end_of_text|>",
    "<|endoftext|>",
    "<end_of_turn>",
    "<eos>",
    "</s>",
    "<｜end▁of▁sentence｜>",
    "[EOS]",
    "[EOT]",
    "<|return|>",
    "<|call|>",
    "<|user|>",
    "<|observation|>",
];

/// Entries a vocabulary may have at most.
pub(crate) const MAX_TOKENS: usize = 1 << 22;
/// Bytes the texts of control and user-defined tokens may have together.
const MAX_ADDED_BYTES: usize = 16 << 20;
/// Goes into control-token texts that a user typed, so that they are not found; a noncharacter, meaningless in text.
const GUARD: char = '\u{FDD0}';

/// Text to tokens and back.
pub struct Tokenizer {
    model: Model,
    /// Found in every text.
    always: AddedVocabulary,
    /// Also found where control tokens count.
    with_control: AddedVocabulary,
    /// The texts of the control tokens, for `disarm`.
    control: AhoCorasick,
    /// The same by name.
    control_ids: HashMap<String, TokenId>,
    pieces: Arc<Pieces>,
    /// Put before and after a text when special tokens are asked for.
    prefix: Vec<TokenId>,
    suffix: Vec<TokenId>,
    bos: Option<TokenId>,
    eos: Option<TokenId>,
    eos_tokens: Vec<TokenId>,
    chat_template: Option<String>,
}

/// How words become tokens.
pub(crate) enum Model {
    /// By a list of merges, in the steps of `tokenizer.json`.
    Merges(Box<Merges>),
    /// By the ranks of `tiktoken.model`.
    Ranks(Ranks),
}

/// Steps in the order in which they see a text.
pub(crate) struct Merges {
    pub(crate) normalizer: Option<NormalizerWrapper>,
    pub(crate) pre_tokenizer: Option<PreTokenizerWrapper>,
    pub(crate) model: BPE,
}

/// What a file reader hands over.
pub(crate) struct Parts {
    pub(crate) model: Model,
    /// Control tokens (`special`) and user-defined ones.
    pub(crate) added: Vec<(TokenId, AddedToken)>,
    pub(crate) pieces: Pieces,
    pub(crate) prefix: Vec<TokenId>,
    pub(crate) suffix: Vec<TokenId>,
    pub(crate) bos: Option<TokenId>,
    pub(crate) eos: Option<TokenId>,
    pub(crate) chat_template: Option<String>,
}

impl Tokenizer {
    /// From the vocabulary in a GGUF file.
    ///
    /// # Errors
    /// If the kind of vocabulary or its pre-tokenizer is unknown, or the lists contradict each other.
    pub fn from_gguf(vocab: GgufVocab) -> Result<Tokenizer, TextError> {
        Tokenizer::assemble(gguf::read(vocab)?)
    }

    /// From the contents of `tokenizer.json` and, if there is one, `tokenizer_config.json` (which names EOS and the
    /// chat template).
    ///
    /// # Errors
    /// If a file is not what it should be, or asks for a model or step that is not supported.
    pub fn from_json(tokenizer: &[u8], config: Option<&[u8]>) -> Result<Tokenizer, TextError> {
        Tokenizer::assemble(json::read(tokenizer, config)?)
    }

    /// From the contents of `tiktoken.model`, and `tokenizer_config.json`, which names the special tokens.
    ///
    /// # Errors
    /// If a file is not what it should be, or the two do not fit together.
    pub fn from_tiktoken(ranks: &[u8], config: &[u8]) -> Result<Tokenizer, TextError> {
        Tokenizer::assemble(tiktoken::read(ranks, config)?)
    }

    /// Also ends answers with the tokens that `generation_config.json` names.
    ///
    /// # Errors
    /// If the file is not what it should be, or a token is outside the vocabulary.
    pub fn with_generation_config(mut self, config: &[u8]) -> Result<Tokenizer, TextError> {
        for token in json::stop_tokens(config)? {
            if token.0 as usize >= self.n_tokens() {
                let why = format!("eos_token_id {}; expected less than {}", token.0, self.n_tokens());
                return Err(json::wrong(json::GENERATION, why));
            }
            if !self.eos_tokens.contains(&token) {
                self.eos_tokens.push(token);
            }
        }
        Ok(self)
    }

    fn assemble(parts: Parts) -> Result<Tokenizer, TextError> {
        let n_bytes: usize = parts.added.iter().map(|(_, token)| token.content.len()).sum();
        if n_bytes > MAX_ADDED_BYTES {
            return Err(TextError::Vocabulary(format!(
                "control and user-defined tokens take {n_bytes} bytes; expected at most {MAX_ADDED_BYTES}"
            )));
        }
        let normalizer = parts.model.normalizer();
        let control = parts.added.iter().filter(|(_, token)| token.special && !token.content.is_empty());
        let control_ids: HashMap<String, TokenId> =
            control.map(|(id, token)| (token.content.clone(), *id)).collect();
        let control = AhoCorasick::new(control_ids.keys())
            .map_err(|e| TextError::Vocabulary(format!("control tokens: {e}")))?;
        Ok(Tokenizer {
            always: added_vocabulary(&parts.added, normalizer, |token| !token.special)?,
            with_control: added_vocabulary(&parts.added, normalizer, |_| true)?,
            control,
            control_ids,
            eos_tokens: eos_tokens(&parts),
            model: parts.model,
            pieces: Arc::new(parts.pieces),
            prefix: parts.prefix,
            suffix: parts.suffix,
            bos: parts.bos,
            eos: parts.eos,
            chat_template: parts.chat_template,
        })
    }

    /// The tokens of `text`. `add_special` puts BOS and EOS around it where the model wants them; `parse_special`
    /// reads the texts of control tokens as control tokens, as in the output of a chat template. Without it they
    /// are text like any other.
    ///
    /// # Errors
    /// If the vocabulary has no token for a character, not even an unknown one.
    pub fn encode(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<TokenId>, TextError> {
        let mut tokens = if add_special { self.prefix.clone() } else { Vec::new() };
        self.encode_to(text, parse_special, &mut tokens)
            .map_err(|e| TextError::Encode { n_bytes: text.len(), why: e.to_string() })?;
        if add_special {
            tokens.extend(&self.suffix);
        }
        Ok(tokens)
    }

    fn encode_to(
        &self,
        text: &str,
        parse_special: bool,
        tokens: &mut Vec<TokenId>,
    ) -> tokenizers::Result<()> {
        let added = if parse_special { &self.with_control } else { &self.always };
        let normalizer = Unguard { drop_guards: parse_special, then: self.model.normalizer() };
        let mut words = added.extract_and_normalize(Some(&normalizer), text);
        if let Model::Merges(merges) = &self.model {
            if let Some(pre_tokenizer) = &merges.pre_tokenizer {
                pre_tokenizer.pre_tokenize(&mut words)?;
            }
            words.tokenize(|word| merges.model.tokenize(word.get()))?;
        }
        for (text, _, found) in words.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            match (found, &self.model) {
                (None, Model::Ranks(ranks)) => ranks.encode_to(text, tokens)?,
                (found, _) => tokens.extend(found.iter().flatten().map(|token| TokenId(token.id))),
            }
        }
        Ok(())
    }

    /// A copy of a conversation (messages, tools) in which no text can become a control token: rendered by a chat
    /// template and encoded with `parse_special`, each such text comes out as the plain text it is.
    pub fn disarm(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.disarm_text(text)),
            Value::Array(items) => items.iter().map(|item| self.disarm(item)).collect(),
            Value::Object(map) => {
                map.iter().map(|(key, item)| (self.disarm_text(key), self.disarm(item))).collect()
            }
            other => other.clone(),
        }
    }

    /// Puts a guard after the first character of every control token's text, overlapping ones too.
    fn disarm_text(&self, text: &str) -> String {
        let mut starts: Vec<usize> = self.control.find_overlapping_iter(text).map(|m| m.start()).collect();
        starts.sort_unstable();
        starts.dedup();
        let mut disarmed = String::with_capacity(text.len() + starts.len() * GUARD.len_utf8());
        let mut done = 0;
        for start in starts {
            let end = start + text[start..].chars().next().map_or(0, char::len_utf8);
            disarmed.push_str(&text[done..end]);
            disarmed.push(GUARD);
            done = end;
        }
        disarmed.push_str(&text[done..]);
        disarmed
    }

    /// The text of `tokens`, without control tokens.
    pub fn decode(&self, tokens: &[TokenId]) -> String {
        let mut detokenizer = self.detokenizer();
        let mut text = String::new();
        for &token in tokens {
            detokenizer.push_to(token, &mut text);
        }
        text + &detokenizer.finish()
    }

    /// Decodes a text from its beginning.
    pub fn detokenizer(&self) -> Detokenizer {
        Detokenizer::new(self.pieces.clone())
    }

    /// The same, with the control tokens that `marks` names written out.
    pub fn detokenizer_showing(&self, marks: &[&str]) -> Detokenizer {
        let shown = marks.iter().filter_map(|mark| self.control_ids.get(*mark).copied());
        Detokenizer::new(self.pieces.clone()).showing(shown.collect())
    }

    /// Decodes what follows `prompt`: its text is what decoding both together gives, less the prompt's text. So
    /// the space that some vocabularies put before every word is kept where it belongs.
    pub fn detokenizer_after(&self, prompt: &[TokenId]) -> Detokenizer {
        let mut detokenizer = self.detokenizer();
        let mut text = String::new();
        for &token in prompt {
            detokenizer.push_to(token, &mut text);
            text.clear();
        }
        detokenizer
    }

    /// The bytes a token stands for (a control token's name); `None` outside the vocabulary.
    pub fn token_bytes(&self, token: TokenId) -> Option<&[u8]> {
        self.pieces.bytes(token)
    }

    /// Whether decoding leaves the token out.
    pub fn is_control(&self, token: TokenId) -> bool {
        self.pieces.is_control(token)
    }

    /// EOS and the tokens that end a turn; any of them ends an answer.
    pub fn eos_tokens(&self) -> &[TokenId] {
        &self.eos_tokens
    }

    /// Entries of the vocabulary.
    pub fn n_tokens(&self) -> usize {
        self.pieces.len()
    }

    /// How a chat template should write the beginning of a text; empty if there is no such token.
    pub fn bos_text(&self) -> String {
        self.name(self.bos)
    }

    /// How a chat template should write the end of a text; empty if there is no such token.
    pub fn eos_text(&self) -> String {
        self.name(self.eos)
    }

    /// The chat template of `tokenizer_config.json`.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    fn name(&self, token: Option<TokenId>) -> String {
        let bytes = token.and_then(|token| self.pieces.bytes(token)).unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    }
}

impl Model {
    fn normalizer(&self) -> Option<&NormalizerWrapper> {
        match self {
            Model::Merges(merges) => merges.normalizer.as_ref(),
            Model::Ranks(_) => None,
        }
    }
}

/// Takes the guards of `disarm` out again, once control tokens have been looked for.
struct Unguard<'a> {
    drop_guards: bool,
    then: Option<&'a NormalizerWrapper>,
}

impl Normalizer for Unguard<'_> {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        if self.drop_guards && text.get().contains(GUARD) {
            text.filter(|c| c != GUARD);
        }
        self.then.map_or(Ok(()), |normalizer| normalizer.normalize(text))
    }
}

/// The tokens `keep` picks, to be found in texts before any cutting into words.
fn added_vocabulary(
    added: &[(TokenId, AddedToken)],
    normalizer: Option<&NormalizerWrapper>,
    keep: impl Fn(&AddedToken) -> bool,
) -> Result<AddedVocabulary, TextError> {
    let added: Vec<_> = added.iter().filter(|(_, token)| keep(token)).collect();
    // A model of names only: it tells the vocabulary which ids the tokens have, and nothing else can reach them.
    let ids: Vocab = added.iter().map(|(id, token)| (token.content.clone(), id.0)).collect();
    let names = BPE::builder()
        .vocab_and_merges(ids, Vec::new())
        .build()
        .map_err(|e| TextError::Vocabulary(e.to_string()))?;
    let tokens: Vec<AddedToken> = added.iter().map(|(_, token)| token.clone()).collect();
    let mut vocabulary = AddedVocabulary::new();
    vocabulary.add_tokens(&tokens, &names, normalizer);
    Ok(vocabulary)
}

fn eos_tokens(parts: &Parts) -> Vec<TokenId> {
    let by_name = parts
        .added
        .iter()
        .filter(|(_, token)| token.special && END_OF_TURN.contains(&token.content.as_str()))
        .map(|(id, _)| *id);
    let mut seen = HashSet::new();
    parts.eos.into_iter().chain(by_name).filter(|id| seen.insert(*id)).collect()
}
