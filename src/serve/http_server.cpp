// One thread does all input and output, and owns every connection; each is a coroutine that waits
// for one thing at a time: bytes, room to write, news of the answer, or its deadline. Handlers run
// on two threads beside it, so that a large body that is parsed holds up no stream.
// SPDX-License-Identifier: Apache-2.0
//
//   read_request ─▶ handler called ─▶ write_answer ─▶ read_request …     kept connection
//        │ malformed, too large, too slow                │ the client has left, a deadline passed
//        ▼                                               ▼
//      refuse ─────────────▶ linger ─────────────────▶ closed
#include "serve/http_server.h"

// Boost 1.74's asio needs std::exchange and does not include it.
#include <algorithm>
#include <array>
#include <boost/asio.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <unordered_set>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "serve/http_exchange.h"
#include "serve/request_target.h"
#include "serve/reserve_descriptor.h"
#include "serve/write_deadline.h"

namespace lockstep::serve {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using Clock = std::chrono::steady_clock;
using asio::ip::tcp;
using boost::system::error_code;

constexpr int kHandlerThreads = 2;
/// Bytes that are read at once, and of the next requests while an answer is on its way.
constexpr size_t kReadBytes = 64 << 10;
/// How long the rest of a refused request is read and thrown away: a connection that is closed with
/// unread bytes is reset, and the client would not see why it was refused.
constexpr std::chrono::milliseconds kLinger{2'000};

class Connection;

/// What the connections share.
struct ServerState {
  explicit ServerState(const HttpLimits& given) : limits(given) {}

  HttpLimits limits;
  HttpHandler handler;
  HttpServer::ErrorBody error_body;
  std::shared_ptr<const HttpResponse> dropped;
  asio::io_context io{1};
  asio::thread_pool handlers{kHandlerThreads};
  std::atomic<bool> is_stopping{false};
  std::atomic<int64_t> num_connections{0};

  // The rest belongs to the thread of `io`.
  std::array<char, kReadBytes> read_buffer{};
  std::unordered_set<Connection*> connections;
  /// Bytes of the bodies that are being read.
  int64_t body_bytes = 0;

  /// Guards num_answering, and tells of both counts.
  std::mutex mutex;
  std::condition_variable changed;
  int64_t num_answering = 0;

  /// Bytes of unparsed input at which a connection reads no more.
  size_t most_input() const {
    return std::max(kReadBytes, static_cast<size_t>(limits.max_header_bytes));
  }
  /// Runs a callback of a handler on a thread that may be kept busy.
  void run_later(std::function<void()> callback) {
    asio::post(handlers, [callback = std::move(callback)] {
      try {
        callback();
      } catch (const std::exception& error) {
        log_warning("http: a callback failed: {}", error.what());
      }
    });
  }
  HttpResponse error(int status, std::string_view message) const {
    HttpResponse response{.status = status, .body = error_body(status, message)};
    if (status == 503) response.headers.emplace_back("Retry-After", "1");
    return response;
  }
};

/// Why a request is refused.
struct Refusal {
  int status = 400;
  std::string message;
};

/// `has_first_line`: what is wrong stands behind it.
Refusal refusal_of(const error_code& error, std::string_view input, bool has_first_line) {
  if (error == http::error::header_limit && has_first_line)
    return {431, "the request's headers are longer than this server reads"};
  if (error == http::error::header_limit)
    return {414, "the request's first line is longer than this server reads"};
  if (error == http::error::body_limit)
    return {413, "the request's body is longer than this server reads"};
  if (error == http::error::bad_version && input.find(" HTTP/") != std::string_view::npos)
    return {505, "expected HTTP/1.0 or HTTP/1.1"};
  return {400, fmt::format("malformed HTTP: {}", error.message())};
}

std::string_view view_of(boost::beast::string_view text) { return {text.data(), text.size()}; }

std::string lower_case(std::string_view text) {
  std::string lower(text);
  for (char& character : lower)
    if (character >= 'A' && character <= 'Z') character = static_cast<char>(character | 0x20);
  return lower;
}

/// A client's connection. All of it runs on the thread of ServerState::io.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(ServerState& server, tcp::socket socket)
      : server_(server), socket_(std::move(socket)), timer_(server.io) {
    ++server_.num_connections;
    server_.connections.insert(this);
  }
  ~Connection() {
    server_.connections.erase(this);
    socket_.close(ignored_);
    const std::lock_guard lock(server_.mutex);
    --server_.num_connections;
    server_.changed.notify_all();
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  asio::awaitable<void> run();
  /// Something has changed: wait_until() returns.
  void notify() {
    is_notified_ = true;
    timer_.cancel();
  }
  void cut() {
    is_gone_ = true;
    socket_.close(ignored_);
    notify();
  }

 private:
  using Parser = http::request_parser<http::string_body>;

  asio::awaitable<bool> wait_until(Clock::time_point deadline);
  void read_ahead();
  void wait_for_room();
  asio::awaitable<bool> read_request(HttpRequest& request);
  std::optional<Refusal> parse(HttpRequest& request);
  std::optional<Refusal> check_head();
  std::optional<Refusal> take_head(HttpRequest& request);
  std::optional<Refusal> count_body();
  asio::awaitable<bool> write_answer(HttpRequest&& request);
  void call_handler(HttpRequest&& request, const std::shared_ptr<HttpExchange>& exchange);
  asio::awaitable<bool> send(std::string_view bytes, HttpExchange* exchange);
  asio::awaitable<void> refuse(const Refusal& refusal);
  asio::awaitable<void> linger();

  ServerState& server_;
  tcp::socket socket_;
  asio::steady_timer timer_;
  error_code ignored_;
  bool is_notified_ = false;
  bool is_reading_ = false, is_waiting_for_room_ = false;
  /// The client has closed its side, an error came, or the connection was cut.
  bool is_gone_ = false;
  /// Bytes that were read and not parsed yet.
  std::string input_;
  std::optional<Parser> parser_;
  /// The head has been looked at; the client waits for "100 Continue".
  bool has_head_ = false, wants_continue_ = false;
  AnswerForm form_;
  /// This connection's share of ServerState::body_bytes.
  int64_t body_bytes_ = 0;
};

/// Returns whether something has changed before the deadline.
asio::awaitable<bool> Connection::wait_until(Clock::time_point deadline) {
  if (!is_notified_) {
    error_code error;
    timer_.expires_at(deadline);
    co_await timer_.async_wait(asio::redirect_error(asio::use_awaitable, error));
  }
  // Bytes that came together with the deadline are looked at first.
  co_return std::exchange(is_notified_, false);
}

/// Sees to it that bytes are read as they come, and that a client that leaves is noticed.
void Connection::read_ahead() {
  if (is_reading_ || is_gone_ || input_.size() >= server_.most_input()) return;
  is_reading_ = true;
  socket_.async_wait(tcp::socket::wait_read, [self = shared_from_this()](error_code error) {
    self->is_reading_ = false;
    auto& buffer = self->server_.read_buffer;
    size_t bytes = 0;
    if (!error) bytes = self->socket_.read_some(asio::buffer(buffer), error);
    self->input_.append(buffer.data(), bytes);
    if (error && error != asio::error::would_block) self->is_gone_ = true;
    self->notify();
  });
}

void Connection::wait_for_room() {
  if (is_waiting_for_room_) return;
  is_waiting_for_room_ = true;
  socket_.async_wait(tcp::socket::wait_write, [self = shared_from_this()](error_code error) {
    self->is_waiting_for_room_ = false;
    if (error) self->is_gone_ = true;
    self->notify();
  });
}

asio::awaitable<void> Connection::run() {
  const auto self = shared_from_this();
  try {
    socket_.non_blocking(true);
    socket_.set_option(tcp::no_delay(true));
    bool is_kept = true;
    while (is_kept) {
      HttpRequest request;
      is_kept = co_await read_request(request);
      if (is_kept) is_kept = co_await write_answer(std::move(request));
    }
    co_await linger();
  } catch (const std::exception& error) {
    log_debug("http: a connection ended: {}", error.what());
  }
  // What still waits holds this object; closing ends it.
  cut();
}

/// Reads the next request whole; false: there is none, the client was told why if it can be told.
asio::awaitable<bool> Connection::read_request(HttpRequest& request) {
  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(server_.limits.max_header_bytes));
  parser_->body_limit(static_cast<uint64_t>(server_.limits.max_body_bytes));
  has_head_ = wants_continue_ = false;
  bool has_begun = false;
  auto deadline = Clock::now() + server_.limits.idle_timeout;
  std::optional<Refusal> refusal;
  while (!refusal && !server_.is_stopping) {
    // RFC 9112, 2.2: empty lines before a request are passed over.
    if (!has_begun) input_.erase(0, input_.find_first_not_of("\r\n"));
    if (!input_.empty()) {
      if (!has_begun) deadline = Clock::now() + server_.limits.read_timeout;
      has_begun = true;
      refusal = parse(request);
      if (refusal) break;
      if (parser_->is_done()) break;
      if (std::exchange(wants_continue_, false))
        co_await send("HTTP/1.1 100 Continue\r\n\r\n", nullptr);
    }
    if (is_gone_) break;
    read_ahead();
    if (!co_await wait_until(deadline)) {
      if (!has_begun) break;
      refusal = Refusal{408, "the request did not come whole in time"};
    }
  }
  server_.body_bytes -= std::exchange(body_bytes_, 0);
  if (refusal) co_await refuse(*refusal);
  if (refusal || !parser_->is_done()) co_return false;
  request.body = std::move(parser_->get().body());
  co_return true;
}

/// Parses what `input_` holds. It keeps what is incomplete, and what follows the request.
std::optional<Refusal> Connection::parse(HttpRequest& request) {
  while (!input_.empty() && !parser_->is_done()) {
    error_code error;
    const size_t used = parser_->put(asio::buffer(input_), error);
    if (error && error != http::error::need_more)
      return refusal_of(error, input_, !parser_->get().target().empty());
    input_.erase(0, used);
    if (parser_->is_header_done() && !has_head_) {
      has_head_ = true;
      if (auto refusal = take_head(request)) return refusal;
    }
    if (has_head_)
      if (auto refusal = count_body()) return refusal;
    if (error == http::error::need_more && used == 0) {
      // The parser waits for the end of a line or of the trailers.
      if (input_.size() >= server_.most_input() && has_head_)
        return Refusal{400, "malformed HTTP: the line of a chunk is too long"};
      break;
    }
  }
  return {};
}

/// What is wrong with the head, as far as the parser does not look.
std::optional<Refusal> Connection::check_head() {
  const auto& head = parser_->get();
  const std::string expect = lower_case(view_of(head[http::field::expect]));
  const std::string coding = lower_case(view_of(head[http::field::transfer_encoding]));
  if (form_.is_http11 && head.count(http::field::host) != 1)
    return Refusal{400, "expected one Host header"};
  if (!coding.empty() && coding != "chunked")
    return Refusal{501, "expected the transfer coding chunked or none"};
  if (!coding.empty() && !form_.is_http11)
    return Refusal{400, "expected no transfer coding in HTTP/1.0"};
  if (!expect.empty() && expect != "100-continue")
    return Refusal{417, "expected the expectation 100-continue or none"};
  wants_continue_ = !expect.empty() && form_.is_http11;
  return {};
}

std::optional<Refusal> Connection::take_head(HttpRequest& request) {
  const auto& head = parser_->get();
  form_ = {.is_http11 = head.version() == 11,
           .keep_alive = parser_->keep_alive(),
           .is_head = head.method() == http::verb::head,
           .max_unsent_bytes = server_.limits.max_unsent_bytes};
  if (auto refusal = check_head()) return refusal;
  auto target = parse_target(view_of(head.target()));
  if (!target)
    return Refusal{400, "expected a path that begins with a slash and is UTF-8 when decoded"};
  request.method = std::string(head.method_string());
  request.path = std::move(target->path);
  request.query = std::move(target->query);
  for (const auto& field : head) {
    std::string& value = request.headers[lower_case(view_of(field.name_string()))];
    if (!value.empty()) value += ", ";
    value += view_of(field.value());
  }
  return {};
}

/// Counts the body against what all bodies together may hold: its length as soon as it is known.
std::optional<Refusal> Connection::count_body() {
  const auto length = parser_->content_length();
  const auto bytes = length ? static_cast<int64_t>(*length) : std::ssize(parser_->get().body());
  server_.body_bytes += bytes - std::exchange(body_bytes_, bytes);
  if (server_.body_bytes <= server_.limits.max_total_body_bytes) return {};
  return Refusal{503, "the bodies of all requests together are longer than this server holds"};
}

/// Passes the request on and sends what comes back; returns whether the connection stays open.
asio::awaitable<bool> Connection::write_answer(HttpRequest&& request) {
  const auto exchange = std::make_shared<HttpExchange>(form_, [self = shared_from_this()] {
    asio::post(self->server_.io, [self] { self->notify(); });
  });
  {
    const std::lock_guard lock(server_.mutex);
    ++server_.num_answering;
  }
  call_handler(std::move(request), exchange);
  HttpExchange::News news;
  bool is_complete = false;
  while (!is_gone_) {
    news = exchange->take();
    if (is_gone_ = news.is_cut; is_gone_) break;
    if (!news.bytes.empty() && !co_await send(news.bytes, exchange.get())) break;
    is_complete = news.is_last;
    if (is_complete) break;
    read_ahead();
    co_await wait_until(Clock::time_point::max());
  }
  for (auto& gone : exchange->detach()) server_.run_later(std::move(gone));
  const std::lock_guard lock(server_.mutex);
  --server_.num_answering;
  server_.changed.notify_all();
  const bool is_kept = is_complete && news.keep_alive;
  co_return is_kept;
}

void Connection::call_handler(HttpRequest&& request,
                              const std::shared_ptr<HttpExchange>& exchange) {
  asio::post(server_.handlers,
             [&server = server_, request = std::move(request), exchange]() mutable {
               if (exchange->is_detached()) return;
               const auto responder = make_responder(exchange, server.dropped);
               try {
                 server.handler(std::move(request), responder);
               } catch (const std::exception& error) {
                 log_warning("http: a request failed: {}", error.what());
                 exchange->abandon(server.error(500, error.what()));
               }
             });
}

/// Sends bytes at the pace of the client; false: it has gone, takes nothing any more, or the answer
/// was cut.
asio::awaitable<bool> Connection::send(std::string_view bytes, HttpExchange* exchange) {
  WriteDeadline deadline(server_.limits.write_timeout);
  while (!bytes.empty()) {
    if (exchange && exchange->is_cut()) is_gone_ = true;
    if (is_gone_) co_return false;
    error_code error;
    const size_t sent = socket_.write_some(asio::buffer(bytes), error);
    if (!error) {
      bytes.remove_prefix(sent);
      if (exchange) exchange->sent(static_cast<int64_t>(sent));
      deadline.begin_anew();
      continue;
    }
    is_gone_ = error != asio::error::would_block || deadline.has_passed();
    if (is_gone_) {
      log_debug("http: a client left, or took nothing in time and was cut off");
      co_return false;
    }
    read_ahead();
    wait_for_room();
    if (!co_await wait_until(deadline.next_try())) deadline.count_wait();
  }
  // What was told meanwhile is not told again: the caller looks before it waits.
  is_notified_ = true;
  co_return true;
}

asio::awaitable<void> Connection::refuse(const Refusal& refusal) {
  AnswerForm form = form_;
  form.keep_alive = false;
  const HttpResponse response = server_.error(refusal.status, refusal.message);
  std::string answer = answer_head(response, form, std::ssize(response.body));
  if (!form.is_head) answer += response.body;
  co_await send(answer, nullptr);
}

/// Ends the connection so that the client sees all that was sent.
asio::awaitable<void> Connection::linger() {
  if (is_gone_) co_return;
  socket_.shutdown(tcp::socket::shutdown_send, ignored_);
  const auto deadline = Clock::now() + kLinger;
  while (!is_gone_ && !server_.is_stopping && Clock::now() < deadline) {
    input_.clear();
    read_ahead();
    co_await wait_until(deadline);
  }
}

tcp::acceptor listen_at(asio::io_context& io, const std::string& host, uint16_t port) {
  const std::string where = fmt::format("{}:{}", host, port);
  error_code error;
  tcp::resolver resolver(io);
  const auto addresses = resolver.resolve(
      host, std::to_string(port), tcp::resolver::passive | tcp::resolver::numeric_service, error);
  if (host.empty() || error || addresses.empty())
    fail<ConfigError>("bad-address", where,
                      "expected the address of a host, got one that has none "
                      "({})",
                      error.message());
  const tcp::endpoint endpoint = addresses.begin()->endpoint();
  tcp::acceptor acceptor(io);
  acceptor.open(endpoint.protocol());
  // Connections of the last server that linger in the system do not keep this one from starting.
  acceptor.set_option(tcp::acceptor::reuse_address(true));
  acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(tcp::acceptor::max_listen_connections, error);
  if (error == asio::error::address_in_use)
    fail<IoError>("address-in-use", where,
                  "expected a free port, got one that another program "
                  "listens on");
  if (error == boost::system::errc::address_not_available)
    fail<ConfigError>("bad-address", where, "expected an address of this machine, got another");
  if (error) fail<IoError>("cannot-listen", where, "expected to listen, got: {}", error.message());
  return acceptor;
}

}  // namespace

