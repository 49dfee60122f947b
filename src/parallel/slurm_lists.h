// The short forms in which Slurm names hosts and counts tasks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::parallel {

/// The hosts of a node list, in Slurm's order: "n[01-02,7],gpu-[1-2]x[3,5]" names n01, n02, n7,
/// gpu-1x3, gpu-1x5, gpu-2x3 and gpu-2x5. With three brackets and more the last runs fastest, then
/// the first, the second and so on, as with scontrol show hostnames.
///
/// Throws ConfigError "bad-launch" at `variable` for a list that is malformed or longer than a
/// million hosts.
std::vector<std::string> expand_node_list(std::string_view variable, std::string_view list);

/// The tasks of each host: "2(x3),1" says 2, 2, 2, 1. Throws as above.
std::vector<int64_t> expand_task_counts(std::string_view variable, std::string_view list);

}  // namespace lockstep::parallel
