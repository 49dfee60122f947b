// An HTTP client for the servers of our protocols (libcurl).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/json_fwd.h"

namespace lockstep::net {

struct HttpAnswer {
  int status = 0;
  std::string body;
};

/// Talks to one server, over connections that stay open. Threads: safe; each call uses a connection
/// of its own.
class HttpClient {
 public:
  /// `url` is the server's base, "http://host:port" with an optional path; `api_key` is sent as a
  /// bearer token unless it is empty. Throws ConfigError "bad-url".
  HttpClient(const std::string& url, const std::string& api_key);
  ~HttpClient();

  const std::string& url() const;
  /// Sends a request and waits for the whole answer, whatever its status. Throws PeerError
  /// "connection-failed" or "deadline", naming server, path and what was waited for, and
  /// InterruptedError when `cancelled` (looked at ten times a second) says so.
  HttpAnswer get(std::string_view path, std::chrono::milliseconds timeout) const;
  HttpAnswer post(std::string_view path,
                  const std::string& body,
                  std::chrono::milliseconds timeout,
                  const std::function<bool()>& cancelled = {}) const;
  /// post() of JSON whose answer must be 200 and JSON. Throws PeerError "peer-refused" with the
  /// server's own message for any other answer.
  Json post_json(std::string_view path,
                 const Json& body,
                 std::chrono::milliseconds timeout,
                 const std::function<bool()>& cancelled = {}) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::net
