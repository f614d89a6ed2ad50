//! One request on its way through the engine: its tokens so far, how many of them are in the KV cache, and where.
//! It does not know when it runs.

use std::collections::BTreeMap;

use base::{BlockId, FinishReason, Output, Request, SampleSpec, SeqId, TokenId, Usage};

#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) seq: SeqId,
    pub(crate) request: Request,
    /// Prompt and answer so far.
    pub(crate) tokens: Vec<TokenId>,
    /// The first tokens, whose keys and values are in the cache.
    pub(crate) n_computed: usize,
    /// Block table; covers all of `tokens` when a step is built.
    pub(crate) blocks: Vec<BlockId>,
    /// Prompt tokens found in the prefix cache when it was first admitted.
    n_cached: Option<usize>,
    /// Distinct prompt tokens and counts of answer tokens; kept only for penalties.
    prompt_tokens: Vec<TokenId>,
    answer_counts: BTreeMap<TokenId, u32>,
}

impl Sequence {
    pub(crate) fn new(seq: SeqId, request: Request) -> Sequence {
        let mut prompt_tokens = Vec::new();
        if request.sampling.has_penalties() {
            prompt_tokens.clone_from(&request.prompt);
            prompt_tokens.sort_unstable();
            prompt_tokens.dedup();
        }
        Sequence {
            seq,
            tokens: request.prompt.clone(),
            n_computed: 0,
            blocks: Vec::new(),
            n_cached: None,
            prompt_tokens,
            answer_counts: BTreeMap::new(),
            request,
        }
    }

    /// Tokens that are not in the cache yet: 1 in decode, more in prefill.
    pub(crate) fn n_pending(&self) -> usize {
        self.tokens.len() - self.n_computed
    }

    pub(crate) fn n_answer(&self) -> usize {
        self.tokens.len() - self.request.prompt.len()
    }

    /// It holds these blocks from now on, and their first `n_cached` tokens need no computing.
    pub(crate) fn start(&mut self, blocks: Vec<BlockId>, n_cached: usize) {
        self.blocks = blocks;
        self.n_computed = n_cached;
        self.n_cached.get_or_insert(n_cached);
    }

    /// It is to be computed again from its first token; returns the blocks it held.
    pub(crate) fn stop(&mut self) -> Vec<BlockId> {
        self.n_computed = 0;
        std::mem::take(&mut self.blocks)
    }

    /// One more token of the answer.
    pub(crate) fn push(&mut self, token: TokenId) {
        self.tokens.push(token);
        if self.request.sampling.has_penalties() {
            *self.answer_counts.entry(token).or_default() += 1;
        }
    }

    /// How its next token is to be sampled.
    pub(crate) fn sample_spec(&self) -> SampleSpec {
        SampleSpec {
            params: self.request.sampling.clone(),
            position: self.tokens.len() as u32,
            prompt_tokens: self.prompt_tokens.clone(),
            answer_counts: self.answer_counts.iter().map(|(t, n)| (*t, *n)).collect(),
        }
    }

    pub(crate) fn finished(&self, reason: FinishReason) -> Output {
        let usage = Usage {
            prompt_tokens: self.request.prompt.len() as u32,
            cached_tokens: self.n_cached.unwrap_or(0) as u32,
            completion_tokens: self.n_answer() as u32,
        };
        Output::Finished { id: self.request.id, reason, usage }
    }
}
