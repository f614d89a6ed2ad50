//! Shapes that do not fit give an error that says what was expected and found, and leave the backend usable.

use base::{AffineView, BlockId, DType, MatrixView, WeightView};

use super::{
    Check, Failure, Make, Tolerance,
    approx::{close, given},
    attention::rope_spec,
    eval,
    sequences::{self, BLOCK_LEN, N_BLOCKS},
};
use crate::{
    AttentionSpec, Backend, BackendError, CacheRow, CacheSpec, ExpertParts, LatentParts, MlaSpec, Part,
    RopeStyle, RouterSpec, Scoring,
};

pub(super) fn checks<B: Backend>() -> Vec<(&'static str, Check<B>)> {
    vec![
        ("errors of weights", weights),
        ("errors of rows", rows),
        ("errors of attention", attention),
        ("errors of latent attention", mla),
        ("errors of experts", experts),
    ]
}

/// Zeros, as many as any weight here needs.
const ZEROS: [u8; 4 * 64 * 64] = [0; 4 * 64 * 64];

fn refused<T>(what: &str, result: Result<T, BackendError>) -> Result<(), Failure> {
    let Err(error) = result else { return Err(Failure(format!("{what}: expected an error, found none"))) };
    let text = error.to_string();
    if text.contains("expected") && text.contains("found") {
        return Ok(());
    }
    Err(Failure(format!("{what}: expected an error that names expected and found, found {text:?}")))
}

/// A backend that has failed still adds.
fn still_works<B: Backend>(b: &mut B) -> Result<(), Failure> {
    let x = b.tensor(&[1.0, 2.0], 2)?;
    let sum = b.add(x.clone(), &x)?;
    close("a sum after errors", &eval(b, &sum)?, &given(&[2.0, 4.0]))
}

fn zeros(n_rows: usize, n_cols: usize) -> WeightView<'static> {
    let (dtype, bytes) = (DType::F32, &ZEROS);
    WeightView::Blocks(MatrixView { dtype, n_rows, n_cols, row_stride: 4 * n_cols, col_start: 0, bytes })
}

fn part(n_rows: usize, n_cols: usize) -> Part<'static> {
    Part { weight: zeros(n_rows, n_cols), bias: None }
}

fn weights<B: Backend>(make: &mut Make<'_, B>, _: &Tolerance) -> Result<(), Failure> {
    let mut b = make()?;
    let bias = [0.0; 7];
    refused("a bias of other length", b.linear(&[Part { bias: Some(&bias), ..part(8, 32) }]))?;
    refused("parts of other inputs", b.linear(&[part(8, 32), part(8, 64)]))?;
    refused("a matrix beyond its bytes", b.linear(&[part(64, 128)]))?;
    let affine = AffineView {
        n_rows: 8,
        n_cols: 64,
        bits: 4,
        group_size: 32,
        code_stride: 32,
        codes: &ZEROS[..256],
        scale_dtype: DType::F16,
        scale_stride: 4,
        scales: &ZEROS[..32],
        biases: Some(&ZEROS[..32]),
    };
    let part = |view| [Part { weight: WeightView::Affine(view), bias: None }];
    b.linear(&part(affine))?;
    let short = AffineView { codes: &ZEROS[..255], ..affine };
    refused("too few codes", b.linear(&part(short)))?;
    refused("too few scales", b.linear(&part(AffineView { scales: &ZEROS[..31], ..affine })))?;
    refused("too few biases", b.linear(&part(AffineView { biases: Some(&ZEROS[..31]), ..affine })))?;
    refused("bits", b.linear(&part(AffineView { bits: 7, ..affine })))?;
    refused("group size", b.linear(&part(AffineView { group_size: 48, ..affine })))?;
    refused("columns", b.linear(&part(AffineView { group_size: 128, ..affine })))?;
    refused("scales of blocks", b.linear(&part(AffineView { scale_dtype: DType::Q4_0, ..affine })))?;
    refused("rows that overlap", b.linear(&part(AffineView { code_stride: 31, ..affine })))?;
    refused("too many rows", b.linear(&part(AffineView { n_rows: usize::MAX, ..affine })))?;
    still_works(&mut b)
}

