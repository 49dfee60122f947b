// SPDX-License-Identifier: Apache-2.0
#include "report/length_grid.h"

#include <algorithm>

#include "base/json.h"

namespace lockstep::report {

void LengthGrid::widen() {
  for (Column& column : columns_) {
    for (size_t i = 0; i < kBins; ++i)
      column.counts[i] = 2 * i + 1 < kBins ? column.counts[2 * i] + column.counts[2 * i + 1] : 0;
  }
  width_ *= 2;
}

void LengthGrid::merge() {
  for (size_t i = 0; i < columns_.size() / 2; ++i) {
    Column column = columns_[2 * i];
    const Column& next = columns_[2 * i + 1];
    column.last_step = next.last_step;
    column.rounds += next.rounds;
    for (size_t bin = 0; bin < kBins; ++bin) column.counts[bin] += next.counts[bin];
    columns_[i] = column;
  }
  columns_.resize(columns_.size() / 2);
  rounds_a_column_ *= 2;
}

void LengthGrid::add(int64_t step, std::span<const int64_t> lengths) {
  static_assert(kMostColumns % 2 == 0 && kBins % 2 == 0);
  if (lengths.empty()) return;
  if (columns_.size() == kMostColumns && columns_.back().rounds >= rounds_a_column_) merge();
  if (columns_.empty() || columns_.back().rounds >= rounds_a_column_)
    columns_.push_back({.first_step = step, .last_step = step});
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  while (longest / width_ >= static_cast<int64_t>(kBins)) widen();
  Column& column = columns_.back();
  column.last_step = std::max(column.last_step, step);
  ++column.rounds;
  for (const int64_t length : lengths)
    ++column.counts[static_cast<size_t>(std::max<int64_t>(0, length) / width_)];
}

std::string LengthGrid::json() const {
  size_t used = 0;
  for (const Column& column : columns_)
    for (size_t bin = 0; bin < kBins; ++bin)
      if (column.counts[bin]) used = std::max(used, bin + 1);
  Json steps = Json::array(), counts = Json::array();
  for (const Column& column : columns_) {
    steps.push_back({column.first_step, column.last_step});
    counts.push_back(std::vector<int64_t>(column.counts.begin(),
                                          column.counts.begin() + static_cast<long>(used)));
  }
  return dump_json(Json{{"width", width_}, {"steps", steps}, {"counts", counts}});
}

}  // namespace lockstep::report
