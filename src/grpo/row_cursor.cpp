// SPDX-License-Identifier: Apache-2.0
#include "grpo/row_cursor.h"

#include <algorithm>

#include "grpo/run_data.h"

namespace lockstep::grpo {

std::vector<int64_t> RowCursor::rows_at(int64_t position, int64_t count) const {
  std::vector<int64_t> found;
  while (std::ssize(found) < count) {
    const int64_t next = position + std::ssize(found), place = next % used_,
                  here = std::min(used_ - place, count - std::ssize(found));
    const auto order = epoch_order(rows_, next / used_, *options_);
    found.insert(found.end(), order.begin() + place, order.begin() + place + here);
  }
  return found;
}

}  // namespace lockstep::grpo
