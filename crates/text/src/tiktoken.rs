//! Vocabularies as `tiktoken.model` carries them: a line for each token, its bytes in base64 and its rank, which is its
//! id. The file names neither the rule that cuts a text into words nor the special tokens: the rule is that of the one
//! family that ships this file, the special tokens stand in `tokenizer_config.json`. It knows no chat format.

use std::collections::{BTreeMap, HashSet};

use base::TokenId;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use tiktoken_rs::CoreBPE;
use tokenizers::AddedToken;

use crate::TextError;
use crate::json::{CONFIG, Name, Templates, parse, wrong};
use crate::pieces::{Pieces, Role};
use crate::tokenizer::{MAX_TOKENS, Model, Parts};

const FILE: &str = "tiktoken.model";
/// Ids behind the ordinary tokens that are kept for special ones; those without a name are reserved.
const N_SPECIAL: usize = 256;
/// A run of blanks, or of anything else, is cut after so many characters, as the family's own tokenizer does. It
/// bounds how far back the pattern can go.
const MAX_RUN_CHARS: usize = 25_000;

/// How the family cuts a text: runs of Han; words, with a contraction after and one odd character before them, split
/// where a lower-case letter is followed by an upper-case one; numbers by three; signs; line breaks; blanks.
const PATTERN: &str = concat!(
    r"[\p{Han}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"|\s*[\r\n]+",
    r"|\s+(?!\S)",
    r"|\s+",
);

/// Merging by rank.
pub(crate) struct Ranks(CoreBPE);

/// The fields of `tokenizer_config.json` that matter here.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    added_tokens_decoder: BTreeMap<String, Added>,
    bos_token: Option<Name>,
    eos_token: Option<Name>,
    chat_template: Option<Templates>,
}

#[derive(Deserialize)]
struct Added {
    content: String,
    #[serde(default)]
    special: bool,
}

/// A token behind the ordinary ones.
struct Special {
    text: String,
    /// Decoding shows it.
    visible: bool,
}

pub(crate) fn read(ranks: &[u8], config: &[u8]) -> Result<Parts, TextError> {
    let tokens = tokens(ranks)?;
    let config: Config = parse(CONFIG, config)?;
    let special = special(tokens.len(), config.added_tokens_decoder)?;
    let ids = (tokens.len() as u32..).map(TokenId);
    // Only a template may write any of them, also those that decoding shows.
    let added: Vec<_> = ids
        .zip(&special)
        .map(|(id, token)| (id, AddedToken::from(token.text.as_str(), true).normalized(false)))
        .collect();
    let find = |name: Option<Name>| {
        let name = name?;
        added.iter().find(|(_, token)| token.content == name.text()).map(|(id, _)| *id)
    };
    Ok(Parts {
        pieces: pieces(&tokens, &special),
        bos: find(config.bos_token),
        eos: find(config.eos_token),
        model: Model::Ranks(Ranks::new(tokens)?),
        added,
        prefix: Vec::new(),
        suffix: Vec::new(),
        chat_template: config.chat_template.and_then(Templates::default_one),
    })
}

impl Ranks {
    fn new(tokens: Vec<Vec<u8>>) -> Result<Ranks, TextError> {
        let ranks = tokens.into_iter().zip(0..).collect();
        // Special tokens are taken out of the text before. The library looks for one that is forbidden by stepping a
        // byte on, so the one it must have begins with ASCII.
        let special = [("<\u{FDD0}>".to_owned(), u32::MAX)].into_iter().collect();
        CoreBPE::new(ranks, special, PATTERN).map(Ranks).map_err(|e| wrong(FILE, e))
    }

    /// Appends the tokens of a text without special tokens.
    pub(crate) fn encode_to(&self, text: &str, tokens: &mut Vec<TokenId>) -> Result<(), String> {
        for part in runs(text) {
            let (found, _) = self.0.encode(part, &HashSet::new()).map_err(|e| e.to_string())?;
            tokens.extend(found.into_iter().map(TokenId));
        }
        Ok(())
    }
}

