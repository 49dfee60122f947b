// SPDX-License-Identifier: Apache-2.0
#include "grpo/grpo.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/log.h"
#include "grpo/collector.h"
#include "grpo/loss.h"

namespace lockstep::grpo {
namespace {

/// The loop: collect a generation batch, learn from it in optimizer steps, publish the weights,
/// log, save.
///
///   micro-step m takes slice m % steps_per_generation of the buffer; a new buffer is collected
///   when m % (steps_per_generation * num_iterations) == 0; every `accumulation` micro-steps are
///   one optimizer step.
class GrpoRun {
 public:
  GrpoRun(const GrpoRunOptions& options, const RunContext& context)
      : options_(options),
        context_(context),
        run_(options.training, context),
        data_(load_run_data(options.training.data, options.training.model.system)),
        encoder_(options.training.model.model, options.training.model.enable_thinking),
        rollout_(*run_.model().weights, options.engine),
        collector_(options_,
                   encoder_,
                   rollout_,
                   stop_ids_of(options.training.model.model, config(), encoder_.tokenizer()),
                   static_cast<uint64_t>(context.seed),
                   context.exact),
        prompts_(collector_.encode("dataset", data_.train.rows, config())),
        validation_(collector_.encode("held-out rows", data_.validation.rows, config())),
        plan_(plan_batches(options, static_cast<int64_t>(prompts_.size()))) {
    if (options.loss.beta > 0) load_reference();
  }

  void run() {
    if (!context_.exact && options_.rollout.reuse_rollout_activations == ReuseActivations::kTrue)
      fail<ConfigError>("bad-flag", "--reuse_rollout_activations",
                        "expected auto or false with --exact false, got true");
    say_plan();
    restore();
    resolve_options();
    const int64_t longest = std::max(longest_prompt(prompts_), longest_prompt(validation_));
    const rollout::Engine engine(*run_.model().weights, options_.engine);
    engine.check_room(longest, grpo().max_completion_length);
    run_.begin({.max_steps = plan_.max_steps,
                .steps_per_epoch = plan_.steps_per_epoch,
                .cache_bytes = engine.planned_cache_bytes(longest, grpo().max_completion_length,
                                                          plan_.generation_batch),
                .reference_bytes = reference_.weights ? reference_.weights->canonical_bytes() +
                                                            reference_.weights->packed_bytes()
                                                      : 0,
                .reuse_activations = context_.exact ? options_.rollout.reuse_rollout_activations
                                                    : ReuseActivations::kFalse,
                .kept_bytes = kept_tokens() * kept_stores() *
                              model::LayerInputs::token_bytes(config(), weights().dtype()),
                .is_on_policy = is_on_policy(),
                .step = {.samples = plan_.micro_step * plan_.accumulation,
                         .group = grpo().num_generations,
                         .prompt_tokens = longest_prompt(prompts_),
                         .completion_tokens = grpo().max_completion_length}});
    rollout_.publish(run_.global_step());
    run_.loop({.step = [this] { optimizer_step(); },
               .evaluate = [this] { evaluate(); },
               .state = [this] { return loop_state(); }});
  }

 private:
  static int64_t longest_prompt(const std::vector<Prompt>& prompts) {
    int64_t longest = 0;
    for (const Prompt& prompt : prompts)
      longest = std::max(longest, static_cast<int64_t>(prompt.encoded.ids.size()));
    return longest;
  }

  const model::ModelWeights& weights() const { return *run_.model().weights; }
  const model::ModelConfig& config() const { return weights().config(); }
  /// Most tokens of a generation batch whose layer inputs are kept.
  int64_t kept_tokens() const {
    return plan_.prompts * longest_prompt(prompts_) +
           plan_.generation_batch * grpo().max_completion_length;
  }
  /// Generation batches that an optimizer step holds at once.
  int64_t kept_stores() const {
    return (plan_.accumulation + plan_.steps_per_generation - 1) / plan_.steps_per_generation;
  }
  bool is_on_policy() const {
    return plan_.steps_per_generation * grpo().num_iterations <= plan_.accumulation;
  }
  const GrpoOptions& grpo() const { return options_.grpo; }
  train::Trainer::ScoreOptions score_options() const {
    return {.temperature = grpo().temperature,
            .with_entropy = grpo().log_entropy,
            .chunked_delta = !context_.exact,
            .reuse_kept = true};
  }

