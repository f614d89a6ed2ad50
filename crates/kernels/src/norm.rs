//! Root-mean-square norm of rows (Zhang and Sennrich 2019). A row may be a hidden state or one head.

use crate::{elementwise::dot, isa::per_isa};

per_isa! {
    /// out [n_rows, n] = x [n_rows, n] / sqrt(mean(x²) + eps) · weight [n], the mean over each row
    pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        if x.is_empty() && out.is_empty() {
            return;
        }
        let n = weight.len();
        assert_eq!(x.len(), out.len(), "values to normalise");
        assert!(n > 0 && x.len().is_multiple_of(n), "{} values in rows of {n}", x.len());
        for (x, out) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            let factor = 1.0 / (dot(x, x) / n as f32 + eps).sqrt();
            for ((x, w), out) in x.iter().zip(weight).zip(out) {
                *out = x * factor * w;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn rows_are_normalised_alike_everywhere() {
        for n in [1, 7, 32, 64, 100, 577] {
            let x: Vec<f32> = (0..3 * n).map(|i| ((i * 31 % 97) as f32 - 48.0) * 0.1).collect();
            let weight: Vec<f32> = (0..n).map(|i| 1.0 + i as f32 * 0.01).collect();
            let mut expected = vec![0.0; 3 * n];
            rms_norm(Isa::Scalar, &x, &weight, 1e-5, &mut expected);
            for (x, out) in x.chunks(n).zip(expected.chunks(n)) {
                let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n as f64;
                for i in 0..n {
                    let exact = f64::from(x[i]) / (mean + 1e-5).sqrt() * f64::from(weight[i]);
                    assert!((f64::from(out[i]) - exact).abs() < 1e-5 * (1.0 + exact.abs()));
                }
            }
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                let mut out = vec![0.0; 3 * n];
                rms_norm(isa, &x, &weight, 1e-5, &mut out);
                assert_eq!(out, expected, "{isa}");
            }
        }
    }
}
