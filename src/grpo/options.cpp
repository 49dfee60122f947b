// SPDX-License-Identifier: Apache-2.0
#include "grpo/options.h"

#include "base/check.h"

namespace lockstep::grpo {

std::span<const EnumName<Interval>> enum_names(Interval) {
  static constexpr EnumName<Interval> kNames[] = {
      {Interval::kNo, "no"}, {Interval::kSteps, "steps"}, {Interval::kEpoch, "epoch"}};
  return kNames;
}

std::span<const EnumName<SaveStrategy>> enum_names(SaveStrategy) {
  static constexpr EnumName<SaveStrategy> kNames[] = {{SaveStrategy::kNo, "no"},
                                                      {SaveStrategy::kSteps, "steps"},
                                                      {SaveStrategy::kEpoch, "epoch"},
                                                      {SaveStrategy::kBest, "best"}};
  return kNames;
}

Interval RunOptions::evaluation() const {
  if (eval_strategy) return *eval_strategy;
  switch (save_strategy) {
    case SaveStrategy::kNo:
      return Interval::kNo;
    case SaveStrategy::kEpoch:
      return Interval::kEpoch;
    case SaveStrategy::kSteps:
    case SaveStrategy::kBest:
      break;
  }
  return Interval::kSteps;
}

std::span<const EnumName<OnInexact>> enum_names(OnInexact) {
  static constexpr EnumName<OnInexact> kNames[] = {{OnInexact::kStop, "stop"},
                                                   {OnInexact::kWarn, "warn"}};
  return kNames;
}

std::span<const EnumName<TruncationStrategy>> enum_names(TruncationStrategy) {
  static constexpr EnumName<TruncationStrategy> kNames[] = {
      {TruncationStrategy::kLeft, "left"}, {TruncationStrategy::kDelete, "delete"}};
  return kNames;
}

std::span<const EnumName<ReuseActivations>> enum_names(ReuseActivations) {
  static constexpr EnumName<ReuseActivations> kNames[] = {{ReuseActivations::kAuto, "auto"},
                                                          {ReuseActivations::kTrue, "true"},
                                                          {ReuseActivations::kFalse, "false"}};
  return kNames;
}

std::span<const EnumName<RolloutMode>> enum_names(RolloutMode) {
  static constexpr EnumName<RolloutMode> kNames[] = {{RolloutMode::kColocate, "colocate"},
                                                     {RolloutMode::kServer, "server"}};
  return kNames;
}

std::span<const EnumName<RolloutEngine>> enum_names(RolloutEngine) {
  static constexpr EnumName<RolloutEngine> kNames[] = {{RolloutEngine::kAuto, "auto"},
                                                       {RolloutEngine::kLockstep, "lockstep"},
                                                       {RolloutEngine::kVllm, "vllm"}};
  return kNames;
}

std::span<const EnumName<SyncTransport>> enum_names(SyncTransport) {
  static constexpr EnumName<SyncTransport> kNames[] = {{SyncTransport::kAuto, "auto"},
                                                       {SyncTransport::kShm, "shm"},
                                                       {SyncTransport::kTcp, "tcp"},
                                                       {SyncTransport::kDirectory, "directory"}};
  return kNames;
}

std::span<const EnumName<SyncMode>> enum_names(SyncMode) {
  static constexpr EnumName<SyncMode> kNames[] = {{SyncMode::kAuto, "auto"},
                                                  {SyncMode::kFull, "full"},
                                                  {SyncMode::kDelta, "delta"},
                                                  {SyncMode::kAdapter, "adapter"}};
  return kNames;
}

std::span<const EnumName<OnServerLoss>> enum_names(OnServerLoss) {
  static constexpr EnumName<OnServerLoss> kNames[] = {{OnServerLoss::kContinue, "continue"},
                                                      {OnServerLoss::kStop, "stop"}};
  return kNames;
}

void RolloutOptions::validate() const {
  if (is_served() && rollout_server.empty())
    fail<ConfigError>("bad-flag", "--rollout_server",
                      "expected the URL of a server with --rollout_mode server, got none");
  if (!is_served() && !rollout_server.empty())
    fail<ConfigError>("bad-flag", "--rollout_server",
                      "expected none with --rollout_mode colocate, got {} (say --rollout_mode "
                      "server)",
                      rollout_server.front());
  if (!is_served() && async_generate)
    fail<ConfigError>("bad-flag", "--async_generate",
                      "expected --rollout_mode server, got colocate (a sampler that reads the "
                      "trainer's own weights cannot sample while they change)");
  if (rollout_engine == RolloutEngine::kVllm && sync_mode == SyncMode::kAdapter)
    fail<ConfigError>(
        "bad-flag", "--sync_mode",
        "expected auto, full or delta with --rollout_engine vllm, which gets merged weights, "
        "got adapter");
  if (!is_served() && sync_mode != SyncMode::kAuto)
    fail<ConfigError>("bad-flag", "--sync_mode",
                      "expected auto with --rollout_mode colocate, got {} (the sampler reads the "
                      "trainer's own weights)",
                      enum_name(sync_mode));
  if (is_served() && reuse_rollout_activations == ReuseActivations::kTrue)
    fail<ConfigError>("bad-flag", "--reuse_rollout_activations",
                      "expected auto or false with --rollout_mode server, got true (what the "
                      "layers of a server read stays there)");
}

}  // namespace lockstep::grpo
