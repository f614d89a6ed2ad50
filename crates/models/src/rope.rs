//! Angles of rotary position embedding with the scalings that extend a model's context.
//! Sources: RoFormer (RoPE); Llama 3.1 model card (llama3); Peng et al., YaRN, section 3 (yarn).

use std::f32::consts::PI;

/// How a model stretches its positions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scaling {
    None,
    /// Positions divided by a factor.
    Linear {
        factor: f32,
    },
    /// Low frequencies divided, high ones kept, smooth in between.
    Llama3 {
        factor: f32,
        low: f32,
        high: f32,
        original_context: f32,
    },
    /// Interpolation by wavelength; `attention_factor` multiplies sine and cosine.
    Yarn {
        factor: f32,
        original_context: f32,
        beta_fast: f32,
        beta_slow: f32,
        attention_factor: f32,
    },
    /// Each pair's frequency divided by its own factor, as GGUF files store it, `[rot_dim / 2]`.
    PerPair(Vec<f32>),
}

impl Scaling {
    /// What sine and cosine are multiplied by.
    pub(crate) fn attention_factor(&self) -> f32 {
        match self {
            Scaling::Yarn { attention_factor, .. } => *attention_factor,
            _ => 1.0,
        }
    }
}

/// What YaRN makes attention sharper by, `0.1 mscale ln(factor) + 1`. Models without an `mscale` have 1.
pub(crate) fn yarn_mscale(factor: f32, mscale: f32) -> f32 {
    if factor > 1.0 { 0.1 * mscale * factor.ln() + 1.0 } else { 1.0 }
}

/// Angle per position of each pair, `[rot_dim / 2]`: `theta^(-2i / rot_dim)`, scaled.
pub(crate) fn inv_freq(rot_dim: u32, theta: f32, scaling: &Scaling) -> Vec<f32> {
    let plain = (0..rot_dim / 2).map(|i| 1.0 / theta.powf((2 * i) as f32 / rot_dim as f32));
    match scaling {
        Scaling::None => plain.collect(),
        Scaling::Linear { factor } => plain.map(|f| f / factor).collect(),
        Scaling::PerPair(factors) => plain.zip(factors).map(|(f, factor)| f / factor).collect(),
        Scaling::Llama3 { factor, low, high, original_context } => {
            plain.map(|f| llama3(f, *factor, *low, *high, *original_context)).collect()
        }
        Scaling::Yarn { factor, original_context, beta_fast, beta_slow, .. } => {
            let ramp = Ramp::new(rot_dim, theta, *original_context, *beta_fast, *beta_slow);
            let scaled = plain.enumerate().map(|(i, f)| {
                let r = ramp.at(i);
                (1.0 - r) * f + r * f / factor
            });
            scaled.collect()
        }
    }
}

fn llama3(f: f32, factor: f32, low: f32, high: f32, original_context: f32) -> f32 {
    let wavelength = 2.0 * PI / f;
    if wavelength < original_context / high {
        f
    } else if wavelength > original_context / low {
        f / factor
    } else {
        let smooth = (original_context / wavelength - low) / (high - low);
        (1.0 - smooth) * f / factor + smooth * f
    }
}

/// YaRN's ramp over pairs: 0 keeps a frequency, 1 interpolates it.
struct Ramp {
    low: f32,
    high: f32,
}

impl Ramp {
    fn new(rot_dim: u32, theta: f32, original_context: f32, beta_fast: f32, beta_slow: f32) -> Ramp {
        let dim = rot_dim as f32;
        let pair = |beta: f32| dim * (original_context / (2.0 * PI * beta)).ln() / (2.0 * theta.ln());
        let low = pair(beta_fast).floor().max(0.0);
        let high = pair(beta_slow).ceil().min(dim - 1.0);
        Ramp { low, high: if high > low { high } else { low + 0.001 } }
    }

    fn at(&self, i: usize) -> f32 {
        ((i as f32 - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yarn_ramp_has_the_published_corners() {
        // DeepSeek-V3: 64 rotated values, theta 10000, 4096 positions, beta 32 and 1 -> pairs 10 and 23
        let ramp = Ramp::new(64, 10_000.0, 4096.0, 32.0, 1.0);
        assert_eq!((ramp.low, ramp.high), (10.0, 23.0));
        let kimi = Ramp::new(64, 50_000.0, 4096.0, 32.0, 1.0);
        assert_eq!((kimi.low, kimi.high), (8.0, 20.0));
    }

    #[test]
    fn llama3_keeps_high_and_divides_low_frequencies() {
        let scaling = Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_context: 8192.0 };
        let plain = inv_freq(128, 500_000.0, &Scaling::None);
        let scaled = inv_freq(128, 500_000.0, &scaling);
        assert_eq!(plain[0], scaled[0]);
        assert!((plain[63] / scaled[63] - 8.0).abs() < 1e-4);
        assert!(scaled.windows(2).all(|w| w[0] > w[1]), "frequencies fall");
    }

    #[test]
    fn linear_and_per_pair_divide() {
        let plain = inv_freq(4, 10_000.0, &Scaling::None);
        assert_eq!(plain, [1.0, 0.01]);
        assert_eq!(inv_freq(4, 10_000.0, &Scaling::Linear { factor: 4.0 }), [0.25, 0.0025]);
        assert_eq!(inv_freq(4, 10_000.0, &Scaling::PerPair(vec![1.0, 2.0])), [1.0, 0.005]);
    }
}
