// SPDX-License-Identifier: Apache-2.0
#include "grpo/grpo.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "agent/make_scheduler.h"
#include "base/check.h"
#include "base/log.h"
#include "base/random.h"
#include "grpo/base_model.h"
#include "grpo/collector.h"
#include "grpo/completions_log.h"
#include "grpo/entropy_control.h"
#include "grpo/exactness.h"
#include "grpo/generation_buffer.h"
#include "grpo/group_rewards.h"
#include "grpo/make_rollout.h"
#include "grpo/policy_scores.h"
#include "grpo/policy_step.h"
#include "grpo/reference_sync.h"
#include "grpo/reward_watch.h"
#include "grpo/round_gathering.h"
#include "grpo/run_data.h"
#include "grpo/score_model.h"
#include "grpo/stop_check.h"
#include "grpo/turns.h"

namespace lockstep::grpo {
namespace {

/// What the runs share.
struct GrpoShared {
  explicit GrpoShared(const GrpoRunSpec& first)
      // Servers are told the digest of all weights.
      : base(first.options.training,
             first.context,
             /*is_read_whole=*/first.options.rollout.is_served()),
        engine(*base.loaded.weights, first.options.engine) {}

  BaseModel base;
  /// The sampler of colocate mode.
  rollout::Engine engine;
  /// Made by the first run, when its rows are read; null without a KL term.
  std::unique_ptr<ReferenceModel> reference;
};

/// The loop, along the way of the data. A generation batch is sampled, rewarded, given advantages
/// and scored; optimizer steps learn from it, `accumulation` micro-steps each; after each step the
/// sampler is told of the new weights.
class GrpoRun {
 public:
  GrpoRun(const GrpoRunSpec& spec, GrpoShared& shared)
      : options_(spec.options),
        context_(spec.context),
        run_(options_.training, context_, shared.base, "reward"),
        data_(load_run_data(options_.training.data, options_.training.model.system)),
        encoder_(shared.base.encoder),
        rollout_(make_rollout(
            options_, context_, run_.model(), encoder_.chat().tokenizer(), shared.engine)),
        stop_ids_(
            stop_ids_of(options_.training.model.model, config(), &encoder_.chat().tokenizer())),
        evaluation_(options_.eval_sampling.applied_to(options_.grpo)),
        sampler_(options_.grpo, encoder_.chat(), *rollout_, stop_ids_, context_),
        eval_sampler_(evaluation_, encoder_.chat(), *rollout_, stop_ids_, context_),
        scheduler_(agent::make_scheduler(options_.agent,
                                         {.encoder = &encoder_.chat(),
                                          .plugins = options_.reward.plugins,
                                          .args = context_.args})),
        rewarder_(options_.reward,
                  {.max_completion_length = options_.grpo.max_completion_length,
                   .args = &context_.args,
                   .load_model =
                       [this](const std::string& directory) {
                         return std::make_unique<ScoreModel>(directory, context_.torch_dtype);
                       }}),
        prompts_(encode("dataset", data_.train, grpo())),
        validation_(encode("held-out rows", data_.validation, evaluation_)),
        plan_(plan_batches(options_, std::ssize(prompts_))),
        buffer_(plan_, context_.seed),
        scoring_(score_options(options_, context_)),
        entropy_(options_.loss),
        completions_log_(options_.grpo.log_entropy,
                         [this](const Json& line) { run_.files().log_completions(line); }),
        collector_({options_, run_, *rollout_, sampler_, rewarder_, prompts_, plan_, probe_}),
        exactness_(run_.trainer(),
                   scoring_,
                   {.exact = context_.exact,
                    .sampler_is_exact = rollout_->has_trained_weights(),
                    .on_inexact = options_.training.run.on_inexact}) {
    check_loss(options_.loss, config());
    options_.replay.check(config());
    sampler_.record_experts(options_.replay.of_sampler());
    if (scheduler_)
      for (GroupSampler* sampler : {&sampler_, &eval_sampler_})
        sampler->take_turns(options_.agent, *scheduler_);
    if (options_.loss.beta > 0 && !shared.reference)
      shared.reference = std::make_unique<ReferenceModel>(options_, context_, shared.base.loaded);
    reference_ = shared.reference.get();
    if (options_.reference_sync.sync_ref_model)
      reference_sync_.emplace(options_.reference_sync, *shared.reference, weights());
    if (options_.rollout.is_served())
      probe_.emplace(run_.trainer(), *rollout_, prompts_.front().encoded.ids, context_.exact,
                     options_.rollout.sync_probe_bound);
    scoring_.progress = [this](double share) { run_.monitor().progress_share(share); };
  }

