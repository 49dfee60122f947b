// SPDX-License-Identifier: Apache-2.0
#include "ops/sequences.h"

#include "base/check.h"

namespace lockstep::ops {

void PackedSequences::append(int64_t length, int64_t parent) {
  constexpr const char* kWhere = "PackedSequences";
  if (length < 1)
    fail<ShapeError>("bad-sequence", kWhere, "expected sequences of at least one token, got {}",
                     length);
  if (length > kMostTokens - tokens())
    fail<ShapeError>("bad-sequence", kWhere, "expected at most {} tokens in all, got {} + {}",
                     kMostTokens, tokens(), length);
  if (parent != kNoParent) {
    if (parent < 0 || parent >= count())
      fail<ShapeError>("bad-sequence", kWhere, "expected a parent among the {} before it, got {}",
                       count(), parent);
    if (this->parent(parent) != kNoParent)
      fail<ShapeError>("bad-sequence", kWhere,
                       "expected a parent without a parent, got {}, which continues {}", parent,
                       this->parent(parent));
    parents_.resize(static_cast<size_t>(count()), kNoParent);
  }
  offsets_.push_back(offsets_.back() + length);
  if (!parents_.empty() || parent != kNoParent) parents_.push_back(parent);
}

std::vector<std::vector<int64_t>> PackedSequences::children() const {
  std::vector<std::vector<int64_t>> lists(static_cast<size_t>(count()));
  for (int64_t b = 0; b < count(); ++b)
    if (parent(b) != kNoParent) lists[static_cast<size_t>(parent(b))].push_back(b);
  return lists;
}

}  // namespace lockstep::ops
