//! What a matrix product costs in the shape of a model's feed-forward layer, for every format: one row, with weights
//! that come from memory and weights that stay in the cache, and many rows. Prints medians.
//! `cargo run --release -p kernels --example matmul [n_threads] [format..]`

use std::time::Instant;

use base::{DType, MatrixView};
use kernels::{Isa, PackedMatrix, Pool, matmul};

const FORMATS: [DType; 8] =
    [DType::Q4_0, DType::Q4_1, DType::Q5_K, DType::Q4_K, DType::Q6_K, DType::Q8_0, DType::F16, DType::BF16];
/// Outputs and inputs of a weight.
const SHAPE: [usize; 2] = [8192, 2048];
/// The same, of one that fits the level-2 cache.
const SMALL_SHAPE: [usize; 2] = [128, 2048];
/// Bytes of the weights that are taken in turn: more than any cache.
const ALL_BYTES: usize = 600 << 20;
const N_ROWS: usize = 256;
const N_REPEATS: usize = 7;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).map(|a| a.to_lowercase()).collect();
    let n_threads = args.iter().find_map(|a| a.parse().ok()).unwrap_or(1);
    let named: Vec<DType> =
        FORMATS.into_iter().filter(|f| args.contains(&f.to_string().to_lowercase())).collect();
    let pool = Pool::new(&(0..n_threads).collect::<Vec<_>>());
    println!("{n_threads} threads, {}", Isa::detect());
    for dtype in if named.is_empty() { FORMATS.to_vec() } else { named } {
        let w = weight(&pool, dtype, SHAPE);
        let bytes = SHAPE[0] * SHAPE[1] / dtype.block_len() * dtype.block_bytes();
        let ws: Vec<PackedMatrix> =
            (0..ALL_BYTES.div_ceil(bytes)).map(|_| weight(&pool, dtype, SHAPE)).collect();
        let from_memory = seconds(&pool, &ws, 1) / ws.len() as f64;
        drop(ws);
        let small = vec![weight(&pool, dtype, SMALL_SHAPE)];
        let share = (SMALL_SHAPE[0] * SMALL_SHAPE[1]) as f64 / (SHAPE[0] * SHAPE[1]) as f64;
        let from_cache = seconds(&pool, &small, 1) / share;
        let many = seconds(&pool, &[w], N_ROWS);
        println!(
            "{dtype:5}  1 row {:5.1} GB/s from memory {:6.1} GB/s from the cache  {N_ROWS} rows {:6.1} GOP/s",
            bytes as f64 / from_memory / 1e9,
            bytes as f64 / from_cache / 1e9,
            (2 * SHAPE[0] * SHAPE[1] * N_ROWS) as f64 / many / 1e9
        );
    }
}

fn weight(pool: &Pool, dtype: DType, [n_out, n_in]: [usize; 2]) -> PackedMatrix {
    let row_bytes = n_in / dtype.block_len() * dtype.block_bytes();
    // Scales of half floats near one.
    let bytes: Vec<u8> = (0..n_out * row_bytes).map(|i| if i % 2 == 1 { 0x3c } else { i as u8 }).collect();
    let view = MatrixView::whole(dtype, n_out, n_in, &bytes).expect("whole blocks");
    PackedMatrix::pack(pool, &view).expect("a whole matrix")
}

/// Median time of a product of some rows with each weight.
fn seconds(pool: &Pool, ws: &[PackedMatrix], n_rows: usize) -> f64 {
    let x: Vec<f32> = (0..n_rows * ws[0].n_cols()).map(|i| (i % 61) as f32 / 31.0 - 1.0).collect();
    let mut out = vec![0.0; n_rows * ws[0].n_rows()];
    let n_turns = if ws.len() == 1 && n_rows == 1 { 200 } else { 1 };
    let mut turn = || {
        for w in (0..n_turns).flat_map(|_| ws) {
            matmul(pool, Isa::detect(), &x, &[w], &mut [&mut out]);
        }
    };
    turn();
    let mut times: Vec<f64> = (0..N_REPEATS)
        .map(|_| {
            let start = Instant::now();
            turn();
            start.elapsed().as_secs_f64() / f64::from(n_turns)
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[N_REPEATS / 2]
}
