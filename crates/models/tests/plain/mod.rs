//! Decoders in f64, written from the papers' equations: no cache, no batches, nothing absorbed or fused. They read F32 tensors and
//! `config.json` for themselves; of ours they share only the rounding of what a cache would hold.

#![allow(clippy::unwrap_used, unreachable_pub)] // a panic is how a test fails

use std::{collections::BTreeMap, f64::consts::PI, fs, path::Path};

use base::{TokenId, WeightView};
use half::f16;
use kernels::{PackedMatrix, Pool};
use serde_json::Value;
use weights::Checkpoint;

/// A weight, or every expert's part of a stack. How codes become numbers has a test of its own.
fn read(checkpoint: &Checkpoint, name: &str, config: &Value, matrices: &mut BTreeMap<String, Matrix>) {
    let count = |key: &str| config[key].as_u64().unwrap() as usize;
    let n_cols = match name {
        _ if name.contains("switch_mlp.down_proj") => count("moe_intermediate_size"),
        _ if name.contains("shared_experts.down_proj") => {
            count("moe_intermediate_size") * count("n_shared_experts")
        }
        _ if name.contains("mlp.down_proj") => count("intermediate_size"),
        _ if name.contains("q_b_proj") => count("q_lora_rank"),
        _ if name.contains("kv_b_proj") => count("kv_lora_rank"),
        _ if name.contains("o_proj") => {
            let head_dim = if config["v_head_dim"].is_null() { "head_dim" } else { "v_head_dim" };
            count("num_attention_heads") * count(head_dim)
        }
        _ => count("hidden_size"), // where nothing is packed, the file itself says it
    };
    if !name.contains("switch_mlp") {
        let stored = checkpoint.weight(name, n_cols, None).unwrap();
        matrices.insert(name.to_owned(), numbers(&stored.view()));
        return;
    }
    for e in 0..count("n_routed_experts") {
        let stored = checkpoint.weight(name, n_cols, Some(e)).unwrap();
        matrices.insert(name.replace("switch_mlp", &format!("experts.{e}")), numbers(&stored.view()));
    }
}

fn numbers(view: &WeightView<'_>) -> Matrix {
    let pool = Pool::new(&[]);
    let packed = match view {
        WeightView::Blocks(view) => PackedMatrix::pack(&pool, view),
        WeightView::Affine(view) => PackedMatrix::pack_affine(&pool, view),
        WeightView::Fp8(view) => PackedMatrix::pack_fp8(&pool, view),
        WeightView::Mxfp4(view) => PackedMatrix::pack_mxfp4(&pool, view),
    };
    let packed = packed.unwrap();
    let row = |r| {
        let mut row = vec![0.0; packed.n_cols()];
        packed.dequantize_row(r, &mut row);
        row.into_iter().map(f64::from).collect()
    };
    (0..packed.n_rows()).map(row).collect()
}

type Row = Vec<f64>;

/// A matrix `[n_out, n_in]`, row by row.
type Matrix = Vec<Row>;

/// A network and its weights.
pub struct Plain {
    config: Value,
    matrices: BTreeMap<String, Matrix>,
}

impl Plain {
    /// Reads a directory; what is not codes must be F32, for bf16 products round their inputs.
    pub fn open(dir: &Path) -> Plain {
        let config: Value = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
        let checkpoint = Checkpoint::open(dir).unwrap();
        let mut matrices = BTreeMap::new();
        for name in checkpoint.tensor_names() {
            if let Ok(vector) = checkpoint.vector(name) {
                matrices.insert(name.to_owned(), vec![vector.into_iter().map(f64::from).collect()]);
            } else if name.ends_with(".weight") || name.ends_with(".weight_packed") {
                read(&checkpoint, name.trim_end_matches("_packed"), &config, &mut matrices);
            }
        }
        Plain { config, matrices }
    }

    fn matrix(&self, name: &str) -> &Matrix {
        self.matrices.get(&format!("{name}.weight")).or(self.matrices.get(name)).unwrap()
    }

    fn number(&self, key: &str) -> f64 {
        self.config[key].as_f64().unwrap()
    }

