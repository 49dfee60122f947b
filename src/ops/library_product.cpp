// SPDX-License-Identifier: Apache-2.0
#include "ops/library_product.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include "ops/cpu/targets.h"
#include "ops/row_independence.h"
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
  const at::NoGradGuard no_grad;
  const at::Tensor x = noise(kLibraryRows, inputs, 1);
  const at::Tensor packed = pack_for_library(noise(outputs, inputs, 2));
  return dependent_rows(kLibraryRows,
                        [&](int64_t first, int64_t rows) {
                          return library_product(x.narrow(0, first, rows), packed, outputs);
                        })
      .empty();
}

}  // namespace

bool has_bfloat16_tiles() {
#if defined(__x86_64__)
  static const bool has = __builtin_cpu_supports("amx-bf16");
  // A test on a narrower target stands for a processor that has no wider one.
  return has && cpu::uses_avx512();
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
  if (rows > kLibraryRows) {
    const at::Tensor out = at::empty({rows, outputs}, x.options());
    for (int64_t first = 0; first < rows; first += kLibraryRows) {
      const int64_t count = std::min(kLibraryRows, rows - first);
      out.narrow(0, first, count)
          .copy_(library_product(x.narrow(0, first, count), packed, outputs));
    }
    return out;
  }
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
  // Another number of threads shares a product out otherwise.
  static std::map<std::tuple<int64_t, int64_t, int>, bool> known;
  const std::lock_guard lock(mutex);
  const auto [found, is_new] = known.try_emplace({inputs, outputs, at::get_num_threads()}, false);
  if (is_new) found->second = probe(inputs, outputs);
  return found->second;
}

}  // namespace lockstep::ops
