//! One model on one rank and on many: pipeline splits give the same bits, tensor splits the same greedy tokens.

mod common;

use std::path::Path;

use common::{Answers, Grid, answers, cpu, grid, max_delta, with_model};
use plan::BackendKind;
use weights::synthetic::Arch;

/// Largest difference of any log-probability between one rank and a tensor split: sums of partial products round
/// differently.
const MAX_TP_DELTA: f32 = 1e-2;

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
    with_model(arch, |path| {
        let one = cpu_answers(path, grid(1, 1));
        let uneven = Grid { tp: 2, pp: 1, split: Some(&[1, 2]) };
        for g in [grid(2, 1), uneven, grid(3, 1), grid(2, 2)] {
            let delta = max_delta(&one, &cpu_answers(path, g));
            println!("tp {} pp {} split {:?}: max |Δ log-probability| {delta}", g.tp, g.pp, g.split);
            assert!(delta < MAX_TP_DELTA, "tp {} pp {}: {delta}", g.tp, g.pp);
        }
    });
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
