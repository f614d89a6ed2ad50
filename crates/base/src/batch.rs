//! One step's work: tokens of several sequences side by side, with the cache blocks they use.

use crate::{BlockId, SampleSpec, SeqId, TokenId};

/// The tokens of one forward pass. Rows of all sequences lie one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Token ids, `[n_rows]`.
    pub tokens: Vec<TokenId>,
    /// The sequences, in the order of their rows; their `n_rows` add up to `tokens.len()`.
    pub seqs: Vec<SeqSlice>,
}

/// One sequence's part of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeqSlice {
    /// Whose rows these are.
    pub seq: SeqId,
    /// Rows of the batch that belong to it: 1 in decode, a chunk in prefill.
    pub n_rows: u32,
    /// Tokens in the KV cache when this step is done: row `i` has position `context_len - n_rows + i`.
    pub context_len: u32,
    /// Logits are computed for this many of its last rows: 0 (prefill goes on), 1 (a token is sampled), or more.
    pub n_logits: u32,
    /// Block table: block `i` holds positions `i * block_len ..`.
    pub blocks: Vec<BlockId>,
}

impl Batch {
    /// Rows of the batch.
    pub fn n_rows(&self) -> usize {
        self.tokens.len()
    }

    /// Position of every row, `[n_rows]`.
    pub fn positions(&self) -> impl Iterator<Item = u32> + '_ {
        self.seqs.iter().flat_map(|s| s.context_len - s.n_rows..s.context_len)
    }

    /// Indices of the rows for which logits are wanted, in order.
    pub fn logit_rows(&self) -> Vec<u32> {
        let mut end = 0;
        let mut rows = Vec::new();
        for s in &self.seqs {
            end += s.n_rows;
            rows.extend(end - s.n_logits..end);
        }
        rows
    }
}

/// A batch and how to sample from it: what rank 0 sends to the others.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// The forward pass.
    pub batch: Batch,
    /// One entry per logits row, in the order of `batch.logit_rows()`.
    pub samples: Vec<SampleSpec>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_positions_follow_the_sequences() {
        let seq = |n_rows, context_len, n_logits| SeqSlice {
            seq: SeqId(0),
            n_rows,
            context_len,
            n_logits,
            blocks: vec![],
        };
        let batch =
            Batch { tokens: vec![TokenId(0); 6], seqs: vec![seq(3, 3, 0), seq(1, 9, 1), seq(2, 4, 2)] };
        assert_eq!(batch.positions().collect::<Vec<_>>(), [0, 1, 2, 8, 2, 3]);
        assert_eq!(batch.logit_rows(), [3, 4, 5]);
    }
}
