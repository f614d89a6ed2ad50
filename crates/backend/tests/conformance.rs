//! What every backend promises, operation by operation, against plain arithmetic in 64-bit floats; and that a row's
//! result depends on its sequence alone. One suite for all implementations: each is a call of `conforms`.

#![allow(clippy::unwrap_used)] // a panic is how a check fails

use backend::{AttentionSpec, Backend, CacheSpec, CpuBackend, Isa, RopeSpec, RopeStyle};
use base::{Batch, BlockId, DType, MatrixView, SeqId, SeqSlice, TokenId};
use collective::Solo;

/// Largest difference from 64-bit arithmetic, for values of about 1: 32-bit sums, a 16-bit cache, 8-bit nothing.
const TOLERANCE: f64 = 2e-3;

const HEADS: AttentionSpec =
    AttentionSpec { n_heads: 4, n_kv_heads: 2, head_dim: 16, scale: 0.25, window: None };
const BLOCK_LEN: usize = 16;

#[test]
fn cpu_conforms() {
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for n_threads in [1, 2] {
            conforms(|| CpuBackend::new(kernels::Pool::unpinned(n_threads), isa, Box::new(Solo)));
        }
    }
}

/// All checks on fresh backends.
fn conforms<B: Backend>(make: impl Fn() -> B) {
    multiplies(&mut make());
    looks_words_up(&mut make());
    normalises(&mut make());
    rotates(&mut make());
    combines(&mut make());
    attends(&mut make(), None);
    attends(&mut make(), Some(5));
    does_not_mind_company(&make);
    names_shapes_that_do_not_fit(&mut make());
}

fn multiplies<B: Backend>(b: &mut B) {
    let (n_rows, n_in) = (3, 64);
    let x = values(1, n_rows * n_in);
    let (w1, w2, bias) = (values(2, 20 * n_in), values(3, 7 * n_in), values(4, 20));
    let first = linear(b, &w1, n_in, Some(&bias));
    let second = linear(b, &w2, n_in, None);
    let input = b.tensor(&x, n_in).unwrap();
    let [y1, y2] = b.matmul(&input, [&first, &second]).unwrap();
    let product = |w: &[f32], n_out: usize, bias: Option<&[f32]>| {
        let cell = |i: usize| {
            let (row, out) = (i / n_out, i % n_out);
            let dot = (0..n_in).map(|k| f64::from(x[row * n_in + k]) * f64::from(w[out * n_in + k]));
            dot.sum::<f64>() + bias.map_or(0.0, |b| f64::from(b[out]))
        };
        (0..n_rows * n_out).map(cell).collect::<Vec<f64>>()
    };
    close("matmul with bias", &eval(b, &y1), &product(&w1, 20, Some(&bias)));
    close("matmul", &eval(b, &y2), &product(&w2, 7, None));
}

fn looks_words_up<B: Backend>(b: &mut B) {
    let table = values(5, 10 * 32);
    let weight = linear(b, &table, 32, None);
    // the table holds words 5..15 of the vocabulary
    let inputs = inputs(b, &[5, 14, 4, 15], &[(0, 4, 4)]);
    let rows = b.embed(&weight, 5, &inputs).unwrap();
    let zeros = [0.0f32; 64];
    let expected: Vec<f64> =
        [&table[..32], &table[9 * 32..], &zeros].concat().into_iter().map(f64::from).collect();
    close("embed", &eval(b, &rows), &expected);
}

fn normalises<B: Backend>(b: &mut B) {
    let (x, weight) = (values(6, 2 * 48), values(7, 16));
    let (input, norm) = (b.tensor(&x, 48).unwrap(), b.tensor(&weight, 16).unwrap());
    let y = b.rms_norm(&input, &norm, 1e-5).unwrap();
    let expected = x.chunks(16).flat_map(|run| {
        let mean = run.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / 16.0;
        let inverse = 1.0 / (mean + 1e-5).sqrt();
        run.iter().zip(&weight).map(move |(&v, &w)| f64::from(v) * inverse * f64::from(w)).collect::<Vec<_>>()
    });
    close("rms_norm over runs of a row", &eval(b, &y), &expected.collect::<Vec<_>>());
}

