//! The operations. MLX throws for shapes that do not fit; what it would not look at is checked here.

use std::{
    ffi::{CStr, c_int, c_longlong, c_uint},
    marker::PhantomData,
    sync::OnceLock,
    thread::{self, ThreadId},
};

use crate::{
    array::{Array, Dtype, dims, last_error},
    error::Error,
    ffi::{self, In},
    index::Index,
};

/// The thread that uses MLX in this process: its streams and their errors belong to a thread.
static OWNER: OnceLock<ThreadId> = OnceLock::new();

/// The right to use MLX, which one thread of a process has.
#[derive(Clone, Copy, Debug)]
pub struct Mlx {
    one_thread: PhantomData<*const ()>,
}

/// A matrix, or a stack of them, of codes with a scale and a bias for each group of inputs.
pub struct Quantized {
    /// Codes, packed in 32-bit words: `[.., n_out, n_in * bits / 32]`.
    pub words: Array,
    /// `[.., n_out, n_in / group_size]`.
    pub scales: Array,
    /// As the scales.
    pub biases: Array,
    /// Inputs that share a scale: 32, 64 or 128.
    pub group_size: usize,
    /// Bits of a code.
    pub bits: u32,
}

/// What turns pairs of values: `x · cos + swapped(x) · sin`, where `mask` holds.
pub struct Rotation<'a> {
    /// Which entries turn at all.
    pub mask: &'a Array,
    /// Cosines.
    pub cos: &'a Array,
    /// Sines, with the sign of their place in the pair.
    pub sin: &'a Array,
}

/// Size of the part of a graph that has not been handed to the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Graph {
    /// Operations.
    pub n_nodes: u64,
    /// Those of them that only describe memory another way and launch nothing.
    pub n_views: u64,
    /// Bytes of the largest array among the others' results.
    pub largest: u64,
}

impl Mlx {
    /// The first thread that asks has it from then on.
    pub fn acquire() -> Result<Mlx, Error> {
        let me = thread::current().id();
        if *OWNER.get_or_init(|| me) != me {
            return Err(Error::SecondThread);
        }
        Ok(Mlx { one_thread: PhantomData })
    }

    /// MLX's version.
    pub fn version(self) -> String {
        // SAFETY: a string constant of the library.
        unsafe { CStr::from_ptr(ffi::om_version()) }.to_string_lossy().into_owned()
    }

    /// Whether MLX computes on a GPU here.
    pub fn has_gpu(self) -> bool {
        // SAFETY: no arguments.
        unsafe { ffi::om_has_gpu() != 0 }
    }

    /// Whether chains of elementwise operations become one kernel; on the CPU that takes a C++ compiler at run time.
    pub fn fuse(self, on: bool) {
        // SAFETY: sets one number.
        unsafe { ffi::om_fuse(c_int::from(on)) }
    }

    /// Bytes that stay resident, as far as the system lets them, and that a step may take and keep for the next one beside them.
    pub fn limit_memory(self, resident: usize, step: usize) -> Result<(), Error> {
        // SAFETY: two numbers.
        succeed(unsafe { ffi::om_limit_memory(resident, step) })
    }

    /// Bytes in use.
    pub fn active_memory(self) -> usize {
        // SAFETY: no arguments.
        unsafe { ffi::om_active_memory() }
    }

    /// Floats, copied.
    pub fn floats(self, values: &[f32], shape: &[usize]) -> Result<Array, Error> {
        // SAFETY: floats have no padding and any of their bytes is a u8.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) };
        Array::copy_of(bytes, shape, Dtype::F32)
    }

    /// Truth values, copied.
    pub fn bools(self, values: &[bool], shape: &[usize]) -> Result<Array, Error> {
        // SAFETY: a bool is a byte of 0 or 1.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len()) };
        Array::copy_of(bytes, shape, Dtype::Bool)
    }

    /// Numbers of rows, copied.
    pub fn index(self, values: &[u32], shape: &[usize]) -> Result<Index, Error> {
        // SAFETY: integers have no padding and any of their bytes is a u8.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) };
        let bound = values.iter().max().map_or(0, |&max| max as usize + 1);
        Ok(Index { array: Array::copy_of(bytes, shape, Dtype::U32)?, bound })
    }

