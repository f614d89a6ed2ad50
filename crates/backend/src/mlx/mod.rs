//! The backend over Apple's MLX: every operation adds a few nodes to a graph, and nothing is computed before `eval`. On
//! a Mac the graph runs on the GPU, elsewhere on MLX's CPU build, with the same code. All calls belong to one thread.

mod attention;
mod experts;
mod group;
mod inputs;
mod latent;
mod promise;
mod rope;
mod tensor;
mod weights;

use std::collections::HashMap;

use base::{Batch, Bytes, DType, TokenId};
use mlx_sys::{Array, Dtype, Index, Mlx};

use crate::{
    AttentionSpec, Backend, BackendError, CacheRow, CacheSpec, Counters, Draw, ExpertParts, LatentParts,
    MlaSpec, Part, RopeSpec, RouterSpec,
    checks::{self, check},
};

use attention::{LayerCache, Layout, Queries};
use experts::{MlxExperts, MlxRouting};
pub use group::MlxGroup;
use group::Sums;
use inputs::{MlxInputs, Tokens};
use latent::MlxLatentUp;
use rope::{HeadWeights, MlxRope};
use tensor::{MlxTensor, check_same, joined};
use weights::{MlxLinear, floats};

/// How MLX is to be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MlxOptions {
    /// What arrays may take; MLX's own limits when absent.
    pub memory: Option<MlxMemory>,
    /// Format of activations, scales and the KV cache: F32, F16 or BF16.
    pub activations: DType,
    /// Whether chains of elementwise operations become one kernel. On a CPU this takes a C++ compiler at run time.
    pub fuse: bool,
}

/// Memory set aside for a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MlxMemory {
    /// Weights and KV cache: with a GPU they stay resident.
    pub resident: Bytes,
    /// What a step may take beside them.
    pub step: Bytes,
}

/// MLX implementation of [`Backend`].
pub struct MlxBackend {
    mlx: Mlx,
    dtype: Dtype,
    sums: Sums,
    cache: Vec<LayerCache>,
    cache_spec: Option<CacheSpec>,
    /// Which heads of queries, keys and values turn, for each pair of numbers of heads.
    masks: HashMap<[usize; 2], Array>,
    /// What a step may take.
    step_memory: Option<Bytes>,
    counters: Counters,
}

/// [`Backend::Norm`] of MLX.
pub struct MlxNorm {
    weight: Array, // [n_cols]
    eps: f32,
}

/// [`Backend::HeadNorms`] of MLX.
pub struct MlxHeadNorms {
    weights: HeadWeights,
    eps: f32,
}

impl MlxBackend {
    /// The backend of this process, on this thread from now on.
    pub fn new(options: &MlxOptions, group: MlxGroup) -> Result<MlxBackend, BackendError> {
        let mlx = Mlx::acquire()?;
        mlx.fuse(options.fuse);
        if let Some(MlxMemory { resident, step }) = options.memory {
            let bytes = |b: Bytes| usize::try_from(b.0).unwrap_or(usize::MAX);
            mlx.limit_memory(bytes(resident), bytes(step))?;
        }
        let dtype = match options.activations {
            DType::F32 => Dtype::F32,
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            other => {
                let expected = "F32, F16 or BF16".to_owned();
                return Err(BackendError::Shape { op: "activations", expected, found: other.to_string() });
            }
        };
        let sums = Sums::new(mlx, group)?;
        let (masks, counters) = (HashMap::new(), Counters::default());
        let step_memory = options.memory.map(|m| m.step);
        Ok(MlxBackend { mlx, dtype, sums, cache: Vec::new(), cache_spec: None, masks, step_memory, counters })
    }

