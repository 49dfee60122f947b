// SPDX-License-Identifier: Apache-2.0
#include "grpo/make_rollout.h"

#include <chrono>

#include "base/check.h"
#include "grpo/colocate_rollout.h"
#include "grpo/http_rollout.h"
#include "grpo/weight_writer.h"
#include "model/identity.h"
#include "text/identity.h"

namespace lockstep::grpo {
namespace {

std::chrono::milliseconds milliseconds_of(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
}

/// A server that nobody reaches when a run begins may still be loading its model.
constexpr double kLongestStart = 240;

/// What a server must be for it to sample this run's tokens.
net::SamplerIdentity identity_of(const GrpoRunOptions& options,
                                 const RunContext& context,
                                 const model::ModelWeights& weights) {
  const std::string& directory = options.training.model.model;
  return {.protocol = net::kRolloutProtocol,
          .model = model::tensors_digest(weights).hex(),
          .configuration = model::configuration_digest(weights.config()).hex(),
          .tokenizer = text::tokenizer_digest(directory).hex(),
          .chat_template = text::template_digest(directory).hex(),
          .dtype = std::string(enum_name(weights.weight_dtype())),
          .is_exact = context.exact};
}

/// Servers, with the writer of their weights.
class ServedRollout : public HttpRollout {
 public:
  ServedRollout(const HttpRolloutOptions& options,
                const net::SamplerIdentity& expected,
                std::unique_ptr<WeightWriter> writer)
      : HttpRollout(
            options, expected, [&writer = *writer](int64_t step) { return writer.write(step); }),
        writer_(std::move(writer)) {}

 private:
  std::unique_ptr<WeightWriter> writer_;
};

}  // namespace

std::unique_ptr<RolloutClient> make_rollout(const GrpoRunOptions& options,
                                            const RunContext& context,
                                            const train::LoadedModel& model,
                                            const text::Tokenizer& tokenizer,
                                            rollout::Engine& engine) {
  const RolloutOptions& rollout = options.rollout;
  if (rollout.rollout_mode == RolloutMode::kColocate)
    return std::make_unique<ColocateRollout>(engine, *model.weights, tokenizer, context.exact,
                                             model.adapter.get());
  if (model.adapter && !model.adapter->saved().empty())
    fail<ConfigError>(
        "bad-flag", "--rollout_mode",
        "expected colocate where modules are trained whole (--modules_to_save), got server: a "
        "server mixes adapters in one step over one copy of the model");
  const std::filesystem::path run = context.claim.path;
  auto writer = std::make_unique<WeightWriter>(
      model,
      rollout.sync_directory.empty() ? run / "sync" : std::filesystem::path(rollout.sync_directory),
      run);
  const HttpRolloutOptions http{
      .urls = rollout.rollout_server,
      .api_key = rollout.rollout_api_key,
      .max_model_len = options.engine.max_model_len,
      .start_timeout = milliseconds_of(std::min(rollout.rollout_timeout, kLongestStart)),
      .request_timeout = milliseconds_of(rollout.rollout_timeout),
      .sync_timeout = milliseconds_of(rollout.sync_timeout),
      .on_loss = rollout.on_server_loss,
      .base = writer->base()};
  return std::make_unique<ServedRollout>(http, identity_of(options, context, *model.weights),
                                         std::move(writer));
}

}  // namespace lockstep::grpo
