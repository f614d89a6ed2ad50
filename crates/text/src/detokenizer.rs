//! Tokens to text, one token at a time and never half a character. It works on the tokens' bytes and knows nothing
//! of how they were chosen.

use std::sync::Arc;

use base::TokenId;

use crate::pieces::Pieces;

/// Turns a stream of tokens into text. What `push` and `finish` return, put together, is the decoded text;
/// control tokens add nothing to it unless they are to be shown, nor do ids outside the vocabulary; bytes that are no
/// UTF-8 become U+FFFD.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    pieces: Arc<Pieces>,
    /// Control tokens that are written out; a handful.
    shown: Vec<TokenId>,
    /// At most three bytes: the beginning of a character.
    tail: Vec<u8>,
    at_start: bool,
}

impl Detokenizer {
    pub(crate) fn new(pieces: Arc<Pieces>) -> Detokenizer {
        let at_start = pieces.strips_space;
        Detokenizer { pieces, shown: Vec::new(), tail: Vec::new(), at_start }
    }

    pub(crate) fn showing(self, shown: Vec<TokenId>) -> Detokenizer {
        Detokenizer { shown, ..self }
    }

    /// Text that `token` completes; empty while a character is incomplete.
    pub fn push(&mut self, token: TokenId) -> String {
        let mut text = String::new();
        self.push_to(token, &mut text);
        text
    }

    /// What is left: U+FFFD if the last character never became complete, else nothing.
    pub fn finish(mut self) -> String {
        let rest = std::mem::take(&mut self.tail);
        String::from_utf8_lossy(&rest).into_owned()
    }

    pub(crate) fn push_to(&mut self, token: TokenId, text: &mut String) {
        let Some(mut bytes) = self.pieces.bytes(token) else { return };
        if bytes.is_empty() || self.pieces.is_control(token) && !self.shown.contains(&token) {
            return;
        }
        if std::mem::take(&mut self.at_start) {
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.tail.extend_from_slice(bytes);
        let used = complete(&self.tail, text);
        self.tail.drain(..used);
    }
}

/// Appends the whole characters of `bytes` to `text` and returns how many bytes they took. What remains could
/// still become a character.
fn complete(bytes: &[u8], text: &mut String) -> usize {
    let mut used = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        used += chunk.valid().len();
        let invalid = chunk.invalid();
        let could_continue = used + invalid.len() == bytes.len()
            && std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
        if could_continue {
            break;
        }
        if !invalid.is_empty() {
            text.push('\u{FFFD}');
            used += invalid.len();
        }
    }
    used
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pieces::{Role, Spelling};
    use proptest::prelude::*;

    fn all_bytes(strips_space: bool) -> Arc<Pieces> {
        let mut pieces = Pieces::new(strips_space);
        for byte in 0..=255u8 {
            pieces.push(&format!("<0x{byte:02X}>"), Role::Byte, Spelling::SentencePiece);
        }
        pieces.push("▁no", Role::Text, Spelling::SentencePiece);
        pieces.push("<s>", Role::Control, Spelling::SentencePiece);
        Arc::new(pieces)
    }

    fn run(pieces: &Arc<Pieces>, tokens: &[u32]) -> Vec<String> {
        let mut detokenizer = Detokenizer::new(pieces.clone());
        let mut texts: Vec<String> = tokens.iter().map(|&t| detokenizer.push(TokenId(t))).collect();
        texts.push(detokenizer.finish());
        texts
    }

    #[test]
    fn characters_come_whole_and_as_soon_as_they_can() {
        let pieces = all_bytes(false);
        assert_eq!(run(&pieces, &[0xE2, 0x82, 0xAC, 0x41]), ["", "", "€", "A", ""]);
        assert_eq!(run(&pieces, &[0xE2, 0x82]), ["", "", "\u{FFFD}"]);
        assert_eq!(run(&pieces, &[0xE2, 0x41]), ["", "\u{FFFD}A", ""]);
        assert_eq!(run(&pieces, &[0xFF, 0x80]), ["\u{FFFD}", "\u{FFFD}", ""]);
    }

    #[test]
    fn only_the_first_space_is_taken_away_and_marks_are_silent() {
        let pieces = all_bytes(true);
        assert_eq!(run(&pieces, &[257, 256, 256, 9999]), ["", "no", " no", "", ""]);
        assert_eq!(run(&pieces, &[0x20, 256]).concat(), " no");
        assert_eq!(run(&pieces, &[0x41, 256]).concat(), "A no");
    }

    proptest! {
        #[test]
        fn any_bytes_decode_as_the_whole_would(bytes: Vec<u8>) {
            let tokens: Vec<u32> = bytes.iter().map(|&b| u32::from(b)).collect();
            let texts = run(&all_bytes(false), &tokens);
            prop_assert_eq!(texts.concat(), String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn text_in_any_cuts_never_shows_a_replacement(text: String) {
            prop_assume!(!text.contains('\u{FFFD}'));
            let tokens: Vec<u32> = text.bytes().map(u32::from).collect();
            let texts = run(&all_bytes(false), &tokens);
            let replaced = texts.iter().any(|t| t.contains('\u{FFFD}'));
            prop_assert!(!replaced);
            prop_assert_eq!(texts.concat(), text);
        }
    }
}
