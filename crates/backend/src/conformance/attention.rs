//! Attention over the paged cache: head norms, rotations, causal and sliding masks, in every way that prompts are cut.

use super::{
    Check, Failure, Make, Tolerance,
    approx::close,
    elementwise::{computed, normalised},
    eval,
    random::Random,
    same_in_company,
    sequences::{self, BLOCK_LEN, LENS, N_BLOCKS, Step},
};
use crate::{AttentionSpec, Backend, CacheRow, CacheSpec, RopeSpec, RopeStyle};

const NORM_EPS: f32 = 1e-5;
const N_LAYERS: usize = 2;

pub(super) fn checks<B: Backend>() -> Vec<(&'static str, Check<B>)> {
    vec![
        ("attention, rotated halves", |make, t| attends(make, t, &case(4, 2, 16))),
        ("attention, rotated pairs", |make, t| {
            attends(make, t, &Case { style: RopeStyle::Interleaved, ..case(3, 1, 64) })
        }),
        ("attention, partly rotated", |make, t| {
            for style in [RopeStyle::Half, RopeStyle::Interleaved] {
                attends(make, t, &Case { style, rot_dim: 12, factor: 1.5, ..case(4, 4, 32) })?;
            }
            Ok(())
        }),
        ("attention, not rotated", |make, t| attends(make, t, &Case { rot_dim: 0, ..case(6, 2, 32) })),
        ("attention, normalised heads", |make, t| {
            attends(make, t, &Case { has_norms: true, ..case(8, 2, 128) })?;
            attends(make, t, &Case { has_norms: true, rot_dim: 20, window: Some(9), ..case(9, 3, 80) })
        }),
        ("attention, sliding window", |make, t| {
            for window in [1, 5, 16, 40] {
                attends(make, t, &Case { window: Some(window), ..case(4, 2, 96) })?;
            }
            Ok(())
        }),
    ]
}

/// What a check computes.
#[derive(Clone, Copy, Debug)]
struct Case {
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    style: RopeStyle,
    rot_dim: usize,
    factor: f32,
    has_norms: bool,
    window: Option<u32>,
}

/// Every value of a head turned, nothing else.
fn case(n_heads: usize, n_kv_heads: usize, head_dim: usize) -> Case {
    Case {
        n_heads,
        n_kv_heads,
        head_dim,
        style: RopeStyle::Half,
        rot_dim: head_dim,
        factor: 1.0,
        has_norms: false,
        window: None,
    }
}

/// What one layer attends to: of every sequence `[len, width]`.
struct Layer {
    q: Vec<Vec<f32>>,
    k: Vec<Vec<f32>>,
    v: Vec<Vec<f32>>,
    q_norm: Vec<f32>,
    k_norm: Vec<f32>,
}

impl Case {
    fn spec(&self) -> AttentionSpec {
        AttentionSpec {
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            window: self.window,
        }
    }

    fn rope(&self) -> RopeSpec {
        rope_spec(self.style, self.rot_dim, self.factor)
    }

    fn layer(&self, random: &mut Random) -> Layer {
        let mut of_seqs =
            |n_heads: usize| LENS.map(|len| random.floats(len * n_heads * self.head_dim)).to_vec();
        Layer {
            q: of_seqs(self.n_heads),
            k: of_seqs(self.n_kv_heads),
            v: of_seqs(self.n_kv_heads),
            q_norm: random.floats(self.head_dim),
            k_norm: random.floats(self.head_dim),
        }
    }
}

pub(super) fn rope_spec(style: RopeStyle, rot_dim: usize, factor: f32) -> RopeSpec {
    let inv_freq = (0..rot_dim / 2).map(|i| 100f32.powf(-2.0 * i as f32 / rot_dim as f32)).collect();
    RopeSpec { style, inv_freq, factor }
}

fn attends<B: Backend>(make: &mut Make<'_, B>, t: &Tolerance, case: &Case) -> Result<(), Failure> {
    let mut random = Random::new(20);
    let cached = Tolerance { value: t.cache, ..*t };
    let layers: [Layer; N_LAYERS] = std::array::from_fn(|_| case.layer(&mut random));
    let ragged = run(make, case, &layers, &sequences::ragged())?;
    let alone = run(make, case, &layers, &sequences::alone())?;
    for (i, layer) in layers.iter().enumerate() {
        for (seq, &len) in LENS.iter().enumerate() {
            let what = format!("{case:?}, layer {i}, sequence {seq}");
            let expected = computed(reference(case, layer, seq, len), &cached);
            close(&what, &alone[i][seq], &expected)?;
            close(&format!("{what} in chunks"), &ragged[i][seq], &expected)?;
            same_in_company(&what, &alone[i][seq], &ragged[i][seq], t)?;
        }
    }
    Ok(())
}

