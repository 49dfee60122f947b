// Metrics between two log lines. No libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/json_fwd.h"

namespace lockstep::grpo {

/// Values of each name since the last log line: sums and counts, or extremes. Merges in the order
/// of add().
///
/// Not thread-safe.
class Metrics {
 public:
  /// A mean over all added values, each with a weight.
  void add(const std::string& name, double value, double weight = 1);
  /// The value itself, the last one added.
  void replace(const std::string& name, double value);
  void add_max(const std::string& name, double value);
  void add_min(const std::string& name, double value);

  /// The values so far, in order of names, rounded to 8 decimals where they are 1e-4 or more; a
  /// name without values is absent.
  Json values() const;
  void clear() { entries_.clear(); }

  /// For a checkpoint between two log lines.
  Json state() const;
  void load_state(const Json& state);

 private:
  enum class Kind : int { kMean, kMax, kMin };
  struct Entry {
    Kind kind = Kind::kMean;
    /// Weighted sum, or the extreme.
    double value = 0;
    /// 0: nothing was added.
    double weight = 0;
  };
  std::map<std::string, Entry> entries_;
};

/// "1h 2m 3s".
std::string duration_text(double seconds);

}  // namespace lockstep::grpo
