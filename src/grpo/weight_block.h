// Puts what is trained, all weights or an adapter, into one block of memory, from which servers
// take it: those of this machine read it, others pull it over TCP.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "grpo/weight_offer.h"
#include "sync/shared_memory.h"
#include "sync/weight_image.h"
#include "sync/weight_sender.h"
#include "train/hf_checkpoint.h"

namespace lockstep::grpo {

/// Where a trainer listens for servers that pull weights.
struct ListenAddress {
  std::string host;
  /// 0: a free one.
  uint16_t port = 0;
};
/// Reads "HOST", "HOST:PORT" or "[IPV6]:PORT". Throws ConfigError "bad-flag" at --sync_address.
ListenAddress parse_listen_address(const std::string& text);

struct WeightBlockOptions {
  /// The model's adapter is merged into the weights, from the base's files.
  bool merges_adapter = false;
  /// The block holds the model's adapter alone, which servers call this with the number of steps;
  /// empty: it holds all weights.
  std::string adapter_prefix = {};
  /// Unset: the block is shared memory of this machine.
  std::optional<ListenAddress> listen = {};
  /// With `listen`: what has changed is there, too, unless it is hardly smaller than the whole.
  bool makes_deltas = false;
};

/// One block holds what is trained as it is that day. Not thread-safe.
class WeightBlock {
 public:
  /// Takes room for the block, and listens if it is to. `model` must outlive it. Throws IoError
  /// "no-shared-memory", "cannot-listen".
  WeightBlock(const train::LoadedModel& model, const WeightBlockOptions& options);

  /// Copies the weights as they are after `step` optimizer steps. `anew`: into another block, since
  /// somebody may still read this one; those who pull are cut off. Throws IoError
  /// "no-shared-memory".
  WeightOffer write(int64_t step, bool anew);
  /// What it takes of this process's memory.
  int64_t bytes() const { return static_cast<int64_t>(block_->bytes().size()); }

 private:
  sync::ImageWriter adapter_writer() const;
  std::shared_ptr<sync::SharedMemory> make_room(size_t bytes) const;
  WeightOffer write_shared(const sync::ImageWriter& writer, bool anew);
  WeightOffer write_sent(const sync::ImageWriter& writer);
  WeightOffer write_adapter(int64_t step);

  const train::LoadedModel* model_;
  WeightBlockOptions options_;
  /// Of all weights; unset where an adapter is written.
  std::optional<sync::ImageWriter> writer_;
  std::shared_ptr<sync::SharedMemory> block_;
  /// Null: the block is shared memory.
  std::unique_ptr<sync::WeightSender> sender_;
  /// The digest of what lies in the block; empty before the first writing.
  std::string digest_;
};

}  // namespace lockstep::grpo
