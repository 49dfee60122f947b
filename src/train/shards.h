// Which rank keeps the optimizer's state of which weights.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "base/on_resume.h"
#include "base/options.h"
#include "model/weights.h"
#include "parallel/group.h"
#include "parallel/ordered_sum.h"

namespace lockstep::train {

/// What ranks share out instead of having it each.
enum class Sharding : int {
  /// Nothing.
  kNone,
  /// The optimizer's masters and moments, and the gradients that they are updated with.
  kOptimizer,
  /// The weights of the layers, too.
  kFull,
};
std::span<const EnumName<Sharding>> enum_names(Sharding);

struct ShardingOptions {
  Sharding sharding = Sharding::kOptimizer;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("sharding", sharding,
          "What processes share out instead of having it each: nothing, the optimizer's state and "
          "gradients, or all of that and the weights, which are gathered a layer at a time.",
          OnResume::kSaid);
  }
};

/// The elements of each parameter whose optimizer state and summed gradients this rank has: all of
/// them, or a range in whole blocks (parallel::range_of_rank). Cheap to copy; the group must
/// outlive it.
class Shards {
 public:
  Shards(parallel::Group& ranks, Sharding sharding) : ranks_(&ranks), sharding_(sharding) {}

  parallel::Group& ranks() const { return *ranks_; }
  Sharding sharding() const { return sharding_; }
  /// Those of this rank, and those of any.
  parallel::ElementRange range(const model::Parameter& parameter) const {
    return range(parameter, ranks_->rank());
  }
  parallel::ElementRange range(const model::Parameter& parameter, int64_t rank) const;
  /// Whether a rank has this range of a model's parameter only, but for the time in which its layer
  /// computes.
  bool is_cut(const model::Parameter& parameter) const {
    return sharding_ == Sharding::kFull && ranks_->size() > 1 && parameter.is_trained() &&
           parameter.layer != model::Parameter::kNoLayer;
  }

 private:
  parallel::Group* ranks_;
  Sharding sharding_;
};

/// Weights are shared in calls of about so many bytes, so that what is gathered beside them stays
/// small.
inline constexpr int64_t kSharedAtOnce = int64_t{64} << 20;

/// A tensor's memory, to be shared among ranks.
parallel::SharedList bytes_of(const at::Tensor& value);

/// The elements of `a` that are in `b`; where there are none, nothing at the beginning of `a`.
inline parallel::ElementRange overlap(const parallel::ElementRange& a,
                                      const parallel::ElementRange& b) {
  const parallel::ElementRange both{std::max(a.first, b.first), std::min(a.last, b.last)};
  return both.count() > 0 ? both : parallel::ElementRange{a.first, a.first};
}

}  // namespace lockstep::train
