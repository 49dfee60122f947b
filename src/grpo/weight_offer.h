// Weights that servers can take, and the message that says where they are.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/json_fwd.h"

namespace lockstep::grpo {

/// Weights that servers can load: a checkpoint or an adapter in a folder, or all weights in a block
/// that they read in shared memory or pull over TCP.
struct WeightOffer {
  std::filesystem::path path = {};
  /// The block's name in shared memory; empty: it is not there.
  std::string shared_memory = {};
  /// Where the trainer listens, and its secret; an empty host: nowhere.
  std::string host = {};
  uint16_t port = 0;
  std::string token = {};
  /// The block's size.
  size_t bytes = 0;
  /// Over TCP: the digest of the weights of before, and the size of what has changed since; empty:
  /// there are the whole weights alone.
  std::string base = {};
  size_t delta_bytes = 0;
  /// Of all elements, those that are as they were before; unset: nobody has looked.
  std::optional<double> sparsity = {};
  /// In hexadecimal digits: train::digest_tensors of a checkpoint, model::adapter_digest of an
  /// adapter, sync::WeightImage::digest of the block of all weights.
  std::string digest;
  /// sync::WeightImage::digest of an adapter's block; empty: `digest` is it.
  std::string block_digest = {};
  /// net::weight_label.
  std::string label;
  /// What servers call the adapter, and how many pairs it has; empty: these are all weights.
  std::string adapter_name = {};
  int64_t num_pairs = 0;

  bool is_folder() const { return shared_memory.empty() && host.empty(); }
  /// Whether what has changed suffices for a server that holds the weights of this digest.
  bool has_delta_from(const std::string& held) const { return !base.empty() && held == base; }
  /// How many bytes of weights a server takes; a folder's are not counted.
  int64_t bytes_taken(bool with_delta) const {
    return static_cast<int64_t>(with_delta ? delta_bytes : bytes);
  }
};

/// The update_info of vLLM's /update_weights, as our server (serve/weight_requests.h) and the
/// plugin of integrations/vllm read it.
Json update_info(const WeightOffer& weights, bool with_delta);

}  // namespace lockstep::grpo
