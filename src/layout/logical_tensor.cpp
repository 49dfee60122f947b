// SPDX-License-Identifier: Apache-2.0
#include "layout/logical_tensor.h"

#include <array>
#include <unordered_set>

#include "base/check.h"

namespace lockstep::layout {
namespace {

struct TypeName {
  std::string_view name;
  int64_t bytes;
};
/// By enumerator. Source: huggingface/safetensors, safetensors/src/tensor.rs, Dtype.
constexpr std::array<TypeName, 17> kTypes{{{"BOOL", 1},
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

ElementType element_type_of_name(std::string_view name, std::string_view where) {
  for (size_t i = 0; i < kTypes.size(); ++i)
    if (kTypes[i].name == name) return static_cast<ElementType>(i);
  fail<FormatError>("bad-dtype", where, "expected a dtype of the safetensors format, got {}", name);
}

int64_t LogicalTensor::numel() const {
  int64_t count = 1;
  for (const LogicalDim& dim : dims) count *= dim.size;
  return count;
}

LogicalTensors::LogicalTensors(std::vector<LogicalTensor> tensors) : tensors_(std::move(tensors)) {
  std::unordered_set<std::string_view> ids;
  ids.reserve(tensors_.size());
  for (const LogicalTensor& tensor : tensors_) {
    LOCKSTEP_CHECK(tensor.dims.size() <= kMaxDims, "{} has {} dimensions", tensor.id,
                   tensor.dims.size());
    LOCKSTEP_CHECK(ids.insert(tensor.id).second, "the logical tensor {} stands in the list twice",
                   tensor.id);
  }
}

}  // namespace lockstep::layout
