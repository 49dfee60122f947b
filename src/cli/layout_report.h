// Layouts and plans as text for people and as JSON for programs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "layout/layout.h"
#include "layout/plan.h"

namespace lockstep::cli {

/// The names that a loader takes (model/weight_formats/loader_names.h), by rank and tensor; empty
/// unless asked for.
using LoaderNames = std::vector<std::vector<std::vector<std::string>>>;

/// A text that lists each tensor of the ranks [first, end), and below it what its rows (or the axis
/// that its boxes share) are made of.
std::string layout_text(const layout::Layout& layout,
                        int64_t first,
                        int64_t end,
                        const LoaderNames& loader_names = {});
/// The same as JSON: {"layout", "num_ranks", "ranks": [{"rank", "tensors": [{"name", "dtype",
/// "shape", "padding", "boxes": [{"tensor", "begin", "size", "origin", "steps": [{"dim", "axis",
/// "stride"}], "dtype", "copy", "minus_one"}], "loader_names"}]}]}; the dtype of a box is that of
/// the logical tensor.
std::string layout_json(const layout::Layout& layout,
                        int64_t first,
                        int64_t end,
                        const LoaderNames& loader_names = {});

/// The traffic between each pair of ranks, the totals, the changes of value and the digest.
std::string plan_text(const layout::Plan& plan, const layout::Layout& to);
std::string plan_json(const layout::Plan& plan, const layout::Layout& to);

/// What a plan changes in values, a line for each pair of types:
/// "rounds 6 tensors (96 values) from F32 to BF16, to the nearest, ties to even: layers.0.…".
std::vector<std::string> type_changes_text(std::span<const layout::TypeChange> changes,
                                           const layout::LogicalTensors& logical);

}  // namespace lockstep::cli
