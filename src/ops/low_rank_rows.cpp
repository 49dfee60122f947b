// SPDX-License-Identifier: Apache-2.0
#include "ops/low_rank_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "ops/cpu/low_rank.h"
#include "ops/kernel_data.h"
#include "ops/panel_product.h"
#include "tensor/aten.h"
#include "tensor/parallel.h"

namespace lockstep::ops {
namespace {

/// Two keys that differ give rows of bits that have nothing in common. Source: the finaliser of
/// splitmix64 (Steele, Lea, Flood 2014).
uint64_t mixed(uint64_t key, uint64_t name) {
  uint64_t z = key + name * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  return z ^ (z >> 31);
}

cpu::DroppedRow dropped_row(const LowRankRows& part, int64_t row) {
  const Dropout& dropout = part.dropout;
  if (dropout.rate == 0) return {};
  const auto key = static_cast<uint64_t>(dropout.keys.const_data_ptr<int64_t>()[row]);
  return {.key = mixed(key, part.name),
          .threshold = static_cast<uint32_t>(std::lround(dropout.rate * 0x1p31)),
          .scale = static_cast<float>(1 / (1 - dropout.rate))};
}

at::Tensor float_table(int64_t rows, int64_t columns) {
  return at::empty({rows, columns}, at::TensorOptions().dtype(at::kFloat));
}

/// Calls visit(i, row) for each of the part's rows: its number, and its place in the table.
template <class Visit>
void for_each_row(const LowRankRows& part, const at::Tensor& table, int64_t width, Visit&& visit) {
  const int64_t* const rows = part.rows.defined() ? part.rows.const_data_ptr<int64_t>() : nullptr;
  parallel_for(0, part.count(table), thread_grain(width), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) visit(i, rows ? rows[i] : i);
  });
}

/// drop(x) of the part's rows, float32 [N, I]: `x` itself where that is it.
at::Tensor input_of(const at::Tensor& x, const LowRankRows& part) {
  if (!part.rows.defined() && part.dropout.rate == 0 && x.scalar_type() == at::kFloat) return x;
  const int64_t width = x.size(1);
  const at::Tensor out = float_table(part.count(x), width);
  for_dtype(x.scalar_type(), "low_rank", [&](auto tag) {
    using T = decltype(tag);
    for_each_row(part, x, width, [&](int64_t i, int64_t row) {
      cpu::widen_row(const_elements<T>(x) + row * x.stride(0), width, dropped_row(part, row),
                     elements<float>(out) + i * width);
    });
  });
  return out;
}

/// The inputs of all parts. Parts that see the same rows whole share theirs.
std::vector<at::Tensor> inputs_of(const at::Tensor& x, std::span<const LowRankRows> parts) {
  std::vector<at::Tensor> inputs;
  for (size_t i = 0; i < parts.size(); ++i) {
    const bool is_shared = i && parts[i].dropout.rate == 0 && parts[i - 1].dropout.rate == 0 &&
                           parts[i].rows.is_same(parts[i - 1].rows);
    inputs.push_back(is_shared ? inputs.back() : input_of(x, parts[i]));
  }
  return inputs;
}

/// Calls copy(row of the table, row of `own`) with the bytes of each of the part's rows and columns
/// of a table. ATen's index_select and index_copy_ go element by element where columns are left
/// out.
template <class Copy>
void copy_part(const at::Tensor& table,
               const LowRankRows& part,
               const at::Tensor& own,
               Copy&& copy) {
  for_dtype(table.scalar_type(), "low_rank", [&](auto tag) {
    using T = decltype(tag);
    T *const first = elements<T>(table) + part.first_column, *const rows = elements<T>(own);
    for_each_row(part, table, part.outputs(), [&](int64_t i, int64_t row) {
      copy(first + row * table.stride(0), rows + i * part.outputs(),
           static_cast<size_t>(part.outputs()) * sizeof(T));
    });
  });
}