    fn count(&self, key: &str) -> usize {
        self.config[key].as_u64().unwrap() as usize
    }

    /// Logits of every token, `[n_tokens][vocab]`.
    pub fn logits(&self, tokens: &[TokenId]) -> Vec<Row> {
        let eps = self.number("rms_norm_eps");
        let embedding = self.matrix("model.embed_tokens");
        let mut x: Vec<Row> = tokens.iter().map(|t| embedding[t.0 as usize].clone()).collect();
        for layer in 0..self.count("num_hidden_layers") {
            let at = |name: &str| format!("model.layers.{layer}.{name}");
            let normed = |x: &[Row], name: &str| -> Vec<Row> {
                x.iter().map(|row| norm(row, &self.matrix(&at(name)).concat(), eps)).collect()
            };
            let normed_x = normed(&x, "input_layernorm");
            let y = match self.config["kv_lora_rank"].is_null() {
                true => self.attention(&at("self_attn"), &normed_x, eps),
                false => self.latent_attention(&at("self_attn"), &normed_x),
            };
            add(&mut x, &y);
            let y: Vec<Row> = normed(&x, "post_attention_layernorm")
                .iter()
                .map(|row| match self.matrices.contains_key(&at("mlp.gate.weight")) {
                    true => self.experts(&at("mlp"), row),
                    false => self.mlp(&at("mlp"), row),
                })
                .collect();
            add(&mut x, &y);
        }
        let last = self.matrix("model.norm").concat();
        x.iter().map(|row| times(self.matrix("lm_head"), &norm(row, &last, eps))).collect()
    }

    /// Query heads in groups that share keys and values, with norms over heads and biases where there are any.
    fn attention(&self, at: &str, x: &[Row], eps: f64) -> Vec<Row> {
        let [n_heads, n_kv_heads, head_dim] =
            ["num_attention_heads", "num_key_value_heads", "head_dim"].map(|key| self.count(key));
        let rot_dim =
            (head_dim as f64 * self.config["partial_rotary_factor"].as_f64().unwrap_or(1.0)) as usize;
        let (angles, _) = self.yarn(rot_dim);
        let projected = |name: &str, x: &Row| {
            let mut y = times(self.matrix(&format!("{at}.{name}_proj")), x);
            if let Some(bias) = self.matrices.get(&format!("{at}.{name}_proj.bias")) {
                y.iter_mut().zip(bias.concat()).for_each(|(y, b)| *y += b);
            }
            y
        };
        let heads = |name: &str, x: &Row, position: usize| -> Vec<Row> {
            let weight = self.matrix(&format!("{at}.{name}_norm")).concat();
            let head = |head: &[f64]| {
                let mut head = norm(head, &weight, eps);
                turn_halves(&mut head[..rot_dim], &angles, position);
                head
            };
            projected(name, x).chunks(head_dim).map(head).collect()
        };
        let at_position = |(position, x): (usize, &Row)| {
            let keys: Vec<Row> = heads("k", x, position).iter().map(|head| rounded(head)).collect();
            let values: Vec<Row> = projected("v", x).chunks(head_dim).map(rounded).collect();
            (heads("q", x, position), keys, values)
        };
        let all: Vec<_> = x.iter().enumerate().map(at_position).collect();
        let attended = all.iter().enumerate().map(|(position, (q, ..))| {
            let head = |h: usize| {
                let of = h / (n_heads / n_kv_heads);
                let scores =
                    all[..=position].iter().map(|(_, k, _)| dot(&q[h], &k[of]) / (head_dim as f64).sqrt());
                weighted(&softmax(scores.collect()), all.iter().map(|(_, _, v)| &v[of]))
            };
            times(self.matrix(&format!("{at}.o_proj")), &(0..n_heads).flat_map(head).collect::<Row>())
        });
        attended.collect()
    }

