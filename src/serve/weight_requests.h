// What a trainer's requests about weights say: the bodies of vLLM's routes, with the fields of the
// backend "lockstep".
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

#include "base/json_fwd.h"
#include "serve/weight_session.h"

namespace lockstep::serve {

/// The data plane's name, and the one that it is also taken under: that of folders alone.
inline constexpr std::string_view kWeightBackend = "lockstep";
inline constexpr std::string_view kFolderBackend = "directory";

/// Checks the body of /init_weight_transfer_engine. Throws RequestError 400 "unknown-backend",
/// "bad-request".
void check_init_request(const Json& body);

/// Reads the body of /update_weights: update_info is one of
///
///   {"transport": "directory", "path", "digest"}
///   {"transport": "shm", "name", "bytes", "digest"}
///   {"transport": "tcp", "host", "port", "token", "bytes", "digest" [, "base", "delta_bytes"]}
///
/// or a list of one such object. Throws RequestError 400 "bad-request" naming the field.
OfferedWeights read_update_request(const Json& body);

}  // namespace lockstep::serve
