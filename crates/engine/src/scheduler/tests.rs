//! The scheduler against a model whose every token depends on all that its block table holds, so that a wrong
//! table, a wrong position, a block shared wrongly or read stale gives another token than the request alone.

use std::collections::HashMap;

use base::{BlockId, SampleSpec, SamplingParams, TokenId};
use proptest::prelude::*;

use super::*;

const VOCAB: u32 = 5;

fn mix(state: u64, value: u64) -> u64 {
    let z = (state ^ value.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 29)
}

/// What the model writes into the cache for one token: it depends on the token before, as in a real model.
fn key(before: u64, token: TokenId, position: usize) -> u64 {
    mix(mix(before, u64::from(token.0)), position as u64)
}

/// The next token: depends on every entry of the cache and on all of the spec.
fn choose(keys: impl Iterator<Item = u64>, spec: &SampleSpec) -> Sampled {
    let mut state = keys.fold(spec.params.seed, mix);
    state = mix(state, u64::from(spec.position));
    state = spec.prompt_tokens.iter().fold(state, |s, t| mix(s, u64::from(t.0)));
    state = spec.answer_counts.iter().fold(state, |s, (t, n)| mix(s, u64::from(t.0 * 1000 + n)));
    let token = TokenId((state >> 20) as u32 % VOCAB);
    Sampled { token, logprob: None, top: Vec::new() }
}

/// The request without scheduler or cache.
fn alone(request: &Request) -> (Vec<TokenId>, FinishReason) {
    let mut tokens = request.prompt.clone();
    let mut answer = Vec::new();
    while answer.len() < request.max_tokens as usize {
        let mut before = 0;
        let keys = tokens.iter().enumerate().map(|(i, t)| {
            before = key(before, *t, i);
            before
        });
        let mut spec = SampleSpec {
            params: request.sampling.clone(),
            position: tokens.len() as u32,
            ..SampleSpec::default()
        };
        if request.sampling.has_penalties() {
            for t in (0..VOCAB).map(TokenId) {
                let n = answer.iter().filter(|a| **a == t).count() as u32;
                spec.answer_counts.extend((n > 0).then_some((t, n)));
                spec.prompt_tokens.extend(request.prompt.contains(&t).then_some(t));
            }
        }
        let next = choose(keys.collect::<Vec<_>>().into_iter(), &spec).token;
        if request.stop_tokens.contains(&next) {
            return (answer, FinishReason::Stop);
        }
        tokens.push(next);
        answer.push(next);
    }
    (answer, FinishReason::Length)
}

/// Executes steps over a paged cache of `key`s.
struct FakeModel {
    block_len: usize,
    cache: HashMap<(BlockId, usize), u64>,
}

impl FakeModel {
    fn execute(&mut self, step: &Step) -> Vec<Sampled> {
        let batch = &step.batch;
        assert_eq!(batch.seqs.iter().map(|s| s.n_rows as usize).sum::<usize>(), batch.n_rows());
        assert_eq!(batch.logit_rows().len(), step.samples.len());
        self.assert_no_overlap(step);
        let mut tokens = batch.tokens.iter();
        let mut specs = step.samples.iter();
        let mut sampled = Vec::new();
        for s in &batch.seqs {
            let context_len = s.context_len as usize;
            let at = |position: usize| (s.blocks[position / self.block_len], position % self.block_len);
            for position in context_len - s.n_rows as usize..context_len {
                let before = position.checked_sub(1).map_or(0, |p| self.cache[&at(p)]);
                let key = key(before, *tokens.next().unwrap(), position);
                self.cache.insert(at(position), key);
            }
            if s.n_logits > 0 {
                let keys = (0..context_len).map(|p| self.cache[&at(p)]);
                sampled.push(choose(keys, specs.next().unwrap()));
            }
        }
        sampled
    }