  TrainingRun& prepare() {
    if (!context_.exact && options_.rollout.reuse_rollout_activations == ReuseActivations::kTrue)
      fail<ConfigError>("bad-flag", "--reuse_rollout_activations",
                        "expected auto or false with --exact false, got true");
    if (!trains_where_it_samples(*context_.ranks) &&
        options_.rollout.reuse_rollout_activations == ReuseActivations::kTrue)
      fail<ConfigError>("bad-flag", "--reuse_rollout_activations",
                        "expected auto or false with {} ranks, which train on what others of them "
                        "have sampled, got true",
                        context_.ranks->size());
    say_batches(plan_, options_, std::ssize(prompts_));
    if (options_.replay.by_trainer() && plan_.is_on_policy())
      log_info(
          "--router_replay_mode R2 changes nothing in this run: every batch is used up under the "
          "weights that it would be recorded with (hint: --num_iterations 2, or more "
          "--steps_per_generation than --gradient_accumulation_steps)");
    say_template(options_.training.model, prompts_.front().encoded.text, "a prompt");
    if (scheduler_) say_turns();
    for (const std::string& warning :
         stop_warnings({stop_ids_, grpo().sampling.stop_words, config().vocab_size,
                        grpo().max_completion_length},
                       encoder_.chat(), prompts_))
      log_warning("{}", warning);
    resolve_options();
    restore();
    rollout_->check_room(longest_prompt(prompts_), grpo().max_completion_length);
    if (!validation_.empty())
      rollout_->check_room(longest_prompt(validation_), evaluation_.max_completion_length);
    const SamplerMemory sampler = sampler_memory();
    run_.prepare(
        {.max_steps = plan_.max_steps,
         .epoch = plan_.epoch,
         .cache_bytes = sampler.cache_bytes,
         .sequences_at_once = sampler.sequences,
         .sampling_bytes = sampler.work_bytes,
         .reference_bytes = reference_ ? reference_->bytes() : 0,
         .reuse_activations = context_.exact && rollout_->keeps_layer_inputs() && !scheduler_ &&
                                      trains_where_it_samples(*context_.ranks)
                                  ? options_.rollout.reuse_rollout_activations
                                  : ReuseActivations::kFalse,
         .kept_bytes = collector_.kept_tokens() * plan_.batches_at_once() *
                       model::LayerInputs::token_bytes(config(), weights().dtype()),
         .routed_bytes = plan_.batches_at_once() * plan_.generation_batch *
                         (longest_prompt(prompts_) + longest_completions().max_completion_length) *
                         options_.replay.token_bytes(config()),
         .is_on_policy = plan_.is_on_policy(),
         .steps = largest_steps(plan_, longest_completions(), longest_prompt(prompts_)),
         .phases = phases_of(options_, !validation_.empty()),
         .evaluation_metrics = evaluation_metrics()},
        {.planned = [this] { rollout_->keep_caches(run_.keeps_caches()); },
         .step = [this] { optimizer_step(); },
         .evaluate = [this] { return evaluate(); },
         .state = [this] { return loop_state(); },
         .after_step = [this] { after_step(); },
         .ending = [this] { completions_log_.flush(); }});
    return run_;
  }

 private:
  std::vector<Prompt> encode(const char* name,
                             const text::Dataset& dataset,
                             const GrpoOptions& options) {
    PromptEncoder encoder(options_, encoder_, rollout_->max_model_len(),
                          options.max_completion_length);
    if (scheduler_)
      encoder.set_tools([this](const text::Row& row) { return scheduler_->tools_of(row); });
    auto prompts = encoder.encode(name, dataset, [&](const text::Row& row) {
      rewarder_.check(row);
      if (scheduler_) scheduler_->check(row);
    });
    std::vector<const text::Row*> rows;
    for (const Prompt& prompt : prompts) rows.push_back(prompt.row);
    rewarder_.warn_of_unreadable(name, rows);
    return prompts;
  }

