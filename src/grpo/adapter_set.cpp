// SPDX-License-Identifier: Apache-2.0
#include "grpo/adapter_set.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "grpo/run_directory.h"
#include "grpo/training_run.h"

namespace lockstep::grpo {
namespace {

namespace fs = std::filesystem;

constexpr const char *kFlag = "--train_adapter", *kSeedFlag = "--train_adapter_seed";

/// Whether it can be a name: what is one anywhere, and is neither a path nor a hidden folder.
bool is_name(std::string_view text) {
  const auto is_alphanumeric = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  };
  return !text.empty() && text.size() <= 100 && is_alphanumeric(text[0]) &&
         std::all_of(text.begin(), text.end(), [&](char c) {
           return is_alphanumeric(c) || c == '.' || c == '_' || c == '-';
         });
}

/// Takes "NAME=VALUE" apart; unset for a text without a "=", or with a "/" before it.
std::optional<std::pair<std::string, std::string>> split(const std::string& text) {
  const size_t sign = text.find('=');
  if (sign == text.npos || text.find('/') < sign) return {};
  return std::pair(text.substr(0, sign), text.substr(sign + 1));
}

void check_name(const std::string& name,
                const std::vector<NamedAdapter>& others,
                const std::string& given) {
  if (!is_name(name))
    fail<ConfigError>("bad-flag", kFlag,
                      "expected a name of letters, digits, '.', '_' and '-', which begins with a "
                      "letter or a digit, got \"{}\" ({})",
                      name, given);
  if (is_run_file(name))
    fail<ConfigError>("bad-flag", kFlag,
                      "expected a name that a run directory does not use itself, got {} ({})", name,
                      given);
  for (const NamedAdapter& other : others)
    if (other.name == name)
      fail<ConfigError>("bad-flag", kFlag,
                        "expected each name once, got {} twice (hint: more files of an adapter "
                        "follow its first one: {}={} FILE)",
                        name, name, other.dataset.front());
}

void check_other_flags(const TrainingOptions& options) {
  if (!options.data.dataset.empty())
    fail<ConfigError>("bad-flag", kFlag,
                      "expected no --dataset beside it, since each adapter has its own, got {}",
                      options.data.dataset.front());
  if (options.tuner.tuner_type == TunerType::kFull)
    fail<ConfigError>("bad-flag", kFlag,
                      "expected --tuner_type lora, got full (the weights of a model are trained "
                      "once; adapters beside them as often as you like)");
}

void set_seed(const std::string& given, std::vector<NamedAdapter>& adapters) {
  const auto parts = split(given);
  const auto found = std::find_if(adapters.begin(), adapters.end(), [&](const NamedAdapter& one) {
    return parts && one.name == parts->first;
  });
  if (found == adapters.end())
    fail<ConfigError>("bad-flag", kSeedFlag, "expected NAME=SEED of an adapter of {}, got {}",
                      kFlag, given);
  const auto& [name, text] = *parts;
  int64_t seed = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, seed);
  if (error != std::errc() || rest != end || seed < 0)
    fail<ConfigError>("bad-flag", kSeedFlag, "expected a whole number >= 0 as a seed, got {}",
                      given);
  if (found->seed)
    fail<ConfigError>("bad-flag", kSeedFlag, "expected one seed of {}, got another: {}", name,
                      given);
  found->seed = seed;
}

}  // namespace

std::vector<NamedAdapter> named_adapters(const TrainingOptions& options) {
  const AdapterSetOptions& set = options.adapter_set;
  std::vector<NamedAdapter> adapters;
  for (const std::string& given : set.train_adapter) {
    const auto parts = split(given);
    if (!parts) {
      if (adapters.empty())
        fail<ConfigError>("bad-flag", kFlag, "expected NAME=DATASET, got no name ({})", given);
      adapters.back().dataset.push_back(given);
      continue;
    }
    const auto& [name, file] = *parts;
    check_name(name, adapters, given);
    if (file.empty())
      fail<ConfigError>("bad-flag", kFlag, "expected NAME=DATASET, got no dataset ({})", given);
    adapters.push_back({name, {file}, {}});
  }
  if (!adapters.empty()) check_other_flags(options);
  for (const std::string& given : set.train_adapter_seed) set_seed(given, adapters);
  return adapters;
}

TrainingOptions options_of(const NamedAdapter& adapter, const TrainingOptions& options) {
  TrainingOptions own = options;
  own.data.dataset = adapter.dataset;
  own.run.output_dir = (fs::path(options.run.output_dir) / adapter.name).string();
  const std::string& resumed = options.run.resume_from_checkpoint;
  if (resumed.empty() || resumed == "last") return own;
  const fs::path folder = fs::path(resumed) / adapter.name;
  // An output with versions has its checkpoints below them.
  auto newest = newest_checkpoint(options.run.add_version ? newest_version(folder) : folder);
  if (!newest) newest = newest_checkpoint(newest_version(folder));
  if (!newest)
    fail<ConfigError>("bad-resume", "--resume_from_checkpoint",
                      "expected last, or the --output_dir of a run with --train_adapter, got {}, "
                      "which has no checkpoint in {}",
                      resumed, folder.string());
  own.run.resume_from_checkpoint = newest->string();
  return own;
}

}  // namespace lockstep::grpo
