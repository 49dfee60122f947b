// SPDX-License-Identifier: Apache-2.0
#include "grpo/sft.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>

#include "base/check.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "grpo/exactness.h"
#include "grpo/token_rows.h"

namespace lockstep::grpo {
namespace {

/// Rows to samples, cut to the longest length; rows that lose all their loss tokens are dropped and
/// counted.
class SftEncoder {
 public:
  SftEncoder(const TrainingOptions& training,
             const SftOptions& options,
             const model::ModelConfig& config)
      : training_(training), options_(options), config_(config) {}

  std::vector<train::Sample> encode(const char* name, const std::vector<text::Row>& rows) {
    const auto longest =
        static_cast<size_t>(options_.max_length.value_or(config_.max_position_embeddings));
    int64_t cut = 0, dropped = 0;
    size_t most = 0;
    std::vector<train::Sample> kept;
    BadRows bad(name, training_.data.strict);
    for (const text::Row& row : rows) {
      bad.guard([&] {
        train::Sample sample = encode_one(row);
        most = std::max(most, sample.ids.size());
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
      });
    }
    bad.report();
    if (!kept.empty()) log_info("lengths of {}: rows up to {} tokens", name, most);
    if (cut)
      log_info("lengths of {}: {} rows are longer than {} tokens and lose their end", name, cut,
               longest);
    if (dropped)
      log_info("lengths of {}: {} rows have no token to learn from and are left out", name,
               dropped);
    return kept;
  }

 private:
  train::Sample encode_one(const text::Row& row) {
    if (row.messages.is_null()) return token_row(row.columns, config_.vocab_size, row.where);
    // Rows of ids need no tokenizer.
    const bool is_first = !encoder_;
    if (is_first) encoder_.emplace(training_.model.model, training_.model.enable_thinking);
    auto dialogue = encode_row(row, [&](const text::Conversation& conversation) {
      return encoder_->encode_dialogue(conversation, options_.loss_scale);
    });
    check_ids(dialogue.ids, config_.vocab_size, row.where);
    if (is_first)
      say_template(training_.model, encoder_->tokenizer().decode(dialogue.ids), "a conversation");
    return {std::move(dialogue.ids), std::move(dialogue.mask)};
  }

  const TrainingOptions& training_;
  const SftOptions& options_;
  const model::ModelConfig& config_;
  std::optional<text::ChatEncoder> encoder_;
};

/// The loop: a step's rows, the mean of their tokens' losses, one optimizer step.
class SftRun {
 public:
  SftRun(const TrainingOptions& training, const SftOptions& options, const RunContext& context)
      : training_(training),
        run_(training, context),
        exactness_(run_.trainer(), context.exact, training.run.on_inexact) {
    const RunData data = load_run_data(training.data, training.model.system, /*token_rows=*/true);
    digests_ = data.digests;
    SftEncoder encoder(training, options, run_.model().weights->config());
    samples_ = encoder.encode("dataset", data.train.rows);
    validation_ = encoder.encode("held-out rows", data.validation.rows);
    if (samples_.empty())
      fail<FormatError>("empty-dataset", "--dataset", "expected rows with a loss token, got none");
    const int64_t rows = training.batch.per_device_train_batch_size.value_or(1),
                  accumulation = training.batch.gradient_accumulation_steps;
    batch_ = rows * accumulation;
    epoch_ = {(count() + rows - 1) / rows, accumulation};
  }

  void run() {
    const int64_t max_steps = epoch_.max_steps(training_.run);
    log_info(
        "batches: {} rows, {} of them an optimizer step, {} steps an epoch, {} steps in all; the "
        "loss is the mean over a step's tokens",
        count(), batch_, epoch_.steps(), max_steps);
    run_.resolve("per_device_train_batch_size",
                 training_.batch.per_device_train_batch_size.value_or(1));
    run_.resolve("max_steps", max_steps);
    run_.add_digests(digests_);
    if (run_.resume()) {
      run_.check_resume("sft", saved_plan());
      if (run_.resume()->state.is_object())
        num_tokens_ = state_number(*run_.resume(), "num_tokens");
    }
    std::vector<Phase> phases{Phase::kTrain, Phase::kSave};
    if (!validation_.empty()) phases.push_back(Phase::kEval);
    size_t longest = 0;
    for (const train::Sample& sample : samples_) longest = std::max(longest, sample.ids.size());
    run_.begin({.max_steps = max_steps,
                .epoch = epoch_,
                .step = {.samples = batch_, .completion_tokens = static_cast<int64_t>(longest)},
                .phases = phases});
    run_.loop({.step = [this] { optimizer_step(); },
               .evaluate = [this] { return evaluate(); },
               .state = [this] { return loop_state(); }});
  }

