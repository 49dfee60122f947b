// Compares weights in one layout with what that layout makes of a checkpoint.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "base/digest.h"
#include "cli/weight_folder.h"
#include "layout/execute.h"
#include "layout/plan.h"

namespace lockstep::cli {

/// What a comparison with a checkpoint found.
struct Comparison {
  /// With code "digest-mismatch": each tensor, and the first element in which it differs.
  std::vector<WeightFolderProblem> problems;
  /// The digests of the logical tensors as `layout` holds them.
  std::vector<Digest> digests;
  /// What `layout` stores in another type than the checkpoint.
  std::vector<layout::TypeChange> type_changes;
};
/// Compares the tensors of `layout`, copies included, byte for byte with what it makes of `truth`.
/// Both inputs are bound; a tensor without bytes is not compared.
Comparison compare_tensors(const layout::Layout& truth,
                           WeightFolderReader& truth_input,
                           const layout::Layout& layout,
                           WeightFolderReader& input,
                           const layout::ExecuteOptions& options);

}  // namespace lockstep::cli
