//! A request in token ids and what comes back: the words that api, engine and wire share.

use crate::{RequestId, TokenId};

/// What the engine is asked for: token ids in.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Chosen by the submitter, unique while the request is open.
    pub id: RequestId,
    /// The prompt; never empty.
    pub prompt: Vec<TokenId>,
    /// Tokens to generate at most.
    pub max_tokens: u32,
    /// Tokens that end the answer; they are not part of it.
    pub stop_tokens: Vec<TokenId>,
    /// How each token is chosen.
    pub sampling: SamplingParams,
}

/// How tokens are chosen; constant over a request. The defaults change nothing: plain sampling at temperature 1.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the k likeliest tokens.
    pub top_k: Option<u32>,
    /// Keep the likeliest tokens whose probabilities add up to this.
    pub top_p: f32,
    /// Keep tokens at least this likely, relative to the likeliest.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or answer; 1 is none.
    pub repetition_penalty: f32,
    /// Subtracted from logits of tokens seen in the answer.
    pub presence_penalty: f32,
    /// Subtracted once for each time a token was seen in the answer.
    pub frequency_penalty: f32,
    /// Added to logits.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// With the position it fixes every random choice.
    pub seed: u64,
    /// Report the log-probability of the chosen token and of this many likeliest ones.
    pub n_logprobs: Option<u32>,
}

impl Default for SamplingParams {
    fn default() -> SamplingParams {
        SamplingParams {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            n_logprobs: None,
        }
    }
}

impl SamplingParams {
    /// Whether the choice depends on which tokens were seen before.
    pub fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// Everything that fixes one sampled token besides its logits: the sampler keeps no state of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampleSpec {
    /// The request's parameters.
    pub params: SamplingParams,
    /// Position of the token to be sampled, counted from the prompt's first token.
    pub position: u32,
    /// Distinct tokens of the prompt; empty unless the parameters have penalties.
    pub prompt_tokens: Vec<TokenId>,
    /// Tokens of the answer with their counts; empty unless the parameters have penalties.
    pub answer_counts: Vec<(TokenId, u32)>,
}

/// One sampled token.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// The token.
    pub token: TokenId,
    /// Natural log of its probability under the model's own distribution (before temperature and filters).
    pub logprob: Option<f32>,
    /// The likeliest tokens with their log-probabilities, likeliest first; as many as were asked for.
    pub top: Vec<(TokenId, f32)>,
}

/// What the engine says about a request: token ids out.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// One more token of the answer.
    Token {
        /// The request.
        id: RequestId,
        /// The token.
        sampled: Sampled,
    },
    /// The answer is complete; nothing follows.
    Finished {
        /// The request.
        id: RequestId,
        /// Why it ended.
        reason: FinishReason,
        /// Token counts.
        usage: Usage,
    },
    /// The request cannot be answered; nothing follows.
    Failed {
        /// The request.
        id: RequestId,
        /// What went wrong, for the client to read.
        message: String,
    },
}

impl Output {
    /// The request it belongs to.
    pub fn id(&self) -> RequestId {
        match self {
            Output::Token { id, .. } | Output::Finished { id, .. } | Output::Failed { id, .. } => *id,
        }
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token.
    Stop,
    /// `max_tokens` or the end of the context.
    Length,
    /// Cancelled by the submitter.
    Cancelled,
}

/// Token counts of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Of these, tokens found in the prefix cache.
    pub cached_tokens: u32,
    /// Tokens of the answer.
    pub completion_tokens: u32,
}
