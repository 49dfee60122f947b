// Which rank keeps the optimizer's state of which weights.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

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
  int64_t expert_parallel_size = 1;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("sharding", sharding,
          "What processes share out instead of having it each: nothing, the optimizer's state and "
          "gradients, or all of that and the weights, which are gathered a layer at a time.",
          OnResume::kSaid);
    visit("expert_parallel_size", expert_parallel_size,
          "Over how many processes the experts of a layer are shared out: each computes with its "
          "own for the tokens of all. It divides the number of processes and that of experts.",
          Range::at_least(1), OnResume::kSaid);
  }
};

/// Which elements of each parameter a rank holds, and of which of them it has the optimizer's state
/// and the summed gradients. It holds all, or of experts, with expert parallelism, some experts: of
/// E parts rank r has part r mod E, so that neighbours have all of them together. What several
/// ranks hold they share out in whole blocks (parallel::range_of_rank), which begin anew in each
/// expert.
///
/// Cheap to copy; the group must outlive it.
class Shards {
 public:
  /// `expert_parallel` divides the number of ranks, and that of experts.
  Shards(parallel::Group& ranks, Sharding sharding, int64_t expert_parallel = 1);

  parallel::Group& ranks() const { return *ranks_; }
  Sharding sharding() const { return sharding_; }
  int64_t expert_parallel() const { return expert_parallel_; }
  /// Neighbouring ranks, this one among them, that hold all experts together; null where each holds
  /// all.
  const std::shared_ptr<parallel::Group>& experts() const { return experts_; }
  /// Those that hold what this rank does, in the order of what they have of it.
  parallel::Group& holders(const model::Parameter& parameter) const {
    return is_parted(parameter) ? *same_experts_ : *ranks_;
  }
  /// Whether each rank holds some of its experts.
  bool is_parted(const model::Parameter& parameter) const {
    return expert_parallel_ > 1 && parameter.is_expert;
  }
  /// The elements that a rank holds, and those of them that are its own: those of this rank, and
  /// those of any.
  parallel::ElementRange held(const model::Parameter& parameter) const {
    return held(parameter, ranks_->rank());
  }
  parallel::ElementRange held(const model::Parameter& parameter, int64_t rank) const;
  parallel::ElementRange range(const model::Parameter& parameter) const {
    return range(parameter, ranks_->rank());
  }
  parallel::ElementRange range(const model::Parameter& parameter, int64_t rank) const;
  /// The ranks in the order of their ranges, each element once.
  std::vector<int64_t> owners(const model::Parameter& parameter) const;
  /// The elements of one expert; 0 where there are none.
  static int64_t period(const model::Parameter& parameter) {
    return parameter.is_expert ? parameter.value.numel() / parameter.value.size(0) : 0;
  }
  /// What this rank holds of a parameter, to be shared among its holders.
  parallel::SharedList held_list(const model::Parameter& parameter) const;
  /// Whether a rank has only its own range of what it holds of a model's parameter, but for the
  /// time in which its layer computes.
  bool is_cut(const model::Parameter& parameter) const {
    return sharding_ == Sharding::kFull && holders(parameter).size() > 1 &&
           parameter.is_trained() && parameter.layer != model::Parameter::kNoLayer;
  }

 private:
  parallel::Group* ranks_;
  Sharding sharding_;
  int64_t expert_parallel_;
  std::shared_ptr<parallel::Group> experts_, same_experts_;
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
