// A sampler's side of the way of weights over TCP: pulls a trainer's block, or what has changed of
// it, into memory of its own.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "sync/weight_image.h"
#include "sync/weight_sender.h"  // SenderAddress

namespace lockstep::sync {

/// Weights that a trainer has ready.
struct OfferedBlock {
  SenderAddress from;
  /// WeightImage::digest() of the block, in hexadecimal digits, and its size.
  std::string digest;
  size_t bytes = 0;
  /// A delta from the weights of this digest; empty: there is none.
  std::string base = {};
  size_t delta_bytes = 0;
};

struct ReceiverLimits {
  /// A connection on which nothing comes for so long is given up.
  std::chrono::milliseconds idle{30'000};
  int connections = 4;
};

/// Keeps the last weights, on which a delta builds, and the memory for the next ones. Not
/// thread-safe.
class WeightReceiver {
 public:
  explicit WeightReceiver(const ReceiverLimits& limits = {}) : limits_(limits) {}

  /// Refuses tensors that are not the model's, of which no byte has come yet.
  using CheckTensors = std::function<void(const WeightImage& image)>;

  /// Returns weights that came whole, each tensor of the digest that was said of it: digested as
  /// the bytes came. The image's bytes stay until the next call. `most_bytes` bounds the memory
  /// that is taken. Throws PeerError "connection-failed", "deadline" or the trainer's code;
  /// FormatError "too-large", "wrong-base" (the trainer sends them whole then), "digest-mismatch",
  /// and what WeightImage, apply_delta() and `check` throw.
  WeightImage receive(const OfferedBlock& offered, size_t most_bytes, const CheckTensors& check);
  /// Gives the memory back.
  void forget();

 private:
  class Buffer;
  WeightImage image(const std::string& where) const;
  void receive_block(const OfferedBlock& offered, const CheckTensors& check);
  void receive_delta(const OfferedBlock& offered);
  void receive_tensors(const OfferedBlock& offered, const WeightImage& image) const;

  ReceiverLimits limits_;
  std::shared_ptr<Buffer> buffer_;
  /// The digest of the weights in the buffer; empty: it holds none.
  std::string held_;
};

}  // namespace lockstep::sync
