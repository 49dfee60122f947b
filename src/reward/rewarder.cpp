// SPDX-License-Identifier: Apache-2.0
#include "reward/rewarder.h"

#include <cmath>
#include <numeric>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/json.h"
#include "base/log.h"
#include "reward/environment_reward.h"
#include "reward/external_reward.h"
#include "reward/plugin_host.h"
#include "reward/plugin_reward.h"
#include "text/dataset.h"  // require_column
#include "text/unicode.h"

namespace lockstep::reward {
namespace {

/// A column as a person sees it in one line; long ones lose their middle.
std::string shown(const Json& value) {
  constexpr size_t kMost = 160, kTail = 60;
  const std::string text = dump_json(value);
  if (text.size() <= kMost) return text;
  const auto part = [&](size_t begin, size_t count) {
    std::string valid;
    text::append_lossy(std::string_view(text).substr(begin, count), false, valid);
    return valid;
  };
  return part(0, kMost - kTail) + " … " + part(text.size() - kTail, kTail);
}

}  // namespace

Spread spread_of(std::span<const double> numbers) {
  Spread result{.count = std::ssize(numbers)};
  if (numbers.empty()) return result;
  result.mean =
      std::accumulate(numbers.begin(), numbers.end(), 0.0) / static_cast<double>(numbers.size());
  if (numbers.size() < 2) return result;
  double squares = 0;
  for (const double number : numbers) squares += (number - result.mean) * (number - result.mean);
  result.deviation = std::sqrt(squares / static_cast<double>(numbers.size() - 1));
  return result;
}

Spread spread_of(std::span<const Values> values, size_t function) {
  std::vector<double> numbers;
  for (const Values& row : values)
    if (row[function]) numbers.push_back(*row[function]);
  return spread_of(numbers);
}

double weighted_sum(const Values& values, std::span<const double> weights) {
  double sum = 0;
  for (size_t f = 0; f < values.size(); ++f)
    if (values[f]) sum += weights[f] * *values[f];
  return sum;
}

namespace {

/// The processes of the plugins; null where nothing is asked of Python.
std::shared_ptr<PluginHost> plugin_host_of(const RewardOptions& options,
                                           const RewardContext& context) {
  PluginRequest request{.builtin = builtin_names(),
                        .args = context.args ? *context.args : Json::object()};
  bool is_needed = !options.plugins.external_plugins.empty();
  for (const std::string& text : options.reward_funcs) {
    if (external_spec(text)) continue;
    is_needed = is_needed || needs_python(text);
    request.rewards.push_back(text);
  }
  if (!is_needed) return nullptr;
  return std::make_shared<PluginHost>(options.plugins, std::move(request));
}

}  // namespace

Rewarder::Rewarder(const RewardOptions& options, const RewardContext& context)
    : weights_(options.reward_weights), plugin_files_(options.plugins.external_plugins) {
  options.validate();
  const std::shared_ptr<PluginHost> host = plugin_host_of(options, context);
  for (const std::string& text : options.reward_funcs) {
    const PluginReward* const plugin = host ? host->find(text) : nullptr;
    add(plugin ? make_plugin_reward(host, *plugin, options.external)
               : make_reward(text, options, context,
                             host ? host->known() : std::vector<std::string>()));
  }
  for (const std::string& text : options.judges.reward_model) {
    const bool is_url = external_spec(text).has_value();
    if (!is_url && !context.load_model)
      fail<ConfigError>("bad-flag", "--reward_model",
                        "expected http://HOST:PORT/v1 in a command that runs no model, got {}",
                        text);
    add(is_url ? make_judge(text, options.judges, options.external) : context.load_model(text));
  }
  if (options.has_environment) add(make_environment_reward());
  if (weights_.empty()) weights_.assign(functions_.size(), 1.0);
}

void Rewarder::add(std::unique_ptr<RewardFunction> function) {
  for (const auto& other : functions_)
    if (other->name() == function->name() || other->class_name() == function->class_name())
      fail<ConfigError>("bad-flag", "--reward_funcs",
                        "expected rewards of different names, got {} twice (NAME=program:… and "
                        "NAME=http://… give a name)",
                        function->name());
  functions_.push_back(std::move(function));
}

void Rewarder::check(const text::Row& row) const {
  for (const auto& function : functions_) {
    if (const std::string column(function->needed_column()); !column.empty())
      text::require_column(row, column, fmt::format("the reward {}", function->name()));
    function->check(row.columns, row.where);
  }
}

void Rewarder::warn_of_unreadable(std::string_view name,
                                  std::span<const text::Row* const> rows) const {
  for (const auto& function : functions_) {
    const std::string column(function->needed_column());
    if (column.empty()) continue;
    const text::Row* first = nullptr;
    int64_t count = 0;
    for (const text::Row* row : rows) {
      throw_if_interrupted();
      if (function->can_read(row->columns)) continue;
      if (count++ == 0) first = row;
    }
    if (count > 0)
      log_warning(
          "{}: the reward {} cannot read the {} of {} of {} rows, so that only the same text is "
          "right there; the first: {}: {}",
          name, function->name(), column, count, rows.size(), first->where,
          shown(first->columns.at(column)));
  }
}

Json Rewarder::plugin_digests() const {
  Json digests = Json::array();
  for (const std::string& file : plugin_files_) digests.push_back(digest_of(read_file(file)).hex());
  return digests;
}

std::vector<Values> Rewarder::score(std::span<const RewardInput> inputs,
                                    const RunState& run) const {
  std::vector<Values> values(inputs.size());
  for (const auto& function : functions_) {
    const auto column = function->score(inputs, run);
    LOCKSTEP_CHECK(column.size() == inputs.size(), "{} values of {} for {} completions",
                   column.size(), function->name(), inputs.size());
    for (size_t i = 0; i < values.size(); ++i) values[i].push_back(column[i]);
  }
  return values;
}

}  // namespace lockstep::reward
