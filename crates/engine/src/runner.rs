//! A rank's side of a step: run this rank's share of the model, hand the hidden state to the next stage or sample from
//! the logits. Rank 0 drives ([`Executor`]), all others follow; every rank makes the same calls in the same order.

use backend::{Backend, BackendError};
use base::{RankId, Sampled, Step};
use collective::{CollectiveError, Group, SharedWorld, World};
use models::{Model, ModelError};
use plan::{Plan, RankPlan};
use wire::WireError;

use crate::{
    ahead::{self, Ahead, Slot},
    engine::{ExecuteError, Executor},
    sampler::sample,
};

/// Why a rank could not run a step.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another rank.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    /// A message that does not decode.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The model.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Another rank's values are not what the plan says: a defect.
    #[error("{what} from {from}: expected {expected} bytes, found {found}")]
    Length {
        /// What was received.
        what: &'static str,
        /// The sender.
        from: RankId,
        /// Bytes by the plan.
        expected: usize,
        /// Bytes received.
        found: usize,
    },
}

/// One rank's model, device and links.
pub struct Runner<B: Backend> {
    plan: Plan,
    me: RankPlan,
    model: Box<dyn Model<B>>,
    backend: B,
    world: SharedWorld,
    /// The tensor group of this rank's stage, for the logits.
    group: Box<dyn Group>,
    /// The step that was queued behind the last one.
    ahead: Option<Ahead<B::Drawn>>,
    values: Vec<f32>,
    gathered: Vec<f32>,
    message: Vec<u8>,
}

impl<B: Backend> Runner<B> {
    /// The rank `me` of `plan` with its share of the model.
    pub fn new(
        plan: Plan,
        me: RankPlan,
        model: Box<dyn Model<B>>,
        backend: B,
        world: SharedWorld,
        group: Box<dyn Group>,
    ) -> Runner<B> {
        let (values, gathered, message) = (Vec::new(), Vec::new(), Vec::new());
        Runner { plan, me, model, backend, world, group, ahead: None, values, gathered, message }
    }

    /// Every rank but 0: runs rank 0's steps until a link fails, which is also how the replica ends. `is_busy` hears
    /// `true` when a step begins and `false` when it has ended.
    pub fn follow(&mut self, mut is_busy: impl FnMut(bool)) -> Result<(), RunError> {
        loop {
            let mut message = std::mem::take(&mut self.message);
            // no deadline: the next step comes with the next request
            self.world().recv_within(RankId(0), &mut message, None)?;
            is_busy(true);
            let step = wire::decode_step(&message)?;
            self.message = message;
            if let Some(sampled) = self.run(&step)? {
                let answer = wire::encode_sampled(&sampled)?;
                self.world().send(RankId(0), &answer)?;
            }
            is_busy(false);
        }
    }

    /// What runs this rank's share.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Rank 0: has all ranks run a step and returns its tokens.
    fn drive(&mut self, step: &Step) -> Result<Vec<Sampled>, RunError> {
        if self.plan.world_size() > 1 {
            let message = wire::encode_step(step)?;
            self.world().send_all(&message)?;
        }
        let sampled = self.run(step)?;
        match sampled {
            Some(sampled) => Ok(sampled),
            None if step.samples.is_empty() => Ok(Vec::new()),
            None => {
                let from = self.plan.sampling_rank();
                let mut message = std::mem::take(&mut self.message);
                self.world().recv(from, &mut message)?;
                self.message = message;
                Ok(wire::decode_sampled(&self.message)?)
            }
        }
    }

    /// This rank's share of a step; the tokens if this is the rank that samples and any were asked for.
    fn run(&mut self, step: &Step) -> Result<Option<Vec<Sampled>>, RunError> {
        let ahead = self.ahead.take().filter(|ahead| ahead.step == *step);
        if let Some(Ahead { drawn, slot, .. }) = ahead {
            return self.finish(step, &drawn, &slot).map(Some);
        }
        let hidden = if self.me.embeds { None } else { Some(self.receive_hidden(step)?) };
        let inputs = self.backend.inputs(&step.batch)?;
        let out = self.model.forward(&mut self.backend, &step.batch, inputs, hidden)?;
        if self.me.heads && self.plan.tp_size() == 1 && !step.samples.is_empty() {
            let slot = Slot::default();
            let drawn = self.backend.draw(&out, slot.draw(&step.samples))?;
            return self.finish(step, &drawn, &slot).map(Some);
        }
        self.backend.eval(&out, &mut self.values)?;
        if !self.me.heads {
            self.send_hidden()?;
            return Ok(None);
        }
        if step.samples.is_empty() {
            return Ok(None);
        }
        self.sample(step)
    }

