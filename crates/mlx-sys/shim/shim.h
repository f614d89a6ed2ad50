// What all parts of the shim share. Every function returns null or a status other than 0 when MLX threw, and leaves the
// message for om_error(); no exception crosses the border. Arrays are heap-allocated handles that om_free ends.
#pragma once

#include <mlx/mlx.h>
#include <mlx/primitives.h>

#include <string>
#include <vector>

namespace mx = mlx::core;

extern thread_local std::string om_last_error;

template <typename F>
mx::array* guarded(F&& f) noexcept {
  try {
    return new mx::array(f());
  } catch (const std::exception& e) {
    om_last_error = e.what();
  } catch (...) {
    om_last_error = "an exception without a message";
  }
  return nullptr;
}

template <typename F>
int attempt(F&& f) noexcept {
  try {
    f();
    return 0;
  } catch (const std::exception& e) {
    om_last_error = e.what();
  } catch (...) {
    om_last_error = "an exception without a message";
  }
  return 1;
}

inline mx::Shape shape_of(const int* dims, int n) { return mx::Shape(dims, dims + n); }

inline std::optional<mx::array> maybe(const mx::array* a) {
  return a == nullptr ? std::nullopt : std::optional<mx::array>(*a);
}

inline std::vector<mx::array> collect(const mx::array* const* arrays, int n) {
  std::vector<mx::array> out;
  out.reserve(n);
  for (int i = 0; i < n; ++i) out.push_back(*arrays[i]);
  return out;
}

// Numbers of dtypes at the border; src/array.rs has the same list.
inline mx::Dtype dtype_of(int code) {
  switch (code) {
    case 0: return mx::float32;
    case 1: return mx::float16;
    case 2: return mx::bfloat16;
    case 3: return mx::uint32;
    case 4: return mx::bool_;
    default: throw std::invalid_argument("no such dtype");
  }
}
