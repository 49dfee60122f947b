// A client that says what it is told to say, byte by byte, to a server on this machine. It reads
// answers by rules of its own, so that it does not share the server's mistakes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <arpa/inet.h>
#include <charconv>
#include <chrono>
#include <map>
#include <netinet/in.h>
#include <optional>
#include <poll.h>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>

namespace lockstep::testing {

struct RawAnswer {
  int status = 0;
  /// Names in lower case.
  std::map<std::string, std::string> headers;
  std::string body;
  /// The body came to its end as the head said.
  bool is_whole = false;
};

class RawClient {
 public:
  /// Longest wait for anything.
  static constexpr int kPatienceMs = 20'000;

  explicit RawClient(uint16_t port) : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    connect(port);
  }
  /// A socket that connect() is called for later.
  RawClient() : socket_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {}
  ~RawClient() { close(); }
  RawClient(RawClient&& other) noexcept
      : socket_(std::exchange(other.socket_, -1)), received_(std::move(other.received_)) {}
  RawClient& operator=(RawClient&&) = delete;

  bool connect(uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return ::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  }
  /// False once the server takes nothing any more.
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }
  /// How many bytes the system takes without waiting; for a server that does not read.
  size_t send_without_waiting(std::string_view bytes) {
    const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    return sent < 0 ? 0 : static_cast<size_t>(sent);
  }
  void shut_writing() { ::shutdown(socket_, SHUT_WR); }
  void close() {
    if (socket_ >= 0) ::close(std::exchange(socket_, -1));
  }
  /// Leaves without a word: the server sees a reset, and no port stays in use for a minute.
  void reset() {
    const linger now{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(socket_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close();
  }
  void limit_receive_buffer(int bytes) {
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
  }

  /// The next answer; unset if the connection ends, or nothing comes, before its head is whole.
  std::optional<RawAnswer> read_answer(bool is_head_request = false) {
    while (received_.find("\r\n\r\n") == std::string::npos)
      if (!receive()) return {};
    RawAnswer answer = take_head();
    const auto coding = answer.headers.find("transfer-encoding");
    const auto length = answer.headers.find("content-length");
    const bool has_no_body = is_head_request || answer.status / 100 == 1;
    if (has_no_body)
      answer.is_whole = true;
    else if (coding != answer.headers.end())
      read_chunks(answer);
    else if (length != answer.headers.end())
      answer.is_whole = take(std::stoul(length->second), answer.body);
    else
      answer.is_whole = read_to_end(answer.body);
    return answer;
  }
  /// True if the server ends the connection in time; what it sent before is thrown away.
  bool is_closed_by_server() {
    while (receive()) {
    }
    return is_ended_;
  }
  /// True if nothing has come and the connection is open.
  bool is_quiet(int milliseconds) {
    pollfd entry{.fd = socket_, .events = POLLIN};
    return received_.empty() && ::poll(&entry, 1, milliseconds) == 0;
  }
  /// Reads at most `bytes` as soon as some are there; "" at the end.
  std::string read_some(size_t bytes) {
    if (received_.empty()) receive();
    std::string piece = received_.substr(0, bytes);
    received_.erase(0, bytes);
    return piece;
  }

 private:
  bool receive() {
    pollfd entry{.fd = socket_, .events = POLLIN};
    if (::poll(&entry, 1, kPatienceMs) != 1) return false;
    char buffer[1 << 16];
    const ssize_t bytes = ::recv(socket_, buffer, sizeof buffer, 0);
    if (bytes <= 0) {
      is_ended_ = true;
      return false;
    }
    received_.append(buffer, static_cast<size_t>(bytes));
    return true;
  }
  bool take(size_t bytes, std::string& out) {
    while (received_.size() < bytes && receive()) {
    }
    const bool is_enough = received_.size() >= bytes;
    out += received_.substr(0, bytes);
    received_.erase(0, bytes);
    return is_enough;
  }
  bool read_to_end(std::string& out) {
    while (receive()) {
    }
    out += std::exchange(received_, {});
    return is_ended_;
  }
  std::optional<std::string> take_line() {
    size_t end = std::string::npos;
    while ((end = received_.find("\r\n")) == std::string::npos)
      if (!receive()) return {};
    std::string line = received_.substr(0, end);
    received_.erase(0, end + 2);
    return line;
  }
  RawAnswer take_head() {
    RawAnswer answer;
    answer.status = std::stoi(take_line()->substr(9, 3));
    for (std::string line = *take_line(); !line.empty(); line = *take_line()) {
      const size_t colon = line.find(": ");
      std::string name = line.substr(0, colon);
      std::transform(name.begin(), name.end(), name.begin(),
                     [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
      answer.headers[name] = line.substr(colon + 2);
    }
    return answer;
  }
  void read_chunks(RawAnswer& answer) {
    while (const auto line = take_line()) {
      size_t size = 0;
      std::from_chars(line->data(), line->data() + line->size(), size, 16);
      std::string end;
      if (!take(size, answer.body) || !take(2, end) || end != "\r\n") return;
      if (size == 0) {
        answer.is_whole = true;
        return;
      }
    }
  }

  int socket_;
  std::string received_;
  bool is_ended_ = false;
};

/// A request's bytes; with a body also its length.
inline std::string raw_request(std::string_view method,
                               std::string_view path,
                               std::string_view body = "",
                               std::string_view headers = "") {
  std::string text(method);
  text.append(" ").append(path).append(" HTTP/1.1\r\nHost: test\r\n").append(headers);
  if (!body.empty()) text += "Content-Length: " + std::to_string(body.size()) + "\r\n";
  return text.append("\r\n").append(body);
}

}  // namespace lockstep::testing
