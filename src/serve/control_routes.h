// The routes of a trainer and of an operator, in vLLM's dialect and, for a few, ms-swift's.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/json.h"
#include "rollout/engine_service.h"
#include "serve/metrics.h"
#include "serve/router.h"
#include "serve/weight_session.h"

namespace lockstep::serve {

/// What the routes tell of the server.
struct ControlFacts {
  /// The program's version.
  std::string version;
  /// What requests call the model, and the folder that it was read from.
  std::string model_name, model_path;
  /// The object "lockstep" of /server_info (net::to_json of a SamplerInfo).
  Json sampler_info;
  /// Open connections.
  std::function<int64_t()> connections = [] { return int64_t{0}; };
};

/// Answers /health, /ping, /version, /metrics, /server_info, /get_world_size and the routes by
/// which a trainer pauses the sampler and changes its weights.
///
/// Updates of the weights run one after another on a thread of its own, so that a folder that is
/// read holds up no other request.
class ControlRoutes {
 public:
  /// All references must outlive it.
  ControlRoutes(rollout::EngineService& engine,
                ServerMetrics& metrics,
                ControlFacts facts,
                WeightLoader loader,
                std::function<std::map<std::string, std::string>()> initial_checksums,
                const WeightSessionLimits& limits = {});
  /// Waits for an update that is being read.
  ~ControlRoutes();

  /// Adds the routes; they must not be called after this object has died.
  void add_to(Router& router);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::serve
