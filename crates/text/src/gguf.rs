//! Vocabularies as GGUF files carry them: flat lists under `tokenizer.ggml.*`. It knows the two kinds in use, not
//! the file around them.

use base::TokenId;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{Prepend, Replace, Sequence};
use tokenizers::{AddedToken, NormalizerWrapper};

use crate::TextError;
use crate::pieces::{Pieces, Role, Spelling};
use crate::pre::Pre;
use crate::tokenizer::{self, END_OF_TURN, MAX_TOKENS, Model, Parts};

/// The `tokenizer.ggml.*` metadata, as it stands in the file.
#[derive(Clone, Debug, Default)]
pub struct GgufVocab {
    /// `model`: "gpt2" (byte-level BPE) or "llama" (SentencePiece BPE).
    pub model: String,
    /// `pre`: the family whose rule cuts text into words; empty if absent. For "gpt2" only.
    pub pre: String,
    /// `tokens`.
    pub tokens: Vec<String>,
    /// `scores`, one for each token; for "llama" only.
    pub scores: Vec<f32>,
    /// `token_type`, one for each token; empty if absent (then all are normal).
    pub token_types: Vec<i32>,
    /// `merges`, two tokens with a space between; for "gpt2" only.
    pub merges: Vec<String>,
    /// `bos_token_id`.
    pub bos: Option<TokenId>,
    /// `eos_token_id`.
    pub eos: Option<TokenId>,
    /// `unknown_token_id`.
    pub unk: Option<TokenId>,
    /// `add_bos_token`; absent means what the kind of vocabulary implies.
    pub add_bos: Option<bool>,
    /// `add_eos_token`; absent means no.
    pub add_eos: Option<bool>,
    /// `add_space_prefix`; absent means yes for "llama". Byte-level vocabularies never have one.
    pub add_space_prefix: Option<bool>,
}

const KINDS: &str = "gpt2, llama";
/// Longest piece of a SentencePiece vocabulary, in bytes; bounds the search for merges.
const MAX_PIECE_BYTES: usize = 512;

/// `token_type` as GGUF counts them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    /// Fills up the vocabulary; stands for no text.
    Unused,
    Byte,
}

pub(crate) fn read(vocab: GgufVocab) -> Result<Parts, TextError> {
    let spelling = match vocab.model.as_str() {
        "gpt2" => Spelling::ByteLevel,
        "llama" => Spelling::SentencePiece,
        _ => return Err(TextError::UnknownModel { found: vocab.model, known: KINDS }),
    };
    check_lengths(&vocab, spelling)?;
    let kinds = kinds(&vocab);
    let added = added(&vocab, &kinds);
    let adds_space = spelling == Spelling::SentencePiece && vocab.add_space_prefix.unwrap_or(true);
    let pieces = pieces(&vocab, &kinds, spelling, adds_space);
    let (model, normalizer, pre_tokenizer, adds_bos) = match spelling {
        Spelling::ByteLevel => {
            let pre = Pre::named(&vocab.pre)?;
            let model = byte_level_model(&vocab, &kinds, pre)?;
            (model, pre.normalizer(), Some(pre.pre_tokenizer()?), pre.add_bos)
        }
        Spelling::SentencePiece => {
            (sentence_piece_model(&vocab, &kinds)?, Some(spaces_as_marks(adds_space)?), None, true)
        }
    };
    let if_wanted = |wanted: bool, token: Option<TokenId>| token.filter(|_| wanted).into_iter().collect();
    Ok(Parts {
        model: Model::Merges(Box::new(tokenizer::Merges { normalizer, pre_tokenizer, model })),
        added,
        pieces,
        prefix: if_wanted(vocab.add_bos.unwrap_or(adds_bos), vocab.bos),
        suffix: if_wanted(vocab.add_eos.unwrap_or(false), vocab.eos),
        bos: vocab.bos,
        eos: vocab.eos,
        chat_template: None,
    })
}

fn check_lengths(vocab: &GgufVocab, spelling: Spelling) -> Result<(), TextError> {
    let n = vocab.tokens.len();
    if n == 0 || n > MAX_TOKENS {
        return Err(TextError::Vocabulary(format!("{n} tokens; expected 1 to {MAX_TOKENS}")));
    }
    let wrong = |list: &str, found: usize| {
        Err(TextError::Vocabulary(format!("{found} entries in {list}; expected {n}, one for each token")))
    };
    if !vocab.token_types.is_empty() && vocab.token_types.len() != n {
        return wrong("token_type", vocab.token_types.len());
    }
    if spelling == Spelling::SentencePiece && vocab.scores.len() != n {
        return wrong("scores", vocab.scores.len());
    }
    for (name, token) in [("bos", vocab.bos), ("eos", vocab.eos), ("unknown", vocab.unk)] {
        if let Some(TokenId(id)) = token
            && id as usize >= n
        {
            return Err(TextError::Vocabulary(format!("{name} token is {id}; expected less than {n}")));
        }
    }
    Ok(())
}

fn kinds(vocab: &GgufVocab) -> Vec<Kind> {
    let mut kinds = vec![Kind::Normal; vocab.tokens.len()];
    for (kind, token_type) in kinds.iter_mut().zip(&vocab.token_types) {
        *kind = match token_type {
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => Kind::Normal,
        };
    }
    // Some files call the tokens that end a turn user-defined; as text they would end up in answers.
    for (kind, text) in kinds.iter_mut().zip(&vocab.tokens) {
        if *kind == Kind::UserDefined && END_OF_TURN.contains(&text.as_str()) {
            *kind = Kind::Control;
        }
    }
    for TokenId(id) in [vocab.bos, vocab.eos].into_iter().flatten() {
        kinds[id as usize] = Kind::Control;
    }
    kinds
}

