//! Which tensors a random model has: names in both formats, shapes, number formats, statistics.
//!
//! Standard deviations follow the width of what a matrix reads: with rms-normed inputs of size 1, a matrix of
//! std 1/sqrt(n_in) has outputs of size 1, so hidden states grow like the square root of the depth and the last norm
//! brings them back. The head is three times larger, so logits spread enough for greedy choices to be clear.

use base::DType;

use super::{Arch, Quant, Recipe, Rope};
use crate::TensorInfo;

/// Spread of the logits.
const LOGITS_STD: f32 = 3.0;
/// Queries and keys are this much larger, so that attention prefers some positions.
const ATTENTION_GAIN: f32 = 1.5;
/// With a tied head the embedding is as small as the head, and what layers add is larger by this factor; else the
/// likeliest next token would be the last one again.
const TIED_BRANCH_GAIN: f32 = 3.0;
/// Half-width of the noise on norm weights.
const NORM_SPREAD: f32 = 0.1;
/// Factors that divide the frequencies of rope's pairs.
const ROPE_FACTORS: Fill = Fill::Around { mean: 4.0, spread: 3.0 };
/// Half-width of the biases.
const BIAS_SPREAD: f32 = 0.3;

/// One tensor to write.
pub(super) struct Planned {
    /// Under its GGUF name, in its GGUF number format.
    pub(super) info: TensorInfo,
    pub(super) hf_name: String,
    pub(super) fill: Fill,
    /// Rows of this many heads lie interleaved in GGUF: the two halves that rope turns together become neighbours.
    pub(super) interleaved_heads: Option<usize>,
}

/// What the values are like.
#[derive(Clone, Copy)]
pub(super) enum Fill {
    /// Zero mean.
    Spread { std: f32 },
    /// Uniform in `mean ± spread`; plain floats only.
    Around { mean: f32, spread: f32 },
}

/// All tensors in the order they are written.
pub(super) fn plan(recipe: &Recipe) -> Vec<Planned> {
    let (hidden, vocab) = (recipe.hidden as usize, recipe.vocab as usize);
    let head_std = LOGITS_STD / (hidden as f32).sqrt();
    let embedding_std = if recipe.tied { head_std } else { 1.0 };
    let (embedding, head) = match recipe.quant {
        Quant::Uniform(dtype) => (dtype, dtype),
        Quant::Q4KM if recipe.tied => (DType::Q6_K, DType::Q6_K),
        Quant::Q4KM => (DType::Q4_K, DType::Q6_K),
    };
    let mut all = vec![matrix("token_embd", "model.embed_tokens", embedding, [vocab, hidden], embedding_std)];
    if recipe.rope == Rope::PerPair {
        let (n_pairs, name) = (recipe.head_dim as usize / 2, "rope_freqs.weight");
        all.push(planned(name.to_owned(), String::new(), DType::F32, vec![n_pairs], ROPE_FACTORS));
    }
    for layer in 0..recipe.n_layers {
        all.extend(plan_layer(recipe, layer));
    }
    all.push(norm("output_norm", "model.norm", hidden, 1.0));
    if !recipe.tied {
        all.push(matrix("output", "lm_head", head, [vocab, hidden], head_std));
    }
    all
}

