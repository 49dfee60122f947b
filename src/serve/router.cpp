// SPDX-License-Identifier: Apache-2.0
#include "serve/router.h"

#include <algorithm>
#include <atomic>
#include <random>

#include "base/check.h"
#include "serve/error_answer.h"

namespace lockstep::serve {
namespace {

/// Takes as long for a key that is nearly right as for another of its length.
bool is_same_key(std::string_view given, std::string_view key) {
  unsigned difference = given.size() == key.size() ? 0 : 1;
  for (size_t i = 0; i < given.size(); ++i)
    difference |=
        static_cast<unsigned char>(given[i]) ^ static_cast<unsigned char>(key[i % key.size()]);
  return difference == 0;
}

/// An id that a client gave, if it can stand in a header and a log.
bool is_usable_id(std::string_view id) {
  return !id.empty() && id.size() <= 128 &&
         std::all_of(id.begin(), id.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

std::string new_id() {
  static const uint64_t start = std::random_device{}();
  static std::atomic<uint64_t> count{0};
  return fmt::format("req-{:08x}{:08x}", start, count++);
}

/// "Bearer KEY" without its first word; empty for anything else.
std::string_view bearer_token(std::string_view header) {
  constexpr std::string_view kScheme = "bearer ";
  if (header.size() < kScheme.size()) return {};
  for (size_t i = 0; i < kScheme.size(); ++i)
    if ((header[i] | 0x20) != kScheme[i]) return {};
  header.remove_prefix(kScheme.size());
  return header.substr(std::min(header.find_first_not_of(' '), header.size()));
}

}  // namespace

void respond_json(HttpResponder& responder, std::string body) {
  responder.respond({.status = 200, .body = std::move(body)});
}

void Router::add(std::string_view method, std::string path, HttpHandler handler) {
  routes_[std::move(path)][std::string(method)] = std::move(handler);
}

void Router::check_key(const HttpRequest& request) const {
  if (api_key_.empty() || request.path == "/health") return;
  const auto header = request.headers.find("authorization");
  const std::string_view token =
      header == request.headers.end() ? std::string_view() : bearer_token(header->second);
  if (token.empty())
    throw RequestError(401, "missing-api-key", "",
                       "expected the header Authorization: Bearer KEY, got none");
  if (!is_same_key(token, api_key_))
    throw RequestError(401, "wrong-api-key", "", "expected this server's API key, got another");
}

void Router::handle(HttpRequest&& request, const std::shared_ptr<HttpResponder>& responder) const {
  const auto id = request.headers.find("x-request-id");
  const bool has_id = id != request.headers.end() && is_usable_id(id->second);
  responder->set_header("X-Request-Id", has_id ? id->second : new_id());
  while (request.path.size() > 1 && request.path.ends_with('/')) request.path.pop_back();
  try {
    check_key(request);
    dispatch(std::move(request), responder);
  } catch (const std::exception& error) {
    respond_error(*responder, error);
  }
}

void Router::dispatch(HttpRequest&& request,
                      const std::shared_ptr<HttpResponder>& responder) const {
  const auto path = routes_.find(request.path);
  if (path == routes_.end()) {
    if (fallback_ && fallback_(request, responder)) return;
    throw RequestError(404, "unknown-path", "",
                       fmt::format("expected a path that this server has, got {}", request.path));
  }
  auto route = path->second.find(request.method);
  if (route == path->second.end() && request.method == "HEAD") route = path->second.find("GET");
  if (route != path->second.end()) return route->second(std::move(request), responder);
  std::string methods;
  for (const auto& [name, handler] : path->second) methods += (methods.empty() ? "" : ", ") + name;
  refuse_method(request, *responder, methods);
}

}  // namespace lockstep::serve
