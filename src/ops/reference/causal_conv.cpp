// SPDX-License-Identifier: Apache-2.0
#include "ops/reference/causal_conv.h"

#include <ATen/core/IListRef.h>  // the list of at::cat

#include "tensor/aten.h"

namespace lockstep::ops::reference {

at::Tensor causal_conv(const at::Tensor& x,
                       const at::Tensor& weight,
                       const PackedSequences& sequences) {
  const int64_t width = weight.size(2);
  std::vector<at::Tensor> outputs;
  for (int64_t b = 0; b < sequences.count(); ++b) {
    const int64_t length = sequences.length(b);
    at::Tensor before = at::zeros({width - 1, x.size(1)}, x.options());
    if (const int64_t parent = sequences.parent(b); parent != PackedSequences::kNoParent)
      before = at::cat(
          {before, x.narrow(0, sequences.first_token(parent), sequences.length(parent))}, 0);
    const at::Tensor padded = at::cat({before.narrow(0, before.size(0) - width + 1, width - 1),
                                       x.narrow(0, sequences.first_token(b), length)},
                                      0);
    at::Tensor sum = at::zeros({length, x.size(1)}, x.options());
    for (int64_t j = 0; j < width; ++j)
      sum = sum + weight.select(2, j).select(1, 0) * padded.narrow(0, j, length);
    outputs.push_back(sum * sum.sigmoid());
  }
  return at::cat(outputs, 0);
}

}  // namespace lockstep::ops::reference
