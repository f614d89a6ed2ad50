//! Attention against a plain computation in f64, and bit for bit between instruction families, batches, chunks of a
//! prompt and numbers of threads.
#![allow(clippy::unwrap_used)]

mod common;

use base::{BlockId, SeqId, SeqSlice};
use common::Random;
use kernels::{Isa, KvCache, Pool, attention};
use proptest::prelude::*;

const BLOCK_LEN: usize = 16;

#[derive(Clone, Copy, Debug)]
struct Shape {
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    window: Option<u32>,
}

/// One sequence with all its queries, keys and values.
struct Sequence {
    len: usize,
    blocks: Vec<BlockId>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
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
}

/// Sequences whose blocks lie in a mixed-up order.
fn sequences(random: &mut Random, shape: Shape, lens: &[usize]) -> (Vec<Sequence>, usize) {
    let n_blocks: usize = lens.iter().map(|len| len.div_ceil(BLOCK_LEN)).sum();
    let mut free: Vec<BlockId> = (0..n_blocks as u32).map(BlockId).collect();
    let sequences = lens.iter().map(|&len| {
        let blocks = (0..len.div_ceil(BLOCK_LEN))
            .map(|_| free.swap_remove(random.bits() as usize % free.len()))
            .collect();
        let kv_len = len * shape.n_kv_heads * shape.head_dim;
        let q = random.floats(len * shape.n_heads * shape.head_dim).iter().map(|v| 3.0 * v).collect();
        Sequence { len, blocks, q, k: random.floats(kv_len), v: random.floats(kv_len) }
    });
    (sequences.collect(), n_blocks)
}

/// A cache whose unwritten slots hold not-a-number, as a reused block may.
fn cache_of(shape: Shape, sequences: &[Sequence], n_blocks: usize) -> KvCache {
    let mut cache = KvCache::new(n_blocks, BLOCK_LEN, shape.n_kv_heads, shape.head_dim);
    let all: Vec<u32> = (0..(n_blocks * BLOCK_LEN) as u32).collect();
    let poison = vec![f32::NAN; all.len() * shape.n_kv_heads * shape.head_dim];
    cache.write(&poison, &poison, &all);
    let mut slots = Vec::new();
    for s in sequences {
        cache.slots(&[s.slice(s.len, s.len)], &mut slots);
        cache.write(&s.k, &s.v, &slots);
    }
    cache
}

/// Softmax attention of one sequence in f64.
fn plain(shape: Shape, s: &Sequence, scale: f32) -> Vec<f64> {
    let (dim, group) = (shape.head_dim, shape.n_heads / shape.n_kv_heads);
    let mut out = Vec::new();
    for p in 0..s.len {
        for h in 0..shape.n_heads {
            let q = &s.q[(p * shape.n_heads + h) * dim..][..dim];
            let at = |j: usize| (j * shape.n_kv_heads + h / group) * dim;
            let first = shape.window.map_or(0, |w| (p + 1).saturating_sub(w as usize));
            let weights: Vec<f64> = (first..=p)
                .map(|j| {
                    let dot: f64 =
                        q.iter().zip(&s.k[at(j)..]).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                    (dot * f64::from(scale)).exp()
                })
                .collect();
            let total: f64 = weights.iter().sum();
            out.extend((0..dim).map(|d| {
                let sum: f64 =
                    weights.iter().enumerate().map(|(j, w)| w * f64::from(s.v[at(first + j) + d])).sum();
                sum / total
            }));
        }
    }
    out
}

fn shapes() -> impl Strategy<Value = Shape> {
    let heads = prop::sample::select(vec![(1, 1), (3, 1), (9, 3), (8, 2), (7, 1), (4, 4), (12, 1)]);
    let dims = prop::sample::select(vec![1, 5, 64, 80, 96, 128]);
    (heads, dims, prop::option::of(1u32..50)).prop_map(|((n_heads, n_kv_heads), head_dim, window)| Shape {
        n_heads,
        n_kv_heads,
        head_dim,
        window,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_row_is_right_and_the_same_in_every_company(
        shape in shapes(),
        lens in prop::collection::vec(1usize..90, 1..4),
        cuts in prop::collection::vec(1usize..40, 3),
        n_threads in 1usize..=3,
        seed: u64,
    ) {
        let mut random = Random(seed);
        let (sequences, n_blocks) = sequences(&mut random, shape, &lens);
        let cache = cache_of(shape, &sequences, n_blocks);
        let (row, scale) = (shape.n_heads * shape.head_dim, 1.0 / (shape.head_dim as f32).sqrt());
        let alone = Pool::unpinned(1);
        let call = |pool: &Pool, isa, q: &[f32], seqs: &[SeqSlice]| {
            let mut out = vec![f32::NAN; q.len()];
            attention(pool, isa, q, &cache, seqs, scale, shape.window, &mut out);
            out
        };

        // Whole prompts, one at a time, by the reference.
        let references: Vec<Vec<f32>> =
            sequences.iter().map(|s| call(&alone, Isa::Scalar, &s.q, &[s.slice(s.len, s.len)])).collect();
        for (s, reference) in sequences.iter().zip(&references) {
            for (out, exact) in reference.iter().zip(plain(shape, s, scale)) {
                prop_assert!((f64::from(*out) - exact).abs() < 4e-3, "{} {}", out, exact);
            }
        }
        // A chunk of each prompt in one batch, by every family.
        let pool = Pool::unpinned(n_threads);
        let (mut q, mut seqs, mut expected) = (vec![], vec![], vec![]);
        for ((s, reference), cut) in sequences.iter().zip(&references).zip(&cuts) {
            let start = s.len.saturating_sub(*cut);
            let end = s.len.min(start + cut.div_ceil(2));
            q.extend_from_slice(&s.q[start * row..end * row]);
            expected.extend_from_slice(&reference[start * row..end * row]);
            seqs.push(s.slice(end - start, end));
        }
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            prop_assert_eq!(call(&pool, isa, &q, &seqs), expected.clone(), "{}", isa);
        }
    }
}
