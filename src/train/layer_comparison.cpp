// SPDX-License-Identifier: Apache-2.0
#include "train/layer_comparison.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "parallel/gather.h"
#include "tensor/aten.h"

namespace lockstep::train {

double difference_of(float a, float b) {
  if (std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b)) return 0;
  const double difference = std::abs(double{a} - double{b});
  return std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference;
}

void LayerComparison::add(int64_t layer,
                          const at::Tensor& now,
                          const at::Tensor& before,
                          bool is_sampler) {
  LOCKSTEP_CHECK(now.sizes() == before.sizes() && now.scalar_type() == before.scalar_type() &&
                     now.is_contiguous() && before.is_contiguous(),
                 "layer {} gave another shape or dtype than before", layer);
  ++compared_;
  const auto row_bytes = static_cast<size_t>(now.size(1)) * now.element_size();
  const auto *const a = static_cast<const std::byte*>(now.const_data_ptr()),
                    *const b = static_cast<const std::byte*>(before.const_data_ptr());
  if (now.numel() == 0 || std::memcmp(a, b, now.nbytes()) == 0) return;
  LayerDifference& found = different_[layer];
  found.layer = layer;
  found.is_sampler = found.is_sampler || is_sampler;
  for (int64_t row = 0; row < now.size(0); ++row) {
    const size_t offset = static_cast<size_t>(row) * row_bytes;
    if (std::memcmp(a + offset, b + offset, row_bytes) == 0) continue;
    ++found.tokens;
    const at::Tensor x = now.select(0, row).to(at::kFloat),
                     y = before.select(0, row).to(at::kFloat);
    for (int64_t i = 0; i < now.size(1); ++i)
      found.largest = std::max(
          found.largest, difference_of(x.const_data_ptr<float>()[i], y.const_data_ptr<float>()[i]));
  }
}

void LayerComparison::gather(parallel::Group& ranks) {
  const auto counts = parallel::gather_list(ranks, std::vector{compared_}, {"compared layers"});
  const auto found = parallel::gather_list(ranks, different(), {"layers that differ"});
  compared_ = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  different_.clear();
  for (const LayerDifference& one : found) {
    LayerDifference& all = different_[one.layer];
    all = {one.layer, all.tokens + one.tokens, std::max(all.largest, one.largest),
           all.is_sampler || one.is_sampler};
  }
}

std::vector<LayerDifference> LayerComparison::different() const {
  std::vector<LayerDifference> list;
  for (const auto& [layer, difference] : different_) list.push_back(difference);
  return list;
}

double LayerComparison::largest() const {
  double largest = 0;
  for (const auto& [layer, difference] : different_)
    largest = std::max(largest, difference.largest);
  return largest;
}

}  // namespace lockstep::train
