//! Which tensors a random model has: names in both formats, shapes, number formats, statistics.
//!
//! Standard deviations follow the width of what a matrix reads: with rms-normed inputs of size 1, a matrix of
//! std 1/sqrt(n_in) has outputs of size 1, so hidden states grow like the square root of the depth and the last norm
//! brings them back. The head is three times larger, so logits spread enough for greedy choices to be clear.

use base::DType;

use super::{Arch, Experts, Quant, Recipe, Rope};
use crate::TensorInfo;

/// Spread of the logits.
const LOGITS_STD: f32 = 3.0;
/// Queries and keys are this much larger, so that attention prefers some positions.
const ATTENTION_GAIN: f32 = 1.5;
/// With a tied head the embedding is as small as the head, and what layers add is larger by this factor; else the
/// likeliest next token would be the last one again.
const TIED_BRANCH_GAIN: f32 = 3.0;
/// The gate's logits are this much larger, so that it prefers some experts.
const ROUTER_GAIN: f32 = 2.0;
/// Half-width of the noise on norm weights.
const NORM_SPREAD: f32 = 0.1;
/// Factors that divide the frequencies of rope's pairs.
const ROPE_FACTORS: Fill = Fill::Around { mean: 4.0, spread: 3.0 };
/// What corrects the choice of experts: above zero with the score, as every reader expects.
const CORRECTION: Fill = Fill::Around { mean: 0.25, spread: 0.125 };
/// Half-width of the biases.
const BIAS_SPREAD: f32 = 0.3;

/// One tensor to write.
pub(super) struct Planned {
    /// Under its GGUF name, in its GGUF number format.
    pub(super) info: TensorInfo,
    pub(super) hf_name: String,
    pub(super) fill: Fill,
    /// Which expert it belongs to; a GGUF file stacks all under one name.
    pub(super) expert: Option<u32>,
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

/// The tensors of one layer, as they are named and stored there.
struct Layer<'a> {
    recipe: &'a Recipe,
    layer: u32,
    /// The format of most matrices, and of those that the mix keeps more exact.
    plain: DType,
    better: DType,
    all: Vec<Planned>,
}

fn plan_layer(recipe: &Recipe, layer: u32) -> Vec<Planned> {
    let (plain, better) = layer_dtypes(recipe, layer);
    let mut l = Layer { recipe, layer, plain, better, all: Vec::new() };
    let hidden = recipe.hidden as usize;
    l.norm("attn_norm", "input_layernorm", hidden, 1.0);
    match recipe.arch {
        Arch::DeepseekV3 => l.latent_attention(),
        _ => l.attention(),
    }
    l.norm("ffn_norm", "post_attention_layernorm", hidden, 1.0);
    match recipe.experts().filter(|experts| layer >= experts.n_dense_layers) {
        Some(experts) => l.experts(&experts),
        None => l.mlp(["ffn_gate", "ffn_up", "ffn_down"], "mlp", recipe.ffn as usize),
    }
    l.all
}