/// scale A drop(x) of each part.
std::vector<at::Tensor> low_of(const std::vector<at::Tensor>& inputs,
                               std::span<const LowRankRows> parts) {
  std::vector<at::Tensor> low;
  std::vector<PanelOperands> products;
  for (size_t i = 0; i < parts.size(); ++i) {
    low.push_back(float_table(inputs[i].size(0), parts[i].rank()));
    for (const auto& run : parts[i].runs)
      products.push_back({inputs[i].narrow(0, run.first, run.count), run.a->packed,
                          low[i].narrow(0, run.first, run.count)});
  }
  panel_products(products);
  for (size_t i = 0; i < parts.size(); ++i) low[i].mul_(parts[i].scale);
  return low;
}

/// One matrix of a bank [E, *, *], or the one that there is.
at::Tensor matrix_of(const at::Tensor& bank, int64_t index) {
  return bank.dim() == 3 ? bank.select(0, index) : bank;
}

}  // namespace

at::Tensor rows_of_part(const at::Tensor& y, const LowRankRows& part) {
  if (!part.rows.defined()) return y.narrow(1, part.first_column, part.outputs());
  const at::Tensor own = at::empty({part.rows.numel(), part.outputs()}, y.options());
  copy_part(y.stride(1) == 1 ? y : y.contiguous(), part, own,
            [](const void* of_table, void* of_own, size_t bytes) {
              std::memcpy(of_own, of_table, bytes);
            });
  return own;
}

void check_dropout(const Dropout& dropout, const at::Tensor& x, const char* op) {
  const int64_t keys = dropout.keys.defined() ? dropout.keys.numel() : 0;
  if (dropout.rate < 0 || dropout.rate >= 1 || (dropout.rate > 0 && keys != x.size(0)))
    fail<ShapeError>("bad-dropout", op,
                     "expected a rate in [0, 1) and a key for each of {} rows, got {} and {} keys",
                     x.size(0), dropout.rate, keys);
}

void check_apart(std::span<const LowRankRows> parts, const char* op) {
  for (size_t i = 0; i < parts.size(); ++i)
    for (size_t j = i + 1; j < parts.size(); ++j) {
      const LowRankRows &a = parts[i], &b = parts[j];
      const bool share_columns = a.first_column < b.first_column + b.outputs() &&
                                 b.first_column < a.first_column + a.outputs();
      const bool share_rows = !a.rows.defined() || !b.rows.defined() || a.rows.is_same(b.rows);
      if (share_columns && share_rows)
        fail<ShapeError>("terms-meet", op,
                         "expected terms of other rows or columns than each other's, got columns "
                         "[{}, {}) and [{}, {}) of the same rows",
                         a.first_column, a.first_column + a.outputs(), b.first_column,
                         b.first_column + b.outputs());
    }
}

std::vector<at::Tensor> low_products(const at::Tensor& x, std::span<const LowRankRows> parts) {
  return low_of(inputs_of(x, parts), parts);
}

std::vector<at::Tensor> add_low_rank(const at::Tensor& y,
                                     const at::Tensor& x,
                                     std::span<const LowRankRows> parts) {
  std::vector<at::Tensor> low = low_products(x, parts);
  add_outputs(y, low, parts);
  return low;
}

void add_outputs(const at::Tensor& y,
                 const std::vector<at::Tensor>& low,
                 std::span<const LowRankRows> parts) {
  std::vector<at::Tensor> sums;
  std::vector<PanelOperands> products;
  for (size_t i = 0; i < parts.size(); ++i) {
    sums.push_back(rows_of_part(y, parts[i]));
    for (const auto& run : parts[i].runs)
      products.push_back({.x = low[i].narrow(0, run.first, run.count),
                          .panels = run.b->packed,
                          .y = sums[i].narrow(0, run.first, run.count),
                          .adds = true});
  }
  panel_products(products);
  for (size_t i = 0; i < parts.size(); ++i)
    if (parts[i].rows.defined())
      copy_part(y, parts[i], sums[i], [](void* of_table, const void* of_own, size_t bytes) {
        std::memcpy(of_table, of_own, bytes);
      });
}

std::vector<at::Tensor> low_gradients(const at::Tensor& dy, std::span<const LowRankRows> parts) {
  std::vector<at::Tensor> dlow;
  std::vector<BackwardProduct> products;
  for (size_t i = 0; i < parts.size(); ++i) {
    const at::Tensor own = rows_of_part(dy, parts[i]);
    dlow.push_back(float_table(own.size(0), parts[i].rank()));
    for (const auto& run : parts[i].runs)
      products.push_back({dlow[i].narrow(0, run.first, run.count),
                          own.narrow(0, run.first, run.count), run.b->weight.detach()});
  }
  backward_products(products);
  for (size_t i = 0; i < parts.size(); ++i) dlow[i].mul_(parts[i].scale);
  return dlow;
}

