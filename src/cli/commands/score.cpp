// lockstep score: computes the log-probability of every token of every row.
// SPDX-License-Identifier: Apache-2.0
#include "base/interrupt.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/commands/model_command.h"
#include "cli/flag_classes.h"
#include "cli/progress.h"
#include "cli/row_file.h"
#include "text/row_files.h"
#include "train/trainer.h"

namespace lockstep::cli {
namespace {

struct ScoreOptions {
  std::string model, adapters, dataset, output;
  bool overwrite = false, entropy = false;
  double temperature = 1.0;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("model", model, "Checkpoint directory.");
    visit("adapters", adapters, "Directory of an adapter in PEFT's form.");
    visit("dataset", dataset, "JSON lines with input_ids or messages.");
    visit("output", output, "Where the rows go; unset: stdout.");
    visit("overwrite", overwrite, "Replaces an existing output.");
    visit("entropy", entropy, "Adds the entropy at each position.");
    visit("temperature", temperature, "Divides the logits first.", Range::logit_factor());
  }
};

Json floats(const std::vector<float>& values) {
  // Nothing predicts the first token, so it has none.
  Json list = Json::array({nullptr});
  for (const float value : values) list.push_back(shortest_double(value));
  return list;
}

/// The rows with their ids, and as samples of which every token but the first is scored.
std::pair<std::vector<Json>, std::vector<train::Sample>> read_samples(const ScoreOptions& options,
                                                                      int64_t vocab_size) {
  text::RowEncoder encoder(options.model, vocab_size);
  std::vector<Json> rows;
  std::vector<train::Sample> samples;
  text::for_each_row(options.dataset, [&](const std::string& where, Json&& row) {
    auto ids = encode_row(encoder, row, where, /*add_generation_prompt=*/false);
    std::vector<uint8_t> mask(ids.size(), 1);
    mask[0] = 0;
    row["input_ids"] = ids;
    rows.push_back(std::move(row));
    samples.push_back({std::move(ids), std::move(mask)});
  });
  return {std::move(rows), std::move(samples)};
}

}  // namespace

void run_score(CommandContext& context, std::span<const std::string> arguments) {
  ScoreOptions options;
  train::TrainerOptions batching;
  FlagSet flags("score", "Writes the log-probability of every token of every row.");
  flags.add_group("score", options);
  flags.add_group("batches", batching);
  flags.use_classes(model_flag_classes());
  flags.require("model");
  flags.require("dataset");
  if (!begin_command(context, flags, arguments)) return;

  context.reads("--model", options.model);
  context.reads("--dataset", options.dataset);
  if (!options.adapters.empty()) context.reads("--adapters", options.adapters);
  RowWriter writer(options.output, options.overwrite, "--output", context.inputs);
  const auto loaded = load_for_command(context, options.model, options.adapters);
  auto [rows, samples] = read_samples(options, loaded.weights->config().vocab_size);

  context.phase.start();
  train::Trainer trainer(*loaded.weights, batching, model::list_of(loaded.adapter.get()));
  Progress progress({.label = "score",
                     .unit = "rows",
                     .total = static_cast<int64_t>(rows.size()),
                     .show = context.show_progress()});
  // Rows are scored in runs of this many, which bounds memory and does not change a row's bits.
  constexpr size_t kRun = 256;
  int64_t tokens = 0;
  for (size_t first = 0; first < rows.size(); first += kRun) {
    const auto run = std::span(samples).subspan(first, std::min(kRun, rows.size() - first));
    int64_t run_tokens = 0;
    for (const train::Sample& sample : run) run_tokens += std::ssize(sample.ids);
    const auto on_share = [&](double share) {
      progress.update(static_cast<int64_t>(double(first) + share * double(run.size())),
                      tokens + static_cast<int64_t>(share * double(run_tokens)));
      throw_if_interrupted();
    };
    const auto scores = trainer.score(run, {.temperature = options.temperature,
                                            .with_entropy = options.entropy,
                                            .chunked_delta = !context.common.exact,
                                            .progress = on_share});
    for (size_t i = 0; i < run.size(); ++i) {
      Json& row = rows[first + i];
      row["logprobs"] = floats(scores[i].logprobs);
      if (options.entropy) row["entropy"] = floats(scores[i].entropy);
      writer.write(row);
    }
    tokens += run_tokens;
  }
  progress.finish();
  writer.commit();
}

}  // namespace lockstep::cli
