// Errors as a client is told of them: OpenAI's form, and the headers that belong to a status.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <exception>
#include <string>
#include <string_view>

#include "serve/http_server.h"

namespace lockstep::serve {

/// The body of an error in OpenAI's form. `param` is the field of the request that is wrong; empty:
/// none. `code` is one of the project's ("bad-request"); empty: none.
std::string error_body(int status,
                       std::string_view message,
                       std::string_view param = {},
                       std::string_view code = {});

/// The whole answer for an error.
HttpResponse error_response(int status,
                            std::string_view message,
                            std::string_view param,
                            std::string_view code);

/// Answers a request with an error's own status, or with 500 for one that is no RequestError.
void respond_error(HttpResponder& responder, const std::exception& error);

/// Throws RequestError 405 "bad-method" for a path that knows `methods` only, and names them in the
/// answer's header Allow.
[[noreturn]] void refuse_method(const HttpRequest& request,
                                HttpResponder& responder,
                                std::string_view methods);

}  // namespace lockstep::serve