void add_input_gradients(const std::vector<at::Tensor>& dlow,
                         std::span<const LowRankRows> parts,
                         const at::Tensor& dx) {
  for (size_t i = 0; i < parts.size(); ++i) {
    const LowRankRows& part = parts[i];
    const bool is_direct = !part.rows.defined() && part.dropout.rate == 0;
    const at::Tensor own = is_direct ? dx : float_table(part.count(dx), dx.size(1));
    std::vector<BackwardProduct> products;
    for (const auto& run : part.runs)
      products.push_back({own.narrow(0, run.first, run.count),
                          dlow[i].narrow(0, run.first, run.count), run.a->weight.detach(),
                          is_direct});
    backward_products(products);
    if (is_direct) continue;
    const int64_t width = dx.size(1);
    for_dtype(dx.scalar_type(), "low_rank", [&](auto tag) {
      using T = decltype(tag);
      for_each_row(part, dx, width, [&](int64_t k, int64_t row) {
        float* const from = elements<float>(own) + k * width;
        if (part.dropout.rate != 0) cpu::widen_row(from, width, dropped_row(part, row), from);
        cpu::add_row(from, width, elements<T>(dx) + row * dx.stride(0));
      });
    });
  }
}

namespace {

/// Zeros for the gradient of a part's A as [I, R]: the narrow side of a product is best its right
/// one.
at::Tensor transposed_zeros(const at::Tensor& a) {
  std::vector<int64_t> transposed = a.sizes().vec();
  std::swap(transposed[transposed.size() - 2], transposed.back());
  return at::zeros(transposed, a.options().requires_grad(false));
}

}  // namespace

std::vector<at::Tensor> a_gradients(const at::Tensor& x,
                                    const std::vector<at::Tensor>& dlow,
                                    std::span<const LowRankRows> parts) {
  const std::vector<at::Tensor> inputs = inputs_of(x, parts);
  std::vector<at::Tensor> gradients;
  for (size_t i = 0; i < parts.size(); ++i) {
    const at::Tensor da = transposed_zeros(parts[i].a);
    backward_products({{da, inputs[i].t(), dlow[i]}});
    gradients.push_back(da.t().contiguous());
  }
  return gradients;
}

std::vector<PairGradients> pair_gradients(const at::Tensor& dy,
                                          const at::Tensor& x,
                                          const std::vector<at::Tensor>& dlow,
                                          const std::vector<at::Tensor>& low,
                                          std::span<const LowRankRows> parts) {
  const std::vector<at::Tensor> inputs = inputs_of(x, parts);
  const std::vector<at::Tensor> own_low = low.empty() ? low_of(inputs, parts) : low;
  std::vector<PairGradients> gradients;
  for (size_t i = 0; i < parts.size(); ++i) {
    const at::Tensor own = rows_of_part(dy, parts[i]);
    const at::Tensor da = transposed_zeros(parts[i].a), db = at::zeros_like(parts[i].b.detach());
    std::vector<BackwardProduct> products;
    for (const auto& run : parts[i].runs) {
      const auto rows = [&](const at::Tensor& table) {
        return table.narrow(0, run.first, run.count);
      };
      products.push_back({matrix_of(da, run.matrix), rows(inputs[i]).t(), rows(dlow[i])});
      products.push_back({matrix_of(db, run.matrix), rows(own).t(), rows(own_low[i])});
    }
    backward_products(products);
    gradients.push_back({da.transpose(-1, -2).contiguous(), db});
  }
  return gradients;
}

bool any_of(const std::vector<bool>& needs, size_t first) {
  return std::find(needs.begin() + static_cast<int64_t>(first), needs.end(), true) != needs.end();
}

void put_pairs(const std::vector<PairGradients>& pairs,
               std::vector<at::Tensor>& gradients,
               size_t first) {
  for (const PairGradients& pair : pairs) {
    gradients[first++] = pair.a;
    gradients[first++] = pair.b;
  }
}

}  // namespace lockstep::ops
