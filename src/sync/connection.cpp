// SPDX-License-Identifier: Apache-2.0
#include "sync/connection.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include <utility>

#include "base/check.h"

namespace lockstep::sync {
namespace {

using std::chrono::milliseconds;

/// A slow receiver shows progress by each of these: the deadline is for one of them.
constexpr size_t kMostAtOnce = size_t{1} << 20;

timeval timeval_of(milliseconds time) {
  return {.tv_sec = time.count() / 1000,
          .tv_usec = static_cast<suseconds_t>(time.count() % 1000 * 1000)};
}

}  // namespace

Connection::Connection(const std::string& host, uint16_t port, milliseconds idle)
    : peer_(fmt::format("{}:{}", host, port)) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (const int error = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found))
    fail<PeerError>("connection-failed", peer_, "expected the address of a host, got: {}",
                    ::gai_strerror(error));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, ::freeaddrinfo);
  int error = 0;
  for (const addrinfo* one = found; one; one = one->ai_next) {
    socket_ = ::socket(one->ai_family, one->ai_socktype | SOCK_CLOEXEC, one->ai_protocol);
    if (socket_ < 0) refuse("a socket", errno);
    set_options(idle);
    // The time to send counts for connecting, too.
    if (::connect(socket_, one->ai_addr, one->ai_addrlen) == 0) return;
    error = errno == EINPROGRESS ? ETIMEDOUT : errno;
    ::close(std::exchange(socket_, -1));
  }
  fail<PeerError>("connection-failed", peer_, "expected a connection, got: {}",
                  std::strerror(error));
}

Connection::Connection(int socket, std::string peer, milliseconds idle)
    : socket_(socket), peer_(std::move(peer)) {
  set_options(idle);
}

Connection::~Connection() {
  if (socket_ >= 0) ::close(socket_);
}

void Connection::set_options(milliseconds idle) const {
  const timeval time = timeval_of(idle);
  ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof(time));
  ::setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof(time));
  const int on = 1;
  ::setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

void Connection::limit_unsent(int bytes) const {
  ::setsockopt(socket_, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

void Connection::refuse(const char* expected, int error) const {
  const bool is_late = error == EAGAIN || error == EWOULDBLOCK;
  fail<PeerError>(is_late ? "deadline" : "connection-failed", peer_, "expected {}, got: {}",
                  expected,
                  is_late      ? "nothing for too long"
                  : error == 0 ? "the end of the connection"
                               : std::strerror(error));
}

void Connection::send(std::string_view text) { send(std::as_bytes(std::span(text))); }

/// On loopback sendfile() is slower: it hands over single pages.
void Connection::send(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t sent =
        ::send(socket_, bytes.data(), std::min(bytes.size(), kMostAtOnce), MSG_NOSIGNAL);
    if (sent < 0 && errno != EINTR) refuse("to send", errno);
    if (sent > 0) bytes = bytes.subspan(static_cast<size_t>(sent));
  }
}

size_t Connection::receive(std::span<std::byte> to) {
  if (!read_ahead_.empty()) {
    const size_t size = std::min(to.size(), read_ahead_.size());
    std::memcpy(to.data(), read_ahead_.data(), size);
    read_ahead_.erase(0, size);
    return size;
  }
  while (true) {
    const ssize_t got = ::recv(socket_, to.data(), to.size(), 0);
    if (got > 0) return static_cast<size_t>(got);
    if (got == 0 || errno != EINTR) refuse("bytes", got == 0 ? 0 : errno);
  }
}

void Connection::receive_all(std::span<std::byte> to) {
  while (!to.empty()) to = to.subspan(receive(to));
}

std::string Connection::receive_line(size_t most) {
  std::string line;
  while (true) {
    const size_t end = line.find('\n');
    if (end != std::string::npos && end <= most) {
      read_ahead_ = line.substr(end + 1) + read_ahead_;
      line.resize(end);
      return line;
    }
    if (line.size() > most)
      fail<FormatError>("bad-line", peer_, "expected a line of at most {} bytes, got more", most);
    const bool is_first = line.empty();
    const size_t before = line.size();
    line.resize(most + 1);
    size_t got = 0;
    try {
      got = receive(std::as_writable_bytes(std::span(line)).subspan(before));
    } catch (const PeerError& error) {
      if (is_first && error.code() == "connection-failed")
        throw PeerError("no-request", peer_, "the peer has closed the connection");
      throw;
    }
    line.resize(before + got);
  }
}

void Connection::cut() noexcept { ::shutdown(socket_, SHUT_RDWR); }

}  // namespace lockstep::sync
