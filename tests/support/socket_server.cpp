// SPDX-License-Identifier: Apache-2.0
#include "tests/support/socket_server.h"

#include <algorithm>
#include <arpa/inet.h>
#include <cctype>
#include <netinet/in.h>
#include <optional>
#include <poll.h>
#include <stdexcept>
#include <sys/socket.h>
#include <unistd.h>

namespace lockstep::testing {
namespace {

using Clock = std::chrono::steady_clock;

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

/// A socket bound to a port, or to a free one.
int bound_socket(int port) {
  const int made = ::socket(AF_INET, SOCK_STREAM, 0);
  const int yes = 1;
  ::setsockopt(made, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  const sockaddr_in address = loopback(port);
  if (::bind(made, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0)
    throw std::runtime_error("the port is taken");
  return made;
}

int port_of(int descriptor) {
  sockaddr_in address{};
  socklen_t size = sizeof(address);
  ::getsockname(descriptor, reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.sin_port);
}

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

SocketRequest parse_head(const std::string& head) {
  SocketRequest request;
  const size_t line = head.find("\r\n"), space = head.find(' ');
  request.method = head.substr(0, space);
  request.target = head.substr(space + 1, head.find(' ', space + 1) - space - 1);
  for (size_t begin = line + 2; begin < head.size();) {
    const size_t end = head.find("\r\n", begin), colon = head.find(':', begin);
    if (end == std::string::npos || colon > end) break;
    const size_t value = head.find_first_not_of(' ', colon + 1);
    request.headers[lower(head.substr(begin, colon - begin))] = head.substr(value, end - value);
    begin = end + 2;
  }
  return request;
}

/// The next request of a connection; `rest` holds what came after the last one. Unset at its end.
std::optional<SocketRequest> read_request(int descriptor, std::string& rest) {
  const auto read_more = [&] {
    char buffer[65536];
    const ssize_t count = ::recv(descriptor, buffer, sizeof(buffer), 0);
    if (count > 0) rest.append(buffer, static_cast<size_t>(count));
    return count > 0;
  };
  size_t end = 0;
  while ((end = rest.find("\r\n\r\n")) == std::string::npos)
    if (!read_more()) return {};
  SocketRequest request = parse_head(rest.substr(0, end + 2));
  rest.erase(0, end + 4);
  const auto length = request.headers.find("content-length");
  const size_t size = length == request.headers.end() ? 0 : std::stoull(length->second);
  while (rest.size() < size)
    if (!read_more()) return {};
  request.body = rest.substr(0, size);
  rest.erase(0, size);
  return request;
}

}  // namespace

void SocketConnection::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t count = ::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (count <= 0) {
      is_closed_ = true;
      return;
    }
    bytes.remove_prefix(static_cast<size_t>(count));
  }
}

void SocketConnection::answer(int status, std::string_view body) {
  // In one go: what is sent apart waits for the client's acknowledgement.
  send("HTTP/1.1 " + std::to_string(status) +
       " X\r\nContent-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) +
       "\r\n\r\n" + std::string(body));
}

bool SocketConnection::wait(std::chrono::milliseconds time) {
  const auto end = Clock::now() + time;
  while (Clock::now() < end) {
    pollfd poll{descriptor_, POLLRDHUP, 0};
    ::poll(&poll, 1, 10);
    if (stopping_ || (poll.revents & (POLLRDHUP | POLLHUP | POLLERR))) return false;
  }
  return true;
}

SocketServer::SocketServer(Handler handler, int port)
    : handler_(std::move(handler)), listener_(bound_socket(port)), port_(port_of(listener_)) {
  ::listen(listener_, 128);
  acceptor_ = std::thread([this] { accept_all(); });
}

SocketServer::~SocketServer() {
  kill();
  acceptor_.join();
  for (std::thread& thread : threads_) thread.join();
  ::close(listener_);
}

void SocketServer::kill() {
  const std::lock_guard lock(mutex_);
  if (stopping_.exchange(true)) return;
  ::shutdown(listener_, SHUT_RDWR);
  for (const int descriptor : open_) ::shutdown(descriptor, SHUT_RDWR);
}

void SocketServer::accept_all() {
  for (;;) {
    const int descriptor = ::accept(listener_, nullptr, nullptr);
    const std::lock_guard lock(mutex_);
    if (descriptor < 0 || stopping_) {
      if (descriptor >= 0) ::close(descriptor);
      return;
    }
    ++connections_;
    open_.push_back(descriptor);
    threads_.emplace_back([this, descriptor] { serve(descriptor); });
  }
}

void SocketServer::serve(int descriptor) {
  SocketConnection connection(descriptor, stopping_);
  std::string rest;
  while (!connection.is_closed() && !stopping_) {
    const auto request = read_request(descriptor, rest);
    if (!request) break;
    handler_(connection, *request);
  }
  const std::lock_guard lock(mutex_);
  open_.remove(descriptor);
  ::close(descriptor);
}

int dead_port() {
  const int made = bound_socket(0);
  const int port = port_of(made);
  ::close(made);
  return port;
}

}  // namespace lockstep::testing
