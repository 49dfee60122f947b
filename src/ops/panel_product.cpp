// SPDX-License-Identifier: Apache-2.0
#include "ops/panel_product.h"

#include <algorithm>

#include "base/check.h"
#include "ops/cpu/gemm.h"
#include "ops/kernel_data.h"
#include "tensor/aten.h"

namespace lockstep::ops {
namespace {

/// Below so many multiplications a second thread costs more than it brings.
constexpr int64_t kSerialWork = 128 * 1024;

/// A part of a product that one thread computes.
template <class T>
struct Item {
  cpu::PanelProduct<T> product;  ///< At most kGemmRows rows.
  int64_t first, last;           ///< Panels.
};

/// Cuts a product into row blocks and groups of panels, enough of them for the threads to share evenly.
template <class T>
void append_items(const cpu::PanelProduct<T>& product, std::vector<Item<T>>& items) {
  const int64_t panels = cpu::num_panels(product.outputs);
  const int64_t blocks = (product.rows + cpu::kGemmRows - 1) / cpu::kGemmRows;
  const int64_t wanted = std::max<int64_t>(1, panels * blocks / (8 * at::get_num_threads()));
  const int64_t group = std::min<int64_t>(16, (wanted + 1) / 2 * 2);
  for (int64_t row = 0; row < product.rows; row += cpu::kGemmRows) {
    cpu::PanelProduct<T> block = product;
    block.x += row * product.inputs;
    block.y += row * product.y_stride;
    block.rows = std::min(cpu::kGemmRows, product.rows - row);
    for (int64_t first = 0; first < panels; first += group)
      items.push_back({block, first, std::min(panels, first + group)});
  }
}

template <class T>
void run(const std::vector<PanelOperands>& products) {
  std::vector<at::Tensor> inputs;  // keeps converted inputs alive
  std::vector<Item<T>> items;
  int64_t work = 0;
  for (const PanelOperands& p : products) {
    inputs.push_back(p.x.to(at::kFloat).contiguous());
    const int64_t rows = p.x.size(0), width = p.x.size(1), outputs = p.y.size(1);
    LOCKSTEP_CHECK(p.panels.numel() == cpu::num_panels(outputs) *
                                           cpu::panel_elements(width, const_elements<T>(p.panels)),
                   "panels of {} elements for a product [{}, {}] -> {}", p.panels.numel(), rows,
                   width, outputs);
    work += rows * width * outputs;
    append_items(cpu::PanelProduct<T>{.x = inputs.back().const_data_ptr<float>(),
                                      .rows = rows,
                                      .inputs = width,
                                      .outputs = outputs,
                                      .panels = const_elements<T>(p.panels),
                                      .y = elements<T>(p.y),
                                      .y_stride = p.y.stride(0)},
                 items);
  }
  const auto count = std::ssize(items);
  at::parallel_for(0, count, work < kSerialWork ? count : 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Item<T>& item = items[static_cast<size_t>(i)];
      cpu::multiply_panels(item.product, item.first, item.last);
    }
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
    const int64_t grain = std::max<int64_t>(1, 32 * 1024 / std::max<int64_t>(1, stride));
    at::parallel_for(0, panels, grain, [&](int64_t begin, int64_t end) {
      for (int64_t panel = begin; panel < end; ++panel)
        cpu::pack_panel(view, panel, elements<T>(packed) + panel * stride);
    });
  });
  return packed;
}

void panel_products(const std::vector<PanelOperands>& products) {
  if (products.empty()) return;
  for_dtype(products[0].panels.scalar_type(), "panel_products",
            [&](auto tag) { run<decltype(tag)>(products); });
}

at::Tensor panel_product(const at::Tensor& x, const at::Tensor& panels, int64_t outputs) {
  at::Tensor y = at::empty({x.size(0), outputs}, panels.options());
  panel_products({{x, panels, y}});
  return y;
}

}  // namespace lockstep::ops
