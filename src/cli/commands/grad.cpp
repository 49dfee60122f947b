// lockstep grad: computes one step's loss and gradients on a recorded batch.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <iostream>

#include "base/file.h"
#include "base/json.h"
#include "base/output_path.h"
#include "cli/commands.h"
#include "cli/commands/model_command.h"
#include "cli/flag_classes.h"
#include "grpo/policy_step.h"
#include "grpo/token_rows.h"
#include "io/safetensors.h"
#include "model/adapter_names.h"
#include "tensor/aten.h"
#include "text/row_files.h"
#include "train/adamw.h"
#include "train/trainer.h"

namespace lockstep::cli {
namespace {

// Versions of weights: those of the model, and any before them.
constexpr int64_t kNow = 0, kBefore = -1;

struct GradOptions {
  std::string model, adapters, batch, output;
  bool overwrite = false;
  double temperature = 1.0;
  int64_t max_completion_length = 512;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("model", model, "Checkpoint directory.");
    visit("adapters", adapters,
          "Directory of an adapter in PEFT's form; its gradients are computed, and none of the "
          "model's.");
    visit("batch", batch,
          "JSON lines with input_ids, completion_mask, advantage, recorded log-probabilities and "
          "experts.");
    visit("output", output, "safetensors file for the gradients; unset: none.");
    visit("overwrite", overwrite, "Replaces an existing output.");
    visit("temperature", temperature, "Divides the logits.", Range::logit_factor());
    visit("max_completion_length", max_completion_length, "dr_grpo's constant.",
          Range::at_least(1));
  }
};

/// A recorded completion. Without old_logprobs it is one of the weights as they are.
grpo::Experience read_row(const Json& row,
                          int64_t number,
                          const model::ModelConfig& model,
                          const std::string& where) {
  if (!row.contains("completion_mask"))
    fail<FormatError>("bad-row", where, "expected a completion_mask, got none");
  grpo::Experience recorded;
  recorded.sample = grpo::token_row(row, model.vocab_size, where);
  recorded.sample.routed = grpo::routed_row(row, model, where);
  const auto numbers = [&](const char* key) {
    return text::numbers_of(row, key, static_cast<size_t>(recorded.sample.num_scored()),
                            "1 of completion_mask", where);
  };
  if (!row.contains("advantage"))
    fail<FormatError>("bad-row", where, "expected an advantage, got none");
  if (row["advantage"].is_number())
    recorded.advantage = row["advantage"].get<double>();
  else
    recorded.token_advantages = numbers("advantage");
  const auto logprobs = [&](const char* key) {
    std::vector<float> values;
    if (row.contains(key) && !row[key].is_null())
      for (const double value : numbers(key)) values.push_back(static_cast<float>(value));
    return values;
  };
  recorded.old_logprobs = logprobs("old_logprobs");
  recorded.ref_logprobs = logprobs("ref_logprobs");
  recorded.sampler_logprobs = logprobs("rollout_logprobs");
  recorded.weight_version = recorded.old_logprobs.empty() ? kNow : kBefore;
  recorded.group = number;
  if (row.contains("group")) {
    if (!row["group"].is_number_integer())
      fail<FormatError>("bad-row", where, "expected a whole number in group, got {}",
                        row["group"].type_name());
    recorded.group = row["group"].get<int64_t>();
  }
  recorded.is_truncated = row.contains("is_truncated") && row["is_truncated"] == true;
  return recorded;
}

/// Throws FormatError "bad-row" for a row that lacks what the loss reads.
void check_row(const grpo::Experience& row,
               const grpo::GrpoRunOptions& options,
               const std::string& where) {
  if (options.loss.beta > 0 && row.ref_logprobs.empty())
    fail<FormatError>("bad-row", where, "expected ref_logprobs with beta {}, got none",
                      options.loss.beta);
  if (options.correction.is_on() && row.sampler_logprobs.empty())
    fail<FormatError>("bad-row", where,
                      "expected rollout_logprobs for the correction of the sampler's mismatch, got "
                      "none");
}

at::Tensor or_zeros(const at::Tensor& gradient, const model::Parameter& parameter) {
  return gradient.defined() ? gradient.contiguous()
                            : at::zeros(parameter.shape, at::TensorOptions().dtype(at::kFloat));
}

at::Tensor saved_gradient(const model::SavedTensor& saved,
                          const std::vector<model::Parameter*>& parameters,
                          const std::vector<at::Tensor>& gradients) {
  const model::Parameter& owner = *parameters[*saved.place.parameter];
  return saved.place.view(owner, or_zeros(gradients[*saved.place.parameter], owner)).contiguous();
}

/// The norm of the gradients of what is trained.
double trained_norm(const std::vector<model::Parameter*>& parameters,
                    const std::vector<at::Tensor>& gradients,
                    const model::Adapter* adapter) {
  if (!adapter) return train::gradient_norm(gradients);
  // Others may have gradients that lie in one parameter with a saved tensor.
  std::vector<at::Tensor> trained;
  for (const model::SavedTensor& saved : adapter->saved())
    trained.push_back(saved_gradient(saved, parameters, gradients));
  trained.insert(trained.end(), gradients.end() - std::ssize(adapter->parameters()),
                 gradients.end());
  return train::gradient_norm(trained);
}

/// By the names that checkpoints, or files of adapters, have for what they are the gradients of.
void write_gradients(const std::string& path,
                     const std::vector<model::Parameter*>& parameters,
                     const std::vector<at::Tensor>& gradients,
                     const model::Adapter* adapter) {
  std::vector<io::NamedTensor> tensors;
  if (adapter) {
    const size_t own = gradients.size() - adapter->parameters().size();
    std::vector<at::Tensor> values;
    for (size_t i = own; i < gradients.size(); ++i)
      values.push_back(or_zeros(gradients[i], *parameters[i]));
    for (const auto& [name, value] : adapter->peft_tensors(values))
      tensors.push_back({name, value.contiguous()});
    for (const model::SavedTensor& saved : adapter->saved())
      tensors.push_back({std::string(model::kFilePrefix) + saved.place.name,
                         saved_gradient(saved, parameters, gradients)});
    return io::write_safetensors(path, tensors);
  }
  for (size_t i = 0; i < gradients.size(); ++i)
    for (const auto& piece : parameters[i]->pieces)
      tensors.push_back({piece.name, piece.view(or_zeros(gradients[i], *parameters[i]))});
  io::write_safetensors(path, tensors);
}

/// The step, with its rows masked by their entropies if the filters say so.
grpo::PolicyStep make_step(std::vector<grpo::Experience>& rows,
                           double temperature,
                           const grpo::GrpoRunOptions& options,
                           const train::Trainer& trainer) {
  const bool has_bonus = options.loss.has_entropy_bonus();
  grpo::PolicyStep step{.completions = rows,
                        .weight_version = kNow,
                        .scoring = {.temperature = temperature,
                                    .with_entropy = has_bonus,
                                    .with_entropy_gradient = has_bonus},
                        .entropy_coef = options.loss.entropy_coef};
  if (options.filters.top_entropy_quantile < 1) {
    grpo::ScoreOptions scoring = step.scoring;
    scoring.with_entropy = true;
    grpo::mask_by_entropy(rows, grpo::score_policy_now(rows, trainer, scoring),
                          options.filters.top_entropy_quantile);
  }
  return step;
}

}  // namespace

