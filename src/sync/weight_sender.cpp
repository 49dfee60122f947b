// SPDX-License-Identifier: Apache-2.0
#include "sync/weight_sender.h"

#include <cerrno>
#include <cstring>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "sync/secret.h"

namespace lockstep::sync {
namespace {

/// Waiting connections of one moment: those of one server are a handful.
constexpr int kBacklog = 128;
/// Measured: less is no faster, and a quarter of it stands still.
constexpr int kUnsentInside = 128 << 10;

std::string name_of(const sockaddr_storage& address, socklen_t size) {
  char host[NI_MAXHOST], port[NI_MAXSERV];
  if (::getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host, sizeof(host), port,
                    sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return "a peer";
  return fmt::format("{}:{}", host, port);
}

uint16_t port_of(int socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size);
  const auto port = address.ss_family == AF_INET6
                        ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                        : reinterpret_cast<const sockaddr_in&>(address).sin_port;
  return ntohs(port);
}

}  // namespace

struct WeightSender::Peer {
  Peer(int socket, std::string name, std::chrono::milliseconds idle)
      : connection(socket, std::move(name), idle) {}
  Connection connection;
  std::thread thread;
  bool is_done = false;
};

WeightSender::WeightSender(const std::string& host, uint16_t port, const SenderLimits& limits)
    : address_{.host = host, .token = random_secret()}, limits_(limits) {
  listen(port);
  address_.port = port_of(listener_);
  accepting_ = std::thread([this] { accept_peers(); });
}

void WeightSender::listen(uint16_t port) {
  const std::string where = fmt::format("{}:{}", address_.host, port);
  const auto refuse = [&](const char* got) {
    fail<IoError>("cannot-listen", where,
                  "expected an address of this machine with a free port, got: {}", got);
  };
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (const int error =
          ::getaddrinfo(address_.host.c_str(), std::to_string(port).c_str(), &hints, &found))
    refuse(::gai_strerror(error));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, ::freeaddrinfo);
  listener_ = ::socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC, found->ai_protocol);
  const int on = 1;
  if (listener_ >= 0) ::setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (listener_ >= 0 && ::bind(listener_, found->ai_addr, found->ai_addrlen) == 0 &&
      ::listen(listener_, kBacklog) == 0)
    return;
  const int error = errno;
  if (listener_ >= 0) ::close(listener_);
  refuse(std::strerror(error));
}

WeightSender::~WeightSender() {
  is_stopping_ = true;
  // Wakes accept().
  ::shutdown(listener_, SHUT_RDWR);
  {
    const std::lock_guard lock(mutex_);
    has_fewer_.notify_all();
  }
  accepting_.join();
  ::close(listener_);
  withdraw();
}

void WeightSender::offer(SentWeights weights) {
  const std::lock_guard lock(mutex_);
  weights_ = std::move(weights);
}

SentWeights WeightSender::offered() const {
  const std::lock_guard lock(mutex_);
  return weights_;
}

void WeightSender::withdraw() {
  std::list<Peer> all;
  {
    std::unique_lock lock(mutex_);
    weights_ = {};
    is_withdrawing_ = true;
    for (Peer& peer : peers_) peer.connection.cut();
    has_fewer_.wait(lock, [this] { return num_serving_ == 0; });
    is_withdrawing_ = false;
    all.swap(peers_);
  }
  for (Peer& peer : all) peer.thread.join();
}

void WeightSender::accept_peers() {
  while (!is_stopping_) {
    sockaddr_storage address{};
    socklen_t size = sizeof(address);
    const int socket =
        ::accept4(listener_, reinterpret_cast<sockaddr*>(&address), &size, SOCK_CLOEXEC);
    if (socket >= 0) {
      take(socket, name_of(address, size));
    } else if (!is_stopping_ && errno != EINTR && errno != ECONNABORTED) {
      log_warning("weights: no connection can be taken: {}", std::strerror(errno));
      // Descriptors or memory may come back.
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
  }
}

void WeightSender::take(int socket, std::string name) {
  std::unique_lock lock(mutex_);
  has_fewer_.wait(lock, [this] { return is_stopping_ || num_serving_ < limits_.connections; });
  if (is_stopping_ || is_withdrawing_) {
    ::close(socket);
    return;
  }
  for (auto one = peers_.begin(); one != peers_.end();) {
    if (one->is_done) {
      one->thread.join();
      one = peers_.erase(one);
    } else {
      ++one;
    }
  }
  const bool is_inside = name.starts_with("127.") || name.starts_with("::1:");
  Peer& peer = peers_.emplace_back(socket, std::move(name), limits_.idle);
  if (is_inside) peer.connection.limit_unsent(kUnsentInside);
  ++num_serving_;
  peer.thread = std::thread([this, &peer] {
    serve(peer);
    const std::lock_guard inner(mutex_);
    peer.is_done = true;
    --num_serving_;
    has_fewer_.notify_all();
  });
}

void WeightSender::serve(Peer& peer) {
  Connection& connection = peer.connection;
  const auto refuse = [&](const Error& error) {
    log_warning("weights: {} is refused: {}", connection.peer(), error.what());
    try {
      connection.send(refusal_line(error.code(), error.what()));
    } catch (const PeerError&) {
      // It is gone.
    }
  };
  try {
    while (true) {
      const std::string line = connection.receive_line(kMostLineBytes);
      answer(connection, parse_request(line, connection.peer()));
    }
  } catch (const PeerError& error) {
    // The ordinary end, or a receiver that was killed: its own trainer call tells what became of
    // it.
    if (error.code() != "no-request") log_info("weights: {}", error.what());
  } catch (const Error& error) {
    refuse(error);
  }
  connection.cut();
}

void WeightSender::answer(Connection& connection, const RangeRequest& request) {
  const std::string& where = connection.peer();
  if (!equal_secrets(request.token, address_.token))
    fail<FormatError>("wrong-token", where, "expected the token of this run, got another");
  const SentWeights weights = offered();
  if (!weights.block || request.weights != weights.digest)
    fail<FormatError>("no-such-weights", where, "expected a request for weights {}, got one for {}",
                      weights.digest, request.weights);
  if (request.base != (request.base.empty() ? "" : weights.base))
    fail<FormatError>("no-such-weights", where, "expected a delta from weights {}, got {}",
                      weights.base, request.base);
  const SharedMemory& bytes = request.base.empty() ? *weights.block : *weights.delta;
  if (request.begin > request.end || request.end > bytes.bytes().size())
    fail<FormatError>("bad-request", where, "expected a range in {} bytes, got [{}, {})",
                      bytes.bytes().size(), request.begin, request.end);
  connection.send(answer_line(request.end - request.begin));
  connection.send(bytes.bytes().subspan(request.begin, request.end - request.begin));
  bytes_sent_ += static_cast<int64_t>(request.end - request.begin);
}

}  // namespace lockstep::sync
