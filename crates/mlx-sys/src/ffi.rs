//! The shim's functions as C sees them; `shim/*.cpp` says what they do.

use std::ffi::{c_char, c_int, c_longlong, c_uint, c_void};

use crate::mlx::Graph;

#[repr(C)]
pub(crate) struct RawArray {
    _private: [u8; 0],
}

#[repr(C)]
pub(crate) struct RawGroup {
    _private: [u8; 0],
}

#[repr(C)]
pub(crate) struct GroupCalls {
    pub(crate) context: *mut c_void,
    pub(crate) all_reduce: extern "C" fn(*mut c_void, *mut f32, usize) -> c_int,
    pub(crate) drop: extern "C" fn(*mut c_void),
}

#[repr(C)]
pub(crate) struct ChoiceCalls {
    pub(crate) context: *mut c_void,
    pub(crate) choose: extern "C" fn(*mut c_void, *const f32, usize, *mut u32, usize) -> c_int,
    pub(crate) drop: extern "C" fn(*mut c_void),
}

pub(crate) type Raw = *mut RawArray;
pub(crate) type In = *const RawArray;

unsafe extern "C" {
    pub(crate) fn om_error() -> *const c_char;
    pub(crate) fn om_version() -> *const c_char;
    pub(crate) fn om_copy_of(data: *const c_void, dims: *const c_int, n_dims: c_int, dtype: c_int) -> Raw;
    pub(crate) fn om_unfilled(
        dims: *const c_int,
        n_dims: c_int,
        dtype: c_int,
        memory: *mut *mut c_void,
    ) -> Raw;
    pub(crate) fn om_clone(a: In) -> Raw;
    pub(crate) fn om_free(a: Raw);
    pub(crate) fn om_n_dims(a: In) -> c_int;
    pub(crate) fn om_dim(a: In, i: c_int) -> c_int;
    pub(crate) fn om_dtype(a: In) -> c_int;
    pub(crate) fn om_eval(arrays: *const In, n: c_int) -> c_int;
    pub(crate) fn om_start(arrays: *const In, n: c_int) -> c_int;
    pub(crate) fn om_drain();
    pub(crate) fn om_settled(a: In) -> Raw;
    pub(crate) fn om_count(arrays: *const In, n: c_int, graph: *mut Graph) -> c_int;
    pub(crate) fn om_read_f32(a: In, out: *mut f32, n: usize) -> c_int;
    pub(crate) fn om_active_memory() -> usize;
    pub(crate) fn om_limit_memory(resident: usize, step: usize) -> c_int;
    pub(crate) fn om_fuse(on: c_int);
    pub(crate) fn om_has_gpu() -> c_int;

    pub(crate) fn om_astype(a: In, dtype: c_int) -> Raw;
    pub(crate) fn om_zeros(dims: *const c_int, n_dims: c_int, dtype: c_int) -> Raw;
    pub(crate) fn om_reshape(a: In, dims: *const c_int, n_dims: c_int) -> Raw;
    pub(crate) fn om_transpose(a: In, axes: *const c_int, n_axes: c_int) -> Raw;
    pub(crate) fn om_strided(
        a: In,
        dims: *const c_int,
        strides: *const c_longlong,
        n_dims: c_int,
        offset: usize,
    ) -> Raw;
    pub(crate) fn om_slice(
        a: In,
        start: *const c_int,
        stop: *const c_int,
        step: *const c_int,
        n: c_int,
    ) -> Raw;
    pub(crate) fn om_slice_update(
        a: In,
        update: In,
        start: *const c_int,
        stop: *const c_int,
        n: c_int,
    ) -> Raw;
    pub(crate) fn om_scatter_rows(a: In, rows: In, updates: In) -> Raw;
    pub(crate) fn om_take(a: In, indices: In, axis: c_int) -> Raw;
    pub(crate) fn om_concatenate(arrays: *const In, n: c_int, axis: c_int) -> Raw;
    pub(crate) fn om_add(a: In, b: In) -> Raw;
    pub(crate) fn om_multiply(a: In, b: In) -> Raw;
    pub(crate) fn om_where(condition: In, a: In, b: In) -> Raw;
    pub(crate) fn om_sum(a: In, axis: c_int) -> Raw;
    pub(crate) fn om_argsort(a: In) -> Raw;
    pub(crate) fn om_floor_divide(a: In, b: In) -> Raw;
    pub(crate) fn om_matmul(a: In, b: In) -> Raw;
    pub(crate) fn om_quantized_matmul(x: In, w: In, scales: In, biases: In, group: c_int, bits: c_int)
    -> Raw;
    pub(crate) fn om_dequantize(w: In, scales: In, biases: In, group: c_int, bits: c_int) -> Raw;
    pub(crate) fn om_gather_qmm(
        x: In,
        w: In,
        scales: In,
        biases: In,
        experts: In,
        group: c_int,
        bits: c_int,
        sorted: c_int,
    ) -> Raw;
    pub(crate) fn om_gather_mm(x: In, w: In, experts: In, sorted: c_int) -> Raw;
    pub(crate) fn om_rms_norm(x: In, weight: In, eps: f32) -> Raw;
    pub(crate) fn om_attention(q: In, k: In, v: In, scale: f32, causal: c_int, mask: In) -> Raw;

    pub(crate) fn om_swiglu(gate: In, up: In) -> Raw;
    pub(crate) fn om_rotate(x: In, swapped: In, mask: In, cos: In, sin: In) -> Raw;
    pub(crate) fn om_rotate_weighted(
        x: In,
        swapped: In,
        mask: In,
        cos: In,
        sin: In,
        weight: In,
        swapped_weight: In,
        plain: In,
    ) -> Raw;
    pub(crate) fn om_route(
        logits: In,
        correction: In,
        softmax: c_int,
        n_groups: c_int,
        n_top_groups: c_int,
        top_k: c_int,
        normalise: c_int,
        scale: f32,
        experts: *mut Raw,
        weights: *mut Raw,
    ) -> c_int;
    pub(crate) fn om_local_experts(
        experts: In,
        weights: In,
        first: c_uint,
        n: c_uint,
        local: *mut Raw,
        local_weights: *mut Raw,
    ) -> c_int;

    pub(crate) fn om_group(rank: c_int, size: c_int, calls: GroupCalls) -> *mut RawGroup;
    pub(crate) fn om_group_of(
        engine: *const c_char,
        names: *const *const c_char,
        values: *const *const c_char,
        n: c_int,
    ) -> *mut RawGroup;
    pub(crate) fn om_group_free(g: *mut RawGroup);
    pub(crate) fn om_all_reduce(x: In, g: *const RawGroup) -> Raw;
    pub(crate) fn om_choice(x: In, n: c_int, calls: ChoiceCalls) -> Raw;
}
