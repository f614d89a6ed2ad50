// Where a graph calls back: a group whose collectives are the caller's, and a choice that the host makes from computed
// values. A callback that returns anything but 0 becomes an error of the evaluation.
#include "shim.h"

#include <mlx/backend/cpu/encoder.h>
#include <mlx/distributed/distributed.h>
#include <mlx/distributed/distributed_impl.h>
#include <mlx/distributed/ops.h>

#include <cstdlib>
#include <cstring>

namespace dist = mlx::core::distributed;

extern "C" {

// Each call gets `context`; `drop` ends it.
struct om_group_calls {
  void* context;
  int (*all_reduce)(void* context, float* values, size_t n);
  void (*drop)(void* context);
};

struct om_choice_calls {
  void* context;
  int (*choose)(void* context, const float* values, size_t n, unsigned* out, size_t n_out);
  void (*drop)(void* context);
};

} // extern "C"

namespace {

// Calls that may still be queued when the graph that made them is gone: the last user ends the context.
template <typename Calls>
std::shared_ptr<const Calls> shared(Calls calls) {
  return std::shared_ptr<const Calls>(new Calls(calls), [](const Calls* c) {
    c->drop(c->context);
    delete c;
  });
}

class Group : public dist::detail::GroupImpl {
 public:
  Group(int rank, int size, om_group_calls calls) : rank_(rank), size_(size), calls_(shared(calls)) {}

  mx::Stream communication_stream(mx::StreamOrDevice s) override { return mx::to_stream(s, mx::Device::cpu); }
  int rank() override { return rank_; }
  int size() override { return size_; }
  std::shared_ptr<GroupImpl> split(int, int) override { throw unsupported("split"); }

  void all_sum(const mx::array& in, mx::array& out, mx::Stream stream) override {
    if (in.dtype() != mx::float32) throw unsupported("all_sum of anything but float32");
    auto& encoder = mx::cpu::get_command_encoder(stream);
    encoder.set_input_array(in);
    encoder.set_output_array(out);
    encoder.dispatch([calls = calls_, from = in.data<float>(), to = out.data<float>(), n = in.size()] {
      if (from != to) std::memcpy(to, from, n * sizeof(float));
      if (calls->all_reduce(calls->context, to, n) != 0) throw std::runtime_error("all_reduce failed");
    });
  }

  void all_gather(const mx::array&, mx::array&, mx::Stream) override { throw unsupported("all_gather"); }
  void send(const mx::array&, int, mx::Stream) override { throw unsupported("send"); }
  void recv(mx::array&, int, mx::Stream) override { throw unsupported("recv"); }
  void all_max(const mx::array&, mx::array&, mx::Stream) override { throw unsupported("all_max"); }
  void all_min(const mx::array&, mx::array&, mx::Stream) override { throw unsupported("all_min"); }
  void sum_scatter(const mx::array&, mx::array&, mx::Stream) override { throw unsupported("sum_scatter"); }

 private:
  static std::runtime_error unsupported(const char* what) {
    return std::runtime_error(std::string("this group has no ") + what);
  }

  int rank_;
  int size_;
  std::shared_ptr<const om_group_calls> calls_;
};

// Numbers that the host chooses once the input's values are known.
class Choice : public mx::Primitive {
 public:
  Choice(mx::Stream stream, om_choice_calls calls) : Primitive(stream), calls_(shared(calls)) {}

  void eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) override {
    const auto& in = inputs[0];
    auto& out = outputs[0];
    out.set_data(mx::allocator::malloc(out.nbytes()));
    auto& encoder = mx::cpu::get_command_encoder(stream());
    encoder.set_input_array(in);
    encoder.set_output_array(out);
    encoder.dispatch([calls = calls_, from = in.data<float>(), n = in.size(), to = out.data<uint32_t>(), n_out = out.size()] {
      if (calls->choose(calls->context, from, n, to, n_out) != 0) throw std::runtime_error("the host could not choose");
    });
  }
  void eval_gpu(const std::vector<mx::array>&, std::vector<mx::array>&) override {
    throw std::runtime_error("a choice is the host's");
  }
  const char* name() const override { return "Choice"; }

 private:
  std::shared_ptr<const om_choice_calls> calls_;
};

} // namespace

extern "C" {

dist::Group* om_group(int rank, int size, om_group_calls calls) {
  try {
    return new dist::Group(std::make_shared<Group>(rank, size, calls));
  } catch (const std::exception& e) {
    om_last_error = e.what();
    return nullptr;
  }
}

// MLX's own engines ("ring", "jaccl") read where their peers are from the environment.
dist::Group* om_group_of(const char* engine, const char* const* names, const char* const* values, int n) {
  try {
    for (int i = 0; i < n; ++i) setenv(names[i], values[i], 1);
    return new dist::Group(dist::init(true, engine));
  } catch (const std::exception& e) {
    om_last_error = e.what();
    return nullptr;
  }
}

void om_group_free(dist::Group* g) { delete g; }

mx::array* om_all_reduce(const mx::array* x, const dist::Group* g) {
  return guarded([&] { return dist::all_sum(*x, *g); });
}

// `n` numbers chosen from the values of `x`.
mx::array* om_choice(const mx::array* x, int n, om_choice_calls calls) {
  return guarded([&] {
    auto primitive = std::make_shared<Choice>(mx::default_stream(mx::Device::cpu), calls);
    auto values = mx::contiguous(mx::astype(*x, mx::float32));
    return mx::array(mx::Shape{n}, mx::uint32, primitive, {values});
  });
}

} // extern "C"
