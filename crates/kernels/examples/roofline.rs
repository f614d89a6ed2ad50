//! How close the kernels come to the machine: one-row matmul against a plain read of the same memory, and matmul of
//! many rows in operations per second. Prints a table; the best of many short runs, as other programs disturb.
//! `cargo run --release -p kernels --example roofline [n_threads..] [format..]`
//! With `--json` it measures only the machine, memory and dot products in registers, for whoever compares with it.
#![allow(unsafe_code)] // the dot products are intrinsics

use std::hint::black_box;
use std::time::Instant;

use base::{BlockId, DType, MatrixView, SeqId, SeqSlice};
use kernels::{Isa, KvCache, PackedMatrix, Pool, attention, matmul};

/// Outputs and inputs of every matrix: read in less than a millisecond, so that some runs are not interrupted.
const SHAPE: [usize; 2] = [2048, 2048];
/// Memory of the matrices of a format, larger than any cache.
const SET_BYTES: usize = 256 << 20;
/// Memory of one plain read.
const READ_BYTES: usize = 4 << 20;
/// Rows of the many-row matmul.
const N_ROWS: usize = 96;
const N_REPEATS: usize = 7;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let n_threads: Vec<usize> = args.iter().filter_map(|a| a.parse().ok()).collect();
    let named = |dtype: &DType| args.iter().any(|a| a == dtype.name());
    let all = !DType::ALL.iter().any(named);
    let n_threads = if n_threads.is_empty() { vec![1, 2] } else { n_threads };
    for n in n_threads {
        let pool = Pool::new(&(0..n).collect::<Vec<_>>());
        if args.iter().any(|a| a == "--json") {
            let [read, int8, bf16] = [read(&pool), peak::int8(&pool), peak::bf16(&pool)];
            println!(
                r#"{{"threads": {n}, "read_gb_s": {read:.2}, "int8_gop_s": {int8:.1}, "bf16_gop_s": {bf16:.1}}}"#
            );
            continue;
        }
        println!("{n} threads: read {:.1} GB/s, {:.2} us per call of the pool", read(&pool), barrier(&pool));
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available() && *isa != Isa::Scalar) {
            for dtype in DType::ALL.into_iter().filter(|dtype| all || named(dtype)) {
                formats(&pool, isa, dtype);
            }
            for context_len in [256, 2048] {
                decode_attention(&pool, isa, context_len);
            }
        }
    }
}

/// Seconds of one of the fastest runs over `n` things.
fn best(n: usize, mut run: impl FnMut(usize)) -> f64 {
    let mut seconds: Vec<f64> = (0..n * N_REPEATS)
        .map(|i| {
            let start = Instant::now();
            run(i % n);
            start.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 20]
}

fn read(pool: &Pool) -> f64 {
    let data = vec![1u64; SET_BYTES / 8];
    let seconds = best(SET_BYTES / READ_BYTES, |i| {
        let data = &data[i * READ_BYTES / 8..(i + 1) * READ_BYTES / 8];
        pool.run(|part, n_parts| {
            let share = &data[data.len() * part / n_parts..data.len() * (part + 1) / n_parts];
            let mut sums = [0u64; 64];
            for chunk in share.as_chunks::<64>().0 {
                sums.iter_mut().zip(chunk).for_each(|(s, v)| *s ^= v);
            }
            black_box(sums);
        });
    });
    READ_BYTES as f64 / seconds / 1e9
}

fn barrier(pool: &Pool) -> f64 {
    const N_CALLS: usize = 500;
    best(20, |_| (0..N_CALLS).for_each(|_| pool.run(|_, _| ()))) / N_CALLS as f64 * 1e6
}

fn formats(pool: &Pool, isa: Isa, dtype: DType) {
    let [n_out, n_in] = SHAPE;
    let bytes = random_blocks(dtype, n_out * n_in);
    let view = MatrixView::whole(dtype, n_out, n_in, &bytes).expect("whole blocks");
    let start = Instant::now();
    let first = PackedMatrix::pack(pool, &view).expect("a whole matrix");
    let pack_rate = bytes.len() as f64 / start.elapsed().as_secs_f64() / 1e9;
    let n_matrices = SET_BYTES.div_ceil(first.bytes().0 as usize);
    let mut ws = vec![first];
    ws.extend((1..n_matrices).map(|_| PackedMatrix::pack(pool, &view).expect("a whole matrix")));
    let set_bytes: u64 = ws.iter().map(|w| w.bytes().0).sum();

    let x: Vec<f32> = (0..N_ROWS * n_in).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut out = vec![0.0; N_ROWS * n_out];
    let one = best(ws.len(), |i| matmul(pool, isa, &x[..n_in], &[&ws[i]], &mut [&mut out[..n_out]]));
    let many = best(10, |_| matmul(pool, isa, &x, &[&ws[0]], &mut [&mut out]));
    println!(
        "{isa:8} {dtype:5} {:5.2} bits  1 row {:6.1} GB/s   {N_ROWS} rows {:6.1} GOP/s   pack {pack_rate:.2} GB/s",
        set_bytes as f64 * 8.0 / (n_matrices * n_out * n_in) as f64,
        ws[0].bytes().0 as f64 / one / 1e9,
        (2 * N_ROWS * n_out * n_in) as f64 / many / 1e9,
    );
}

fn decode_attention(pool: &Pool, isa: Isa, context_len: usize) {
    const N_HEADS: usize = 32;
    const N_KV_HEADS: usize = 8;
    const HEAD_DIM: usize = 64;
    let mut cache = KvCache::new(context_len / 16, 16, N_KV_HEADS, HEAD_DIM);
    let kv: Vec<f32> = (0..context_len * N_KV_HEADS * HEAD_DIM).map(|i| (i as f32 * 0.7).sin()).collect();
    let mut slots = Vec::new();
    let mut seq = SeqSlice {
        seq: SeqId(0),
        n_rows: context_len as u32,
        context_len: context_len as u32,
        n_logits: 0,
        blocks: (0..context_len as u32 / 16).map(BlockId).collect(),
    };
    cache.slots(std::slice::from_ref(&seq), &mut slots);
    cache.write(&kv, &kv, &slots);
    let q: Vec<f32> = (0..context_len * N_HEADS * HEAD_DIM).map(|i| (i as f32 * 0.3).cos()).collect();
    let mut out = q.clone();
    let row = N_HEADS * HEAD_DIM;
    let mut time = |n_rows: usize| {
        seq.n_rows = n_rows as u32;
        let seqs = std::slice::from_ref(&seq);
        let n = n_rows * row;
        best(20, |_| attention(pool, isa, &q[..n], &cache, seqs, 0.125, None, &mut out[..n]))
    };
    let (one, many) = (time(1), time(16));
    println!(
        "{isa:8} attention over {context_len} keys: 1 row {:.1} us, {:.1} GB/s; 16 rows {:.1} GOP/s",
        one * 1e6,
        cache.bytes().0 as f64 / one / 1e9,
        (4 * context_len * row * 16) as f64 / many / 1e9
    );
}

/// Random blocks; bytes that could make a half float infinite or not a number are kept small.
fn random_blocks(dtype: DType, n: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as u8 & 0x3f
    };
    (0..dtype.row_bytes(n).expect("whole blocks")).map(|_| next()).collect()
}

