// SPDX-License-Identifier: Apache-2.0
#include "grpo/sft.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "grpo/base_model.h"
#include "grpo/exactness.h"
#include "grpo/row_tally.h"
#include "grpo/run_data.h"
#include "grpo/token_rows.h"
#include "grpo/turns.h"
#include "parallel/agreement.h"
#include "text/row_encoder.h"

namespace lockstep::grpo {
namespace {

/// Rows that are ready to train on: the sample of each, and the factors of its loss tokens, which
/// may be empty if all are 1.
struct SftRows {
  std::vector<train::Sample> samples;
  std::vector<std::vector<float>> weights;
};

/// The loss of one sample: the weighted sum of its tokens' negative log-probabilities.
double weighted_loss(std::span<const float> logprobs, std::span<const float> weights) {
  double loss = 0;
  for (size_t t = 0; t < logprobs.size(); ++t)
    loss -= static_cast<double>(logprobs[t]) * (weights.empty() ? 1.0 : weights[t]);
  return loss;
}

/// Makes samples of rows, cut to the longest allowed length. Rows without a loss token are dropped.
class SftEncoder {
 public:
  SftEncoder(const TrainingOptions& training,
             const SftOptions& options,
             const model::ModelConfig& config,
             text::RowEncoder& encoder)
      : training_(training), options_(options), config_(config), encoder_(encoder) {}

  SftRows encode(const char* name, const text::Dataset& dataset) {
    const auto longest =
        static_cast<size_t>(options_.max_length.value_or(config_.max_position_embeddings));
    const bool is_deleting = options_.truncation_strategy == RowTruncation::kDelete;
    int64_t cut = 0;
    size_t most = 0;
    SftRows kept;
    RowTally tally(name, training_.data.strict, dataset.dropped);
    for (const text::Row& row : dataset.rows) {
      tally.guard([&] {
        std::vector<float> weights;
        train::Sample sample = encode_one(row, weights);
        most = std::max(most, sample.ids.size());
        if (sample.ids.size() > longest) {
          if (is_deleting) return tally.drop(fmt::format("longer than {} tokens", longest));
          cut_to(longest, sample.ids);
          cut_to(longest, sample.mask);
          if (!weights.empty()) cut_to(longest, weights);
          ++cut;
        }
        if (!sample.mask.empty()) sample.mask[0] = 0;
        if (sample.num_scored()) {
          kept.weights.push_back(of_scored(sample, weights));
          kept.samples.push_back(std::move(sample));
        } else {
          tally.drop("without a token to learn from");
        }
      });
    }
    if (most > 0) log_info("lengths of {}: rows up to {} tokens", name, most);
    if (cut)
      log_info("lengths of {}: {} rows are longer than {} tokens and lose their {}", name, cut,
               longest, is_left() ? "beginning" : "end");
    if (!dataset.rows.empty()) tally.report(std::ssize(kept.samples));
    return kept;
  }

 private:
  bool is_left() const { return options_.truncation_strategy == RowTruncation::kLeft; }

  /// Leaves the first or the last `count` elements of a longer list.
  template <class Element>
  void cut_to(size_t count, std::vector<Element>& list) const {
    if (is_left()) list.erase(list.begin(), list.end() - static_cast<ptrdiff_t>(count));
    list.resize(count);
  }

  /// Picks the weights of the scored tokens out of those of all tokens.
  static std::vector<float> of_scored(const train::Sample& sample,
                                      const std::vector<float>& weights) {
    std::vector<float> scored;
    if (weights.empty()) return scored;
    for (size_t t = 0; t < sample.mask.size(); ++t)
      if (sample.mask[t]) scored.push_back(weights[t]);
    return scored;
  }

  /// Sets `weights` to the factor of each token, or to nothing.
  train::Sample encode_one(const text::Row& row, std::vector<float>& weights) {
    if (row.messages.is_null()) return token_row(row.columns, config_.vocab_size, row.where);
    text::require_answer(row);
    auto dialogue = encoder_.dialogue(row, options_.loss_scale);
    if (!std::exchange(has_shown_, true))
      say_template(training_.model, encoder_.chat().tokenizer().decode(dialogue.ids),
                   "a conversation");
    weights = std::move(dialogue.weights);
    return {std::move(dialogue.ids), std::move(dialogue.mask)};
  }

