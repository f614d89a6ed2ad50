//! Runs one operation a number of times on fixed data, for a tool that counts instructions: one thread, AVX2, for such
//! tools know nothing wider. Without arguments it prints the operations' names. What is counted before the first call
//! drops out of a difference of two runs. `cargo run --release -p kernels --example count [operation n_calls]`

use std::hint::black_box;

use base::{BlockId, DType, MatrixView, SeqId, SeqSlice};
use kernels::{Isa, KvCache, PackedMatrix, Pool, RopeStyle, attention, matmul, rms_norm, rope, swiglu};

const ISA: Isa = Isa::Avx2;
/// Outputs and inputs of a weight.
const SHAPE: [usize; 2] = [128, 512];
/// Values of a hidden state.
const HIDDEN: usize = 576;
const N_HEADS: usize = 8;
const N_KV_HEADS: usize = 2;
const HEAD_DIM: usize = 64;
const N_KEYS: usize = 256;
const BLOCK_LEN: usize = 16;

/// One call of an operation, again and again on the same data.
type Call = Box<dyn FnMut()>;
/// Prepares the data.
type Prepare = fn() -> Call;

const OPERATIONS: [(&str, Prepare); 16] = [
    ("matmul-q4_0-1-row", || matmul_of(DType::Q4_0, 1)),
    ("matmul-q4_0-32-rows", || matmul_of(DType::Q4_0, 32)),
    ("matmul-q8_0-1-row", || matmul_of(DType::Q8_0, 1)),
    ("matmul-q8_0-32-rows", || matmul_of(DType::Q8_0, 32)),
    ("matmul-q4_k-1-row", || matmul_of(DType::Q4_K, 1)),
    ("matmul-q4_k-32-rows", || matmul_of(DType::Q4_K, 32)),
    ("matmul-q6_k-1-row", || matmul_of(DType::Q6_K, 1)),
    ("matmul-q6_k-32-rows", || matmul_of(DType::Q6_K, 32)),
    ("matmul-bf16-1-row", || matmul_of(DType::BF16, 1)),
    ("matmul-bf16-32-rows", || matmul_of(DType::BF16, 32)),
    ("attention-1-row", || attention_of(1)),
    ("attention-32-rows", || attention_of(32)),
    ("rms-norm", rms_norm_of_a_row),
    ("rope", rope_of_a_row),
    ("swiglu", swiglu_of_a_row),
    ("pack-q4_0", pack_q4_0),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, n_calls] = &args[..] else {
        return OPERATIONS.iter().for_each(|(name, _)| println!("{name}"));
    };
    let (_, prepare) = OPERATIONS.iter().find(|(known, _)| known == name).expect("a known operation");
    let mut call = prepare();
    for _ in 0..n_calls.parse::<usize>().expect("a number of calls") {
        call();
    }
}

/// w [128, 512] times some rows.
fn matmul_of(dtype: DType, n_rows: usize) -> Call {
    let [n_out, n_in] = SHAPE;
    let bytes = blocks(dtype, n_out * n_in);
    let view = MatrixView::whole(dtype, n_out, n_in, &bytes).expect("whole blocks");
    let pool = Pool::unpinned(1);
    let w = PackedMatrix::pack(&pool, &view).expect("a whole matrix");
    let (x, mut out) = (values(n_rows * n_in), vec![0.0; n_rows * n_out]);
    Box::new(move || {
        matmul(&pool, ISA, black_box(&x), &[&w], &mut [&mut out]);
        black_box(&mut out);
    })
}

/// The last rows of a sequence of 256 positions.
fn attention_of(n_rows: usize) -> Call {
    let seq = |n_rows: usize| SeqSlice {
        seq: SeqId(0),
        n_rows: n_rows as u32,
        context_len: N_KEYS as u32,
        n_logits: 0,
        blocks: (0..(N_KEYS / BLOCK_LEN) as u32).map(BlockId).collect(),
    };
    let mut cache = KvCache::new(N_KEYS / BLOCK_LEN, BLOCK_LEN, N_KV_HEADS, HEAD_DIM);
    let mut slots = Vec::new();
    cache.slots(&[seq(N_KEYS)], &mut slots);
    let kv = values(N_KEYS * N_KV_HEADS * HEAD_DIM);
    cache.write(&kv, &kv, &slots);
    let (pool, seqs, q) = (Pool::unpinned(1), [seq(n_rows)], values(n_rows * N_HEADS * HEAD_DIM));
    let mut out = q.clone();
    Box::new(move || {
        attention(&pool, ISA, black_box(&q), &cache, &seqs, 0.125, None, &mut out);
        black_box(&mut out);
    })
}

fn rms_norm_of_a_row() -> Call {
    let (x, weight, mut out) = (values(HIDDEN), values(HIDDEN), vec![0.0; HIDDEN]);
    Box::new(move || {
        rms_norm(ISA, black_box(&x), &weight, 1e-5, &mut out);
        black_box(&mut out);
    })
}

fn rope_of_a_row() -> Call {
    let (angles, mut x) = (values(HEAD_DIM / 2), values(N_HEADS * HEAD_DIM));
    Box::new(move || {
        rope(ISA, black_box(&mut x), 1, HEAD_DIM, &angles, &angles, RopeStyle::Half);
    })
}

fn swiglu_of_a_row() -> Call {
    let (mut gate, up) = (values(HIDDEN), values(HIDDEN));
    Box::new(move || {
        swiglu(ISA, black_box(&mut gate), &up);
    })
}

fn pack_q4_0() -> Call {
    let [n_out, n_in] = SHAPE;
    let (pool, bytes) = (Pool::unpinned(1), blocks(DType::Q4_0, n_out * n_in));
    Box::new(move || {
        let view = MatrixView::whole(DType::Q4_0, n_out, n_in, black_box(&bytes)).expect("whole blocks");
        black_box(PackedMatrix::pack(&pool, &view).expect("a whole matrix"));
    })
}

/// Small numbers, all below 1.
fn values(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i * 37 % 101) as f32 / 101.0 - 0.5).collect()
}

/// Blocks of any format; no byte makes a half float infinite or not a number.
fn blocks(dtype: DType, n: usize) -> Vec<u8> {
    let n_bytes = dtype.row_bytes(n).expect("whole blocks");
    (0..n_bytes).map(|i| (i * 37 % 101) as u8 & 0x3f).collect()
}