/// Most operations per second: dot products of registers with registers, enough sums at once to hide their latency.
/// 0 where the instruction is missing.
#[cfg(target_arch = "x86_64")]
mod peak {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use kernels::Pool;

    /// Sums of a thread that do not wait for each other.
    const N_SUMS: usize = 16;
    /// Dot products into each sum in one run.
    const N_STEPS: usize = 20_000;
    /// Numbers in a register: products of 8-bit and of 16-bit values.
    const N_INT8: usize = 64;
    const N_BF16: usize = 32;

    pub(super) fn int8(pool: &Pool) -> f64 {
        if is_x86_feature_detected!("avx512vnni") {
            // SAFETY: the processor has the feature, and AVX-512F with it
            return giga_ops(pool, N_INT8, || unsafe { int8_dots() });
        }
        0.0
    }

    pub(super) fn bf16(pool: &Pool) -> f64 {
        if is_x86_feature_detected!("avx512bf16") {
            // SAFETY: the processor has the feature, and AVX-512F with it
            return giga_ops(pool, N_BF16, || unsafe { bf16_dots() });
        }
        0.0
    }

    fn giga_ops(pool: &Pool, n_products: usize, dots: impl Fn() + Sync) -> f64 {
        let n_threads = pool.n_threads();
        let seconds = super::best(20, |_| pool.run(|_, _| dots()));
        (2 * n_products * N_SUMS * N_STEPS * n_threads) as f64 / seconds / 1e9
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn int8_dots() {
        let (a, b) = black_box((_mm512_set1_epi8(1), _mm512_set1_epi8(2)));
        let mut sums = [_mm512_setzero_si512(); N_SUMS];
        for _ in 0..N_STEPS {
            for sum in &mut sums {
                *sum = _mm512_dpbusd_epi32(*sum, a, b);
            }
        }
        black_box(sums);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn bf16_dots() {
        let (a, b) = black_box((_mm512_set1_ps(1.0), _mm512_set1_ps(2.0)));
        let (a, b) = (_mm512_cvtne2ps_pbh(a, a), _mm512_cvtne2ps_pbh(b, b));
        let mut sums = [_mm512_setzero_ps(); N_SUMS];
        for _ in 0..N_STEPS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, a, b);
            }
        }
        black_box(sums);
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod peak {
    use kernels::Pool;

    pub(super) fn int8(_: &Pool) -> f64 {
        0.0
    }

    pub(super) fn bf16(_: &Pool) -> f64 {
        0.0
    }
}
