// How an element of a tensor is stored: the types of the safetensors format.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace lockstep {

/// A name and a width; what its bits mean is not said here.
enum class ElementType : uint8_t {
  kBool,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64
};

/// The name in safetensors files ("BF16").
std::string_view element_name(ElementType type);
/// The bytes of an element.
int64_t element_bytes(ElementType type);
/// The type of such a name; unset for another text.
std::optional<ElementType> element_type_of_name(std::string_view name);
/// How many types there are.
inline constexpr size_t kNumElementTypes = static_cast<size_t>(ElementType::kU64) + 1;

}  // namespace lockstep
