// The numbers that a run has logged, in bounded memory.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/json_fwd.h"

namespace lockstep::report {

/// Appends a number as JSON with `digits` significant digits; null for what is not finite.
void append_number(std::string& out, double value, int digits = 6);

/// All metrics of a run by name. Each row stands for `stride()` logged lines, one at first; at
/// kMostRows rows two neighbours become one, so that a run of any length has a bounded number of
/// rows, of which each knows mean, least and greatest value. Not thread-safe.
class Curves {
 public:
  /// Between half of it and all of it are on the page: three rows a pixel of a usual plot.
  static constexpr size_t kMostRows = 1200;

  /// Takes the numbers of a logged line; `prefix` is taken off the names, and names without it are
  /// passed over. A step before the last one is one of a resumed run: the rows from there on are
  /// made again.
  void add(int64_t step, const Json& line, std::string_view prefix = "");
  void clear();

  size_t num_rows() const { return rows_.size(); }
  int64_t stride() const { return stride_; }
  /// Changes whenever rows that were there are no longer the same, the last one aside.
  int64_t generation() const { return generation_; }
  /// The names, in order.
  std::vector<std::string> names() const;
  /// The mean of a row; NaN where it has none.
  double mean(const std::string& name, size_t row) const;

  /// {"generation", "first", "rows", "stride", "steps": […], "columns": {NAME: {"mean": […], "low":
  /// […], "high": […]}}, "odd": {NAME: count}} of the rows from `first` on; low and high only where
  /// they differ from the mean, "odd" are values that are no finite numbers.
  std::string json(size_t first = 0) const;

 private:
  struct Row {
    int64_t first_step = 0, last_step = 0, lines = 0;
  };
  struct Cell {
    double sum = 0;
    double low = std::numeric_limits<double>::infinity(), high = -low;
    int64_t count = 0;
    double mean() const { return sum / static_cast<double>(count); }
    void add(const Cell& other);
  };
  void cut_back(int64_t step);
  void merge();

  std::vector<Row> rows_;
  /// One cell a row, as far as the metric has come.
  std::map<std::string, std::vector<Cell>> columns_;
  std::map<std::string, int64_t> odd_;
  int64_t stride_ = 1, generation_ = 0;
};

}  // namespace lockstep::report
