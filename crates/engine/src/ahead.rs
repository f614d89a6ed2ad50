//! Looking ahead: while a device computes a decode step, the next one is queued behind it, with tokens that are not drawn
//! yet. It is right when every sequence goes on by one token, and otherwise not used.

use std::sync::{Arc, Mutex, PoisonError};

use backend::Draw;
use base::{Batch, SampleSpec, Sampled, SeqSlice, Step, TokenId};

use crate::sampler::sample;

/// What a drawing will have drawn.
#[derive(Clone, Default)]
pub(crate) struct Slot(Arc<Mutex<Option<Vec<Sampled>>>>);

/// A step that was queued before it was asked for.
pub(crate) struct Ahead<D> {
    /// The step that it is, with the tokens of the one before once these are known.
    pub(crate) step: Step,
    pub(crate) drawn: D,
    pub(crate) slot: Slot,
}

impl Slot {
    /// A drawing by `specs`, one for each row, that leaves its tokens here.
    pub(crate) fn draw(&self, specs: &[SampleSpec]) -> Draw {
        let (slot, specs) = (self.clone(), specs.to_vec());
        Box::new(move |logits, tokens| {
            let n_words = logits.len() / specs.len().max(1);
            let rows = logits.chunks_exact(n_words.max(1)).zip(&specs);
            let sampled: Vec<Sampled> = rows.map(|(row, spec)| sample(row, spec)).collect();
            tokens.iter_mut().zip(&sampled).for_each(|(to, s)| *to = s.token);
            *slot.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sampled);
        })
    }

    /// What was drawn; `None` if nothing was yet.
    pub(crate) fn take(&self) -> Option<Vec<Sampled>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The step after `step` if all of its sequences decode, have room in their last block and are drawn from without regard
/// to the tokens before; its own tokens are still unknown.
pub(crate) fn next(step: &Step, block_len: u32, context_len: u32) -> Option<Step> {
    let goes_on = |s: &SeqSlice| {
        let room = s.blocks.len() as u32 * block_len;
        s.n_rows == 1 && s.n_logits == 1 && s.context_len < room.min(context_len)
    };
    let forgets = |s: &SampleSpec| !s.params.has_penalties();
    if !step.batch.seqs.iter().all(goes_on) || !step.samples.iter().all(forgets) {
        return None;
    }
    let seqs = step.batch.seqs.iter().map(|s| SeqSlice { context_len: s.context_len + 1, ..s.clone() });
    let samples = step.samples.iter().map(|s| SampleSpec { position: s.position + 1, ..s.clone() });
    let tokens = vec![TokenId(0); step.batch.n_rows()];
    Some(Step { batch: Batch { tokens, seqs: seqs.collect() }, samples: samples.collect() })
}

#[cfg(test)]
mod tests {
    use base::{BlockId, SamplingParams, SeqId};

    use super::*;

    fn step(context_len: u32, n_rows: u32, params: SamplingParams) -> Step {
        let blocks = (0..context_len.div_ceil(16)).map(BlockId).collect();
        let seq = SeqSlice { seq: SeqId(1), n_rows, context_len, n_logits: 1, blocks };
        let spec = SampleSpec { params, position: context_len, prompt_tokens: vec![], answer_counts: vec![] };
        let tokens = vec![TokenId(5); n_rows as usize];
        Step { batch: Batch { tokens, seqs: vec![seq] }, samples: vec![spec] }
    }

    #[test]
    fn a_decode_step_with_room_has_a_next_one() {
        let next = next(&step(20, 1, SamplingParams::default()), 16, 100).unwrap();
        assert_eq!(next.batch.seqs[0].context_len, 21);
        assert_eq!(next.batch.seqs[0].blocks.len(), 2);
        assert_eq!(next.samples[0].position, 21);
    }

    #[test]
    fn what_cannot_be_foreseen_is_not_queued() {
        let plain = SamplingParams::default;
        assert!(next(&step(32, 1, plain()), 16, 100).is_none(), "a new block is the scheduler's to give");
        assert!(next(&step(20, 3, plain()), 16, 100).is_none(), "prefill");
        assert!(next(&step(20, 1, plain()), 16, 20).is_none(), "the longest sequence");
        let penalties = SamplingParams { presence_penalty: 0.5, ..plain() };
        assert!(next(&step(20, 1, penalties), 16, 100).is_none(), "the next draw counts this token");
    }
}