  const TrainingOptions& training_;
  const SftOptions& options_;
  const model::ModelConfig& config_;
  text::RowEncoder& encoder_;
  /// Whether the end of a rendered conversation has been printed.
  bool has_shown_ = false;
};

/// The steps of `batch` such samples that may need the most memory: one of samples as long as the
/// longest, and one of samples that share a prompt, which are computed together. Those are the ones
/// whose tokens are the most.
std::vector<train::StepShape> largest_steps(const std::vector<train::Sample>& samples,
                                            int64_t batch) {
  int64_t longest = 0;
  std::map<std::vector<int64_t>, std::vector<int64_t>> completions_of_prompts;
  for (const train::Sample& sample : samples) {
    longest = std::max(longest, std::ssize(sample.ids));
    const auto prompt = sample.ids.begin() + sample.prompt_tokens();
    completions_of_prompts[{sample.ids.begin(), prompt}].push_back(sample.ids.end() - prompt);
  }
  std::vector<train::StepShape> steps{{.samples = batch, .completion_tokens = longest}};
  train::StepShape shared{.samples = batch};
  for (auto& [prompt, completions] : completions_of_prompts) {
    const int64_t group = std::min(std::ssize(completions), batch);
    if (group < 2 || prompt.empty()) continue;
    std::sort(completions.begin(), completions.end(), std::greater<>());
    const int64_t tokens =
        std::accumulate(completions.begin(), completions.begin() + group, int64_t{0});
    const int64_t most = shared.group * shared.completion_tokens + shared.prompt_tokens;
    if (std::ssize(prompt) + tokens <= most) continue;
    shared.group = group;
    shared.prompt_tokens = std::ssize(prompt);
    shared.completion_tokens = (tokens + group - 1) / group;
  }
  if (shared.group > 1) steps.push_back(shared);
  return steps;
}

/// What the runs share.
struct SftShared {
  const SftOptions& options;
  BaseModel base;
};

/// The loop: takes a step's rows, divides the sum of their tokens' weighted losses by the number of
/// these tokens, and makes one optimizer step. Source: ms-swift 4.6, trainers/seq2seq_trainer.py
/// (compute_loss).
class SftRun {
 public:
  SftRun(const SftRunSpec& spec, SftShared& shared)
      : training_(spec.training),
        run_(spec.training, spec.context, shared.base, "loss"),
        exactness_(run_.trainer(),
                   {},
                   {.exact = spec.context.exact, .on_inexact = spec.training.run.on_inexact}) {
    const TrainingOptions& training = training_;
    const RunData data = load_run_data(training.data, training.model.system, /*token_rows=*/true);
    digests_ = data.digests;
    run_.keep_split_rows(data.split_rows);
    SftEncoder encoder(training, shared.options, run_.model().weights->config(),
                       shared.base.encoder);
    rows_ = encoder.encode("dataset", data.train);
    validation_ = encoder.encode("held-out rows", data.validation);
    if (rows_.samples.empty())
      fail<FormatError>("empty-dataset", "--dataset", "expected rows with a loss token, got none");
    const int64_t rows = training.batch.per_device_train_batch_size.value_or(1),
                  accumulation = training.batch.gradient_accumulation_steps;
    batch_ = rows * accumulation;
    epoch_ = {(count() + rows - 1) / rows, accumulation};
  }

  TrainingRun& prepare() {
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
    if (!validation_.samples.empty()) phases.push_back(Phase::kEval);
    run_.prepare(
        {.max_steps = max_steps,
         .epoch = epoch_,
         .steps = largest_steps(rows_.samples, batch_),
         .phases = phases,
         .evaluation_metrics = validation_.samples.empty() ? std::vector<std::string>{}
                                                           : std::vector<std::string>{"eval_loss"}},
        {.step = [this] { optimizer_step(); },
         .evaluate = [this] { return evaluate(); },
         .state = [this] { return loop_state(); }});
    return run_;
  }

