// Which request goes to which handler, and what all of them have in common: the key, the request's
// id, and errors in OpenAI's form.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "serve/http_server.h"

namespace lockstep::serve {

/// Answers with 200 and JSON.
void respond_json(HttpResponder& responder, std::string body);

/// Threads: routes are added before requests come; handle() from any thread.
class Router {
 public:
  /// Answers requests whose path has no route, or returns false and leaves both alone.
  using Fallback =
      std::function<bool(HttpRequest& request, const std::shared_ptr<HttpResponder>& responder)>;

  /// With a key, every path but /health wants it as "Authorization: Bearer KEY".
  explicit Router(std::string api_key) : api_key_(std::move(api_key)) {}

  /// `path` has no slash at its end; requests may have one. A route for GET answers HEAD too. What
  /// the handler throws is answered by respond_error().
  void add(std::string_view method, std::string path, HttpHandler handler);
  void set_fallback(Fallback fallback) { fallback_ = std::move(fallback); }

  /// Answers a request: 401 without the key, 404 for an unknown path, 405 for another method of a
  /// known one. The answer has the client's X-Request-Id, or one of its own.
  void handle(HttpRequest&& request, const std::shared_ptr<HttpResponder>& responder) const;

 private:
  void dispatch(HttpRequest&& request, const std::shared_ptr<HttpResponder>& responder) const;
  void check_key(const HttpRequest& request) const;

  std::string api_key_;
  /// By path and method.
  std::map<std::string, std::map<std::string, HttpHandler, std::less<>>, std::less<>> routes_;
  Fallback fallback_;
};

}  // namespace lockstep::serve
