// SPDX-License-Identifier: Apache-2.0
#include "grpo/batch_fix.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>

#include <fmt/format.h>

namespace lockstep::grpo {
namespace {

/// A flag that cuts batches.
struct Lever {
  const char* flag;
  int64_t value, least;
  std::function<void(GrpoRunOptions&, int64_t)> set;
};

struct Fix {
  std::string text;
  double change = 0;
};

std::vector<Lever> levers_of(const GrpoRunOptions& options) {
  const GrpoOptions& grpo = options.grpo;
  const int64_t micro_step =
      options.training.batch.per_device_train_batch_size.value_or(grpo.num_generations);
  std::vector<Lever> levers{
      {"--per_device_train_batch_size", micro_step, 1,
       [](GrpoRunOptions& made, int64_t value) {
         made.training.batch.per_device_train_batch_size = value;
       }},
      {"--num_generations", grpo.num_generations, 2,
       [](GrpoRunOptions& made, int64_t value) { made.grpo.num_generations = value; }}};
  // How many micro-steps a generation batch holds is said by one of two flags, or by a third.
  if (grpo.generation_batch_size)
    levers.push_back(
        {"--generation_batch_size", *grpo.generation_batch_size, 1,
         [](GrpoRunOptions& made, int64_t value) { made.grpo.generation_batch_size = value; }});
  if (grpo.steps_per_generation || !grpo.generation_batch_size)
    levers.push_back(
        {"--steps_per_generation",
         grpo.steps_per_generation.value_or(options.training.batch.gradient_accumulation_steps), 1,
         [](GrpoRunOptions& made, int64_t value) { made.grpo.steps_per_generation = value; }});
  return levers;
}

bool is_allowed(const Lever& lever, int64_t value) {
  return value >= lever.least && value <= static_cast<int64_t>(kMostSequences);
}
Fix fix_of(const Lever& lever, int64_t value) {
  return {fmt::format("{} {}", lever.flag, value),
          std::abs(static_cast<double>(value - lever.value)) / static_cast<double>(lever.value)};
}

/// The nearest number with which there is a plan, and of two the smaller one.
std::optional<Fix> nearest_fix(const Lever& lever,
                               const GrpoRunOptions& options,
                               int64_t rows,
                               int64_t farthest) {
  GrpoRunOptions made = options;
  BatchPlan plan;
  for (int64_t distance = 1; distance <= farthest; ++distance)
    for (const int64_t value : {lever.value - distance, lever.value + distance}) {
      if (!is_allowed(lever, value)) continue;
      lever.set(made, value);
      if (!try_plan(made, rows, plan)) return fix_of(lever, value);
    }
  return std::nullopt;
}

/// The least change of two flags together with which there is a plan.
std::optional<Fix> nearest_pair(const std::vector<Lever>& levers,
                                const GrpoRunOptions& options,
                                int64_t rows) {
  constexpr int64_t kFarthest = 64;
  std::optional<Fix> best;
  for (size_t a = 0; a < levers.size(); ++a)
    for (int64_t value = levers[a].value - kFarthest; value <= levers[a].value + kFarthest;
         ++value) {
      if (!is_allowed(levers[a], value)) continue;
      GrpoRunOptions made = options;
      levers[a].set(made, value);
      const Fix first = fix_of(levers[a], value);
      for (size_t b = a + 1; b < levers.size(); ++b) {
        if (best && first.change >= best->change) continue;
        const auto second = nearest_fix(levers[b], made, rows, kFarthest);
        if (!second || (best && first.change + second->change >= best->change)) continue;
        best = {first.text + " " + second->text, first.change + second->change};
      }
    }
  return best;
}

}  // namespace

std::vector<std::string> batch_fixes(const GrpoRunOptions& options, int64_t num_rows) {
  constexpr size_t kShown = 2;
  constexpr int64_t kFarthest = 4096;
  const std::vector<Lever> levers = levers_of(options);
  std::vector<Fix> fixes;
  for (const Lever& lever : levers)
    if (auto fix = nearest_fix(lever, options, num_rows, kFarthest))
      fixes.push_back(std::move(*fix));
  if (fixes.empty())
    if (auto pair = nearest_pair(levers, options, num_rows)) fixes.push_back(std::move(*pair));
  std::stable_sort(fixes.begin(), fixes.end(),
                   [](const Fix& a, const Fix& b) { return a.change < b.change; });
  if (fixes.size() > kShown) fixes.resize(kShown);
  std::vector<std::string> texts;
  for (Fix& fix : fixes) texts.push_back(std::move(fix.text));
  return texts;
}

}  // namespace lockstep::grpo
