//! What the operations of a step share: where rows are written in the cache, what each sequence reads back, and masks.

use std::{cell::RefCell, ops::Range, rc::Rc};

use base::{Batch, SeqSlice};
use mlx_sys::{Array, Index, Mlx};

use crate::BackendError;

/// [`crate::Backend::Inputs`] of MLX.
pub struct MlxInputs {
    /// Words of the rows, `[n_rows]`.
    pub(super) tokens: Tokens,
    /// Position of every row.
    pub(super) positions: Vec<u32>,
    /// Cache slots the rows are written to.
    pub(super) slots: Slots,
    /// Sequences that attend together, in the order of their rows.
    pub(super) attends: Vec<Attend>,
}

/// A step's tokens.
pub(super) enum Tokens {
    /// From the host.
    Known(Vec<u32>),
    /// Not chosen yet when the step is queued.
    Chosen(Index),
}

/// Places in the cache, one for each row.
pub(super) enum Slots {
    /// One after the other from here.
    Run(usize),
    /// Anywhere.
    Scattered(Index),
}

/// Rows that attend in one operation: some of one sequence, or one of each of several.
pub(super) struct Attend {
    /// Their rows of the batch.
    pub(super) rows: Range<usize>,
    seqs: Vec<SeqSlice>,
    block_len: usize,
    /// What is read for each window that some layer has.
    reads: RefCell<Vec<(Option<u32>, Rc<Read>)>>,
}

/// Cached tokens that rows see.
pub(super) struct Read {
    /// Where they are.
    pub(super) keys: Keys,
    /// Tokens of each sequence, filled up to the longest.
    pub(super) n_keys: usize,
    /// Row i of n sees the first `n_keys - n + 1 + i`.
    pub(super) is_causal: bool,
    /// What is seen otherwise, `[n_seqs, 1, n_rows_of_each, n_keys]`; everything when absent and not causal.
    pub(super) mask: Option<Array>,
}

/// Slots of cached tokens.
pub(super) enum Keys {
    /// One after the other from here.
    Run(usize),
    /// Anywhere, `[n_seqs, n_keys]`.
    Scattered(Index),
}

impl MlxInputs {
    /// A step whose parts fit together; without a length of blocks there is no cache.
    pub(super) fn new(
        mlx: Mlx,
        batch: &Batch,
        tokens: Tokens,
        block_len: Option<usize>,
    ) -> Result<MlxInputs, BackendError> {
        let mut slots = Vec::with_capacity(batch.n_rows());
        let mut attends = Vec::new();
        if let Some(block_len) = block_len {
            for seq in &batch.seqs {
                let positions = seq.context_len - seq.n_rows..seq.context_len;
                slots.extend(positions.map(|p| slot(seq, p as usize, block_len)));
            }
            attends = attending(batch, block_len);
        }
        let slots = Slots::new(mlx, &slots)?;
        Ok(MlxInputs { tokens, positions: batch.positions().collect(), slots, attends })
    }
}

/// Slot of position `p` of a sequence.
fn slot(seq: &SeqSlice, p: usize, block_len: usize) -> u32 {
    seq.blocks[p / block_len].0 * block_len as u32 + (p % block_len) as u32
}

/// The first of numbers that ascend by one.
fn run_start(slots: &[u32]) -> Option<usize> {
    let first = *slots.first()?;
    slots.iter().enumerate().all(|(i, &s)| s == first + i as u32).then_some(first as usize)
}

impl Slots {
    fn new(mlx: Mlx, slots: &[u32]) -> Result<Slots, BackendError> {
        Ok(match run_start(slots) {
            Some(first) => Slots::Run(first),
            None => Slots::Scattered(mlx.index(slots, &[slots.len()])?),
        })
    }
}

/// Neighbouring sequences of one row attend together, all others for themselves.
fn attending(batch: &Batch, block_len: usize) -> Vec<Attend> {
    let mut start = 0;
    let attend = |run: &[SeqSlice]| {
        let n_rows = run.iter().map(|s| s.n_rows as usize).sum::<usize>();
        start += n_rows;
        Attend { rows: start - n_rows..start, seqs: run.to_vec(), block_len, reads: RefCell::default() }
    };
    batch.seqs.chunk_by(|a, b| a.n_rows == 1 && b.n_rows == 1).map(attend).collect()
}

impl Attend {
    /// Sequences.
    pub(super) fn n_seqs(&self) -> usize {
        self.seqs.len()
    }

    /// What the rows see; made once for all layers with this window.
    pub(super) fn read(&self, mlx: Mlx, window: Option<u32>) -> Result<Rc<Read>, BackendError> {
        if let Some((_, read)) = self.reads.borrow().iter().find(|(w, _)| *w == window) {
            return Ok(read.clone());
        }
        let read = Rc::new(match self.seqs.as_slice() {
            [seq] => self.read_one(mlx, seq, window)?,
            seqs => self.read_several(mlx, seqs, window)?,
        });
        self.reads.borrow_mut().push((window, read.clone()));
        Ok(read)
    }

    fn read_one(&self, mlx: Mlx, seq: &SeqSlice, window: Option<u32>) -> Result<Read, BackendError> {
        let (n_rows, context) = (seq.n_rows as usize, seq.context_len as usize);
        let window = window.map_or(context, |w| w as usize);
        let first = (context - n_rows + 1).saturating_sub(window);
        let n_keys = context - first;
        let slots: Vec<u32> = (first..context).map(|p| slot(seq, p, self.block_len)).collect();
        let keys = match run_start(&slots) {
            Some(start) => Keys::Run(start),
            None => Keys::Scattered(mlx.index(&slots, &[1, n_keys])?),
        };
        let is_cut = n_rows > 1 && context > window;
        let sees = |i: usize| {
            let (row, key) = (context - n_rows + i / n_keys, first + i % n_keys);
            key <= row && row - key < window
        };
        let mask: Option<Vec<bool>> = is_cut.then(|| (0..n_rows * n_keys).map(sees).collect());
        let mask = mask.map(|mask| mlx.bools(&mask, &[1, 1, n_rows, n_keys])).transpose()?;
        Ok(Read { keys, n_keys, is_causal: n_rows > 1 && !is_cut, mask })
    }

    fn read_several(&self, mlx: Mlx, seqs: &[SeqSlice], window: Option<u32>) -> Result<Read, BackendError> {
        let n_seen = |s: &SeqSlice| window.map_or(s.context_len, |w| s.context_len.min(w)) as usize;
        let n_keys = seqs.iter().map(n_seen).max().unwrap_or(0);
        let (mut slots, mut sees) = (Vec::new(), Vec::new());
        for seq in seqs {
            let (n, context) = (n_seen(seq), seq.context_len as usize);
            slots.extend((context - n..context).map(|p| slot(seq, p, self.block_len)));
            slots.extend(std::iter::repeat_n(slot(seq, context - 1, self.block_len), n_keys - n));
            sees.extend((0..n_keys).map(|i| i < n));
        }
        let keys = Keys::Scattered(mlx.index(&slots, &[seqs.len(), n_keys])?);
        let is_even = sees.iter().all(|&s| s);
        let mask = (!is_even).then(|| mlx.bools(&sees, &[seqs.len(), 1, 1, n_keys])).transpose()?;
        Ok(Read { keys, n_keys, is_causal: false, mask })
    }
}