    /// The tokens of a step that was queued; before they are waited for, the next step is queued if it can be foreseen.
    fn finish(&mut self, step: &Step, drawn: &B::Drawn, slot: &Slot) -> Result<Vec<Sampled>, RunError> {
        let looks_ahead = B::QUEUES && self.plan.world_size() == 1;
        let mut next = match looks_ahead.then(|| self.queue_next(step, drawn)) {
            // it will be asked for again when it is due, with more room perhaps
            None | Some(Err(RunError::Backend(BackendError::OutOfMemory { .. }))) => None,
            Some(queued) => queued?,
        };
        self.backend.finish(drawn)?;
        let sampled = slot.take().unwrap_or_default();
        if let Some(next) = &mut next {
            next.step.batch.tokens = sampled.iter().map(|s| s.token).collect();
        }
        self.ahead = next;
        Ok(sampled)
    }

    fn queue_next(&mut self, step: &Step, drawn: &B::Drawn) -> Result<Option<Ahead<B::Drawn>>, RunError> {
        let Some(next) = ahead::next(step, self.plan.block_len(), self.plan.context_len()) else {
            return Ok(None);
        };
        let inputs = self.backend.inputs_after(&next.batch, drawn)?;
        let logits = self.model.forward(&mut self.backend, &next.batch, inputs, None)?;
        let slot = Slot::default();
        let drawn = self.backend.draw(&logits, slot.draw(&next.samples))?;
        Ok(Some(Ahead { step: next, drawn, slot }))
    }

    /// Hidden state `[n_rows, hidden]` from the same place of the stage before.
    fn receive_hidden(&mut self, step: &Step) -> Result<B::Tensor, RunError> {
        let from = RankId(self.me.rank.0 - self.plan.tp_size());
        let hidden = self.plan.model().hidden as usize;
        let mut message = std::mem::take(&mut self.message);
        self.world().recv(from, &mut message)?;
        self.message = message;
        let (expected, found) = (step.batch.n_rows() * hidden * size_of::<f32>(), self.message.len());
        if expected != found {
            return Err(RunError::Length { what: "hidden state", from, expected, found });
        }
        let words = self.message.chunks_exact(size_of::<f32>());
        self.values.clear();
        self.values.extend(words.map(|w| f32::from_le_bytes([w[0], w[1], w[2], w[3]])));
        Ok(self.backend.tensor(&self.values, hidden)?)
    }

    fn send_hidden(&mut self) -> Result<(), RunError> {
        let to = RankId(self.me.rank.0 + self.plan.tp_size());
        self.message.clear();
        self.message.extend(self.values.iter().flat_map(|v| v.to_le_bytes()));
        let message = std::mem::take(&mut self.message);
        self.world().send(to, &message)?;
        self.message = message;
        Ok(())
    }

    /// Gathers the logits `[n_logits, vocab]` from the shards `[n_logits, vocab_shard]` and samples each row.
    fn sample(&mut self, step: &Step) -> Result<Option<Vec<Sampled>>, RunError> {
        let n_logits = step.samples.len();
        let vocab = self.plan.model().vocab as usize;
        let stage = self.plan.stage_ranks(self.me.stage);
        let widths = stage.iter().filter_map(|&r| Some(self.plan.rank(r)?.shard.vocab.len()));
        let widths: Vec<usize> = widths.collect();
        let root = self.me.rank == self.plan.sampling_rank();
        if widths.len() > 1 {
            let lens: Vec<usize> = widths.iter().map(|w| w * n_logits).collect();
            self.gathered.resize(if root { vocab * n_logits } else { 0 }, 0.0);
            self.group.gather(0, (&self.values[..]).into(), &lens, (&mut self.gathered[..]).into())?;
            if root {
                join_shards(&self.gathered, &widths, n_logits, &mut self.values);
            }
        }
        let rows = self.values.chunks_exact(vocab).zip(&step.samples);
        Ok(root.then(|| rows.map(|(row, spec)| sample(row, spec)).collect()))
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        // every holder leaves the world whole: its own failures are values
        self.world.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<B: Backend> Executor for Runner<B> {
    fn execute(&mut self, step: &Step) -> Result<Vec<Sampled>, ExecuteError> {
        self.drive(step).map_err(|error| match error {
            // nobody else is in the middle of this step
            RunError::Model(_) | RunError::Backend(_) if self.plan.world_size() == 1 => {
                ExecuteError::Step(error.into())
            }
            error => ExecuteError::Replica(error.into()),
        })
    }
}

/// Shards `[n_rows, width]`, one after the other, become rows `[n_rows, Σ width]`.
fn join_shards(shards: &[f32], widths: &[usize], n_rows: usize, rows: &mut Vec<f32>) {
    rows.clear();
    for row in 0..n_rows {
        let mut start = 0;
        for width in widths {
            rows.extend_from_slice(&shards[start + row * width..][..*width]);
            start += width * n_rows;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_join_row_by_row() {
        let mut rows = Vec::new();
        join_shards(&[1.0, 2.0, 4.0, 5.0, 3.0, 6.0], &[2, 1], 2, &mut rows);
        assert_eq!(rows, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    }
}
