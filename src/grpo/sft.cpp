// SPDX-License-Identifier: Apache-2.0
#include "grpo/sft.h"

#include <cmath>

#include "base/check.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "grpo/token_rows.h"

namespace lockstep::grpo {
namespace {

/// Rows to samples, cut to the longest length; rows that lose all their loss tokens are dropped and counted.
std::vector<train::Sample> encode_rows(const TrainingOptions& training,
                                       const SftOptions& options,
                                       const model::ModelConfig& config) {
  std::vector<train::Sample> samples;
  if (is_token_dataset(training.data)) {
    samples = load_token_rows(training.data, config.vocab_size);
  } else {
    const RunData data = load_run_data(training.data, training.model.system);
    const text::ChatEncoder encoder(training.model.model, training.model.enable_thinking);
    for (const text::Row& row : data.train.rows) {
      auto dialogue = encode_row(row, [&](const text::Conversation& conversation) {
        return encoder.encode_dialogue(conversation, options.loss_scale);
      });
      check_ids(dialogue.ids, config.vocab_size, row.where);
      samples.push_back({std::move(dialogue.ids), std::move(dialogue.mask)});
    }
  }
  const auto longest =
      static_cast<size_t>(options.max_length.value_or(config.max_position_embeddings));
  int64_t cut = 0, dropped = 0;
  std::vector<train::Sample> kept;
  for (auto& sample : samples) {
    if (sample.ids.size() > longest) {
      sample.ids.resize(longest);
      sample.mask.resize(longest);
      ++cut;
    }
    if (!sample.mask.empty()) sample.mask[0] = 0;
    if (sample.num_scored())
      kept.push_back(std::move(sample));
    else
      ++dropped;
  }
  if (cut || dropped)
    log_info("lengths: {} rows cut to {} tokens, {} left without a loss token and dropped", cut,
             longest, dropped);
  if (kept.empty())
    fail<FormatError>("empty-dataset", "--dataset", "expected rows with a loss token, got none");
  return kept;
}

}  // namespace

void run_sft(const TrainingOptions& training,
             const SftOptions& options,
             const RunContext& context) {
  TrainingRun run(training, context);
  const auto samples = encode_rows(training, options, run.model().weights->config());
  const auto count = static_cast<int64_t>(samples.size());
  const int64_t batch = training.batch.per_device_train_batch_size.value_or(1) *
                        training.batch.gradient_accumulation_steps;
  const int64_t steps_per_epoch = (count + batch - 1) / batch;
  const int64_t max_steps =
      training.run.max_steps > 0
          ? training.run.max_steps
          : static_cast<int64_t>(
                std::ceil(training.run.num_train_epochs * static_cast<double>(steps_per_epoch)));
  log_info(
      "batches: {} rows, {} rows an optimizer step, {} steps an epoch, {} steps; the loss is the "
      "mean over a step's tokens",
      count, batch, steps_per_epoch, max_steps);
  run.begin(max_steps, static_cast<double>(steps_per_epoch), 0);

  const auto no_state = [] { return Json::object(); };  // the step number is the whole cursor
  int64_t order_epoch = -1;
  std::vector<int64_t> order;
  while (!run.is_done()) {
    const int64_t epoch = run.global_step() / steps_per_epoch,
                  first = run.global_step() % steps_per_epoch * batch;
    if (epoch != order_epoch) {
      order = epoch_order(count, epoch, training.data);
      order_epoch = epoch;
    }
    std::vector<train::Sample> step;
    int64_t tokens = 0;
    for (int64_t i = first; i < std::min(first + batch, count); ++i) {
      step.push_back(samples[static_cast<size_t>(order[static_cast<size_t>(i)])]);
      tokens += step.back().num_scored();
    }
    double loss = 0;
    const auto gradients = run.trainer().gradients(
        step, {}, [&](int64_t, const train::SampleScores& scores, std::span<float> gradient) {
          for (size_t t = 0; t < gradient.size(); ++t) {
            loss -= static_cast<double>(scores.logprobs[t]) / static_cast<double>(tokens);
            gradient[t] = static_cast<float>(-1.0 / static_cast<double>(tokens));
          }
        });
    run.metrics().add("loss", loss);
    run.metrics().add("num_tokens", static_cast<double>(tokens));
    run.step(gradients);
    run.after_step(no_state);
  }
  run.finish(no_state);
}

}  // namespace lockstep::grpo