/// The results of each layer and sequence, `[len, n_heads * head_dim]`.
fn run<B: Backend>(
    make: &mut Make<'_, B>,
    case: &Case,
    layers: &[Layer; N_LAYERS],
    steps: &[Step],
) -> Result<Vec<Vec<Vec<f32>>>, Failure> {
    let (mut b, spec) = (make()?, case.spec());
    let AttentionSpec { n_kv_heads, head_dim, .. } = spec;
    b.allocate_cache(CacheSpec {
        n_layers: N_LAYERS,
        n_blocks: N_BLOCKS,
        block_len: BLOCK_LEN,
        row: CacheRow::Heads { n_kv_heads, head_dim },
    })?;
    let (q_width, kv_width) = (case.n_heads * head_dim, n_kv_heads * head_dim);
    leave_behind(&mut b, &spec)?;
    let mut found = vec![sequences::zeros(q_width); N_LAYERS];
    for step in steps {
        let inputs = b.inputs(&sequences::batch(step))?;
        let rope = b.rope_table(&case.rope(), &inputs)?;
        for (i, layer) in layers.iter().enumerate() {
            let norms = b.head_norms(&layer.q_norm, &layer.k_norm, NORM_EPS, &spec)?;
            let qkv = [
                b.tensor(&sequences::gather(step, &layer.q, q_width), q_width)?,
                b.tensor(&sequences::gather(step, &layer.k, kv_width), kv_width)?,
                b.tensor(&sequences::gather(step, &layer.v, kv_width), kv_width)?,
            ];
            let y = b.attention(qkv, case.has_norms.then_some(&norms), &rope, i, &spec, &inputs)?;
            sequences::scatter(step, &eval(&mut b, &y)?, &mut found[i], q_width);
        }
    }
    Ok(found)
}

/// Fills the cache with large values.
fn leave_behind<B: Backend>(b: &mut B, spec: &AttentionSpec) -> Result<(), Failure> {
    let batch = sequences::before();
    let inputs = b.inputs(&batch)?;
    let rope = b.rope_table(&rope_spec(RopeStyle::Half, 0, 1.0), &inputs)?;
    for layer in 0..N_LAYERS {
        let [q_width, kv_width] = [spec.n_heads, spec.n_kv_heads].map(|n| n * spec.head_dim);
        let large = |width: usize| vec![1e3; batch.n_rows() * width];
        let q = b.tensor(&large(q_width), q_width)?;
        let kv = b.tensor(&large(kv_width), kv_width)?;
        let y = b.attention([q, kv.clone(), kv], None, &rope, layer, spec, &inputs)?;
        eval(b, &y)?;
    }
    Ok(())
}

fn reference(case: &Case, layer: &Layer, seq: usize, len: usize) -> Vec<f64> {
    let (dim, group) = (case.head_dim, case.n_heads / case.n_kv_heads);
    let q = heads(case, &layer.q[seq], case.n_heads, &layer.q_norm);
    let k = heads(case, &layer.k[seq], case.n_kv_heads, &layer.k_norm);
    let v = |position: usize, head: usize| {
        let at = (position * case.n_kv_heads + head) * dim;
        layer.v[seq][at..at + dim].iter().map(|&v| f64::from(v))
    };
    let mut out = Vec::new();
    for row in 0..len {
        let first = case.window.map_or(0, |w| (row + 1).saturating_sub(w as usize));
        for head in 0..case.n_heads {
            let query = &q[row * case.n_heads + head];
            let keys = (first..=row).map(|p| &k[p * case.n_kv_heads + head / group]);
            let weights = softmax(keys.map(|key| dot(query, key) * f64::from(case.spec().scale)));
            let mut sum = vec![0.0; dim];
            for (position, weight) in (first..=row).zip(weights) {
                sum.iter_mut().zip(v(position, head / group)).for_each(|(sum, v)| *sum += weight * v);
            }
            out.extend(sum);
        }
    }
    out
}

/// Heads `[len, n_heads, head_dim]`, normalised if the case says so, and turned.
fn heads(case: &Case, x: &[f32], n_heads: usize, norm: &[f32]) -> Vec<Vec<f64>> {
    let head = |(i, head): (usize, &[f32])| {
        let mut head = match case.has_norms {
            true => normalised(head, norm, NORM_EPS),
            false => head.iter().map(|&v| f64::from(v)).collect(),
        };
        rotate(&mut head, &case.rope(), i / n_heads);
        head
    };
    x.chunks(case.head_dim).enumerate().map(head).collect()
}

/// Turns the pairs of a head.
pub(super) fn rotate(head: &mut [f64], spec: &RopeSpec, position: usize) {
    let n = spec.inv_freq.len();
    for (i, &freq) in spec.inv_freq.iter().enumerate() {
        let (a, c) = match spec.style {
            RopeStyle::Half => (i, i + n),
            RopeStyle::Interleaved => (2 * i, 2 * i + 1),
        };
        let (sin, cos) = (position as f64 * f64::from(freq)).sin_cos();
        let (x, y) = (head[a] * f64::from(spec.factor), head[c] * f64::from(spec.factor));
        (head[a], head[c]) = (x * cos - y * sin, x * sin + y * cos);
    }
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(super) fn softmax(scores: impl Iterator<Item = f64>) -> Vec<f64> {
    let weights: Vec<f64> = scores.map(f64::exp).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / total).collect()
}
