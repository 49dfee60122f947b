// SPDX-License-Identifier: Apache-2.0
#include "grpo/grpo.h"

#include <algorithm>
#include <optional>

#include "base/check.h"
#include "base/log.h"
#include "grpo/completions_log.h"
#include "grpo/generation_buffer.h"
#include "grpo/policy_scores.h"
#include "grpo/policy_step.h"

namespace lockstep::grpo {
namespace {

/// The loop, along the way of the data. A generation batch is sampled, rewarded, given advantages
/// and scored; optimizer steps learn from it, `accumulation` micro-steps each; after each step the
/// sampler is told of the new weights.
class GrpoRun {
 public:
  GrpoRun(const GrpoRunOptions& options, const RunContext& context)
      : options_(options),
        context_(context),
        run_(options.training, context),
        data_(load_run_data(options.training.data, options.training.model.system)),
        encoder_(options.training.model.model,
                 config().vocab_size,
                 options.training.model.enable_thinking),
        rollout_(*run_.model().weights, options.engine),
        sampler_(options.grpo,
                 encoder_.chat(),
                 rollout_,
                 stop_ids_of(options.training.model.model, config(), encoder_.chat().tokenizer()),
                 context),
        rewarder_(options.grpo),
        prompts_(encode("dataset", data_.train)),
        validation_(encode("held-out rows", data_.validation)),
        plan_(plan_batches(options, std::ssize(prompts_))),
        buffer_(plan_),
        scoring_(score_options(options.grpo, context)) {
    if (options.loss.beta > 0) reference_.emplace(options, context, config().vocab_size);
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
                .reference_bytes = reference_ ? reference_->bytes() : 0,
                .reuse_activations = context_.exact ? options_.rollout.reuse_rollout_activations
                                                    : ReuseActivations::kFalse,
                .kept_bytes = kept_tokens() * kept_stores() *
                              model::LayerInputs::token_bytes(config(), weights().dtype()),
                .is_on_policy = plan_.is_on_policy(),
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
  std::vector<Prompt> encode(const char* name, const text::Dataset& dataset) {
    return PromptEncoder(options_, encoder_, config())
        .encode(name, dataset, [&](const text::Row& row) { rewarder_.check(row); });
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
  const GrpoOptions& grpo() const { return options_.grpo; }

  void say_plan() const {
    log_info(
        "batches: {} prompts x {} completions = {} completions a generation, {} a micro-step, {} "
        "an optimizer step, "
        "{} optimizer steps a generation, {:.6g} an epoch, {} in all",
        plan_.prompts, grpo().num_generations, plan_.generation_batch, plan_.micro_step,
        plan_.micro_step * plan_.accumulation,
        static_cast<double>(plan_.uses()) / static_cast<double>(plan_.accumulation),
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
    if (!resume.state.is_object()) {
      // Another trainer's: without its buffer the next generation begins.
      const int64_t generation =
          (run_.global_step() * plan_.accumulation + plan_.uses() - 1) / plan_.uses();
      return buffer_.restore(generation * plan_.uses(), generation, {});
    }
    check_plan(resume, "grpo", saved_plan());
    num_tokens_ = state_number(resume, "num_tokens");
    const int64_t micro_step = state_number(resume, "micro_step");
    std::vector<Experience> batch;
    if (micro_step % plan_.uses()) {
      batch = read_experiences(state_file(resume, kBufferFile));
      if (std::ssize(batch) != plan_.generation_batch)
        fail<FormatError>("bad-resume", resume.directory.string(),
                          "expected a buffer of {} completions, got {}", plan_.generation_batch,
                          batch.size());
    }
    buffer_.restore(micro_step, state_number(resume, "generation"), std::move(batch));
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
                               {"micro_step", buffer_.micro_step()},
                               {"generation", buffer_.generation()},
                               {"num_tokens", num_tokens_}}};
    // A buffer that the next micro-step replaces need not be kept.
    if (!buffer_.is_used_up()) state.buffer = experience_tensors(buffer_.batch());
    return state;
  }

  /// The prompts of the generation batch that is next, in the order of their epoch.
  std::vector<const Prompt*> next_prompts() const {
    const int64_t epoch = buffer_.generation() / plan_.generations_per_epoch,
                  chunk = buffer_.generation() % plan_.generations_per_epoch;
    const auto order = epoch_order(std::ssize(prompts_), epoch, options_.training.data);
    std::vector<const Prompt*> prompts;
    for (int64_t i = chunk * plan_.prompts; i < (chunk + 1) * plan_.prompts; ++i)
      prompts.push_back(&prompts_[static_cast<size_t>(order[static_cast<size_t>(i)])]);
    return prompts;
  }

  /// Rewards and advantages of what was sampled.
  RewardedGroups reward(SampledGroups groups) const {
    RewardedGroups round{std::move(groups), {}, {}};
    round.values = rewarder_.score(round.groups);
    round.advantages = compute_advantages(round.values, rewarder_.weights(),
                                          round.groups.group_size, grpo().scale_rewards);
    for (size_t i = 0; i < round.groups.experiences.size(); ++i)
      round.groups.experiences[i].advantage = round.advantages.advantages[i];
    return round;
  }

  /// Logs a round of sampling; the names of its metrics stand behind `prefix`.
  void report(const RewardedGroups& round,
              const std::string& prefix,
              int64_t step,
              Metrics& metrics) {
    add_reward_metrics(round.advantages, prefix, metrics);
    rewarder_.add_metrics(round.values, prefix, metrics);
    add_length_metrics(round.groups, prefix, metrics);
    if (grpo().log_completions)
      run_.directory().log_completions(completions_line(round, rewarder_, step));
  }

  /// Fills the buffer with the next generation batch. `rest` micro-steps are left in this
  /// optimizer step.
  void collect(int64_t rest) {
    GroupSampler::Draw draw{.group_size = grpo().num_generations,
                            .weight_version = run_.global_step(),
                            .number = static_cast<uint64_t>(buffer_.generation())};
    if (run_.reuses_activations())
      draw.kept = std::make_shared<model::LayerInputs>(config(), weights().dtype(), kept_tokens());
    RewardedGroups round = reward(sampler_.sample(next_prompts(), draw));
    report(round, "", run_.global_step() + 1, run_.metrics());

    std::vector<Experience> batch = std::move(round.groups.experiences);
    for (const Experience& experience : batch) num_tokens_ += std::ssize(experience.sample.ids);
    // The policy changes before the batch is used up: what it says now is kept.
    if (plan_.uses() > rest) score_old_policy(batch, run_.trainer(), scoring_);
    if (reference_) reference_->score(batch, scoring_);
    buffer_.fill(std::move(batch));
  }

  /// The completions of the next optimizer step, collecting where the buffer is used up.
  std::vector<Experience> next_step() {
    std::vector<Experience> step;
    for (int64_t k = 0; k < plan_.accumulation; ++k) {
      if (buffer_.is_used_up()) collect(plan_.accumulation - k);
      const auto slice = buffer_.next();
      step.insert(step.end(), slice.begin(), slice.end());
    }
    return step;
  }

  void optimizer_step() {
    const std::vector<Experience> step = next_step();
    const auto gradients = policy_gradients(step, run_.trainer(), options_, scoring_,
                                            run_.global_step(), run_.metrics());
    if (run_.reuses_activations())
      run_.metrics().replace("train/reuse_mismatches",
                             static_cast<double>(run_.trainer().num_reuse_mismatches()));
    // The weights change now: what is left of the buffer is trained on with a forward of its own.
    buffer_.drop_kept();
    // TRL's meaning: all tokens of prompts and completions so far.
    run_.metrics().replace("num_tokens", static_cast<double>(num_tokens_));
    run_.step(gradients);
    run_.metrics().add("train/sync_bytes",
                       static_cast<double>(rollout_.publish(run_.global_step())));
  }

  /// Samples the held-out prompts and logs their metrics in a line of their own.
  void evaluate() {
    if (validation_.empty()) return;
    std::vector<const Prompt*> prompts;
    for (const Prompt& prompt : validation_) prompts.push_back(&prompt);
    // Draws of an evaluation never meet those of training: they count down from the top.
    const GroupSampler::Draw draw{
        .group_size = grpo().num_generations_eval.value_or(grpo().num_generations),
        .weight_version = run_.global_step(),
        .number = ~static_cast<uint64_t>(run_.global_step())};
    Metrics metrics;
    const RewardedGroups round = reward(sampler_.sample(std::move(prompts), draw));
    report(round, "eval_", run_.global_step(), metrics);
    run_.log(metrics.values());
  }

  const GrpoRunOptions& options_;
  const RunContext& context_;
  TrainingRun run_;
  RunData data_;
  text::RowEncoder encoder_;
  ColocateRollout rollout_;
  GroupSampler sampler_;
  Rewarder rewarder_;
  std::vector<Prompt> prompts_, validation_;
  BatchPlan plan_;
  GenerationBuffer buffer_;
  ScoreOptions scoring_;
  std::optional<ReferenceModel> reference_;
  int64_t num_tokens_ = 0;
};

}  // namespace

void run_grpo(const GrpoRunOptions& options, const RunContext& context) {
  options.validate();
  GrpoRun(options, context).run();
}

}  // namespace lockstep::grpo
