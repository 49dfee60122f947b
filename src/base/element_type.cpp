// SPDX-License-Identifier: Apache-2.0
#include "base/element_type.h"

namespace lockstep {
namespace {

struct TypeName {
  std::string_view name;
  int64_t bytes;
};
/// Indexed by enumerator. Source: huggingface/safetensors, safetensors/src/tensor.rs, Dtype.
constexpr std::array<TypeName, kNumElementTypes> kTypes{{{"BOOL", 1},
                                                         {"U8", 1},
                                                         {"I8", 1},
                                                         {"F8_E5M2", 1},
                                                         {"F8_E4M3", 1},
                                                         {"F8_E8M0", 1},
                                                         {"I16", 2},
                                                         {"U16", 2},
                                                         {"F16", 2},
                                                         {"BF16", 2},
                                                         {"I32", 4},
                                                         {"U32", 4},
                                                         {"F32", 4},
                                                         {"C64", 8},
                                                         {"F64", 8},
                                                         {"I64", 8},
                                                         {"U64", 8}}};

}  // namespace

std::string_view element_name(ElementType type) { return kTypes[static_cast<size_t>(type)].name; }
int64_t element_bytes(ElementType type) { return kTypes[static_cast<size_t>(type)].bytes; }

std::optional<ElementType> element_type_of_name(std::string_view name) {
  for (size_t i = 0; i < kTypes.size(); ++i)
    if (kTypes[i].name == name) return static_cast<ElementType>(i);
  return {};
}

}  // namespace lockstep
