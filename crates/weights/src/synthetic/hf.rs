//! A recipe as a Hugging Face directory: config.json, safetensors files, tokenizer.json, tokenizer_config.json.

use std::{
    fs::{self, File},
    io::BufWriter,
    path::Path,
};

use base::DType;
use serde_json::{Value, json};

use super::{
    Arch, Experts, Quant, RMS_EPSILON, ROPE_FACTOR, ROPE_ORIGINAL_CONTEXT, Recipe, RecipeError, Rope,
    gguf::WRITE_BUFFER_BYTES,
    random::write_tensor,
    tensors::Planned,
    vocabulary::{CHAT_TEMPLATE, END_OF_TEXT, SPECIAL, TURN_END, Vocabulary},
};
use crate::{TensorInfo, hf::Writer};

/// How the qwen tokenizers cut a text before merging.
const QWEN_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

pub(super) fn write(
    recipe: &Recipe,
    planned: &[Planned],
    dir: &Path,
    n_shards: u32,
) -> Result<(), RecipeError> {
    let dtype = match recipe.quant {
        Quant::Uniform(dtype) if dtype.block_len() == 1 => dtype,
        _ => return Err(RecipeError::HfDType { found: recipe.quant }),
    };
    write_texts(recipe, dir, dtype, &[])?;
    let mut weight_map = serde_json::Map::new();
    let mut total = 0;
    for (i, tensors) in share_out(planned, n_shards as usize).into_iter().enumerate() {
        let name = match n_shards {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{n_shards:05}.safetensors", i + 1),
        };
        write_shard(recipe, tensors, dtype, &dir.join(&name))?;
        for tensor in tensors {
            weight_map.insert(tensor.hf_name.clone(), Value::String(name.clone()));
            total += tensor.info.n_values().unwrap_or(0) * dtype.block_bytes();
        }
    }
    if n_shards > 1 {
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        write_json(dir, "model.safetensors.index.json", &index)?;
    }
    Ok(())
}