struct HttpServer::Impl {
  Impl(const std::string& host, uint16_t wanted_port, const HttpLimits& limits)
      : state(limits), acceptor(listen_at(state.io, host, wanted_port)), retry(state.io) {}

  void accept();
  void admit(tcp::socket socket);
  void turn_away(tcp::socket& socket);
  void run();
  bool stop(Clock::time_point deadline);

  ServerState state;
  tcp::acceptor acceptor;
  /// When accepting goes on after the system was out of descriptors.
  asio::steady_timer retry;
  ReserveDescriptor reserve;
  uint16_t port = 0;
  std::thread thread;
};

void HttpServer::Impl::accept() {
  acceptor.async_accept([this](error_code error, tcp::socket socket) {
    if (error == asio::error::operation_aborted || !acceptor.is_open()) return;
    if (!error) {
      admit(std::move(socket));
      accept();
      return;
    }
    // Most likely no descriptor is left. The next client in line is taken with the one in reserve
    // and closed, so that it does not wait for what may not come.
    reserve.give_up();
    tcp::socket unlucky(state.io);
    acceptor.non_blocking(true, error);
    acceptor.accept(unlucky, error);
    if (!error) turn_away(unlucky);
    unlucky.close(error);
    reserve.take();
    retry.expires_after(std::chrono::milliseconds(1));
    retry.async_wait([this](error_code stopped) {
      if (!stopped) accept();
    });
  });
}

