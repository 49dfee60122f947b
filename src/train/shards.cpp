// SPDX-License-Identifier: Apache-2.0
#include "train/shards.h"

#include <numeric>

#include "base/check.h"
#include "parallel/subgroup.h"
#include "tensor/aten.h"

namespace lockstep::train {

std::span<const EnumName<Sharding>> enum_names(Sharding) {
  static constexpr EnumName<Sharding> kNames[] = {
      {Sharding::kNone, "none"}, {Sharding::kOptimizer, "optimizer"}, {Sharding::kFull, "full"}};
  return kNames;
}

parallel::SharedList bytes_of(const at::Tensor& value) {
  return {{static_cast<std::byte*>(value.mutable_data_ptr()), value.nbytes()},
          static_cast<int64_t>(value.element_size())};
}

Shards::Shards(parallel::Group& ranks, Sharding sharding, int64_t expert_parallel)
    : ranks_(&ranks), sharding_(sharding), expert_parallel_(expert_parallel) {
  LOCKSTEP_CHECK(expert_parallel >= 1 && ranks.size() % expert_parallel == 0,
                 "{} ranks, experts over {}", ranks.size(), expert_parallel);
  if (expert_parallel == 1) return;
  const int64_t first = ranks.rank() / expert_parallel * expert_parallel;
  std::vector<int64_t> neighbours(static_cast<size_t>(expert_parallel)), same;
  std::iota(neighbours.begin(), neighbours.end(), first);
  for (int64_t rank = ranks.rank() % expert_parallel; rank < ranks.size(); rank += expert_parallel)
    same.push_back(rank);
  experts_ = parallel::make_subgroup(ranks, neighbours);
  same_experts_ = parallel::make_subgroup(ranks, same);
}

parallel::ElementRange Shards::held(const model::Parameter& parameter, int64_t rank) const {
  const int64_t count = parameter.value.numel();
  if (!is_parted(parameter)) return {0, count};
  const int64_t part = count / expert_parallel_, index = rank % expert_parallel_;
  return {part * index, part * (index + 1)};
}

parallel::ElementRange Shards::range(const model::Parameter& parameter, int64_t rank) const {
  const parallel::ElementRange all = held(parameter, rank);
  if (sharding_ == Sharding::kNone) return all;
  const bool is_parted_out = is_parted(parameter);
  const parallel::ElementRange own =
      parallel::range_of_rank(all.count(), is_parted_out ? rank / expert_parallel_ : rank,
                              holders(parameter).size(), period(parameter));
  return {all.first + own.first, all.first + own.last};
}

std::vector<int64_t> Shards::owners(const model::Parameter& parameter) const {
  const int64_t parts = is_parted(parameter) ? expert_parallel_ : 1;
  const int64_t copies = sharding_ == Sharding::kNone ? 1 : ranks_->size() / parts;
  std::vector<int64_t> ranks;
  for (int64_t part = 0; part < parts; ++part)
    for (int64_t copy = 0; copy < copies; ++copy) ranks.push_back(copy * parts + part);
  return ranks;
}

parallel::SharedList Shards::held_list(const model::Parameter& parameter) const {
  parallel::SharedList list = bytes_of(parameter.value);
  const parallel::ElementRange all = held(parameter);
  list.bytes = list.bytes.subspan(static_cast<size_t>(all.first * list.element_size),
                                  static_cast<size_t>(all.count() * list.element_size));
  list.period = period(parameter);
  return list;
}

}  // namespace lockstep::train
