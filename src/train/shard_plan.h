// Which rank would own which elements of which parameter: arithmetic over sizes, without a tensor,
// for lockstep plan. A run asks train/shards.h, which cuts alike.
// SPDX-License-Identifier: Apache-2.0
//
// A parameter's elements are cut in file order into blocks of parallel::kBlockElements, which begin
// anew in each expert, and rank r of n owns the blocks of range_of_rank(). So what a rank owns is a
// byte range of a checkpoint's file, no rank is empty but for the smallest parameters, and nothing
// is padded.
//
// Parameters that hold experts are first cut among expert-parallel ranks, in whole experts: rank r
// holds part r mod E of E, and the ranks with the same part cut that among them. So neighbouring
// ranks, which mostly are on one host, hold all experts together.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/digest.h"
#include "model/weights.h"
#include "parallel/ordered_sum.h"  // ElementRange

namespace lockstep::train {

/// What is cut: the storage of one parameter.
struct ShardItem {
  /// "layers.0.attention.qkv"
  std::string id;
  int64_t elements = 0;
  /// How many experts lie behind one another in it, equally large; 0: it is none of experts.
  int64_t num_experts = 0;
};

/// The item of a parameter of a model with so many experts.
ShardItem shard_item(const model::Parameter& parameter, int64_t num_experts);

/// Into how many parts what is cut.
struct ShardDegrees {
  int64_t ranks = 1;
  /// Divides `ranks`, and the experts of every item that has them.
  int64_t expert_parallel = 1;
};

/// Immutable. Threads: any.
class ShardPlan {
 public:
  /// Throws ConfigError "bad-degree" where the degrees do not divide.
  ShardPlan(std::vector<ShardItem> items, const ShardDegrees& degrees);

  const std::vector<ShardItem>& items() const { return items_; }
  const ShardDegrees& degrees() const { return degrees_; }
  /// The elements that a rank computes with: all, or of experts those of its part.
  parallel::ElementRange held(size_t item, int64_t rank) const;
  /// Those of them whose optimizer state, and summed gradients, are the rank's. No two ranks own
  /// the same, and all of them together own everything.
  parallel::ElementRange owned(size_t item, int64_t rank) const;
  /// The ranks that hold what `rank` does, in the order of what they own of it.
  std::vector<int64_t> peers(size_t item, int64_t rank) const;
  /// The rank that owns an element.
  int64_t owner(size_t item, int64_t element) const;
  /// Of ids, sizes and degrees: equal for ranks that cut alike.
  Digest digest() const;

 private:
  /// Into how many parts an item is cut before blocks are, and which one a rank holds.
  int64_t num_parts(size_t item) const;
  int64_t part_of(size_t item, int64_t rank) const { return rank % num_parts(item); }

  std::vector<ShardItem> items_;
  ShardDegrees degrees_;
};

/// A run of elements of a checkpoint's tensor.
struct TensorRange {
  /// The tensor's name, and its piece in the parameter.
  std::string name;
  size_t piece = 0;
  /// Elements of the tensor, in the order of its bytes in a file.
  parallel::ElementRange elements;
};
/// Where elements of a parameter lie in a checkpoint, in the order of the parameter.
std::vector<TensorRange> checkpoint_ranges(const model::Parameter& parameter,
                                           const parallel::ElementRange& range);

}  // namespace lockstep::train