fn rows<B: Backend>(make: &mut Make<'_, B>, _: &Tolerance) -> Result<(), Failure> {
    let mut b = make()?;
    let (one, two) = (b.linear(&[part(8, 32)])?, b.linear(&[part(8, 32), part(4, 32)])?);
    let (x, narrow) = (b.tensor(&[0.0; 64], 32)?, b.tensor(&[0.0; 64], 16)?);
    let (row, norm) = (b.tensor(&[0.0; 32], 32)?, b.norm(&[0.0; 32], 1e-5)?);
    refused("values beyond whole rows", b.tensor(&[0.0; 65], 32))?;
    refused("inputs of another width", b.matmul::<1>(&narrow, &one))?;
    refused("too many parts", b.matmul::<2>(&x, &one))?;
    refused("too few parts", b.matmul::<1>(&x, &two))?;
    refused("a norm of another width", b.rms_norm(&narrow, &norm))?;
    refused("a sum of other rows", b.add(x.clone(), &row))?;
    refused("a sum of other columns", b.add(x.clone(), &narrow))?;
    refused("a gate of other rows", b.swiglu(x.clone(), row))?;
    refused("a row beyond the last", b.select_rows(&x, &[0, 2]))?;
    let inputs = b.inputs(&sequences::batch(&[(0, 0..2)]))?;
    refused("a table of two parts", b.embed(&two, 0, &inputs))?;
    still_works(&mut b)
}

fn cache<B: Backend>(b: &mut B, row: CacheRow) -> Result<(), Failure> {
    Ok(b.allocate_cache(CacheSpec { n_layers: 1, n_blocks: N_BLOCKS, block_len: BLOCK_LEN, row })?)
}

fn batches<B: Backend>(b: &mut B) -> Result<(), Failure> {
    let good = sequences::batch(&[(0, 0..20)]);
    let mut bad = good.clone();
    bad.seqs[0].blocks.pop();
    refused("a block table that is too short", b.inputs(&bad))?;
    bad.seqs[0].blocks.push(BlockId(N_BLOCKS as u32));
    refused("a block beyond the cache", b.inputs(&bad))?;
    let mut bad = good.clone();
    bad.tokens.pop();
    refused("fewer tokens than rows", b.inputs(&bad))?;
    let mut bad = good;
    bad.seqs[0].context_len = 19;
    refused("a context shorter than its rows", b.inputs(&bad))
}

fn attention<B: Backend>(make: &mut Make<'_, B>, _: &Tolerance) -> Result<(), Failure> {
    let mut b = make()?;
    let good = AttentionSpec { n_heads: 4, n_kv_heads: 2, head_dim: 16, scale: 0.25, window: None };
    cache(&mut b, CacheRow::Heads { n_kv_heads: 2, head_dim: 16 })?;
    batches(&mut b)?;
    let inputs = b.inputs(&sequences::batch(&[(0, 0..2)]))?;
    let rope = b.rope_table(&rope_spec(RopeStyle::Half, 16, 1.0), &inputs)?;
    let wide = b.rope_table(&rope_spec(RopeStyle::Half, 18, 1.0), &inputs)?;
    let (q, k) = (b.tensor(&[0.0; 2 * 64], 64)?, b.tensor(&[0.0; 2 * 32], 32)?);
    let rows = b.tensor(&[0.0; 3 * 32], 32)?;
    let qkv = || [q.clone(), k.clone(), k.clone()];
    b.attention(qkv(), None, &rope, 0, &good, &inputs)?;
    let spec = AttentionSpec { head_dim: 8, ..good };
    refused("heads of another width", b.attention(qkv(), None, &rope, 0, &spec, &inputs))?;
    let spec = AttentionSpec { n_kv_heads: 4, ..good };
    let kv = [q.clone(), q.clone(), q.clone()];
    refused("more KV heads than the cache", b.attention(kv, None, &rope, 0, &spec, &inputs))?;
    let swapped = [k.clone(), q.clone(), k.clone()];
    refused("keys for queries", b.attention(swapped, None, &rope, 0, &good, &inputs))?;
    let other = [q.clone(), k.clone(), rows];
    refused("other rows", b.attention(other, None, &rope, 0, &good, &inputs))?;
    refused("more turned than a head has", b.attention(qkv(), None, &wide, 0, &good, &inputs))?;
    refused("a layer beyond the cache", b.attention(qkv(), None, &rope, 1, &good, &inputs))?;
    refused("norms of another width", b.head_norms(&[0.0; 32], &[0.0; 16], 1e-5, &good))?;
    still_works(&mut b)
}