    /// No block that a sequence writes is in the table of another one.
    fn assert_no_overlap(&self, step: &Step) {
        for (i, s) in step.batch.seqs.iter().enumerate() {
            let first = (s.context_len - s.n_rows) as usize / self.block_len;
            for written in &s.blocks[first..] {
                let others = step.batch.seqs.iter().enumerate().filter(|(j, _)| *j != i);
                let n_readers = others.filter(|(_, o)| o.blocks.contains(written)).count();
                assert_eq!(n_readers, 0, "{written} is written by {} and read by another", s.seq);
            }
        }
    }
}

impl Scheduler {
    /// Panics unless the state is whole.
    fn assert_whole(&self) {
        let tables: Vec<&[BlockId]> = self.running.iter().map(|s| &s.blocks[..]).collect();
        self.blocks.check(&tables);
        assert!(self.waiting.iter().all(|s| s.blocks.is_empty() && s.n_computed == 0));
        assert!(self.running.iter().chain(&self.waiting).is_sorted_by(|a, b| a.seq < b.seq), "order");
        assert!(self.running.len() <= self.config.max_seqs as usize);
    }

    /// Panics unless the step keeps to the budget and moves every running sequence.
    fn assert_fair(&self, step: &Step) {
        self.assert_whole();
        let n_rows = step.batch.n_rows();
        assert!(n_rows <= self.config.max_batch_tokens as usize, "{n_rows} rows");
        assert_eq!(step.batch.seqs.len(), self.running.len());
        assert!(step.batch.seqs.iter().all(|s| s.n_rows > 0));
        let n_prefills = self.running.iter().filter(|s| s.n_pending() > 1).count();
        assert!(n_prefills <= self.config.max_prefills as usize);
        let n_decodes = self.running.len() - n_prefills;
        assert!(step.batch.seqs[..n_decodes].iter().all(|s| s.n_rows == 1 && s.n_logits == 1));
        if n_decodes > 0 {
            assert!(n_rows - n_decodes <= self.config.prefill_chunk_tokens as usize);
        }
    }
}

/// A scheduler, its model, and what was said about each request.
struct Bench {
    scheduler: Scheduler,
    model: FakeModel,
    requests: Vec<Request>,
    answers: Vec<Vec<TokenId>>,
    ends: Vec<Option<Output>>,
}

impl Bench {
    fn new(config: SchedulerConfig) -> Bench {
        let model = FakeModel { block_len: config.block_len as usize, cache: HashMap::new() };
        let scheduler = Scheduler::new(config).unwrap();
        Bench { scheduler, model, requests: vec![], answers: vec![], ends: vec![] }
    }

    fn submit(&mut self, mut request: Request) {
        let id = RequestId(self.requests.len() as u64);
        request.id = id;
        self.requests.push(request.clone());
        self.answers.push(vec![]);
        let refused = self.scheduler.submit(request).err();
        self.ends.push(refused.map(|e| Output::Failed { id, message: e.to_string() }));
        self.scheduler.assert_whole();
    }

    fn cancel(&mut self, i: usize) {
        let output = self.scheduler.cancel(RequestId(i as u64));
        self.take(output);
        self.scheduler.assert_whole();
    }

    fn step(&mut self) {
        let Some(step) = self.scheduler.schedule() else {
            assert!(!self.scheduler.has_work(), "stuck: {:?}", self.scheduler);
            return;
        };
        self.scheduler.assert_fair(&step);
        let sampled = self.model.execute(&step);
        let outputs = self.scheduler.commit(&step, sampled).unwrap();
        self.take(outputs);
        self.scheduler.assert_whole();
    }

    /// The ranks computed, but the results were lost.
    fn failed_step(&mut self) {
        if let Some(step) = self.scheduler.schedule() {
            self.model.execute(&step);
        }
        self.scheduler.assert_whole();
    }

    fn take(&mut self, outputs: impl IntoIterator<Item = Output>) {
        for output in outputs {
            let i = output.id().0 as usize;
            assert_eq!(self.ends[i], None, "nothing follows the end");
            match output {
                Output::Token { sampled, .. } => self.answers[i].push(sampled.token),
                end => self.ends[i] = Some(end),
            }
        }
    }

