//! Sequences, run step by step on one rank of a backend, with the logits of every token.

#![allow(clippy::unwrap_used, dead_code, unreachable_pub)] // a panic is how a test fails; each test uses its part

use std::path::Path;

use backend::Backend;
use base::{Batch, BlockId, Bytes, NodeId, SeqId, SeqSlice, TokenId};
use models::Description;
use plan::{BackendKind, Fence, Goal, Node, Plan, Topology};
use weights::Checkpoint;

/// What runs together, and in which pieces.
pub struct Case {
    pub name: &'static str,
    /// For each sequence, its rows in each step; with 0 it sits the step out.
    pub rows: &'static [&'static [u32]],
}

/// The last one reaches beyond the context that scaled rotations start from.
pub const CASES: [Case; 4] = [
    Case { name: "a whole prompt", rows: &[&[45]] },
    Case { name: "chunks, then decode", rows: &[&[20, 7, 16, 1, 1, 1, 1, 1, 1, 1]] },
    Case {
        name: "a ragged batch",
        rows: &[&[5, 1, 1, 1, 1, 1], &[33, 1, 1, 0, 1, 1], &[17, 16, 1, 1, 0, 0], &[0, 0, 1, 9, 2, 1]],
    },
    Case { name: "a long context", rows: &[&[50, 31, 1, 1, 1]] },
];

/// Tokens, and how many of them run in each step.
pub struct Sequence {
    pub tokens: Vec<TokenId>,
    pub rows: &'static [u32],
}

/// The sequences of all cases, one after the other.
pub fn sequences() -> Vec<Sequence> {
    let tokens = |seed: u32, n: u32| (0..n).map(|i| TokenId((seed * 37 + i * i * 11 + 5) % 500)).collect();
    let all = CASES.iter().flat_map(|case| case.rows).zip(0..);
    all.map(|(rows, i)| Sequence { tokens: tokens(i, rows.iter().sum()), rows }).collect()
}

/// Where a case's sequences are among all.
pub fn sequences_of(case: usize) -> std::ops::Range<usize> {
    let first = CASES[..case].iter().map(|case| case.rows.len()).sum::<usize>();
    first..first + CASES[case].rows.len()
}

/// A model on one rank of one backend.
pub struct Ours<B: Backend> {
    model: Box<dyn models::Model<B>>,
    backend: B,
    plan: Plan,
    vocab: usize,
}

type Failure = Box<dyn std::error::Error>;

impl<B: Backend + 'static> Ours<B> {
    pub fn load(path: &Path, kind: BackendKind, mut backend: B) -> Result<Ours<B>, Failure> {
        let checkpoint = Checkpoint::open(path)?;
        let description = Description::read(&checkpoint)?;
        let plan = Plan::make(&here(kind), &description.spec, &one_rank())?;
        let model = models::load(&checkpoint, &description, &plan, &plan.ranks()[0], &mut backend)?;
        Ok(Ours { model, backend, plan, vocab: description.spec.vocab as usize })
    }

    /// Logits of every token of every sequence, `[n_tokens, vocab]` each.
    pub fn logits(&mut self, sequences: &[Sequence]) -> Result<Vec<Vec<f32>>, Failure> {
        let mut logits = vec![Vec::new(); sequences.len()];
        let n_steps = sequences.iter().map(|s| s.rows.len()).max().unwrap_or(0);
        let mut all = Vec::new(); // [n_rows, vocab]
        for step in 0..n_steps {
            let batch = self.batch(sequences, step);
            let inputs = self.backend.inputs(&batch)?;
            let out = self.model.forward(&mut self.backend, &batch, inputs, None)?;
            self.backend.eval(&out, &mut all)?;
            let mut rest = &all[..];
            for seq in &batch.seqs {
                let (rows, after) = rest.split_at(seq.n_rows as usize * self.vocab);
                logits[seq.seq.0 as usize].extend_from_slice(rows);
                rest = after;
            }
        }
        Ok(logits)
    }

    /// What the sequences run in a step, with all logits wanted. They take turns with their KV blocks.
    fn batch(&self, sequences: &[Sequence], step: usize) -> Batch {
        let mut batch = Batch::default();
        for (s, i) in sequences.iter().zip(0..) {
            let n_rows = s.rows.get(step).copied().unwrap_or(0);
            let start: u32 = s.rows.iter().take(step).sum();
            if n_rows == 0 {
                continue;
            }
            let context_len = start + n_rows;
            let block = |j| BlockId(j * sequences.len() as u32 + i);
            let blocks = (0..context_len.div_ceil(self.plan.block_len())).map(block).collect();
            batch.tokens.extend(&s.tokens[start as usize..context_len as usize]);
            let seq = SeqId(u64::from(i));
            batch.seqs.push(SeqSlice { seq, n_rows, context_len, n_logits: n_rows, blocks });
        }
        batch
    }
}

fn here(kind: BackendKind) -> Topology {
    let (id, name, memory) = (NodeId(0), "here".to_owned(), Bytes(1 << 30));
    Topology { nodes: vec![Node { id, name, memory, n_cores: 1, backends: vec![kind], is_mac: false }] }
}

fn one_rank() -> Goal {
    Goal {
        tp: 1,
        pp: 1,
        split: None,
        stage_split: None,
        context_len: 128,
        n_kv_tokens: Some(512),
        threads_per_rank: 1,
        ranks_per_node: None,
        backends: None,
        collectives: None,
        has_jaccl_devices: false,
        fence: Fence::Safe,
    }
}
