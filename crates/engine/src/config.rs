//! The scheduler's limits. It does not know where the numbers come from.

/// Rows of one step at most.
pub const MAX_BATCH_TOKENS: u32 = 512;
/// Prefill rows of a step in which other sequences decode, at most: bounds the time between their tokens.
pub const PREFILL_CHUNK_TOKENS: u32 = 128;
/// Sequences that run at the same time.
pub const MAX_SEQS: u32 = 64;
/// Sequences in prefill at the same time: a short prompt passes a long one, yet few hold blocks without
/// producing tokens.
pub const MAX_PREFILLS: u32 = 4;
/// Requests that wait to be admitted.
pub const MAX_WAITING_REQUESTS: u32 = 1024;

/// Sizes and limits of a scheduler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    /// Tokens per KV block.
    pub block_len: u32,
    /// Blocks of the KV cache.
    pub n_blocks: u32,
    /// Tokens of prompt and answer together, at most.
    pub context_len: u32,
    /// Entries of the vocabulary.
    pub vocab: u32,
    /// See [`MAX_BATCH_TOKENS`]; at least `max_seqs`.
    pub max_batch_tokens: u32,
    /// See [`PREFILL_CHUNK_TOKENS`]; at least `max_prefills`.
    pub prefill_chunk_tokens: u32,
    /// See [`MAX_SEQS`].
    pub max_seqs: u32,
    /// See [`MAX_PREFILLS`].
    pub max_prefills: u32,
    /// See [`MAX_WAITING_REQUESTS`].
    pub max_waiting: u32,
}

/// Why a configuration makes no scheduler.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A size or limit is 0.
    #[error("{name} is 0; at least 1 is needed")]
    Zero {
        /// Which.
        name: &'static str,
    },
    /// A step could not hold a row of every sequence that has a right to one.
    #[error("{name} is {found}; at least {least} are needed for {least_name}")]
    TooFewRows {
        /// The limit of rows.
        name: &'static str,
        /// Its value.
        found: u32,
        /// The limit of sequences.
        least_name: &'static str,
        /// Its value.
        least: u32,
    },
}

impl SchedulerConfig {
    /// The usual limits for a cache and a model of these sizes.
    pub fn new(block_len: u32, n_blocks: u32, context_len: u32, vocab: u32) -> SchedulerConfig {
        SchedulerConfig {
            block_len,
            n_blocks,
            context_len,
            vocab,
            max_batch_tokens: MAX_BATCH_TOKENS,
            prefill_chunk_tokens: PREFILL_CHUNK_TOKENS,
            max_seqs: MAX_SEQS,
            max_prefills: MAX_PREFILLS,
            max_waiting: MAX_WAITING_REQUESTS,
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let not_zero = [
            ("block_len", self.block_len),
            ("n_blocks", self.n_blocks),
            ("context_len", self.context_len),
            ("vocab", self.vocab),
            ("max_seqs", self.max_seqs),
            ("max_prefills", self.max_prefills),
            ("max_waiting", self.max_waiting),
        ];
        if let Some((name, _)) = not_zero.into_iter().find(|(_, n)| *n == 0) {
            return Err(ConfigError::Zero { name });
        }
        at_least("max_batch_tokens", self.max_batch_tokens, "max_seqs", self.max_seqs)?;
        at_least("prefill_chunk_tokens", self.prefill_chunk_tokens, "max_prefills", self.max_prefills)
    }
}

fn at_least(name: &'static str, found: u32, least_name: &'static str, least: u32) -> Result<(), ConfigError> {
    if found < least {
        return Err(ConfigError::TooFewRows { name, found, least_name, least });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_contradict_each_other_are_refused() {
        let good = SchedulerConfig::new(16, 100, 2048, 1000);
        assert_eq!(good.check(), Ok(()));
        let zero = SchedulerConfig { block_len: 0, ..good.clone() };
        assert_eq!(zero.check(), Err(ConfigError::Zero { name: "block_len" }));
        let narrow = SchedulerConfig { max_batch_tokens: 63, ..good.clone() };
        let message = narrow.check().unwrap_err().to_string();
        assert_eq!(message, "max_batch_tokens is 63; at least 64 are needed for max_seqs");
        assert!(SchedulerConfig { prefill_chunk_tokens: 3, ..good }.check().is_err());
    }
}
