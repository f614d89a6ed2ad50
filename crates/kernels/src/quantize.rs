//! Activations as signed bytes: groups of 32 with one scale each, quantised once per matmul call for all weights
//! that share them. Knows no weights.

use crate::isa::per_isa;

/// Values of a row that share a scale.
pub(crate) const GROUP_LEN: usize = 32;
/// A group whose largest value is below this is taken as zero: the inverse of its scale would overflow.
const SMALLEST_ABSMAX: f32 = 1e-30;

/// Adding this rounds a small number to an integer, ties to even, which then lies in the low bits.
const ROUND: f32 = 1.5 * (1 << 23) as f32;

/// 32 values of one row: x ≈ scale · codes. One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Group {
    pub(crate) codes: [i8; GROUP_LEN],
    pub(crate) scale: f32,
    /// -Σ codes over the group, its first and its second half: the constant offset of weight codes enters a dot
    /// product through it.
    pub(crate) neg_sums: [i32; 3],
    /// scale · Σ codes over the same: the minimum of weight groups enters through it.
    pub(crate) weighted_sums: [f32; 3],
}

const ZERO: Group = Group { codes: [0; GROUP_LEN], scale: 0.0, neg_sums: [0; 3], weighted_sums: [0.0; 3] };

/// Rows of groups, `[n_rows, n_in / 32]`.
#[derive(Default)]
pub(crate) struct QuantizedRows {
    groups: Vec<Group>,
}

impl QuantizedRows {
    /// Makes room for `n_groups` groups (of whatever value) and gives them.
    pub(crate) fn resize(&mut self, n_groups: usize) -> &mut [Group] {
        if self.groups.len() < n_groups {
            self.groups.resize(n_groups, ZERO);
        }
        &mut self.groups[..n_groups]
    }
}

per_isa! {
    /// groups[i] = x[32 i .. 32 i + 32], rounded to nearest, ties to even. Not a number stays not a number.
    pub(crate) fn quantize(x: &[f32], groups: &mut [Group]) {
        for (x, group) in x.as_chunks::<GROUP_LEN>().0.iter().zip(groups) {
            quantize_group(x, group);
        }
    }
}

#[inline(always)]
fn quantize_group(x: &[f32; GROUP_LEN], group: &mut Group) {
    let mut largest = [0u32; 16];
    for half in x.as_chunks::<16>().0 {
        for (m, v) in largest.iter_mut().zip(half) {
            // Bits of positive floats order like the floats, with infinity and not-a-number on top.
            *m = (*m).max(v.abs().to_bits());
        }
    }
    let absmax = f32::from_bits(largest.into_iter().fold(0, u32::max));
    let is_zero = absmax < SMALLEST_ABSMAX;
    let inverse = if is_zero { 0.0 } else { 127.0 / absmax };
    group.scale = if is_zero { 0.0 } else { absmax / 127.0 };
    for (code, v) in group.codes.iter_mut().zip(x) {
        *code = (v * inverse + ROUND).to_bits() as i8;
    }
    let mut sums = [0i32; 2];
    for (sum, half) in sums.iter_mut().zip(group.codes.as_chunks::<16>().0) {
        *sum = half.iter().map(|&c| i32::from(c)).sum();
    }
    let sums = [sums[0] + sums[1], sums[0], sums[1]];
    group.neg_sums = sums.map(|s| -s);
    group.weighted_sums = sums.map(|s| group.scale * s as f32);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn codes_are_within_half_a_step_and_sums_are_theirs() {
        let x: Vec<f32> = (0..96).map(|i| ((i * 37 % 61) as f32 - 30.0) * 0.37).collect();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let mut groups = [ZERO; 3];
            quantize(isa, &x, &mut groups);
            for (x, g) in x.chunks(32).zip(&groups) {
                for (v, c) in x.iter().zip(g.codes) {
                    assert!((v - g.scale * f32::from(c)).abs() <= 0.5001 * g.scale, "{isa}: {v}");
                }
                let sum = |r: std::ops::Range<usize>| g.codes[r].iter().map(|&c| i32::from(c)).sum::<i32>();
                assert_eq!(g.neg_sums, [-sum(0..32), -sum(0..16), -sum(16..32)]);
            }
        }
    }

    #[test]
    fn extremes_neither_overflow_nor_vanish() {
        let mut groups = [ZERO; 3];
        let mut x = [0.0; 96];
        x[0] = f32::MAX;
        x[32] = 1e-38;
        x[64] = f32::NAN;
        quantize(Isa::Scalar, &x, &mut groups);
        assert_eq!(groups[0].codes[0], 127);
        assert_eq!((groups[1].scale, groups[1].codes[0]), (0.0, 0));
        assert!(groups[2].scale.is_nan());
    }
}
