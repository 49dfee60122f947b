// A block of numbers in JSON, as text that is quick to write and read.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/json_fwd.h"

namespace lockstep::net {

/// Numbers, the last dimension of `shape` closest together.
template <class T>
struct NumberBlock {
  std::vector<int64_t> shape;
  std::vector<T> values;
};

/// {"dtype": "<i4" or "<f4", "shape": […], "data": "…"}: little-endian int32 or float32 in base64.
/// T is int32_t or float.
template <class T>
std::string number_block_text(std::span<const int64_t> shape, std::span<const T> values);
/// Reads one; unset if it is none of this type, or has more or fewer numbers than its shape says.
template <class T>
std::optional<NumberBlock<T>> read_number_block(const Json& block);

}  // namespace lockstep::net