fn ids(vocab: &GgufVocab) -> impl Iterator<Item = (TokenId, &String)> {
    (0..).map(TokenId).zip(&vocab.tokens)
}

/// Tokens that are found in a text as they stand.
fn added(vocab: &GgufVocab, kinds: &[Kind]) -> Vec<(TokenId, AddedToken)> {
    ids(vocab)
        .zip(kinds)
        .filter_map(|((id, text), kind)| {
            let special = match kind {
                Kind::Control | Kind::Unknown => true,
                Kind::UserDefined => false,
                Kind::Normal | Kind::Byte | Kind::Unused => return None,
            };
            Some((id, AddedToken::from(text.as_str(), special).normalized(false)))
        })
        .collect()
}

fn pieces(vocab: &GgufVocab, kinds: &[Kind], spelling: Spelling, strips_space: bool) -> Pieces {
    let mut pieces = Pieces::new(strips_space);
    for (text, kind) in vocab.tokens.iter().zip(kinds) {
        let role = match kind {
            Kind::Normal => Role::Text,
            Kind::UserDefined => Role::Verbatim,
            Kind::Byte => Role::Byte,
            Kind::Control | Kind::Unknown | Kind::Unused => Role::Control,
        };
        pieces.push(text, role, spelling);
    }
    pieces
}

/// Control and unused tokens stay out of the model, so no text can be merged into one.
fn byte_level_model(vocab: &GgufVocab, kinds: &[Kind], pre: &Pre) -> Result<BPE, TextError> {
    let is_control = |kind: &Kind| matches!(kind, Kind::Control | Kind::Unknown | Kind::Unused);
    let words: Vocab = ids(vocab)
        .zip(kinds)
        .filter(|(_, kind)| !is_control(kind))
        .map(|((id, text), _)| (text.clone(), id.0))
        .collect();
    let control: Vocab = ids(vocab)
        .zip(kinds)
        .filter(|(_, kind)| is_control(kind))
        .map(|((id, text), _)| (text.clone(), id.0))
        .collect();
    let mut merges = Merges::with_capacity(vocab.merges.len());
    for (i, line) in vocab.merges.iter().enumerate() {
        let (left, right) = line.split_once(' ').ok_or_else(|| {
            TextError::Vocabulary(format!("merge {i} is {line:?}; expected two tokens with a space between"))
        })?;
        let whole = format!("{left}{right}");
        if ![left, right, &whole].iter().any(|text| control.contains_key(*text)) {
            merges.push((left.to_owned(), right.to_owned()));
        }
    }
    build(BPE::builder().vocab_and_merges(words, merges).ignore_merges(pre.ignore_merges))
}

fn sentence_piece_model(vocab: &GgufVocab, kinds: &[Kind]) -> Result<BPE, TextError> {
    let mut words = Vocab::default();
    let mut unknown = None;
    for ((id, text), kind) in ids(vocab).zip(kinds) {
        if matches!(kind, Kind::Normal | Kind::Byte) {
            words.insert(text.clone(), id.0);
        } else if *kind == Kind::Unknown || vocab.unk == Some(id) {
            unknown = Some(text.clone());
            words.insert(text.clone(), id.0);
        }
    }
    let merges = merges_by_score(vocab, kinds, &words)?;
    let mut builder = BPE::builder().vocab_and_merges(words, merges).byte_fallback(true).fuse_unk(true);
    if let Some(unknown) = unknown {
        builder = builder.unk_token(unknown);
    }
    build(builder)
}

/// SentencePiece joins whatever two neighbours make the piece with the best score. As merges: every way to cut a
/// piece into two pieces, ranked by the score of the whole.
fn merges_by_score(vocab: &GgufVocab, kinds: &[Kind], words: &Vocab) -> Result<Merges, TextError> {
    let is_normal = |text: &str| words.get(text).filter(|&&id| kinds[id as usize] == Kind::Normal).copied();
    let mut ranked = Vec::new();
    for (((TokenId(id), text), kind), score) in ids(vocab).zip(kinds).zip(&vocab.scores) {
        if *kind != Kind::Normal {
            continue;
        }
        if text.len() > MAX_PIECE_BYTES {
            return Err(TextError::Vocabulary(format!(
                "token {id} has {} bytes; expected at most {MAX_PIECE_BYTES}",
                text.len()
            )));
        }
        for (cut, _) in text.char_indices().skip(1) {
            let (left, right) = text.split_at(cut);
            if let (Some(left_id), Some(right_id)) = (is_normal(left), is_normal(right)) {
                ranked.push((*score, left_id, right_id));
            }
        }
    }
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let text = |id: u32| vocab.tokens[id as usize].clone();
    Ok(ranked.into_iter().map(|(_, left, right)| (text(left), text(right))).collect())
}

/// Spaces become `▁`, and one is put before the text.
fn spaces_as_marks(adds_prefix: bool) -> Result<NormalizerWrapper, TextError> {
    let marks = Replace::new(" ", "▁").map_err(|e| TextError::Vocabulary(e.to_string()))?;
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    if adds_prefix {
        steps.push(Prepend::new("▁".to_owned()).into());
    }
    steps.push(marks.into());
    Ok(Sequence::new(steps).into())
}

fn build(builder: tokenizers::models::bpe::BpeBuilder) -> Result<BPE, TextError> {
    builder.build().map_err(|e| TextError::Vocabulary(e.to_string()))
}
