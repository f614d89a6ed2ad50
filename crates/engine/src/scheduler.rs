//! Which tokens are computed next: continuous batching with chunked prefill over the paged KV cache. Pure and
//! deterministic; it knows no model, no clock and no thread.
//!
//! Requests run in the order they came. A sequence is admitted with blocks for every token it has. Each step
//! computes one row of every decoding sequence and shares the rest of its budget among the prefilling ones, so
//! every running sequence moves in every step. When blocks run out, the last-come running sequence goes back to
//! the head of the queue and is computed again later. The oldest sequence is thus never stopped, and since
//! every admitted request fits the cache alone, each one ends.

use std::collections::VecDeque;

use base::{FinishReason, Output, Request, RequestId, Sampled, SeqId, SeqSlice, Step};

use crate::block::BlockManager;
use crate::config::{ConfigError, SchedulerConfig};
use crate::sequence::Sequence;

/// Waiting and running sequences and the cache they share.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    blocks: BlockManager,
    /// Admitted sequences. `running` followed by `waiting` is always the order of arrival.
    running: Vec<Sequence>,
    waiting: VecDeque<Sequence>,
    next_seq: u64,
    stats: Stats,
}

/// Gauges and counters of a scheduler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences that hold blocks.
    pub n_running: u32,
    /// Sequences that wait to be admitted.
    pub n_waiting: u32,
    /// Blocks in use.
    pub n_blocks_used: u32,
    /// All blocks of the cache.
    pub n_blocks: u32,
    /// Sequences sent back to the queue because blocks ran out, since the start.
    pub n_preemptions: u64,
    /// Tokens found in the prefix cache, since the start.
    pub n_prefix_hit_tokens: u64,
    /// Tokens computed in prefill (also again, after a preemption), since the start.
    pub n_prefill_tokens: u64,
    /// Tokens computed in decode, since the start.
    pub n_decode_tokens: u64,
}

/// Why a request cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitRefused {
    /// There is nothing to continue.
    #[error("the prompt has 0 tokens; at least 1 is needed")]
    EmptyPrompt,
    /// Nothing is asked for.
    #[error("max_tokens is 0; at least 1 is needed")]
    NoTokens,
    /// A prompt token the model does not know.
    #[error("token {index} of the prompt is {found}; the vocabulary has {vocab} tokens")]
    UnknownToken {
        /// Its place in the prompt.
        index: usize,
        /// Its number.
        found: u32,
        /// Size of the vocabulary.
        vocab: u32,
    },
    /// Prompt and answer are longer than the context.
    #[error(
        "{n_prompt} prompt tokens and up to {max_tokens} tokens of answer do not fit the context of {context_len} \
         tokens\nhint: shorten the prompt or lower max_tokens"
    )]
    Context {
        /// Tokens of the prompt.
        n_prompt: usize,
        /// Tokens of the answer at most.
        max_tokens: u32,
        /// Tokens of the context.
        context_len: u32,
    },
    /// Prompt and answer are longer than the whole KV cache.
    #[error(
        "{n_prompt} prompt tokens and up to {max_tokens} tokens of answer do not fit the KV cache of {n_kv_tokens} \
         tokens\nhint: shorten the prompt, lower max_tokens or give the KV cache more memory"
    )]
    Cache {
        /// Tokens of the prompt.
        n_prompt: usize,
        /// Tokens of the answer at most.
        max_tokens: u32,
        /// Tokens of the cache.
        n_kv_tokens: u64,
    },
    /// The queue is at its limit.
    #[error("{limit} requests are waiting already\nhint: try again later")]
    Full {
        /// Requests that may wait.
        limit: u32,
    },
    /// Two requests would share one id; the outputs could not be told apart, so the open one ends too.
    #[error("{id} is open already; both end")]
    Duplicate {
        /// The id.
        id: RequestId,
    },
}

/// Why a step's results were not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// The step asked for another number of tokens.
    #[error("the step samples {expected} tokens, the executor returned {found}")]
    WrongCount {
        /// Entries of `Step::samples`.
        expected: usize,
        /// Tokens that came back.
        found: usize,
    },
}

impl Scheduler {
    /// A scheduler with an empty cache.
    ///
    /// # Errors
    /// When the limits contradict each other; see [`ConfigError`].
    pub fn new(config: SchedulerConfig) -> Result<Scheduler, ConfigError> {
        config.check()?;
        Ok(Scheduler {
            blocks: BlockManager::new(config.n_blocks, config.block_len),
            running: Vec::new(),
            waiting: VecDeque::new(),
            next_seq: 0,
            stats: Stats::default(),
            config,
        })
    }