    /// DeepSeek-V2, section 2.1: keys and values of every head are made from the latent.
    fn latent_attention(&self, at: &str, x: &[Row]) -> Vec<Row> {
        let [n_heads, nope, rope, v_dim, kv_rank] =
            ["num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank"]
                .map(|key| self.count(key));
        let w = |name: &str| self.matrix(&format!("{at}.{name}"));
        let (angles, sharper) = self.yarn(rope);
        let scale = sharper * sharper / ((nope + rope) as f64).sqrt();
        let latent_eps = 1e-6; // whatever the other norms have, as in the published model
        let (mut queries, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (position, x) in x.iter().enumerate() {
            let q = norm(&times(w("q_a_proj"), x), &w("q_a_layernorm").concat(), latent_eps);
            let mut q = times(w("q_b_proj"), &q);
            q.chunks_mut(nope + rope).for_each(|head| turn_pairs(&mut head[nope..], &angles, position));
            queries.push(q);
            let both = times(w("kv_a_proj_with_mqa"), x);
            let latent = rounded(&norm(&both[..kv_rank], &w("kv_a_layernorm").concat(), latent_eps));
            let mut rotary = both[kv_rank..].to_vec();
            turn_pairs(&mut rotary, &angles, position);
            let rotary = rounded(&rotary);
            let up = times(w("kv_b_proj"), &latent);
            let heads = up.chunks(nope + v_dim);
            keys.push(heads.clone().map(|head| [&head[..nope], &rotary].concat()).collect::<Vec<Row>>());
            values.push(heads.map(|head| head[nope..].to_vec()).collect::<Vec<Row>>());
        }
        let attended = queries.iter().enumerate().map(|(position, q)| {
            let heads = q.chunks(nope + rope).enumerate().take(n_heads);
            let head = |(h, q): (usize, &[f64])| {
                let scores = (0..=position).map(|p| dot(q, &keys[p][h]) * scale).collect();
                weighted(&softmax(scores), values.iter().map(|v| &v[h]))
            };
            times(w("o_proj"), &heads.flat_map(head).collect::<Row>())
        });
        attended.collect()
    }

    /// Angle per position of each pair, and what attention is sharper by (Peng et al., "YaRN", 2023, section 3).
    fn yarn(&self, dim: usize) -> (Row, f64) {
        let theta = self.number("rope_theta");
        let plain = (0..dim / 2).map(|i| theta.powf(-2.0 * i as f64 / dim as f64));
        let scaling = &self.config["rope_scaling"];
        if scaling.is_null() {
            return (plain.collect(), 1.0);
        }
        let number = |key: &str| scaling[key].as_f64().unwrap();
        let (factor, original) = (number("factor"), number("original_max_position_embeddings"));
        let place =
            |rotations: f64| dim as f64 * (original / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln());
        let low = place(number("beta_fast")).floor().max(0.0);
        let high = place(number("beta_slow")).ceil().min(dim as f64 - 1.0);
        let scaled = plain.enumerate().map(|(i, f)| {
            let r = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 - r) * f + r * f / factor
        });
        assert_eq!(number("mscale"), number("mscale_all_dim"), "sines and cosines stay as they are");
        (scaled.collect(), 0.1 * number("mscale_all_dim") * factor.ln() + 1.0)
    }

    fn mlp(&self, at: &str, x: &Row) -> Row {
        let w = |name: &str| self.matrix(&format!("{at}.{name}"));
        let silu = |v: f64| v / (1.0 + (-v).exp());
        let gate = times(w("gate_proj"), x);
        let up = times(w("up_proj"), x);
        times(w("down_proj"), &gate.iter().zip(up).map(|(g, u)| silu(*g) * u).collect::<Row>())
    }

