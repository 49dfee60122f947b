// SPDX-License-Identifier: Apache-2.0
#include "model/layer_inputs.h"

#include <cstring>

#include "base/check.h"
#include "tensor/aten.h"
#include "tensor/parallel.h"

namespace lockstep::model {

LayerInputs::LayerInputs(const ModelConfig& config, at::ScalarType dtype, int64_t capacity) {
  for (int64_t i = 0; i <= config.num_hidden_layers; ++i)
    hidden_.push_back(at::empty({capacity, config.hidden_size}, at::TensorOptions().dtype(dtype)));
}

int64_t LayerInputs::token_bytes(const ModelConfig& config, at::ScalarType dtype) {
  return (config.num_hidden_layers + 1) * config.hidden_size *
         static_cast<int64_t>(c10::elementSize(dtype));
}

int64_t LayerInputs::reserve(int64_t tokens) {
  LOCKSTEP_CHECK(taken_ + tokens <= hidden_[0].size(0), "{} rows are taken of {}, {} are wanted",
                 taken_, hidden_[0].size(0), tokens);
  return std::exchange(taken_, taken_ + tokens);
}

void LayerInputs::write(int64_t layer, int64_t first, const at::Tensor& hidden) {
  hidden_[static_cast<size_t>(layer)].narrow(0, first, hidden.size(0)).copy_(hidden);
}

at::Tensor LayerInputs::gather(int64_t layer, std::span<const int64_t> rows) const {
  const at::Tensor& from = hidden_[static_cast<size_t>(layer)];
  const auto count = static_cast<int64_t>(rows.size());
  const at::Tensor out = at::empty({count, from.size(1)}, from.options());
  const auto bytes = static_cast<size_t>(from.size(1)) * from.element_size();
  const auto* const source = static_cast<const std::byte*>(from.const_data_ptr());
  auto* const target = static_cast<std::byte*>(out.mutable_data_ptr());
  parallel_for(0, count, 64, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i)
      std::memcpy(target + i * bytes, source + static_cast<size_t>(rows[i]) * bytes, bytes);
  });
  return out;
}

}  // namespace lockstep::model