  /// What an evaluation logs: the metrics of one completion that ended by itself.
  std::vector<std::string> evaluation_metrics() const {
    if (validation_.empty()) return {};
    RewardedGroups round;
    round.groups.group_size = 1;
    round.groups.experiences.emplace_back();
    if (scheduler_) round.groups.records.emplace_back();
    round.values = {std::vector<std::optional<double>>(rewarder_.weights().size(), 0.0)};
    round.notes.failures.resize(rewarder_.weights().size());
    round.advantages =
        compute_advantages(round.values, rewarder_.weights(), 1, rule_of(options_.advantage));
    Metrics metrics;
    add_metrics(round, "eval_", metrics);
    const Json values = metrics.values();
    std::vector<std::string> names;
    for (const auto& [name, value] : values.items()) names.push_back(name);
    return names;
  }

  const model::ModelWeights& weights() const { return *run_.model().weights; }
  const model::ModelConfig& config() const { return weights().config(); }
  /// What sampling a generation batch takes, with caches for an evaluation if that needs more.
  SamplerMemory sampler_memory() const {
    const auto memory_of = [this](const GroupSampler& sampler, int64_t prompts, int64_t longest,
                                  int64_t samples) {
      // No rank has more groups of a round than the first.
      const RoundPart part{0, part_of(*context_.ranks).size};
      const std::vector<rollout::GroupSpec> groups(
          part.count(static_cast<size_t>(prompts)),
          {longest, sampler.most_tokens(longest), samples});
      return rollout_->planned_memory(groups, /*in_turns=*/scheduler_ != nullptr);
    };
    SamplerMemory memory =
        memory_of(sampler_, plan_.prompts, longest_prompt(prompts_), grpo().num_generations);
    if (validation_.empty()) return memory;
    const SamplerMemory evaluating = memory_of(eval_sampler_, std::ssize(validation_),
                                               longest_prompt(validation_), eval_samples());
    memory.cache_bytes = std::max(memory.cache_bytes, evaluating.cache_bytes);
    return memory;
  }
  void say_turns() const {
    const int64_t turn = grpo().max_completion_length,
                  most = longest_completions().max_completion_length;
    log_info(
        "turns: {} a completion, each of up to {} tokens; in all up to {} tokens behind the "
        "longest prompt, what is read between turns included",
        options_.agent.max_turns ? fmt::format("up to {}", *options_.agent.max_turns)
                                 : "any number",
        turn, most);
    if (most <= turn && options_.agent.max_turns.value_or(2) > 1 &&
        options_.agent.completion_length_limit_scope == agent::LengthScope::kPerRound)
      log_warning(
          "turns: the longest prompt ({} tokens) leaves room for one turn only in a context of {} "
          "tokens (--max_length cuts prompts)",
          longest_prompt(prompts_), rollout_->max_model_len());
  }
  /// The options with the length that completions have at most, all turns together.
  GrpoOptions longest_completions() const {
    GrpoOptions longest = grpo();
    longest.max_completion_length = sampler_.most_tokens(longest_prompt(prompts_));
    return longest;
  }
  int64_t eval_samples() const {
    return grpo().num_generations_eval.value_or(grpo().num_generations);
  }
  const GrpoOptions& grpo() const { return options_.grpo; }

  /// Restores the cursor and the buffer of a checkpoint.
  void restore() {
    if (!run_.resume()) return;
    const ResumePoint& resume = *run_.resume();
    const bool is_same_plan = run_.check_resume("grpo", saved_plan());
    if (resume.state.is_object()) num_tokens_ = state_number(resume, "num_tokens");
    if (reference_sync_) reference_sync_->restore(resume);
    if (!is_same_plan) {
      // The buffer does not fit this run, so the next generation batch begins.
      const int64_t done = plan_.epoch.first_micro_step(run_.global_step()),
                    generation = (done + plan_.uses() - 1) / plan_.uses();
      collector_.skip_to(generation);
      return buffer_.restore(generation * plan_.uses(), generation, {});
    }
    collector_.restore(resume, state_number(resume, "generation"));
    if (resume.state.contains("entropy_control"))
      entropy_.load_state(resume.state["entropy_control"]);
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
    run_.resolve("num_generations_eval", eval_samples());
    run_.resolve("epsilon_high", options_.loss.upper());
    run_.resolve("importance_sampling_level", enum_name(options_.loss.ratio_level()));
    run_.resolve("scale_rewards", enum_name(options_.advantage.scale()));
    run_.resolve("kl_in_reward", options_.advantage.has_kl_in_reward(options_.loss));
    run_.resolve("max_steps", plan_.max_steps);
    run_.add_digests(data_.digests);
    run_.keep_split_rows(data_.split_rows);
    run_.add_digests({{"external_plugins", rewarder_.plugin_digests()},
                      {"ref_model", reference_ ? Json(reference_->digest().hex()) : Json()}});
  }

