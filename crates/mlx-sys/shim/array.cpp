// Arrays: made, read, evaluated, counted; and the limits of the memory they lie in.
#include "shim.h"

#include <mlx/scheduler.h>

#ifdef __APPLE__
#include <mlx/backend/gpu/device_info.h>
#endif

#include <algorithm>
#include <cstring>
#include <string_view>
#include <unordered_set>

thread_local std::string om_last_error;

namespace {

// Primitives that only describe memory another way.
bool is_view(std::string_view name) {
  static const std::unordered_set<std::string_view> views = {
      "AsStrided", "Broadcast", "BroadcastAxes", "ExpandDims", "Flatten", "Reshape", "Slice",
      "Split",     "Squeeze",   "StopGradient",  "Transpose",  "Unflatten"};
  return views.count(name) > 0;
}

size_t bytes_of(const mx::Shape& shape, mx::Dtype type) {
  size_t n_bytes = mx::size_of(type);
  for (auto d : shape) n_bytes *= d;
  return n_bytes;
}

struct Graph {
  unsigned long long nodes;
  unsigned long long views;
  unsigned long long largest; // bytes of the largest array that has to be allocated
};

void count(const std::vector<mx::array>& outputs, Graph* graph) {
  std::unordered_set<std::uintptr_t> seen;
  std::vector<const mx::array*> open;
  for (const auto& a : outputs) open.push_back(&a);
  while (!open.empty()) {
    const mx::array* a = open.back();
    open.pop_back();
    if (!a->has_primitive() || a->status() != mx::array::Status::unscheduled) continue;
    if (!seen.insert(a->id()).second) continue;
    for (const auto& sibling : a->siblings()) seen.insert(sibling.id()); // further outputs of the same operation
    graph->nodes += 1;
    std::string_view name = a->primitive().name();
    if (is_view(name)) {
      graph->views += 1;
    } else if (name != "SliceUpdate" && name != "Scatter") { // these replace parts of an array that is there
      graph->largest = std::max<unsigned long long>(graph->largest, a->nbytes());
    }
    for (const auto& input : a->inputs()) open.push_back(&input);
  }
}

} // namespace

extern "C" {

const char* om_error() { return om_last_error.c_str(); }

const char* om_version() { return mx::version(); }

mx::array* om_copy_of(const void* data, const int* dims, int n_dims, int dtype) {
  return guarded([&] {
    auto type = dtype_of(dtype);
    auto shape = shape_of(dims, n_dims);
    auto memory = mx::allocator::malloc(bytes_of(shape, type));
    std::memcpy(memory.buffer().raw_ptr(), data, bytes_of(shape, type));
    return mx::array(std::move(memory), shape, type);
  });
}

// Memory of an array that the caller fills before it is used; null if there is none.
mx::array* om_unfilled(const int* dims, int n_dims, int dtype, void** memory) {
  return guarded([&] {
    auto type = dtype_of(dtype);
    auto shape = shape_of(dims, n_dims);
    auto data = mx::allocator::malloc(bytes_of(shape, type));
    *memory = data.buffer().raw_ptr();
    return mx::array(std::move(data), shape, type);
  });
}

mx::array* om_clone(const mx::array* a) {
  return guarded([&] { return *a; });
}

void om_free(mx::array* a) { delete a; }

int om_n_dims(const mx::array* a) { return static_cast<int>(a->ndim()); }

int om_dim(const mx::array* a, int i) { return a->shape()[i]; }

int om_dtype(const mx::array* a) {
  for (int code = 0; code < 5; ++code)
    if (a->dtype() == dtype_of(code)) return code;
  return -1;
}

int om_eval(const mx::array* const* arrays, int n) {
  return attempt([&] { mx::eval(collect(arrays, n)); });
}

int om_start(const mx::array* const* arrays, int n) {
  return attempt([&] { mx::async_eval(collect(arrays, n)); });
}

// The array that `a` was to be made from, first input by first input, and that has been handed to the device.
mx::array* om_settled(const mx::array* a) {
  return guarded([&] {
    mx::array at = *a;
    while (at.status() == mx::array::Status::unscheduled && at.has_primitive() && !at.inputs().empty()) {
      mx::array before = at.inputs()[0];
      at = before;
    }
    return at;
  });
}

// Waits for everything that was queued. What failed of it is forgotten: a failure may be stored twice, with the array that
// is waited for and with the stream.
void om_drain() {
  (void)attempt([] { mx::synchronize(); });
  auto host = mx::default_stream(mx::Device::cpu);
  (void)attempt([&] { mx::synchronize(host); });
  (void)attempt([&] { mx::scheduler::check_error(host); });
  // A task that fails does not always say that it is done, and with more than ten such MLX waits for them for ever.
  while (mx::scheduler::n_active_tasks() > 0) mx::scheduler::notify_task_completion(host);
}

int om_count(const mx::array* const* arrays, int n, Graph* graph) {
  return attempt([&] { count(collect(arrays, n), graph); });
}

int om_read_f32(const mx::array* a, float* out, size_t n) {
  return attempt([&] {
    auto values = mx::contiguous(mx::astype(*a, mx::float32));
    values.eval();
    if (values.size() != n) throw std::length_error("the array has another size");
    std::memcpy(out, values.data<float>(), n * sizeof(float));
  });
}

size_t om_active_memory() { return mx::get_active_memory(); }

int om_limit_memory(size_t resident, size_t step) {
  return attempt([&] {
    mx::set_memory_limit(resident + step);
    mx::set_cache_limit(step);
#ifdef __APPLE__
    // more than the system allows is an error of its own
    auto most = std::get<size_t>(mx::gpu::device_info().at("max_recommended_working_set_size"));
    mx::set_wired_limit(std::min(resident, most));
#endif
  });
}

void om_fuse(int on) { mx::set_compile_mode(on ? mx::CompileMode::enabled : mx::CompileMode::disabled); }

int om_has_gpu() { return mx::metal::is_available() ? 1 : 0; }

} // extern "C"
