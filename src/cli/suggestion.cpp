// SPDX-License-Identifier: Apache-2.0
#include "cli/suggestion.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <utility>
#include <vector>

namespace lockstep::cli {
namespace {

/// Words of other programs (ms-swift, verl, OpenRLHF, slime, torchtune, PyTorch scripts), and the
/// flags and commands that mean the same here. Of several, the first that the command has is
/// suggested.
constexpr std::pair<std::string_view, std::string_view> kMeanings[] = {
    // commands
    {"train", "grpo"},
    {"rlhf", "grpo"},
    {"rl", "grpo"},
    {"finetune", "sft"},
    {"chat", "infer"},
    {"generate", "infer"},
    {"sample", "infer"},
    {"eval", "score"},
    {"logprobs", "score"},
    {"perplexity", "score"},
    {"convert", "layout"},
    {"merge_lora", "export"},
    {"save", "export"},
    {"init", "new-model"},
    {"create", "new-model"},
    {"env", "doctor"},
    {"info", "doctor"},
    {"check", "doctor"},
    {"encode", "tokenize"},
    // batches
    {"b", "per_device_train_batch_size"},
    {"bs", "per_device_train_batch_size"},
    {"batch", "per_device_train_batch_size"},
    {"batch_size", "per_device_train_batch_size"},
    {"train_batch_size", "per_device_train_batch_size"},
    {"train_bs", "per_device_train_batch_size"},
    {"mini_batch_size", "per_device_train_batch_size"},
    {"ppo_mini_batch_size", "per_device_train_batch_size"},
    {"ppo_micro_batch_size", "max_tokens_per_micro_batch"},
    {"micro_train_batch_size", "per_device_train_batch_size"},
    {"train_micro_batch_size_per_gpu", "per_device_train_batch_size"},
    {"rollout_batch_size", "generation_batch_size"},
    {"eval_batch_size", "per_device_eval_batch_size"},
    {"max_tokens_per_batch", "max_tokens_per_micro_batch"},
    {"max_tokens_per_gpu", "max_tokens_per_micro_batch"},
    {"ppo_max_token_len_per_gpu", "max_tokens_per_micro_batch"},
    {"grad_accum", "gradient_accumulation_steps"},
    {"grad_acc", "gradient_accumulation_steps"},
    {"gas", "gradient_accumulation_steps"},
    {"accumulation_steps", "gradient_accumulation_steps"},
    {"accumulate_grad_batches", "gradient_accumulation_steps"},
    {"gradient_accumulation", "gradient_accumulation_steps"},
    // groups
    {"n", "num_generations"},
    {"n", "num_return_sequences"},
    {"g", "num_generations"},
    {"k", "num_generations"},
    {"group", "num_generations"},
    {"group_size", "num_generations"},
    {"grpo_group_size", "num_generations"},
    {"num_samples", "num_generations"},
    {"num_samples", "num_return_sequences"},
    {"n_samples", "num_generations"},
    {"n_samples", "num_return_sequences"},
    {"samples_per_prompt", "num_generations"},
    {"n_samples_per_prompt", "num_generations"},
    {"num_samples_per_prompt", "num_generations"},
    {"num_responses", "num_generations"},
    {"num_completions", "num_generations"},
    {"num_completions", "num_return_sequences"},
    {"num_rollouts", "num_generations"},
    {"rollout_n", "num_generations"},
    {"best_of", "num_return_sequences"},
    {"ppo_epochs", "num_iterations"},
    {"inner_epochs", "num_iterations"},
    {"update_epochs", "num_iterations"},
    {"mu", "num_iterations"},
    // optimizer and schedule
    {"lr", "learning_rate"},
    {"peak_lr", "learning_rate"},
    {"max_lr", "learning_rate"},
    {"actor_lr", "learning_rate"},
    {"actor_learning_rate", "learning_rate"},
    {"learn_rate", "learning_rate"},
    {"step_size", "learning_rate"},
    {"min_lr", "min_learning_rate"},
    {"lr_min", "min_learning_rate"},
    {"lr_floor", "min_learning_rate"},
    {"final_lr", "min_learning_rate"},
    {"scheduler", "lr_scheduler_type"},
    {"schedule", "lr_scheduler_type"},
    {"lr_schedule", "lr_scheduler_type"},
    {"lr_scheduler", "lr_scheduler_type"},
    {"scheduler_type", "lr_scheduler_type"},
    {"decay", "weight_decay"},
    {"wd", "weight_decay"},
    {"l2", "weight_decay"},
    {"b1", "adam_beta1"},
    {"b2", "adam_beta2"},
    {"beta1", "adam_beta1"},
    {"beta2", "adam_beta2"},
    {"warmup", "warmup_ratio"},
    {"warmup_iters", "warmup_steps"},
    {"warmup_proportion", "warmup_ratio"},
    {"warmup_fraction", "warmup_ratio"},
    {"num_warmup_steps", "warmup_steps"},
    {"grad_clip", "max_grad_norm"},
    {"clip_grad_norm", "max_grad_norm"},
    {"gradient_clip", "max_grad_norm"},
    {"gradient_clipping", "max_grad_norm"},
    {"gradient_clip_val", "max_grad_norm"},
    {"max_norm", "max_grad_norm"},
    {"checkpointing", "gradient_checkpointing"},
    {"activation_recompute", "gradient_checkpointing"},
    {"recompute", "gradient_checkpointing"},
    // loss and advantages
    {"kl", "beta"},
    {"kl_coef", "beta"},
    {"kl_coeff", "beta"},
    {"kl_beta", "beta"},
    {"kl_weight", "beta"},
    {"kl_penalty", "beta"},
    {"kl_loss_coef", "beta"},
    {"init_kl_coef", "beta"},
    {"kl_loss_weight", "beta"},
    {"clip", "epsilon"},
    {"eps", "epsilon"},
    {"eps_clip", "epsilon"},
    {"clip_eps", "epsilon"},
    {"clip_ratio", "epsilon"},
    {"clip_range", "epsilon"},
    {"clip_epsilon", "epsilon"},
    {"clip_param", "epsilon"},
    {"clip_ratio_low", "epsilon"},
    {"epsilon_low", "epsilon"},
    {"clip_high", "epsilon_high"},
    {"clip_higher", "epsilon_high"},
    {"clip_ratio_high", "epsilon_high"},
    {"eps_clip_high", "epsilon_high"},
    {"clip_ratio_c", "delta"},
    {"loss", "loss_type"},
    {"algorithm", "loss_type"},
    {"loss_agg_mode", "loss_type"},
    {"ratio_level", "importance_sampling_level"},
    {"adv_estimator", "advantage_estimator"},
    {"algo", "rlhf_type"},
    {"normalize_advantages", "scale_rewards"},
    {"norm_adv_by_std_in_grpo", "scale_rewards"},
    {"whiten_advantages", "scale_rewards"},
    {"mask_truncated", "overlong_filter"},
    {"filter_overlong", "overlong_filter"},
    {"entropy", "log_entropy"},
    {"reference_model", "ref_model"},
    {"reference", "ref_model"},
    {"ref", "ref_model"},
    {"ref_model_path", "ref_model"},
    // lengths
    {"max_tokens", "max_completion_length"},
    {"max_tokens", "max_new_tokens"},
    {"max_completion_length", "max_new_tokens"},
    {"max_new_tokens", "max_completion_length"},
    {"max_output_tokens", "max_completion_length"},
    {"max_output_tokens", "max_new_tokens"},
    {"max_gen_len", "max_completion_length"},
    {"max_gen_len", "max_new_tokens"},
    {"max_gen_length", "max_completion_length"},
    {"max_gen_length", "max_new_tokens"},
    {"max_generation_length", "max_completion_length"},
    {"max_generated_tokens", "max_completion_length"},
    {"generate_max_len", "max_completion_length"},
    {"max_response_length", "max_completion_length"},
    {"max_response_len", "max_completion_length"},
    {"rollout_max_response_len", "max_completion_length"},
    {"completion_length", "max_completion_length"},
    {"num_predict", "max_new_tokens"},
    {"prompt_max_len", "max_length"},
    {"max_prompt_len", "max_length"},
    {"prompt_length", "max_length"},
    {"max_len", "max_length"},
    {"max_seq_len", "max_length"},
    {"max_seq_len", "max_model_len"},
    {"max_sequence_length", "max_length"},
    {"cutoff_len", "max_length"},
    {"model_max_length", "max_length"},
    {"seq_len", "max_length"},
    {"ctx", "max_model_len"},
    {"context", "max_model_len"},
    {"context_length", "max_model_len"},
    {"max_context", "max_model_len"},
    {"max_context_len", "max_model_len"},
    {"truncation", "truncation_strategy"},
    // sampling
    {"t", "temperature"},
    {"temp", "temperature"},
    {"sampling_temperature", "temperature"},
    {"topk", "top_k"},
    {"topp", "top_p"},
    {"nucleus", "top_p"},
    {"rep_penalty", "repetition_penalty"},
    {"stop", "stop_words"},
    {"stop_strings", "stop_words"},
    {"stop_sequences", "stop_words"},
    {"sampler", "rollout_mode"},
    {"engine", "rollout_mode"},
    {"kv_cache_size", "cache_memory"},
    {"kv_cache_memory", "cache_memory"},
    {"max_concurrency", "max_num_seqs"},
    {"max_running_requests", "max_num_seqs"},
    {"concurrency", "max_num_seqs"},
    // the length of a run
    {"epoch", "num_train_epochs"},
    {"epochs", "num_train_epochs"},
    {"num_epoch", "num_train_epochs"},
    {"num_epochs", "num_train_epochs"},
    {"n_epochs", "num_train_epochs"},
    {"train_epochs", "num_train_epochs"},
    {"total_epochs", "num_train_epochs"},
    {"iters", "max_steps"},
    {"steps", "max_steps"},
    {"num_steps", "max_steps"},
    {"total_steps", "max_steps"},
    {"train_steps", "max_steps"},
    {"training_steps", "max_steps"},
    {"num_train_steps", "max_steps"},
    {"total_training_steps", "max_steps"},
    {"max_iters", "max_steps"},
    {"iterations", "max_steps"},
    {"num_episodes", "max_steps"},
    {"num_rollout", "max_steps"},
    // when things happen
    {"save_every", "save_steps"},
    {"save_freq", "save_steps"},
    {"checkpoint_every", "save_steps"},
    {"checkpoint_interval", "save_steps"},
    {"ckpt_interval", "save_steps"},
    {"keep", "save_total_limit"},
    {"keep_last", "save_total_limit"},
    {"max_checkpoints", "save_total_limit"},
    {"max_ckpt_num", "save_total_limit"},
    {"eval_every", "eval_steps"},
    {"eval_freq", "eval_steps"},
    {"test_freq", "eval_steps"},
    {"val_freq", "eval_steps"},
    {"val_check_interval", "eval_steps"},
    {"val_before_train", "eval_on_start"},
    {"log_every", "logging_steps"},
    {"log_freq", "logging_steps"},
    {"log_steps", "logging_steps"},
    {"print_every", "logging_steps"},
    {"logger", "report_to"},
    {"tracker", "report_to"},
    {"use_wandb", "report_to"},
    {"wandb", "report_to"},
    {"tensorboard", "report_to"},
    {"early_stopping", "early_stop_interval"},
    {"best_metric", "metric_for_best_model"},
    // models, data and outputs
    {"m", "model"},
    {"base_model", "model"},
    {"model_path", "model"},
    {"model_dir", "model"},
    {"model_id", "model"},
    {"pretrain", "model"},
    {"pretrained_model", "model"},
    {"hf_checkpoint", "model"},
    {"actor_model", "model"},
    {"checkpoint", "model"},
    {"weights", "model"},
    {"d", "dataset"},
    {"data", "dataset"},
    {"data_path", "dataset"},
    {"datasets", "dataset"},
    {"dataset_path", "dataset"},
    {"train_data", "dataset"},
    {"train_file", "dataset"},
    {"train_files", "dataset"},
    {"train_dataset", "dataset"},
    {"training_data", "dataset"},
    {"prompt_data", "dataset"},
    {"prompts", "dataset"},
    {"rows", "dataset"},
    {"input_file", "dataset"},
    {"i", "input"},
    {"val_data", "val_dataset"},
    {"eval_data", "val_dataset"},
    {"valid_data", "val_dataset"},
    {"val_file", "val_dataset"},
    {"val_files", "val_dataset"},
    {"eval_file", "val_dataset"},
    {"test_file", "val_dataset"},
    {"test_data", "val_dataset"},
    {"validation_file", "val_dataset"},
    {"validation_dataset", "val_dataset"},
    {"val_split", "split_dataset_ratio"},
    {"test_size", "split_dataset_ratio"},
    {"val_size", "split_dataset_ratio"},
    {"shuffle", "dataset_shuffle"},
    {"column_mapping", "columns"},
    {"input_key", "columns"},
    {"label_key", "columns"},
    {"prompt_key", "columns"},
    {"reward", "reward_funcs"},
    {"rewards", "reward_funcs"},
    {"reward_fn", "reward_funcs"},
    {"reward_function", "reward_funcs"},
    {"reward_functions", "reward_funcs"},
    {"reward_fns", "reward_funcs"},
    {"rm_type", "reward_funcs"},
    {"custom_reward_function", "external_plugins"},
    {"reward_plugin", "external_plugins"},
    {"system_prompt", "system"},
    {"system_message", "system"},
    {"thinking", "enable_thinking"},
    {"think", "enable_thinking"},
    {"reasoning", "enable_thinking"},
    {"o", "output_dir"},
    {"o", "output"},
    {"o", "result_path"},
    {"out", "output_dir"},
    {"out", "output"},
    {"out", "result_path"},
    {"output", "output_dir"},
    {"output", "result_path"},
    {"output_dir", "output"},
    {"output_dir", "result_path"},
    {"output_file", "output"},
    {"output_file", "result_path"},
    {"output_path", "output_dir"},
    {"output_path", "output"},
    {"output_path", "result_path"},
    {"save_dir", "output_dir"},
    {"save_path", "output_dir"},
    {"work_dir", "output_dir"},
    {"checkpoint_dir", "output_dir"},
    {"default_local_dir", "output_dir"},
    {"resume", "resume_from_checkpoint"},
    {"resume_from", "resume_from_checkpoint"},
    {"resume_path", "resume_from_checkpoint"},
    {"load_checkpoint", "resume_from_checkpoint"},
    {"continue_from", "resume_from_checkpoint"},
    {"force", "overwrite"},
    {"f", "overwrite"},
    {"exist_ok", "overwrite"},
    {"shard_size", "max_shard_size"},
    {"lora", "tuner_type"},
    {"finetuning_type", "tuner_type"},
    {"full_finetune", "tuner_type"},
    {"peft", "tuner_type"},
    // the machine
    {"precision", "torch_dtype"},
    {"mixed_precision", "torch_dtype"},
    {"param_dtype", "torch_dtype"},
    {"float32", "torch_dtype"},
    {"fp32", "torch_dtype"},
    {"j", "threads"},
    {"num_threads", "threads"},
    {"n_threads", "threads"},
    {"nthreads", "threads"},
    {"cpus", "threads"},
    {"num_cpus", "threads"},
    {"workers", "threads"},
    {"gpu", "device"},
    {"gpus", "device"},
    {"cuda", "device"},
    {"cpu", "device"},
    {"memory", "memory_budget"},
    {"max_memory_gb", "memory_budget"},
    {"random_seed", "seed"},
    {"random_state", "seed"},
    {"rng_seed", "seed"},
    {"deterministic", "exact"},
    {"batch_invariant", "exact"},
    {"verbose", "log_level"},
    {"v", "log_level"},
    {"debug", "log_level"},
    {"verbosity", "log_level"},
    {"q", "quiet"},
    {"silent", "quiet"},
    {"family", "like"},
    {"arch", "like"},
    {"architecture", "like"},
    {"model_type", "like"},
};

/// The name in lower case with its words joined by '_'.
std::string normalized(std::string_view word) {
  std::string text(word);
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    if (c == '-' || c == '.') c = '_';
  }
  return text;
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({substituted, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

/// The words of a name, with short forms written out and without words that say little.
std::set<std::string> words_of(std::string_view name) {
  static constexpr std::pair<std::string_view, std::string_view> kLong[] = {
      {"lr", "learning rate"},
      {"grad", "gradient"},
      {"gradients", "gradient"},
      {"accum", "accumulation"},
      {"acc", "accumulation"},
      {"len", "length"},
      {"eval", "eval"},
      {"evaluation", "eval"},
      {"val", "val"},
      {"validation", "val"},
      {"log", "logging"},
      {"temp", "temperature"},
      {"kl", "beta"},
      {"eps", "epsilon"},
      {"iters", "steps"},
      {"iterations", "steps"},
      {"step", "steps"},
      {"epoch", "epochs"},
      {"every", "steps"},
      {"interval", "steps"},
      {"freq", "steps"},
      {"samples", "generations"},
      {"rollouts", "generations"},
      {"ckpt", "checkpoint"},
      {"rewards", "reward"},
      {"funcs", "func"},
      {"fn", "func"},
      {"function", "func"},
      {"functions", "func"},
      {"warm", "warmup"},
  };
  static constexpr std::string_view kEmpty[] = {"train", "training", "per", "device", "the",
                                                "of",    "num",      "n",   "use"};
  std::set<std::string> words;
  const std::string text = normalized(name) + "_";
  for (size_t begin = 0, end; (end = text.find('_', begin)) != std::string::npos; begin = end + 1) {
    const std::string word = text.substr(begin, end - begin);
    if (word.empty() || std::find(std::begin(kEmpty), std::end(kEmpty), word) != std::end(kEmpty))
      continue;
    const auto found = std::find_if(std::begin(kLong), std::end(kLong),
                                    [&](const auto& entry) { return entry.first == word; });
    const std::string full(found == std::end(kLong) ? std::string_view(word) : found->second);
    const size_t space = full.find(' ');
    words.insert(full.substr(0, space));
    if (space != std::string::npos) words.insert(full.substr(space + 1));
  }
  return words;
}

/// The shortest name that has all words of `word`, if these are at least two.
std::string name_with_words(std::string_view word, std::span<const std::string> names) {
  const std::set<std::string> wanted = words_of(word);
  std::string best;
  size_t fewest = 0;
  if (wanted.size() < 2) return best;
  for (const std::string& name : names) {
    const std::set<std::string> words = words_of(name);
    if (!std::includes(words.begin(), words.end(), wanted.begin(), wanted.end())) continue;
    if (!best.empty() && words.size() >= fewest) continue;
    best = name;
    fewest = words.size();
  }
  return best;
}

/// The shortest name that begins with `text`, if that says enough: Python's argparse takes such
/// short forms.
std::string name_begun(std::string_view text, std::span<const std::string> names) {
  constexpr size_t kLeast = 6;
  std::string best;
  if (text.size() < kLeast) return best;
  for (const std::string& name : names)
    if (name.starts_with(text) && (best.empty() || name.size() < best.size())) best = name;
  return best;
}

}  // namespace

std::string nearest_name(std::string_view word, std::span<const std::string> names) {
  std::string best;
  // Names are not alike if more than half of the letters differ.
  size_t least = std::max<size_t>(word.size(), 3) / 2 + 1;
  for (const std::string& name : names) {
    const size_t distance = edit_distance(word, name);
    if (distance < least) {
      least = distance;
      best = name;
    }
  }
  return best;
}

std::string same_meaning(std::string_view word, std::span<const std::string> names) {
  const std::string text = normalized(word);
  const auto has = [&](std::string_view name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  if (has(text)) return text;
  for (const auto& [foreign, ours] : kMeanings)
    if (foreign == text && has(ours)) return std::string(ours);
  return "";
}

std::string suggest_name(std::string_view word, std::span<const std::string> names) {
  const std::string text = normalized(word);
  // In a short word one letter makes a different word.
  if (text.size() > 4)
    for (const std::string& name : names)
      if (edit_distance(text, name) == 1) return name;
  std::string found = same_meaning(text, names);
  if (found.empty()) found = name_with_words(text, names);
  if (found.empty()) found = name_begun(text, names);
  return found.empty() ? nearest_name(text, names) : found;
}

}  // namespace lockstep::cli
