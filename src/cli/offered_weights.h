// How a server loads the weights that a trainer offers it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/adapter.h"
#include "net/rollout_protocol.h"
#include "serve/weight_session.h"
#include "sync/shared_memory.h"
#include "sync/weight_image.h"
#include "sync/weight_receiver.h"
#include "train/hf_checkpoint.h"

namespace lockstep::cli {

/// How weights come into the place of those that are served.
enum class UpdateMemory : uint8_t {
  /// They are made beside the old ones, which stay if anything is wrong.
  kBeside,
  /// They are verified where a trainer has them and made when the old ones are gone. If that breaks
  /// off, there are none.
  kInPlace
};

/// What a serve::WeightLoader does for one model. Threads: load() from one at a time, release()
/// from any.
class OfferedWeightsLoader {
 public:
  /// `identity` says what `served` is; `dtype` casts what lies in folders. Keeps neither model nor
  /// weights.
  OfferedWeightsLoader(const train::LoadedModel& served,
                       net::SamplerIdentity identity,
                       std::optional<model::WeightDtype> dtype,
                       UpdateMemory memory = UpdateMemory::kBeside);

  /// Loads and verifies. Throws FormatError: "wrong-model" for the folder of another model;
  /// "missing-tensor", "unknown-tensor", "shape-mismatch", "bad-dtype" for a block of other tensors
  /// than the model's, before any of them is read; "digest-mismatch"; PeerError for a peer that
  /// does not send; and what its parts throw.
  serve::LoadedWeights load(const serve::OfferedWeights& offered);
  /// Reads the adapter of a folder or of a block, which has its adapter_config.json as metadata
  /// "adapter_config", for a model with these parameters. Throws as load() and train::load_adapter
  /// do. Any thread may call it.
  std::unique_ptr<model::Adapter> load_adapter(const serve::OfferedWeights& offered,
                                               std::span<const model::Parameter> parameters) const;
  /// Closes the block that the last weights came from. It is kept open until then, since mapping it
  /// takes as long as reading it; and one that came from a peer, since a delta builds on it.
  void release();

 private:
  struct Tensor {
    std::vector<int64_t> shape;
    at::ScalarType dtype;
  };
  serve::LoadedWeights load_folder(const serve::OfferedWeights& offered) const;
  serve::LoadedWeights load_block(const serve::OfferedWeights& offered);
  serve::LoadedWeights load_from_peer(const serve::OfferedWeights& offered);
  serve::LoadedWeights load_image(std::shared_ptr<const sync::WeightImage> image) const;
  std::shared_ptr<const sync::SharedMemory> open_block(const serve::OfferedWeights& offered);
  void check_tensors(const sync::WeightImage& image) const;

  model::ModelConfig config_;
  net::SamplerIdentity identity_;
  std::optional<model::WeightDtype> dtype_;
  UpdateMemory memory_;
  /// The text model's tensors, by their names in the checkpoint.
  std::map<std::string, Tensor> tensors_;
  /// The most bytes that a block of theirs has.
  size_t most_bytes_ = io::kMaxHeaderBytes;
  std::mutex mutex_;
  std::shared_ptr<const sync::SharedMemory> block_;
  /// Held while weights come from a peer.
  std::mutex receiving_;
  sync::WeightReceiver receiver_;
};

}  // namespace lockstep::cli