  /// The plan under which the cursor and the buffer of a checkpoint are valid.
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

  LoopState loop_state() {
    completions_log_.flush();
    LoopState state{.values = {{"command", "grpo"},
                               {"plan", saved_plan()},
                               {"micro_step", buffer_.micro_step()},
                               {"generation", buffer_.generation()},
                               {"num_tokens", num_tokens_},
                               {"entropy_control", entropy_.state()}}};
    if (reference_sync_) reference_sync_->save(state);
    // A buffer that the next micro-step replaces need not be kept.
    if (!buffer_.is_used_up()) state.buffer = experience_tensors(buffer_.batch());
    collector_.save(buffer_.generation(), state);
    return state;
  }

  /// Gives advantages to what was rewarded, from which `penalties` are taken off.
  void give_advantages(RewardedGroups& round, std::span<const double> penalties) const {
    round.advantages =
        compute_advantages(round.values, rewarder_.weights(), round.groups.group_size,
                           rule_of(options_.advantage), penalties);
    for (size_t i = 0; i < round.groups.experiences.size(); ++i)
      round.groups.experiences[i].advantage = round.advantages.advantages[i];
  }

  /// The metrics of a round of sampling; `prefix` precedes their names.
  void add_metrics(const RewardedGroups& round, const std::string& prefix, Metrics& metrics) const {
    add_reward_metrics(round.advantages, prefix, metrics);
    add_function_metrics(rewarder_, round.values, round.notes, prefix, metrics);
    add_length_metrics(round.groups, prefix, metrics);
    add_turn_metrics(round.groups.records, prefix, metrics);
  }

  /// Logs a round of sampling.
  void report(const RewardedGroups& round,
              const std::string& prefix,
              int64_t step,
              Metrics& metrics) {
    add_metrics(round, prefix, metrics);
    if (!grpo().log_completions) return;
    Json line = completions_line(round, rewarder_, step);
    if (prefix.empty())
      completions_log_.add(std::move(line), first_number());
    else
      run_.files().log_completions(line);
  }

  /// Experience::number of the first completion of the batch that comes next into the buffer.
  int64_t first_number() const { return buffer_.generation() * plan_.generation_batch; }

  /// Fills the buffer with the next generation batch. `rest` micro-steps are left in this
  /// optimizer step.
  void collect(int64_t rest) {
    RewardedGroups round = collector_.collect(buffer_.generation());
    std::vector<Experience>& batch = round.groups.experiences;
    const int64_t tokens = tokens_of(batch);
    num_tokens_ += tokens;
    if (reference_) {
      run_.monitor().enter(Phase::kScore, plan_.generation_batch, tokens);
      reference_->score(batch, scoring_);
    }
    give_advantages(round, penalties(batch));
    report(round, "", run_.global_step() + 1, run_.metrics());
    if (const auto warning = watch_.add(round)) log_warning("{}", *warning);
    choose_shown(round);

    for (int64_t i = 0; i < std::ssize(batch); ++i) {
      Experience& experience = batch[static_cast<size_t>(i)];
      experience.number = first_number() + i;
      experience.group = buffer_.generation() * plan_.prompts + i / grpo().num_generations;
    }
    buffer_.fill(std::move(batch));
    score_policy(rest);
  }

