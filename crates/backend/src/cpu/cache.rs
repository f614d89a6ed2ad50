//! The cache of every layer of the stage, and where in it a step's rows lie. It knows slots, not who owns them.

use base::{Batch, SeqSlice};
use kernels::{KvCache, LatentCache};

use crate::{BackendError, CacheRow, CacheSpec, checks};

/// The step's batch and the cache slot of each of its rows.
pub struct CpuInputs {
    pub(super) batch: Batch,
    pub(super) slots: Vec<u32>,
}

/// One entry per layer, in the form that the rows have.
#[derive(Default)]
pub(super) struct Cache {
    spec: Option<CacheSpec>,
    heads: Vec<KvCache>,
    latents: Vec<LatentCache>,
}

impl Cache {
    pub(super) fn new(spec: CacheSpec) -> Cache {
        let CacheSpec { n_blocks, block_len, .. } = spec;
        let mut cache = Cache { spec: Some(spec), ..Cache::default() };
        for _ in 0..spec.n_layers {
            match spec.row {
                CacheRow::Heads { n_kv_heads, head_dim } => {
                    cache.heads.push(KvCache::new(n_blocks, block_len, n_kv_heads, head_dim));
                }
                CacheRow::Latent { latent_dim, rope_dim } => {
                    cache.latents.push(LatentCache::new(n_blocks, block_len, latent_dim, rope_dim));
                }
            }
        }
        cache
    }

    /// Keys and values of a layer, whose rows are these.
    pub(super) fn heads(&mut self, layer: usize, row: CacheRow) -> Result<&mut KvCache, BackendError> {
        checks::cache(self.spec.as_ref(), layer, row)?;
        Ok(&mut self.heads[layer])
    }

    /// Latents of a layer, whose rows are these.
    pub(super) fn latents(&mut self, layer: usize, row: CacheRow) -> Result<&mut LatentCache, BackendError> {
        checks::cache(self.spec.as_ref(), layer, row)?;
        Ok(&mut self.latents[layer])
    }

    /// Takes a step over, with the slot (block · block_len + offset) of every row once there is a cache.
    pub(super) fn inputs(&self, batch: &Batch) -> Result<CpuInputs, BackendError> {
        checks::batch(batch, self.spec.as_ref())?;
        let mut slots = Vec::new();
        if let Some(spec) = self.spec {
            batch.seqs.iter().for_each(|seq| slots.extend(seq_slots(seq, spec.block_len as u32)));
        }
        Ok(CpuInputs { batch: batch.clone(), slots })
    }
}

fn seq_slots(seq: &SeqSlice, block_len: u32) -> impl Iterator<Item = u32> + '_ {
    let positions = seq.context_len - seq.n_rows..seq.context_len;
    positions.map(move |p| seq.blocks[(p / block_len) as usize].0 * block_len + p % block_len)
}
