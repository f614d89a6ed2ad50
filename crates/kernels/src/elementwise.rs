//! Sums and products of vectors, and the place of the largest value. Knows no shapes but rows of a bias.

use crate::isa::per_isa;

per_isa! {
    /// out [n] = a [n] + b [n]
    pub fn add(a: &[f32], b: &[f32], out: &mut [f32]) {
        assert_eq!((a.len(), b.len()), (out.len(), out.len()), "values to add");
        for ((a, b), out) in a.iter().zip(b).zip(out) {
            *out = a + b;
        }
    }
}

per_isa! {
    /// a [n] += b [n]
    pub fn add_assign(a: &mut [f32], b: &[f32]) {
        assert_eq!(a.len(), b.len(), "values to add");
        for (a, b) in a.iter_mut().zip(b) {
            *a += b;
        }
    }
}

per_isa! {
    /// x [n_rows, n] += bias [n], in every row
    pub fn add_bias(x: &mut [f32], bias: &[f32]) {
        if x.is_empty() {
            return;
        }
        assert!(!bias.is_empty() && x.len().is_multiple_of(bias.len()), "rows of {}", bias.len());
        for row in x.chunks_exact_mut(bias.len()) {
            for (x, b) in row.iter_mut().zip(bias) {
                *x += b;
            }
        }
    }
}

/// Partial sums of a dot product; fixed, so that every instruction family adds in the same order.
const N_SUMS: usize = 32;

/// a [n] · b [n]
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; N_SUMS];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<N_SUMS>(), b.as_chunks::<N_SUMS>());
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = a.mul_add(*b, *sum);
        }
    }
    for ((sum, a), b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum = a.mul_add(*b, *sum);
    }
    let mut width = N_SUMS / 2;
    while width > 0 {
        for i in 0..width {
            sums[i] += sums[i + width];
        }
        width /= 2;
    }
    sums[0]
}

/// Place of the largest value, the first of equals; `None` if there is no number among them.
pub fn argmax(x: &[f32]) -> Option<usize> {
    const N: usize = 16;
    let (chunks, rest) = x.as_chunks::<N>();
    let mut largest = [f32::NEG_INFINITY; N];
    for chunk in chunks {
        for (m, v) in largest.iter_mut().zip(chunk) {
            *m = if *v > *m { *v } else { *m };
        }
    }
    let largest = largest.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, f32::max);
    x.iter().position(|v| *v == largest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn sums_are_the_same_everywhere() {
        let a: Vec<f32> = (0..37).map(|i| i as f32 * 0.3).collect();
        let b: Vec<f32> = (0..37).map(|i| 5.0 - i as f32).collect();
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let (mut sum, mut again) = (vec![0.0; 37], a.clone());
            add(isa, &a, &b, &mut sum);
            add_assign(isa, &mut again, &b);
            assert_eq!(sum, again);
            assert_eq!(sum[3], 0.3 * 3.0 + 2.0);
            let mut rows = [1.0, 2.0, 3.0, 4.0];
            add_bias(isa, &mut rows, &[10.0, 20.0]);
            assert_eq!(rows, [11.0, 22.0, 13.0, 24.0]);
        }
    }

    #[test]
    fn argmax_finds_the_first_largest() {
        let mut x = vec![-3.0; 100];
        (x[41], x[77], x[2]) = (2.5, 2.5, f32::NAN);
        assert_eq!(argmax(&x), Some(41));
        x[98] = 3.0;
        assert_eq!(argmax(&x), Some(98));
        assert_eq!(argmax(&[f32::NEG_INFINITY]), Some(0));
        assert_eq!(argmax(&[f32::NAN]), None);
        assert_eq!(argmax(&[]), None);
    }
}