    /// Queues a request.
    ///
    /// # Errors
    /// When it could never be answered, or the queue is full.
    pub fn submit(&mut self, request: Request) -> Result<(), SubmitRefused> {
        if self.cancel(request.id).is_some() {
            return Err(SubmitRefused::Duplicate { id: request.id });
        }
        self.check(&request)?;
        self.waiting.push_back(Sequence::new(SeqId(self.next_seq), request));
        self.next_seq += 1;
        Ok(())
    }

    /// Ends a request and frees its blocks at once. `None` if it is not open.
    pub fn cancel(&mut self, id: RequestId) -> Option<Output> {
        let waits = self.waiting.iter().position(|s| s.request.id == id);
        let sequence = match waits {
            Some(i) => self.waiting.remove(i)?,
            None => self.running.remove(self.running.iter().position(|s| s.request.id == id)?),
        };
        Some(self.finish(sequence, FinishReason::Cancelled))
    }

    /// Whether a request is open. As long as one is, `schedule` has a step.
    pub fn has_work(&self) -> bool {
        !self.running.is_empty() || !self.waiting.is_empty()
    }

    /// Gauges and counters.
    pub fn stats(&self) -> Stats {
        Stats {
            n_running: self.running.len() as u32,
            n_waiting: self.waiting.len() as u32,
            n_blocks_used: self.blocks.n_used() as u32,
            n_blocks: self.config.n_blocks,
            ..self.stats
        }
    }

    /// The next step, or `None` if no request is open. It is committed before the next one is scheduled; a step
    /// that failed may be scheduled again.
    pub fn schedule(&mut self) -> Option<Step> {
        self.grow_tables();
        self.admit();
        let rows = self.share_rows();
        self.build(&rows)
    }

    /// Takes a step's tokens, one for each of `step.samples`, and says what became of the requests.
    ///
    /// # Errors
    /// When there are more or fewer; nothing is taken then.
    pub fn commit(&mut self, step: &Step, sampled: Vec<Sampled>) -> Result<Vec<Output>, CommitError> {
        let (expected, found) = (step.samples.len(), sampled.len());
        if expected != found {
            return Err(CommitError::WrongCount { expected, found });
        }
        let mut sampled = sampled.into_iter();
        let mut outputs = Vec::new();
        for slice in &step.batch.seqs {
            let sampled = if slice.n_logits > 0 { sampled.next() } else { None };
            let Some(i) = self.running.iter().position(|s| s.seq == slice.seq) else { continue };
            self.advance(i, slice);
            if let Some(sampled) = sampled {
                self.append(i, sampled, &mut outputs);
            }
        }
        Ok(outputs)
    }

    /// Ends the requests of a step that cannot be executed, each with this message.
    pub fn fail(&mut self, step: &Step, message: &str) -> Vec<Output> {
        let mut outputs = Vec::new();
        for slice in &step.batch.seqs {
            let Some(i) = self.running.iter().position(|s| s.seq == slice.seq) else { continue };
            let id = self.running[i].request.id;
            self.cancel(id);
            outputs.push(Output::Failed { id, message: message.to_owned() });
        }
        outputs
    }

    fn check(&self, request: &Request) -> Result<(), SubmitRefused> {
        let (n_prompt, max_tokens) = (request.prompt.len(), request.max_tokens);
        let SchedulerConfig { vocab, context_len, max_waiting: limit, .. } = self.config;
        let n_kv_tokens = u64::from(self.config.n_blocks) * u64::from(self.config.block_len);
        let total = (n_prompt as u64).saturating_add(u64::from(max_tokens));
        if n_prompt == 0 {
            return Err(SubmitRefused::EmptyPrompt);
        }
        if max_tokens == 0 {
            return Err(SubmitRefused::NoTokens);
        }
        if let Some(index) = request.prompt.iter().position(|t| t.0 >= vocab) {
            return Err(SubmitRefused::UnknownToken { index, found: request.prompt[index].0, vocab });
        }
        if total > u64::from(context_len) {
            return Err(SubmitRefused::Context { n_prompt, max_tokens, context_len });
        }
        if total > n_kv_tokens {
            return Err(SubmitRefused::Cache { n_prompt, max_tokens, n_kv_tokens });
        }
        if self.waiting.len() >= limit as usize {
            return Err(SubmitRefused::Full { limit });
        }
        Ok(())
    }

    /// Gives every running sequence, oldest first, the blocks for the tokens it has; takes them from the
    /// last-come if none is free.
    fn grow_tables(&mut self) {
        let block_len = self.config.block_len as usize;
        let mut i = 0;
        while let Some(s) = self.running.get_mut(i) {
            if s.blocks.len() * block_len >= s.tokens.len() {
                i += 1;
            } else if !self.blocks.grow(&mut s.blocks) {
                self.preempt_last();
            }
        }
    }

    fn preempt_last(&mut self) {
        if let Some(mut sequence) = self.running.pop() {
            self.blocks.release(sequence.stop());
            self.waiting.push_front(sequence);
            self.stats.n_preemptions += 1;
        }
    }

