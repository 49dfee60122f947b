// Layouts and plans as text for people and as JSON for programs.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
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
/// "stride"}], "copy", "minus_one"}], "loader_names"}]}]}
std::string layout_json(const layout::Layout& layout,
                        int64_t first,
                        int64_t end,
                        const LoaderNames& loader_names = {});

/// The traffic between each pair of ranks, the totals and the digest.
std::string plan_text(const layout::Plan& plan, const layout::Layout& from);
std::string plan_json(const layout::Plan& plan, const layout::Layout& from);

}  // namespace lockstep::cli
