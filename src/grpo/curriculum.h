// The order of rows by a column: easy ones first.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/options.h"
#include "text/dataset.h"

namespace lockstep::grpo {

enum class CurriculumOrder : int { kAscending, kDescending };
std::span<const EnumName<CurriculumOrder>> enum_names(CurriculumOrder);

struct CurriculumOptions {
  std::string curriculum_column;
  CurriculumOrder curriculum_order = CurriculumOrder::kAscending;
  std::optional<int64_t> curriculum_epochs;

  /// Whether an epoch has the order of the column; held-out rows are drawn in epoch -1.
  bool orders(int64_t epoch) const {
    return !curriculum_column.empty() && epoch >= 0 &&
           (!curriculum_epochs || epoch < *curriculum_epochs);
  }
  /// Throws ConfigError "bad-flag" for options without the column's name.
  void validate() const;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("curriculum_column", curriculum_column,
          "A column of numbers in whose order rows are trained on; unset: in the order of "
          "dataset_shuffle.");
    visit("curriculum_order", curriculum_order, "ascending: small numbers first; or descending.");
    visit("curriculum_epochs", curriculum_epochs,
          "How many epochs have that order, before dataset_shuffle decides; unset: all.",
          Range::at_least(1));
  }
};

/// Puts rows in the order of the column, as it is in every epoch that has it, and logs it. Rows of
/// one number come in an order drawn by `tie_seed`; without it they stay as they are.
/// Throws FormatError "bad-row" for a row that has no number there; with `is_strict` false it is
/// dropped and counted instead.
void sort_by_column(text::Dataset& dataset,
                    const CurriculumOptions& options,
                    std::optional<int64_t> tie_seed,
                    bool is_strict);

}  // namespace lockstep::grpo
