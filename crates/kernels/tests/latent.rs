//! Latent attention against a plain computation in f64, and bit for bit between instruction families, batches, chunks
//! of a prompt and numbers of threads.
#![allow(clippy::unwrap_used)]

mod common;

use base::{BlockId, SeqId, SeqSlice};
use common::Random;
use kernels::{Isa, LatentCache, Pool, latent_attention};
use proptest::prelude::*;

const BLOCK_LEN: usize = 16;
const SCALE: f32 = 0.2;

#[derive(Clone, Copy, Debug)]
struct Shape {
    n_heads: usize,
    latent_dim: usize,
    rope_dim: usize,
}

/// One sequence with all its queries, `[len, n_heads, ..]`, latents and keys.
struct Sequence {
    len: usize,
    blocks: Vec<BlockId>,
    q_latent: Vec<f32>,
    q_rope: Vec<f32>,
    latents: Vec<f32>,
    keys: Vec<f32>,
}

impl Sequence {
    fn slice(&self, n_rows: usize, context_len: usize) -> SeqSlice {
        SeqSlice {
            seq: SeqId(0),
            n_rows: n_rows as u32,
            context_len: context_len as u32,
            n_logits: 0,
            blocks: self.blocks.clone(),
        }
    }

    /// Softmax attention in f64, `[len, n_heads, latent_dim]`.
    fn plain(&self, shape: Shape) -> Vec<f64> {
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let (dim, rope) = (shape.latent_dim, shape.rope_dim);
        let mut out = Vec::new();
        for i in 0..self.len * shape.n_heads {
            let (q, q_rope) = (&self.q_latent[i * dim..][..dim], &self.q_rope[i * rope..][..rope]);
            let weight = |p: usize| {
                let score =
                    dot(q, &self.latents[p * dim..][..dim]) + dot(q_rope, &self.keys[p * rope..][..rope]);
                (score * f64::from(SCALE)).exp()
            };
            let weights: Vec<f64> = (0..=i / shape.n_heads).map(weight).collect();
            let total: f64 = weights.iter().sum();
            out.extend((0..dim).map(|d| {
                let values = weights.iter().enumerate();
                values.map(|(p, w)| w * f64::from(self.latents[p * dim + d])).sum::<f64>() / total
            }));
        }
        out
    }
}

/// Sequences whose blocks lie in a mixed-up order.
fn sequences(random: &mut Random, shape: Shape, lens: &[usize]) -> (Vec<Sequence>, usize) {
    let n_blocks: usize = lens.iter().map(|len| len.div_ceil(BLOCK_LEN)).sum();
    let mut free: Vec<BlockId> = (0..n_blocks as u32).map(BlockId).collect();
    let sequences = lens.iter().map(|&len| Sequence {
        len,
        blocks: (0..len.div_ceil(BLOCK_LEN))
            .map(|_| free.swap_remove(random.bits() as usize % free.len()))
            .collect(),
        q_latent: random.floats(len * shape.n_heads * shape.latent_dim),
        q_rope: random.floats(len * shape.n_heads * shape.rope_dim),
        latents: random.floats(len * shape.latent_dim),
        keys: random.floats(len * shape.rope_dim),
    });
    (sequences.collect(), n_blocks)
}

/// A cache whose unwritten slots hold not-a-number, as a reused block may.
fn cache_of(shape: Shape, sequences: &[Sequence], n_blocks: usize) -> LatentCache {
    let mut cache = LatentCache::new(n_blocks, BLOCK_LEN, shape.latent_dim, shape.rope_dim);
    let all: Vec<u32> = (0..(n_blocks * BLOCK_LEN) as u32).collect();
    let poison = |width: usize| vec![f32::NAN; all.len() * width];
    cache.write(&poison(shape.latent_dim), &poison(shape.rope_dim), &all);
    for s in sequences {
        let slot = |p: usize| s.blocks[p / BLOCK_LEN].0 * BLOCK_LEN as u32 + (p % BLOCK_LEN) as u32;
        cache.write(&s.latents, &s.keys, &(0..s.len).map(slot).collect::<Vec<_>>());
    }
    cache
}

/// `[n_rows, n_heads, width]` as `[n_heads, n_rows, width]`, or back again with the numbers exchanged.
fn exchanged(x: &[f32], n_rows: usize, n_heads: usize, width: usize) -> Vec<f32> {
    let runs = (0..n_heads).flat_map(|head| (0..n_rows).map(move |row| row * n_heads + head));
    runs.flat_map(|i| x[i * width..][..width].iter().copied()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_row_is_right_and_the_same_in_every_company(
        n_heads in 1usize..20,
        (latent_dim, rope_dim) in prop::sample::select(vec![(512usize, 64usize), (40, 6), (1, 2), (64, 0)]),
        lens in prop::collection::vec(1usize..60, 1..4),
        stretch in 1usize..=8,
        cuts in prop::collection::vec(1usize..40, 3),
        n_threads in 1usize..=5,
        seed: u64,
    ) {
        let shape = Shape { n_heads, latent_dim, rope_dim };
        // Long enough for threads to share out a row's keys; not where the exact result takes seconds.
        let stretch = if latent_dim > 100 { 1 } else { stretch };
        let lens: Vec<usize> = lens.iter().map(|len| len * stretch).collect();
        let mut random = Random(seed);
        let (sequences, n_blocks) = sequences(&mut random, shape, &lens);
        let cache = cache_of(shape, &sequences, n_blocks);
        let call = |pool: &Pool, isa, q_latent: &[f32], q_rope: &[f32], seqs: &[SeqSlice]| {
            let n_rows = q_latent.len() / n_heads / latent_dim;
            let q_latent = exchanged(q_latent, n_rows, n_heads, latent_dim);
            let q_rope = exchanged(q_rope, n_rows, n_heads, rope_dim);
            let mut out = vec![f32::NAN; q_latent.len()];
            latent_attention(pool, isa, &q_latent, &q_rope, &cache, seqs, SCALE, &mut out);
            exchanged(&out, n_heads, n_rows, latent_dim)
        };

        // Whole prompts, one at a time, by the reference.
        let alone = Pool::unpinned(1);
        let reference = |s: &Sequence| call(&alone, Isa::Scalar, &s.q_latent, &s.q_rope, &[s.slice(s.len, s.len)]);
        let references: Vec<Vec<f32>> = sequences.iter().map(reference).collect();
        for (s, reference) in sequences.iter().zip(&references) {
            for (out, exact) in reference.iter().zip(s.plain(shape)) {
                prop_assert!((f64::from(*out) - exact).abs() < 2e-3, "{} {}", out, exact);
            }
        }
        // A chunk of each prompt in one batch, by every family.
        let pool = Pool::unpinned(n_threads);
        let (mut q_latent, mut q_rope, mut seqs, mut expected) = (vec![], vec![], vec![], vec![]);
        for ((s, reference), cut) in sequences.iter().zip(&references).zip(&cuts) {
            let start = s.len.saturating_sub(*cut) * n_heads;
            let end = s.len.min(start / n_heads + cut.div_ceil(2)) * n_heads;
            q_latent.extend_from_slice(&s.q_latent[start * latent_dim..end * latent_dim]);
            q_rope.extend_from_slice(&s.q_rope[start * rope_dim..end * rope_dim]);
            expected.extend_from_slice(&reference[start * latent_dim..end * latent_dim]);
            seqs.push(s.slice((end - start) / n_heads, end / n_heads));
        }
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            prop_assert_eq!(call(&pool, isa, &q_latent, &q_rope, &seqs), expected.clone(), "{}", isa);
        }
    }
}
