//! What attention costs in the shapes of real models: a decode step of one sequence and of many, and the prefill of a
//! prompt. Every layer has a cache of its own, so that long contexts are read from memory as in a model. Prints medians.
//! `cargo run --release -p kernels --example attention [n_threads..] [scalar|avx2|avx-512|neon] [135m|1.1b|8b..]
//! [decode|prefill|write|latent..]`

use std::time::Instant;

use base::{BlockId, SeqId, SeqSlice};
use kernels::{Isa, KvCache, LatentCache, Pool, attention, latent_attention};

const BLOCK_LEN: usize = 16;
const N_REPEATS: usize = 9;
/// Time that one repetition takes at least, for the sake of the clock.
const REPETITION_US: f64 = 5_000.0;

/// Heads of a model's attention.
struct Shape {
    name: &'static str,
    heads: &'static str,
    n_layers: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
}

const SHAPES: [Shape; 3] = [
    Shape { name: "135m", heads: "9/3 heads of 64", n_layers: 30, n_heads: 9, n_kv_heads: 3, head_dim: 64 },
    Shape { name: "1.1b", heads: "32/8 heads of 64", n_layers: 16, n_heads: 32, n_kv_heads: 8, head_dim: 64 },
    Shape { name: "8b", heads: "32/8 heads of 128", n_layers: 4, n_heads: 32, n_kv_heads: 8, head_dim: 128 },
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).map(|a| a.to_lowercase()).collect();
    let n_threads: Vec<usize> = args.iter().filter_map(|a| a.parse().ok()).collect();
    let named = |name: &str| args.iter().any(|a| a == name);
    let isa = Isa::ALL.into_iter().find(|isa| named(&isa.to_string().to_lowercase()));
    let isa = isa.unwrap_or_else(Isa::detect);
    let wanted = |name: &str, of: &[&str]| named(name) || !of.iter().any(|name| named(name));
    let models = SHAPES.map(|shape| shape.name);
    let parts = ["decode", "prefill", "write", "latent"];
    for n in if n_threads.is_empty() { vec![1, 2] } else { n_threads } {
        let pool = Pool::new(&(0..n).collect::<Vec<_>>());
        for shape in SHAPES.iter().filter(|shape| wanted(shape.name, &models)) {
            println!("{}: {}, {n} threads, {isa}, us a layer", shape.name, shape.heads);
            let bench = Bench::new(&pool, isa, shape);
            for (name, run) in
                [("decode", Bench::decode as fn(&_)), ("prefill", Bench::prefill), ("write", Bench::write)]
            {
                if wanted(name, &parts) {
                    run(&bench);
                }
            }
        }
        if wanted("latent", &parts) && wanted("latent", &models) {
            latent(&pool, isa);
        }
    }
}

/// Caches of all layers, and queries.
struct Bench<'a> {
    pool: &'a Pool,
    isa: Isa,
    shape: &'a Shape,
    caches: Vec<KvCache>,
    q: Vec<f32>,
}

/// Positions of every cache: sixteen sequences of 1024, or one of 8192.
const N_POSITIONS: usize = 16 * 1024;
const MAX_ROWS: usize = 512;

impl Bench<'_> {
    fn new<'a>(pool: &'a Pool, isa: Isa, shape: &'a Shape) -> Bench<'a> {
        let row = shape.n_kv_heads * shape.head_dim;
        let slots: Vec<u32> = (0..N_POSITIONS as u32).collect();
        let caches = (0..shape.n_layers)
            .map(|layer| {
                let kv = wave(N_POSITIONS * row, layer as f32);
                let mut cache =
                    KvCache::new(N_POSITIONS / BLOCK_LEN, BLOCK_LEN, shape.n_kv_heads, shape.head_dim);
                cache.write(&kv, &kv, &slots);
                cache
            })
            .collect();
        Bench { pool, isa, shape, caches, q: wave(MAX_ROWS * shape.n_heads * shape.head_dim, 0.5) }
    }

    /// Microseconds of one layer.
    fn time(&self, seqs: &[SeqSlice]) -> f64 {
        let n_rows: u32 = seqs.iter().map(|s| s.n_rows).sum();
        let q = &self.q[..n_rows as usize * self.shape.n_heads * self.shape.head_dim];
        let mut out = q.to_vec();
        let scale = 1.0 / (self.shape.head_dim as f32).sqrt();
        median(self.shape.n_layers, |layer| {
            attention(self.pool, self.isa, q, &self.caches[layer], seqs, scale, None, &mut out)
        })
    }

    fn decode(&self) {
        let Shape { n_kv_heads, head_dim, .. } = *self.shape;
        for lens in [&[64][..], &[256], &[512], &[2048], &[8192], &[64; 8], &[512; 8], &MIXED, &[64; 16]] {
            let seqs = sequences(lens, |_| 1);
            let us = self.time(&seqs);
            let bytes: usize = lens.iter().map(|len| len * n_kv_heads * head_dim * 4).sum();
            println!("  decode  {:28} {us:9.2} us {:6.1} GB/s", named(lens), bytes as f64 / us / 1e3);
        }
    }

    fn prefill(&self) {
        let Shape { n_heads, head_dim, .. } = *self.shape;
        for (n_rows, lens) in [(64, &[64][..]), (512, &[512]), (512, &[8192]), (64, &[512; 8]), (16, &[2048])]
        {
            let seqs = sequences(lens, |_| n_rows);
            let us = self.time(&seqs);
            let n_seen: usize = lens.iter().map(|len| (len - n_rows + 1..=*len).sum::<usize>()).sum();
            let n_ops = 4 * n_seen * n_heads * head_dim;
            println!(
                "  prefill {:28} {us:9.1} us {:6.1} GFLOP/s",
                format!("last {n_rows} of {}", named(lens)),
                n_ops as f64 / us / 1e3
            );
        }
    }

    fn write(&self) {
        let row = self.shape.n_kv_heads * self.shape.head_dim;
        let mut cache = KvCache::new(64, BLOCK_LEN, self.shape.n_kv_heads, self.shape.head_dim);
        for n_rows in [1, 16, 512] {
            let kv = wave(n_rows * row, 0.1);
            let slots: Vec<u32> = (0..n_rows as u32).map(|i| i * 17 % 1024).collect();
            let us = median(1, |_| cache.write(&kv, &kv, &slots));
            println!("  write   {:28} {us:9.2} us", format!("{n_rows} rows"));
        }
    }
}

