// SPDX-License-Identifier: Apache-2.0
#include "grpo/run_data.h"

#include <cmath>
#include <cstddef>
#include <filesystem>
#include <numeric>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "base/random.h"
#include "grpo/resume_check.h"

namespace lockstep::grpo {
namespace {

/// Logs the columns. How many rows are used is said when their conversations are encoded.
void say_dataset(const char* name, const text::Dataset& dataset) {
  std::string mapping;
  for (const auto& note : dataset.mapping_notes) mapping += (mapping.empty() ? "" : ", ") + note;
  if (!mapping.empty()) log_info("columns of {}: {}", name, mapping);
  for (const auto& reason : dataset.dropped_reasons) log_warning("{}: dropped: {}", name, reason);
}

/// A row as --dataset reads it.
Json written(const text::Row& row) {
  Json written = Json::object();
  // TRL's rewards see a prompt that is text as text.
  if (row.text_prompt && row.messages.size() == 1)
    written["prompt"] = *row.text_prompt;
  else if (!row.messages.is_null())
    written["messages"] = row.messages;
  if (!row.tools.is_null()) written["tools"] = row.tools;
  if (!row.chat_template_kwargs.is_null())
    written["chat_template_kwargs"] = row.chat_template_kwargs;
  written.update(row.columns);
  return written;
}

}  // namespace

bool is_system_file(const std::string& system) {
  std::error_code ignored;
  return !system.empty() && system.size() < 4096 &&
         std::filesystem::is_regular_file(system, ignored);
}

void say_template(const ModelOptions& model, const std::string& rendered, const char* what) {
  const auto& thinking = model.enable_thinking;
  std::string tail = rendered;
  if (tail.size() > 80) {
    size_t begin = tail.size() - 80;
    // Begins with a whole character.
    while ((static_cast<unsigned char>(tail[begin]) & 0xC0) == 0x80) ++begin;
    tail = tail.substr(begin);
  }
  log_info("thinking: {}; {} ends {}",
           thinking ? (*thinking ? "on" : "off") : "by the chat template", what,
           dump_json(Json(tail)));
}

std::vector<int64_t> epoch_order(int64_t count, int64_t epoch, const DataOptions& options) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), int64_t{0});
  if (!options.dataset_shuffle || options.curriculum.orders(epoch)) return order;
  const RandomStream stream("shuffle", static_cast<uint64_t>(options.data_seed),
                            static_cast<uint64_t>(epoch));
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[stream.below(i, i)]);
  return order;
}

RunData load_run_data(const DataOptions& options, const std::string& system, bool token_rows) {
  text::DatasetOptions reading{.dataset = options.dataset,
                               .columns = options.columns,
                               .disable_auto_column_mapping = options.disable_auto_column_mapping,
                               .strict = options.strict,
                               .data_seed = options.data_seed,
                               .system = is_system_file(system) ? read_file(system) : system,
                               .token_rows = token_rows};
  RunData data;
  data.train = text::load_dataset(reading);
  data.digests = digest_data(options, reading.system);
  say_dataset("dataset", data.train);
  if (!options.val_dataset.empty()) {
    reading.dataset = options.val_dataset;
    data.validation = text::load_dataset(reading);
    say_dataset("val_dataset", data.validation);
  } else if (options.split_dataset_ratio > 0) {
    // Held-out rows are drawn by the seed; the others keep their order.
    auto& rows = data.train.rows;
    const auto held = static_cast<size_t>(
        std::llround(options.split_dataset_ratio * static_cast<double>(rows.size())));
    DataOptions shuffled = options;
    shuffled.dataset_shuffle = true;
    const auto order = epoch_order(static_cast<int64_t>(rows.size()), -1, shuffled);
    std::vector<bool> is_held(rows.size(), false);
    for (size_t i = 0; i < held; ++i) is_held[static_cast<size_t>(order[i])] = true;
    std::vector<text::Row> kept;
    for (size_t i = 0; i < rows.size(); ++i)
      (is_held[i] ? data.validation.rows : kept).push_back(std::move(rows[i]));
    rows = std::move(kept);
    if (rows.empty() || data.validation.rows.empty())
      fail<ConfigError>(
          "bad-flag", "--split_dataset_ratio",
          "expected a share that leaves rows on both sides, got {} for training and {} "
          "held out",
          rows.size(), data.validation.rows.size());
    for (const text::Row& row : data.validation.rows)
      data.split_rows += dump_json(written(row)) + "\n";
    // How many rows of both are used is said when all dropping is done.
    log_info("split: rows are held out by --split_dataset_ratio {}, drawn by --data_seed",
             options.split_dataset_ratio);
  }
  if (!options.curriculum.curriculum_column.empty())
    sort_by_column(data.train, options.curriculum,
                   options.dataset_shuffle ? std::optional(options.data_seed) : std::nullopt,
                   options.strict);
  return data;
}

}  // namespace lockstep::grpo