 private:
  int64_t count() const { return std::ssize(rows_.samples); }

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
    std::vector<std::span<const float>> weights;
    int64_t tokens = 0, all_tokens = 0;
    for (int64_t i = first; i < std::min(first + batch_, count()); ++i) {
      const auto row = static_cast<size_t>(order_[static_cast<size_t>(i)]);
      step.push_back(rows_.samples[row]);
      weights.emplace_back(rows_.weights[row]);
      tokens += step.back().num_scored();
      all_tokens += std::ssize(step.back().ids);
    }
    num_tokens_ += all_tokens;
    run_.monitor().enter(Phase::kTrain, std::ssize(step), all_tokens);
    train::Trainer::ScoreOptions scoring = scoring_;
    scoring.dropout = run_.dropout();
    const auto gradients = run_.trainer().gradients(
        step, scoring,
        [&](int64_t index, const train::SampleScores&, train::SampleGradient gradient) {
          const std::span<const float> factors = weights[static_cast<size_t>(index)];
          for (size_t t = 0; t < gradient.logprobs.size(); ++t)
            gradient.logprobs[t] = static_cast<float>((factors.empty() ? -1.0 : -factors[t]) /
                                                      static_cast<double>(tokens));
        });
    double loss = 0;
    for (size_t i = 0; i < step.size(); ++i)
      loss += weighted_loss(run_.trainer().scores()[i].logprobs, weights[i]) /
              static_cast<double>(tokens);
    exactness_.check_recomputed(run_.metrics());
    run_.metrics().add("loss", loss);
    run_.metrics().replace("num_tokens", static_cast<double>(num_tokens_));
    run_.step(gradients, all_tokens);
  }

  /// Computes eval_loss, the same loss over all loss tokens of the held-out rows.
  Json evaluate() {
    const std::vector<train::Sample>& samples = validation_.samples;
    if (samples.empty()) return Json::object();
    double sum = 0;
    int64_t tokens = 0, all_tokens = 0;
    for (const train::Sample& sample : samples) all_tokens += std::ssize(sample.ids);
    run_.monitor().enter(Phase::kEval, std::ssize(samples), all_tokens);
    // A signal need not wait for all rows; no bit of a row depends on the others.
    constexpr size_t kRun = 64;
    for (size_t first = 0; first < samples.size(); first += kRun) {
      parallel::throw_if_any_interrupted(run_.ranks());
      const auto rows = std::span(samples).subspan(first, std::min(kRun, samples.size() - first));
      const auto scores = run_.trainer().score(rows, {});
      for (size_t i = 0; i < scores.size(); ++i) {
        sum += weighted_loss(scores[i].logprobs, validation_.weights[first + i]);
        tokens += std::ssize(scores[i].logprobs);
      }
      run_.monitor().progress_share(static_cast<double>(first + rows.size()) /
                                    static_cast<double>(samples.size()));
    }
    return {{"eval_loss", sum / static_cast<double>(tokens)}};
  }

  const TrainingOptions& training_;
  TrainingRun run_;
  ExactnessCheck exactness_;
  Json digests_;
  train::Trainer::ScoreOptions scoring_{
      .progress = [this](double share) { run_.monitor().progress_share(share); }};
  SftRows rows_, validation_;
  int64_t batch_ = 1, num_tokens_ = 0;
  EpochLength epoch_;
  int64_t order_epoch_ = -1;
  std::vector<int64_t> order_;
};

}  // namespace

std::span<const EnumName<RowTruncation>> enum_names(RowTruncation) {
  static constexpr EnumName<RowTruncation> kNames[] = {{RowTruncation::kRight, "right"},
                                                       {RowTruncation::kLeft, "left"},
                                                       {RowTruncation::kDelete, "delete"}};
  return kNames;
}

void run_sft(const SftOptions& options, std::span<const SftRunSpec> runs) {
  for (const SftRunSpec& run : runs) run.training.validate();
  SftShared shared{options, {runs.front().training, runs.front().context}};
  make_and_train<SftRun>(runs, shared);
}

}  // namespace lockstep::grpo
