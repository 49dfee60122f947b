// SPDX-License-Identifier: Apache-2.0
#include "train/shards.h"

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

parallel::ElementRange Shards::range(const model::Parameter& parameter, int64_t rank) const {
  const int64_t count = parameter.value.numel();
  return sharding_ == Sharding::kNone ? parallel::ElementRange{0, count}
                                      : parallel::range_of_rank(count, rank, ranks_->size());
}

}  // namespace lockstep::train