void HttpServer::Impl::admit(tcp::socket socket) {
  if (state.num_connections >= state.limits.max_connections) {
    turn_away(socket);
    return;
  }
  const auto connection = std::make_shared<Connection>(state, std::move(socket));
  asio::co_spawn(
      state.io, [connection] { return connection->run(); }, asio::detached);
}

/// Says that there are too many connections, as far as that goes without waiting.
void HttpServer::Impl::turn_away(tcp::socket& socket) {
  const HttpResponse response =
      state.error(503, "this server has as many connections as it can serve");
  const std::string answer =
      answer_head(response, {.keep_alive = false}, std::ssize(response.body)) + response.body;
  error_code ignored;
  socket.non_blocking(true, ignored);
  // Unread bytes would turn the end of the connection into a reset, which overtakes the answer.
  socket.read_some(asio::buffer(state.read_buffer), ignored);
  socket.write_some(asio::buffer(answer), ignored);
  socket.shutdown(tcp::socket::shutdown_send, ignored);
}

void HttpServer::Impl::run() {
  while (true) {
    try {
      state.io.run();
      return;
    } catch (const std::exception& error) {
      log_warning("http: {}", error.what());
    }
  }
}

bool HttpServer::Impl::stop(Clock::time_point deadline) {
  asio::post(state.io, [this] {
    error_code ignored;
    acceptor.close(ignored);
    retry.cancel();
    const std::lock_guard lock(state.mutex);
    state.is_stopping = true;
    state.changed.notify_all();
    for (Connection* connection : state.connections) connection->notify();
  });
  std::unique_lock lock(state.mutex);
  const auto is_done = [this] { return state.is_stopping && state.num_connections == 0; };
  state.changed.wait_until(lock, deadline, is_done);
  const bool was_complete = state.num_answering == 0;
  lock.unlock();
  asio::post(state.io, [this] {
    for (Connection* connection : state.connections) connection->cut();
  });
  lock.lock();
  state.changed.wait(lock, is_done);
  return was_complete;
}

HttpServer::HttpServer(const std::string& host,
                       uint16_t port,
                       const HttpLimits& limits,
                       HttpHandler handler,
                       ErrorBody error_body)
    : impl_(std::make_unique<Impl>(host, port, limits)) {
  impl_->state.handler = std::move(handler);
  impl_->state.error_body = std::move(error_body);
  impl_->state.dropped = std::make_shared<const HttpResponse>(
      impl_->state.error(500, "the request was dropped without an answer"));
  impl_->port = impl_->acceptor.local_endpoint().port();
  impl_->accept();
  impl_->thread = std::thread([impl = impl_.get()] { impl->run(); });
}

HttpServer::~HttpServer() {
  impl_->stop(Clock::now());
  impl_->state.handlers.join();
  impl_->thread.join();
}

uint16_t HttpServer::port() const { return impl_->port; }

bool HttpServer::stop(Clock::time_point deadline) { return impl_->stop(deadline); }

int64_t HttpServer::connections() const { return impl_->state.num_connections; }

}  // namespace lockstep::serve