 private:
  int64_t count() const { return std::ssize(samples_); }

  Json saved_plan() const {
    return {{"rows a step", batch_},
            {"dataset rows", count()},
            {"data_seed", training_.data.data_seed}};
  }

  LoopState loop_state() const {
    return {.values = {{"command", "sft"}, {"plan", saved_plan()}, {"num_tokens", num_tokens_}}};
  }

  /// The step number is the whole cursor: each epoch has an order of its own.
  void optimizer_step() {
    const int64_t epoch = run_.global_step() / epoch_.steps(),
                  first = run_.global_step() % epoch_.steps() * batch_;
    if (epoch != order_epoch_) {
      order_ = epoch_order(count(), epoch, training_.data);
      order_epoch_ = epoch;
    }
    std::vector<train::Sample> step;
    int64_t tokens = 0, all_tokens = 0;
    for (int64_t i = first; i < std::min(first + batch_, count()); ++i) {
      step.push_back(samples_[static_cast<size_t>(order_[static_cast<size_t>(i)])]);
      tokens += step.back().num_scored();
      all_tokens += std::ssize(step.back().ids);
    }
    num_tokens_ += all_tokens;
    double loss = 0;
    run_.monitor().enter(Phase::kTrain, std::ssize(step), all_tokens);
    const auto gradients = run_.trainer().gradients(
        step, scoring_, [&](int64_t, const train::SampleScores& scores, std::span<float> gradient) {
          for (size_t t = 0; t < gradient.size(); ++t) {
            loss -= static_cast<double>(scores.logprobs[t]) / static_cast<double>(tokens);
            gradient[t] = static_cast<float>(-1.0 / static_cast<double>(tokens));
          }
        });
    exactness_.check_recomputed(run_.metrics());
    run_.metrics().add("loss", loss);
    run_.metrics().replace("num_tokens", static_cast<double>(num_tokens_));
    run_.step(gradients, all_tokens);
  }

  /// eval_loss: the mean over all loss tokens of the held-out rows.
  Json evaluate() {
    if (validation_.empty()) return Json::object();
    double sum = 0;
    int64_t tokens = 0, all_tokens = 0;
    for (const train::Sample& sample : validation_) all_tokens += std::ssize(sample.ids);
    run_.monitor().enter(Phase::kEval, std::ssize(validation_), all_tokens);
    // A signal need not wait for all rows; no bit of a row depends on the others.
    constexpr size_t kRun = 64;
    for (size_t first = 0; first < validation_.size(); first += kRun) {
      throw_if_interrupted();
      const auto rows =
          std::span(validation_).subspan(first, std::min(kRun, validation_.size() - first));
      for (const train::SampleScores& scores : run_.trainer().score(rows, {})) {
        for (const float logprob : scores.logprobs) sum -= static_cast<double>(logprob);
        tokens += std::ssize(scores.logprobs);
      }
      run_.monitor().progress_share(static_cast<double>(first + rows.size()) /
                                    static_cast<double>(validation_.size()));
    }
    return {{"eval_loss", sum / static_cast<double>(tokens)}};
  }

  const TrainingOptions& training_;
  TrainingRun run_;
  ExactnessCheck exactness_;
  Json digests_;
  train::Trainer::ScoreOptions scoring_{
      .progress = [this](double share) { run_.monitor().progress_share(share); }};
  std::vector<train::Sample> samples_, validation_;
  int64_t batch_ = 1, num_tokens_ = 0;
  EpochLength epoch_;
  int64_t order_epoch_ = -1;
  std::vector<int64_t> order_;
};

}  // namespace

void run_sft(const TrainingOptions& training,
             const SftOptions& options,
             const RunContext& context) {
  SftRun(training, options, context).run();
}

}  // namespace lockstep::grpo
