// Which completions of a run a person looks at: some prompts, each at several steps.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <unordered_map>
#include <vector>

#include "report/json_parts.h"

namespace lockstep::report {

/// Where in completions.jsonl each prompt stands. Texts stay in the file; those that are shown are
/// read when json() is called. Not thread-safe.
class Samples {
 public:
  /// What json() shows at most.
  static constexpr size_t kMostPrompts = 24, kMostRounds = 10, kMostCompletions = 3;
  static constexpr size_t kMostPromptBytes = 2000, kMostCompletionBytes = 1200;
  /// Places that are remembered. Over it, prompts that have come once are forgotten: a half of
  /// them, by their hashes.
  static constexpr size_t kMostPlaces = 200'000;

  /// Takes a line of completions.jsonl, `size` bytes at `offset` of the file, that is taken apart
  /// already.
  void add(const std::vector<Member>& line, int64_t step, int64_t offset, int64_t size);
  void clear() { *this = Samples(); }

  /// How many prompts are known, and how many have come at several steps.
  size_t num_prompts() const { return prompts_.size(); }

  /// {"rewards": [names], "rounds": all, "prompts": [{"prompt", "solution", "seen", "rounds":
  /// [{"step", "completions": [{"text", "cut", "rewards": […], "advantage", "length", "reason"}
  /// …]} …]} …]}. Prompts that came at the most steps stand first; of a round those with the
  /// greatest, the middle and the least advantage are shown. Throws IoError.
  std::string json(const std::filesystem::path& file) const;

 private:
  /// The rows [first, first + count) of a line.
  struct Place {
    int64_t offset, size, step;
    uint32_t first, count;
  };
  using Prompts = std::unordered_map<uint64_t, std::vector<Place>>;
  std::vector<Prompts::const_iterator> chosen_prompts() const;
  void forget_some();

  Prompts prompts_;
  size_t num_places_ = 0;
  int64_t num_rounds_ = 0;
  /// Prompts with a greater hash are not taken up any more.
  uint64_t greatest_hash_ = UINT64_MAX;
};

}  // namespace lockstep::report
