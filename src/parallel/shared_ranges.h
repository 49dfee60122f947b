// Ranges of ranks that are on their way.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "parallel/group.h"
#include "parallel/ordered_sum.h"

namespace lockstep::parallel {

/// share_ranges() that has begun: what others send comes into memory of its own meanwhile, so the
/// lists are neither read nor written before wait().
class SharedRanges {
 public:
  SharedRanges(Group& group, std::vector<SharedList> lists, const Call& call);
  /// Returns when what others have is in its place. Call it once.
  void wait();

 private:
  int64_t rank_, ranks_;
  std::vector<SharedList> lists_;
  std::unique_ptr<std::byte[]> buffer_;
  std::span<const std::byte> all_;
  // Behind the buffer: where it is not waited for, it ends before the memory that it fills.
  std::unique_ptr<Pending> call_;
};

}  // namespace lockstep::parallel
