// An HTTP/1.1 server: connections, limits and deadlines. It knows nothing of what it serves.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep::serve {

/// A request that has been read whole.
struct HttpRequest {
  /// "GET", "POST", …
  std::string method;
  /// The decoded path, without the query.
  std::string path;
  /// Decoded parameters of the query; of several with one name the last.
  std::map<std::string, std::string> query;
  /// Names in lower case.
  std::map<std::string, std::string> headers;
  std::string body;
};

struct HttpResponse {
  int status = 200;
  std::string body;
  std::string content_type = "application/json";
  /// Further headers, such as Retry-After.
  std::vector<std::pair<std::string, std::string>> headers;
};

/// Where the answer to one request goes: one respond(), or one begin_stream() with any number of
/// writes and an end_stream(). What is said when the client has gone, or when the answer is
/// complete, does nothing. If the last copy dies before an answer, the client gets a 500; before
/// the end of a stream, the connection is cut. Threads: any, one after another.
class HttpResponder {
 public:
  virtual ~HttpResponder() = default;
  /// Sets a header of the answer, if it has not begun; a server's responder does.
  virtual void set_header(std::string name, std::string value) { (void)name, (void)value; }
  virtual void respond(HttpResponse response) = 0;
  /// Begins an answer of unknown length (chunked).
  virtual void begin_stream(int status, std::string_view content_type) = 0;
  virtual void write(std::string piece) = 0;
  virtual void end_stream() = 0;
  /// Calls `gone` once, on a thread of the server, if the client leaves or is cut off before the
  /// answer is complete; at once, by the caller's thread, if it has left already.
  virtual void on_gone(std::function<void()> gone) = 0;
  /// How many bytes of a stream have not been taken by the client yet.
  virtual int64_t unsent_bytes() const = 0;
};

/// Answers a request now or later. Called on a thread of the server, which serves others when it
/// returns, so it must not wait. What it throws becomes a 500.
using HttpHandler =
    std::function<void(HttpRequest&& request, std::shared_ptr<HttpResponder> responder)>;

struct HttpLimits {
  int64_t max_body_bytes = int64_t{64} << 20;
  /// Of the bodies that are being read at one time, all connections together.
  int64_t max_total_body_bytes = int64_t{1} << 30;
  int64_t max_header_bytes = 64 << 10;
  int64_t max_connections = 4096;
  /// For a request to come whole, from its first byte on; of a kept connection for the next one to
  /// begin.
  std::chrono::milliseconds read_timeout{30'000}, idle_timeout{75'000};
  /// For the client to take what was sent: any progress that the system tells of begins it anew. A
  /// client that takes nothing is cut off at the latest a quarter of it later.
  std::chrono::milliseconds write_timeout{30'000};
  /// Unsent bytes of a stream at which a client is cut off.
  int64_t max_unsent_bytes = int64_t{16} << 20;
};

/// A running server. Malformed requests get 400, 408, 413, 414, 417, 431, 501 or 505 by
/// `make_error`, and the connection is closed.
class HttpServer {
 public:
  /// The body for an error that the server itself finds.
  using ErrorBody = std::function<std::string(int status, std::string_view message)>;

  /// Binds and begins to accept on threads of its own. Throws ConfigError "bad-address" for a host
  /// that has no address, IoError "address-in-use" for a busy port.
  HttpServer(const std::string& host,
             uint16_t port,
             const HttpLimits& limits,
             HttpHandler handler,
             ErrorBody error_body);
  /// stop() with no time left.
  ~HttpServer();

  /// The port; chosen by the system if 0 was asked for.
  uint16_t port() const;
  /// Accepts no more connections and reads no more requests; returns when all answers are complete,
  /// or at the deadline, at which all connections are cut. Returns whether all were complete.
  bool stop(std::chrono::steady_clock::time_point deadline);
  int64_t connections() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace lockstep::serve