    /// DeepSeek-V3, section 2.1.2; Qwen3's scores are a softmax and not corrected.
    fn experts(&self, at: &str, x: &Row) -> Row {
        let sigmoid = |v: &f64| 1.0 / (1.0 + (-v).exp());
        let logits = times(self.matrix(&format!("{at}.gate")), x);
        if self.config["model_type"] == "qwen3_moe" {
            let scores = softmax(logits);
            let chosen = best(&scores, self.count("num_experts_per_tok"));
            let total: f64 = chosen.iter().map(|&e| scores[e]).sum();
            return self.sum_of_experts(at, x, chosen.iter().map(|&e| (e, scores[e] / total)));
        }
        let scores: Row = logits.iter().map(sigmoid).collect();
        let correction = self.matrix(&format!("{at}.gate.e_score_correction_bias")).concat();
        let corrected: Row = scores.iter().zip(&correction).map(|(s, c)| s + c).collect();
        let per_group = scores.len() / self.count("n_group");
        let group_score = |group: &[f64]| best(group, 2).iter().map(|&i| group[i]).sum();
        let group_scores: Row = corrected.chunks(per_group).map(group_score).collect();
        let groups = best(&group_scores, self.count("topk_group"));
        let open =
            |(i, c): (usize, &f64)| if groups.contains(&(i / per_group)) { *c } else { f64::NEG_INFINITY };
        let open: Row = corrected.iter().enumerate().map(open).collect();
        let chosen = best(&open, self.count("num_experts_per_tok"));
        let total: f64 = chosen.iter().map(|&e| scores[e]).sum();
        let scale = self.number("routed_scaling_factor");
        let weights = chosen.iter().map(|&e| (e, scores[e] / (total + 1e-20) * scale));
        let mut y = vec![self.sum_of_experts(at, x, weights)];
        add(&mut y, &[self.mlp(&format!("{at}.shared_experts"), x)]);
        y.concat()
    }

    fn sum_of_experts(&self, at: &str, x: &Row, weights: impl Iterator<Item = (usize, f64)>) -> Row {
        let (experts, weights): (Vec<_>, Row) = weights.unzip();
        let of_experts: Vec<Row> =
            experts.iter().map(|e| self.mlp(&format!("{at}.experts.{e}"), x)).collect();
        weighted(&weights, of_experts.iter())
    }
}

/// Places of the `n` largest.
fn best(values: &[f64], n: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..values.len()).collect();
    places.sort_by(|&a, &b| values[b].total_cmp(&values[a]));
    places.truncate(n);
    places
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn times(matrix: &Matrix, x: &[f64]) -> Row {
    matrix.iter().map(|row| dot(row, x)).collect()
}

fn add(x: &mut [Row], y: &[Row]) {
    x.iter_mut().flatten().zip(y.iter().flatten()).for_each(|(x, y)| *x += y);
}

fn norm(x: &[f64], weight: &[f64], eps: f64) -> Row {
    let scale = 1.0 / (dot(x, x) / x.len() as f64 + eps).sqrt();
    x.iter().zip(weight).map(|(x, w)| x * scale * w).collect()
}

fn softmax(scores: Row) -> Row {
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exp: Row = scores.iter().map(|s| (s - largest).exp()).collect();
    let total: f64 = exp.iter().sum();
    exp.iter().map(|e| e / total).collect()
}

fn weighted<'a>(weights: &[f64], values: impl Iterator<Item = &'a Row>) -> Row {
    let mut sum = Row::new();
    for (weight, value) in weights.iter().zip(values) {
        sum.resize(value.len(), 0.0);
        sum.iter_mut().zip(value).for_each(|(s, v)| *s += weight * v);
    }
    sum
}

/// Neighbours turn together.
fn turn_pairs(x: &mut [f64], angles: &[f64], position: usize) {
    for (pair, angle) in x.chunks_exact_mut(2).zip(angles) {
        let (sin, cos) = (position as f64 * angle).sin_cos();
        let (a, b) = (pair[0], pair[1]);
        (pair[0], pair[1]) = (a * cos - b * sin, b * cos + a * sin);
    }
}

/// Each value turns with the one half the width behind it.
fn turn_halves(x: &mut [f64], angles: &[f64], position: usize) {
    let (first, second) = x.split_at_mut(angles.len());
    for ((a, b), angle) in first.iter_mut().zip(second).zip(angles) {
        let (sin, cos) = (position as f64 * angle).sin_cos();
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

/// As the cache holds it.
fn rounded(x: &[f64]) -> Row {
    x.iter().map(|&v| f64::from(f16::from_f32(v as f32).to_f32())).collect()
}
