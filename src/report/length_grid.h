// How long completions were over the steps of a run, in bounded memory.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace lockstep::report {

/// Counts of completions by step and length. A column stands for some rounds of sampling, a bin for
/// some lengths; when either run out, two neighbours become one. Not thread-safe.
class LengthGrid {
 public:
  static constexpr size_t kMostColumns = 128, kBins = 48;

  /// Takes a round of sampling.
  void add(int64_t step, std::span<const int64_t> lengths);
  void clear() { *this = LengthGrid(); }

  /// {"width": lengths of a bin, "steps": [[first, last] …], "counts": [[…] …]} by columns, without
  /// the empty bins at the end.
  std::string json() const;

 private:
  struct Column {
    int64_t first_step = 0, last_step = 0, rounds = 0;
    std::array<int64_t, kBins> counts{};
  };
  void widen();
  void merge();

  std::vector<Column> columns_;
  /// Bin i counts the lengths [i * width, (i + 1) * width).
  int64_t width_ = 1;
  int64_t rounds_a_column_ = 1;
};

}  // namespace lockstep::report
