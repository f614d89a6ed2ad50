//! A recipe as a Hugging Face directory whose matrices are stored as codes with scales apart. Codes are random, and their scales give the
//! wanted spread; nothing is quantised here. The whole file is made in memory, for such models are tests.

use std::{fs, path::Path};

use base::DType;
use half::bf16;
use safetensors::{Dtype as FileDType, serialize, tensor::TensorView};
use serde_json::json;

use super::{
    Recipe, RecipeError, hf,
    random::{Random, tensor_seed, unit, write_tensor},
    tensors::{Fill, Planned},
};
use crate::WriteError;

/// How matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Experts in compressed-tensors' 4 bits, groups of 32, as Kimi-K2-Thinking has them.
    Int4,
    /// Matrices of layers in 8-bit floats with scales of 128 × 128 blocks, as DeepSeek-V3 has them.
    Fp8,
    /// All matrices but the gates' in MLX's affine codes, experts stacked.
    Affine {
        /// Bits of a code.
        bits: u32,
        /// Values that share scale and bias.
        group_size: u32,
    },
    /// Experts in MLX's MXFP4, stacked.
    Mxfp4,
}

/// Scales vary by this much, so that one read from the wrong place shows.
const SCALE_SPREAD: f32 = 0.25;
/// Root mean square of 8-bit floats whose bits are random but for the highest of the exponent.
const FP8_RMS: f32 = 0.62;
/// The same of random 4-bit floats.
const FP4_RMS: f32 = 2.93;
const FP8_BLOCK: usize = 128;

