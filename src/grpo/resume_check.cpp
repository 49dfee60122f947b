// SPDX-License-Identifier: Apache-2.0
#include "grpo/resume_check.h"

#include <algorithm>

#include "base/check.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/log.h"
#include "text/row_files.h"

namespace lockstep::grpo {
namespace {

using enum ResumeRule;

constexpr ResumeFlag kFlags[] = {
    // The model.
    {"model", kByContent},
    {"tuner_type", kRefused},
    {"enable_thinking", kRefused},
    {"system", kByContent},
    // Data.
    {"dataset", kByContent},
    {"val_dataset", kByContent},
    {"columns", kRefused},
    {"disable_auto_column_mapping", kRefused},
    {"strict", kRefused},
    {"data_seed", kRefused},
    {"dataset_shuffle", kRefused},
    {"split_dataset_ratio", kRefused},
    // The run. People do want to make it longer; the schedule follows its length.
    {"output_dir", kSaid},
    {"overwrite", kIgnored},
    {"add_version", kIgnored},
    {"num_train_epochs", kSaid},
    {"max_steps", kSaid},
    {"logging_strategy", kSaid},
    {"logging_steps", kSaid},
    {"logging_first_step", kSaid},
    {"save_strategy", kSaid},
    {"save_steps", kSaid},
    {"save_total_limit", kSaid},
    {"save_only_model", kSaid},
    {"save_on_interrupt", kIgnored},
    {"max_shard_size", kSaid},
    {"memory_budget", kSaid},
    {"resume_from_checkpoint", kIgnored},
    {"resume_changed", kIgnored},
    {"eval_strategy", kSaid},
    {"eval_steps", kSaid},
    {"eval_on_start", kIgnored},
    {"load_best_model_at_end", kSaid},
    {"metric_for_best_model", kSaid},
    {"greater_is_better", kSaid},
    {"report_to", kSaid},
    // Batches.
    {"per_device_train_batch_size", kRefused},
    {"gradient_accumulation_steps", kRefused},
    // The optimizer and its schedule.
    {"learning_rate", kRefused},
    {"weight_decay", kRefused},
    {"adam_beta1", kRefused},
    {"adam_beta2", kRefused},
    {"adam_epsilon", kRefused},
    {"max_grad_norm", kRefused},
    {"weight_decay_rule", kRefused},
    {"lr_scheduler_type", kRefused},
    {"lr_scheduler_kwargs", kRefused},
    {"warmup_steps", kRefused},
    {"warmup_ratio", kRefused},
    {"min_learning_rate", kRefused},
    // How a step is computed.
    {"gradient_checkpointing", kSaid},
    {"max_tokens_per_micro_batch", kSaid},
    {"share_prompts", kSaid},
    // sft.
    {"loss_scale", kRefused},
    {"max_length", kRefused},
    // grpo.
    {"num_generations", kRefused},
    {"num_generations_eval", kSaid},
    {"num_iterations", kRefused},
    {"steps_per_generation", kRefused},
    {"generation_batch_size", kRefused},
    {"max_completion_length", kRefused},
    {"truncation_strategy", kRefused},
    {"temperature", kRefused},
    {"top_p", kRefused},
    {"top_k", kRefused},
    {"min_p", kRefused},
    {"repetition_penalty", kRefused},
    {"stop_words", kRefused},
    {"reward_funcs", kRefused},
    {"reward_weights", kRefused},
    {"soft_max_length", kRefused},
    {"soft_cache_length", kRefused},
    {"scale_rewards", kRefused},
    {"overlong_filter", kRefused},
    {"log_completions", kSaid},
    {"log_samples_steps", kSaid},
    {"log_entropy", kSaid},
    {"ref_model", kByContent},
    {"loss_type", kRefused},
    {"epsilon", kRefused},
    {"epsilon_high", kRefused},
    {"delta", kRefused},
    {"beta", kRefused},
    {"importance_sampling_level", kRefused},
    // The sampler. Its memory and its batches do not change the tokens.
    {"rollout_mode", kSaid},
    {"reuse_rollout_activations", kIgnored},
    {"max_num_seqs", kSaid},
    {"max_model_len", kRefused},
    {"cache_memory", kSaid},
    // Every command.
    {"log_level", kIgnored},
    {"quiet", kIgnored},
    {"threads", kSaid},
    {"device", kSaid},
    {"seed", kRefused},
    {"torch_dtype", kRefused},
    {"exact", kRefused},
    {"on_inexact", kSaid},
};

/// The first digits of a digest, which are enough to tell two apart.
std::string content_text(const Json& digest) {
  if (digest.is_string()) return digest.get<std::string>().substr(0, 8);
  std::string text;
  if (digest.is_structured())
    for (const Json& part : digest) text += (text.empty() ? "" : " ") + content_text(part);
  return text.empty() ? "none" : text;
}

std::string change_text(std::string_view name, const std::string& before, const std::string& now) {
  return fmt::format("{} {} before and {} now", name, before, now);
}

std::string file_digest(const std::filesystem::path& path) {
  const MappedFile file(path);
  return digest_of(file.bytes().data(), file.bytes().size()).hex();
}

Json digest_rows(const std::vector<std::string>& names) {
  Json digests = Json::array();
  for (const std::string& name : names) {
    const text::DatasetName file = text::parse_dataset_name(name);
    std::string digest = file_digest(file.path);
    if (file.num_samples >= 0) digest += fmt::format("#{}", file.num_samples);
    digests.push_back(std::move(digest));
  }
  return digests;
}

}  // namespace

std::span<const ResumeFlag> resume_flags() { return kFlags; }

ResumeChanges compare_args(const Json& saved, const Json& now) {
  ResumeChanges changes;
  const Json none = Json::object();
  const Json &digests_before = saved.contains("digests") ? saved["digests"] : none,
             &digests_now = now.contains("digests") ? now["digests"] : none;
  for (const auto& [name, rule] : kFlags) {
    const std::string key(name);
    if (rule == kIgnored || !saved.contains(key) || !now.contains(key)) continue;
    const std::string before = dump_json(saved[key]), after = dump_json(now[key]);
    if (rule == kByContent && digests_before.contains(key) && digests_now.contains(key)) {
      const Json &content_before = digests_before[key], &content_now = digests_now[key];
      if (content_before != content_now) {
        changes.refused.push_back(
            change_text(name, fmt::format("{} (content {})", before, content_text(content_before)),
                        fmt::format("{} (content {})", after, content_text(content_now))));
        continue;
      }
    }
    if (saved[key] == now[key]) continue;
    (rule == kRefused ? changes.refused : changes.said).push_back(change_text(name, before, after));
  }
  return changes;
}

Json saved_args(const ResumePoint& resume) {
  try {
    Json args = parse_json_file(resume.directory / "args.json");
    if (args.is_object()) return args;
  } catch (const Error&) {
    // It is said below.
  }
  log_warning(
      "{}: expected the options it was trained with in args.json, got none: they are not "
      "compared",
      resume.directory.string());
  return Json::object();
}

bool compare_plans(const ResumePoint& resume,
                   const std::string& command,
                   const Json& plan,
                   ResumeChanges& changes) {
  const std::string saved = resume.state.value("command", "");
  if (saved != command)
    fail<ConfigError>("bad-resume", resume.directory.string(),
                      "expected a checkpoint of {}, got one of {} (hint: to train on from its "
                      "weights name it by --model)",
                      command, saved.empty() ? "another version" : saved);
  const Json before = resume.state.value("plan", Json::object());
  bool is_same = true;
  for (const auto& [name, value] : plan.items()) {
    const Json was = before.value(name, value);
    if (was == value) continue;
    is_same = false;
    const bool is_told =
        std::any_of(changes.refused.begin(), changes.refused.end(),
                    [&](const std::string& text) { return text.starts_with(name + " "); });
    if (!is_told) changes.refused.push_back(change_text(name, dump_json(was), dump_json(value)));
  }
  return is_same;
}

Json digest_data(const DataOptions& options, const std::string& system) {
  return {{"dataset", digest_rows(options.dataset)},
          {"val_dataset", digest_rows(options.val_dataset)},
          {"system", system.empty() ? Json() : Json(digest_of(system).hex())}};
}

}  // namespace lockstep::grpo
