// SPDX-License-Identifier: Apache-2.0
#include "grpo/make_rollout.h"

#include <chrono>

#include "base/check.h"
#include "base/log.h"
#include "grpo/colocate_rollout.h"
#include "grpo/first_rank_rollout.h"
#include "grpo/http_rollout.h"
#include "grpo/weight_block.h"
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
  std::unique_ptr<WeightBlock> block;

  WeightOffer write(int64_t step, bool anew) {
    return block ? block->write(step, anew) : folder->write(step);
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

/// A server that is not reached by a loopback address; empty: there is none.
std::string remote_server(const RolloutOptions& rollout) {
  for (const std::string& url : rollout.rollout_server)
    if (!net::is_this_machine(url)) return url;
  return "";
}

/// How weights go to the servers: kShm, kTcp or kDirectory. Throws ConfigError "bad-flag" for a way
/// that is asked for and does not lead to them.
SyncTransport choose_transport(const RolloutOptions& rollout) {
  const SyncTransport asked = rollout.sync_transport;
  const auto refuse = [&](const std::string& expected, std::string_view got) {
    fail<ConfigError>("bad-flag", "--sync_transport", "expected {} with {}, got {}", expected,
                      enum_name(asked), got);
  };
  const std::string remote = remote_server(rollout);
  if (asked == SyncTransport::kShm && !remote.empty()) refuse("servers of this machine", remote);
  if (asked == SyncTransport::kTcp && !remote.empty() && rollout.sync_address.empty())
    refuse("--sync_address, under which servers of other machines reach this one,", remote);
  if (asked != SyncTransport::kAuto) return asked;
  if (!rollout.sync_address.empty()) return SyncTransport::kTcp;
  return remote.empty() ? SyncTransport::kShm : SyncTransport::kDirectory;
}

/// The block from which servers take weights or, with a prefix, adapters; null: they take folders.
/// Throws ConfigError "bad-flag", IoError "no-shared-memory", "cannot-listen".
std::unique_ptr<WeightBlock> make_block(const RolloutOptions& rollout,
                                        const train::LoadedModel& model,
                                        bool merges_adapter,
                                        const std::string& adapter_prefix) {
  const SyncTransport transport = choose_transport(rollout);
  const auto refuse = [&](const char* flag, const std::string& got) {
    fail<ConfigError>("bad-flag", flag, "expected --sync_transport tcp with {}, got {}", got,
                      enum_name(transport));
  };
  if (transport != SyncTransport::kTcp) {
    if (!rollout.sync_address.empty()) refuse("--sync_address", rollout.sync_address);
    if (rollout.sync_mode == SyncMode::kDelta) refuse("--sync_mode", "delta");
  }
  if (transport == SyncTransport::kDirectory) return nullptr;
  WeightBlockOptions options{.merges_adapter = merges_adapter, .adapter_prefix = adapter_prefix};
  if (transport == SyncTransport::kTcp) {
    options.listen = rollout.sync_address.empty() ? ListenAddress{.host = "127.0.0.1"}
                                                  : parse_listen_address(rollout.sync_address);
    // A copy inside this machine is quicker than finding out what has changed.
    options.makes_deltas =
        adapter_prefix.empty() &&
        (rollout.sync_mode == SyncMode::kDelta ||
         (rollout.sync_mode == SyncMode::kAuto && !remote_server(rollout).empty()));
  }
  try {
    return std::make_unique<WeightBlock>(model, options);
  } catch (const IoError& error) {
    if (rollout.sync_transport != SyncTransport::kAuto || error.code() != "no-shared-memory" ||
        options.listen)
      throw;
    log_warning("{}; weights go to the servers through a folder", error.what());
    return nullptr;
  }
}

/// vLLM takes adapters in a form and of modules of its own, merged weights of any.
bool sends_all_weights(const RolloutOptions& rollout) {
  return rollout.sync_mode == SyncMode::kFull || rollout.sync_mode == SyncMode::kDelta ||
         (rollout.sync_mode == SyncMode::kAuto && rollout.rollout_engine == RolloutEngine::kVllm);
}

/// Throws ConfigError "bad-flag" for weights that servers could not take.
void check_sync_mode(const RolloutOptions& rollout, const train::LoadedModel& model) {
  if (!model.adapter) {
    if (rollout.sync_mode == SyncMode::kAdapter)
      fail<ConfigError>("bad-flag", "--sync_mode",
                        "expected auto, full or delta where no adapter is trained, got adapter");
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

/// What the first rank has of the servers.
std::unique_ptr<RolloutClient> make_served(const GrpoRunOptions& options,
                                           const RunContext& context,
                                           const train::LoadedModel& model) {
  const RolloutOptions& rollout = options.rollout;
  const bool merges = model.adapter && sends_all_weights(rollout);
  check_sync_mode(rollout, model);
  const std::filesystem::path run = context.claim.path;
  auto places = std::make_unique<WeightPlaces>();
  places->folder = std::make_unique<WeightWriter>(
      model,
      rollout.sync_directory.empty() ? run / "sync" : std::filesystem::path(rollout.sync_directory),
      run, merges);
  const std::optional<BaseWeights> base = places->folder->base();
  places->block = make_block(rollout, model, merges, base ? base->adapter_prefix : "");
  const HttpRolloutOptions http{
      .urls = rollout.rollout_server,
      .engine = rollout.rollout_engine,
      .api_key = rollout.rollout_api_key,
      .max_model_len = options.engine.max_model_len,
      .start_timeout = milliseconds_of(std::min(rollout.rollout_timeout, kLongestStart)),
      .request_timeout = milliseconds_of(rollout.rollout_timeout),
      .sync_timeout = milliseconds_of(rollout.sync_timeout),
      .on_loss = rollout.on_server_loss,
      .base = base,
      .has_merged_weights = merges,
      .makes_turns = options.agent.is_on(),
      .needs_experts = options.replay.by_sampler(),
      .shared_bytes = places->block ? places->block->bytes() : 0};
  return std::make_unique<ServedRollout>(http, identity_of(options, context, *model.weights),
                                         std::move(places));
}

}  // namespace

std::unique_ptr<RolloutClient> make_rollout(const GrpoRunOptions& options,
                                            const RunContext& context,
                                            const train::LoadedModel& model,
                                            const text::Tokenizer& tokenizer,
                                            rollout::Engine& engine) {
  if (options.rollout.rollout_mode == RolloutMode::kColocate)
    return std::make_unique<ColocateRollout>(engine, *model.weights, tokenizer, context.exact,
                                             model.adapter.get());
  return std::make_unique<FirstRankRollout>(*context.ranks,
                                            [&] { return make_served(options, context, model); });
}

}  // namespace lockstep::grpo