    /// Admits waiting sequences in order while they fit. One block for each running sequence stays free, so that
    /// the newcomer is not the next to be preempted.
    fn admit(&mut self) {
        let mut n_prefills = self.running.iter().filter(|s| s.n_pending() > 1).count();
        while n_prefills < self.config.max_prefills as usize
            && self.running.len() < self.config.max_seqs as usize
        {
            let Some(head) = self.waiting.front() else { break };
            let Some(admission) = self.blocks.admit(&head.tokens, self.running.len()) else { break };
            let Some(mut sequence) = self.waiting.pop_front() else { break };
            sequence.start(admission.blocks, admission.n_cached);
            self.stats.n_prefix_hit_tokens += admission.n_cached as u64;
            n_prefills += usize::from(sequence.n_pending() > 1);
            self.running.push(sequence);
        }
    }

    /// Rows of each running sequence in the next step, `[n_running]`, each at least 1. Prefilling sequences get
    /// equal shares; what a short one leaves goes to the longer ones.
    fn share_rows(&self) -> Vec<usize> {
        let mut rows = vec![1; self.running.len()];
        let mut prefills: Vec<usize> =
            (0..self.running.len()).filter(|i| self.running[*i].n_pending() > 1).collect();
        let n_decodes = rows.len() - prefills.len();
        let mut budget = self.config.max_batch_tokens as usize - n_decodes;
        if n_decodes > 0 {
            budget = budget.min(self.config.prefill_chunk_tokens as usize);
        }
        prefills.sort_by_key(|i| self.running[*i].n_pending());
        let n_prefills = prefills.len();
        for (n_served, i) in prefills.into_iter().enumerate() {
            rows[i] = self.running[i].n_pending().min(budget / (n_prefills - n_served));
            budget -= rows[i];
        }
        rows
    }

    /// The batch: decode rows first.
    fn build(&self, rows: &[usize]) -> Option<Step> {
        let mut step = Step::default();
        let (decodes, prefills): (Vec<_>, Vec<_>) =
            self.running.iter().zip(rows).partition(|(s, _)| s.n_pending() == 1);
        for (s, &n_rows) in decodes.into_iter().chain(prefills) {
            push_rows(&mut step, s, n_rows);
        }
        (!step.batch.seqs.is_empty()).then_some(step)
    }

    /// The rows of `slice` are in the cache now.
    fn advance(&mut self, i: usize, slice: &SeqSlice) {
        let s = &mut self.running[i];
        let is_decode = slice.n_rows == 1 && s.n_computed >= s.request.prompt.len();
        let counter =
            if is_decode { &mut self.stats.n_decode_tokens } else { &mut self.stats.n_prefill_tokens };
        *counter += u64::from(slice.n_rows);
        let block_len = self.config.block_len as usize;
        let old_len = std::mem::replace(&mut s.n_computed, slice.context_len as usize);
        for block in old_len / block_len..s.n_computed / block_len {
            self.blocks.publish(&mut s.blocks, block, &s.tokens);
        }
    }

    /// Takes a sampled token; ends the sequence if it was the last. The end of the context needs no test of its
    /// own: `submit` saw that prompt and `max_tokens` fit.
    fn append(&mut self, i: usize, sampled: Sampled, outputs: &mut Vec<Output>) {
        let s = &mut self.running[i];
        let mut reason = None;
        if s.request.stop_tokens.contains(&sampled.token) {
            reason = Some(FinishReason::Stop);
        } else {
            s.push(sampled.token);
            outputs.push(Output::Token { id: s.request.id, sampled });
            if s.n_answer() >= s.request.max_tokens as usize {
                reason = Some(FinishReason::Length);
            }
        }
        if let Some(reason) = reason {
            let sequence = self.running.remove(i);
            outputs.push(self.finish(sequence, reason));
        }
    }

    fn finish(&mut self, mut sequence: Sequence, reason: FinishReason) -> Output {
        self.blocks.release(sequence.stop());
        sequence.finished(reason)
    }
}

/// Appends a sequence's next rows to a step; a token is sampled once they reach its end.
fn push_rows(step: &mut Step, s: &Sequence, n_rows: usize) {
    let context_len = s.n_computed + n_rows;
    let is_last = context_len == s.tokens.len();
    step.batch.tokens.extend_from_slice(&s.tokens[s.n_computed..context_len]);
    step.batch.seqs.push(SeqSlice {
        seq: s.seq,
        n_rows: n_rows as u32,
        context_len: context_len as u32,
        n_logits: u32::from(is_last),
        blocks: s.blocks.clone(),
    });
    if is_last {
        step.samples.push(s.sample_spec());
    }
}

#[cfg(test)]
mod tests;
