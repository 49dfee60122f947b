// The memory of the sampler's caches: paged keys and values, convolution inputs and recurrent
// states.
// SPDX-License-Identifier: Apache-2.0
//
// Shapes: P pages of Q tokens, Hkv key/value heads, Dh head dim; N slots, W conv taps, C conv
// channels, Hv value heads, Dk, Dv their dims (docs/shapes.md).
#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

namespace lockstep::cache {

/// The sizes of a cache. The model tells them, so that this folder can lie below it.
struct CacheSpec {
  struct Layer {
    bool is_attention = true;
  };
  std::vector<Layer> layers;
  /// The dtype of keys, values and convolution inputs; states are float32.
  at::ScalarType dtype = at::kFloat;
  /// Q
  int64_t page_tokens = 64;
  /// P, not counting the dummy page 0.
  int64_t num_pages = 0;
  /// N, not counting the dummy slot 0.
  int64_t num_slots = 0;
  int64_t num_key_value_heads = 0, head_dim = 0;
  int64_t conv_taps = 0, conv_channels = 0;
  int64_t value_heads = 0, key_head_dim = 0, value_head_dim = 0;

  /// The bytes of one page over all layers.
  int64_t page_bytes() const;
  /// The bytes of one slot over all layers.
  int64_t slot_bytes() const;
};

/// One layer's caches; a kind that the layer does not have is undefined.
struct LayerCache {
  /// [P + 1, Hkv, Q, Dh]
  at::Tensor keys, values;
  /// [N + 1, W - 1, C], oldest token first
  at::Tensor conv;
  /// [N + 1, Hv, Dk, Dv] float32
  at::Tensor state;
};

/// The caches of all layers. Page 0 and slot 0 are dummies. Nothing is zeroed when the caches are
/// made: readers of a page know how many of its rows were written, and a slot is cleared when a
/// sequence starts in it. Not thread-safe.
struct CacheTensors {
  explicit CacheTensors(const CacheSpec& spec);
  /// Zeroes a slot, for a new sequence that starts in it.
  void clear_slot(int64_t slot);
  void copy_slot(int64_t from, int64_t to);
  void copy_page(int64_t from, int64_t to);

  std::vector<LayerCache> layers;
};

}  // namespace lockstep::cache
