// What stands above the progress line of a run on a terminal: how it learns, and what it writes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"
#include "grpo/log_line.h"
#include "grpo/training_run.h"

namespace lockstep::cli {

/// Values as a row of blocks of eight heights, from their least to their greatest; of more than
/// `width` values, neighbours are averaged. "▁▂▄▇█"; "" for fewer than two.
std::string sparkline(const std::vector<double>& values, size_t width);

/// Text of a model in one row of at most `width` columns, whatever it holds: line ends as "⏎",
/// control characters as escapes, and room for characters that may be two columns wide.
std::string one_row(std::string_view text, int width);

/// The rows above the progress line. Threads: any.
class LiveView {
 public:
  /// Takes a logged line of a run; `name` is that of one of several adapters, or "".
  void take_line(const std::string& name, const Json& line);
  void take_sample(const grpo::ShownSample& sample);
  /// "reward ▁▃▅█ 0.41 ± 0.23  length 12.4  …" and "sample  reward 1, 12 tokens: …", as far as they
  /// are known, each in at most `width` columns.
  std::vector<std::string> rows(int width) const;

 private:
  mutable std::mutex mutex_;
  std::string name_, label_;
  /// What has been logged of the metric that the run is about.
  std::vector<double> history_;
  std::vector<grpo::LogField> fields_;
  grpo::ShownSample sample_;
};

}  // namespace lockstep::cli
