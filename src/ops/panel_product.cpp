// SPDX-License-Identifier: Apache-2.0
#include "ops/panel_product.h"

#include <algorithm>
#include <atomic>

#include "base/check.h"
#include "ops/cpu/panel_product.h"
#include "ops/kernel_data.h"
#include "tensor/aten.h"
#include "tensor/parallel.h"

namespace lockstep::ops {
namespace {

/// Below so many multiplications a second thread costs more than it brings.
constexpr int64_t kSerialWork = 128 * 1024;

/// A part of a product that one thread computes.
template <class T, class Y, class X>
struct Item {
  /// At most kPanelProductRows rows.
  cpu::PanelProduct<T, Y, X> product;
  /// Panels.
  int64_t first, last;
};

/// Cuts a product into row blocks and groups of panels, enough of them for the threads to share
/// evenly.
template <class T, class Y, class X>
void append_items(const cpu::PanelProduct<T, Y, X>& product, std::vector<Item<T, Y, X>>& items) {
  const int64_t panels = cpu::num_panels(product.outputs);
  const int64_t blocks = (product.rows + cpu::kPanelProductRows - 1) / cpu::kPanelProductRows;
  // So many that a thread which is an item short at the end waits little, each of whole tiles.
  const int64_t wanted = panels * blocks / (16 * at::get_num_threads());
  const int64_t tile = cpu::panels_of_tile(product.rows);
  const int64_t group = std::clamp<int64_t>(wanted / tile * tile, tile, 12);
  for (int64_t row = 0; row < product.rows; row += cpu::kPanelProductRows) {
    cpu::PanelProduct<T, Y, X> block = product;
    // A transposed bfloat16 x has two inputs of a row side by side.
    block.x += row * (!product.is_transposed       ? product.x_stride
                      : sizeof(X) == sizeof(float) ? 1
                                                   : 2);
    block.y += row * product.y_stride;
    block.rows = std::min(cpu::kPanelProductRows, product.rows - row);
    for (int64_t first = 0; first < panels; first += group)
      items.push_back({block, first, std::min(panels, first + group)});
  }
}

/// Elements that a thread packs or transposes at least.
constexpr int64_t kPackGrain = 32 * 1024;

/// The blocks of `elements` elements each that a thread takes at least.
int64_t pack_grain(int64_t elements) { return 1 + kPackGrain / (elements + 1); }

/// The left side of a product as the kernel reads it (cpu::PanelProduct::x).
struct LeftSide {
  at::Tensor x;
  int64_t stride;
  bool is_transposed;
};

bool is_transposed(const at::Tensor& x) { return x.stride(1) != 1 && x.stride(0) == 1; }

/// Float32 values side by side in rows or columns stay as they are.
LeftSide float_side(const at::Tensor& x) {
  const bool transposed = is_transposed(x);
  if (x.scalar_type() == at::kFloat && (transposed || x.stride(1) == 1))
    return {x, x.stride(transposed ? 1 : 0), transposed};
  const int64_t rows = x.size(0), inputs = x.size(1);
  if (x.scalar_type() != at::kBFloat16 || !transposed)
    return {x.to(at::kFloat).contiguous(), inputs, false};
  constexpr int64_t kRows = 16;
  const at::Tensor out = at::empty({rows, inputs}, x.options().dtype(at::kFloat));
  parallel_for(
      0, (rows + kRows - 1) / kRows, pack_grain(kRows * inputs), [&](int64_t begin, int64_t end) {
        const int64_t first = begin * kRows, last = std::min(rows, end * kRows);
        cpu::transpose_to_rows(const_elements<uint16_t>(x) + first, x.stride(1), last - first,
                               inputs, elements<float>(out) + first * inputs);
      });
  return {out, inputs, false};
}

/// Bfloat16 values side by side in rows stay; columns become pairs.
LeftSide pair_side(const at::Tensor& x) {
  if (x.stride(1) == 1) return {x, x.stride(0), false};
  const int64_t rows = x.size(0), inputs = x.size(1);
  if (!is_transposed(x)) return {x.contiguous(), inputs, false};
  const at::Tensor out = at::empty({(inputs + 1) / 2, rows, 2}, x.options());
  const auto* const from = const_elements<uint16_t>(x);
  parallel_for(0, (inputs + 1) / 2, pack_grain(2 * rows), [&](int64_t begin, int64_t end) {
    for (int64_t pair = begin; pair < end; ++pair) {
      const uint16_t* const even = from + 2 * pair * x.stride(1);
      cpu::interleave_lines(even, 2 * pair + 1 < inputs ? even + x.stride(1) : nullptr, rows,
                            elements<uint16_t>(out) + pair * 2 * rows);
    }
  });
  return {out, rows, true};
}

template <class T, class Y, class X>
void run(const std::vector<PanelOperands>& products) {
  std::vector<LeftSide> sides;  // keeps converted ones alive
  std::vector<Item<T, Y, X>> items;
  int64_t work = 0;
  for (const PanelOperands& p : products) {
    sides.push_back(sizeof(X) == sizeof(float) ? float_side(p.x) : pair_side(p.x));
    const int64_t rows = p.x.size(0), width = p.x.size(1), outputs = p.y.size(1);
    LOCKSTEP_CHECK(p.panels.numel() == cpu::num_panels(outputs) *
                                           cpu::panel_elements(width, const_elements<T>(p.panels)),
                   "panels of {} elements for a product [{}, {}] -> {}", p.panels.numel(), rows,
                   width, outputs);
    LOCKSTEP_CHECK(p.y.element_size() == sizeof(Y), "results of {} among those of {} bytes",
                   at::toString(p.y.scalar_type()), sizeof(Y));
    if (width == 0) {
      if (!p.adds) p.y.zero_();
      continue;
    }
    work += rows * width * outputs;
    append_items(cpu::PanelProduct<T, Y, X>{.x = const_elements<X>(sides.back().x),
                                            .x_stride = sides.back().stride,
                                            .is_transposed = sides.back().is_transposed,
                                            .rows = rows,
                                            .inputs = width,
                                            .outputs = outputs,
                                            .panels = const_elements<T>(p.panels),
                                            .y = elements<Y>(p.y),
                                            .y_stride = p.y.stride(0),
                                            .adds = p.adds,
                                            .adds_chains = p.adds_chains},
                 items);
  }
  const auto compute = [&](const Item<T, Y, X>& item) {
    cpu::panel_product(item.product, item.first, item.last);
  };
  if (work < kSerialWork) {
    for (const auto& item : items) compute(item);
    return;
  }
  // Whoever is done takes the next item: threads of a shared machine are not equally fast.
  std::atomic<size_t> next = 0;
  parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    for (size_t i = next++; i < items.size(); i = next++) compute(items[i]);
  });
}

}  // namespace

