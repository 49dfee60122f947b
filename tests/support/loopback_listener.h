// A socket that listens on this machine, for tests that answer in their own way.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace lockstep::testing {

/// Listens on a free port of 127.0.0.1. One thread may wait in accept(), any may close().
class LoopbackListener {
 public:
  LoopbackListener() : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    ::bind(socket_, reinterpret_cast<sockaddr*>(&address), size);
    ::getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    constexpr int kBacklog = 16;
    ::listen(socket_, kBacklog);
  }
  ~LoopbackListener() { ::close(socket_); }
  LoopbackListener(const LoopbackListener&) = delete;
  LoopbackListener& operator=(const LoopbackListener&) = delete;

  uint16_t port() const { return port_; }
  /// The socket of the next connection; negative after close().
  int accept() const { return ::accept(socket_, nullptr, nullptr); }
  /// Ends an accept().
  void close() const { ::shutdown(socket_, SHUT_RDWR); }

 private:
  int socket_;
  uint16_t port_ = 0;
};

}  // namespace lockstep::testing
