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

/// What an answer says about an error: the message of OpenAI's {"error": {"message"}} or of
/// FastAPI's {"detail"}, else the beginning of the body.
std::string error_message(const HttpAnswer& answer);

/// Whether a server's base URL names this machine by its loopback interface.
bool is_this_machine(const std::string& url);

/// Talks to one server, over connections that stay open. It follows no redirect and asks no proxy.
/// Threads: safe; each call uses a connection of its own.
class HttpClient {
 public:
  /// `url` is the server's base, "http://host:port" with an optional path; `api_key` is sent as a
  /// bearer token unless it is empty. Throws ConfigError "bad-url", "bad-api-key".
  HttpClient(const std::string& url, const std::string& api_key);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  /// The base without a slash at its end.
  const std::string& url() const;
  /// Sends a request and waits for the whole answer, whatever its status. Throws PeerError
  /// "connection-failed" or "deadline", naming server, path and what was waited for, and
  /// InterruptedError when `cancelled` (looked at ten times a second) says so. An answer of more
  /// than a GiB is a "connection-failed".
  HttpAnswer get(std::string_view path,
                 std::chrono::milliseconds timeout,
                 const std::function<bool()>& cancelled = {}) const;
  HttpAnswer post(std::string_view path,
                  const std::string& body,
                  std::chrono::milliseconds timeout,
                  const std::function<bool()>& cancelled = {}) const;
  /// get() and post() of JSON whose answer must be 200 and JSON. Throw PeerError "peer-refused"
  /// with the server's own message for any other answer.
  Json get_json(std::string_view path,
                std::chrono::milliseconds timeout,
                const std::function<bool()>& cancelled = {}) const;
  Json post_json(std::string_view path,
                 const Json& body,
                 std::chrono::milliseconds timeout,
                 const std::function<bool()>& cancelled = {}) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::net
