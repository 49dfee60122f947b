// SPDX-License-Identifier: Apache-2.0
#include "serve/error_answer.h"

#include <utility>

#include <fmt/format.h>

#include "base/check.h"
#include "base/log.h"
#include "serve/json_text.h"

namespace lockstep::serve {
namespace {

/// OpenAI's name for a kind of error.
std::string_view error_type(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 409:
      return "conflict_error";
    case 429:
      return "rate_limit_error";
    case 503:
      return "overloaded_error";
    default:
      return status < 500 ? "invalid_request_error" : "server_error";
  }
}

}  // namespace

std::string error_body(int status,
                       std::string_view message,
                       std::string_view param,
                       std::string_view code) {
  const auto text_or_null = [](std::string_view text) {
    return text.empty() ? std::string("null") : json_text(text);
  };
  return "{\"error\":{\"message\":" + json_text(message) +
         ",\"type\":" + json_text(error_type(status)) + ",\"param\":" + text_or_null(param) +
         ",\"code\":" + text_or_null(code) + "}}";
}

HttpResponse error_response(int status,
                            std::string_view message,
                            std::string_view param,
                            std::string_view code) {
  HttpResponse response{.status = status, .body = error_body(status, message, param, code)};
  if (status == 503) response.headers.emplace_back("Retry-After", "1");
  if (status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

void respond_error(HttpResponder& responder, const std::exception& error) {
  if (const auto* const known = dynamic_cast<const RequestError*>(&error))
    return responder.respond(
        error_response(known->status(), known->what(), known->where(), known->code()));
  log_warning("a request failed: {}", error.what());
  responder.respond(error_response(500, "the request could not be worked on", "", "internal"));
}

void refuse_method(const HttpRequest& request, HttpResponder& responder, std::string_view methods) {
  responder.set_header("Allow", std::string(methods));
  throw RequestError(
      405, "bad-method", "",
      fmt::format("{}: expected {}, got {}", request.path, methods, request.method.substr(0, 20)));
}

}  // namespace lockstep::serve
