// Chains of elementwise operations that MLX compiles into one kernel each.
#include "shim.h"

#include <array>
#include <limits>

namespace {

using Arrays = std::vector<mx::array>;
using Function = std::function<Arrays(const Arrays&)>;

// silu(gate) * up
Arrays swiglu(const Arrays& in) { return {in[0] * mx::sigmoid(in[0]) * in[1]}; }

// Where `mask` holds, pairs of x turn: x * cos + swapped(x) * sin, the sign of the pair's sine in the table. The tables are
// floats of 32 bits, whatever x is.
Arrays rotate(const Arrays& in) {
  auto turned = mx::astype(in[0] * in[3] + in[1] * in[4], in[0].dtype());
  return {mx::where(in[2], turned, in[0])};
}

// The same after a norm's weights; where `mask` does not hold, `plain` passes.
Arrays rotate_weighted(const Arrays& in) {
  auto turned = mx::astype(in[0] * in[5] * in[3] + in[1] * in[6] * in[4], in[7].dtype());
  return {mx::where(in[2], turned, in[7])};
}

const Function& compiled(Arrays (*f)(const Arrays&)) {
  static const std::array<std::pair<Arrays (*)(const Arrays&), Function>, 3> all = {{
      {swiglu, mx::compile(swiglu, true)},
      {rotate, mx::compile(rotate, true)},
      {rotate_weighted, mx::compile(rotate_weighted, true)},
  }};
  for (const auto& entry : all)
    if (entry.first == f) return entry.second;
  throw std::logic_error("not a compiled function");
}

// All but the best `n_top` groups of experts get a score that is never chosen. The score of a group is the sum of its two
// highest.
mx::array within_top_groups(const mx::array& scores, int n_groups, int n_top) {
  int n_rows = scores.shape(0), n_experts = scores.shape(1);
  auto groups = mx::unflatten(scores, 1, {n_groups, n_experts / n_groups});
  auto best = mx::sum(mx::topk(groups, std::min(2, n_experts / n_groups), -1), -1, true); // [n_rows, n_groups, 1]
  auto order = mx::argsort(best, 1);
  auto worst = mx::slice(order, {0, 0, 0}, {n_rows, n_groups - n_top, 1}, {1, 1, 1});
  auto lowest = mx::array(-std::numeric_limits<float>::infinity(), scores.dtype());
  return mx::flatten(mx::put_along_axis(groups, worst, lowest, 1), 1, 2);
}

} // namespace

extern "C" {

// Experts of each row, [n_rows, top_k], and their weights, of the same shape.
int om_route(
    const mx::array* logits, const mx::array* correction, int softmax, int n_groups, int n_top_groups, int top_k,
    int normalise, float scale, mx::array** experts, mx::array** weights) {
  return attempt([&] {
    auto x = mx::astype(*logits, mx::float32);
    auto scores = softmax ? mx::softmax(x, -1, true) : mx::sigmoid(x);
    auto ranked = correction ? scores + *correction : scores;
    if (n_top_groups < n_groups) ranked = within_top_groups(ranked, n_groups, n_top_groups);
    auto order = mx::argsort(mx::negative(ranked), -1);
    auto best = mx::slice(order, {0, 0}, {x.shape(0), top_k}, {1, 1});
    auto chosen = mx::take_along_axis(scores, best, -1);
    if (normalise) chosen = chosen / mx::sum(chosen, -1, true);
    *experts = new mx::array(best);
    *weights = new mx::array(chosen * mx::array(scale));
  });
}

// Numbers of experts within `first .. first + n`, counted from `first`, others as 0; and weights with zeros for the others.
int om_local_experts(
    const mx::array* experts, const mx::array* weights, unsigned first, unsigned n, mx::array** local,
    mx::array** local_weights) {
  return attempt([&] {
    auto from = mx::array(first, mx::uint32), end = mx::array(first + n, mx::uint32);
    auto here = mx::logical_and(mx::greater_equal(*experts, from), mx::less(*experts, end));
    *local = new mx::array(mx::where(here, *experts - from, mx::array(0u, mx::uint32)));
    *local_weights = new mx::array(mx::where(here, *weights, mx::array(0.0f)));
  });
}

mx::array* om_swiglu(const mx::array* gate, const mx::array* up) {
  return guarded([&] { return compiled(swiglu)({*gate, *up})[0]; });
}

mx::array* om_rotate(
    const mx::array* x, const mx::array* swapped, const mx::array* mask, const mx::array* cos, const mx::array* sin) {
  return guarded([&] { return compiled(rotate)({*x, *swapped, *mask, *cos, *sin})[0]; });
}

// `weight` and `swapped_weight` as x and its swapped pairs.
mx::array* om_rotate_weighted(
    const mx::array* x, const mx::array* swapped, const mx::array* mask, const mx::array* cos, const mx::array* sin,
    const mx::array* weight, const mx::array* swapped_weight, const mx::array* plain) {
  return guarded([&] {
    return compiled(rotate_weighted)({*x, *swapped, *mask, *cos, *sin, *weight, *swapped_weight, *plain})[0];
  });
}

} // extern "C"
