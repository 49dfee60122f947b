// SPDX-License-Identifier: Apache-2.0
#include "grpo/weight_offer.h"

#include "base/json.h"

namespace lockstep::grpo {

Json update_info(const WeightOffer& weights, bool with_delta) {
  const std::string& digest = weights.block_digest.empty() ? weights.digest : weights.block_digest;
  Json info{{"digest", digest}};
  if (weights.is_folder()) {
    info["transport"] = "directory";
    info["path"] = weights.path.string();
    return info;
  }
  info["bytes"] = weights.bytes;
  if (!weights.shared_memory.empty()) {
    info["transport"] = "shm";
    info["name"] = weights.shared_memory;
    return info;
  }
  info["transport"] = "tcp";
  info["host"] = weights.host;
  info["port"] = weights.port;
  info["token"] = weights.token;
  if (with_delta) {
    info["base"] = weights.base;
    info["delta_bytes"] = weights.delta_bytes;
  }
  return info;
}

}  // namespace lockstep::grpo