/// The files beside the weights; `more` is added to the configuration.
pub(super) fn write_texts(
    recipe: &Recipe,
    dir: &Path,
    dtype: DType,
    more: &[(&'static str, Value)],
) -> Result<(), RecipeError> {
    let mut config = config(recipe, dtype);
    for (key, value) in more {
        config[key] = value.clone();
    }
    write_json(dir, "config.json", &config)?;
    write_json(dir, "tokenizer.json", &tokenizer(recipe))?;
    write_json(dir, "tokenizer_config.json", &tokenizer_config())
}

/// Cuts the list into runs of about the same number of values, none empty.
fn share_out(mut planned: &[Planned], n_shards: usize) -> Vec<&[Planned]> {
    let size = |tensors: &[Planned]| tensors.iter().map(|t| t.info.n_values().unwrap_or(0)).sum::<usize>();
    let mut shards = Vec::new();
    for left in (1..=n_shards).rev() {
        let goal = size(planned) / left;
        // at least one here, and one for each file that follows
        let most = planned.len() + 1 - left;
        let n = (1..most).find(|n| size(&planned[..*n]) >= goal).unwrap_or(most);
        let (shard, rest) = planned.split_at(n);
        shards.push(shard);
        planned = rest;
    }
    shards
}

fn write_shard(recipe: &Recipe, tensors: &[Planned], dtype: DType, path: &Path) -> Result<(), RecipeError> {
    let mut writer = Writer::new();
    for tensor in tensors {
        let shape = tensor.info.shape.clone();
        writer.tensor(TensorInfo { name: tensor.hf_name.clone(), dtype, shape });
    }
    let file = File::create(path).map_err(|source| RecipeError::Io { path: path.to_owned(), source })?;
    let mut tensors = tensors.iter();
    writer.write(BufWriter::with_capacity(WRITE_BUFFER_BYTES, file), |info, out| {
        let Some(tensor) = tensors.next() else { return Ok(()) };
        write_tensor(out, recipe.seed, tensor, info.dtype, |row| row)
    })?;
    Ok(())
}

fn write_json(dir: &Path, name: &str, value: &Value) -> Result<(), RecipeError> {
    let path = dir.join(name);
    fs::write(&path, format!("{value:#}\n")).map_err(|source| RecipeError::Io { path, source })
}

fn config(recipe: &Recipe, dtype: DType) -> Value {
    let vocabulary = Vocabulary::new(recipe.vocab);
    let (class, bias) = match recipe.arch {
        Arch::Llama => ("LlamaForCausalLM", false),
        Arch::Qwen2 => ("Qwen2ForCausalLM", true),
        Arch::Qwen3 => ("Qwen3ForCausalLM", false),
        Arch::DeepseekV3 => ("DeepseekV3ForCausalLM", false),
        Arch::Qwen3Moe => ("Qwen3MoeForCausalLM", false),
        Arch::Glm4Moe => ("Glm4MoeForCausalLM", true),
    };
    let dtype = match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    };
    let mut config = json!({
        "architectures": [class],
        "model_type": recipe.arch.name(),
        "hidden_size": recipe.hidden,
        "intermediate_size": recipe.ffn,
        "num_hidden_layers": recipe.n_layers,
        "num_attention_heads": recipe.n_heads,
        "num_key_value_heads": recipe.n_kv_heads,
        "head_dim": recipe.head_dim,
        "vocab_size": recipe.vocab,
        "max_position_embeddings": recipe.context,
        "rms_norm_eps": shortest(RMS_EPSILON),
        "rope_theta": recipe.arch.rope_theta(),
        "rope_scaling": rope_scaling(recipe),
        "hidden_act": "silu",
        "attention_bias": bias,
        "mlp_bias": false,
        "use_sliding_window": false,
        "tie_word_embeddings": recipe.tied,
        "torch_dtype": dtype,
        "bos_token_id": vocabulary.special_id(END_OF_TEXT),
        "eos_token_id": vocabulary.special_id(TURN_END),
        "pad_token_id": vocabulary.special_id(END_OF_TEXT),
    });
    let of_latent = || {
        vec![
            ("q_lora_rank", json!(recipe.q_rank())),
            ("kv_lora_rank", json!(recipe.kv_rank())),
            ("qk_nope_head_dim", json!(recipe.head_dim)),
            ("qk_rope_head_dim", json!(recipe.rope_dim())),
            ("v_head_dim", json!(recipe.head_dim)),
            ("num_key_value_heads", json!(recipe.n_heads)),
        ]
    };
    let of_arch = match recipe.arch {
        Arch::DeepseekV3 => of_latent(),
        Arch::Qwen3Moe => vec![
            ("num_experts", json!(recipe.experts().map(|e| e.n))),
            ("decoder_sparse_step", json!(1)),
            ("mlp_only_layers", json!([])),
        ],
        Arch::Glm4Moe => vec![("use_qk_norm", json!(true)), ("partial_rotary_factor", json!(0.5))],
        Arch::Llama | Arch::Qwen2 | Arch::Qwen3 => vec![],
    };
    let of_experts = recipe.experts().map(|experts| expert_config(&experts)).unwrap_or_default();
    for (key, value) in of_arch.into_iter().chain(of_experts) {
        config[key] = value;
    }
    config
}

fn expert_config(experts: &Experts) -> Vec<(&'static str, Value)> {
    vec![
        ("moe_intermediate_size", json!(experts.ffn)),
        ("n_routed_experts", json!(experts.n)),
        ("n_shared_experts", json!(experts.n_shared)),
        ("num_experts_per_tok", json!(experts.top_k)),
        ("n_group", json!(experts.n_groups)),
        ("topk_group", json!(experts.n_top_groups)),
        ("first_k_dense_replace", json!(experts.n_dense_layers)),
        ("moe_layer_freq", json!(1)),
        ("topk_method", json!("noaux_tc")),
        ("scoring_func", json!("sigmoid")),
        ("norm_topk_prob", json!(true)),
        ("routed_scaling_factor", json!(shortest(experts.scale))),
    ]
}

fn rope_scaling(recipe: &Recipe) -> Value {
    match recipe.rope {
        Rope::Yarn if recipe.arch == Arch::DeepseekV3 => json!({
            "type": "yarn",
            "factor": ROPE_FACTOR,
            "original_max_position_embeddings": ROPE_ORIGINAL_CONTEXT,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        }),
        Rope::Plain | Rope::PerPair => Value::Null,
        Rope::Linear => json!({"rope_type": "linear", "factor": ROPE_FACTOR}),
        Rope::Yarn => json!({
            "rope_type": "yarn",
            "factor": ROPE_FACTOR,
            "original_max_position_embeddings": ROPE_ORIGINAL_CONTEXT,
        }),
    }
}

/// The number as people write it: an f32 widened to f64 has digits that nobody meant.
fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or_else(|_| f64::from(x))
}

fn tokenizer(recipe: &Recipe) -> Value {
    let vocabulary = Vocabulary::new(recipe.vocab);
    let ids: serde_json::Map<String, Value> =
        vocabulary.tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    let added: Vec<Value> =
        SPECIAL.iter().map(|token| added_token(vocabulary.special_id(token), token)).collect();
    let byte_level = |use_regex: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex });
    let (normalizer, first_split) = match recipe.arch {
        Arch::Llama => (Value::Null, json!({ "type": "Digits", "individual_digits": true })),
        _ => (
            json!({ "type": "NFC" }),
            json!({ "type": "Split", "pattern": { "Regex": QWEN_SPLIT }, "behavior": "Isolated", "invert": false }),
        ),
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [first_split, byte_level(recipe.arch == Arch::Llama)] },
        "post_processor": null,
        "decoder": byte_level(true),
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": false,
            "vocab": ids,
            "merges": vocabulary.merges,
        },
    })
}

fn added_token(id: u32, token: &str) -> Value {
    json!({
        "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": true,
    })
}

fn tokenizer_config() -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": false,
        "add_prefix_space": false,
        "bos_token": END_OF_TEXT,
        "eos_token": TURN_END,
        "pad_token": END_OF_TEXT,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": false,
    })
}
