// SPDX-License-Identifier: Apache-2.0
#include "grpo/make_rollout.h"

#include <chrono>

#include "base/check.h"
#include "base/log.h"
#include "grpo/colocate_rollout.h"
#include "grpo/http_rollout.h"
#include "grpo/shared_weights.h"
#include "grpo/weight_writer.h"
#include "model/adapter_merge.h"
#include "model/identity.h"
#include "net/http_client.h"
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

/// Puts weights where servers find them.
struct WeightPlaces {
  std::unique_ptr<WeightWriter> folder;
  /// Null where they go through the folder.
  std::unique_ptr<SharedWeights> shared;

  WeightOffer write(int64_t step, bool anew) {
    return shared ? shared->write(step, anew) : folder->write(step);
  }
};

/// Servers, with the writer of their weights.
class ServedRollout : public HttpRollout {
 public:
  ServedRollout(const HttpRolloutOptions& options,
                const net::SamplerIdentity& expected,
                std::unique_ptr<WeightPlaces> places)
      : HttpRollout(
            options,
            expected,
            [&places = *places](int64_t step, bool anew) { return places.write(step, anew); }),
        places_(std::move(places)) {}

 private:
  std::unique_ptr<WeightPlaces> places_;
};

/// The block for servers that take whole weights on this machine; null: they take folders. Throws
/// ConfigError "bad-flag", IoError "no-shared-memory".
std::unique_ptr<SharedWeights> make_shared_weights(const RolloutOptions& rollout,
                                                   const train::LoadedModel& model,
                                                   bool merges_adapter) {
  const bool is_asked = rollout.sync_transport == SyncTransport::kShm;
  const auto refuse = [&](const char* expected, const std::string& got) {
    if (is_asked)
      fail<ConfigError>("bad-flag", "--sync_transport", "expected {} with shm, got {}", expected,
                        got);
    return nullptr;
  };
  if (!is_asked && rollout.sync_transport != SyncTransport::kAuto) return nullptr;
  if (model.adapter && !merges_adapter)
    return refuse("--sync_mode full where an adapter is trained",
                  std::string(enum_name(rollout.sync_mode)));
  for (const std::string& url : rollout.rollout_server)
    if (!net::is_this_machine(url)) return refuse("servers of this machine", url);
  try {
    return std::make_unique<SharedWeights>(model, merges_adapter);
  } catch (const IoError& error) {
    if (is_asked || error.code() != "no-shared-memory") throw;
    log_warning("{}; weights go to the servers through a folder", error.what());
    return nullptr;
  }
}

/// vLLM takes adapters in a form and of modules of its own, merged weights of any.
bool sends_all_weights(const RolloutOptions& rollout) {
  return rollout.sync_mode == SyncMode::kFull ||
         (rollout.sync_mode == SyncMode::kAuto && rollout.rollout_engine == RolloutEngine::kVllm);
}

/// Throws ConfigError "bad-flag" for weights that servers could not take.
void check_sync_mode(const RolloutOptions& rollout, const train::LoadedModel& model) {
  if (!model.adapter) {
    if (rollout.sync_mode == SyncMode::kAdapter)
      fail<ConfigError>("bad-flag", "--sync_mode",
                        "expected auto or full where no adapter is trained, got adapter");
    return;
  }
  if (!sends_all_weights(rollout)) {
    if (!model.adapter->saved().empty())
      fail<ConfigError>(
          "bad-flag", "--sync_mode",
          "expected full where modules are trained whole (--modules_to_save), got {}: a server "
          "mixes adapters in one step over one copy of the model",
          enum_name(rollout.sync_mode));
    return;
  }
  if (model::MergedWeights(train::checkpoint_parameters(model), *model.adapter).unties_head())
    fail<ConfigError>("bad-flag", "--sync_mode",
                      "expected adapter where the adapter unties the model's head, got full: the "
                      "servers' model has one tensor for embedding and head");
  log_info(
      "servers get the weights with the adapter merged into them, in {}: their log-probabilities "
      "are close to the trainer's, not the same bits (--sync_mode adapter: they are)",
      enum_name(model.weights->weight_dtype()));
}

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
  const bool merges = model.adapter && sends_all_weights(rollout);
  check_sync_mode(rollout, model);
  const std::filesystem::path run = context.claim.path;
  auto places = std::make_unique<WeightPlaces>();
  places->folder = std::make_unique<WeightWriter>(
      model,
      rollout.sync_directory.empty() ? run / "sync" : std::filesystem::path(rollout.sync_directory),
      run, merges);
  places->shared = make_shared_weights(rollout, model, merges);
  const HttpRolloutOptions http{
      .urls = rollout.rollout_server,
      .engine = rollout.rollout_engine,
      .api_key = rollout.rollout_api_key,
      .max_model_len = options.engine.max_model_len,
      .start_timeout = milliseconds_of(std::min(rollout.rollout_timeout, kLongestStart)),
      .request_timeout = milliseconds_of(rollout.rollout_timeout),
      .sync_timeout = milliseconds_of(rollout.sync_timeout),
      .on_loss = rollout.on_server_loss,
      .base = places->folder->base(),
      .has_merged_weights = merges,
      .shared_bytes = places->shared ? places->shared->bytes() : 0};
  return std::make_unique<ServedRollout>(http, identity_of(options, context, *model.weights),
                                         std::move(places));
}

}  // namespace lockstep::grpo
