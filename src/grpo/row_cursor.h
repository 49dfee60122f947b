// Which rows a run samples next.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "grpo/options.h"

namespace lockstep::grpo {

/// The rows of a run as one endless list: epoch after epoch, each in its own order, of which whole
/// generation batches are taken. A position in it is all that a checkpoint keeps.
class RowCursor {
 public:
  /// `rows` of the data set, of which `used` are taken in each epoch.
  RowCursor(int64_t rows, int64_t used, const DataOptions& options)
      : rows_(rows), used_(used), options_(&options) {}

  /// The indices of `count` rows from `position` on.
  std::vector<int64_t> rows_at(int64_t position, int64_t count) const;

 private:
  int64_t rows_, used_;
  const DataOptions* options_;
};

}  // namespace lockstep::grpo
