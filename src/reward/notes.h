// What rewards log besides their values, as TRL's functions do.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "base/json_fwd.h"

namespace lockstep::reward {

struct Notes {
  /// Numbers for the metrics, of which the log gets the mean.
  std::map<std::string, std::vector<double>> metrics;
  /// More columns for completions.jsonl: a value or null for each completion.
  std::map<std::string, std::vector<Json>> extra;

  /// Puts values into an extra column from completion `first` on, of `count` in all.
  void add_extra(const std::string& column, size_t first, size_t count, const Json& values);
};

}  // namespace lockstep::reward
