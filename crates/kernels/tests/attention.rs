//! Attention against a plain computation in f64, and bit for bit between instruction families, batches, chunks of a
//! prompt and numbers of threads.
#![allow(clippy::unwrap_used)]

mod common;

use base::{BlockId, SeqId, SeqSlice};
use common::Random;
use kernels::{Isa, KvCache, Pool, attention};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
struct Shape {
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    window: Option<u32>,
    /// Positions of a cache block.
    block_len: usize,
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
    let n_blocks: usize = lens.iter().map(|len| len.div_ceil(shape.block_len)).sum();
    let mut free: Vec<BlockId> = (0..n_blocks as u32).map(BlockId).collect();
    let sequences = lens.iter().map(|&len| {
        let blocks = (0..len.div_ceil(shape.block_len))
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
    let mut cache = KvCache::new(n_blocks, shape.block_len, shape.n_kv_heads, shape.head_dim);
    let all: Vec<u32> = (0..(n_blocks * shape.block_len) as u32).collect();
    let poison = vec![f32::NAN; all.len() * shape.n_kv_heads * shape.head_dim];
    cache.write(&poison, &poison, &all);
    let mut slots = Vec::new();
    for s in sequences {
        cache.slots(&[s.slice(s.len, s.len)], &mut slots);
        cache.write(&s.k, &s.v, &slots);
    }
    cache
}

/// Softmax attention of one row of a sequence in f64.
fn plain(shape: Shape, s: &Sequence, p: usize, scale: f32) -> Vec<f64> {
    let (dim, group) = (shape.head_dim, shape.n_heads / shape.n_kv_heads);
    let mut out = Vec::new();
    for h in 0..shape.n_heads {
        let q = &s.q[(p * shape.n_heads + h) * dim..][..dim];
        let at = |j: usize| (j * shape.n_kv_heads + h / group) * dim;
        let first = shape.window.map_or(0, |w| (p + 1).saturating_sub(w as usize));
        let weights: Vec<f64> = (first..=p)
            .map(|j| {
                let dot: f64 = q.iter().zip(&s.k[at(j)..]).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
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
    out
}

/// Positions of whose outputs the exact ones are computed: these take time.
const MAX_EXACT: usize = 100;

fn shapes(head_dims: &[usize], max_window: u32) -> impl Strategy<Value = Shape> {
    let heads = prop::sample::select(vec![(1, 1), (3, 1), (9, 3), (8, 2), (7, 1), (4, 4), (12, 1)]);
    let dims = prop::sample::select(head_dims.to_vec());
    let block_lens = prop::sample::select(vec![16, 32, 48]);
    let windows = prop::option::of(1..max_window);
    (heads, dims, windows, block_lens).prop_map(|((n_heads, n_kv_heads), head_dim, window, block_len)| {
        Shape { n_heads, n_kv_heads, head_dim, window, block_len }
    })
}

/// The batches that tests compute: prompts, and how many rows before its end and how many of these are in a chunk.
#[derive(Clone, Debug)]
struct Batch {
    lens: Vec<usize>,
    cuts: Vec<usize>,
    n_threads: usize,
    seed: u64,
}

/// Whole prompts one at a time by the reference are right, and a chunk of each in one batch has the same bits.
fn check(shape: Shape, batch: Batch) -> Result<(), TestCaseError> {
    let mut random = Random(batch.seed);
    let (sequences, n_blocks) = sequences(&mut random, shape, &batch.lens);
    let cache = cache_of(shape, &sequences, n_blocks);
    let (row, scale) = (shape.n_heads * shape.head_dim, 1.0 / (shape.head_dim as f32).sqrt());
    let alone = Pool::unpinned(1);
    let call = |pool: &Pool, isa, q: &[f32], seqs: &[SeqSlice]| {
        let mut out = vec![f32::NAN; q.len()];
        attention(pool, isa, q, &cache, seqs, scale, shape.window, &mut out);
        out
    };

    let references: Vec<Vec<f32>> =
        sequences.iter().map(|s| call(&alone, Isa::Scalar, &s.q, &[s.slice(s.len, s.len)])).collect();
    for (s, reference) in sequences.iter().zip(&references) {
        for p in (0..s.len).rev().step_by(s.len.div_ceil(MAX_EXACT)) {
            for (out, exact) in reference[p * row..].iter().zip(plain(shape, s, p, scale)) {
                prop_assert!((f64::from(*out) - exact).abs() < 4e-3, "{} {}", out, exact);
            }
        }
    }
    let pool = Pool::unpinned(batch.n_threads);
    let (mut q, mut seqs, mut expected) = (vec![], vec![], vec![]);
    for ((s, reference), cut) in sequences.iter().zip(&references).zip(&batch.cuts) {
        let start = s.len.saturating_sub(*cut);
        let end = s.len.min(start + cut.div_ceil(2));
        q.extend_from_slice(&s.q[start * row..end * row]);
        expected.extend_from_slice(&reference[start * row..end * row]);
        seqs.push(s.slice(end - start, end));
    }
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        prop_assert_eq!(call(&pool, isa, &q, &seqs), expected.clone(), "{}", isa);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_row_is_right_and_the_same_in_every_company(
        shape in shapes(&[1, 5, 64, 80, 96, 128], 50),
        lens in prop::collection::vec(1usize..90, 1..4),
        cuts in prop::collection::vec(1usize..40, 3),
        n_threads in 1usize..=3,
        seed: u64,
    ) {
        check(shape, Batch { lens, cuts, n_threads, seed })?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    /// Contexts so long that threads share out the keys of a row.
    #[test]
    fn long_contexts_are_shared_out_without_a_trace(
        shape in shapes(&[5, 32], 600),
        lens in prop::collection::vec(200usize..800, 1..3),
        cuts in prop::collection::vec(1usize..70, 2),
        n_threads in 1usize..=5,
        seed: u64,
    ) {
        check(shape, Batch { lens, cuts, n_threads, seed })?;
    }
}
