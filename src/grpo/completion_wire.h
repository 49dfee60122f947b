// A request to a sampler and its completions as /v1/completions has them. It needs no libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "base/json_fwd.h"
#include "rollout/completion.h"
#include "rollout/request.h"

namespace lockstep::grpo {

/// The body of a request for POST /v1/completions. `model` is the name that the server gives its
/// model. Its `weight_version` is demanded of the server.
Json completion_body(const rollout::Request& request, const std::string& model);

/// The completions of an answer, in the order of their numbers, all of which must be there, whole,
/// and sampled under the request's weight version. Throws PeerError at `where`: "request-aborted"
/// if the server gave one up, "bad-answer" otherwise.
std::vector<rollout::Completion> read_completions(const Json& answer,
                                                  const rollout::Request& request,
                                                  const std::string& where);

}  // namespace lockstep::grpo
