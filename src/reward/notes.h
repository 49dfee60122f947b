// What rewards log besides their values, as TRL's functions do.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/json_fwd.h"

namespace lockstep::reward {

/// The notes of a round of completions.
struct Notes {
  /// Numbers for the metrics, of which the log gets the mean.
  std::map<std::string, std::vector<double>> metrics;
  /// More columns for completions.jsonl: a value or null for each completion.
  std::map<std::string, std::vector<Json>> extra;
  /// For each reward in another process, how many completions it has failed at in the run so far,
  /// and 0 for others; empty: nobody has counted.
  std::vector<int64_t> failures;
};

/// Notes while calls still add to them. Each has its place among the completions, so that the order
/// in which calls end shows nowhere, not in the last digit of a mean either.
struct PlacedNotes {
  /// By the first of the completions that a number is about.
  std::map<std::string, std::multimap<size_t, double>> metrics;
  std::map<std::string, std::vector<Json>> extra;

  /// Puts values into an extra column from completion `first` on, of `count` in all.
  void add_extra(const std::string& column, size_t first, size_t count, const Json& values);
  /// Adds notes about some of `count` completions, those at `places`.
  void take(PlacedNotes&& other, std::span<const size_t> places, size_t count);
  /// Appends the notes to those of other rewards about the same completions.
  void move_to(Notes& notes);
};

}  // namespace lockstep::reward
