//! A recipe as a GGUF file: the keys its readers expect, the tokenizer inside, rows interleaved where the
//! architecture's GGUF files have them so.

use std::{fs::File, io::BufWriter, path::Path};

use base::DType;

use super::{
    Arch, Experts, Quant, RMS_EPSILON, ROPE_FACTOR, ROPE_ORIGINAL_CONTEXT, Recipe, RecipeError, Rope,
    random::write_tensor,
    tensors::Planned,
    vocabulary::{CHAT_TEMPLATE, END_OF_TEXT, SPECIAL, TURN_END, Vocabulary},
};
use crate::gguf::{Value, Writer};

pub(super) const WRITE_BUFFER_BYTES: usize = 1 << 20;
/// Version of the block formats.
const QUANTIZATION_VERSION: u32 = 2;

/// The gate's functions, by the format's numbers.
const SOFTMAX: u32 = 1;
const SIGMOID: u32 = 2;
/// What YaRN multiplies the logarithm of its factor by, as the format has it: a tenth of `mscale_all_dim`.
const YARN_LOG_MULTIPLIER: f32 = 0.1;

/// Kinds of tokens, by the format's numbers.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const UNUSED: i32 = 5;

pub(super) fn write(recipe: &Recipe, planned: &[Planned], path: &Path) -> Result<(), RecipeError> {
    let mut writer = Writer::new();
    add_model_keys(&mut writer, recipe);
    add_tokenizer_keys(&mut writer, recipe);
    let stacks = || planned.chunk_by(|a, b| a.info.name == b.info.name);
    for stack in stacks() {
        let mut info = stack[0].info.clone();
        if stack[0].expert.is_some() {
            info.shape.insert(0, stack.len());
        }
        writer.tensor(info);
    }
    let file = File::create(path).map_err(|source| RecipeError::Io { path: path.to_owned(), source })?;
    let mut stacks = stacks();
    writer.write(BufWriter::with_capacity(WRITE_BUFFER_BYTES, file), |info, out| {
        for tensor in stacks.next().unwrap_or_default() {
            write_tensor(out, recipe.seed, tensor, info.dtype, |row| source_row(tensor, row))?;
        }
        Ok(())
    })?;
    Ok(())
}

/// Row `row` of an interleaved matrix alternates between the halves of its head.
fn source_row(tensor: &Planned, row: usize) -> usize {
    let Some(n_heads) = tensor.interleaved_heads else { return row };
    let head_dim = tensor.info.shape[0] / n_heads;
    let (head, i) = (row / head_dim, row % head_dim);
    head * head_dim + i % 2 * (head_dim / 2) + i / 2
}

fn add_model_keys(writer: &mut Writer, recipe: &Recipe) {
    let arch = recipe.arch.gguf_name();
    writer.metadata("general.architecture", Value::Str(arch.to_owned()));
    writer.metadata("general.type", Value::Str("model".to_owned()));
    writer
        .metadata("general.name", Value::Str(format!("random {arch} {} seed {}", recipe.quant, recipe.seed)));
    writer.metadata("general.file_type", Value::U32(file_type(recipe.quant)));
    writer.metadata("general.quantization_version", Value::U32(QUANTIZATION_VERSION));
    let latent = recipe.arch == Arch::DeepseekV3;
    let (key_length, rot_dim) = match latent {
        true => (recipe.head_dim + recipe.rope_dim(), recipe.rope_dim()),
        false => (recipe.head_dim, recipe.head_dim),
    };
    let counts = [
        ("block_count", recipe.n_layers),
        ("context_length", recipe.context),
        ("embedding_length", recipe.hidden),
        ("feed_forward_length", recipe.ffn),
        ("attention.head_count", recipe.n_heads),
        ("attention.head_count_kv", if latent { recipe.n_heads } else { recipe.n_kv_heads }),
        ("attention.key_length", key_length),
        ("attention.value_length", recipe.head_dim),
        ("rope.dimension_count", rot_dim),
        ("vocab_size", recipe.vocab),
    ];
    for (key, count) in counts {
        writer.metadata(format!("{arch}.{key}"), Value::U32(count));
    }
    writer.metadata(format!("{arch}.rope.freq_base"), Value::F32(recipe.arch.rope_theta()));
    writer.metadata(format!("{arch}.attention.layer_norm_rms_epsilon"), Value::F32(RMS_EPSILON));
    if let Some(experts) = recipe.experts() {
        add_expert_keys(writer, recipe, &experts);
    }
    let scaling = match recipe.rope {
        Rope::Plain | Rope::PerPair => return,
        Rope::Linear => "linear",
        Rope::Yarn => "yarn",
    };
    writer.metadata(format!("{arch}.rope.scaling.type"), Value::Str(scaling.to_owned()));
    writer.metadata(format!("{arch}.rope.scaling.factor"), Value::F32(ROPE_FACTOR));
    let original = Value::U32(ROPE_ORIGINAL_CONTEXT);
    writer.metadata(format!("{arch}.rope.scaling.original_context_length"), original);
    if latent {
        writer.metadata(format!("{arch}.rope.scaling.yarn_log_multiplier"), Value::F32(YARN_LOG_MULTIPLIER));
    }
}