fn rotates<B: Backend>(b: &mut B) {
    for style in [RopeStyle::Half, RopeStyle::Interleaved] {
        // 6 of 8 values of a head turn
        let spec = RopeSpec { style, inv_freq: vec![1.0, 0.5, 0.1], factor: 1.5 };
        let x = values(8, 2 * 16);
        let inputs = inputs(b, &[0, 0], &[(0, 2, 9)]);
        let table = b.rope_table(&spec, &inputs).unwrap();
        let input = b.tensor(&x, 16).unwrap();
        let y = b.rope(input, 8, &table).unwrap();
        let mut expected: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
        for (i, head) in expected.chunks_mut(8).enumerate() {
            rotate(head, &spec, 7 + i / 2);
        }
        close("rope", &eval(b, &y), &expected);
    }
}

fn rotate(head: &mut [f64], spec: &RopeSpec, position: usize) {
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

fn combines<B: Backend>(b: &mut B) {
    let (x, y) = (values(9, 40), values(10, 40));
    let (gate, up) = (b.tensor(&x, 20).unwrap(), b.tensor(&y, 20).unwrap());
    let both = || x.iter().zip(&y).map(|(&x, &y)| (f64::from(x), f64::from(y)));
    let gated = b.swiglu(&gate, &up).unwrap();
    close("swiglu", &eval(b, &gated), &both().map(|(x, y)| x / (1.0 + (-x).exp()) * y).collect::<Vec<_>>());
    let sum = b.add(gate.clone(), &up).unwrap();
    close("add", &eval(b, &sum), &both().map(|(x, y)| x + y).collect::<Vec<_>>());
    close("an operand that is used again", &eval(b, &gate), &both().map(|(x, _)| x).collect::<Vec<_>>());
    let row = b.select_rows(&gate, &[1]).unwrap();
    close("select_rows", &eval(b, &row), &both().skip(20).map(|(x, _)| x).collect::<Vec<_>>());
    let alone = b.all_reduce(gate).unwrap();
    close("all_reduce of one", &eval(b, &alone), &both().map(|(x, _)| x).collect::<Vec<_>>());
}

/// A prompt in two chunks, then a token: each row sees what came before it, within the window.
fn attends<B: Backend>(b: &mut B, window: Option<u32>) {
    let spec = AttentionSpec { window, ..HEADS };
    cache(b);
    let n = 24;
    let [q, k, v] = qkv(n);
    let mut found = Vec::new();
    for (start, end) in [(0, 17), (17, 23), (23, 24)] {
        let rows = end - start;
        let inputs = inputs(b, &vec![0; rows], &[(0, rows, end)]);
        found.extend(attention(b, &spec, &inputs, [&q, &k, &v], start..end));
    }
    close("attention", &found, &attention_reference(&spec, &q, &k, &v, n));
}

fn attention_reference(spec: &AttentionSpec, q: &[f32], k: &[f32], v: &[f32], n: usize) -> Vec<f64> {
    let (dim, group) = (spec.head_dim, spec.n_heads / spec.n_kv_heads);
    let at = |x: &[f32], row: usize, head: usize, n_heads: usize, d: usize| {
        f64::from(x[(row * n_heads + head) * dim + d])
    };
    let mut out = Vec::new();
    for row in 0..n {
        let first = spec.window.map_or(0, |w| (row + 1).saturating_sub(w as usize));
        for head in 0..spec.n_heads {
            let score = |key: usize| {
                let dot = (0..dim).map(|d| {
                    at(q, row, head, spec.n_heads, d) * at(k, key, head / group, spec.n_kv_heads, d)
                });
                (dot.sum::<f64>() * f64::from(spec.scale)).exp()
            };
            let scores: Vec<f64> = (first..=row).map(score).collect();
            let total: f64 = scores.iter().sum();
            out.extend((0..dim).map(|d| {
                let keys = (first..=row).zip(&scores);
                keys.map(|(key, s)| s / total * at(v, key, head / group, spec.n_kv_heads, d)).sum::<f64>()
            }));
        }
    }
    out
}

/// Two sequences together give the bits that each gives alone.
fn does_not_mind_company<B: Backend>(make: &impl Fn() -> B) {
    let [q, k, v] = qkv(30);
    let mut together = make();
    cache(&mut together);
    let both = inputs(&mut together, &[0; 30], &[(0, 20, 20), (2, 10, 10)]);
    let rows = attention(&mut together, &HEADS, &both, [&q, &k, &v], 0..30);
    let mut alone = Vec::new();
    for (first_block, range) in [(0, 0..20), (2, 20..30)] {
        let mut b = make();
        cache(&mut b);
        let n = range.len();
        let one = inputs(&mut b, &vec![0; n], &[(first_block, n, n)]);
        alone.extend(attention(&mut b, &HEADS, &one, [&q, &k, &v], range));
    }
    assert!(rows == alone, "attention of two sequences differs from each alone");

    let (x, w) = (values(11, 30 * 64), values(12, 24 * 64));
    let mut b = make();
    let weight = linear(&mut b, &w, 64, None);
    let mut product = |rows: &[f32]| {
        let x = b.tensor(rows, 64).unwrap();
        let [y] = b.matmul(&x, [&weight]).unwrap();
        eval(&mut b, &y)
    };
    let single: Vec<f32> = x.chunks(64).flat_map(&mut product).collect();
    assert!(product(&x) == single, "matmul of 30 rows differs from each alone");
}

fn names_shapes_that_do_not_fit<B: Backend>(b: &mut B) {
    let weight = linear(b, &values(13, 4 * 64), 64, None);
    let x = b.tensor(&values(14, 32), 32).unwrap();
    let error = b.matmul(&x, [&weight]).err().unwrap().to_string();
    assert!(error.contains("expected 64") && error.contains("found 32"), "{error}");
}

/// Values between -1 and 1, fixed by `seed`.
fn values(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    std::iter::repeat_with(next).take(n).collect()
}

fn qkv(n: usize) -> [Vec<f32>; 3] {
    let width = |heads: usize| n * heads * HEADS.head_dim;
    [
        values(20, width(HEADS.n_heads)),
        values(21, width(HEADS.n_kv_heads)),
        values(22, width(HEADS.n_kv_heads)),
    ]
}

fn linear<B: Backend>(b: &mut B, weight: &[f32], n_in: usize, bias: Option<&[f32]>) -> B::Linear {
    let bytes: Vec<u8> = weight.iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = MatrixView::whole(DType::F32, weight.len() / n_in, n_in, &bytes).unwrap();
    b.linear(&view, bias).unwrap()
}

fn cache<B: Backend>(b: &mut B) {
    let AttentionSpec { n_kv_heads, head_dim, .. } = HEADS;
    let spec = CacheSpec { n_layers: 1, n_blocks: 4, block_len: BLOCK_LEN, n_kv_heads, head_dim };
    b.allocate_cache(spec).unwrap();
}

/// A step of sequences given as (first block, rows, context length).
fn inputs<B: Backend>(b: &mut B, tokens: &[u32], seqs: &[(u32, usize, usize)]) -> B::Inputs {
    let seq = |(i, &(first, n_rows, context_len)): (usize, &(u32, usize, usize))| SeqSlice {
        seq: SeqId(i as u64),
        n_rows: n_rows as u32,
        context_len: context_len as u32,
        n_logits: 0,
        blocks: (first..first + context_len.div_ceil(BLOCK_LEN) as u32).map(BlockId).collect(),
    };
    let tokens = tokens.iter().map(|&t| TokenId(t)).collect();
    b.inputs(&Batch { tokens, seqs: seqs.iter().enumerate().map(seq).collect() }).unwrap()
}

/// Attention of some rows of `qkv`.
fn attention<B: Backend>(
    b: &mut B,
    spec: &AttentionSpec,
    inputs: &B::Inputs,
    qkv: [&[f32]; 3],
    rows: std::ops::Range<usize>,
) -> Vec<f32> {
    let heads = [spec.n_heads, spec.n_kv_heads, spec.n_kv_heads];
    let [q, k, v] = std::array::from_fn(|i| {
        let width = heads[i] * spec.head_dim;
        b.tensor(&qkv[i][rows.start * width..rows.end * width], width).unwrap()
    });
    let out = b.attention([&q, &k, &v], 0, spec, inputs).unwrap();
    eval(b, &out)
}

fn eval<B: Backend>(b: &mut B, x: &B::Tensor) -> Vec<f32> {
    let mut out = Vec::new();
    b.eval(x, &mut out).unwrap();
    out
}

fn close(what: &str, found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}: number of values");
    for (i, (&f, &e)) in found.iter().zip(expected).enumerate() {
        assert!((f64::from(f) - e).abs() < TOLERANCE, "{what}, value {i}: expected {e}, found {f}");
    }
}
