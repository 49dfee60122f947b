// SPDX-License-Identifier: Apache-2.0
#include "cache/cache_tensors.h"

#include "tensor/aten.h"

namespace lockstep::cache {

int64_t CacheSpec::page_bytes() const {
  int64_t attention_layers = 0;
  for (const Layer& layer : layers) attention_layers += layer.is_attention;
  return attention_layers * 2 * page_tokens * num_key_value_heads * head_dim *
         static_cast<int64_t>(c10::elementSize(dtype));
}

int64_t CacheSpec::slot_bytes() const {
  int64_t delta_layers = 0;
  for (const Layer& layer : layers) delta_layers += !layer.is_attention;
  return delta_layers *
         ((conv_taps - 1) * conv_channels * static_cast<int64_t>(c10::elementSize(dtype)) +
          value_heads * key_head_dim * value_head_dim * 4);
}

CacheTensors::CacheTensors(const CacheSpec& spec) {
  const auto options = at::TensorOptions().dtype(spec.dtype);
  for (const auto& layer : spec.layers) {
    LayerCache made;
    if (layer.is_attention) {
      // The memory is not zeroed: kernels read only rows that were written before.
      made.keys = at::empty(
          {spec.num_pages + 1, spec.num_key_value_heads, spec.page_tokens, spec.head_dim}, options);
      made.values = at::empty_like(made.keys);
    } else {
      // Not zeroed either: a sequence starts by clear_slot() or copy_slot().
      made.conv = at::empty({spec.num_slots + 1, spec.conv_taps - 1, spec.conv_channels}, options);
      made.state =
          at::empty({spec.num_slots + 1, spec.value_heads, spec.key_head_dim, spec.value_head_dim},
                    at::TensorOptions().dtype(at::kFloat));
    }
    layers.push_back(std::move(made));
  }
}

void CacheTensors::clear_slot(int64_t slot) {
  for (auto& layer : layers) {
    if (!layer.state.defined()) continue;
    layer.conv.select(0, slot).zero_();
    layer.state.select(0, slot).zero_();
  }
}

void CacheTensors::copy_slot(int64_t from, int64_t to) {
  for (auto& layer : layers) {
    if (!layer.state.defined()) continue;
    layer.conv.select(0, to).copy_(layer.conv.select(0, from));
    layer.state.select(0, to).copy_(layer.state.select(0, from));
  }
}

void CacheTensors::copy_page(int64_t from, int64_t to) {
  for (auto& layer : layers) {
    if (!layer.keys.defined()) continue;
    layer.keys.select(0, to).copy_(layer.keys.select(0, from));
    layer.values.select(0, to).copy_(layer.values.select(0, from));
  }
}

}  // namespace lockstep::cache
