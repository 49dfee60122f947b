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
#include "grpo/loss.h"
#include "grpo/token_rows.h"
#include "io/safetensors.h"
#include "model/adapter_names.h"
#include "tensor/aten.h"
#include "text/row_files.h"
#include "train/adamw.h"
#include "train/trainer.h"

namespace lockstep::cli {
namespace {

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
          "JSON lines with input_ids, completion_mask, advantage and recorded log-probabilities.");
    visit("output", output, "safetensors file for the gradients; unset: none.");
    visit("overwrite", overwrite, "Replaces an existing output.");
    visit("temperature", temperature, "Divides the logits.", Range::logit_factor());
    visit("max_completion_length", max_completion_length, "dr_grpo's constant.",
          Range::at_least(1));
  }
};

/// A recorded row.
struct Recorded {
  train::Sample sample;
  std::vector<double> advantages;
  std::vector<float> old_logprobs, ref_logprobs, rollout_logprobs;
};

Recorded read_row(const Json& row, int64_t vocab_size, const std::string& where) {
  if (!row.contains("completion_mask"))
    fail<FormatError>("bad-row", where, "expected a completion_mask, got none");
  Recorded recorded{grpo::token_row(row, vocab_size, where), {}, {}, {}, {}};
  const auto numbers = [&](const char* key) {
    return text::numbers_of(row, key, static_cast<size_t>(recorded.sample.num_scored()),
                            "1 of completion_mask", where);
  };
  if (!row.contains("advantage"))
    fail<FormatError>("bad-row", where, "expected an advantage, got none");
  if (row["advantage"].is_number())
    recorded.advantages = {row["advantage"].get<double>()};
  else
    recorded.advantages = numbers("advantage");
  const auto logprobs = [&](const char* key) {
    std::vector<float> values;
    if (row.contains(key) && !row[key].is_null())
      for (const double value : numbers(key)) values.push_back(static_cast<float>(value));
    return values;
  };
  recorded.old_logprobs = logprobs("old_logprobs");
  recorded.ref_logprobs = logprobs("ref_logprobs");
  recorded.rollout_logprobs = logprobs("rollout_logprobs");
  return recorded;
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

grpo::SampleTerms terms_of(const Recorded& row, const train::SampleScores& scores) {
  return {.logprobs = scores.logprobs,
          .old_logprobs = row.old_logprobs,
          .ref_logprobs = row.ref_logprobs,
          .advantages = row.advantages};
}

/// Sums over the rows.
struct StepSums {
  grpo::SampleLossResult loss;
  double difference_max = 0;
  bool has_rollout = false;

  void add(const Recorded& row,
           const train::SampleScores& scores,
           const grpo::SampleLossResult& result) {
    loss.loss += result.loss;
    loss.kl_sum += result.kl_sum;
    loss.low_clipped += result.low_clipped;
    loss.high_clipped += result.high_clipped;
    for (size_t t = 0; t < row.rollout_logprobs.size(); ++t) {
      has_rollout = true;
      difference_max = std::max(difference_max,
                                train::difference_of(scores.logprobs[t], row.rollout_logprobs[t]));
    }
  }

  Json metrics(int64_t completion_tokens, bool with_kl) const {
    const auto tokens = static_cast<double>(std::max<int64_t>(completion_tokens, 1));
    Json metrics{{"clip_ratio/low_mean", static_cast<double>(loss.low_clipped) / tokens},
                 {"clip_ratio/high_mean", static_cast<double>(loss.high_clipped) / tokens}};
    if (with_kl) metrics["kl"] = loss.kl_sum / tokens;
    if (has_rollout) metrics["train/sampler_logprob_max_diff"] = difference_max;
    return metrics;
  }
};

}  // namespace

void run_grad(CommandContext& context, std::span<const std::string> arguments) {
  GradOptions options;
  grpo::LossOptions loss{.beta = 0};
  train::TrainerOptions batching{.gradient_checkpointing = false};
  FlagSet flags("grad", "Computes one step's loss and gradients on a recorded batch.");
  flags.add_group("grad", options);
  flags.add_group("loss", loss);
  flags.add_group("memory", batching);
  flags.use_classes(model_flag_classes());
  flags.require("model");
  flags.require("batch");
  if (!begin_command(context, flags, arguments)) return;

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
  std::vector<Recorded> rows;
  std::vector<train::Sample> samples;
  grpo::StepCounts counts{.max_completion_length = options.max_completion_length};
  text::for_each_row(options.batch, [&](const std::string& where, Json&& row) {
    text::at_row(where, [&] { round_kept_digits(row); });
    rows.push_back(read_row(row, loaded.weights->config().vocab_size, where));
    if (loss.beta > 0 && rows.back().ref_logprobs.empty())
      fail<FormatError>("bad-row", where, "expected ref_logprobs with beta {}, got none",
                        loss.beta);
    // Without a KL term the reference is not used, as in grpo.
    if (!(loss.beta > 0)) rows.back().ref_logprobs.clear();
    samples.push_back(rows.back().sample);
    ++counts.samples;
    counts.completion_tokens += samples.back().num_scored();
  });
  counts.loss_tokens = counts.completion_tokens;

  context.phase.start();
  train::Trainer trainer(*loaded.weights, batching, model::list_of(loaded.adapter.get()));
  StepSums sums;
  const auto gradients = trainer.gradients(
      samples, {.temperature = options.temperature},
      [&](int64_t index, const train::SampleScores& scores, std::span<float> gradient) {
        sums.add(rows[static_cast<size_t>(index)], scores,
                 grpo::sample_loss(terms_of(rows[static_cast<size_t>(index)], scores), loss, counts,
                                   gradient));
      });
  if (!options.output.empty())
    write_gradients(options.output, trainer.parameters(), gradients, loaded.adapter.get());
  const Json result{
      {"loss", sums.loss.loss},
      {"metrics", sums.metrics(counts.completion_tokens, loss.beta > 0)},
      {"num_tokens", counts.completion_tokens},
      {"grad_norm", trained_norm(trainer.parameters(), gradients, loaded.adapter.get())}};
  std::cout << dump_json(result, /*spaced=*/true) << std::endl;
}

}  // namespace lockstep::cli