/// A tensor of the file.
struct Raw {
    name: String,
    dtype: FileDType,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

pub(super) fn write(
    recipe: &Recipe,
    planned: &[Planned],
    dir: &Path,
    packing: Packing,
) -> Result<(), RecipeError> {
    hf::write_texts(recipe, dir, DType::F32, &packing.config())?;
    let mut all: Vec<Raw> = Vec::new();
    for tensor in planned {
        let raws = match packing.packs(tensor) {
            true => packing.tensors(recipe, tensor),
            false => vec![plain(recipe, tensor)?],
        };
        for raw in raws {
            // experts that are stacked share a name
            match all.iter_mut().find(|other| other.name == raw.name) {
                Some(stack) => {
                    stack.shape[0] += 1;
                    stack.bytes.extend(raw.bytes);
                }
                None => all.push(raw),
            }
        }
    }
    let wrong = |e: safetensors::SafeTensorError| WriteError::Io(std::io::Error::other(e.to_string()));
    let views = all
        .iter()
        .map(|t| Ok((&t.name, TensorView::new(t.dtype, t.shape.clone(), &t.bytes).map_err(wrong)?)));
    let views = views.collect::<Result<Vec<_>, WriteError>>()?;
    let bytes = serialize(views, None).map_err(wrong)?;
    let path = dir.join("model.safetensors");
    fs::write(&path, bytes).map_err(|source| RecipeError::Io { path, source })
}

fn plain(recipe: &Recipe, tensor: &Planned) -> Result<Raw, RecipeError> {
    let mut bytes = Vec::new();
    write_tensor(&mut bytes, recipe.seed, tensor, DType::F32, |row| row).map_err(WriteError::Io)?;
    let (name, shape) = (tensor.hf_name.clone(), tensor.info.shape.clone());
    Ok(Raw { name, dtype: FileDType::F32, shape, bytes })
}

impl Packing {
    /// What a configuration says of it.
    fn config(self) -> Vec<(&'static str, serde_json::Value)> {
        match self {
            Packing::Int4 => vec![(
                "quantization_config",
                json!({"quant_method": "compressed-tensors", "format": "pack-quantized"}),
            )],
            Packing::Fp8 => vec![(
                "quantization_config",
                json!({"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [FP8_BLOCK, FP8_BLOCK]}),
            )],
            Packing::Affine { bits, group_size } => {
                vec![("quantization", json!({"bits": bits, "group_size": group_size}))]
            }
            Packing::Mxfp4 => vec![("quantization", json!({"bits": 4, "group_size": 32, "mode": "mxfp4"}))],
        }
    }

    /// Whether a tensor is stored as codes.
    fn packs(self, tensor: &Planned) -> bool {
        let is_matrix = tensor.info.shape.len() == 2;
        let is_gate = tensor.hf_name.ends_with("mlp.gate.weight");
        match self {
            Packing::Int4 | Packing::Mxfp4 => tensor.expert.is_some(),
            Packing::Fp8 => is_matrix && !is_gate && tensor.hf_name.starts_with("model.layers."),
            Packing::Affine { .. } => is_matrix && !is_gate,
        }
    }

    /// The tensors that a weight becomes.
    fn tensors(self, recipe: &Recipe, tensor: &Planned) -> Vec<Raw> {
        let (n_rows, n_cols) = (tensor.info.shape[0], tensor.info.shape[1]);
        let random = &mut Random::new(tensor_seed(recipe.seed, &tensor.hf_name), 0);
        let (Fill::Spread { std } | Fill::Around { spread: std, .. }) = tensor.fill;
        let scaled = |random: &mut Random, rms: f32| std / rms * (1.0 + SCALE_SPREAD * unit(random.word()));
        let base = tensor.hf_name.strip_suffix("weight").unwrap_or_default();
        let raw =
            |name: String, dtype, shape: [usize; 2], bytes| Raw { name, dtype, shape: shape.to_vec(), bytes };
        match self {
            Packing::Int4 => {
                let n_groups = n_cols / 32;
                let scales = (0..n_rows * n_groups)
                    .flat_map(|_| bf16::from_f32(scaled(random, 4.64)).to_le_bytes())
                    .collect();
                let shape = [n_rows as i32, n_cols as i32].into_iter().flat_map(i32::to_le_bytes).collect();
                let codes = random.bytes(n_rows * n_cols / 2);
                let name = |part: &str| format!("{}_{part}", tensor.hf_name);
                vec![
                    raw(name("packed"), FileDType::I32, [n_rows, n_cols / 8], codes),
                    raw(name("scale"), FileDType::BF16, [n_rows, n_groups], scales),
                    Raw { name: name("shape"), dtype: FileDType::I32, shape: vec![2], bytes: shape },
                ]
            }
            Packing::Fp8 => {
                let blocks = [n_rows, n_cols].map(|n| n.div_ceil(FP8_BLOCK));
                let codes = random.bytes(n_rows * n_cols).iter().map(|b| b & 0xbf).collect();
                let n_blocks = blocks[0] * blocks[1];
                let scales = (0..n_blocks).flat_map(|_| scaled(random, FP8_RMS).to_le_bytes()).collect();
                vec![
                    raw(tensor.hf_name.clone(), FileDType::F8_E4M3, [n_rows, n_cols], codes),
                    raw(format!("{}_scale_inv", tensor.hf_name), FileDType::F32, blocks, scales),
                ]
            }
            Packing::Affine { bits, group_size } => {
                let n_groups = n_cols / group_size as usize;
                let middle = ((1u32 << bits) - 1) as f32 / 2.0;
                let rms = (1u32 << bits) as f32 / 12f32.sqrt();
                let scales: Vec<bf16> =
                    (0..n_rows * n_groups).map(|_| bf16::from_f32(scaled(random, rms))).collect();
                let biases = scales.iter().map(|s| bf16::from_f32(-middle * s.to_f32()));
                let biases = biases.flat_map(bf16::to_le_bytes).collect();
                let scales = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
                let n_words = n_cols * bits as usize / 32;
                let codes = random.bytes(n_rows * n_words * 4);
                let parts = [
                    ("weight", FileDType::U32, n_words, codes),
                    ("scales", FileDType::BF16, n_groups, scales),
                    ("biases", FileDType::BF16, n_groups, biases),
                ];
                let parts = parts.into_iter();
                parts
                    .map(|(part, dtype, n, bytes)| stacked(tensor, base, part, dtype, [n_rows, n], bytes))
                    .collect()
            }
            Packing::Mxfp4 => {
                let power = 127.0 + (std / FP4_RMS).log2().round();
                let scales = random.bytes(n_rows * n_cols / 32);
                let scales = scales.iter().map(|b| power as u8 + b % 2).collect();
                let codes = random.bytes(n_rows * n_cols / 2);
                vec![
                    stacked(tensor, base, "weight", FileDType::U32, [n_rows, n_cols / 8], codes),
                    stacked(tensor, base, "scales", FileDType::U8, [n_rows, n_cols / 32], scales),
                ]
            }
        }
    }
}

/// A part of a weight; of an expert's, its place in the stack of all.
fn stacked(
    tensor: &Planned,
    base: &str,
    part: &str,
    dtype: FileDType,
    [n_rows, n_cols]: [usize; 2],
    bytes: Vec<u8>,
) -> Raw {
    match tensor.expert {
        Some(e) => {
            let name = format!("{base}{part}").replace(&format!("experts.{e}."), "switch_mlp.");
            Raw { name, dtype, shape: vec![1, n_rows, n_cols], bytes }
        }
        None => Raw { name: format!("{base}{part}"), dtype, shape: vec![n_rows, n_cols], bytes },
    }
}
