// SPDX-License-Identifier: Apache-2.0
#include "grpo/curriculum.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "base/random.h"

namespace lockstep::grpo {
namespace {

struct Ranked {
  double number;
  text::Row row;
};

/// The number in a row's column, which a CSV file holds as text.
double number_of(const text::Row& row, const std::string& column) {
  text::require_column(row, column, "--curriculum_column");
  const Json& value = row.columns[column];
  double number = std::nan("");
  if (value.is_number()) number = value.get<double>();
  if (value.is_string()) {
    const auto& text = value.get_ref<const std::string&>();
    char* end = nullptr;
    const double read = std::strtod(text.c_str(), &end);
    if (!text.empty() && end == text.c_str() + text.size()) number = read;
  }
  if (!std::isfinite(number))
    fail<FormatError>("bad-row", row.where,
                      "expected a number in the column {} (--curriculum_column), got {}", column,
                      dump_json(value));
  return number;
}

}  // namespace

std::span<const EnumName<CurriculumOrder>> enum_names(CurriculumOrder) {
  static constexpr EnumName<CurriculumOrder> kNames[] = {
      {CurriculumOrder::kAscending, "ascending"}, {CurriculumOrder::kDescending, "descending"}};
  return kNames;
}

void CurriculumOptions::validate() const {
  if (!curriculum_column.empty()) return;
  if (curriculum_epochs || curriculum_order != CurriculumOrder::kAscending)
    fail<ConfigError>("bad-flag", curriculum_epochs ? "--curriculum_epochs" : "--curriculum_order",
                      "expected --curriculum_column with it, got it alone");
}

void sort_by_column(text::Dataset& dataset,
                    const CurriculumOptions& options,
                    std::optional<int64_t> tie_seed,
                    bool is_strict) {
  std::vector<Ranked> ranked;
  for (text::Row& row : dataset.rows) {
    try {
      const double number = number_of(row, options.curriculum_column);
      ranked.push_back({number, std::move(row)});
    } catch (const FormatError& error) {
      if (is_strict) throw;
      ++dataset.dropped;
      if (dataset.dropped <= 10) log_warning("dropped: {}", error.what());
    }
  }
  if (ranked.empty())
    fail<FormatError>("empty-dataset", "--curriculum_column",
                      "expected rows with a number in the column {}, got none",
                      options.curriculum_column);
  if (tie_seed) {
    const RandomStream stream("curriculum ties", static_cast<uint64_t>(*tie_seed));
    for (size_t i = ranked.size(); i > 1; --i) std::swap(ranked[i - 1], ranked[stream.below(i, i)]);
  }
  const bool is_ascending = options.curriculum_order == CurriculumOrder::kAscending;
  std::stable_sort(ranked.begin(), ranked.end(), [&](const Ranked& a, const Ranked& b) {
    return is_ascending ? a.number < b.number : a.number > b.number;
  });
  dataset.rows.clear();
  for (Ranked& one : ranked) dataset.rows.push_back(std::move(one.row));
  log_info("order of the rows: by {}, from {:.6g} to {:.6g}, {}", options.curriculum_column,
           ranked.front().number, ranked.back().number,
           options.curriculum_epochs
               ? fmt::format("in the first {} epochs", *options.curriculum_epochs)
               : std::string("in every epoch"));
}

}  // namespace lockstep::grpo
