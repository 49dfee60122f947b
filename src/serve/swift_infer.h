// ms-swift's /infer: many chats in one request, each answered once.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>
#include <vector>

#include "serve/http_server.h"  // HttpResponder
#include "serve/openai_request.h"

namespace lockstep::serve {

/// Reads {"infer_requests": [{"messages", "tools", …}], "request_config": {…}, "adapter_request":
/// {"name": …}}. Throws RequestError 400 at the field, as parse_chat_request() does, for one
/// request after another.
///
/// Source: ms-swift 4.6, infer_engine/protocol.py (RolloutInferRequest, RequestConfig,
/// AdapterRequest).
std::vector<OpenAiRequest> parse_rollout_requests(std::string_view body,
                                                  const RequestBounds& bounds);

/// A responder for the answer of each of `count` requests; together they answer with a list of
/// ms-swift's RolloutOutput, in order. The first error is the answer of all, and ends the others.
std::vector<std::shared_ptr<HttpResponder>> rollout_responders(
    size_t count, const std::shared_ptr<HttpResponder>& responder);

}  // namespace lockstep::serve
