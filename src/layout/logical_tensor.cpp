// SPDX-License-Identifier: Apache-2.0
#include "layout/logical_tensor.h"

#include <unordered_set>

#include "base/check.h"

namespace lockstep::layout {
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
