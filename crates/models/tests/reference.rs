//! Our logits against a plain network in f64 that reads `config.json` and the tensors for itself and has no cache, no batches and no
//! absorbed projections: every key and value is made anew for every prompt.

#![allow(clippy::unwrap_used)] // a panic is how a check fails

mod common;
mod plain;

use std::{fs, path::Path};

use backend::{CpuBackend, Isa};
use collective::Solo;
use common::{CASES, Ours, sequences, sequences_of};
use kernels::Pool;
use models::Description;
use plain::Plain;
use plan::BackendKind;
use safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};
use serde_json::{Value, json};
use weights::{
    Checkpoint,
    synthetic::{Arch, Packing, Recipe},
};

/// Largest difference of any logit: the cache is rounded alike on both sides, but what lies between two half floats may fall to
/// either.
const MAX_DELTA: f64 = 5e-3;
/// Of the better half of the rows.
const MAX_MEDIAN: f64 = 1e-3;
/// Some logit must be at least as large, or agreement would mean little.
const MIN_LARGEST_LOGIT: f64 = 5.0;

/// Largest difference of a logit in every row of every case, smallest first.
fn deltas(ours: &Path, plain: &Plain) -> Vec<f64> {
    let backend = CpuBackend::new(Pool::new(&[]), Isa::detect(), Box::new(Solo));
    let mut ours = Ours::load(ours, BackendKind::Cpu, backend).unwrap();
    let mut deltas = Vec::new();
    for case in 0..CASES.len() {
        let sequences = &sequences()[sequences_of(case)];
        for (sequence, found) in sequences.iter().zip(ours.logits(sequences).unwrap()) {
            let expected = plain.logits(&sequence.tokens);
            assert_eq!(expected.concat().len(), found.len());
            let largest = expected.concat().iter().fold(0.0f64, |max, x| max.max(x.abs()));
            assert!(largest > MIN_LARGEST_LOGIT, "the largest logit is {largest}");
            for (expected, found) in expected.iter().zip(found.chunks(expected[0].len())) {
                let delta = expected.iter().zip(found).map(|(a, b)| (a - f64::from(*b)).abs());
                deltas.push(delta.max_by(f64::total_cmp).unwrap()); // NaN is the largest of all
            }
        }
    }
    deltas.sort_by(f64::total_cmp);
    deltas
}

fn check(name: &str, deltas: &[f64]) {
    let (median, worst) = (deltas[deltas.len() / 2], deltas[deltas.len() - 1]);
    println!("{name}: median {median:e}, worst {worst:e} of {} rows", deltas.len());
    assert!(median < MAX_MEDIAN && worst < MAX_DELTA, "{name}: median {median:e}, worst {worst:e}");
}

#[test]
fn logits_are_those_of_a_plain_network() {
    for (name, recipe) in Recipe::expert_family() {
        let dir = tempfile::tempdir().unwrap();
        recipe.write_hf(dir.path()).unwrap();
        let plain = Plain::open(dir.path());
        check(name, &deltas(dir.path(), &plain));
        if recipe.arch.has_gguf() {
            let gguf = dir.path().join("model.gguf");
            recipe.write_gguf(&gguf).unwrap();
            check(&format!("{name} as GGUF"), &deltas(&gguf, &plain));
        }
    }
}

/// Codes multiply as the numbers they stand for, but for activations that products with codes round to 8 bits: far more than that
/// would show if a scale, a group or an expert were read from the wrong place.
#[test]
fn codes_are_the_numbers_they_stand_for() {
    let packings = [
        (Packing::Int4, 0.15),
        (Packing::Fp8, MAX_MEDIAN),
        (Packing::Affine { bits: 4, group_size: 32 }, 0.4),
        (Packing::Affine { bits: 8, group_size: 32 }, 0.4),
        (Packing::Mxfp4, 0.15),
    ];
    for (packing, max_median) in packings {
        let recipe = Recipe { hidden: 128, ffn: 256, head_dim: 32, ..Recipe::tiny(Arch::DeepseekV3) };
        let dir = tempfile::tempdir().unwrap();
        recipe.write_hf_packed(dir.path(), packing).unwrap();
        let deltas = deltas(dir.path(), &Plain::open(dir.path()));
        let (median, worst) = (deltas[deltas.len() / 2], deltas[deltas.len() - 1]);
        println!("{packing:?}: median {median:e}, worst {worst:e} of {} rows", deltas.len());
        assert!(median < max_median, "{packing:?}: median {median:e}");
    }
}

