// The dtype names of the safetensors format and what libtorch calls them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <string_view>
#include <utility>

#include <c10/core/ScalarType.h>

namespace lockstep::io {

/// Every dtype that both the format and libtorch have. Source: huggingface/safetensors,
/// safetensors/src/tensor.rs, Dtype.
inline constexpr std::array<std::pair<std::string_view, at::ScalarType>, 17> kSafetensorsDtypes{{
    {"BOOL", at::kBool},
    {"U8", at::kByte},
    {"I8", at::kChar},
    {"F8_E5M2", at::kFloat8_e5m2},
    {"F8_E4M3", at::kFloat8_e4m3fn},
    {"F8_E8M0", at::kFloat8_e8m0fnu},
    {"I16", at::kShort},
    {"U16", at::kUInt16},
    {"F16", at::kHalf},
    {"BF16", at::kBFloat16},
    {"I32", at::kInt},
    {"U32", at::kUInt32},
    {"F32", at::kFloat},
    {"C64", at::kComplexFloat},
    {"F64", at::kDouble},
    {"I64", at::kLong},
    {"U64", at::kUInt64},
}};

/// The format's name of a dtype; empty if it has none.
constexpr std::string_view dtype_name(at::ScalarType dtype) {
  for (const auto& [name, known] : kSafetensorsDtypes)
    if (known == dtype) return name;
  return {};
}

}  // namespace lockstep::io