fn mla<B: Backend>(make: &mut Make<'_, B>, _: &Tolerance) -> Result<(), Failure> {
    let mut b = make()?;
    let spec = MlaSpec { n_heads: 2, nope_dim: 16, rope_dim: 8, v_dim: 16, latent_dim: 32, scale: 0.2 };
    cache(&mut b, CacheRow::Latent { latent_dim: 32, rope_dim: 8 })?;
    let joined = |n_rows, n_cols| LatentParts::Joined(zeros(n_rows, n_cols));
    refused("other heads", b.latent_up(&joined(63, 32), &spec))?;
    refused("another latent", b.latent_up(&joined(64, 31), &spec))?;
    let one = [zeros(32, 16)];
    let apart = LatentParts::Apart { keys: &one, values: &one };
    refused("up-projections of too few heads", b.latent_up(&apart, &spec))?;
    let up = b.latent_up(&joined(64, 32), &spec)?;
    let inputs = b.inputs(&sequences::batch(&[(0, 0..2)]))?;
    let rope = b.rope_table(&rope_spec(RopeStyle::Interleaved, 8, 1.0), &inputs)?;
    let q = b.tensor(&[0.0; 2 * 48], 48)?;
    let (latent, k) = (b.tensor(&[0.0; 2 * 32], 32)?, b.tensor(&[0.0; 2 * 8], 8)?);
    b.mla([q.clone(), latent.clone(), k.clone()], &up, &rope, 0, &spec, &inputs)?;
    let swapped = [q.clone(), k.clone(), latent.clone()];
    refused("keys for latents", b.mla(swapped, &up, &rope, 0, &spec, &inputs))?;
    let narrow = [latent.clone(), latent.clone(), k.clone()];
    refused("too narrow queries", b.mla(narrow, &up, &rope, 0, &spec, &inputs))?;
    let good = [q, latent, k];
    refused("a layer beyond the cache", b.mla(good, &up, &rope, 1, &spec, &inputs))?;
    still_works(&mut b)
}

fn experts<B: Backend>(make: &mut Make<'_, B>, _: &Tolerance) -> Result<(), Failure> {
    let mut b = make()?;
    let (up, down) = ([zeros(32, 64), zeros(32, 64)], [zeros(64, 32), zeros(64, 32)]);
    let good = ExpertParts { first: 0, gate: &up, up: &up, down: &down };
    refused("one up too few", b.experts(&ExpertParts { up: &up[..1], ..good }))?;
    refused("up for down", b.experts(&ExpertParts { down: &up, ..good }))?;
    let mixed = [zeros(32, 64), zeros(16, 64)];
    refused("experts of other shapes", b.experts(&ExpertParts { gate: &mixed, ..good }))?;
    let adding_up = [zeros(40, 64), zeros(24, 64)];
    refused("experts whose rows only add up", b.experts(&ExpertParts { gate: &adding_up, ..good }))?;
    let experts = b.experts(&good)?;
    let spec = RouterSpec {
        scoring: Scoring::Softmax,
        n_groups: 2,
        n_top_groups: 1,
        top_k: 2,
        normalise: true,
        scale: 1.0,
    };
    let (x, logits) = (b.tensor(&[0.0; 128], 64)?, b.tensor(&[0.0; 8], 4)?);
    let row = b.tensor(&[0.0; 4], 4)?;
    refused("more experts than there are", b.route(&logits, None, &RouterSpec { top_k: 3, ..spec }))?;
    refused("no experts", b.route(&logits, None, &RouterSpec { top_k: 0, ..spec }))?;
    refused("groups that do not divide", b.route(&logits, None, &RouterSpec { n_groups: 3, ..spec }))?;
    refused("more groups than there are", b.route(&logits, None, &RouterSpec { n_top_groups: 3, ..spec }))?;
    refused("a correction of another width", b.route(&logits, Some(&x), &spec))?;
    let routing = b.route(&logits, Some(&row), &spec)?;
    refused("inputs of another width", b.moe(&logits, &experts, &routing))?;
    let three = b.tensor(&[0.0; 192], 64)?;
    refused("a routing of other rows", b.moe(&three, &experts, &routing))?;
    b.moe(&x, &experts, &routing)?;
    still_works(&mut b)
}
