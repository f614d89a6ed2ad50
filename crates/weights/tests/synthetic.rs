//! Random models: the same bytes for the same seed, the same network in both formats, every number format readable.
#![allow(clippy::unwrap_used)] // helpers of tests

use std::fs;

use base::{DType, WeightView};
use tempfile::TempDir;
use weights::{
    Checkpoint, GgufMetadata, Source,
    synthetic::{Arch, Quant, Recipe, RecipeError},
};

fn gguf(recipe: &Recipe) -> (TempDir, Checkpoint) {
    let dir = TempDir::new().unwrap();
    recipe.write_gguf(dir.path().join("m.gguf")).unwrap();
    let checkpoint = Checkpoint::open(dir.path().join("m.gguf")).unwrap();
    (dir, checkpoint)
}

fn metadata(checkpoint: &Checkpoint) -> &GgufMetadata {
    match checkpoint.metadata() {
        Source::Gguf(metadata) => metadata,
        Source::Hf { .. } => panic!("not GGUF"),
    }
}

/// Sizes that every format fits and every architecture allows.
fn wide(arch: Arch, quant: Quant) -> Recipe {
    Recipe { hidden: 256, n_heads: 8, n_kv_heads: 2, head_dim: 32, ffn: 512, quant, ..Recipe::tiny(arch) }
}

#[test]
fn a_seed_fixes_every_byte() {
    let bytes = |seed| {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("m.gguf");
        Recipe { seed, ..Recipe::tiny(Arch::Qwen3) }.write_gguf(&path).unwrap();
        fs::read(path).unwrap()
    };
    assert_eq!(bytes(1), bytes(1));
    assert_ne!(bytes(1), bytes(2));
}

/// Architectures whose tensors have one name each in both formats.
const DENSE: [Arch; 3] = [Arch::Llama, Arch::Qwen2, Arch::Qwen3];

/// Name of a GGUF tensor in a Hugging Face directory.
fn hf_name(name: &str) -> String {
    let parts = [
        ("token_embd", "model.embed_tokens"),
        ("output_norm", "model.norm"),
        ("blk.", "model.layers."),
        ("attn_q_norm", "self_attn.q_norm"),
        ("attn_k_norm", "self_attn.k_norm"),
        ("attn_norm", "input_layernorm"),
        ("ffn_norm", "post_attention_layernorm"),
        ("attn_output", "self_attn.o_proj"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
        ("output.weight", "lm_head.weight"),
    ];
    parts.iter().fold(name.to_owned(), |name, (gguf, hf)| name.replace(gguf, hf))
}

#[test]
fn both_formats_hold_the_same_network() {
    for arch in DENSE {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let recipe = Recipe { quant: Quant::Uniform(dtype), ..Recipe::tiny(arch) };
            let (_file, gguf) = gguf(&recipe);
            let dir = TempDir::new().unwrap();
            recipe.write_hf_shards(dir.path(), 3).unwrap();
            let hf = Checkpoint::open(dir.path()).unwrap();
            assert_eq!(gguf.tensor_names().count(), hf.tensor_names().count());
            for name in gguf.tensor_names() {
                let theirs = hf_name(name);
                let Ok(ours) = gguf.matrix(name) else {
                    assert_eq!(gguf.vector(name).unwrap(), hf.vector(&theirs).unwrap(), "{name}");
                    continue;
                };
                let theirs = hf.matrix(&theirs).unwrap();
                let interleaved =
                    arch == Arch::Llama && (name.contains("attn_q.") || name.contains("attn_k."));
                for r in 0..ours.n_rows {
                    let (head, i) = (r / 16, r % 16);
                    let source = if interleaved { head * 16 + (i % 2) * 8 + i / 2 } else { r };
                    assert_eq!(ours.row(r), theirs.row(source), "{arch} {dtype} {name} row {r}");
                }
            }
        }
    }
}

#[test]
fn a_gguf_file_stacks_the_experts_of_a_directory() {
    let recipe = Recipe::tiny(Arch::DeepseekV3);
    let (_file, gguf) = gguf(&recipe);
    let dir = TempDir::new().unwrap();
    recipe.write_hf(dir.path()).unwrap();
    let hf = Checkpoint::open(dir.path()).unwrap();
    for (stack, one, n_cols) in [("gate", "gate", 64), ("down", "down", 96)] {
        let stack = format!("blk.1.ffn_{stack}_exps.weight");
        for e in [0, 3, 7] {
            let one = format!("model.layers.1.mlp.experts.{e}.{one}_proj.weight");
            let stacked = gguf.weight(&stack, n_cols, Some(e)).unwrap();
            let one = hf.weight(&one, n_cols, None).unwrap();
            let (WeightView::Blocks(a), WeightView::Blocks(b)) = (stacked.view(), one.view()) else {
                panic!("other forms")
            };
            assert_eq!((a.n_rows, a.n_cols, a.bytes), (b.n_rows, b.n_cols, b.bytes), "{e}");
            let (read, part) = (stacked.read(5..9).unwrap(), a.cut(5..9, 0..n_cols).unwrap());
            let WeightView::Blocks(read) = read.view() else { panic!("another form") };
            assert_eq!(read.bytes, &part.bytes[..read.bytes.len()]);
        }
        let missing = gguf.weight(&stack, n_cols, Some(8)).unwrap_err().to_string();
        assert!(missing.contains("more than 8 matrices") && missing.contains(&stack), "{missing}");
    }
}