    fn finish(&mut self) {
        let most: usize = self.requests.iter().map(|r| r.prompt.len() + r.max_tokens as usize).sum();
        for _ in 0..10 * most {
            self.step();
        }
        assert!(!self.scheduler.has_work(), "every request ends");
        assert_eq!(self.scheduler.stats().n_blocks_used, 0, "no block leaks");
        for i in 0..self.requests.len() {
            self.assert_answer(i);
        }
    }

    fn assert_answer(&self, i: usize) {
        let (request, answer) = (&self.requests[i], &self.answers[i]);
        match self.ends[i].as_ref().unwrap() {
            Output::Finished { reason, usage, .. } => {
                let (tokens, expected) = alone(request);
                if *reason == FinishReason::Cancelled {
                    assert_eq!(answer[..], tokens[..answer.len()], "request {i}: {request:?}");
                } else {
                    assert_eq!((answer, *reason), (&tokens, expected), "request {i}: {request:?}");
                }
                assert_eq!(usage.prompt_tokens as usize, request.prompt.len());
                assert_eq!(usage.completion_tokens as usize, answer.len());
                assert!(usage.cached_tokens < usage.prompt_tokens);
            }
            Output::Failed { .. } => {
                let total = request.prompt.len() as u32 + request.max_tokens;
                let SchedulerConfig { n_blocks, block_len, context_len, .. } = self.scheduler.config;
                assert!(total > context_len || total > n_blocks * block_len, "refused: {request:?}");
            }
            Output::Token { .. } => unreachable!("not an end"),
        }
    }
}

fn request(prompt: &[u32], max_tokens: u32) -> Request {
    Request {
        id: RequestId(0),
        prompt: prompt.iter().map(|t| TokenId(*t)).collect(),
        max_tokens,
        stop_tokens: vec![],
        sampling: SamplingParams::default(),
    }
}

fn small(block_len: u32, n_blocks: u32) -> SchedulerConfig {
    SchedulerConfig {
        max_batch_tokens: 16,
        prefill_chunk_tokens: 4,
        max_seqs: 8,
        ..SchedulerConfig::new(block_len, n_blocks, 1000, VOCAB)
    }
}

/// A tiny cache, sometimes with narrow limits.
fn any_config() -> impl Strategy<Value = SchedulerConfig> {
    (1u32..5, 4u32..14, 20u32..60, 1u32..7, 1u32..4, 0u32..12, 0u32..6).prop_map(
        |(block_len, n_blocks, context_len, max_seqs, max_prefills, extra_rows, extra_chunk)| {
            SchedulerConfig {
                max_seqs,
                max_prefills,
                max_batch_tokens: max_seqs + extra_rows,
                prefill_chunk_tokens: max_prefills + extra_chunk,
                ..SchedulerConfig::new(block_len, n_blocks, context_len, VOCAB)
            }
        },
    )
}

/// Prompts that often begin alike: the head of one of three long texts, then a few tokens of their own.
fn any_request() -> impl Strategy<Value = Request> {
    let own = proptest::collection::vec(0..VOCAB, 0..3);
    (0u32..3, 0usize..24, own, 1u32..16, proptest::option::of(0..VOCAB), any::<bool>(), 0u64..2).prop_map(
        |(text, n, own, max_tokens, stop, penalties, seed)| {
            let mut prompt: Vec<u32> = (0..n as u32).map(|i| (i * i / 3 + text * i) % VOCAB).collect();
            prompt.extend(own);
            prompt.push(text);
            let mut r = request(&prompt, max_tokens);
            r.stop_tokens.extend(stop.map(TokenId));
            r.sampling.seed = seed;
            r.sampling.presence_penalty = if penalties { 1.0 } else { 0.0 };
            r
        },
    )
}

