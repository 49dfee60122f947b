// Collects metrics between two log lines. It needs no libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/json_fwd.h"

namespace lockstep::grpo {

/// What each name has collected since the last log line: sums and counts, or extremes. Values are
/// added in the order of add().
///
/// Not thread-safe.
class Metrics {
 public:
  /// The mean of all added values, each of which has a weight.
  void add(const std::string& name, double value, double weight = 1);
  /// The value itself, the last one added.
  void replace(const std::string& name, double value);
  void add_max(const std::string& name, double value);
  void add_min(const std::string& name, double value);

  /// The values so far in the order of their names. Values of 1e-4 and more are rounded to 8
  /// decimals; a name without values is left out.
  Json values() const;
  void clear() { entries_.clear(); }

  /// The state, for a checkpoint between two log lines.
  Json state() const;
  /// Whether `entry` is what state() holds for one name.
  static bool is_state(const Json& entry);
  /// Takes an object of such entries.
  void load_state(const Json& state);

 private:
  enum class Kind : int { kMean, kMax, kMin };
  static constexpr int kNumKinds = 3;
  struct Entry {
    Kind kind = Kind::kMean;
    /// The weighted sum, or the extreme.
    double value = 0;
    /// The sum of weights; 0 if nothing was added.
    double weight = 0;
  };
  std::map<std::string, Entry> entries_;
};

/// A duration as text: "1h 2m 3s".
std::string duration_text(double seconds);

}  // namespace lockstep::grpo
