//! A whole model on one rank, driven by hand, and what tests of the default model share.

#![allow(dead_code, unreachable_pub)] // each test uses its part

use std::{
    error::Error,
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use backend::{Backend, CpuBackend, Isa};
#[cfg(feature = "mlx")]
use backend::{MlxBackend, MlxGroup, MlxOptions};
use base::{Batch, BlockId, Bytes, DType, NodeId, SeqId, SeqSlice, TokenId};
use collective::Solo;
use half::{bf16, f16};
use kernels::Pool;
use libtest_mimic::{Completion, Failed, Trial};
use models::{Description, Model};
use plan::{BackendKind, Fence, Goal, Node, Plan, Topology};
use weights::{
    Checkpoint, GgufMetadata, Source, TensorInfo,
    gguf::{Value, Writer},
};

/// Loads a model to compute with so many threads.
pub type Load = fn(&Path, usize) -> Result<Box<dyn Answers>, Failed>;

/// A test that is ignored, counted, where the default model cannot be had.
pub fn with_model(
    name: String,
    model: &Result<Arc<PathBuf>, String>,
    test: impl FnOnce(&Path) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    let model = model.clone();
    Trial::ignorable_test(name, move || match model {
        Ok(path) => test(&path).map(|()| Completion::Completed),
        Err(why) if std::env::var_os("ONEFOLD_REQUIRE_MODEL").is_some() => Err(why.into()),
        Err(why) => Ok(Completion::ignored_with(format!("no default model: {why}"))),
    })
}

pub fn default_model() -> Result<PathBuf, Box<dyn Error>> {
    let paths = node::Paths::from_env();
    let (catalog, _) = paths.catalog();
    let card = catalog.find(node::models::DEFAULT_MODEL).ok_or("the default model has no card")?;
    Ok(paths.fetcher().ensure(card, &mut Silent)?)
}

/// Fetching without anybody to tell.
struct Silent;

impl node::models::Progress for Silent {
    fn message(&mut self, _text: &str) {}
    fn bytes(&mut self, _done: Bytes, _total: Option<Bytes>) {}
}

/// Writes a checkpoint again as GGUF with matrices in `dtype`, one of F32, BF16 and Q8_0, and the rest in F32; of its
/// metadata what describes the network.
pub fn write_again(from: &Path, dtype: DType, to: &Path) -> Result<(), Failed> {
    let checkpoint = Checkpoint::open(from)?;
    let Source::Gguf(metadata) = checkpoint.metadata() else {
        return Err("expected a GGUF file".into());
    };
    let mut writer = Writer::new();
    for key in metadata.keys() {
        if let Some(value) = scalar(metadata, key) {
            writer.metadata(key, value);
        }
    }
    for name in checkpoint.tensor_names() {
        let shape = checkpoint.tensor(name)?.shape;
        let dtype = if shape.len() == 2 { dtype } else { DType::F32 };
        writer.tensor(TensorInfo { name: name.to_owned(), dtype, shape });
    }
    let out = BufWriter::new(File::create(to)?);
    writer.write(out, |info, out| write_rows(&checkpoint, info, out))?;
    Ok(())
}

/// A value, if it is a number or a string: all that a network's description needs.
fn scalar(metadata: &GgufMetadata, key: &str) -> Option<Value> {
    let integer = metadata.u32(key).map(Value::U32);
    let float = integer.or_else(|_| metadata.f32(key).map(Value::F32));
    float.or_else(|_| metadata.str(key).map(|s| Value::Str(s.to_owned()))).ok()
}

fn write_rows(checkpoint: &Checkpoint, info: &TensorInfo, out: &mut dyn Write) -> io::Result<()> {
    let tensor = checkpoint.tensor(&info.name).map_err(io::Error::other)?;
    let mut values = vec![0.0; info.shape.last().copied().unwrap_or(0)];
    let row_bytes = tensor.dtype.row_bytes(values.len()).ok_or(io::ErrorKind::InvalidData)?;
    for row in tensor.bytes.chunks_exact(row_bytes) {
        kernels::dequantize(tensor.dtype, row, &mut values);
        match info.dtype {
            DType::F32 => values.iter().try_for_each(|v| out.write_all(&v.to_le_bytes()))?,
            DType::BF16 => {
                values.iter().try_for_each(|v| out.write_all(&bf16::from_f32(*v).to_le_bytes()))?
            }
            _ => values.chunks_exact(32).try_for_each(|group| write_q8_0(group, out))?,
        }
    }
    Ok(())
}

/// A scale, then 32 signed bytes.
fn write_q8_0(group: &[f32], out: &mut dyn Write) -> io::Result<()> {
    let scale = f16::from_f32(group.iter().fold(0.0, |m: f32, v| m.max(v.abs())) / 127.0);
    let inverse = if scale > f16::ZERO { 1.0 / scale.to_f32() } else { 0.0 };
    out.write_all(&scale.to_le_bytes())?;
    out.write_all(&std::array::from_fn::<u8, 32, _>(|i| (group[i] * inverse).round() as i8 as u8))
}

/// A whole model on one rank, driven by hand.
struct SingleRank<B: Backend> {
    backend: B,
    model: Box<dyn Model<B>>,
    plan: Plan,
}

/// The same, whatever computes.
pub trait Answers {
    /// Logits before each token of `answer`: the prompt at once, then token by token.
    fn logits(&mut self, prompt: &[u32], answer: &[u32]) -> Result<Vec<Vec<f32>>, Failed>;
    /// Logits after each token of `text`, computed at once.
    fn all_logits(&mut self, text: &[u32]) -> Result<Vec<Vec<f32>>, Failed>;
}

pub fn load_on_cpu(path: &Path, n_threads: usize) -> Result<Box<dyn Answers>, Failed> {
    load_with(Isa::detect(), path, n_threads)
}

pub fn load_with(isa: Isa, path: &Path, n_threads: usize) -> Result<Box<dyn Answers>, Failed> {
    let backend = CpuBackend::new(Pool::unpinned(n_threads), isa, Box::new(Solo));
    Ok(Box::new(SingleRank::load(path, BackendKind::Cpu, backend)?))
}

#[cfg(feature = "mlx")]
pub fn load_on_mlx(path: &Path, _n_threads: usize) -> Result<Box<dyn Answers>, Failed> {
    let options = MlxOptions { memory: None, activations: DType::F32, fuse: false };
    let backend = MlxBackend::new(&options, MlxGroup::Onefold(Box::new(Solo)))?;
    Ok(Box::new(SingleRank::load(path, BackendKind::Mlx, backend)?))
}

impl<B: Backend + 'static> SingleRank<B> {
    fn load(path: &Path, kind: BackendKind, mut backend: B) -> Result<SingleRank<B>, Failed> {
        let checkpoint = Checkpoint::open(path)?;
        let description = Description::read(&checkpoint)?;
        let (name, memory, backends) = ("here".to_owned(), Bytes(4 << 30), vec![kind]);
        let node = Node { id: NodeId(0), name, memory, n_cores: 1, backends, is_mac: false };
        let goal = Goal {
            tp: 1,
            pp: 1,
            split: None,
            stage_split: None,
            context_len: 512,
            n_kv_tokens: Some(512),
            threads_per_rank: 1,
            ranks_per_node: None,
            backends: None,
            collectives: None,
            has_jaccl_devices: false,
            fence: Fence::Safe,
        };
        let plan = Plan::make(&Topology { nodes: vec![node] }, &description.spec, &goal)?;
        let model = models::load(&checkpoint, &description, &plan, &plan.ranks()[0], &mut backend)?;
        Ok(SingleRank { backend, model, plan })
    }

    /// Logits of the last `n_logits` of these tokens, the latest of so many, one row after the other.
    fn step(&mut self, tokens: &[u32], context_len: usize, n_logits: usize) -> Result<Vec<f32>, Failed> {
        let n_blocks = (context_len as u32).div_ceil(self.plan.block_len());
        let batch = Batch {
            tokens: tokens.iter().map(|&t| TokenId(t)).collect(),
            seqs: vec![SeqSlice {
                seq: SeqId(0),
                n_rows: tokens.len() as u32,
                context_len: context_len as u32,
                n_logits: n_logits as u32,
                blocks: (0..n_blocks).map(BlockId).collect(),
            }],
        };
        let inputs = self.backend.inputs(&batch)?;
        let logits = self.model.forward(&mut self.backend, &batch, inputs, None)?;
        let mut row = Vec::new();
        self.backend.eval(&logits, &mut row)?;
        Ok(row)
    }
}

impl<B: Backend + 'static> Answers for SingleRank<B> {
    fn logits(&mut self, prompt: &[u32], answer: &[u32]) -> Result<Vec<Vec<f32>>, Failed> {
        let mut rows = vec![self.step(prompt, prompt.len(), 1)?];
        for (i, token) in answer[..answer.len() - 1].iter().enumerate() {
            rows.push(self.step(&[*token], prompt.len() + i + 1, 1)?);
        }
        Ok(rows)
    }

    fn all_logits(&mut self, text: &[u32]) -> Result<Vec<Vec<f32>>, Failed> {
        let rows = self.step(text, text.len(), text.len())?;
        Ok(rows.chunks_exact(rows.len() / text.len()).map(<[f32]>::to_vec).collect())
    }
}

/// Log-probabilities of some tokens.
pub fn logprobs(logits: &[f32], tokens: &[u32]) -> Vec<f64> {
    let max = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
    let log_sum = logits.iter().map(|&l| (f64::from(l) - max).exp()).sum::<f64>().ln() + max;
    tokens.iter().map(|&token| f64::from(logits[token as usize]) - log_sum).collect()
}
