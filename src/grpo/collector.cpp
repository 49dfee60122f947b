// SPDX-License-Identifier: Apache-2.0
#include "grpo/collector.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/check.h"
#include "base/interrupt.h"
#include "base/log.h"
#include "grpo/token_rows.h"

namespace lockstep::grpo {
namespace {

/// Text of a completion without the stop token that ended it.
std::string completion_text(const rollout::Completion& completion,
                            const text::Tokenizer& tokenizer) {
  std::span<const int64_t> ids = completion.token_ids;
  if (completion.has_stop_token) ids = ids.first(ids.size() - 1);
  return tokenizer.decode(ids);
}

}  // namespace

Collector::Collector(const GrpoRunOptions& options,
                     const text::ChatEncoder& encoder,
                     RolloutClient& rollout,
                     std::vector<int64_t> stop_ids,
                     uint64_t seed,
                     bool exact)
    : options_(&options),
      encoder_(&encoder),
      rollout_(&rollout),
      weights_(options.grpo.reward_weights) {
  const GrpoOptions& grpo = options.grpo;
  for (const std::string& name : grpo.reward_funcs)
    rewards_.push_back(
        reward::make_reward(name, {.soft_max_length = grpo.soft_max_length,
                                   .soft_cache_length = grpo.soft_cache_length,
                                   .max_completion_length = grpo.max_completion_length}));
  if (weights_.empty()) weights_.assign(rewards_.size(), 1.0);
  settings_.sampling = {.temperature = grpo.temperature,
                        .top_k = grpo.top_k,
                        .top_p = grpo.top_p,
                        .min_p = grpo.min_p,
                        .repetition_penalty = grpo.repetition_penalty};
  settings_.max_new_tokens = grpo.max_completion_length;
  settings_.stop_ids = std::move(stop_ids);
  settings_.stop_strings = grpo.stop_words;
  settings_.tokenizer = &encoder.tokenizer();
  settings_.seed = seed;
  settings_.exact = exact;
}

Prompt Collector::encode_row(const text::Row& row, int64_t vocab_size) const {
  for (const auto& function : rewards_) function->check(row.columns, row.where);
  Prompt prompt{&row, row.messages, {}};
  // A trailing assistant turn is the answer, not part of the question.
  while (!prompt.messages.empty() && prompt.messages.back().value("role", "") == "assistant")
    prompt.messages.erase(prompt.messages.size() - 1);
  if (prompt.messages.empty())
    fail<FormatError>("bad-row", row.where, "expected a message before the assistant's, got none");
  text::Row question = row;
  question.messages = prompt.messages;
  prompt.encoded = grpo::encode_row(question, [&](const text::Conversation& conversation) {
    return encoder_->encode_prompt(conversation);
  });
  check_ids(prompt.encoded.ids, vocab_size, row.where);
  if (prompt.encoded.ids.empty())
    fail<FormatError>("bad-row", row.where, "expected a prompt of at least one token, got none");
  return prompt;
}

std::vector<Prompt> Collector::encode(const char* name,
                                      const std::vector<text::Row>& rows,
                                      const model::ModelConfig& config) const {
  const int64_t context = options_->engine.max_model_len.value_or(config.max_position_embeddings);
  const int64_t longest = std::min(context - options_->grpo.max_completion_length,
                                   options_->grpo.max_length.value_or(context));
  if (longest < 1)
    fail<ConfigError>("bad-flag", "--max_completion_length",
                      "expected less than the context of {} tokens, got {}", context,
                      options_->grpo.max_completion_length);
  const bool is_deleting = options_->grpo.truncation_strategy == TruncationStrategy::kDelete;
  std::vector<Prompt> prompts;
  int64_t cut = 0, most = 0;
  BadRows bad(name, options_->training.data.strict);
  for (const text::Row& row : rows) {
    bad.guard([&] {
      Prompt prompt = encode_row(row, config.vocab_size);
      auto& ids = prompt.encoded.ids;
      most = std::max(most, static_cast<int64_t>(ids.size()));
      if (static_cast<int64_t>(ids.size()) > longest) {
        ++cut;
        if (is_deleting) return;
        ids.erase(ids.begin(), ids.end() - longest);
      }
      prompts.push_back(std::move(prompt));
    });
  }
  bad.report();
  if (!prompts.empty())
    log_info(
        "lengths of {}: prompts up to {} tokens, completions up to {}, context {}; {} prompts {}",
        name, most, options_->grpo.max_completion_length, context, cut,
        is_deleting ? "dropped as too long" : "cut from the left");
  return prompts;
}

Collected Collector::collect(std::span<const Prompt* const> prompts,
                             int64_t group_size,
                             int64_t weight_version,
                             uint64_t draw,
                             const std::shared_ptr<model::LayerInputs>& kept) const {
  std::vector<rollout::GenerationRequest> requests;
  std::map<std::vector<int64_t>, uint64_t> seen;
  for (const Prompt* prompt : prompts)
    requests.push_back({prompt->encoded.ids, group_size, seen[prompt->encoded.ids]++, draw});
  rollout::GenerationSettings settings = settings_;
  settings.keep = kept.get();
  auto generated = rollout_->generate(requests, settings, weight_version,
                                      [](int64_t, int64_t) { throw_if_interrupted(); });

  Collected collected;
  for (size_t p = 0; p < prompts.size(); ++p) {
    for (rollout::Completion& completion : generated[p]) {
      Experience experience;
      experience.sample.ids = prompts[p]->encoded.ids;
      experience.sample.mask.assign(experience.sample.ids.size(), 0);
      experience.sample.ids.insert(experience.sample.ids.end(), completion.token_ids.begin(),
                                   completion.token_ids.end());
      experience.sample.mask.resize(experience.sample.ids.size(), 1);
      if (kept) {
        experience.sample.kept = kept;
        experience.sample.kept_rows = std::move(completion.kept_rows);
      }
      experience.sampler_logprobs = completion.logprobs;
      experience.is_truncated = completion.finish_reason == rollout::FinishReason::kLength;
      experience.weight_version = weight_version;
      collected.experiences.push_back(std::move(experience));
      collected.prompts.push_back(prompts[p]->encoded.text);
      collected.completions.push_back(prompts[p]->encoded.response_prefix +
                                      completion_text(completion, encoder_->tokenizer()));
    }
  }
  collected.rewards = score(prompts, group_size, collected);
  collected.advantages =
      compute_advantages(collected.rewards, weights_, group_size, options_->grpo.scale_rewards);
  for (size_t i = 0; i < collected.experiences.size(); ++i)
    collected.experiences[i].advantage = collected.advantages.advantages[i];
  return collected;
}

std::vector<std::vector<std::optional<double>>> Collector::score(
    std::span<const Prompt* const> prompts, int64_t group_size, const Collected& collected) const {
  std::vector<reward::RewardInput> inputs;
  for (size_t i = 0; i < collected.experiences.size(); ++i) {
    const Prompt& prompt = *prompts[i / static_cast<size_t>(group_size)];
    const Experience& experience = collected.experiences[i];
    const auto ids = std::span(experience.sample.ids).last(experience.sampler_logprobs.size());
    inputs.push_back({.completion = collected.completions[i],
                      .token_ids = ids,
                      .finish_reason = experience.is_truncated ? "length" : "stop",
                      .columns = &prompt.row->columns,
                      .messages = &prompt.messages,
                      .where = prompt.row->where});
  }
  std::vector<std::vector<std::optional<double>>> values(inputs.size());
  for (const auto& function : rewards_) {
    const auto column = function->score(inputs);
    for (size_t i = 0; i < values.size(); ++i) values[i].push_back(column[i]);
  }
  return values;
}

void Collector::add_metrics(const Collected& collected,
                            const std::string& prefix,
                            Metrics& metrics) const {
  const auto& advantages = collected.advantages;
  metrics.add(prefix + "reward", advantages.reward_mean);
  metrics.add(prefix + "reward_std", advantages.reward_std);
  metrics.add(prefix + "frac_reward_zero_std", advantages.frac_reward_zero_std);
  for (size_t f = 0; f < rewards_.size(); ++f) {
    double sum = 0, squares = 0, count = 0;
    for (const auto& row : collected.rewards)
      if (row[f]) {
        sum += *row[f];
        squares += *row[f] * *row[f];
        ++count;
      }
    if (count == 0) continue;
    const double mean = sum / count, deviation = std::sqrt(std::max(0.0, squares - sum * mean) /
                                                           std::max(1.0, count - 1));
    // Dashboards know ms-swift's class names; people know the registered ones.
    for (const std::string_view name : {rewards_[f]->class_name(), rewards_[f]->name()}) {
      metrics.add(fmt::format("{}rewards/{}/mean", prefix, name), mean);
      metrics.add(fmt::format("{}rewards/{}/std", prefix, name), deviation);
    }
  }
  const double weight = 1.0 / static_cast<double>(collected.experiences.size());
  for (const Experience& experience : collected.experiences) {
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

Json Collector::completions_line(const Collected& collected,
                                 std::span<const Prompt* const> prompts,
                                 int64_t step) const {
  Json line{{"step", Json::array()},
            {"prompt", collected.prompts},
            {"completion", collected.completions}};
  const size_t group = collected.completions.size() / prompts.size();
  Json solutions = Json::array();
  bool has_solution = false;
  for (size_t i = 0; i < collected.completions.size(); ++i) {
    line["step"].push_back(std::to_string(step));
    const Json& columns = prompts[i / group]->row->columns;
    has_solution |= columns.contains("solution");
    solutions.push_back(columns.value("solution", Json()));
  }
  for (size_t f = 0; f < rewards_.size(); ++f) {
    Json& column = line[std::string(rewards_[f]->class_name())];
    for (const auto& row : collected.rewards) column.push_back(row[f] ? Json(*row[f]) : Json());
  }
  line["advantages"] = collected.advantages.advantages;
  if (has_solution) line["solution"] = std::move(solutions);
  return line;
}

std::vector<int64_t> stop_ids_of(const std::filesystem::path& model,
                                 const model::ModelConfig& config,
                                 const text::Tokenizer& tokenizer) {
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
  for (const auto& id :
       {tokenizer.eos_id(), tokenizer.id_of("<|im_end|>"), tokenizer.id_of("<|endoftext|>")})
    if (id) ids.push_back(*id);
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

}  // namespace lockstep::grpo
