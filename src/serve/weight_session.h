// An update of the weights, from its start to its commit: staged whole and verified before anything
// changes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "rollout/engine_service.h"
#include "serve/offered_weights.h"

namespace lockstep::serve {

/// Weights that were loaded whole and fit the model.
struct LoadedWeights {
  std::unique_ptr<rollout::StagedWeights> weights;
  /// Of all tensors, in hexadecimal digits.
  std::string digest;
  /// Of each tensor, by its checkpoint name.
  std::map<std::string, std::string> checksums;
};

struct WeightLoader {
  /// Loads weights and verifies them against the served model: configuration, names, shapes, types
  /// and the digests that are said. Throws an Error of the project for weights that do not fit.
  /// Called on a thread of its own.
  std::function<LoadedWeights(const OfferedWeights& offered)> load;
  /// Lets go of what load() keeps for a trainer's next update. Called by any thread.
  std::function<void()> release = [] {};
};

struct WeightSessionLimits {
  /// For a folder to be loaded, and for the sampler to take what was loaded.
  std::chrono::milliseconds load_timeout{std::chrono::minutes(10)};
  std::chrono::milliseconds swap_timeout{std::chrono::minutes(2)};
};

/// The one update that can be open.
///
///   closed ── start ─▶ open ── update ─▶ staged ── finish ─▶ closed, new weights
///   open, staged ── an update that fails, init ─▶ closed, old weights
///
/// Not thread-safe: one thread calls, and waits here while a folder is loaded or weights are
/// swapped. All errors are RequestErrors, and the old weights go on after each of them.
class WeightSession {
 public:
  /// `initial_checksums` tells those of the weights that the sampler began with; it is called when
  /// they are asked for. The engine must outlive it.
  WeightSession(rollout::EngineService& engine,
                WeightLoader loader,
                std::function<std::map<std::string, std::string>()> initial_checksums,
                const WeightSessionLimits& limits = {});
  /// Waits until nothing is loaded any more.
  ~WeightSession();
  WeightSession(const WeightSession&) = delete;
  WeightSession& operator=(const WeightSession&) = delete;

  /// A new trainer: what an older one left open is dropped. It may give itself a name.
  void init(std::string trainer = "");
  /// Throws 409 "other-session" if a trainer says its name and another one has come since.
  void expect_trainer(const std::string& trainer) const;
  /// Drops the update that is open, if one is.
  void drop();
  /// Throws 409 "update-open".
  void start();
  /// Loads weights in place of what was staged before. Throws 409 "no-update"; and, after which
  /// the update is closed, 400 with the loader's code for weights that do not fit, 409
  /// "digest-mismatch", 503 "still-loading", 504 "deadline".
  void update(const OfferedWeights& offered);
  /// Makes the staged weights current under `version`, or under the digest of their tensors if that
  /// is empty; returns the version. Throws 409 "no-update", "nothing-staged", and, after which the
  /// update is closed, 500 "swap-failed", 504 "deadline".
  std::string finish(const std::string& version);
  /// A trainer's end. Throws 409 "update-open".
  void shutdown();
  const std::map<std::string, std::string>& checksums();

 private:
  void expect_idle_loader();
  LoadedWeights load(const OfferedWeights& offered);

  rollout::EngineService& engine_;
  WeightLoader loader_;
  std::function<std::map<std::string, std::string>()> initial_checksums_;
  WeightSessionLimits limits_;
  /// Who came last; empty: it has not said so.
  std::string trainer_;
  bool is_open_ = false;
  std::optional<LoadedWeights> staged_;
  std::optional<std::map<std::string, std::string>> checksums_;
  std::thread loading_;
  std::future<LoadedWeights> loaded_;
  /// A swap that the sampler has not done in time; it may still do it.
  std::future<void> late_swap_;
  std::map<std::string, std::string> late_checksums_;
};

}  // namespace lockstep::serve
