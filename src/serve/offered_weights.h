// Where a trainer says that weights lie: the fields that the backend "lockstep" has in the bodies
// of vLLM's routes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/json_fwd.h"

namespace lockstep::serve {

/// The data plane's name, and the one that it is also taken under: that of folders alone.
inline constexpr std::string_view kWeightBackend = "lockstep";
inline constexpr std::string_view kFolderBackend = "directory";

/// Where a trainer waits for those who pull weights (sync/weight_receiver.h).
struct WeightPeer {
  /// Empty: nowhere.
  std::string host;
  uint16_t port = 0;
  std::string token;
  /// The digest of the weights from which there is a delta, and its size; empty: there is none.
  std::string base;
  size_t delta_bytes = 0;
};

/// Where a trainer says that weights lie: in a checkpoint's folder, in a block of shared memory, or
/// with a peer.
struct OfferedWeights {
  std::filesystem::path folder;
  /// The name of a block of shared memory (sync/shared_memory.h); empty: they are not there.
  std::string shared_memory;
  WeightPeer peer;
  /// The block's size.
  size_t bytes = 0;
  /// Of all tensors, in hexadecimal digits: train::digest_tensors of a folder,
  /// sync::WeightImage::digest of a block. Empty: not said.
  std::string digest;

  bool is_folder() const { return shared_memory.empty() && peer.host.empty(); }
  /// What errors call it, and the field that names it.
  std::string where() const;
  const char* field() const;
};

/// Checks the body of /init_weight_transfer_engine, and returns the trainer's name for itself, or
/// "". Throws RequestError 400 "unknown-backend", "bad-request".
std::string read_init_request(const Json& body);

/// Reads the member update_info of a body, which is one of
///
///   {"transport": "directory", "path", "digest"}
///   {"transport": "shm", "name", "bytes", "digest"}
///   {"transport": "tcp", "host", "port", "token", "bytes", "digest" [, "base", "delta_bytes"]}
///
/// or a list of one such object. Throws RequestError 400 "bad-request" naming the field.
OfferedWeights read_update_info(const Json& body);

}  // namespace lockstep::serve
