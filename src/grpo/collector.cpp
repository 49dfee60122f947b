// SPDX-License-Identifier: Apache-2.0
#include "grpo/collector.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "grpo/group_rewards.h"
#include "grpo/round_gathering.h"
#include "model/decoder.h"
#include "parallel/agreement.h"

namespace lockstep::grpo {
namespace {

// Precede the names of a checkpoint's tensors: of what was sampled ahead, and of groups that wait
// for the next batch.
constexpr const char* kAhead = "ahead.";
constexpr const char* kWaiting = "waiting.";

Json json_of(const std::vector<reward::Values>& values) {
  Json list = Json::array();
  for (const reward::Values& row : values) {
    Json& own = list.emplace_back(Json::array());
    for (const auto& value : row) own.push_back(value ? Json(*value) : Json());
  }
  return list;
}

std::vector<reward::Values> values_of(const Json& list) {
  std::vector<reward::Values> values;
  for (const Json& row : list) {
    reward::Values& own = values.emplace_back();
    for (const Json& value : row)
      own.push_back(value.is_null() ? std::nullopt : std::optional(value.get<double>()));
  }
  return values;
}

}  // namespace

Collector::Collector(const Parts& parts)
    : parts_(parts),
      rows_(std::ssize(parts.prompts),
            parts.plan.generations_per_epoch * parts.plan.prompts,
            parts.options.training.data),
      pool_(parts.plan.prompts, parts.options.grpo.num_generations),
      ahead_(parts.options.rollout.longest_wait()) {}

std::vector<const Prompt*> Collector::prompts_at(int64_t position, int64_t count) const {
  std::vector<const Prompt*> prompts;
  for (const int64_t row : rows_.rows_at(position, count))
    prompts.push_back(&parts_.prompts[static_cast<size_t>(row)]);
  return prompts;
}

std::vector<const Prompt*> Collector::next_prompts(int64_t count) {
  auto prompts = prompts_at(position_, count);
  position_ += count;
  return prompts;
}

/// Makes the weights as they are now those of the sampler. Ranks may meet.
void Collector::publish() {
  if (parts_.options.rollout.is_served()) parts_.run.monitor().enter(Phase::kSync);
  // What goes to servers is written whole; a sampler in this process reads what this rank has.
  train::GatheredLayers& layers = parts_.run.trainer().layers();
  if (parts_.options.rollout.is_served())
    layers.gather_all();
  else
    layers.gather_layers();
  const auto published = parts_.rollout.publish(parts_.run.global_step());
  if (parts_.probe) parts_.probe->check(published, parts_.run.metrics());
}

/// How a generation batch is drawn under the weights as they are now.
GroupSampler::Draw Collector::draw_of(int64_t generation) {
  return {.group_size = grpo().num_generations,
          .weight_version = parts_.run.global_step(),
          .number = static_cast<uint64_t>(generation),
          .part = part(),
          .kept = {},
          .progress = [this](int64_t tokens, int64_t completions) {
            parts_.run.monitor().progress(completions, tokens);
            throw_if_interrupted();
          }};
}

void Collector::enter_sampling(const GroupSampler::Draw& draw, size_t prompts) {
  const int64_t completions = static_cast<int64_t>(draw.part.count(prompts)) * draw.group_size;
  parts_.run.monitor().enter(Phase::kRollout, completions,
                             completions * grpo().max_completion_length);
}

int64_t Collector::kept_tokens() const {
  return parts_.plan.prompts * longest_prompt(parts_.prompts) +
         parts_.plan.generation_batch * grpo().max_completion_length;
}

std::shared_ptr<model::LayerInputs> Collector::new_store() const {
  const model::ModelWeights& weights = *parts_.run.model().weights;
  return std::make_shared<model::LayerInputs>(weights.config(), weights.dtype(), kept_tokens());
}

/// Samples, and keeps what it takes to do so again.
SampledGroups Collector::sample(const std::vector<const Prompt*>& prompts,
                                const GroupSampler::Draw& draw,
                                RoundRewards& rewards) {
  enter_sampling(draw, prompts.size());
  SampledGroups sampled = parts_.sampler.sample(prompts, draw, &rewards);
  rounds_.push_back({prompts, draw});
  rounds_.back().draw.kept.reset();
  rounds_.back().draw.part = {};
  return sampled;
}

/// The groups of a round that this rank samples: where servers sample, the first rank alone talks
/// to them.
RoundPart Collector::part() const {
  const parallel::Group& ranks = parts_.run.ranks();
  return part_of(ranks, parts_.options.rollout.is_served() ? 1 : ranks.size());
}

/// The next generation batch, which was sampled ahead but for a run's first one. The one after it
/// is begun, under the weights as they are now, before the rewards of this one.
RewardedGroups Collector::collect_ahead(int64_t generation, const GroupSampler::Draw& draw) {
  const auto prompts = next_prompts(parts_.plan.prompts);
  RoundRewards rewards(parts_.rewarder, state(), draw.part);
  if (!ahead_.is_there()) publish();
  SampledGroups sampled;
  parallel::do_together(parts_.run.ranks(), {"what was sampled ahead"}, [&] {
    enter_sampling(draw, prompts.size());
    sampled = ahead_.is_there() ? ahead_.take(draw.progress) : sample(prompts, draw, rewards);
  });
  start_ahead(generation + 1);
  return gather_round(
      parts_.run.ranks(), draw.part, prompts, *parts_.run.model().weights,
      [&] { return std::move(sampled); },
      [&](SampledGroups groups) { return reward(std::move(groups), rewards); });
}

/// Begins to sample a generation batch, unless the run ends before it.
void Collector::start_ahead(int64_t generation) {
  if (generation * parts_.plan.uses() >= parts_.plan.epoch.first_micro_step(parts_.plan.max_steps))
    return;
  publish();
  ahead_.start(
      [this, draw = draw_of(generation), prompts = prompts_at(position_, parts_.plan.prompts)](
          const RolloutClient::Progress& progress) {
        GroupSampler::Draw own = draw;
        own.progress = progress;
        return parts_.sampler.sample(prompts, own);
      });
}

/// Rewards what was sampled; `rewards` may have begun meanwhile.
JudgedGroups Collector::reward(SampledGroups groups, RoundRewards& rewards) {
  parts_.run.monitor().enter(Phase::kReward, std::ssize(groups.experiences));
  JudgedGroups part = judged(std::move(groups), rewards);
  if (const double hidden = rewards.hidden_seconds())
    parts_.run.metrics().add("time/reward_hidden", hidden);
  return part;
}

RewardedGroups Collector::collect(int64_t generation) {
  if (parts_.options.filters.dynamic_sample) return collect_differing(generation);
  GroupSampler::Draw draw = draw_of(generation);
  if (parts_.run.reuses_activations()) draw.kept = new_store();
  if (parts_.options.rollout.async_generate) return collect_ahead(generation, draw);
  const auto prompts = next_prompts(parts_.plan.prompts);
  publish();
  return sample_and_reward(prompts, draw);
}

/// The whole round, of which this rank samples and rewards a part.
RewardedGroups Collector::sample_and_reward(const std::vector<const Prompt*>& prompts,
                                            const GroupSampler::Draw& draw) {
  std::optional<RoundRewards> rewards;
  return gather_round(
      parts_.run.ranks(), draw.part, prompts, *parts_.run.model().weights,
      [&] {
        rewards.emplace(parts_.rewarder, state(), draw.part);
        return sample(prompts, draw, *rewards);
      },
      [&](SampledGroups groups) { return reward(std::move(groups), *rewards); });
}

/// Samples until a batch of groups that differ in reward is there, or --max_resample_times is
/// reached.
RewardedGroups Collector::collect_differing(int64_t generation) {
  // Several draws of one batch may have a prompt in common.
  constexpr int kAttemptBits = 20;
  const int64_t most = parts_.options.filters.max_resample_times;
  for (int64_t attempt = 0; pool_.missing() && attempt <= most; ++attempt) {
    GroupSampler::Draw draw = draw_of(generation);
    draw.number |= static_cast<uint64_t>(attempt) << (63 - kAttemptBits);
    if (attempt == 0) {
      publish();
      if (parts_.run.reuses_activations()) draw.kept = new_store();
    }
    pool_.add(sample_and_reward(next_prompts(pool_.next_draw()), draw), parts_.rewarder.weights(),
              rule_of(parts_.options.advantage));
  }
  Metrics& metrics = parts_.run.metrics();
  metrics.add("dynamic_sample/sampled_groups", static_cast<double>(pool_.sampled()));
  if (pool_.sampled())
    metrics.add("dynamic_sample/differing_ratio",
                static_cast<double>(pool_.differing()) / static_cast<double>(pool_.sampled()));
  const int64_t missing = pool_.missing();
  metrics.add("dynamic_sample/equal_groups", static_cast<double>(missing));
  if (missing && !std::exchange(has_warned_, true))
    log_warning(
        "dynamic sampling: {} of the {} groups of generation batch {} have equal rewards, after {} "
        "groups were sampled (--max_resample_times {}): nothing is learned from them. Further ones "
        "are counted in dynamic_sample/equal_groups",
        missing, parts_.plan.prompts, generation, pool_.sampled(), most);
  RewardedGroups batch = pool_.take();
  metrics.add("dynamic_sample/waiting_groups",
              static_cast<double>(pool_.kept().groups.prompts.size()));
  return batch;
}

RewardedGroups Collector::sample_once(const GroupSampler& sampler,
                                      const std::vector<const Prompt*>& prompts,
                                      int64_t group_size) {
  // The draws of evaluations are numbered from the largest number downwards, so that they differ
  // from those of training.
  GroupSampler::Draw draw = draw_of(0);
  draw.group_size = group_size;
  draw.number = ~static_cast<uint64_t>(parts_.run.global_step());
  parallel::Group& ranks = parts_.run.ranks();
  parallel::throw_if_any_interrupted(ranks);
  // Servers hold one version of the weights at a time.
  if (ahead_.is_there())
    parallel::do_together(ranks, {"sampling ahead"}, [&] {
      enter_sampling(draw, static_cast<size_t>(parts_.plan.prompts));
      ahead_.wait(draw.progress);
    });
  publish();
  std::optional<RoundRewards> rewards;
  return gather_round(
      ranks, draw.part, prompts, *parts_.run.model().weights,
      [&] {
        const auto completions = static_cast<int64_t>(draw.part.count(prompts.size())) * group_size;
        parts_.run.monitor().enter(Phase::kEval, completions,
                                   completions * sampler.max_new_tokens());
        rewards.emplace(parts_.rewarder, state(), draw.part);
        return sampler.sample(prompts, draw, &*rewards);
      },
      [&](SampledGroups groups) { return judged(std::move(groups), *rewards); });
}

ExactnessCheck::SampleAgain Collector::sample_again() {
  // Turns are not sampled again: what answers them may say something else.
  if (!parts_.rollout.keeps_layer_inputs() || has_turns()) return {};
  return [this](const train::Sample& first) {
    std::vector<train::Sample> samples;
    for (const Round& round : rounds_) {
      samples = sample_round(round, first);
      if (std::any_of(samples.begin(), samples.end(),
                      [&](const train::Sample& sample) { return sample.ids == first.ids; }))
        break;
    }
    return samples;
  };
}

std::vector<train::Sample> Collector::sample_round(const Round& round, const train::Sample& first) {
  std::vector<const Prompt*> prompts = round.prompts;
  const model::ModelWeights& weights = *parts_.run.model().weights;
  const auto bytes = static_cast<double>(
      kept_tokens() * model::LayerInputs::token_bytes(weights.config(), weights.dtype()));
  // All ranks sample the same: what they compare then is computed together.
  const double available =
      parallel::least_of(parts_.run.ranks(), available_memory_gib(), {"memory for sampling again"});
  if (bytes / (1 << 30) > available / 2)
    std::erase_if(prompts, [&](const Prompt* prompt) {
      const auto& ids = prompt->encoded.ids;
      return std::ssize(ids) != first.prompt_tokens() ||
             !std::equal(ids.begin(), ids.end(), first.ids.begin());
    });
  GroupSampler::Draw draw = round.draw;
  draw.kept = new_store();
  // Scores have been computed since the round was sampled, which gives layers back.
  parts_.run.trainer().layers().gather_layers();
  std::vector<train::Sample> samples;
  for (Experience& experience : parts_.sampler.sample(prompts, draw).experiences)
    samples.push_back(std::move(experience.sample));
  model::join_forwards(weights);
  return samples;
}

/// The whole round that all ranks sample ahead.
std::vector<Experience> Collector::sampled_ahead() {
  const auto unjudged = [](SampledGroups groups) {
    JudgedGroups part{std::move(groups), {}};
    part.judgement.values.resize(part.groups.experiences.size());
    return part;
  };
  return gather_round(
             parts_.run.ranks(), part(), prompts_at(position_, parts_.plan.prompts),
             *parts_.run.model().weights, [&] { return ahead_.wait({}); }, unjudged)
      .groups.experiences;
}

void Collector::save(int64_t generation, LoopState& state) {
  state.values["rows_taken"] = position_;
  const auto add = [&](const std::vector<Experience>& experiences, const char* prefix) {
    for (auto& tensor : experience_tensors(experiences, prefix))
      state.buffer.push_back(std::move(tensor));
  };
  // The weights under which it is sampled are not in the checkpoint.
  if (ahead_.is_there()) {
    state.values["ahead"] = generation;
    add(sampled_ahead(), kAhead);
  }
  const RewardedGroups& waiting = pool_.kept();
  if (waiting.groups.prompts.empty()) return;
  Json rows = Json::array();
  for (const Prompt* prompt : waiting.groups.prompts)
    rows.push_back(prompt - parts_.prompts.data());
  state.values["waiting"] = {{"rows", std::move(rows)},
                             {"rewards", json_of(waiting.values)},
                             {"notes", waiting.notes.extra},
                             {"turns", json_of(waiting.groups.records)}};
  add(waiting.groups.experiences, kWaiting);
}

void Collector::restore(const ResumePoint& resume, int64_t generation) {
  skip_to(generation);
  if (resume.state.contains("rows_taken")) position_ = state_number(resume, "rows_taken");
  const auto read = [&](std::vector<const Prompt*> prompts, const char* prefix) {
    return parts_.sampler.restore(std::move(prompts),
                                  read_experiences(state_file(resume, kBufferFile), prefix),
                                  grpo().num_generations);
  };
  // The batch that the checkpoint's run had sampled ahead, under weights that are gone.
  if (parts_.options.rollout.async_generate && resume.state.contains("ahead"))
    ahead_.restore(part_of_round(part(), read(prompts_at(position_, parts_.plan.prompts), kAhead)));
  if (!parts_.options.filters.dynamic_sample || !resume.state.contains("waiting")) return;
  const Json& waiting = resume.state["waiting"];
  std::vector<const Prompt*> prompts;
  for (const Json& row : waiting.at("rows"))
    prompts.push_back(&parts_.prompts.at(row.get<size_t>()));
  RewardedGroups kept{read(std::move(prompts), kWaiting), values_of(waiting.at("rewards")), {}, {}};
  // A checkpoint of an older version has none.
  if (waiting.contains("turns")) kept.groups.records = read_turn_records(waiting["turns"]);
  kept.notes.extra = waiting.at("notes").get<std::map<std::string, std::vector<Json>>>();
  if (std::ssize(kept.groups.experiences) !=
          std::ssize(kept.groups.prompts) * grpo().num_generations ||
      kept.values.size() != kept.groups.experiences.size() ||
      kept.groups.records.size() != (has_turns() ? kept.values.size() : 0))
    fail<FormatError>(
        "bad-resume", resume.directory.string(),
        "expected rewards, completions and turns of {} waiting groups, got {}, {} and "
        "{}",
        kept.groups.prompts.size(), kept.values.size(), kept.groups.experiences.size(),
        kept.groups.records.size());
  pool_.restore(std::move(kept));
}

}  // namespace lockstep::grpo
