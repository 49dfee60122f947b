// SPDX-License-Identifier: Apache-2.0
#include "parallel/host_address.h"

#include <arpa/inet.h>
#include <cerrno>
#include <cstring>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"

namespace lockstep::parallel {
namespace {

/// An address of a socket, of either family.
struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t size = 0;

  sockaddr* raw() { return reinterpret_cast<sockaddr*>(&storage); }
  int family() const { return storage.ss_family; }
  uint16_t port() const {
    return ntohs(family() == AF_INET6 ? reinterpret_cast<const sockaddr_in6*>(&storage)->sin6_port
                                      : reinterpret_cast<const sockaddr_in*>(&storage)->sin_port);
  }
  std::string text() {
    char host[NI_MAXHOST];
    if (::getnameinfo(raw(), size, host, sizeof(host), nullptr, 0, NI_NUMERICHOST) != 0) return {};
    return host;
  }
};

/// The address of `host`, or of all of this host's addresses where it is "".
SocketAddress look_up(const std::string& host, uint16_t port) {
  SocketAddress found;
  for (const int family : {AF_INET, AF_INET6}) {
    addrinfo hints{}, *list = nullptr;
    hints.ai_family = family;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_PASSIVE;
    if (::getaddrinfo(host.empty() ? nullptr : host.c_str(), std::to_string(port).c_str(), &hints,
                      &list) != 0)
      continue;
    std::memcpy(&found.storage, list->ai_addr, list->ai_addrlen);
    found.size = list->ai_addrlen;
    ::freeaddrinfo(list);
    return found;
  }
  fail<IoError>("unknown-host", host, "expected the name or address of a host, got none known");
}

SocketAddress own_address(int socket) {
  SocketAddress address;
  address.size = sizeof(address.storage);
  ::getsockname(socket, address.raw(), &address.size);
  return address;
}

}  // namespace

std::string resolve_host(const std::string& host) { return look_up(host, 0).text(); }

bool is_loopback(const std::string& address) {
  return address.starts_with("127.") || address == "::1";
}

std::string local_address_towards(const std::string& host) {
  // Connecting a datagram socket sends nothing; it chooses the interface.
  constexpr uint16_t kAnyPort = 9;
  SocketAddress there = look_up(host, kAnyPort);
  const int socket = ::socket(there.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const bool is_connected = ::connect(socket, there.raw(), there.size) == 0;
  const int error = errno;
  const std::string text = own_address(socket).text();
  ::close(socket);
  if (!is_connected)
    fail<IoError>("no-route", host, "expected a way to this host, got: {}", std::strerror(error));
  return text;
}

int listen_at(const std::string& address, uint16_t port) {
  SocketAddress here = look_up(address, port);
  const int socket = ::socket(here.family(), SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (::bind(socket, here.raw(), here.size) != 0 || ::listen(socket, SOMAXCONN) != 0) {
    const int error = errno;
    ::close(socket);
    fail<IoError>("store-address", fmt::format("{}:{}", address.empty() ? "*" : address, port),
                  "expected to listen there, got: {}", std::strerror(error));
  }
  return socket;
}

uint16_t port_of(int socket) { return own_address(socket).port(); }

}  // namespace lockstep::parallel
