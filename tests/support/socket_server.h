// A server on a free port of this machine whose every answer a test writes, byte by byte.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>

namespace lockstep::testing {

/// A request that has come whole.
struct SocketRequest {
  std::string method, target;
  /// Names in lower case.
  std::map<std::string, std::string> headers;
  std::string body;
};

/// A connection to a client, inside of a handler.
class SocketConnection {
 public:
  SocketConnection(int descriptor, const std::atomic<bool>& stopping)
      : descriptor_(descriptor), stopping_(stopping) {}

  /// Sends bytes as they are; nothing if the client has gone.
  void send(std::string_view bytes);
  /// Sends an answer with its length.
  void answer(int status, std::string_view body);
  /// Closes the connection when the handler returns.
  void close() { is_closed_ = true; }
  bool is_closed() const { return is_closed_; }
  /// Waits; false if the server ends or the client leaves before.
  bool wait(std::chrono::milliseconds time);

 private:
  int descriptor_;
  const std::atomic<bool>& stopping_;
  bool is_closed_ = false;
};

/// Threads: the handler is called by one thread for each connection.
class SocketServer {
 public:
  using Handler = std::function<void(SocketConnection&, const SocketRequest&)>;
  /// `port` 0 is any free one.
  explicit SocketServer(Handler handler, int port = 0);
  ~SocketServer();
  SocketServer(const SocketServer&) = delete;
  SocketServer& operator=(const SocketServer&) = delete;

  int port() const { return port_; }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  /// How many connections have come.
  int connections() const { return connections_; }
  /// Cuts all connections and takes no more, as a server that is killed.
  void kill();

 private:
  void accept_all();
  void serve(int descriptor);

  Handler handler_;
  int listener_ = -1, port_ = 0;
  std::atomic<bool> stopping_{false};
  std::atomic<int> connections_{0};
  std::mutex mutex_;
  std::list<int> open_;
  std::list<std::thread> threads_;
  std::thread acceptor_;
};

/// A port of this machine on which nothing listens.
int dead_port();

}  // namespace lockstep::testing