/// Contexts of eight streams that began at different times.
const MIXED: [usize; 8] = [90, 400, 70, 1800, 200, 130, 700, 80];

/// Sixteen heads over latents of 512 and keys of 64, one layer.
fn latent(pool: &Pool, isa: Isa) {
    let (n_heads, dims) = (16, [512, 64]);
    let mut cache = LatentCache::new(N_POSITIONS / BLOCK_LEN, BLOCK_LEN, dims[0], dims[1]);
    let slots: Vec<u32> = (0..N_POSITIONS as u32).collect();
    cache.write(&wave(N_POSITIONS * dims[0], 0.0), &wave(N_POSITIONS * dims[1], 1.0), &slots);
    println!("latent, 16 heads, {} threads, {isa}, us a layer", pool.n_threads());
    for (n_rows, len) in [(1, 64), (1, 512), (1, 2048), (128, 512)] {
        let seqs = sequences(&[len], |_| n_rows);
        let [q, q_rope] = dims.map(|dim| wave(n_rows * n_heads * dim, 0.3));
        let mut out = q.clone();
        let us = median(1, |_| latent_attention(pool, isa, &q, &q_rope, &cache, &seqs, 0.1, &mut out));
        let n_ops = 2 * (2 * dims[0] + dims[1]) * n_heads * (len - n_rows + 1..=len).sum::<usize>();
        println!("  {n_rows} of {len:5} {us:9.1} us {:6.1} GFLOP/s", n_ops as f64 / us / 1e3);
    }
}

/// Sequences of these contexts, whose blocks follow each other.
fn sequences(lens: &[usize], n_rows: impl Fn(usize) -> usize) -> Vec<SeqSlice> {
    let mut first = 0;
    let slice = |len: &usize| {
        let blocks = first..first + len.div_ceil(BLOCK_LEN) as u32;
        first = blocks.end;
        SeqSlice {
            seq: SeqId(0),
            n_rows: n_rows(*len) as u32,
            context_len: *len as u32,
            n_logits: 0,
            blocks: blocks.map(BlockId).collect(),
        }
    };
    lens.iter().map(slice).collect()
}

fn named(lens: &[usize]) -> String {
    match lens {
        [len] => len.to_string(),
        _ if lens == MIXED => "8 of 70 to 1800".to_owned(),
        _ => format!("{} x {}", lens.len(), lens[0]),
    }
}

/// Microseconds of one call, where the calls go round `n` layers.
fn median(n: usize, mut call: impl FnMut(usize)) -> f64 {
    let mut layers = (0..n).cycle();
    let mut run = |n_calls: usize| {
        let start = Instant::now();
        layers.by_ref().take(n_calls).for_each(&mut call);
        start.elapsed().as_secs_f64() * 1e6 / n_calls as f64
    };
    let n_calls = (REPETITION_US / run(1).min(run(1))).ceil() as usize;
    let mut times: Vec<f64> = (0..N_REPEATS).map(|_| run(n_calls)).collect();
    times.sort_by(f64::total_cmp);
    times[N_REPEATS / 2]
}

/// Numbers between -1 and 1.
fn wave(n: usize, phase: f32) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 0.37 + phase).fract() * 2.0 - 1.0).collect()
}
