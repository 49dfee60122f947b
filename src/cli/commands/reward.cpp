// lockstep reward: what the rewards of a training say about recorded completions.
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <limits>
#include <optional>

#include "base/check.h"
#include "base/interrupt.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/progress.h"
#include "cli/reward_flags.h"
#include "cli/row_file.h"
#include "grpo/row_tally.h"
#include "reward/rewarder.h"
#include "text/dataset.h"
#include "text/row_columns.h"
#include "text/row_files.h"

namespace lockstep::cli {
namespace {

struct RewardCommandOptions {
  std::vector<std::string> dataset;
  Json columns;
  bool disable_auto_column_mapping = false, strict = true, overwrite = false;
  int64_t data_seed = 42, max_completion_length = 512;
  std::string output;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("dataset", dataset,
          "Files of rows as for grpo, each row with completion (text), completions (a list) or "
          "responses (of infer).");
    visit("columns", columns, "Renames columns first: {\"answer\": \"solution\"}, as for grpo.");
    visit("disable_auto_column_mapping", disable_auto_column_mapping,
          "Takes columns by their canonical names only.");
    visit("strict", strict, "A bad row is an error; false drops it and counts it.");
    visit("data_seed", data_seed, "Seed of the rows that #N draws.", Range::at_least(0));
    visit("max_completion_length", max_completion_length,
          "cosine and soft_overlong: the longest length where their own flags are unset.",
          Range::at_least(1));
    visit("output", output, "Where the rows go with their rewards; unset: nowhere.");
    visit("overwrite", overwrite, "Replaces an existing output.");
  }
};

/// What was recorded of one completion.
struct Recorded {
  std::string text;
  std::optional<std::vector<int64_t>> token_ids;
  std::string finish_reason = "stop";
};

std::string text_in(const Json& object, const std::string& key, std::string_view where) {
  const auto found = object.find(key);
  const char* got = found == object.end() ? "none" : found->type_name();
  if (found == object.end() || !found->is_string())
    fail<FormatError>("bad-row", where, "expected text in {}, got {}", key, got);
  return found->get<std::string>();
}

std::optional<std::vector<int64_t>> token_ids_in(const Json& object, std::string_view where) {
  const auto found = object.find("token_ids");
  if (found == object.end() || found->is_null()) return std::nullopt;
  return text::ids_of(object, "token_ids", std::numeric_limits<int64_t>::max(), where);
}

/// One of `completions` or `responses`: text, or an object as infer writes it.
Recorded recorded_in(const Json& item, std::string_view column, std::string_view where) {
  if (item.is_string()) return {.text = item.get<std::string>()};
  if (!item.is_object())
    fail<FormatError>("bad-row", where, "expected texts in {}, got {}", column, item.type_name());
  Recorded result{.text = text_in(item, "text", where), .token_ids = token_ids_in(item, where)};
  if (item.contains("finish_reason")) result.finish_reason = text_in(item, "finish_reason", where);
  return result;
}

/// A row's completions, and how they stand there.
struct RecordedRow {
  std::vector<Recorded> completions;
  /// They are a list, and so are their rewards then.
  bool is_list = false;
};

RecordedRow recorded_row(const text::Row& row) {
  const Json& columns = row.recorded;
  RecordedRow result;
  std::string column;
  for (const char* name : {"completion", "completions", "responses"}) {
    if (!columns.contains(name) || columns[name].is_null()) continue;
    if (!column.empty())
      fail<FormatError>("bad-row", row.where, "expected one column of completions, got {} and {}",
                        column, name);
    column = name;
  }
  if (column.empty())
    fail<FormatError>("bad-row", row.where,
                      "expected a column completion, completions or responses, got {}",
                      text::columns_and_hint(text::column_names(row.file_row), "completion"));
  const Json& value = columns[column];
  result.is_list = column != "completion";
  if (!result.is_list) {
    result.completions.push_back({.text = text_in(columns, column, row.where),
                                  .token_ids = token_ids_in(columns, row.where)});
    return result;
  }
  if (!value.is_array() || value.empty())
    fail<FormatError>("bad-row", row.where, "expected a list of completions in {}, got {}", column,
                      value.is_array() ? "an empty one" : value.type_name());
  for (const Json& item : value) result.completions.push_back(recorded_in(item, column, row.where));
  return result;
}

/// A row with what was recorded, and what it is worth.
struct JudgedRow {
  text::Row* row = nullptr;
  RecordedRow recorded;
  int64_t number = 0;
  std::vector<reward::Values> values = {};
};

/// How many completions are judged at once, so that rewards in other processes share them out.
constexpr size_t kMostAtOnce = 256;

/// The end of the rows from `begin` on that are judged at once: at least one.
size_t end_of_part(std::span<const JudgedRow> rows, size_t begin) {
  size_t end = begin, completions = 0;
  do completions += rows[end++].recorded.completions.size();
  while (end < rows.size() && completions + rows[end].recorded.completions.size() <= kMostAtOnce);
  return end;
}

void judge(const reward::Rewarder& rewarder, std::span<JudgedRow> rows) {
  std::vector<reward::RewardInput> inputs;
  for (const JudgedRow& judged : rows)
    for (const Recorded& completion : judged.recorded.completions)
      inputs.push_back({.completion = completion.text,
                        .token_ids = completion.token_ids,
                        .finish_reason = completion.finish_reason,
                        .columns = &judged.row->columns,
                        .messages = &judged.row->messages,
                        .tools = &judged.row->tools,
                        .prompt = {},
                        .text_prompt = judged.row->text_prompt,
                        .group = judged.number,
                        .where = judged.row->where});
  auto values = rewarder.score(inputs, {});
  auto next = values.begin();
  for (JudgedRow& judged : rows) {
    const auto end = next + std::ssize(judged.recorded.completions);
    judged.values.assign(std::make_move_iterator(next), std::make_move_iterator(end));
    next = end;
  }
}

/// The row with its rewards: an object and a number for its completion, or a list of each.
Json json_of(const reward::Rewarder& rewarder, JudgedRow& judged) {
  const bool is_list = judged.recorded.is_list;
  Json rewards = Json::array(), sums = Json::array();
  for (const reward::Values& completion : judged.values) {
    Json& object = rewards.emplace_back(Json::object());
    for (size_t f = 0; f < completion.size(); ++f)
      object[std::string(rewarder.functions()[f]->name())] =
          completion[f] ? Json(*completion[f]) : Json();
    sums.push_back(reward::weighted_sum(completion, rewarder.weights()));
  }
  Json result = std::move(judged.row->file_row);
  result["rewards"] = is_list ? std::move(rewards) : rewards[0];
  result["reward"] = is_list ? std::move(sums) : sums[0];
  return result;
}

/// "accuracy  mean 0.5  spread 0.547723  count 6": a line for each reward and for their sum.
std::string summary(const reward::Rewarder& rewarder, std::span<const reward::Values> values) {
  std::string text;
  const auto add = [&](std::string_view name, const reward::Spread& spread) {
    if (spread.count == 0)
      text += fmt::format("{}  count 0\n", name);
    else
      text += fmt::format("{}  mean {:.6g}  spread {:.6g}  count {}\n", name, spread.mean,
                          spread.deviation, spread.count);
  };
  std::vector<double> sums;
  for (const reward::Values& completion : values)
    sums.push_back(reward::weighted_sum(completion, rewarder.weights()));
  for (size_t f = 0; f < rewarder.functions().size(); ++f)
    add(rewarder.functions()[f]->name(), reward::spread_of(values, f));
  add("reward", reward::spread_of(sums));
  return text;
}

/// A reward without a value anywhere needs what the rows do not say.
void warn_of_missing(const reward::Rewarder& rewarder, std::span<const reward::Values> values) {
  for (size_t f = 0; f < rewarder.functions().size(); ++f) {
    const int64_t count = reward::spread_of(values, f).count;
    if (count < std::ssize(values))
      log_warning("the reward {} has no value for {} of {} completions: {}",
                  rewarder.functions()[f]->name(), std::ssize(values) - count, values.size(),
                  rewarder.functions()[f]->why_missing());
  }
}

text::Dataset load_rows(const RewardCommandOptions& options) {
  text::Dataset dataset =
      text::load_dataset({.dataset = options.dataset,
                          .columns = options.columns,
                          .disable_auto_column_mapping = options.disable_auto_column_mapping,
                          .strict = options.strict,
                          .data_seed = options.data_seed,
                          .recorded = true});
  for (const std::string& reason : dataset.dropped_reasons)
    log_warning("dataset: dropped: {}", reason);
  return dataset;
}

}  // namespace

