//! Configurations that are wrong or meant to harm: an error that names what is wrong, or a sound description, never a
//! panic or a huge allocation.

#![allow(clippy::unwrap_used)] // a panic is how a check fails

use std::{fs, path::Path};

use models::{Description, ModelError};
use serde_json::{Value, json};
use weights::{
    Checkpoint,
    synthetic::{Arch, Recipe},
};

fn describe(dir: &Path, key: &str, value: &Value) -> Result<Description, ModelError> {
    let path = dir.join("config.json");
    let original = fs::read(&path).unwrap();
    let mut config: Value = serde_json::from_slice(&original).unwrap();
    config[key] = value.clone();
    fs::write(&path, config.to_string()).unwrap();
    let described = Checkpoint::open(dir).map_err(ModelError::from).and_then(|c| Description::read(&c));
    fs::write(&path, original).unwrap();
    described
}

#[test]
fn absurd_values_are_refused_or_harmless() {
    let keys = [
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_theta",
        "rope_scaling",
        "sliding_window",
        "model_type",
        "hidden_act",
    ];
    let of_experts = [
        "q_lora_rank",
        "kv_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
        "v_head_dim",
        "moe_intermediate_size",
        "n_routed_experts",
        "num_experts",
        "n_shared_experts",
        "num_experts_per_tok",
        "n_group",
        "topk_group",
        "first_k_dense_replace",
        "routed_scaling_factor",
        "partial_rotary_factor",
        "attention_bias",
        "text_config",
    ];
    let absurd = [
        json!(0),
        json!(-1),
        json!(1),
        json!(3),
        json!(4_294_967_295u64),
        json!(1e300),
        json!("x"),
        json!(null),
        json!([]),
        json!({"rope_type": "yarn"}),
        json!({"rope_type": "llama3", "factor": 0}),
        json!({"rope_type": "linear", "factor": "a"}),
    ];
    for arch in Arch::ALL {
        let dir = tempfile::tempdir().unwrap();
        Recipe::tiny(arch).write_hf(dir.path()).unwrap();
        let is_dense = matches!(arch, Arch::Llama | Arch::Qwen2 | Arch::Qwen3);
        for key in keys.into_iter().chain(of_experts.into_iter().filter(|_| !is_dense)) {
            for value in &absurd {
                if let Ok(description) = describe(dir.path(), key, value) {
                    assert_eq!(description.spec.n_layers(), description.config.n_layers, "{key} {value}");
                }
            }
        }
    }
}

#[test]
fn an_error_names_both_sides() {
    let dir = tempfile::tempdir().unwrap();
    Recipe::tiny(Arch::Llama).write_hf(dir.path()).unwrap();
    let says = |key: &str, value: Value, words: &[&str]| {
        let error = describe(dir.path(), key, &value).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{key}: {error}");
    };
    says("model_type", json!("mamba"), &["mamba", "llama", "qwen3", "hint:"]);
    says("intermediate_size", json!(96), &["mlp.gate_proj.weight", "[96, 64]", "[192, 64]"]);
    says("num_key_value_heads", json!(3), &["KV heads", "divisor of 4", "found 3"]);
    says("hidden_act", json!("relu"), &["hidden_act", "silu", "relu"]);
    says("rope_scaling", json!({"rope_type": "dynamic"}), &["rope_type", "yarn", "dynamic"]);
}
