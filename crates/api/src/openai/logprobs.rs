//! Log-probabilities in OpenAI's two shapes: a list of objects for chat, four parallel lists for completions.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::cut::{Scored, ScoredToken};

/// What stands for minus infinity, which JSON cannot write.
const LEAST_LOGPROB: f32 = -9999.0;

/// The shape of chat completions.
#[derive(Debug, Serialize)]
pub(super) struct ChatLogprobs {
    content: Vec<ChatToken>,
    refusal: Option<()>,
}

#[derive(Debug, Serialize)]
struct ChatToken {
    #[serde(flatten)]
    chosen: ChatScore,
    top_logprobs: Vec<ChatScore>,
}

#[derive(Debug, Serialize)]
struct ChatScore {
    token: String,
    logprob: f32,
    bytes: Vec<u8>,
}

/// The shape of completions.
#[derive(Debug, Serialize)]
pub(super) struct CompletionLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f32>,
    /// The likeliest tokens and always the chosen one.
    top_logprobs: Vec<BTreeMap<String, f32>>,
    text_offset: Vec<usize>,
}

pub(super) fn for_chat(tokens: Vec<ScoredToken>) -> ChatLogprobs {
    let score = |scored: Scored| ChatScore {
        token: token_text(&scored.bytes),
        logprob: finite(scored.logprob),
        bytes: scored.bytes,
    };
    let token = |token: ScoredToken| ChatToken {
        chosen: score(token.chosen),
        top_logprobs: token.top.into_iter().map(score).collect(),
    };
    ChatLogprobs { content: tokens.into_iter().map(token).collect(), refusal: None }
}

pub(super) fn for_completion(tokens: &[ScoredToken]) -> CompletionLogprobs {
    let score = |scored: &Scored| (token_text(&scored.bytes), finite(scored.logprob));
    CompletionLogprobs {
        tokens: tokens.iter().map(|t| token_text(&t.chosen.bytes)).collect(),
        token_logprobs: tokens.iter().map(|t| finite(t.chosen.logprob)).collect(),
        top_logprobs: tokens.iter().map(|t| t.top.iter().chain([&t.chosen]).map(score).collect()).collect(),
        text_offset: tokens.iter().map(|t| t.start_char).collect(),
    }
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { LEAST_LOGPROB }
}

/// A token as a string; half a character is spelled out, so that different tokens stay different.
fn token_text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().fold("bytes:".to_owned(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
            text
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::*;

    fn scored(bytes: &[u8], logprob: f32) -> Scored {
        Scored { bytes: bytes.to_vec(), logprob }
    }

    fn tokens() -> Vec<ScoredToken> {
        let half = scored(b"\xc3", f32::NEG_INFINITY);
        let chosen = scored(b"a", -0.5);
        vec![
            ScoredToken { top: vec![chosen.clone(), half.clone()], chosen, start_char: 0 },
            ScoredToken { top: vec![], chosen: half, start_char: 1 },
        ]
    }

    #[test]
    fn chat_lists_objects_with_bytes() {
        let expected = json!({"refusal": null, "content": [
            {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [
                {"token": "a", "logprob": -0.5, "bytes": [97]},
                {"token": "bytes:\\xc3", "logprob": -9999.0, "bytes": [195]},
            ]},
            {"token": "bytes:\\xc3", "logprob": -9999.0, "bytes": [195], "top_logprobs": []},
        ]});
        assert_eq!(to_value(for_chat(tokens())).unwrap(), expected);
    }

    #[test]
    fn completions_have_parallel_lists() {
        let expected = json!({
            "tokens": ["a", "bytes:\\xc3"], "token_logprobs": [-0.5, -9999.0], "text_offset": [0, 1],
            "top_logprobs": [{"a": -0.5, "bytes:\\xc3": -9999.0}, {"bytes:\\xc3": -9999.0}],
        });
        assert_eq!(to_value(for_completion(&tokens())).unwrap(), expected);
    }
}
