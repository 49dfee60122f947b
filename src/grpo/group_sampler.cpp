// SPDX-License-Identifier: Apache-2.0
#include "grpo/group_sampler.h"

#include <algorithm>

#include "base/check.h"
#include "grpo/router_replay.h"

namespace lockstep::grpo {
namespace {

/// Makes one sample of prompt and completion, whose scored tokens are those of the completion.
Experience experience_of(const Prompt& prompt,
                         rollout::Completion& completion,
                         const GroupSampler::Draw& draw) {
  Experience experience;
  train::Sample& sample = experience.sample;
  sample.ids = prompt.encoded.ids;
  sample.mask.assign(sample.ids.size(), 0);
  sample.ids.insert(sample.ids.end(), completion.token_ids.begin(), completion.token_ids.end());
  sample.mask.resize(sample.ids.size(), 1);
  if (draw.kept) {
    sample.kept = draw.kept;
    sample.kept_rows = std::move(completion.kept_rows);
  }
  sample.routed = routed_of(completion);
  experience.sampler_logprobs = std::move(completion.logprobs);
  experience.processed_logprobs = std::move(completion.processed_logprobs);
  experience.is_truncated = completion.finish_reason == rollout::FinishReason::kLength;
  experience.weight_version = draw.weight_version;
  return experience;
}

}  // namespace

GroupSampler::GroupSampler(const GrpoOptions& options,
                           const text::ChatEncoder& encoder,
                           RolloutClient& rollout,
                           std::vector<int64_t> stop_ids,
                           const RunContext& context)
    : encoder_(&encoder), rollout_(&rollout) {
  settings_.sampling = options.sampling.parameters(options.temperature);
  settings_.max_new_tokens = options.max_completion_length;
  settings_.stop_ids = std::move(stop_ids);
  settings_.stop_strings = options.sampling.stop_words;
  settings_.seed = static_cast<uint64_t>(context.seed);
}

void GroupSampler::take_turns(const agent::AgentOptions& options, agent::TurnScheduler& scheduler) {
  turns_.emplace(TrajectorySampler::Parts{options, scheduler, *encoder_, *rollout_, settings_});
}

std::string GroupSampler::text_of(const Prompt& prompt,
                                  const rollout::Completion& completion) const {
  return prompt.encoded.response_prefix +
         rollout::completion_text(completion, encoder_->tokenizer(), rollout::StopString::kKept);
}

SampledGroups GroupSampler::sample(const std::vector<const Prompt*>& round,
                                   const Draw& draw,
                                   RoundRewards* rewards) const {
  if (turns_) return sample_trajectories(round, draw, rewards);
  const std::vector<uint64_t> occurrences = draw.part.of(occurrences_of(round));
  std::vector<const Prompt*> prompts = draw.part.of(round);
  std::vector<rollout::Request> requests;
  for (size_t p = 0; p < prompts.size(); ++p)
    requests.push_back({.id = {},
                        .prompt = prompts[p]->encoded.ids,
                        .num_samples = draw.group_size,
                        .settings = settings_,
                        .occurrence = occurrences[p],
                        .draw = draw.number,
                        .weight_version = {},
                        .deadline = {}});
  RolloutClient::Watch watch = draw.progress;
  if (rewards) {
    rewards->begin(prompts, draw.group_size);
    watch.done = [&](size_t request, size_t sample, const rollout::Completion& completion) {
      rewards->add(request * static_cast<size_t>(draw.group_size) + sample,
                   {.text = text_of(*prompts[request], completion),
                    .token_ids = completion.token_ids,
                    .finish_reason = rollout::finish_reason_name(completion.finish_reason),
                    .record = {}});
    };
  }
  auto generated =
      draw.kept ? rollout_->generate_and_keep(requests, draw.weight_version, watch, *draw.kept)
                : rollout_->generate(requests, draw.weight_version, watch);

  SampledGroups groups{.prompts = std::move(prompts), .group_size = draw.group_size};
  for (size_t p = 0; p < groups.prompts.size(); ++p) {
    const Prompt& prompt = *groups.prompts[p];
    for (rollout::Completion& completion : generated[p]) {
      groups.texts.push_back(text_of(prompt, completion));
      groups.experiences.push_back(experience_of(prompt, completion, draw));
      check_experts(groups.experiences.back());
    }
  }
  return groups;
}

void GroupSampler::check_experts(const Experience& experience) const {
  if (settings_.record_experts == rollout::RecordExperts::kNothing ||
      experience.sample.routed.defined())
    return;
  fail<PeerError>("no-experts", "--router_replay_mode",
                  "expected the experts of every token from the sampler, got a completion without "
                  "any (R2 needs none of it)");
}

SampledGroups GroupSampler::sample_trajectories(const std::vector<const Prompt*>& round,
                                                const Draw& draw,
                                                RoundRewards* rewards) const {
  LOCKSTEP_CHECK(!draw.kept, "what layers read is not kept over turns");
  SampledGroups groups{.prompts = draw.part.of(round), .group_size = draw.group_size};
  if (rewards) rewards->begin(groups.prompts, draw.group_size);
  groups.records.resize(groups.prompts.size() * static_cast<size_t>(draw.group_size));
  auto trajectories =
      turns_->sample(round,
                     {.group_size = draw.group_size,
                      .weight_version = draw.weight_version,
                      .number = draw.number,
                      .part = draw.part,
                      .progress = draw.progress},
                     [&](size_t place, const GrowingTrajectory& trajectory) {
                       groups.records[place] = trajectory.record();
                       if (!rewards) return;
                       const auto ids = trajectory.completion_ids();
                       rewards->add(place, {.text = groups.records[place].last_text,
                                            .token_ids = {ids.begin(), ids.end()},
                                            .finish_reason = trajectory.finish_reason(),
                                            .record = groups.records[place]});
                     });
  for (GrowingTrajectory& trajectory : trajectories) {
    groups.texts.push_back(trajectory.text());
    groups.experiences.push_back(trajectory.take_experience(draw.weight_version));
    check_experts(groups.experiences.back());
  }
  return groups;
}

SampledGroups GroupSampler::restore(std::vector<const Prompt*> prompts,
                                    std::vector<Experience> experiences,
                                    int64_t group_size) const {
  SampledGroups groups{.prompts = std::move(prompts), .group_size = group_size};
  groups.experiences = std::move(experiences);
  const std::vector<int64_t>& stops = settings_.stop_ids;
  for (size_t i = 0; i < groups.experiences.size(); ++i) {
    rollout::Completion completion;
    const auto ids = groups.token_ids(i);
    completion.token_ids.assign(ids.begin(), ids.end());
    completion.has_stop_token =
        !ids.empty() && std::find(stops.begin(), stops.end(), ids.back()) != stops.end();
    groups.texts.push_back(text_of(groups.prompt_of(i), completion));
  }
  return groups;
}

void add_length_metrics(const SampledGroups& groups, const std::string& prefix, Metrics& metrics) {
  const double weight = 1.0 / static_cast<double>(groups.experiences.size());
  for (const Experience& experience : groups.experiences) {
    const auto length = static_cast<double>(experience.sampler_logprobs.size());
    metrics.add(prefix + "completions/mean_length", length, weight);
    metrics.add_min(prefix + "completions/min_length", length);
    metrics.add_max(prefix + "completions/max_length", length);
    metrics.add(prefix + "completions/clipped_ratio", experience.is_truncated, weight);
    if (experience.is_truncated) continue;
    metrics.add(prefix + "completions/mean_terminated_length", length);
    metrics.add_min(prefix + "completions/min_terminated_length", length);
    metrics.add_max(prefix + "completions/max_terminated_length", length);
  }
}

std::vector<int64_t> stop_ids_of(const std::filesystem::path& model,
                                 const model::ModelConfig& config,
                                 const text::Tokenizer* tokenizer) {
  std::vector<int64_t> ids = config.eos_token_ids;
  const std::filesystem::path path = model / "generation_config.json";
  if (std::filesystem::exists(path)) {
    const Json generation = parse_json_file(path);
    if (generation.is_object() && generation.contains("eos_token_id")) {
      const Json& eos = generation["eos_token_id"];
      for (const Json& id : eos.is_array() ? eos : Json::array({eos}))
        if (id.is_number_integer()) ids.push_back(id.get<int64_t>());
    }
  }
  if (tokenizer)
    for (const auto& id :
         {tokenizer->eos_id(), tokenizer->id_of("<|im_end|>"), tokenizer->id_of("<|endoftext|>")})
      if (id) ids.push_back(*id);
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

}  // namespace lockstep::grpo