fn add_expert_keys(writer: &mut Writer, recipe: &Recipe, experts: &Experts) {
    let arch = recipe.arch.gguf_name();
    let counts = [
        ("expert_count", experts.n),
        ("expert_used_count", experts.top_k),
        ("expert_feed_forward_length", experts.ffn),
        ("expert_shared_count", experts.n_shared),
        ("leading_dense_block_count", experts.n_dense_layers),
        ("expert_gating_func", if recipe.arch == Arch::Qwen3Moe { SOFTMAX } else { SIGMOID }),
        ("expert_group_count", experts.n_groups),
        ("expert_group_used_count", experts.n_top_groups),
    ];
    let of_latent =
        [("attention.q_lora_rank", recipe.q_rank()), ("attention.kv_lora_rank", recipe.kv_rank())];
    let of_latent = of_latent.into_iter().filter(|_| recipe.arch == Arch::DeepseekV3);
    for (key, count) in counts.into_iter().chain(of_latent) {
        writer.metadata(format!("{arch}.{key}"), Value::U32(count));
    }
    writer.metadata(format!("{arch}.expert_weights_scale"), Value::F32(experts.scale));
    writer.metadata(format!("{arch}.expert_weights_norm"), Value::Bool(true));
}

fn add_tokenizer_keys(writer: &mut Writer, recipe: &Recipe) {
    let vocabulary = Vocabulary::new(recipe.vocab);
    let (n_normal, n_unused) = (vocabulary.tokens.len(), vocabulary.n_unused);
    let types = [(NORMAL, n_normal), (CONTROL, SPECIAL.len()), (UNUSED, n_unused)];
    let types = types.into_iter().flat_map(|(kind, n)| std::iter::repeat_n(kind, n)).collect();
    let first_unused = n_normal + SPECIAL.len();
    let unused = (first_unused..first_unused + n_unused).map(|id| format!("[PAD{id}]"));
    let special = SPECIAL.into_iter().map(str::to_owned);
    let tokens = vocabulary.tokens.iter().cloned().chain(special).chain(unused).collect();
    let merges = vocabulary.merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
    let split = if recipe.arch == Arch::Llama { "smollm" } else { "qwen2" };
    let (end_of_text, turn_end) = (vocabulary.special_id(END_OF_TEXT), vocabulary.special_id(TURN_END));
    let entries = [
        ("tokenizer.ggml.model", Value::Str("gpt2".to_owned())),
        ("tokenizer.ggml.pre", Value::Str(split.to_owned())),
        ("tokenizer.ggml.tokens", Value::StrArray(tokens)),
        ("tokenizer.ggml.token_type", Value::I32Array(types)),
        ("tokenizer.ggml.merges", Value::StrArray(merges)),
        ("tokenizer.ggml.bos_token_id", Value::U32(end_of_text)),
        ("tokenizer.ggml.eos_token_id", Value::U32(turn_end)),
        ("tokenizer.ggml.padding_token_id", Value::U32(end_of_text)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
        ("tokenizer.chat_template", Value::Str(CHAT_TEMPLATE.to_owned())),
    ];
    for (key, value) in entries {
        writer.metadata(key, value);
    }
}

/// The format's number for what most tensors are.
fn file_type(quant: Quant) -> u32 {
    match quant {
        Quant::Q4KM => 15,
        Quant::Uniform(dtype) => match dtype {
            DType::F32 => 0,
            DType::F16 => 1,
            DType::Q4_0 => 2,
            DType::Q4_1 => 3,
            DType::Q8_0 => 7,
            DType::Q5_0 => 8,
            DType::Q5_1 => 9,
            DType::Q2_K => 10,
            DType::Q3_K => 11,
            DType::Q4_K => 14,
            DType::Q5_K => 16,
            DType::Q6_K => 18,
            DType::BF16 => 32,
        },
    }
}
