// Several adapters that are trained in one run: which they are, and what each of them is told.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/on_resume.h"
#include "base/options.h"

namespace lockstep::grpo {

struct TrainingOptions;

struct AdapterSetOptions {
  std::vector<std::string> train_adapter, train_adapter_seed;

  bool is_empty() const { return train_adapter.empty(); }

  // Neither has a meaning for a run that is resumed: each adapter's own dataset and seed have.
  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("train_adapter", train_adapter,
          "Trains several adapters beside one model, each as NAME=DATASET, with more files behind "
          "it; it writes output_dir/NAME, to the same bytes as when it is trained alone.",
          OnResume::kIgnored);
    visit("train_adapter_seed", train_adapter_seed,
          "Seeds of some of them in place of --seed, as NAME=SEED.", OnResume::kIgnored);
  }
};

/// One of the adapters of --train_adapter.
struct NamedAdapter {
  std::string name;
  std::vector<std::string> dataset;
  /// Unset: --seed.
  std::optional<int64_t> seed;
};

/// The adapters of a run; none without the flag. Throws ConfigError "bad-flag" for a name that is
/// no folder's, is one of a run directory's own, or stands there twice; for an adapter without
/// rows, a seed that is none, or the seed of no adapter; and beside other flags that rule it out:
/// --dataset, --tuner_type full.
std::vector<NamedAdapter> named_adapters(const TrainingOptions& options);

/// The options that train `adapter` alone, into a folder of its own. Throws ConfigError
/// "bad-resume" where the folder that --resume_from_checkpoint names has no checkpoint of it.
TrainingOptions options_of(const NamedAdapter& adapter, const TrainingOptions& options);

}  // namespace lockstep::grpo
