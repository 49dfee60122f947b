// SPDX-License-Identifier: Apache-2.0
#include "ops/library_product.h"

#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include "tensor/aten.h"

namespace lockstep::ops {
namespace {

/// An operator of libtorch that has no C++ header.
template <class Signature>
c10::TypedOperatorHandle<Signature> find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

at::Tensor product(const at::Tensor& x, const at::Tensor& packed) {
  static const auto op = find_operator<at::Tensor(
      const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, std::string_view,
      c10::List<std::optional<at::Scalar>>, std::optional<std::string_view>)>(
      "mkldnn::_linear_pointwise");
  return op.call(x, packed, std::nullopt, "none", c10::List<std::optional<at::Scalar>>(), "");
}

/// Below this, rows are filled up to a power of two.
constexpr int64_t kFewRows = 16;

/// Values in [-1, 1) in bfloat16.
at::Tensor noise(int64_t rows, int64_t columns, uint64_t seed) {
  return at::empty({rows, columns}, at::TensorOptions().dtype(at::kFloat))
      .uniform_(-1, 1, at::detail::createCPUGenerator(seed))
      .to(at::kBFloat16);
}

bool probe(int64_t inputs, int64_t outputs) {
  constexpr int64_t kAllRows = 512;
  const at::NoGradGuard no_grad;
  const at::Tensor x = noise(kAllRows, inputs, 1);
  const at::Tensor packed = pack_for_library(noise(outputs, inputs, 2));
  const at::Tensor all = library_product(x, packed, outputs);
  // Each number of rows that is computed below 16, and some of those above.
  for (const int64_t rows : {1, 3, 5, 15, 16, 17, 33, 64, 100, 300}) {
    for (const int64_t first : {int64_t{0}, kAllRows - rows}) {
      const at::Tensor some = library_product(x.narrow(0, first, rows), packed, outputs);
      const at::Tensor expected = all.narrow(0, first, rows);
      if (std::memcmp(some.const_data_ptr(), expected.const_data_ptr(), some.nbytes()) != 0)
        return false;
    }
  }
  return true;
}

}  // namespace

bool has_native_bfloat16() {
#if defined(__x86_64__)
  static const bool has = __builtin_cpu_supports("avx512bf16");
  return has;
#else
  return false;
#endif
}

at::Tensor pack_for_library(const at::Tensor& weight) {
  static const auto op = find_operator<at::Tensor(const at::Tensor&, std::optional<int64_t>)>(
      "mkldnn::_reorder_linear_weight");
  return op.call(weight.detach().contiguous(), std::nullopt);
}

at::Tensor library_product(const at::Tensor& x, const at::Tensor& packed, int64_t outputs) {
  const int64_t rows = x.size(0);
  if (rows == 0) return at::empty({0, outputs}, x.options());
  // Few different small numbers keep oneDNN's cache of generated kernels small (experts have any
  // number of rows).
  int64_t computed = 2;
  while (computed < rows && computed < kFewRows) computed *= 2;
  if (computed <= rows) return product(x.contiguous(), packed);
  const at::Tensor padded = at::zeros({computed, x.size(1)}, x.options());
  padded.narrow(0, 0, rows).copy_(x);
  return product(padded, packed).narrow(0, 0, rows);
}

bool library_rows_are_independent(int64_t inputs, int64_t outputs) {
  static std::mutex mutex;
  static std::map<std::pair<int64_t, int64_t>, bool> known;
  const std::lock_guard lock(mutex);
  const auto [found, is_new] = known.try_emplace({inputs, outputs}, false);
  if (is_new) found->second = probe(inputs, outputs);
  return found->second;
}

}  // namespace lockstep::ops