  void load_reference() {
    // Without a model of its own the reference is what training began from, also after a resume.
    const std::string& directory =
        grpo().ref_model.empty() ? options_.training.model.model : grpo().ref_model;
    reference_ = train::load_model(directory, context_.torch_dtype);
    if (reference_.weights->config().vocab_size != config().vocab_size)
      fail<ConfigError>("bad-flag", "--ref_model", "expected a vocabulary of {} ids, got {}",
                        config().vocab_size, reference_.weights->config().vocab_size);
    reference_trainer_ =
        std::make_unique<train::Trainer>(*reference_.weights, options_.training.trainer);
  }

  void say_plan() const {
    log_info(
        "batches: {} prompts x {} completions = {} completions a generation, {} a micro-step, {} "
        "an optimizer step, "
        "{} optimizer steps a generation, {:.6g} an epoch, {} in all",
        plan_.prompts, grpo().num_generations, plan_.generation_batch, plan_.micro_step,
        plan_.micro_step * plan_.accumulation,
        static_cast<double>(plan_.steps_per_generation * grpo().num_iterations) /
            static_cast<double>(plan_.accumulation),
        plan_.steps_per_epoch, plan_.max_steps);
    const int64_t left = std::ssize(prompts_) % plan_.prompts;
    if (left)
      log_info("batches: {} of {} prompts are left over in each epoch, others each time", left,
               prompts_.size());
    static constexpr const char* kNormalisers[] = {
        "each completion's tokens, then completions of the optimizer step",
        "the optimizer step's loss tokens",
        "completions of the optimizer step x max_completion_length",
        "the optimizer step's completion tokens"};
    log_info("loss: divided by {}", kNormalisers[static_cast<int>(options_.loss.loss_type)]);
    say_template(options_.training.model, prompts_.front().encoded.text, "a prompt");
  }

  /// Takes up the cursor and the buffer of a checkpoint.
  void restore() {
    if (!run_.resume()) return;
    const ResumePoint& resume = *run_.resume();
    const int64_t uses = plan_.steps_per_generation * grpo().num_iterations;
    if (!resume.state.is_object()) {
      // Another trainer's: without its buffer the next generation begins.
      generation_ = (run_.global_step() * plan_.accumulation + uses - 1) / uses;
      micro_step_ = generation_ * uses;
      return;
    }
    check_plan(resume, "grpo", saved_plan());
    micro_step_ = state_number(resume, "micro_step");
    generation_ = state_number(resume, "generation");
    num_tokens_ = state_number(resume, "num_tokens");
    if (micro_step_ % uses == 0) return;
    buffer_ = read_experiences(state_file(resume, kBufferFile));
    if (static_cast<int64_t>(buffer_.size()) != plan_.generation_batch)
      fail<FormatError>("bad-resume", resume.directory.string(),
                        "expected a buffer of {} completions, got {}", plan_.generation_batch,
                        buffer_.size());
  }

  void resolve_options() {
    run_.resolve("per_device_train_batch_size", plan_.micro_step);
    run_.resolve("steps_per_generation", plan_.steps_per_generation);
    run_.resolve("generation_batch_size", plan_.generation_batch);
    run_.resolve("num_generations_eval",
                 grpo().num_generations_eval.value_or(grpo().num_generations));
    run_.resolve("epsilon_high", options_.loss.upper());
  }

  /// What the cursor and the buffer of a checkpoint mean something under.
  Json saved_plan() const {
    return {{"per_device_train_batch_size", plan_.micro_step},
            {"gradient_accumulation_steps", plan_.accumulation},
            {"steps_per_generation", plan_.steps_per_generation},
            {"num_iterations", grpo().num_iterations},
            {"num_generations", grpo().num_generations},
            {"dataset rows", prompts_.size()},
            {"data_seed", options_.training.data.data_seed},
            {"seed", context_.seed}};
  }

  LoopState loop_state() const {
    LoopState state{.values = {{"command", "grpo"},
                               {"plan", saved_plan()},
                               {"micro_step", micro_step_},
                               {"generation", generation_},
                               {"num_tokens", num_tokens_}}};
    // A buffer that the next micro-step replaces need not be kept.
    if (micro_step_ % (plan_.steps_per_generation * grpo().num_iterations))
      state.buffer = experience_tensors(buffer_);
    return state;
  }

