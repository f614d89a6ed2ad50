//! Steps over several sequences whose blocks lie scattered in the cache, the way a scheduler cuts them: whole prompts,
//! chunks, single tokens, all in one batch.

use std::ops::Range;

use base::{Batch, BlockId, SeqId, SeqSlice, TokenId};

/// Positions in a block of the cache.
pub(super) const BLOCK_LEN: usize = 16;
/// Blocks of the cache.
pub(super) const N_BLOCKS: usize = 12;
/// Tokens of each sequence.
pub(super) const LENS: [usize; 3] = [37, 44, 7];

/// Blocks of each sequence.
const TABLES: [[u32; 3]; 3] = [[7, 0, 10], [3, 11, 1], [9, 2, 5]];

/// Sequences and their rows, in the order of a batch.
pub(super) type Step = Vec<(usize, Range<usize>)>;

/// Prompts in chunks beside single tokens.
pub(super) fn ragged() -> Vec<Step> {
    vec![
        vec![(0, 0..17)],
        vec![(1, 0..20), (0, 17..30)],
        vec![(2, 0..5), (0, 30..31), (1, 20..21)],
        vec![(0, 31..32), (1, 21..22), (2, 5..6)],
        vec![(2, 6..7), (1, 22..44), (0, 32..33)],
        vec![(0, 33..37)],
    ]
}

/// Every sequence alone, its prompt in one piece.
pub(super) fn alone() -> Vec<Step> {
    LENS.iter().enumerate().map(|(seq, &len)| vec![(seq, 0..len)]).collect()
}

/// A sequence before all others, whose blocks these then take over: nothing that it left behind may matter.
pub(super) fn before() -> Batch {
    let seq = SeqSlice {
        seq: SeqId(LENS.len() as u64),
        n_rows: (N_BLOCKS * BLOCK_LEN) as u32,
        context_len: (N_BLOCKS * BLOCK_LEN) as u32,
        n_logits: 0,
        blocks: (0..N_BLOCKS as u32).map(BlockId).collect(),
    };
    Batch { tokens: vec![TokenId(0); N_BLOCKS * BLOCK_LEN], seqs: vec![seq] }
}

/// A step's batch.
pub(super) fn batch(step: &[(usize, Range<usize>)]) -> Batch {
    let slice = |(seq, rows): &(usize, Range<usize>)| SeqSlice {
        seq: SeqId(*seq as u64),
        n_rows: rows.len() as u32,
        context_len: rows.end as u32,
        n_logits: 0,
        blocks: TABLES[*seq][..rows.end.div_ceil(BLOCK_LEN)].iter().map(|&b| BlockId(b)).collect(),
    };
    let n_rows = step.iter().map(|(_, rows)| rows.len()).sum();
    Batch { tokens: vec![TokenId(0); n_rows], seqs: step.iter().map(slice).collect() }
}

/// The rows of a step out of every sequence's own `[len, width]`.
pub(super) fn gather(step: &[(usize, Range<usize>)], of_seqs: &[Vec<f32>], width: usize) -> Vec<f32> {
    let rows = step.iter().map(|(seq, rows)| &of_seqs[*seq][rows.start * width..rows.end * width]);
    rows.collect::<Vec<_>>().concat()
}

/// Puts a step's results in the places of their rows in every sequence's own `[len, width]`.
pub(super) fn scatter(step: &[(usize, Range<usize>)], mut values: &[f32], to: &mut [Vec<f32>], width: usize) {
    for (seq, rows) in step {
        let (mine, rest) = values.split_at(rows.len() * width);
        to[*seq][rows.start * width..rows.end * width].copy_from_slice(mine);
        values = rest;
    }
}

/// Zeros `[len, width]` for every sequence.
pub(super) fn zeros(width: usize) -> Vec<Vec<f32>> {
    LENS.iter().map(|len| vec![0.0; len * width]).collect()
}
