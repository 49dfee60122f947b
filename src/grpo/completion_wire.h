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

/// The same for vLLM, which knows no weight versions. Its seed stands for everything that tells
/// this request's draws from others'.
Json vllm_completion_body(const rollout::Request& request, const std::string& model);

/// The completions of an answer, in the order of their numbers, all of which must be there, whole,
/// and sampled under the request's weight version. Throws PeerError at `where`: "request-aborted"
/// if the server gave one up, "bad-answer" otherwise.
std::vector<rollout::Completion> read_completions(const Json& answer,
                                                  const rollout::Request& request,
                                                  const std::string& where);
/// The same for an answer of vLLM's, which does not say under which weights it sampled.
std::vector<rollout::Completion> read_vllm_completions(const Json& answer,
                                                       const rollout::Request& request,
                                                       const std::string& where);

}  // namespace lockstep::grpo