  /// Samples the next generation batch into the buffer. `rest` micro-steps are left in this
  /// optimizer step.
  void collect(int64_t rest) {
    const int64_t epoch = generation_ / plan_.generations_per_epoch,
                  chunk = generation_ % plan_.generations_per_epoch;
    const auto order =
        epoch_order(static_cast<int64_t>(prompts_.size()), epoch, options_.training.data);
    std::vector<const Prompt*> prompts;
    for (int64_t i = chunk * plan_.prompts; i < (chunk + 1) * plan_.prompts; ++i)
      prompts.push_back(&prompts_[static_cast<size_t>(order[static_cast<size_t>(i)])]);
    std::shared_ptr<model::LayerInputs> kept;
    if (run_.reuses_activations())
      kept = std::make_shared<model::LayerInputs>(config(), weights().dtype(), kept_tokens());
    Collected collected = collector_.collect(prompts, grpo().num_generations, run_.global_step(),
                                             static_cast<uint64_t>(generation_), kept);
    collector_.add_metrics(collected, "", run_.metrics());
    if (grpo().log_completions)
      run_.directory().log_completions(
          collector_.completions_line(collected, prompts, run_.global_step() + 1));
    buffer_ = std::move(collected.experiences);
    ++generation_;
    for (const Experience& experience : buffer_)
      num_tokens_ += static_cast<int64_t>(experience.sample.ids.size());

    std::vector<train::Sample> samples;
    for (const Experience& experience : buffer_) samples.push_back(experience.sample);
    auto options = score_options();
    options.with_entropy = false;
    // The policy changes before the buffer is used up: what it said while these were sampled is
    // kept.
    if (plan_.steps_per_generation * grpo().num_iterations > rest) {
      auto scores = run_.trainer().score(samples, options);
      for (size_t i = 0; i < buffer_.size(); ++i)
        buffer_[i].old_logprobs = std::move(scores[i].logprobs);
    }
    if (reference_trainer_) {
      options.reuse_kept = false;  // other weights
      auto scores = reference_trainer_->score(samples, options);
      for (size_t i = 0; i < buffer_.size(); ++i)
        buffer_[i].ref_logprobs = std::move(scores[i].logprobs);
    }
  }

  /// The experiences of the next optimizer step, collecting where the buffer is used up.
  std::vector<Experience> next_step() {
    std::vector<Experience> step;
    for (int64_t k = 0; k < plan_.accumulation; ++k, ++micro_step_) {
      if (micro_step_ % (plan_.steps_per_generation * grpo().num_iterations) == 0)
        collect(plan_.accumulation - k);
      const int64_t first = micro_step_ % plan_.steps_per_generation * plan_.micro_step;
      for (int64_t i = first; i < first + plan_.micro_step; ++i)
        step.push_back(buffer_[static_cast<size_t>(i)]);
    }
    return step;
  }

  void optimizer_step() {
    const std::vector<Experience> step = next_step();
    StepCounts counts{.samples = static_cast<int64_t>(step.size()),
                      .max_completion_length = grpo().max_completion_length};
    std::vector<train::Sample> samples;
    for (const Experience& experience : step) {
      const auto tokens = static_cast<int64_t>(experience.sampler_logprobs.size());
      counts.completion_tokens += tokens;
      if (!(grpo().overlong_filter && experience.is_truncated)) counts.loss_tokens += tokens;
      samples.push_back(experience.sample);
    }
    StepSums sums;
    const auto gradients = run_.trainer().gradients(
        samples, score_options(),
        [&](int64_t index, const train::SampleScores& scores, std::span<float> gradient) {
          const Experience& experience = step[static_cast<size_t>(index)];
          // Sampled under these very weights: the old policy is the detached forward itself.
          const bool is_on_policy = experience.weight_version == run_.global_step();
          const SampleTerms terms{
              .logprobs = scores.logprobs,
              .old_logprobs = is_on_policy ? std::span<const float>() : experience.old_logprobs,
              .ref_logprobs = experience.ref_logprobs,
              .advantages = {&experience.advantage, 1},
              .is_filtered = grpo().overlong_filter && experience.is_truncated};
          sums.add(sample_loss(terms, options_.loss, counts, gradient));
          sums.add_difference(is_on_policy ? scores.logprobs : experience.old_logprobs,
                              experience.sampler_logprobs);
          sums.add_entropy(scores.entropy);
        });
    sums.report(run_.metrics(), !!reference_trainer_);
    if (run_.reuses_activations())
      run_.metrics().replace("train/reuse_mismatches",
                             static_cast<double>(run_.trainer().num_reuse_mismatches()));
    // The weights change now: what is left of the buffer is trained on with a forward of its own.
    for (Experience& experience : buffer_) experience.sample.drop_kept();
    // TRL's meaning: all tokens of prompts and completions so far.
    run_.metrics().replace("num_tokens", static_cast<double>(num_tokens_));
    run_.step(gradients);
    run_.metrics().add("train/sync_bytes",
                       static_cast<double>(rollout_.publish(run_.global_step())));
  }