  /// beta times the KL of each completion with the reference model, where it belongs to the reward.
  std::vector<double> penalties(std::vector<Experience>& batch) {
    if (!options_.advantage.has_kl_in_reward(options_.loss)) return {};
    if (!rollout_->has_trained_weights() &&
        std::all_of(batch.begin(), batch.end(),
                    [this](const Experience& one) { return is_current(one); }))
      score_old_policy(batch, run_.trainer(), scoring_);
    const std::vector<double> sums = kl_sums(batch, options_.loss.kl_estimator);
    double mean = 0;
    for (const double sum : sums) mean += sum / static_cast<double>(sums.size());
    run_.metrics().add("kl", mean);
    std::vector<double> penalties;
    for (const double sum : sums) penalties.push_back(options_.loss.beta * sum);
    return penalties;
  }

  /// Whether a completion was sampled under the weights as they are now.
  bool is_current(const Experience& experience) const {
    return experience.weight_version == run_.global_step();
  }

  /// Scores the new batch with the policy as it is, where that is needed: it changes before the
  /// batch is used up; the loss asks which tokens are uncertain; or what was sampled under earlier
  /// weights is corrected for that (else it has the sampler's word for what the policy said).
  ///
  /// Completions that this very step trains on may be scored from what sampling kept, since the
  /// step compares its layers. If a difference does not stop the run, it is measured by a forward
  /// of the trainer's own.
  void score_policy(int64_t rest) {
    const std::span<Experience> batch = buffer_.completions();
    const bool corrects = options_.correction.rollout_importance_sampling_mode.has_value(),
               asks_entropy = options_.filters.top_entropy_quantile < 1;
    const auto keeps = [&](const Experience& experience) {
      return is_current(experience) ? plan_.uses() > rest : corrects;
    };
    // R2: unless the batch is used up under these very weights, which choose the same anyway.
    const auto records = [&](const Experience& experience) {
      return options_.replay.by_trainer() && (!is_current(experience) || plan_.uses() > rest);
    };
    const bool any_recorded = std::any_of(batch.begin(), batch.end(), records);
    if (!asks_entropy && !any_recorded && std::none_of(batch.begin(), batch.end(), keeps)) return;
    const auto now =
        static_cast<size_t>(std::min(rest, plan_.steps_per_generation) * plan_.micro_step);
    const size_t reused = exactness_.stops() && !any_recorded ? now : 0;
    ScoreOptions scoring = scoring_, whole = scoring_;
    scoring.with_entropy = whole.with_entropy = asks_entropy;
    whole.reuse_kept = false;
    whole.record_experts = any_recorded;
    whole.record_weights = options_.replay.router_replay_weights;
    run_.monitor().enter(Phase::kScore, std::ssize(batch), tokens_of(buffer_.batch()));
    auto scores = score_policy_now(batch.first(reused), run_.trainer(), scoring);
    for (auto& score : score_policy_now(batch.subspan(reused), run_.trainer(), whole))
      scores.push_back(std::move(score));
    if (asks_entropy)
      run_.metrics().add("entropy/threshold",
                         mask_by_entropy(batch, scores, options_.filters.top_entropy_quantile));
    std::vector<Experience> measured;
    for (size_t i = 0; i < batch.size(); ++i) {
      if (records(batch[i])) batch[i].sample.routed = std::move(scores[i].routed);
      if (!keeps(batch[i])) continue;
      batch[i].old_logprobs = std::move(scores[i].logprobs);
      batch[i].is_rescored = !is_current(batch[i]);
      if (i >= reused && !batch[i].is_rescored) measured.push_back(batch[i]);
    }
    exactness_.check_scores(measured, collector_.sample_again());
  }

  /// The completions of the next optimizer step; collects new ones when the buffer is used up.
  std::vector<Experience> next_step() {
    std::vector<Experience> step;
    // The last step of an epoch takes the rows that are left in it.
    const int64_t left = plan_.epoch.micro_steps - buffer_.micro_step() % plan_.epoch.micro_steps;
    const int64_t count = std::min(plan_.accumulation, left);
    for (int64_t k = 0; k < count; ++k) {
      if (buffer_.is_used_up()) collect(count - k);
      const auto slice = buffer_.next();
      step.insert(step.end(), slice.begin(), slice.end());
    }
    return step;
  }