impl Layer<'_> {
    fn names(&self, gguf: &str, hf: &str) -> (String, String) {
        (format!("blk.{}.{gguf}", self.layer), format!("model.layers.{}.{hf}", self.layer))
    }

    fn linear(
        &mut self,
        gguf: &str,
        hf: &str,
        dtype: DType,
        [n_out, n_in]: [usize; 2],
        gain: f32,
    ) -> &mut Planned {
        let (gguf, hf) = self.names(gguf, hf);
        let i = self.all.len();
        self.all.push(matrix(&gguf, &hf, dtype, [n_out, n_in], gain / (n_in as f32).sqrt()));
        &mut self.all[i]
    }

    fn norm(&mut self, gguf: &str, hf: &str, n: usize, mean: f32) {
        let (gguf, hf) = self.names(gguf, hf);
        self.all.push(norm(&gguf, &hf, n, mean));
    }

    fn bias(&mut self, gguf: &str, hf: &str, n: usize) {
        let (gguf, hf) = self.names(gguf, hf);
        let fill = Fill::Around { mean: 0.0, spread: BIAS_SPREAD };
        self.all.push(planned(format!("{gguf}.bias"), format!("{hf}.bias"), DType::F32, vec![n], fill));
    }

    /// What a layer adds to its input is larger where the head is tied.
    fn branch_gain(&self) -> f32 {
        if self.recipe.tied { TIED_BRANCH_GAIN } else { 1.0 }
    }

    fn attention(&mut self) {
        let (recipe, plain, better) = (self.recipe, self.plain, self.better);
        let [hidden, n_heads, n_kv_heads, head_dim] =
            [recipe.hidden, recipe.n_heads, recipe.n_kv_heads, recipe.head_dim].map(|n| n as usize);
        let (q, kv, branch_gain) = (n_heads * head_dim, n_kv_heads * head_dim, self.branch_gain());
        // queries and keys, whose rows the llama architecture interleaves
        let interleaved = |n: usize| (recipe.arch == Arch::Llama).then_some(n);
        self.linear("attn_q", "self_attn.q_proj", plain, [q, hidden], ATTENTION_GAIN).interleaved_heads =
            interleaved(n_heads);
        self.linear("attn_k", "self_attn.k_proj", plain, [kv, hidden], ATTENTION_GAIN).interleaved_heads =
            interleaved(n_kv_heads);
        self.linear("attn_v", "self_attn.v_proj", better, [kv, hidden], 1.0);
        self.linear("attn_output", "self_attn.o_proj", plain, [hidden, q], branch_gain);
        match recipe.arch {
            Arch::Llama | Arch::DeepseekV3 => {}
            Arch::Qwen2 | Arch::Glm4Moe => {
                self.bias("attn_q", "self_attn.q_proj", q);
                self.bias("attn_k", "self_attn.k_proj", kv);
                self.bias("attn_v", "self_attn.v_proj", kv);
            }
            Arch::Qwen3 | Arch::Qwen3Moe => {}
        }
        if matches!(recipe.arch, Arch::Qwen3 | Arch::Qwen3Moe | Arch::Glm4Moe) {
            self.norm("attn_q_norm", "self_attn.q_norm", head_dim, ATTENTION_GAIN);
            self.norm("attn_k_norm", "self_attn.k_norm", head_dim, ATTENTION_GAIN);
        }
    }

    fn latent_attention(&mut self) {
        let (recipe, plain, branch_gain) = (self.recipe, self.plain, self.branch_gain());
        let sizes = [
            recipe.hidden,
            recipe.n_heads,
            recipe.head_dim,
            recipe.rope_dim(),
            recipe.q_rank(),
            recipe.kv_rank(),
        ];
        let [hidden, n_heads, head_dim, rope_dim, q_rank, kv_rank] = sizes.map(|n| n as usize);
        let q = n_heads * (head_dim + rope_dim);
        self.linear("attn_q_a", "self_attn.q_a_proj", plain, [q_rank, hidden], 1.0);
        self.norm("attn_q_a_norm", "self_attn.q_a_layernorm", q_rank, 1.0);
        self.linear("attn_q_b", "self_attn.q_b_proj", plain, [q, q_rank], ATTENTION_GAIN);
        let down = [kv_rank + rope_dim, hidden];
        self.linear("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa", plain, down, ATTENTION_GAIN);
        self.norm("attn_kv_a_norm", "self_attn.kv_a_layernorm", kv_rank, 1.0);
        let up = [n_heads * 2 * head_dim, kv_rank];
        self.linear("attn_kv_b", "self_attn.kv_b_proj", plain, up, ATTENTION_GAIN);
        let o = [hidden, n_heads * head_dim];
        self.linear("attn_output", "self_attn.o_proj", plain, o, branch_gain);
    }

    /// A gated feed-forward layer.
    fn mlp(&mut self, [gate, up, down]: [&str; 3], hf: &str, ffn: usize) {
        let (hidden, branch_gain) = (self.recipe.hidden as usize, self.branch_gain());
        let (plain, better) = (self.plain, self.better);
        self.linear(gate, &format!("{hf}.gate_proj"), plain, [ffn, hidden], 1.0);
        self.linear(up, &format!("{hf}.up_proj"), plain, [ffn, hidden], 1.0);
        self.linear(down, &format!("{hf}.down_proj"), better, [hidden, ffn], branch_gain);
    }

    fn experts(&mut self, experts: &Experts) {
        let (hidden, ffn) = (self.recipe.hidden as usize, experts.ffn as usize);
        let (branch_gain, n) = (self.branch_gain(), experts.n as usize);
        self.linear("ffn_gate_inp", "mlp.gate", DType::F32, [n, hidden], ROUTER_GAIN);
        if self.recipe.arch != Arch::Qwen3Moe {
            let (gguf, hf) = self.names("exp_probs_b.bias", "mlp.gate.e_score_correction_bias");
            self.all.push(planned(gguf, hf, DType::F32, vec![n], CORRECTION));
        }
        for (gguf, hf, shape, gain) in [
            ("ffn_gate_exps", "gate_proj", [ffn, hidden], 1.0),
            ("ffn_up_exps", "up_proj", [ffn, hidden], 1.0),
            ("ffn_down_exps", "down_proj", [hidden, ffn], branch_gain),
        ] {
            let dtype = if shape[0] == hidden { self.better } else { self.plain };
            for e in 0..experts.n {
                self.linear(gguf, &format!("mlp.experts.{e}.{hf}"), dtype, shape, gain).expert = Some(e);
            }
        }
        if experts.n_shared > 0 {
            let names = ["ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"];
            self.mlp(names, "mlp.shared_experts", ffn * experts.n_shared as usize);
        }
    }
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
    Planned { info: TensorInfo { name, dtype, shape }, hf_name, fill, expert: None, interleaved_heads: None }
}