  /// Sums over the samples of an optimizer step.
  struct StepSums {
    SampleLossResult loss;
    double difference_max = 0, difference_sum = 0, entropy_sum = 0, entropy_max = 0,
           entropy_min = 0, token_entropy_sum = 0;
    int64_t compared = 0, entropy_samples = 0, entropy_tokens = 0;

    void add(const SampleLossResult& sample) {
      loss.loss += sample.loss;
      loss.kl_sum += sample.kl_sum;
      loss.tokens += sample.tokens;
      loss.low_clipped += sample.low_clipped;
      loss.high_clipped += sample.high_clipped;
    }

    void add_difference(std::span<const float> trainer, std::span<const float> sampler) {
      for (size_t t = 0; t < sampler.size(); ++t) {
        const double difference =
            std::abs(static_cast<double>(trainer[t]) - static_cast<double>(sampler[t]));
        difference_max = std::max(difference_max, difference);
        difference_sum += difference;
        ++compared;
      }
    }

    /// ms-swift's entropy/mean is a mean of the sequences' means, TRL's entropy one of all tokens.
    void add_entropy(std::span<const float> entropy) {
      if (entropy.empty()) return;
      double sum = 0;
      for (const float value : entropy) sum += value;
      const double mean = sum / static_cast<double>(entropy.size());
      entropy_max = entropy_samples ? std::max(entropy_max, mean) : mean;
      entropy_min = entropy_samples ? std::min(entropy_min, mean) : mean;
      entropy_sum += mean;
      token_entropy_sum += sum;
      entropy_tokens += std::ssize(entropy);
      ++entropy_samples;
    }

    void report(Metrics& metrics, bool with_kl) const {
      metrics.add("loss", loss.loss);
      const auto tokens = static_cast<double>(std::max<int64_t>(loss.tokens, 1));
      const double low = static_cast<double>(loss.low_clipped) / tokens,
                   high = static_cast<double>(loss.high_clipped) / tokens;
      metrics.add("clip_ratio/low_mean", low);
      metrics.add_min("clip_ratio/low_min", low);
      metrics.add("clip_ratio/high_mean", high);
      metrics.add_max("clip_ratio/high_max", high);
      metrics.add("clip_ratio/region_mean", low + high);
      if (with_kl && loss.tokens) metrics.add("kl", loss.kl_sum / tokens);
      metrics.add_max("train/sampler_logprob_max_diff", difference_max);
      if (compared)
        metrics.add("train/sampler_logprob_mean_diff",
                    difference_sum / static_cast<double>(compared));
      if (!entropy_samples) return;
      metrics.add("entropy", token_entropy_sum / static_cast<double>(entropy_tokens));
      metrics.add("entropy/mean", entropy_sum / static_cast<double>(entropy_samples));
      metrics.add_max("entropy/max", entropy_max);
      metrics.add_min("entropy/min", entropy_min);
    }
  };

  /// Samples the held-out prompts and logs their metrics in a line of their own.
  void evaluate() {
    if (validation_.empty()) return;
    std::vector<const Prompt*> prompts;
    for (const Prompt& prompt : validation_) prompts.push_back(&prompt);
    // Draws of an evaluation never meet those of training: they count down from the top.
    const uint64_t draw = ~static_cast<uint64_t>(run_.global_step());
    const Collected collected =
        collector_.collect(prompts, grpo().num_generations_eval.value_or(grpo().num_generations),
                           run_.global_step(), draw);
    Metrics metrics;
    collector_.add_metrics(collected, "eval_", metrics);
    run_.log(metrics.values());
    if (grpo().log_completions)
      run_.directory().log_completions(
          collector_.completions_line(collected, prompts, run_.global_step()));
  }

  const GrpoRunOptions& options_;
  const RunContext& context_;
  TrainingRun run_;
  RunData data_;
  text::ChatEncoder encoder_;
  ColocateRollout rollout_;
  Collector collector_;
  std::vector<Prompt> prompts_, validation_;
  BatchPlan plan_;
  train::LoadedModel reference_;
  std::unique_ptr<train::Trainer> reference_trainer_;
  std::vector<Experience> buffer_;
  int64_t micro_step_ = 0, generation_ = 0, num_tokens_ = 0;
};

}  // namespace

void run_grpo(const GrpoRunOptions& options, const RunContext& context) {
  options.validate();
  GrpoRun(options, context).run();
}

}  // namespace lockstep::grpo
