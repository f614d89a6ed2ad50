//! Rotary position embedding (Su et al. 2021): pairs of a head's values are turned by angles that grow with the
//! position. Knows angles, not how a model scales its frequencies.

use crate::isa::per_isa;

/// Which values of a head form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// 2 i and 2 i + 1.
    Interleaved,
    /// i and i + rot_dim / 2.
    Half,
}

/// cos, sin [n_positions, n_freq] = cos, sin(position · inv_freq [n_freq]) · attention_factor
pub fn rope_table(
    positions: impl Iterator<Item = u32>,
    inv_freq: &[f32],
    attention_factor: f32,
    cos: &mut [f32],
    sin: &mut [f32],
) {
    let n_freq = inv_freq.len().max(1);
    let rows = cos.chunks_exact_mut(n_freq).zip(sin.chunks_exact_mut(n_freq));
    for (position, (cos, sin)) in positions.zip(rows) {
        for ((cos, sin), freq) in cos.iter_mut().zip(sin).zip(inv_freq) {
            // In f64: at position 10^5 an f32 angle is off by a hundredth.
            let (s, c) = (f64::from(position) * f64::from(*freq)).sin_cos();
            (*cos, *sin) = (c as f32 * attention_factor, s as f32 * attention_factor);
        }
    }
}

per_isa! {
    /// Turns x [n_rows, n_heads, head_dim] in place by cos, sin [n_rows, rot_dim / 2]; the values of a head behind
    /// rot_dim stay as they are.
    pub fn rope(x: &mut [f32], n_rows: usize, head_dim: usize, cos: &[f32], sin: &[f32], style: RopeStyle) {
        if n_rows == 0 || cos.is_empty() {
            return;
        }
        let n_freq = cos.len() / n_rows;
        assert!(cos.len() == sin.len() && cos.len() == n_rows * n_freq, "angles of {n_rows} rows");
        assert!(2 * n_freq <= head_dim, "{n_freq} pairs in a head of {head_dim}");
        assert!(x.len().is_multiple_of(n_rows * head_dim), "heads of {head_dim} in {n_rows} rows");
        let row_len = x.len() / n_rows;
        for (r, row) in x.chunks_exact_mut(row_len.max(1)).enumerate() {
            let (cos, sin) = (&cos[r * n_freq..][..n_freq], &sin[r * n_freq..][..n_freq]);
            for head in row.chunks_exact_mut(head_dim) {
                match style {
                    RopeStyle::Half => turn_halves(&mut head[..2 * n_freq], cos, sin),
                    RopeStyle::Interleaved => turn_pairs(&mut head[..2 * n_freq], cos, sin),
                }
            }
        }
    }
}

#[inline(always)]
fn turn_halves(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(cos.len());
    for ((a, b), (c, s)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
    }
}

#[inline(always)]
fn turn_pairs(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ([a, b], (c, s)) in head.as_chunks_mut().0.iter_mut().zip(cos.iter().zip(sin)) {
        (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn pairs_turn_and_the_rest_stays() {
        let (mut cos, mut sin) = (vec![0.0; 4], vec![0.0; 4]);
        rope_table([0, 3].into_iter(), &[0.5, 0.25], 2.0, &mut cos, &mut sin);
        assert_eq!((cos[0], sin[0]), (2.0, 0.0));
        assert!((cos[2] - 2.0 * 1.5f32.cos()).abs() < 1e-6);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            // Two rows of two heads of five values, of which four turn.
            let mut x: Vec<f32> = (0..20).map(|i| i as f32).collect();
            rope(isa, &mut x, 2, 5, &cos, &sin, RopeStyle::Half);
            assert_eq!(x[..5], [0.0, 2.0, 4.0, 6.0, 4.0]);
            assert_eq!(x[15], 15.0 * cos[2] - 17.0 * sin[2]);
            assert_eq!(x[17], 17.0 * cos[2] + 15.0 * sin[2]);
            assert_eq!(x[19], 19.0);
            let mut x: Vec<f32> = (0..20).map(|i| i as f32).collect();
            rope(isa, &mut x, 2, 5, &cos, &sin, RopeStyle::Interleaved);
            assert_eq!(x[17], 17.0 * cos[3] - 18.0 * sin[3]);
            assert_eq!(x[18], 18.0 * cos[3] + 17.0 * sin[3]);
        }
    }

    #[test]
    fn long_rows_are_the_same_bits_everywhere() {
        let (mut cos, mut sin) = (vec![0.0; 120], vec![0.0; 120]);
        let inv_freq: Vec<f32> = (0..40).map(|i| 10000f32.powf(-i as f32 / 40.0)).collect();
        rope_table(100..103, &inv_freq, 1.0, &mut cos, &mut sin);
        for style in [RopeStyle::Half, RopeStyle::Interleaved] {
            let x: Vec<f32> = (0..3 * 2 * 96).map(|i| (i as f32).sin()).collect();
            let mut expected = x.clone();
            rope(Isa::Scalar, &mut expected, 3, 96, &cos, &sin, style);
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                let mut x = x.clone();
                rope(isa, &mut x, 3, 96, &cos, &sin, style);
                assert_eq!(x, expected, "{isa}");
            }
        }
    }
}