/// The tokens' bytes in the order of their ids.
fn tokens(file: &[u8]) -> Result<Vec<Vec<u8>>, TextError> {
    let text = std::str::from_utf8(file).map_err(|e| wrong(FILE, e))?;
    let lines = text.lines().filter(|line| !line.is_empty());
    let mut tokens = Vec::new();
    let mut seen = HashSet::new();
    for (i, line) in lines.enumerate() {
        let bad = |why: String| wrong(FILE, format!("token {i}: {why}"));
        if i + N_SPECIAL >= MAX_TOKENS {
            return Err(wrong(FILE, format!("more than {} tokens", MAX_TOKENS - N_SPECIAL)));
        }
        let (bytes, rank) = line.split_once(' ').ok_or_else(|| {
            bad(format!("expected bytes in base64, a space and a rank, found {}", start_of(line)))
        })?;
        let bytes = BASE64_STANDARD.decode(bytes).map_err(|e| bad(e.to_string()))?;
        if rank.trim_end().parse() != Ok(i) {
            return Err(bad(format!("expected rank {i}, for tokens are in order, found {}", start_of(rank))));
        }
        if bytes.is_empty() || !seen.insert(bytes.clone()) {
            return Err(bad("expected bytes that no token before it has".to_owned()));
        }
        tokens.push(bytes);
    }
    match (0..=u8::MAX).find(|byte| !seen.contains(&[*byte][..])) {
        Some(byte) => Err(wrong(FILE, format!("no token for the byte 0x{byte:02X}"))),
        None => Ok(tokens),
    }
}

/// Enough of a wrong line to find it.
fn start_of(line: &str) -> String {
    format!("{:?}", line.chars().take(40).collect::<String>())
}

/// The names of all special ids behind `n_ordinary` tokens.
fn special(n_ordinary: usize, named: BTreeMap<String, Added>) -> Result<Vec<Special>, TextError> {
    let reserved = |i| Special { text: format!("<|reserved_token_{}|>", n_ordinary + i), visible: false };
    let mut special: Vec<Special> = (0..N_SPECIAL).map(reserved).collect();
    let mut seen = HashSet::new();
    for (id, Added { content, special: is_special }) in named {
        let place = id.parse::<usize>().ok().and_then(|id| special.get_mut(id.checked_sub(n_ordinary)?));
        let Some(place) = place else {
            let last = n_ordinary + N_SPECIAL - 1;
            let why = format!("special token {content:?} has the id {id}; expected {n_ordinary} to {last}");
            return Err(wrong(CONFIG, why));
        };
        if content.is_empty() || !seen.insert(content.clone()) {
            return Err(wrong(
                CONFIG,
                format!("special token {id} is {content:?}; expected a text of its own"),
            ));
        }
        *place = Special { text: content, visible: !is_special };
    }
    Ok(special)
}

fn pieces(tokens: &[Vec<u8>], special: &[Special]) -> Pieces {
    let mut pieces = Pieces::new(false);
    for bytes in tokens {
        pieces.push_bytes(bytes, Role::Verbatim);
    }
    for token in special {
        let role = if token.visible { Role::Verbatim } else { Role::Control };
        pieces.push_bytes(token.text.as_bytes(), role);
    }
    pieces
}

/// `text` in parts, cut only inside runs that are too long.
fn runs(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (mut n, mut blank) = (0, None);
        let cut = rest.char_indices().find_map(|(at, c)| {
            let is_blank = c.is_whitespace();
            n = if blank.replace(is_blank) == Some(is_blank) { n + 1 } else { 1 };
            (n > MAX_RUN_CHARS).then_some(at)
        });
        let (part, after) = rest.split_at(cut.unwrap_or(rest.len()));
        rest = after;
        (!part.is_empty()).then_some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_runs_are_cut() {
        let long = "x".repeat(MAX_RUN_CHARS);
        let parts = |text: &str| runs(text).map(str::len).collect::<Vec<_>>();
        assert_eq!(parts(""), [0; 0]);
        assert_eq!(parts(&format!("{long} {long}\n")), [2 * MAX_RUN_CHARS + 2]);
        assert_eq!(parts(&format!("a {long}éé b")), [MAX_RUN_CHARS + 2, 6]);
        assert_eq!(parts(&" ".repeat(MAX_RUN_CHARS * 2 + 5)), [MAX_RUN_CHARS, MAX_RUN_CHARS, 5]);
    }
}