    /// An array whose memory `fill` writes, so that it is never elsewhere.
    pub fn filled<E: From<Error>>(
        self,
        shape: &[usize],
        dtype: Dtype,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Array, E> {
        Array::filled(shape, dtype, fill)
    }

    /// Computes `arrays` and waits.
    pub fn eval(self, arrays: &[&Array]) -> Result<(), Error> {
        let raw = raws(arrays);
        // SAFETY: live arrays, as many as said.
        succeed(unsafe { ffi::om_eval(raw.as_ptr(), raw.len() as c_int) })
    }

    /// Queues the computation of `arrays`.
    pub fn start(self, arrays: &[&Array]) -> Result<(), Error> {
        let raw = raws(arrays);
        // SAFETY: live arrays, as many as said.
        succeed(unsafe { ffi::om_start(raw.as_ptr(), raw.len() as c_int) })
    }

    /// What `a`, an array that was replaced in part again and again, was when it was last handed to the device.
    pub fn settled(self, a: &Array) -> Result<Array, Error> {
        // SAFETY: a live array.
        Array::owned(unsafe { ffi::om_settled(a.raw()) })
    }

    /// Waits for what was queued and forgets what failed of it, so that the next evaluation does not tell of it again.
    pub fn drain(self) {
        // SAFETY: no arguments.
        unsafe { ffi::om_drain() }
    }

    /// Counts what `arrays` still take.
    pub fn count(self, arrays: &[&Array]) -> Result<Graph, Error> {
        let raw = raws(arrays);
        let mut graph = Graph::default();
        // SAFETY: live arrays, as many as said; a structure that both sides lay out alike.
        succeed(unsafe { ffi::om_count(raw.as_ptr(), raw.len() as c_int, &raw mut graph) })?;
        Ok(graph)
    }

    /// Computes `a` and copies it, as floats, to `out`.
    pub fn read(self, a: &Array, out: &mut Vec<f32>) -> Result<(), Error> {
        out.resize(a.len(), 0.0);
        // SAFETY: `out` has room for all values.
        succeed(unsafe { ffi::om_read_f32(a.raw(), out.as_mut_ptr(), out.len()) })
    }

    /// The values in another format.
    pub fn astype(self, a: &Array, dtype: Dtype) -> Result<Array, Error> {
        if a.dtype() == Some(dtype) {
            return Ok(a.clone());
        }
        // SAFETY: a live array.
        Array::owned(unsafe { ffi::om_astype(a.raw(), dtype as c_int) })
    }

    /// Zeros.
    pub fn zeros(self, shape: &[usize], dtype: Dtype) -> Result<Array, Error> {
        let (dims, _) = dims("zeros", shape)?;
        // SAFETY: as many dimensions as said.
        Array::owned(unsafe { ffi::om_zeros(dims.as_ptr(), dims.len() as c_int, dtype as c_int) })
    }

    /// The values in another shape of the same length.
    pub fn reshape(self, a: &Array, shape: &[usize]) -> Result<Array, Error> {
        let (dims, _) = dims("reshape", shape)?;
        // SAFETY: a live array; as many dimensions as said.
        Array::owned(unsafe { ffi::om_reshape(a.raw(), dims.as_ptr(), dims.len() as c_int) })
    }

    /// Dimensions in the order `axes`.
    pub fn transpose(self, a: &Array, axes: &[usize]) -> Result<Array, Error> {
        let (axes, _) = dims("transpose", axes)?;
        // SAFETY: a live array; as many axes as said.
        Array::owned(unsafe { ffi::om_transpose(a.raw(), axes.as_ptr(), axes.len() as c_int) })
    }

    /// A view of a row-major array: entry `i` of the result is value `offset + Σ i_d · strides_d`.
    pub fn strided(
        self,
        a: &Array,
        shape: &[usize],
        strides: &[usize],
        offset: usize,
    ) -> Result<Array, Error> {
        let (dims, n_values) = dims("strided view", shape)?;
        let furthest: usize = shape.iter().zip(strides).map(|(n, stride)| (n.max(&1) - 1) * stride).sum();
        if strides.len() != shape.len() || (n_values > 0 && offset + furthest >= a.len()) {
            let expected = format!("values 0..{}", a.len());
            let found = format!("value {} for {shape:?} by {strides:?}", offset + furthest);
            return Err(Error::argument("strided view", expected, found));
        }
        let strides: Vec<c_longlong> = strides.iter().map(|&s| s as c_longlong).collect();
        // SAFETY: as many dimensions and strides as said; no entry lies outside the array.
        Array::owned(unsafe {
            ffi::om_strided(a.raw(), dims.as_ptr(), strides.as_ptr(), dims.len() as c_int, offset)
        })
    }

    /// Entries `range` of dimension `axis`, a view.
    pub fn slice(self, a: &Array, axis: usize, range: std::ops::Range<usize>) -> Result<Array, Error> {
        let shape = a.shape();
        if range.start > range.end || shape.get(axis).is_none_or(|&d| range.end > d) {
            let expected = format!("a range of dimension {axis} of {shape:?}");
            return Err(Error::argument("slice", expected, format!("{range:?}")));
        }
        let (mut stop, _) = dims("slice", &shape)?;
        let (mut start, step) = (vec![0; stop.len()], vec![1; stop.len()]);
        (start[axis], stop[axis]) = (range.start as c_int, range.end as c_int);
        // SAFETY: three numbers for each dimension.
        Array::owned(unsafe {
            ffi::om_slice(a.raw(), start.as_ptr(), stop.as_ptr(), step.as_ptr(), step.len() as c_int)
        })
    }

    /// Dimension `axis`, of length 2, the other way round: a view.
    pub fn swapped(self, a: &Array, axis: usize) -> Result<Array, Error> {
        let shape = a.shape();
        if shape.get(axis) != Some(&2) {
            return Err(Error::argument("swapped", "a dimension of 2", format!("{axis} of {shape:?}")));
        }
        let (mut stop, _) = dims("swapped", &shape)?;
        let (mut start, mut step) = (vec![0; stop.len()], vec![1; stop.len()]);
        (start[axis], stop[axis], step[axis]) = (1, -3, -1); // -3 is one before the first
        // SAFETY: three numbers for each dimension.
        Array::owned(unsafe {
            ffi::om_slice(a.raw(), start.as_ptr(), stop.as_ptr(), step.as_ptr(), step.len() as c_int)
        })
    }

    /// `a` with values `offset ..` of its first dimension replaced by `update`; in place when nobody else holds `a`.
    pub fn replaced(self, a: &Array, update: &Array, offset: usize) -> Result<Array, Error> {
        let (shape, new) = (a.shape(), update.shape());
        let fits = shape.len() == new.len() && shape.iter().zip(&new).skip(1).all(|(a, b)| a == b);
        if !fits || offset + update.dim(0) > a.dim(0) {
            let found = format!("{new:?} at {offset}");
            return Err(Error::argument("replaced", format!("rows of {shape:?}"), found));
        }
        let (mut stop, _) = dims("replaced", &shape)?;
        let mut start = vec![0; stop.len()];
        (start[0], stop[0]) = (offset as c_int, (offset + update.dim(0)) as c_int);
        // SAFETY: two numbers for each dimension.
        Array::owned(unsafe {
            ffi::om_slice_update(a.raw(), update.raw(), start.as_ptr(), stop.as_ptr(), stop.len() as c_int)
        })
    }

    /// `a` with row `rows[i]` replaced by row `i` of `updates`, `[n, 1, ..]`.
    pub fn scattered(self, a: &Array, rows: &Index, updates: &Array) -> Result<Array, Error> {
        inside("scattered", rows, a.dim(0))?;
        // SAFETY: live arrays; no row lies outside.
        Array::owned(unsafe { ffi::om_scatter_rows(a.raw(), rows.array.raw(), updates.raw()) })
    }

    /// Entries `indices` of dimension `axis`.
    pub fn take(self, a: &Array, indices: &Index, axis: usize) -> Result<Array, Error> {
        inside("take", indices, a.dim(axis))?;
        // SAFETY: live arrays; no index lies outside.
        Array::owned(unsafe { ffi::om_take(a.raw(), indices.array.raw(), axis as c_int) })
    }

    /// Arrays one after the other along `axis`.
    pub fn concatenate(self, arrays: &[&Array], axis: usize) -> Result<Array, Error> {
        let raw = raws(arrays);
        // SAFETY: live arrays, as many as said.
        Array::owned(unsafe { ffi::om_concatenate(raw.as_ptr(), raw.len() as c_int, axis as c_int) })
    }

    /// `a + b`.
    pub fn add(self, a: &Array, b: &Array) -> Result<Array, Error> {
        // SAFETY: live arrays.
        Array::owned(unsafe { ffi::om_add(a.raw(), b.raw()) })
    }

    /// `a · b`, elementwise.
    pub fn multiply(self, a: &Array, b: &Array) -> Result<Array, Error> {
        // SAFETY: live arrays.
        Array::owned(unsafe { ffi::om_multiply(a.raw(), b.raw()) })
    }

    /// `a` where `condition` holds, `b` elsewhere.
    pub fn choose(self, condition: &Array, a: &Array, b: &Array) -> Result<Array, Error> {
        // SAFETY: live arrays.
        Array::owned(unsafe { ffi::om_where(condition.raw(), a.raw(), b.raw()) })
    }

    /// Sum over dimension `axis`, which goes.
    pub fn sum(self, a: &Array, axis: usize) -> Result<Array, Error> {
        // SAFETY: a live array.
        Array::owned(unsafe { ffi::om_sum(a.raw(), axis as c_int) })
    }

    /// Places of the values of a vector in ascending order.
    pub fn argsort(self, a: &Array) -> Result<Index, Error> {
        // SAFETY: a live array.
        let array = Array::owned(unsafe { ffi::om_argsort(a.raw()) })?;
        Ok(Index { array, bound: a.len() })
    }

    /// `a · b` over the last two dimensions.
    pub fn matmul(self, a: &Array, b: &Array) -> Result<Array, Error> {
        // SAFETY: live arrays.
        Array::owned(unsafe { ffi::om_matmul(a.raw(), b.raw()) })
    }

    /// `x · Wᵀ`.
    pub fn quantized_matmul(self, x: &Array, w: &Quantized) -> Result<Array, Error> {
        let [words, scales, biases] = w.raws();
        // SAFETY: live arrays.
        Array::owned(unsafe {
            ffi::om_quantized_matmul(x.raw(), words, scales, biases, w.group_size as c_int, w.bits as c_int)
        })
    }

    /// The values of `w`.
    pub fn dequantized(self, w: &Quantized) -> Result<Array, Error> {
        let [words, scales, biases] = w.raws();
        // SAFETY: live arrays.
        Array::owned(unsafe {
            ffi::om_dequantize(words, scales, biases, w.group_size as c_int, w.bits as c_int)
        })
    }

    /// `x[.., i] · W[experts[i]]ᵀ` for a stack of matrices; `sorted` when the experts ascend.
    pub fn gather_quantized(
        self,
        x: &Array,
        w: &Quantized,
        experts: &Index,
        sorted: bool,
    ) -> Result<Array, Error> {
        inside("gather_quantized", experts, w.words.dim(0))?;
        let ([words, scales, biases], index) = (w.raws(), experts.array.raw());
        let (group, bits) = (w.group_size as c_int, w.bits as c_int);
        // SAFETY: live arrays; no expert lies outside.
        Array::owned(unsafe {
            ffi::om_gather_qmm(x.raw(), words, scales, biases, index, group, bits, c_int::from(sorted))
        })
    }

    /// `x[.., i] · W[experts[i]]` for a stack `[n_experts, n_in, n_out]`.
    pub fn gather_matmul(self, x: &Array, w: &Array, experts: &Index, sorted: bool) -> Result<Array, Error> {
        inside("gather_matmul", experts, w.dim(0))?;
        // SAFETY: live arrays; no expert lies outside.
        Array::owned(unsafe { ffi::om_gather_mm(x.raw(), w.raw(), experts.array.raw(), c_int::from(sorted)) })
    }

    /// `x / sqrt(mean(x²) + eps) · weight` over the last dimension.
    pub fn rms_norm(self, x: &Array, weight: Option<&Array>, eps: f32) -> Result<Array, Error> {
        let weight = weight.map_or(std::ptr::null(), Array::raw);
        // SAFETY: live arrays, or none.
        Array::owned(unsafe { ffi::om_rms_norm(x.raw(), weight, eps) })
    }

    /// `softmax(q · kᵀ · scale) · v` for `q [b, heads, n, d]`, `k, v [b, kv_heads, m, d]`; causal at the end of the keys, or where
    /// `mask` holds.
    pub fn attention(
        self,
        [q, k, v]: [&Array; 3],
        scale: f32,
        causal: bool,
        mask: Option<&Array>,
    ) -> Result<Array, Error> {
        let mask = mask.map_or(std::ptr::null(), Array::raw);
        // SAFETY: live arrays, or no mask.
        Array::owned(unsafe {
            ffi::om_attention(q.raw(), k.raw(), v.raw(), scale, c_int::from(causal), mask)
        })
    }

    /// `silu(gate) · up`.
    pub fn swiglu(self, gate: &Array, up: &Array) -> Result<Array, Error> {
        // SAFETY: live arrays.
        Array::owned(unsafe { ffi::om_swiglu(gate.raw(), up.raw()) })
    }

    /// Turns pairs of `x`; `swapped` has the two of each pair the other way round.
    pub fn rotate(self, x: &Array, swapped: &Array, by: &Rotation<'_>) -> Result<Array, Error> {
        // SAFETY: live arrays.
        Array::owned(unsafe {
            ffi::om_rotate(x.raw(), swapped.raw(), by.mask.raw(), by.cos.raw(), by.sin.raw())
        })
    }

    /// Turns pairs of `x · weight`; where the mask does not hold, `plain` passes.
    pub fn rotate_weighted(
        self,
        x: [&Array; 2],
        by: &Rotation<'_>,
        weight: [&Array; 2],
        plain: &Array,
    ) -> Result<Array, Error> {
        let [x, swapped] = x.map(Array::raw);
        let [weight, swapped_weight] = weight.map(Array::raw);
        let (mask, cos, sin) = (by.mask.raw(), by.cos.raw(), by.sin.raw());
        // SAFETY: live arrays.
        Array::owned(unsafe {
            ffi::om_rotate_weighted(x, swapped, mask, cos, sin, weight, swapped_weight, plain.raw())
        })
    }

    /// The best `top_k` experts of each row of `logits [n_rows, n_experts]` and their weights, both `[n_rows, top_k]`.
    #[allow(clippy::too_many_arguments)] // the numbers of a router
    pub fn route(
        self,
        logits: &Array,
        correction: Option<&Array>,
        softmax: bool,
        [n_groups, n_top_groups, top_k]: [usize; 3],
        normalise: bool,
        scale: f32,
    ) -> Result<(Index, Array), Error> {
        let n_experts = logits.dim(logits.n_dims() - 1);
        let sound = n_groups > 0
            && n_experts.is_multiple_of(n_groups)
            && (1..=n_groups).contains(&n_top_groups)
            && (1..=n_top_groups * (n_experts / n_groups)).contains(&top_k);
        if !sound {
            let found = format!("{top_k} experts of {n_top_groups} of {n_groups} groups");
            return Err(Error::argument("route", format!("a choice among {n_experts} experts"), found));
        }
        let correction = correction.map_or(std::ptr::null(), Array::raw);
        let counts = [n_groups, n_top_groups, top_k].map(|n| n as c_int);
        let (mut experts, mut weights) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: live arrays, or no correction; both results are written on success.
        succeed(unsafe {
            ffi::om_route(
                logits.raw(),
                correction,
                c_int::from(softmax),
                counts[0],
                counts[1],
                counts[2],
                c_int::from(normalise),
                scale,
                &raw mut experts,
                &raw mut weights,
            )
        })?;
        Ok((Index { array: Array::owned(experts)?, bound: n_experts }, Array::owned(weights)?))
    }

    /// Experts of `first .. first + n` counted from there, with zero weight for all others.
    pub fn local_experts(
        self,
        experts: &Index,
        weights: &Array,
        first: usize,
        n: usize,
    ) -> Result<(Index, Array), Error> {
        let (mut local, mut local_weights) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: live arrays; both results are written on success.
        succeed(unsafe {
            ffi::om_local_experts(
                experts.array.raw(),
                weights.raw(),
                first as c_uint,
                n as c_uint,
                &raw mut local,
                &raw mut local_weights,
            )
        })?;
        Ok((Index { array: Array::owned(local)?, bound: n.max(1) }, Array::owned(local_weights)?))
    }

    /// `[n]` rows of indices in another shape.
    pub fn reshape_index(self, index: &Index, shape: &[usize]) -> Result<Index, Error> {
        Ok(Index { array: self.reshape(&index.array, shape)?, bound: index.bound })
    }

    /// Entries `places` of a vector of indices.
    pub fn take_index(self, index: &Index, places: &Index) -> Result<Index, Error> {
        Ok(Index { array: self.take(&index.array, places, 0)?, bound: index.bound })
    }

    /// Each number divided by `n`, rounded down: the row of an entry of a matrix with `n` columns.
    pub fn row_of(self, places: &Index, n: usize) -> Result<Index, Error> {
        let divisor = self.index(&[n as u32], &[1])?;
        // SAFETY: live arrays.
        let array = Array::owned(unsafe { ffi::om_floor_divide(places.array.raw(), divisor.array.raw()) })?;
        Ok(Index { array, bound: places.bound.div_ceil(n.max(1)) })
    }
}

impl Quantized {
    fn raws(&self) -> [In; 3] {
        [self.words.raw(), self.scales.raw(), self.biases.raw()]
    }
}

fn raws(arrays: &[&Array]) -> Vec<In> {
    arrays.iter().map(|a| a.raw()).collect()
}

pub(crate) fn succeed(status: c_int) -> Result<(), Error> {
    if status == 0 { Ok(()) } else { Err(last_error()) }
}

fn inside(op: &'static str, index: &Index, len: usize) -> Result<(), Error> {
    if index.bound <= len {
        return Ok(());
    }
    Err(Error::argument(op, format!("indices below {len}"), index.bound - 1))
}