fn plan_layer(recipe: &Recipe, layer: u32) -> Vec<Planned> {
    let (hidden, ffn) = (recipe.hidden as usize, recipe.ffn as usize);
    let (n_heads, n_kv_heads) = (recipe.n_heads as usize, recipe.n_kv_heads as usize);
    let head_dim = recipe.head_dim as usize;
    let (q, kv) = (n_heads * head_dim, n_kv_heads * head_dim);
    let (plain, better) = layer_dtypes(recipe, layer);
    let branch_gain = if recipe.tied { TIED_BRANCH_GAIN } else { 1.0 };
    let names = |gguf: &str, hf: &str| (format!("blk.{layer}.{gguf}"), format!("model.layers.{layer}.{hf}"));
    let linear = |gguf: &str, hf: &str, dtype, n_out: usize, n_in: usize, gain: f32| {
        let (gguf, hf) = names(gguf, hf);
        matrix(&gguf, &hf, dtype, [n_out, n_in], gain / (n_in as f32).sqrt())
    };
    let norm = |gguf: &str, hf: &str, n: usize, mean: f32| {
        let (gguf, hf) = names(gguf, hf);
        norm(&gguf, &hf, n, mean)
    };
    let bias = |gguf: &str, hf: &str, n: usize| {
        let (gguf, hf) = names(gguf, hf);
        let fill = Fill::Around { mean: 0.0, spread: BIAS_SPREAD };
        planned(format!("{gguf}.bias"), format!("{hf}.bias"), DType::F32, vec![n], fill)
    };
    // queries and keys, whose rows the llama architecture interleaves
    let mut wq = linear("attn_q", "self_attn.q_proj", plain, q, hidden, ATTENTION_GAIN);
    let mut wk = linear("attn_k", "self_attn.k_proj", plain, kv, hidden, ATTENTION_GAIN);
    if recipe.arch == Arch::Llama {
        (wq.interleaved_heads, wk.interleaved_heads) = (Some(n_heads), Some(n_kv_heads));
    }
    let mut all = vec![norm("attn_norm", "input_layernorm", hidden, 1.0), wq, wk];
    all.push(linear("attn_v", "self_attn.v_proj", better, kv, hidden, 1.0));
    all.push(linear("attn_output", "self_attn.o_proj", plain, hidden, q, branch_gain));
    match recipe.arch {
        Arch::Llama => {}
        Arch::Qwen2 => {
            all.push(bias("attn_q", "self_attn.q_proj", q));
            all.push(bias("attn_k", "self_attn.k_proj", kv));
            all.push(bias("attn_v", "self_attn.v_proj", kv));
        }
        Arch::Qwen3 => {
            all.push(norm("attn_q_norm", "self_attn.q_norm", head_dim, ATTENTION_GAIN));
            all.push(norm("attn_k_norm", "self_attn.k_norm", head_dim, ATTENTION_GAIN));
        }
    }
    all.push(norm("ffn_norm", "post_attention_layernorm", hidden, 1.0));
    all.push(linear("ffn_gate", "mlp.gate_proj", plain, ffn, hidden, 1.0));
    all.push(linear("ffn_up", "mlp.up_proj", plain, ffn, hidden, 1.0));
    all.push(linear("ffn_down", "mlp.down_proj", better, hidden, ffn, branch_gain));
    all
}

/// A layer's format, and that of the matrices which the mix keeps more exact in some layers: the first and the last
/// eighth, and every third between them.
fn layer_dtypes(recipe: &Recipe, layer: u32) -> (DType, DType) {
    let eighth = recipe.n_layers / 8;
    let outer = layer < eighth || layer >= recipe.n_layers - eighth;
    match recipe.quant {
        Quant::Uniform(dtype) => (dtype, dtype),
        Quant::Q4KM if outer || (layer - eighth) % 3 == 2 => (DType::Q4_K, DType::Q6_K),
        Quant::Q4KM => (DType::Q4_K, DType::Q4_K),
    }
}

fn matrix(gguf: &str, hf: &str, dtype: DType, shape: [usize; 2], std: f32) -> Planned {
    let (gguf, hf) = (format!("{gguf}.weight"), format!("{hf}.weight"));
    planned(gguf, hf, dtype, shape.to_vec(), Fill::Spread { std })
}

fn norm(gguf: &str, hf: &str, n: usize, mean: f32) -> Planned {
    let (gguf, hf) = (format!("{gguf}.weight"), format!("{hf}.weight"));
    planned(gguf, hf, DType::F32, vec![n], Fill::Around { mean, spread: NORM_SPREAD })
}

fn planned(name: String, hf_name: String, dtype: DType, shape: Vec<usize>, fill: Fill) -> Planned {
    Planned { info: TensorInfo { name, dtype, shape }, hf_name, fill, interleaved_heads: None }
}