#[derive(Clone, Debug)]
enum Op {
    Submit(Request),
    Cancel(prop::sample::Index),
    Step,
    FailedStep,
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => any_request().prop_map(Op::Submit),
        1 => any::<prop::sample::Index>().prop_map(Op::Cancel),
        9 => Just(Op::Step),
        1 => Just(Op::FailedStep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_request_is_answered_as_if_it_were_alone(
        config in any_config(),
        ops in proptest::collection::vec(any_op(), 1..120),
    ) {
        let mut bench = Bench::new(config);
        for op in ops {
            match op {
                Op::Submit(request) => bench.submit(request),
                Op::Cancel(_) if bench.requests.is_empty() => {}
                Op::Cancel(i) => bench.cancel(i.index(bench.requests.len())),
                Op::Step => bench.step(),
                Op::FailedStep => bench.failed_step(),
            }
        }
        bench.finish();
    }
}

#[test]
fn the_random_workload_preempts_and_shares() {
    // The same kind of load as above, fixed, to show that it reaches the paths in question.
    let mut bench = Bench::new(small(2, 14));
    for i in 0..60u32 {
        let prompt: Vec<u32> = (0..6 + i % 3).map(|k| k % (2 + i % 2)).collect();
        bench.submit(request(&prompt, 8 + i % 9));
        bench.step();
    }
    bench.finish();
    let stats = bench.scheduler.stats();
    assert!(stats.n_preemptions > 20 && stats.n_prefix_hit_tokens > 100, "{stats:?}");
}

#[test]
fn decodes_go_on_beside_a_long_prompt() {
    let mut bench = Bench::new(small(4, 100));
    bench.submit(request(&[1, 2, 3], 30));
    bench.step();
    bench.submit(request(&[2; 80], 1));
    let mut n_steps = 0;
    while bench.ends[1].is_none() {
        let n_before = bench.answers[0].len();
        bench.step();
        assert_eq!(bench.answers[0].len(), n_before + 1);
        n_steps += 1;
    }
    assert_eq!(n_steps, 80 / 4);
    bench.finish();
}

#[test]
fn a_short_prompt_passes_a_long_one() {
    let mut bench = Bench::new(small(4, 100));
    bench.submit(request(&[1; 100], 1));
    bench.submit(request(&[2; 8], 1));
    bench.step();
    assert!(bench.ends[1].is_some(), "half of 16 rows are its own");
    assert!(bench.ends[0].is_none());
    bench.finish();
}

#[test]
fn shares_leave_no_row_unused() {
    let mut bench = Bench::new(small(4, 100));
    bench.submit(request(&[1; 100], 1));
    bench.submit(request(&[2; 3], 1));
    bench.submit(request(&[3; 100], 1));
    let step = bench.scheduler.schedule().unwrap();
    assert_eq!(step.batch.seqs.iter().map(|s| s.n_rows).collect::<Vec<_>>(), [6, 3, 7]);
}

#[test]
fn a_second_prompt_reuses_the_first_ones_blocks() {
    let mut bench = Bench::new(small(4, 100));
    for _ in 0..2 {
        bench.submit(request(&[1, 2, 3, 4, 0, 1, 2, 3], 2));
        bench.finish();
    }
    let cached = |i: usize| match bench.ends[i] {
        Some(Output::Finished { usage, .. }) => usage.cached_tokens,
        _ => unreachable!("it finished"),
    };
    assert_eq!((cached(0), cached(1)), (0, 4), "8 tokens are cached, but the last must be computed");
    assert_eq!(bench.scheduler.stats().n_prefix_hit_tokens, 4);
}

#[test]
fn rows_are_counted_as_prefill_or_decode() {
    let mut bench = Bench::new(small(4, 100));
    bench.submit(request(&[1; 21], 5));
    bench.finish();
    let stats = bench.scheduler.stats();
    assert_eq!((stats.n_prefill_tokens, stats.n_decode_tokens), (21, 4), "the last token is not computed");
}

#[test]
fn the_last_come_is_preempted_and_returns_first() {
    let mut bench = Bench::new(SchedulerConfig { max_batch_tokens: 64, ..small(1, 20) });
    for prompt in [[1; 4], [2; 4], [3; 4]] {
        bench.submit(request(&prompt, 12));
    }
    bench.submit(request(&[4; 6], 1));
    while bench.scheduler.stats().n_preemptions == 0 {
        bench.step();
        assert!(bench.scheduler.stats().n_running < 4, "the fourth would leave no spare block for each");
    }
    let waiting: Vec<u64> = bench.scheduler.waiting.iter().map(|s| s.request.id.0).collect();
    assert_eq!(waiting, [2, 3]);
    bench.finish();
}

#[test]
fn cancelling_frees_blocks_at_once() {
    let mut bench = Bench::new(small(4, 100));
    bench.submit(request(&[1; 9], 30));
    bench.step();
    assert_eq!(bench.scheduler.stats().n_blocks_used, 3);
    bench.cancel(0);
    assert_eq!(bench.scheduler.stats().n_blocks_used, 0);
    assert!(!bench.scheduler.has_work());
    assert_eq!(bench.scheduler.cancel(RequestId(0)), None);
}

#[test]
fn a_stop_token_is_not_emitted() {
    let mut wanted = request(&[1, 2, 3], 50);
    let (tokens, _) = alone(&wanted);
    wanted.stop_tokens = vec![tokens[4]];
    let n_before = tokens.iter().position(|t| *t == tokens[4]).unwrap();
    let mut bench = Bench::new(small(4, 100));
    bench.submit(wanted);
    bench.finish();
    assert_eq!(bench.answers[0], tokens[..n_before]);
    assert!(matches!(bench.ends[0], Some(Output::Finished { reason: FinishReason::Stop, .. })));
}

#[test]
fn what_can_never_be_answered_is_refused() {
    let mut s = Scheduler::new(SchedulerConfig { context_len: 50, max_waiting: 1, ..small(4, 10) }).unwrap();
    assert_eq!(s.submit(request(&[], 1)), Err(SubmitRefused::EmptyPrompt));
    assert_eq!(s.submit(request(&[1], 0)), Err(SubmitRefused::NoTokens));
    let unknown = SubmitRefused::UnknownToken { index: 1, found: VOCAB, vocab: VOCAB };
    assert_eq!(s.submit(request(&[1, VOCAB], 1)), Err(unknown));
    let message = s.submit(request(&[1; 20], 31)).unwrap_err().to_string();
    assert!(
        message.starts_with("20 prompt tokens and up to 31 tokens of answer do not fit the context of 50 ")
    );
    let cache = SubmitRefused::Cache { n_prompt: 20, max_tokens: 21, n_kv_tokens: 40 };
    assert_eq!(s.submit(request(&[1; 20], 21)), Err(cache));
    assert!(matches!(s.submit(request(&[1], u32::MAX)), Err(SubmitRefused::Context { .. })));
    assert!(!s.has_work());
    assert_eq!(s.submit(request(&[1; 20], 20)), Ok(()), "fills the cache exactly");
    let full = request(&[1], 1);
    assert_eq!(s.submit(Request { id: RequestId(1), ..full }), Err(SubmitRefused::Full { limit: 1 }));
}

#[test]
fn a_request_may_fill_the_whole_cache() {
    let mut bench = Bench::new(small(4, 10));
    bench.submit(request(&[1; 4], 3));
    bench.submit(request(&[2; 20], 20));
    bench.submit(request(&[3; 39], 1));
    bench.finish();
}

#[test]
fn an_id_that_is_open_twice_ends_both() {
    let mut s = Scheduler::new(small(4, 10)).unwrap();
    s.submit(request(&[1], 3)).unwrap();
    assert_eq!(s.submit(request(&[2], 3)), Err(SubmitRefused::Duplicate { id: RequestId(0) }));
    assert!(!s.has_work());
}

#[test]
fn a_wrong_number_of_tokens_is_refused_whole() {
    let mut s = Scheduler::new(small(4, 10)).unwrap();
    s.submit(request(&[1, 2], 3)).unwrap();
    let step = s.schedule().unwrap();
    assert_eq!(s.commit(&step, vec![]), Err(CommitError::WrongCount { expected: 1, found: 0 }));
    assert_eq!(s.schedule(), Some(step), "nothing has moved");
}
