// Every objective that a run can be given: what it computes, where it comes from, and which test
// holds it. docs/objectives.md is written from this table. It needs no libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace lockstep::grpo {

struct Objective {
  /// The flag that chooses it, and the value: "loss_type", "grpo". "": the flag is a number or a
  /// switch.
  std::string_view flag, value;
  /// In the notation of docs/objectives.md.
  std::string_view formula;
  /// The paper, or the program whose definition it is.
  std::string_view source;
  /// "Suite.Test" of the float64 comparison.
  std::string_view test;
};

/// By flag.
std::span<const Objective> objective_table();

/// The table in Markdown: a heading and a table for each flag.
std::string objective_markdown();

}  // namespace lockstep::grpo
