// What runs with the same flags have alike, whatever number of processes made them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"

namespace lockstep::testing {

/// logging.jsonl without times, whatever the run's folder is called. Whether layers are computed
/// again, and compared with what they were, is a matter of memory: several ranks train on what
/// others of them have sampled, so that what sampling keeps serves nobody.
inline std::vector<std::string> logged(const std::filesystem::path& run) {
  std::vector<std::string> lines;
  for (Json row : timeless_rows(run)) {
    row.erase("train/recomputed_layer_max_diff");
    // Times, or what a server that was started anew takes once more.
    for (const char* name : {"seconds", "gigabytes_per_second", "bytes", "max_logprob_diff"})
      row.erase(fmt::format("sync/{}", name));
    std::string& line = lines.emplace_back(dump_json(row));
    for (size_t at; (at = line.find(run.string())) != std::string::npos;)
      line.replace(at, run.string().size(), "RUN");
  }
  return lines;
}

/// Expects all tensors of all checkpoints, at least `least` files of them, to be the same in two
/// runs, and what they log but for times.
inline void expect_same_runs(const std::filesystem::path& run,
                             const std::filesystem::path& other,
                             size_t least = 6) {
  const auto own = tree_of(run), others = tree_of(other);
  std::vector<std::string> names, other_names;
  for (const auto& [name, bytes] : own) names.push_back(name);
  for (const auto& [name, bytes] : others) other_names.push_back(name);
  EXPECT_EQ(names, other_names);
  size_t tensors = 0;
  for (const auto& [name, bytes] : own) {
    if (!name.ends_with(".safetensors") && name != "completions.jsonl") continue;
    EXPECT_TRUE(others.count(name) && bytes == others.at(name)) << name;
    tensors += name.ends_with(".safetensors");
  }
  EXPECT_GE(tensors, least);
  EXPECT_EQ(logged(run), logged(other));
}

}  // namespace lockstep::testing