#[test]
fn every_number_format_opens() {
    for quant in DType::ALL.into_iter().map(Quant::Uniform).chain([Quant::Q4KM]) {
        let recipe = Recipe { n_layers: 3, ..wide(Arch::Llama, quant) };
        let (_file, checkpoint) = gguf(&recipe);
        let dtype = |name: &str| checkpoint.matrix(name).unwrap().dtype;
        let (plain, better) = match quant {
            Quant::Uniform(dtype) => (dtype, dtype),
            Quant::Q4KM => (DType::Q4_K, DType::Q6_K),
        };
        assert_eq!((dtype("blk.0.ffn_up.weight"), dtype("blk.2.ffn_down.weight")), (plain, better));
        assert_eq!((dtype("token_embd.weight"), dtype("output.weight")), (plain, better));
        let norm = checkpoint.vector("blk.1.attn_norm.weight").unwrap();
        assert!(norm.iter().all(|x| (x - 1.0).abs() < 0.11) && norm.iter().any(|x| *x != 1.0));
        assert_eq!(quant.to_string().parse::<Quant>().unwrap(), quant);
    }
}

#[test]
fn each_architecture_has_its_own_tensors() {
    for arch in Arch::ALL.into_iter().filter(|arch| arch.has_gguf()) {
        let (_file, tied) = gguf(&Recipe { tied: true, ..Recipe::tiny(arch) });
        assert!(!tied.contains("output.weight"));
        assert_eq!(tied.contains("blk.0.attn_q.bias"), arch == Arch::Qwen2);
        let has_head_norms = matches!(arch, Arch::Qwen3 | Arch::Qwen3Moe);
        assert_eq!(tied.contains("blk.0.attn_q_norm.weight"), has_head_norms);
        let has_experts = matches!(arch, Arch::DeepseekV3 | Arch::Qwen3Moe);
        assert_eq!(tied.contains("blk.1.ffn_up_exps.weight"), has_experts);
        let name = arch.gguf_name();
        assert_eq!(metadata(&tied).str("general.architecture").unwrap(), name);
        assert_eq!(metadata(&tied).u32(&format!("{name}.block_count")).unwrap(), 2);
        assert_eq!(arch.name().parse::<Arch>().unwrap(), arch);
    }
}

#[test]
fn the_tokenizer_is_as_long_as_the_vocabulary() {
    for vocab in [weights::synthetic::MIN_VOCAB, 512, 5000] {
        let (_file, checkpoint) = gguf(&Recipe { vocab, ..Recipe::tiny(Arch::Llama) });
        let metadata = metadata(&checkpoint);
        let tokens = metadata.str_array("tokenizer.ggml.tokens").unwrap();
        assert_eq!(tokens.len(), vocab as usize);
        assert_eq!(metadata.i32_array("tokenizer.ggml.token_type").unwrap().len(), vocab as usize);
        let eos = metadata.u32("tokenizer.ggml.eos_token_id").unwrap();
        assert_eq!(tokens[eos as usize], "<|im_end|>");
        assert!(metadata.str("tokenizer.chat_template").unwrap().contains("add_generation_prompt"));
    }
}

#[test]
fn a_directory_says_what_the_file_says() {
    let dir = TempDir::new().unwrap();
    let recipe = Recipe::tiny(Arch::Qwen2);
    recipe.write_hf(dir.path()).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let Source::Hf { config, dir } = checkpoint.metadata() else { panic!("not a directory") };
    assert_eq!(config["model_type"], "qwen2");
    assert_eq!(config["rms_norm_eps"], 1e-5);
    let tokenizer: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.join("tokenizer.json")).unwrap()).unwrap();
    let eos = tokenizer["added_tokens"][2].clone();
    assert_eq!((&eos["id"], &eos["content"]), (&config["eos_token_id"], &"<|im_end|>".into()));
    assert!(dir.join("tokenizer_config.json").exists());
}

#[test]
fn impossible_recipes_are_refused() {
    let tiny = || Recipe::tiny(Arch::Llama);
    let cases = [
        (Recipe { quant: Quant::Q4KM, ..tiny() }, "rows of a multiple of 256 values for Q4_K, found 64"),
        (Recipe { n_kv_heads: 3, ..tiny() }, "kv-heads: expected a divisor of 4 heads, found 3"),
        (Recipe { n_kv_heads: 0, ..tiny() }, "kv-heads: expected 1 to 4, found 0"),
        (Recipe { head_dim: 15, ..tiny() }, "head-dim: expected an even number, found 15"),
        (Recipe { vocab: 10, ..tiny() }, "vocab: expected 259 to"),
        (Recipe { hidden: u32::MAX, ..tiny() }, "hidden: expected 1 to"),
        (Recipe { head_dim: 32, ..Recipe::tiny(Arch::Qwen2) }, "hidden: expected 128"),
    ];
    let dir = TempDir::new().unwrap();
    for (recipe, part) in cases {
        let message = recipe.write_gguf(dir.path().join("m.gguf")).unwrap_err().to_string();
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
    let quantised = Recipe { quant: Quant::Uniform(DType::Q8_0), ..tiny() };
    assert!(matches!(quantised.write_hf(dir.path()), Err(RecipeError::HfDType { .. })));
    let glm = Recipe::tiny(Arch::Glm4Moe).write_gguf(dir.path().join("m.gguf"));
    assert!(glm.unwrap_err().to_string().contains("glm4_moe"));
    assert!(tiny().write_hf_shards(dir.path(), 1000).unwrap_err().to_string().contains("--shards"));
    assert!("Q9".parse::<Quant>().is_err() && "gpt".parse::<Arch>().is_err());
}

#[test]
fn presets_have_the_sizes_they_promise() {
    let billion = Recipe::one_billion();
    assert!((1_000_000_000..1_200_000_000).contains(&billion.n_parameters()));
    assert!(Recipe::tiny(Arch::Llama).n_bytes().0 < 1_000_000);
}
