// TCP connections of which no wait goes on without bytes for ever.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace lockstep::sync {

/// One end of a connection. A call that moves nothing for the idle time, or whose peer is gone,
/// throws PeerError "deadline" or "connection-failed" naming the peer. Threads: one uses it, any
/// may cut() it.
class Connection {
 public:
  /// Connects within `idle`. Throws PeerError "connection-failed" for a host that is not known or
  /// does not answer.
  Connection(const std::string& host, uint16_t port, std::chrono::milliseconds idle);
  /// Takes over a connected socket.
  Connection(int socket, std::string peer, std::chrono::milliseconds idle);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// "host:port"
  const std::string& peer() const { return peer_; }
  void send(std::string_view text);
  void send(std::span<const std::byte> bytes);
  /// Fills the beginning of `to` with what has come, at least one byte; returns how many.
  size_t receive(std::span<std::byte> to);
  /// Fills `to` whole.
  void receive_all(std::span<std::byte> to);
  /// A line of at most `most` bytes without its end. Throws FormatError "bad-line" for a longer
  /// one, PeerError "no-request" if the peer closes before its first byte.
  std::string receive_line(size_t most);
  /// Bounds what is sent and not taken yet. Inside one machine the bytes then stay in the caches on
  /// their way; on others it would bound the rate.
  void limit_unsent(int bytes) const;
  /// Ends whatever is under way, from any thread.
  void cut() noexcept;

 private:
  void set_options(std::chrono::milliseconds idle) const;
  [[noreturn]] void refuse(const char* expected, int error) const;

  int socket_ = -1;
  std::string peer_;
  /// What came behind a line.
  std::string read_ahead_;
};

}  // namespace lockstep::sync
