//! Attention over the paged cache. A layer's cache is one flat array of rows, a row for each slot: `[n_slots * row_len]`, so that
//! a token's keys and values are one update, and a sequence whose blocks follow each other is read where it lies.

use mlx_sys::{Array, Dtype, Mlx};

use super::inputs::{Attend, Keys, MlxInputs, Slots};
use crate::BackendError;

/// Where a layer keeps what attention reads.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    /// Values of a slot.
    pub(super) row_len: usize,
    /// Heads that keys and values have.
    pub(super) n_kv_heads: usize,
    /// Width of a key.
    pub(super) key_dim: usize,
    /// Width of a value.
    pub(super) value_dim: usize,
    /// Where in a slot the values begin.
    pub(super) value_start: usize,
}

/// Queries as they lie in a flat array: head `h` of row `r` begins at `r * row_len + h * key_dim`.
pub(super) struct Queries<'a> {
    pub(super) flat: &'a Array,
    pub(super) row_len: usize,
    pub(super) n_heads: usize,
}

/// A layer's cache.
pub(super) struct LayerCache {
    flat: Array, // [n_slots * row_len]
}

impl LayerCache {
    pub(super) fn new(
        mlx: Mlx,
        n_slots: usize,
        row_len: usize,
        dtype: Dtype,
    ) -> Result<LayerCache, BackendError> {
        let flat = mlx.zeros(&[n_slots * row_len], dtype)?;
        mlx.eval(&[&flat])?;
        Ok(LayerCache { flat })
    }

    /// The cache as the graph leaves it.
    pub(super) fn array(&self) -> &Array {
        &self.flat
    }

    /// Forgets writes that were noted and not handed to the device, after a step that failed.
    pub(super) fn forget(&mut self, mlx: Mlx) -> Result<(), BackendError> {
        self.flat = mlx.settled(&self.flat)?;
        Ok(())
    }

    /// Writes `rows [n_rows, row_len]`.
    pub(super) fn write(
        &mut self,
        mlx: Mlx,
        rows: &Array,
        row_len: usize,
        slots: &Slots,
    ) -> Result<(), BackendError> {
        let n_rows = rows.len() / row_len;
        self.flat = match slots {
            Slots::Run(first) => {
                let update = mlx.reshape(rows, &[n_rows * row_len])?;
                mlx.replaced(&self.flat, &update, first * row_len)?
            }
            Slots::Scattered(slots) => {
                let by_slot = mlx.reshape(&self.flat, &[self.flat.len() / row_len, row_len])?;
                let updates = mlx.reshape(rows, &[n_rows, 1, row_len])?;
                let written = mlx.scattered(&by_slot, slots, &updates)?;
                mlx.reshape(&written, &[self.flat.len()])?
            }
        };
        Ok(())
    }

    /// `[n_rows, n_heads * value_dim]` for the queries of all rows.
    pub(super) fn attend(
        &self,
        mlx: Mlx,
        q: &Queries<'_>,
        layout: &Layout,
        (scale, window): (f32, Option<u32>),
        inputs: &MlxInputs,
    ) -> Result<Array, BackendError> {
        let each = |a| self.attend_some(mlx, q, layout, (scale, window), a);
        let parts = inputs.attends.iter().map(each).collect::<Result<Vec<_>, BackendError>>()?;
        match parts.as_slice() {
            [one] => Ok(one.clone()),
            parts => Ok(mlx.concatenate(&parts.iter().collect::<Vec<_>>(), 0)?),
        }
    }

    fn attend_some(
        &self,
        mlx: Mlx,
        q: &Queries<'_>,
        layout: &Layout,
        (scale, window): (f32, Option<u32>),
        attend: &Attend,
    ) -> Result<Array, BackendError> {
        let read = attend.read(mlx, window)?;
        let (n_rows, n_seqs) = (attend.rows.len(), attend.n_seqs());
        let n_each = n_rows / n_seqs;
        let shape = [n_seqs, q.n_heads, n_each, layout.key_dim];
        let strides = [n_each * q.row_len, layout.key_dim, q.row_len, 1];
        let queries = mlx.strided(q.flat, &shape, &strides, attend.rows.start * q.row_len)?;
        let (flat, start) = match &read.keys {
            Keys::Run(first) => (self.flat.clone(), first * layout.row_len),
            Keys::Scattered(slots) => {
                let by_slot = mlx.reshape(&self.flat, &[self.flat.len() / layout.row_len, layout.row_len])?;
                let taken = mlx.take(&by_slot, slots, 0)?; // [n_seqs, n_keys, row_len]
                (mlx.reshape(&taken, &[taken.len()])?, 0)
            }
        };
        let heads = |dim: usize, at: usize| {
            let shape = [n_seqs, layout.n_kv_heads, read.n_keys, dim];
            let strides = [read.n_keys * layout.row_len, dim, layout.row_len, 1];
            mlx.strided(&flat, &shape, &strides, start + at)
        };
        let (keys, values) = (heads(layout.key_dim, 0)?, heads(layout.value_dim, layout.value_start)?);
        let y = mlx.attention([&queries, &keys, &values], scale, read.is_causal, read.mask.as_ref())?;
        // [n_seqs, n_heads, n_each, value_dim]
        let y = if n_each == 1 { y } else { mlx.transpose(&y, &[0, 2, 1, 3])? };
        Ok(mlx.reshape(&y, &[n_rows, q.n_heads * layout.value_dim])?)
    }
}
