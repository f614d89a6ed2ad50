//! What queries have found in some keys: values weighted relative to the largest score, which can be merged with what
//! they find in later keys.

use crate::activation::exp;
use crate::lanes::N_LANES;

/// Of n queries.
pub(super) struct Found<'a> {
    /// [n, value_dim + 16]: of each query the weighted values, then the sums of its weights in 16 lanes.
    sums: &'a mut [f32],
    /// [n]
    largest: &'a mut [f32],
    /// Rounded up to 16.
    value_dim: usize,
}

impl<'a> Found<'a> {
    /// Floats for n queries, whole vectors.
    pub(super) fn len(value_dim: usize, n: usize) -> usize {
        (n * (value_dim.next_multiple_of(N_LANES) + N_LANES + 1)).next_multiple_of(N_LANES)
    }

    /// Takes at least `len` floats of any contents.
    #[inline(always)]
    pub(super) fn new(memory: &'a mut [f32], value_dim: usize, n: usize) -> Found<'a> {
        let value_dim = value_dim.next_multiple_of(N_LANES);
        let (sums, rest) = memory.split_at_mut(n * (value_dim + N_LANES));
        Found { sums, largest: &mut rest[..n], value_dim }
    }

    /// Nothing found.
    #[inline(always)]
    pub(super) fn clear(&mut self) {
        self.sums.fill(0.0);
        // Finite, so that differences to it are numbers.
        self.largest.fill(f32::MIN);
    }

    /// Floats of a query's values.
    #[inline(always)]
    pub(super) fn value_dim(&self) -> usize {
        self.value_dim
    }

    /// A query's largest score.
    #[inline(always)]
    pub(super) fn largest(&mut self, i: usize) -> &mut f32 {
        &mut self.largest[i]
    }

    /// A query's weighted values.
    #[inline(always)]
    pub(super) fn values(&mut self, i: usize) -> &mut [f32] {
        &mut self.sums[i * (self.value_dim + N_LANES)..][..self.value_dim]
    }

    /// Sums of a query's weights.
    #[inline(always)]
    pub(super) fn totals(&mut self, i: usize) -> &mut [f32; N_LANES] {
        let (totals, _) = self.sums[i * (self.value_dim + N_LANES) + self.value_dim..].as_chunks_mut();
        &mut totals[0]
    }

    /// Adds what was found in later keys.
    #[inline(always)]
    pub(super) fn merge(&mut self, later: &Found<'_>) {
        let row_len = self.value_dim + N_LANES;
        let rows = self.sums.chunks_exact_mut(row_len).zip(later.sums.chunks_exact(row_len));
        for ((sums, later_sums), (largest, later)) in rows.zip(self.largest.iter_mut().zip(&*later.largest)) {
            let new = largest.max(*later);
            let (factor, later_factor) = (exp(*largest - new), exp(*later - new));
            for (sum, later) in sums.iter_mut().zip(later_sums) {
                *sum = later.mul_add(later_factor, *sum * factor);
            }
            *largest = new;
        }
    }

    /// The i-th query's output, as long as its values are before they are rounded up.
    #[inline(always)]
    pub(super) fn finish(&mut self, i: usize, out: &mut [f32]) {
        let mut totals = *self.totals(i);
        let mut width = N_LANES / 2;
        while width > 0 {
            for lane in 0..width {
                totals[lane] += totals[lane + width];
            }
            width /= 2;
        }
        let inverse = 1.0 / totals[0];
        for (out, value) in out.iter_mut().zip(self.values(i)) {
            *out = *value * inverse;
        }
    }
}
