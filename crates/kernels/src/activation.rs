//! SwiGLU, and the exponential function that it shares with attention: plain Rust that vectorises, the same bits in
//! every instruction family.

use crate::isa::per_isa;

per_isa! {
    /// gate [n] = silu(gate [n]) · up [n], with silu(x) = x / (1 + exp(-x)) (Shazeer 2020, "GLU Variants Improve
    /// Transformer")
    pub fn swiglu(gate: &mut [f32], up: &[f32]) {
        assert_eq!(gate.len(), up.len(), "values of gate and up");
        for (g, u) in gate.iter_mut().zip(up) {
            *g = *g / (1.0 + exp(-*g)) * u;
        }
    }
}

/// exp(x) within 2 units in the last place; x is first limited to where the result is a normal number.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding this rounds to an integer, which then lies in the low bits.
    const ROUND: f32 = 1.5 * (1 << 23) as f32;
    // ln 2 in two parts: the first has few bits, so that its products with small integers are exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    // x = n ln 2 + r, |r| <= ln 2 / 2
    let rounded = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    // exp(r), the Taylor series to the seventh power.
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = r.mul_add(p, c);
    }
    // · 2^n, by its exponent bits.
    p * f32::from_bits(rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn exp_is_accurate() {
        for i in -8700..=8800 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 2.5e-7, "exp({x})");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn swiglu_is_right_and_the_same_everywhere() {
        let gate: Vec<f32> = (0..1001).map(|i| (i as f32 - 500.0) / 7.0).collect();
        let up: Vec<f32> = (0..1001).map(|i| (i as f32).sin()).collect();
        let mut expected = gate.clone();
        swiglu(Isa::Scalar, &mut expected, &up);
        for ((g, u), out) in gate.iter().zip(&up).zip(&expected) {
            let exact = f64::from(*g) / (1.0 + (-f64::from(*g)).exp()) * f64::from(*u);
            assert!((f64::from(*out) - exact).abs() <= 1e-6 * exact.abs() + 1e-30, "{g} {u}");
        }
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let mut out = gate.clone();
            swiglu(isa, &mut out, &up);
            assert_eq!(out, expected, "{isa}");
        }
    }
}