    /// `[1, n_heads + 2 n_kv_heads, 1, 1]`: true for queries and keys.
    fn turning(&mut self, spec: &AttentionSpec) -> Result<Array, BackendError> {
        let key = [spec.n_heads, spec.n_kv_heads];
        if let Some(mask) = self.masks.get(&key) {
            return Ok(mask.clone());
        }
        let n = spec.n_heads + 2 * spec.n_kv_heads;
        let turns: Vec<bool> = (0..n).map(|head| head < spec.n_heads + spec.n_kv_heads).collect();
        let mask = self.mlx.bools(&turns, &[1, n, 1, 1])?;
        self.masks.insert(key, mask.clone());
        Ok(mask)
    }

    fn inputs_of(&self, batch: &Batch, tokens: Tokens) -> Result<MlxInputs, BackendError> {
        checks::batch(batch, self.cache_spec.as_ref())?;
        MlxInputs::new(self.mlx, batch, tokens, self.cache_spec.map(|s| s.block_len))
    }

    fn layer(&mut self, layer: usize, row: CacheRow) -> Result<&mut LayerCache, BackendError> {
        checks::cache(self.cache_spec.as_ref(), layer, row)?;
        Ok(&mut self.cache[layer])
    }

    /// `x` with the caches that the same step writes.
    fn outputs<'a>(&'a self, x: &'a Array) -> Vec<&'a Array> {
        std::iter::once(x).chain(self.cache.iter().map(LayerCache::array)).collect()
    }

    /// MLX's version.
    pub fn version(&self) -> String {
        self.mlx.version()
    }

    /// Whether it computes on a GPU.
    pub fn has_gpu(&self) -> bool {
        self.mlx.has_gpu()
    }

    /// Bytes of all arrays that are alive.
    pub fn active_memory(&self) -> Bytes {
        Bytes(self.mlx.active_memory() as u64)
    }

    fn count(&mut self, x: &Array) -> Result<(), BackendError> {
        let graph = self.mlx.count(&self.outputs(x))?;
        self.counters.n_nodes += graph.n_nodes;
        self.counters.n_launches += graph.n_nodes - graph.n_views;
        self.counters.n_evals += 1;
        self.check_memory(graph.largest)
    }

    /// MLX's CPU build does not survive an allocation that fails, so what cannot fit is refused before it is tried.
    fn check_memory(&self, needed: u64) -> Result<(), BackendError> {
        match self.step_memory {
            Some(limit) if needed > limit.0 => {
                Err(BackendError::OutOfMemory { needed: Bytes(needed), limit })
            }
            _ => Ok(()),
        }
    }

    /// After a failure: it is told once, and what it leaves unwritten in the caches is forgotten, so that the next step does not fail of it too.
    fn failed(&mut self, error: BackendError) -> BackendError {
        let mlx = self.mlx;
        mlx.drain();
        let forgotten: Result<(), BackendError> = self.cache.iter_mut().try_for_each(|c| c.forget(mlx));
        forgotten.err().unwrap_or(error)
    }

    fn start(&mut self, drawn: &Index) -> Result<(), BackendError> {
        self.count(drawn.array())?;
        self.mlx.start(&self.outputs(drawn.array())).map_err(|e| self.sums.explain(e))
    }

    fn read(&mut self, x: &Array, out: &mut Vec<f32>) -> Result<(), BackendError> {
        self.count(x)?;
        self.mlx.eval(&self.outputs(x)).map_err(|e| self.sums.explain(e))?;
        Ok(self.mlx.read(x, out)?)
    }
}

impl Backend for MlxBackend {
    type Tensor = MlxTensor;
    type Linear = MlxLinear;
    type Experts = MlxExperts;
    type LatentUp = MlxLatentUp;
    type Norm = MlxNorm;
    type HeadNorms = MlxHeadNorms;
    type Routing = MlxRouting;
    type Inputs = MlxInputs;
    type Rope = MlxRope;
    type Drawn = Index;

    const READS_WEIGHTS: bool = true;
    const QUEUES: bool = true;

