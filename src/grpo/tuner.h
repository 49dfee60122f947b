// Which weights a run trains.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/on_resume.h"
#include "base/options.h"
#include "model/adapter.h"
#include "model/weights.h"

namespace lockstep::grpo {

/// Whether the model's own weights are trained, or adapters beside them.
enum class TunerType : int { kFull, kLora };
std::span<const EnumName<TunerType>> enum_names(TunerType);

/// How A of a new adapter is drawn; B is zero.
enum class InitWeights : int {
  /// Uniform, as PEFT's true.
  kTrue,
  /// Normal, of standard deviation 1 / rank.
  kGaussian
};
std::span<const EnumName<InitWeights>> enum_names(InitWeights);

/// Flags and their meaning are ms-swift's; names are those of the checkpoint's tensors. Source:
/// ms-swift 4.6, swift/utils/transformers_utils.py, freeze_parameters and activate_parameters.
struct TunerOptions {
  TunerType tuner_type = TunerType::kLora;
  /// An adapter to begin with.
  std::string adapters;
  std::vector<std::string> target_modules{"all-linear"}, exclude_modules, target_parameters,
      modules_to_save;
  std::string target_regex;
  int64_t lora_rank = 8;
  double lora_alpha = 32, lora_dropout = 0;
  bool use_rslora = false, lora_experts = false, merge_lora = false;
  InitWeights init_weights = InitWeights::kTrue;
  Json rank_pattern, alpha_pattern;
  double freeze_parameters_ratio = 0;
  std::vector<std::string> freeze_parameters, trainable_parameters;
  std::string freeze_parameters_regex, trainable_parameters_regex;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("tuner_type", tuner_type,
          "lora trains low-rank adapters beside linear layers; full trains the model's weights.");
    visit("adapters", adapters, "Directory of an adapter to begin with, in PEFT's form.",
          OnResume::kByContent);
    visit(
        "target_modules", target_modules,
        "Ends of the paths of linear layers that are adapted (q_proj), or all-linear: all of them "
        "but routers, routed experts and the head; also embed_tokens and lm_head.");
    visit("target_parameters", target_parameters,
          "Ends of the paths of experts' parameters that are adapted (experts.down_proj).");
    visit("lora_experts", lora_experts, "all-linear adapts the routed experts as well.");
    visit("target_regex", target_regex,
          "Pattern that the whole path of an adapted layer matches; wins over --target_modules.");
    visit("exclude_modules", exclude_modules, "Ends of the paths of layers that are not adapted.");
    visit("modules_to_save", modules_to_save,
          "Ends of the paths of modules that are trained whole, as copies in the adapter's file "
          "(embed_tokens, lm_head, norm), or all-embedding, all-norm.");
    visit("lora_rank", lora_rank, "Rank of the adapters.", Range::between(1, 65536));
    visit("lora_alpha", lora_alpha, "The scale of what adapters add is this over the rank.",
          Range::above(0));
    visit("lora_dropout", lora_dropout,
          "Share of its inputs that an adapter does not see in a training step.",
          Range::between(0, 0.999));
    visit("use_rslora", use_rslora, "The scale is lora_alpha over the root of the rank.");
    visit("init_weights", init_weights,
          "How A of a new adapter is drawn: true, uniform below 1 / sqrt(inputs), or gaussian, "
          "normal of 1 / rank; B is zero.");
    visit("rank_pattern", rank_pattern,
          "Ranks of some layers: {\"q_proj\": 16}; a key matches the end of a path.");
    visit("alpha_pattern", alpha_pattern, "The same for lora_alpha.");
    visit(
        "merge_lora", merge_lora,
        "At the end, writes the model with the last adapter merged into it, as checkpoint-N-merged "
        "beside the checkpoint.",
        OnResume::kSaid);
    visit(
        "freeze_parameters_ratio", freeze_parameters_ratio,
        "Share of the weights that is not trained, counted in whole tensors from the embedding up.",
        Range::between(0, 1));
    visit("freeze_parameters", freeze_parameters,
          "Beginnings of names of tensors that are not trained.");
    visit("freeze_parameters_regex", freeze_parameters_regex,
          "Pattern that occurs in the names of tensors that are not trained.");
    visit("trainable_parameters", trainable_parameters,
          "Beginnings of names of tensors that are trained although they are frozen by others of "
          "these flags.");
    visit("trainable_parameters_regex", trainable_parameters_regex,
          "Pattern that occurs in the names of tensors that are trained all the same.");
  }
  /// 1e-4 with adapters, 1e-5 with all weights.
  double default_learning_rate() const;
  /// Throws ConfigError naming the flag.
  void validate() const;
};

/// Settles which pieces of the parameters are trained, and says so if some are not. Throws
/// ConfigError "no-match" for a name or pattern that no tensor has, "bad-flag" for a pattern that
/// is none, and "nothing-trained".
void choose_trained(model::ModelWeights& weights, const TunerOptions& options);

/// The targets of a model beside which a new adapter of these options has pairs, in their order,
/// --modules_to_save apart. Throws ConfigError "no-match".
std::vector<model::AdapterTarget> adapted_targets(const std::vector<model::AdapterTarget>& all,
                                                  const TunerOptions& options);
/// The options as an adapter's file says them.
model::AdapterConfig adapter_config(const TunerOptions& options);

/// Makes the adapter that a run trains: a new one by the options, --adapters, or what `resumed` (a
/// checkpoint's folder) holds; freezes the weights, and says what is adapted. Throws ConfigError
/// "no-match" for a target that no layer has, and what load_adapter() throws.
std::unique_ptr<model::Adapter> make_adapter(model::ModelWeights& weights,
                                             const TunerOptions& options,
                                             const std::optional<std::filesystem::path>& resumed,
                                             uint64_t seed);

}  // namespace lockstep::grpo
