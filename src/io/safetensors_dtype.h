// The types of the safetensors format and what libtorch calls them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <optional>

#include <c10/core/ScalarType.h>

#include "base/element_type.h"

namespace lockstep::io {

/// What libtorch calls each element type, by enumerator.
inline constexpr std::array<at::ScalarType, kNumElementTypes> kScalarTypes{
    at::kBool,          at::kByte,           at::kChar,   at::kFloat8_e5m2,
    at::kFloat8_e4m3fn, at::kFloat8_e8m0fnu, at::kShort,  at::kUInt16,
    at::kHalf,          at::kBFloat16,       at::kInt,    at::kUInt32,
    at::kFloat,         at::kComplexFloat,   at::kDouble, at::kLong,
    at::kUInt64};

/// The element type of a dtype; unset if the format has none.
constexpr std::optional<ElementType> element_type(at::ScalarType dtype) {
  for (size_t i = 0; i < kScalarTypes.size(); ++i)
    if (kScalarTypes[i] == dtype) return static_cast<ElementType>(i);
  return {};
}
constexpr at::ScalarType scalar_type(ElementType type) {
  return kScalarTypes[static_cast<size_t>(type)];
}

}  // namespace lockstep::io