void run_reward(CommandContext& context, std::span<const std::string> arguments) {
  RewardCommandOptions options;
  reward::RewardOptions reward_options;
  FlagSet flags("reward", "Says what rewards give to recorded completions.");
  flags.add_group("rows", options);
  flags.add_group("rewards", reward_options);
  flags.require("dataset");
  flags.require("reward_funcs", "reward_model");
  if (!begin_command(context, flags, arguments)) return;

  complete_reward_options(reward_options);
  for (const std::string& file : reward_options.plugins.external_plugins)
    context.reads("--external_plugins", file);
  const Json args = flags.to_json();
  const reward::Rewarder rewarder(
      reward_options, {.max_completion_length = options.max_completion_length, .args = &args});
  for (const std::string& name : options.dataset)
    context.reads("--dataset", text::dataset_path(name));
  std::optional<RowWriter> writer;
  if (!options.output.empty())
    writer.emplace(options.output, options.overwrite, "--output", context.inputs);
  text::Dataset dataset = load_rows(options);
  std::vector<JudgedRow> rows;
  grpo::RowTally tally("dataset", options.strict, dataset.dropped);
  for (text::Row& row : dataset.rows)
    tally.guard([&] {
      rewarder.check(row);
      rows.push_back({&row, recorded_row(row), std::ssize(rows)});
    });
  tally.report(std::ssize(rows));
  if (rows.empty())
    fail<FormatError>("empty-dataset", "--dataset", "expected at least one good row, got none");
  std::vector<const text::Row*> judged_rows;
  for (const JudgedRow& judged : rows) judged_rows.push_back(judged.row);
  rewarder.warn_of_unreadable("dataset", judged_rows);

  context.phase.start();
  Progress progress({.label = "reward",
                     .unit = "rows",
                     .total = std::ssize(rows),
                     .show = context.show_progress()});
  std::vector<reward::Values> all;
  for (size_t begin = 0, end = 0; begin < rows.size(); begin = end) {
    throw_if_interrupted();
    end = end_of_part(rows, begin);
    const std::span<JudgedRow> part(rows.begin() + static_cast<std::ptrdiff_t>(begin), end - begin);
    judge(rewarder, part);
    for (JudgedRow& judged : part) {
      all.insert(all.end(), judged.values.begin(), judged.values.end());
      if (writer) writer->write(json_of(rewarder, judged));
    }
    progress.update(static_cast<int64_t>(end));
  }
  progress.finish();
  if (writer) writer->commit();
  warn_of_missing(rewarder, all);
  const std::string text = summary(rewarder, all);
  std::fwrite(text.data(), 1, text.size(), stdout);
}

}  // namespace lockstep::cli
