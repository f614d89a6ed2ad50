// Operations that are one call of MLX each.
#include "shim.h"

extern "C" {

mx::array* om_astype(const mx::array* a, int dtype) {
  return guarded([&] { return mx::astype(*a, dtype_of(dtype)); });
}

mx::array* om_zeros(const int* dims, int n_dims, int dtype) {
  return guarded([&] { return mx::zeros(shape_of(dims, n_dims), dtype_of(dtype)); });
}

mx::array* om_reshape(const mx::array* a, const int* dims, int n_dims) {
  return guarded([&] { return mx::reshape(*a, shape_of(dims, n_dims)); });
}

mx::array* om_transpose(const mx::array* a, const int* axes, int n_axes) {
  return guarded([&] { return mx::transpose(*a, std::vector<int>(axes, axes + n_axes)); });
}

mx::array* om_strided(
    const mx::array* a, const int* dims, const long long* strides, int n_dims, size_t offset) {
  return guarded([&] {
    mx::Strides s(strides, strides + n_dims);
    return mx::as_strided(*a, shape_of(dims, n_dims), s, offset);
  });
}

mx::array* om_slice(const mx::array* a, const int* start, const int* stop, const int* step, int n) {
  return guarded([&] { return mx::slice(*a, shape_of(start, n), shape_of(stop, n), shape_of(step, n)); });
}

mx::array* om_slice_update(
    const mx::array* a, const mx::array* update, const int* start, const int* stop, int n) {
  return guarded([&] { return mx::slice_update(*a, *update, shape_of(start, n), shape_of(stop, n)); });
}

// Rows `rows[i]` of `a` become `updates[i]`, shaped [n, 1, ...].
mx::array* om_scatter_rows(const mx::array* a, const mx::array* rows, const mx::array* updates) {
  return guarded([&] { return mx::scatter(*a, {*rows}, *updates, {0}); });
}

mx::array* om_take(const mx::array* a, const mx::array* indices, int axis) {
  return guarded([&] { return mx::take(*a, *indices, axis); });
}

mx::array* om_concatenate(const mx::array* const* arrays, int n, int axis) {
  return guarded([&] { return mx::concatenate(collect(arrays, n), axis); });
}

mx::array* om_add(const mx::array* a, const mx::array* b) {
  return guarded([&] { return mx::add(*a, *b); });
}

mx::array* om_multiply(const mx::array* a, const mx::array* b) {
  return guarded([&] { return mx::multiply(*a, *b); });
}

mx::array* om_where(const mx::array* condition, const mx::array* a, const mx::array* b) {
  return guarded([&] { return mx::where(*condition, *a, *b); });
}

mx::array* om_sum(const mx::array* a, int axis) {
  return guarded([&] { return mx::sum(*a, axis); });
}

mx::array* om_argsort(const mx::array* a) {
  return guarded([&] { return mx::argsort(*a, -1); });
}

mx::array* om_floor_divide(const mx::array* a, const mx::array* b) {
  return guarded([&] { return mx::floor_divide(*a, *b); });
}

mx::array* om_matmul(const mx::array* a, const mx::array* b) {
  return guarded([&] { return mx::matmul(*a, *b); });
}

mx::array* om_quantized_matmul(
    const mx::array* x, const mx::array* w, const mx::array* scales, const mx::array* biases, int group, int bits) {
  return guarded([&] { return mx::quantized_matmul(*x, *w, *scales, *biases, true, group, bits); });
}

mx::array* om_dequantize(
    const mx::array* w, const mx::array* scales, const mx::array* biases, int group, int bits) {
  return guarded([&] { return mx::dequantize(*w, *scales, *biases, group, bits); });
}

mx::array* om_gather_qmm(
    const mx::array* x, const mx::array* w, const mx::array* scales, const mx::array* biases,
    const mx::array* experts, int group, int bits, int sorted) {
  return guarded([&] {
    return mx::gather_qmm(
        *x, *w, *scales, *biases, std::nullopt, *experts, true, group, bits, "affine", std::nullopt, sorted != 0);
  });
}

// `w` as [n_experts, n_in, n_out].
mx::array* om_gather_mm(const mx::array* x, const mx::array* w, const mx::array* experts, int sorted) {
  return guarded([&] { return mx::gather_mm(*x, *w, std::nullopt, *experts, sorted != 0); });
}

mx::array* om_rms_norm(const mx::array* x, const mx::array* weight, float eps) {
  return guarded([&] { return mx::fast::rms_norm(*x, maybe(weight), eps); });
}

// `mask` is null, or boolean and broadcasts to [batch, heads, queries, keys].
mx::array* om_attention(
    const mx::array* q, const mx::array* k, const mx::array* v, float scale, int causal, const mx::array* mask) {
  return guarded([&] {
    return mx::fast::scaled_dot_product_attention(*q, *k, *v, scale, causal ? "causal" : "", maybe(mask));
  });
}

} // extern "C"