at::Tensor pack_panels(const at::Tensor& weight, const at::Tensor& reuse) {
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  const int64_t panels = cpu::num_panels(outputs);
  at::Tensor packed;
  for_dtype(weight.scalar_type(), "pack_panels", [&](auto tag) {
    using T = decltype(tag);
    const int64_t stride = cpu::panel_elements(inputs, const_elements<T>(weight));
    const bool fits = reuse.defined() && reuse.scalar_type() == weight.scalar_type() &&
                      reuse.numel() == panels * stride;
    packed = fits ? reuse : at::empty({panels * stride}, weight.options().requires_grad(false));
    const cpu::WeightView<T> view{const_elements<T>(weight), outputs, inputs, weight.stride(0),
                                  weight.stride(1)};
    if (view.output_stride == 1 && view.input_stride != 1) {
      // This is even, since bfloat16 panels hold pairs.
      constexpr int64_t kInputs = 8;
      parallel_for(0, (inputs + kInputs - 1) / kInputs, pack_grain(kInputs * outputs),
                   [&](int64_t begin, int64_t end) {
                     cpu::pack_lines(view, begin * kInputs, std::min(inputs, end * kInputs),
                                     elements<T>(packed));
                   });
      return;
    }
    parallel_for(0, panels, pack_grain(stride), [&](int64_t begin, int64_t end) {
      for (int64_t panel = begin; panel < end; ++panel)
        cpu::pack_panel(view, panel, elements<T>(packed) + panel * stride);
    });
  });
  return packed;
}

at::Tensor transpose_panels(const at::Tensor& panels, int64_t outputs, int64_t inputs) {
  const int64_t count = cpu::num_panels(inputs);
  at::Tensor packed;
  for_dtype(panels.scalar_type(), "transpose_panels", [&](auto tag) {
    using T = decltype(tag);
    const auto* const from = const_elements<T>(panels);
    const int64_t stride = cpu::panel_elements(outputs, from);
    packed = at::empty({count * stride}, panels.options());
    T* const to = elements<T>(packed);
    parallel_for(0, count, pack_grain(stride), [&](int64_t begin, int64_t end) {
      for (int64_t panel = begin; panel < end; ++panel)
        cpu::transpose_panels(from, outputs, inputs, panel, to + panel * stride);
    });
  });
  return packed;
}

at::Tensor unpack_panels(const at::Tensor& panels, int64_t outputs, int64_t inputs) {
  check_dtype(panels.scalar_type(), "unpack_panels");
  const int64_t side = panels.scalar_type() == at::kFloat ? 1 : 2,
                pairs = (inputs + side - 1) / side, count = cpu::num_panels(outputs);
  return panels.view({count, pairs, cpu::kPanelOutputs, side})
      .permute({0, 2, 1, 3})
      .reshape({count * cpu::kPanelOutputs, pairs * side})
      .narrow(0, 0, outputs)
      .narrow(1, 0, inputs)
      .contiguous();
}

void unpack_row(const at::Tensor& panels, int64_t row, const at::Tensor& table, int64_t to_row) {
  const int64_t inputs = table.size(1);
  for_dtype(panels.scalar_type(), "unpack_row", [&](auto tag) {
    using T = decltype(tag);
    cpu::unpack_row(const_elements<T>(panels), inputs, row, elements<T>(table) + to_row * inputs);
  });
}

void panel_products(const std::vector<PanelOperands>& products) {
  if (products.empty()) return;
  const bool is_wide = products[0].y.scalar_type() == at::kFloat;
  const at::ScalarType x_dtype = products[0].x.scalar_type();
  for_dtype(products[0].panels.scalar_type(), "panel_products", [&](auto tag) {
    using T = decltype(tag);
    if constexpr (sizeof(T) == 2) {
      for (const PanelOperands& p : products)
        LOCKSTEP_CHECK(p.x.scalar_type() == x_dtype, "an x of {} among those of {}",
                       at::toString(p.x.scalar_type()), at::toString(x_dtype));
      if (x_dtype == at::kBFloat16 && cpu::has_pair_products())
        return is_wide ? run<T, float, uint16_t>(products) : run<T, T, uint16_t>(products);
    }
    is_wide ? run<T, float, float>(products) : run<T, uint16_t, float>(products);
  });
}

at::Tensor panel_product(const at::Tensor& x, const at::Tensor& panels, int64_t outputs) {
  at::Tensor y = at::empty({x.size(0), outputs}, panels.options());
  panel_products({{x, panels, y}});
  return y;
}

}  // namespace lockstep::ops