    fn linear(&mut self, parts: &[Part<'_>]) -> Result<MlxLinear, BackendError> {
        MlxLinear::new(self.mlx, self.dtype, parts)
    }

    fn experts(&mut self, parts: &ExpertParts<'_>) -> Result<MlxExperts, BackendError> {
        MlxExperts::new(self.mlx, self.dtype, parts)
    }

    fn latent_up(&mut self, parts: &LatentParts<'_>, spec: &MlaSpec) -> Result<MlxLatentUp, BackendError> {
        MlxLatentUp::new(self.mlx, self.dtype, parts, spec)
    }

    fn norm(&mut self, weight: &[f32], eps: f32) -> Result<MlxNorm, BackendError> {
        Ok(MlxNorm { weight: floats(self.mlx, self.dtype, weight, &[weight.len()])?, eps })
    }

    fn head_norms(
        &mut self,
        q: &[f32],
        k: &[f32],
        eps: f32,
        spec: &AttentionSpec,
    ) -> Result<MlxHeadNorms, BackendError> {
        check("head_norms: weights of the queries", spec.head_dim, q.len())?;
        check("head_norms: weights of the keys", spec.head_dim, k.len())?;
        let mut weights = q.repeat(spec.n_heads);
        weights.extend(k.repeat(spec.n_kv_heads));
        weights.resize(weights.len() + spec.n_kv_heads * spec.head_dim, 1.0); // values have no norm
        let n_heads = weights.len() / spec.head_dim.max(1);
        let weights = floats(self.mlx, self.dtype, &weights, &[n_heads, spec.head_dim])?;
        Ok(MlxHeadNorms { weights: HeadWeights::new(weights), eps })
    }

    fn tensor(&mut self, values: &[f32], n_cols: usize) -> Result<MlxTensor, BackendError> {
        check("tensor: values beyond whole rows", 0, values.len() % n_cols.max(1))?;
        let shape = [values.len() / n_cols.max(1), n_cols];
        Ok(MlxTensor::new(floats(self.mlx, self.dtype, values, &shape)?))
    }

    fn allocate_cache(&mut self, spec: CacheSpec) -> Result<(), BackendError> {
        let row_len = match spec.row {
            CacheRow::Heads { n_kv_heads, head_dim } => 2 * n_kv_heads * head_dim,
            CacheRow::Latent { latent_dim, rope_dim } => latent_dim + rope_dim,
        };
        let layer = |_| LayerCache::new(self.mlx, spec.n_blocks * spec.block_len, row_len, self.dtype);
        self.cache = (0..spec.n_layers).map(layer).collect::<Result<_, _>>()?;
        self.cache_spec = Some(spec);
        Ok(())
    }

    fn inputs(&mut self, batch: &Batch) -> Result<MlxInputs, BackendError> {
        self.inputs_of(batch, Tokens::Known(batch.tokens.iter().map(|t| t.0).collect()))
    }

    fn inputs_after(&mut self, batch: &Batch, drawn: &Index) -> Result<MlxInputs, BackendError> {
        check("inputs_after: tokens", batch.n_rows(), drawn.array().len())?;
        self.inputs_of(batch, Tokens::Chosen(drawn.clone()))
    }

    fn rope_table(&mut self, spec: &RopeSpec, inputs: &MlxInputs) -> Result<MlxRope, BackendError> {
        Ok(MlxRope::new(spec, &inputs.positions))
    }

    fn embed(
        &mut self,
        table: &MlxLinear,
        first_word: u32,
        inputs: &MlxInputs,
    ) -> Result<MlxTensor, BackendError> {
        let mlx = self.mlx;
        let tokens = match &inputs.tokens {
            Tokens::Known(tokens) => tokens,
            Tokens::Chosen(index) => return Ok(MlxTensor::new(table.rows(mlx, index)?)),
        };
        let n_words = table.n_rows();
        let here = |t: &u32| t.checked_sub(first_word).filter(|&word| (word as usize) < n_words);
        let words: Vec<u32> = tokens.iter().map(|t| here(t).unwrap_or(0)).collect();
        let rows = table.rows(mlx, &mlx.index(&words, &[words.len()])?)?;
        if tokens.iter().all(|t| here(t).is_some()) {
            return Ok(MlxTensor::new(rows));
        }
        let mask: Vec<bool> = tokens.iter().map(|t| here(t).is_some()).collect();
        let zero = mlx.zeros(&[1, 1], self.dtype)?;
        Ok(MlxTensor::new(mlx.choose(&mlx.bools(&mask, &[mask.len(), 1])?, &rows, &zero)?))
    }

    fn matmul<const N: usize>(
        &mut self,
        x: &MlxTensor,
        weights: &MlxLinear,
    ) -> Result<[MlxTensor; N], BackendError> {
        let parts = weights.apply(self.mlx, &x.array(self.mlx)?)?;
        let n = parts.len();
        parts.try_into().map_err(|_| BackendError::Shape {
            op: "matmul: parts of the weights",
            expected: N.to_string(),
            found: n.to_string(),
        })
    }

    fn rms_norm(&mut self, x: &MlxTensor, norm: &MlxNorm) -> Result<MlxTensor, BackendError> {
        check("rms_norm: columns", norm.weight.len(), x.n_cols())?;
        Ok(MlxTensor::new(self.mlx.rms_norm(&x.array(self.mlx)?, Some(&norm.weight), norm.eps)?))
    }

    fn attention(
        &mut self,
        qkv: [MlxTensor; 3],
        norms: Option<&MlxHeadNorms>,
        rope: &MlxRope,
        layer: usize,
        spec: &AttentionSpec,
        inputs: &MlxInputs,
    ) -> Result<MlxTensor, BackendError> {
        let AttentionSpec { n_heads, n_kv_heads, head_dim, scale, window } = *spec;
        check("attention: columns of the queries", n_heads * head_dim, qkv[0].n_cols())?;
        check("attention: columns of the keys", n_kv_heads * head_dim, qkv[1].n_cols())?;
        check("attention: columns of the values", n_kv_heads * head_dim, qkv[2].n_cols())?;
        let (mlx, n_rows) = (self.mlx, qkv[0].n_rows());
        for x in &qkv {
            check("attention: rows", inputs.positions.len(), x.n_rows())?;
        }
        let n_all = n_heads + 2 * n_kv_heads;
        let mask = self.turning(spec)?;
        let qkv = joined(mlx, &qkv)?;
        let turned = rope.turn(mlx, &qkv, [n_all, head_dim], norms.map(|n| (&n.weights, n.eps)), &mask)?;
        let row_len = n_all * head_dim;
        let flat = mlx.reshape(&turned, &[n_rows * row_len])?;
        let kv_len = 2 * n_kv_heads * head_dim;
        let kv = mlx.strided(&flat, &[n_rows, kv_len], &[row_len, 1], n_heads * head_dim)?;
        let cache = self.layer(layer, CacheRow::Heads { n_kv_heads, head_dim })?;
        cache.write(mlx, &kv, kv_len, &inputs.slots)?;
        let layout = Layout {
            row_len: kv_len,
            n_kv_heads,
            key_dim: head_dim,
            value_dim: head_dim,
            value_start: n_kv_heads * head_dim,
        };
        let queries = Queries { flat: &flat, row_len, n_heads };
        Ok(MlxTensor::new(cache.attend(mlx, &queries, &layout, (scale, window), inputs)?))
    }

    fn mla(
        &mut self,
        [q, latent, rotary]: [MlxTensor; 3],
        up: &MlxLatentUp,
        rope: &MlxRope,
        layer: usize,
        spec: &MlaSpec,
        inputs: &MlxInputs,
    ) -> Result<MlxTensor, BackendError> {
        let mlx = self.mlx;
        for x in [&q, &latent, &rotary] {
            check("mla: rows", inputs.positions.len(), x.n_rows())?;
        }
        let arrays = [q.array(mlx)?, latent.array(mlx)?, rotary.array(mlx)?];
        let MlaSpec { latent_dim, rope_dim, .. } = *spec;
        let cache = self.layer(layer, CacheRow::Latent { latent_dim, rope_dim })?;
        Ok(MlxTensor::new(latent::attend(mlx, arrays.each_ref(), up, rope, cache, spec, inputs)?))
    }

    fn route(
        &mut self,
        logits: &MlxTensor,
        correction: Option<&MlxTensor>,
        spec: &RouterSpec,
    ) -> Result<MlxRouting, BackendError> {
        checks::router(spec, logits.n_cols(), correction.map(MlxTensor::n_cols))?;
        let correction = correction.map(|c| c.array(self.mlx)).transpose()?;
        MlxRouting::new(self.mlx, &logits.array(self.mlx)?, correction.as_ref(), spec)
    }

    fn moe(
        &mut self,
        x: &MlxTensor,
        experts: &MlxExperts,
        routing: &MlxRouting,
    ) -> Result<MlxTensor, BackendError> {
        Ok(MlxTensor::new(experts.apply(self.mlx, &x.array(self.mlx)?, routing)?))
    }

    fn swiglu(&mut self, gate: MlxTensor, up: MlxTensor) -> Result<MlxTensor, BackendError> {
        check_same("swiglu", &gate, &up)?;
        Ok(MlxTensor::new(self.mlx.swiglu(&gate.array(self.mlx)?, &up.array(self.mlx)?)?))
    }

    fn add(&mut self, a: MlxTensor, b: &MlxTensor) -> Result<MlxTensor, BackendError> {
        check_same("add", &a, b)?;
        Ok(MlxTensor::new(self.mlx.add(&a.array(self.mlx)?, &b.array(self.mlx)?)?))
    }

    fn all_reduce(&mut self, x: MlxTensor) -> Result<MlxTensor, BackendError> {
        Ok(MlxTensor::new(self.sums.all_reduce(self.mlx, x.array(self.mlx)?)?))
    }

    fn select_rows(&mut self, x: &MlxTensor, rows: &[u32]) -> Result<MlxTensor, BackendError> {
        let x = x.array(self.mlx)?;
        let first = rows.first().copied().unwrap_or(0);
        if rows.iter().enumerate().all(|(i, &r)| r == first + i as u32) {
            let range = first as usize..first as usize + rows.len();
            if range == (0..x.dim(0)) {
                return Ok(MlxTensor::new(x));
            }
            return Ok(MlxTensor::new(self.mlx.slice(&x, 0, range)?));
        }
        Ok(MlxTensor::new(self.mlx.take(&x, &self.mlx.index(rows, &[rows.len()])?, 0)?))
    }

    fn draw(&mut self, logits: &MlxTensor, draw: Draw) -> Result<Index, BackendError> {
        let logits = logits.array(self.mlx)?;
        let [n_rows, n_words] = [logits.dim(0), logits.dim(1)];
        let drawn = self.mlx.choice(&logits, n_rows, n_words, |values, out| {
            let mut tokens = vec![TokenId(0); out.len()];
            draw(values, &mut tokens);
            out.iter_mut().zip(&tokens).for_each(|(out, token)| *out = token.0);
            Ok(())
        })?;
        self.start(&drawn).map_err(|e| self.failed(e))?;
        Ok(drawn)
    }

    fn finish(&mut self, drawn: &Index) -> Result<(), BackendError> {
        self.mlx.eval(&[drawn.array()]).map_err(|e| {
            let error = self.sums.explain(e);
            self.failed(error)
        })
    }

    fn eval(&mut self, x: &MlxTensor, out: &mut Vec<f32>) -> Result<(), BackendError> {
        let x = x.array(self.mlx)?;
        self.read(&x, out).map_err(|e| self.failed(e))
    }

    fn counters(&self) -> Counters {
        self.counters
    }
}