void run_grad(CommandContext& context, std::span<const std::string> arguments) {
  GradOptions options;
  grpo::GrpoRunOptions step_options;
  step_options.loss.beta = 0;
  train::TrainerOptions batching{.gradient_checkpointing = false};
  FlagSet flags("grad", "Computes one step's loss and gradients on a recorded batch.");
  flags.add_group("grad", options);
  flags.add_group("loss", step_options.loss);
  flags.add_group("filters", step_options.filters);
  flags.add_group("correction", step_options.correction);
  flags.add_group("memory", batching);
  flags.use_classes(model_flag_classes());
  flags.require("model");
  flags.require("batch");
  if (!begin_command(context, flags, arguments)) return;
  step_options.loss.validate();
  step_options.correction.validate();
  step_options.grpo.max_completion_length = options.max_completion_length;

  context.reads("--model", options.model);
  context.reads("--batch", options.batch);
  if (!options.adapters.empty()) context.reads("--adapters", options.adapters);
  if (!options.output.empty()) {
    check_output_apart(options.output, "--output", context.inputs);
    check_output_path(options.output, options.overwrite, "--output");
    // A folder that cannot be written is reported before the work.
    const AtomicFile probe(options.output);
  }
  const auto use = options.adapters.empty() ? model::WeightUse::kAny : model::WeightUse::kFrozen;
  const auto loaded = load_for_command(context, options.model, options.adapters, use);
  grpo::check_loss(step_options.loss, loaded.weights->config());
  std::vector<grpo::Experience> rows;
  text::for_each_row(options.batch, [&](const std::string& where, Json&& row) {
    text::at_row(where, [&] { round_kept_digits(row); });
    rows.push_back(read_row(row, std::ssize(rows), loaded.weights->config(), where));
    check_row(rows.back(), step_options, where);
  });

  context.phase.start();
  train::Trainer trainer(*loaded.weights, batching, model::list_of(loaded.adapter.get()));
  const grpo::PolicyStep step = make_step(rows, options.temperature, step_options, trainer);
  grpo::Metrics metrics;
  const auto [gradients, fresh, entropy, entropies, loss] =
      grpo::policy_gradients(step, trainer, step_options, metrics);
  if (!options.output.empty())
    write_gradients(options.output, trainer.parameters(), gradients, loaded.adapter.get());
  Json values = metrics.values();
  values.erase("loss");
  if (fresh.logprobs.tokens > 0) values["train/sampler_logprob_max_diff"] = fresh.logprobs.largest;
  int64_t tokens = 0;
  for (const grpo::Experience& row : rows) tokens += row.sample.num_scored();
  const Json result{
      {"loss", loss},
      {"metrics", std::move(values)},
      {"num_tokens", tokens},
      {"grad_norm", trained_norm(trainer.parameters(), gradients, loaded.adapter.get())}};
  std::cout << dump_json(result, /*spaced=*/true) << std::endl;
}

}  // namespace lockstep::cli
