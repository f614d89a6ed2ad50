//! Turns an answer's tokens into text that may be sent: whole characters only, nothing of a stop string, and each
//! token's log-probability together with the text it belongs to. It knows no request and no endpoint.

use std::collections::VecDeque;
use std::sync::Arc;

use base::{Sampled, TokenId};
use text::{Detokenizer, StopFilter, Tokenizer};

/// Text that is ready, with the tokens that begin in it when log-probabilities were asked for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) tokens: Vec<ScoredToken>,
}

impl Piece {
    pub(crate) fn is_empty(&self) -> bool {
        self.text.is_empty() && self.tokens.is_empty()
    }
}

/// A token of the answer and its rivals, as bytes.
#[derive(Debug, PartialEq)]
pub(crate) struct ScoredToken {
    pub(crate) chosen: Scored,
    /// The likeliest tokens, likeliest first.
    pub(crate) top: Vec<Scored>,
    /// Where its text begins, in characters of the answer.
    pub(crate) start_char: usize,
}

/// A token's bytes and its log-probability.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scored {
    pub(crate) bytes: Vec<u8>,
    pub(crate) logprob: f32,
}

/// The state of one answer's text.
pub(crate) struct Cutter {
    tokenizer: Arc<Tokenizer>,
    detokenizer: Detokenizer,
    filter: StopFilter,
    wants_logprobs: bool,
    /// Tokens whose text is not out yet.
    pending: VecDeque<ScoredToken>,
    /// Characters that came out of the detokenizer.
    n_decoded_chars: usize,
    /// Characters that were sent.
    n_sent_chars: usize,
}

impl Cutter {
    /// `detokenizer` stands where the answer begins.
    pub(crate) fn new(
        tokenizer: Arc<Tokenizer>,
        detokenizer: Detokenizer,
        stops: Vec<String>,
        wants_logprobs: bool,
    ) -> Cutter {
        Cutter {
            tokenizer,
            detokenizer,
            filter: StopFilter::new(stops),
            wants_logprobs,
            pending: VecDeque::new(),
            n_decoded_chars: 0,
            n_sent_chars: 0,
        }
    }

    /// Adds a token. The flag says that a stop string is complete: the piece is the last one.
    pub(crate) fn push(&mut self, sampled: &Sampled) -> (Piece, bool) {
        if self.wants_logprobs {
            self.pending.push_back(self.scored(sampled));
        }
        let decoded = self.detokenizer.push(sampled.token);
        self.pass(&decoded)
    }

    /// The answer has ended without a stop string: what was held back comes out.
    pub(crate) fn finish(mut self) -> Piece {
        let tail = self.filter.push(&self.detokenizer.finish());
        let stopped = tail.stopped;
        let text = tail.text + &self.filter.finish();
        let mut piece = Piece { text, tokens: self.pending.into() };
        if stopped {
            let n_chars = self.n_sent_chars + piece.text.chars().count();
            piece.tokens.retain(|token| token.start_char < n_chars);
        }
        piece
    }

    fn pass(&mut self, decoded: &str) -> (Piece, bool) {
        self.n_decoded_chars += decoded.chars().count();
        let filtered = self.filter.push(decoded);
        self.n_sent_chars += filtered.text.chars().count();
        let n_out = self.pending.partition_point(|token| token.start_char < self.n_sent_chars);
        (Piece { text: filtered.text, tokens: self.pending.drain(..n_out).collect() }, filtered.stopped)
    }

    fn scored(&self, sampled: &Sampled) -> ScoredToken {
        let score = |token: TokenId, logprob: f32| Scored {
            bytes: self.tokenizer.token_bytes(token).unwrap_or_default().to_vec(),
            logprob,
        };
        ScoredToken {
            chosen: score(sampled.token, sampled.logprob.unwrap_or(f32::NEG_INFINITY)),
            top: sampled.top.iter().map(|(token, logprob)| score(*token, *logprob)).collect(),
            start_char: self.n_decoded_chars,
        }
    }
}
