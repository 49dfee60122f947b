// SPDX-License-Identifier: Apache-2.0
#include "model/expert_ranks.h"

#include <algorithm>

namespace lockstep::model {

bool ExpertRanks::begin_forward(bool computes) {
  const auto own = static_cast<std::byte>(computes);
  std::vector<std::byte> all(static_cast<size_t>(all_->size()));
  all_->all_gather({&own, 1}, all, {"forwards of ranks"});
  is_in_forward_ = std::find(all.begin(), all.end(), std::byte{1}) != all.end();
  return is_in_forward_;
}

}  // namespace lockstep::model