  void optimizer_step() {
    collector_.check();
    const std::vector<Experience> step = next_step();
    if (options_.rollout.async_generate)
      for (const Experience& experience : step)
        run_.metrics().add("train/sampler_weight_age",
                           static_cast<double>(run_.global_step() - experience.weight_version));
    run_.monitor().enter(Phase::kTrain, std::ssize(step), tokens_of(step));
    PolicyStep policy_step{.completions = step,
                           .weight_version = run_.global_step(),
                           .scoring = scoring_,
                           .entropy_coef = entropy_.applied()};
    policy_step.scoring.dropout = run_.dropout();
    PolicyGradients learned =
        policy_gradients(policy_step, run_.trainer(), options_, run_.metrics());
    if (learned.entropy) entropy_.update(*learned.entropy);
    completions_log_.learn(step, learned.mean_entropies);
    exactness_.check_step({step, run_.global_step(), learned.fresh,
                           /*has_dropout=*/policy_step.scoring.dropout.has_value()},
                          collector_.sample_again(), run_.metrics());
    collector_.forget_rounds();
    // The weights change now: the rest of the buffer needs a forward of its own.
    buffer_.drop_kept();
    // As in TRL, these are all tokens of prompts and completions so far.
    run_.metrics().replace("num_tokens", static_cast<double>(num_tokens_));
    run_.step(learned.gradients, tokens_of(step));
  }

  /// Keeps the text of one completion of a round, to be shown when the next one is due.
  void choose_shown(const RewardedGroups& round) {
    const RandomStream stream("shown completion", static_cast<uint64_t>(context_.seed));
    const size_t chosen =
        stream.below(static_cast<uint64_t>(run_.global_step()), round.groups.texts.size());
    context_.on_sample({.reward = round.advantages.rewards[chosen],
                        .tokens = static_cast<int64_t>(round.groups.token_ids(chosen).size()),
                        .is_cut = round.groups.experiences[chosen].is_truncated,
                        .text = round.groups.texts[chosen]});
    if (grpo().log_samples_steps) shown_ = shown_completion(round, rewarder_, chosen);
  }

  /// Shows a completion after the first step and then every --log_samples_steps.
  void after_step() {
    if (reference_sync_) {
      run_.trainer().layers().gather_all();
      reference_sync_->after_step(run_.global_step());
    }
    const int64_t step = run_.global_step(), steps = grpo().log_samples_steps;
    if (!steps || shown_.empty() || (step != 1 && step % steps)) return;
    log_info("one of the completions of step {}:\n{}", step, shown_);
    shown_.clear();
  }

  /// Samples the held-out prompts and returns their metrics.
  Json evaluate() {
    if (validation_.empty()) return Json::object();
    std::vector<const Prompt*> prompts;
    for (const Prompt& prompt : validation_) prompts.push_back(&prompt);
    RewardedGroups round = collector_.sample_once(eval_sampler_, prompts, eval_samples());
    Metrics metrics;
    give_advantages(round, {});
    report(round, "eval_", run_.global_step(), metrics);
    return metrics.values();
  }

  const GrpoRunOptions& options_;
  const RunContext& context_;
  TrainingRun run_;
  RunData data_;
  text::RowEncoder& encoder_;
  std::unique_ptr<RolloutClient> rollout_;
  std::vector<int64_t> stop_ids_;
  /// The options of evaluations.
  GrpoOptions evaluation_;
  GroupSampler sampler_, eval_sampler_;
  /// Null where completions have one turn.
  std::unique_ptr<agent::TurnScheduler> scheduler_;
  reward::Rewarder rewarder_;
  RewardWatch watch_{rewarder_};
  std::vector<Prompt> prompts_, validation_;
  BatchPlan plan_;
  GenerationBuffer buffer_;
  ScoreOptions scoring_;
  EntropyControl entropy_;
  CompletionsLog completions_log_;
  std::optional<SyncProbe> probe_;
  Collector collector_;
  /// Null without a KL term.
  const ReferenceModel* reference_ = nullptr;
  std::optional<ReferenceSync> reference_sync_;
  ExactnessCheck exactness_;
  int64_t num_tokens_ = 0;
  /// The text of the completion that is shown next.
  std::string shown_;
};

}  // namespace

void run_grpo(std::span<const GrpoRunSpec> runs) {
  for (const GrpoRunSpec& run : runs) run.options.validate();
  GrpoShared shared(runs.front());
  make_and_train<GrpoRun>(runs, shared);
}

}  // namespace lockstep::grpo
