//! One model on one rank and on many: pipeline splits give the same bits, tensor splits the same greedy tokens.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod common;

use std::{collections::BTreeMap, path::Path};

use common::{Answers, Grid, answers, cpu, grid, max_delta, with_model};
use plan::BackendKind;
use weights::synthetic::{Arch, Packing};

/// Largest difference of any log-probability between one rank and a tensor split: sums of partial products round
/// differently.
const MAX_TP_DELTA: f32 = 2e-2;
/// The mean difference for a prompt's first token where products round their inputs to 8 bits: what differs in its last bit may fall
/// to another code, and later tokens may be others. Columns cut in the wrong place make it several times larger.
const MAX_CODED_TP_DELTA: f32 = 0.15;

fn cpu_answers(path: &Path, grid: Grid) -> Answers {
    answers(path, grid, &[BackendKind::Cpu], cpu)
}

fn pipelines_give_the_same_bits(arch: Arch) {
    with_model(arch, |path| {
        let one = cpu_answers(path, grid(1, 1));
        assert!(one.values().all(|tokens| tokens.len() == 12));
        for pp in [2, 3, 5] {
            assert!(cpu_answers(path, grid(1, pp)) == one, "pp {pp} differs from one rank");
        }
    });
}

fn tensor_splits_agree(arch: Arch) {
    with_model(arch, |path| splits_agree(path, MAX_TP_DELTA, max_delta));
}

/// The mean over all words for the first token of every answer.
fn first_delta(a: &Answers, b: &Answers) -> f32 {
    let mut deltas = Vec::new();
    for (id, tokens) in a {
        let other: BTreeMap<_, _> = b[id][0].top.iter().copied().collect();
        deltas.extend(tokens[0].top.iter().map(|(t, lp)| (lp - other[t]).abs()));
    }
    deltas.iter().sum::<f32>() / deltas.len() as f32
}

fn splits_agree(path: &Path, max: f32, delta: impl Fn(&Answers, &Answers) -> f32) {
    let one = cpu_answers(path, grid(1, 1));
    let uneven = Grid { tp: 2, pp: 1, split: Some(&[1, 2]) };
    for g in [grid(2, 1), uneven, grid(3, 1), grid(2, 2)] {
        let delta = delta(&one, &cpu_answers(path, g));
        println!("tp {} pp {} split {:?}: |Δ log-probability| {delta}", g.tp, g.pp, g.split);
        assert!(delta < max, "tp {} pp {}: {delta}", g.tp, g.pp);
    }
}

#[test]
fn llama_pipelines_give_the_same_bits() {
    pipelines_give_the_same_bits(Arch::Llama);
}

#[test]
fn qwen2_pipelines_give_the_same_bits() {
    pipelines_give_the_same_bits(Arch::Qwen2);
}

#[test]
fn qwen3_pipelines_give_the_same_bits() {
    pipelines_give_the_same_bits(Arch::Qwen3);
}

#[test]
fn deepseek_v3_pipelines_give_the_same_bits() {
    pipelines_give_the_same_bits(Arch::DeepseekV3);
}

#[test]
fn deepseek_v3_tensor_splits_agree() {
    tensor_splits_agree(Arch::DeepseekV3);
}

#[test]
fn qwen3_moe_tensor_splits_agree() {
    tensor_splits_agree(Arch::Qwen3Moe);
}

#[test]
fn glm4_moe_tensor_splits_agree() {
    let dir = tempfile::tempdir().unwrap();
    common::recipe(Arch::Glm4Moe).write_hf(dir.path()).unwrap();
    splits_agree(dir.path(), MAX_TP_DELTA, max_delta);
}

/// Codes and their scales are cut too: between groups, by rows as by columns.
#[test]
fn int4_tensor_splits_agree() {
    let dir = tempfile::tempdir().unwrap();
    common::recipe(Arch::DeepseekV3).write_hf_packed(dir.path(), Packing::Int4).unwrap();
    splits_agree(dir.path(), MAX_CODED_TP_DELTA, first_delta);
}

#[test]
fn llama_tensor_splits_agree() {
    tensor_splits_agree(Arch::Llama);
}

#[test]
fn qwen2_tensor_splits_agree() {
    tensor_splits_agree(Arch::Qwen2);
}

#[test]
fn qwen3_tensor_splits_agree() {
    tensor_splits_agree(Arch::Qwen3);
}