/// The text network of a larger model: its configuration and its tensors lie one level deeper.
#[test]
fn a_nested_text_network_is_the_same() {
    let recipe = Recipe::tiny(Arch::DeepseekV3);
    let (flat, nested) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    recipe.write_hf(flat.path()).unwrap();
    let config: Value = serde_json::from_slice(&fs::read(flat.path().join("config.json")).unwrap()).unwrap();
    let config = json!({"model_type": "kimi_k25", "text_config": config});
    fs::write(nested.path().join("config.json"), config.to_string()).unwrap();
    let file = fs::read(flat.path().join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let renamed = tensors.iter().map(|(name, tensor)| (format!("language_model.{name}"), tensor));
    fs::write(nested.path().join("model.safetensors"), serialize(renamed, None).unwrap()).unwrap();
    check("nested", &deltas(nested.path(), &Plain::open(flat.path())));
}

/// Up-projections as MLX's converter leaves them: a stack of the keys' with rows and columns exchanged, and one of the values'.
#[test]
fn up_projections_apart_are_the_same() {
    let recipe = Recipe::tiny(Arch::DeepseekV3);
    let (joined, apart) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    recipe.write_hf(joined.path()).unwrap();
    fs::copy(joined.path().join("config.json"), apart.path().join("config.json")).unwrap();
    let file = fs::read(joined.path().join("model.safetensors")).unwrap();
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, tensor) in SafeTensors::deserialize(&file).unwrap().iter() {
        if !name.contains("kv_b_proj") {
            tensors.push((name.to_owned(), tensor.shape().to_vec(), tensor.data().to_vec()));
            continue;
        }
        let (n_heads, width, kv_rank) =
            (recipe.n_heads as usize, recipe.head_dim as usize, tensor.shape()[1]);
        let value = |row: usize, col: usize| &tensor.data()[(row * kv_rank + col) * 4..][..4];
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for head in 0..n_heads {
            let first = head * 2 * width;
            (0..kv_rank).for_each(|c| (0..width).for_each(|r| keys.extend(value(first + r, c))));
            (0..width).for_each(|r| (0..kv_rank).for_each(|c| values.extend(value(first + width + r, c))));
        }
        let name = |part: &str| name.replace("kv_b_proj", part);
        tensors.push((name("embed_q"), vec![n_heads, kv_rank, width], keys));
        tensors.push((name("unembed_out"), vec![n_heads, width, kv_rank], values));
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    fs::write(apart.path().join("model.safetensors"), serialize(views, None).unwrap()).unwrap();
    check("apart", &deltas(apart.path(), &Plain::open(joined.path())));
}

/// A tensor that a rank would need is missed before anything is made of the others.
#[test]
fn an_absent_expert_is_named() {
    let dir = tempfile::tempdir().unwrap();
    Recipe::tiny(Arch::DeepseekV3).write_hf(dir.path()).unwrap();
    let path = dir.path().join("model.safetensors");
    let file = fs::read(&path).unwrap();
    let all = SafeTensors::deserialize(&file).unwrap();
    let gone = "model.layers.1.mlp.experts.5.up_proj.weight";
    let views = all.iter().filter(|(name, _)| *name != gone);
    fs::write(&path, serialize(views, None).unwrap()).unwrap();
    let error = Description::read(&Checkpoint::open(dir.path()).unwrap()).unwrap_err().to_string();
    assert!(error.contains(gone) && error.contains("found none"), "{error}");

    let config = fs::read_to_string(dir.path().join("config.json")).unwrap();
    fs::write(&path, &file).unwrap();
    let says = |from: &str, to: &str, words: &[&str]| {
        assert!(config.contains(from));
        fs::write(dir.path().join("config.json"), config.replace(from, to)).unwrap();
        let error = Description::read(&Checkpoint::open(dir.path()).unwrap()).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    says("\"n_routed_experts\": 8", "\"n_routed_experts\": 16", &["mlp.gate.weight", "[16, 64]", "[8, 64]"]);
    says(
        "\"moe_intermediate_size\": 96",
        "\"moe_intermediate_size\": 64",
        &["experts.0", "[64, 64]", "[96, 64]"],
    );
    says("\"kv_lora_rank\": 32", "\"kv_lora_rank\": 48", &["kv_a_proj_with_mqa", "[56, 64]", "[40, 64]"]);
    says("\"n_group\": 4", "\"n_group\": 3", &["groups of experts", "divisor of 8", "found 3"]);
    says(
        "\"num_experts_per_tok\": 3",
        "\"num_experts_per_tok\": 5",
        &["experts of a token", "1 to 4", "found 5"],
    );
    says("\"noaux_tc\"", "\"greedy\"", &["topk_method", "noaux_tc", "greedy"]);
}
