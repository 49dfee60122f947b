// SPDX-License-Identifier: Apache-2.0
#include "serve/http_exchange.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include <fmt/format.h>

namespace lockstep::serve {
namespace {

std::string_view reason_phrase(int status) {
  static constexpr std::pair<int, std::string_view> kPhrases[] = {
      {200, "OK"},
      {201, "Created"},
      {204, "No Content"},
      {400, "Bad Request"},
      {401, "Unauthorized"},
      {403, "Forbidden"},
      {404, "Not Found"},
      {405, "Method Not Allowed"},
      {408, "Request Timeout"},
      {409, "Conflict"},
      {413, "Payload Too Large"},
      {414, "URI Too Long"},
      {417, "Expectation Failed"},
      {422, "Unprocessable Entity"},
      {429, "Too Many Requests"},
      {431, "Request Header Fields Too Large"},
      {500, "Internal Server Error"},
      {501, "Not Implemented"},
      {503, "Service Unavailable"},
      {504, "Gateway Timeout"},
      {505, "HTTP Version Not Supported"},
  };
  for (const auto& [code, phrase] : kPhrases)
    if (code == status) return phrase;
  return "Status";
}

/// The time as RFC 9110, 5.6.7 writes it.
std::string http_date() {
  static constexpr std::string_view kDays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  static constexpr std::string_view kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                                 "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  ::gmtime_r(&now, &parts);
  return fmt::format("{}, {:02} {} {} {:02}:{:02}:{:02} GMT", kDays[parts.tm_wday], parts.tm_mday,
                     kMonths[parts.tm_mon], parts.tm_year + 1900, parts.tm_hour, parts.tm_min,
                     parts.tm_sec);
}

/// A line of the head; what would end it early becomes a space.
void append_header(std::string& head, std::string_view name, std::string_view value) {
  const size_t start = head.size();
  head += name;
  head += ": ";
  head += value;
  std::replace_if(
      head.begin() + static_cast<std::ptrdiff_t>(start), head.end(),
      [](char character) { return static_cast<unsigned char>(character) < 0x20; }, ' ');
  head += "\r\n";
}

/// Hands a request's answer to its connection.
class Responder final : public HttpResponder {
 public:
  Responder(std::shared_ptr<HttpExchange> exchange, std::shared_ptr<const HttpResponse> dropped)
      : exchange_(std::move(exchange)), dropped_(std::move(dropped)) {}
  ~Responder() override { exchange_->abandon(*dropped_); }
  Responder(const Responder&) = delete;
  Responder& operator=(const Responder&) = delete;

  void set_header(std::string name, std::string value) override {
    exchange_->set_header(std::move(name), std::move(value));
  }
  void respond(HttpResponse response) override { exchange_->respond(response); }
  void begin_stream(int status, std::string_view content_type) override {
    exchange_->begin_stream(status, content_type);
  }
  void write(std::string piece) override { exchange_->write(piece); }
  void end_stream() override { exchange_->end_stream(); }
  void on_gone(std::function<void()> gone) override { exchange_->on_gone(std::move(gone)); }
  int64_t unsent_bytes() const override { return exchange_->unsent_bytes(); }

 private:
  std::shared_ptr<HttpExchange> exchange_;
  std::shared_ptr<const HttpResponse> dropped_;
};

}  // namespace

std::string answer_head(const HttpResponse& response, const AnswerForm& form, int64_t length) {
  std::string head = fmt::format("HTTP/1.{} {} {}\r\n", form.is_http11 ? 1 : 0, response.status,
                                 reason_phrase(response.status));
  append_header(head, "Date", http_date());
  if (!response.content_type.empty()) append_header(head, "Content-Type", response.content_type);
  for (const auto& [name, value] : response.headers) append_header(head, name, value);
  if (length >= 0)
    append_header(head, "Content-Length", std::to_string(length));
  else if (form.is_http11)
    append_header(head, "Transfer-Encoding", "chunked");
  if (!form.keep_alive)
    append_header(head, "Connection", "close");
  else if (!form.is_http11)
    append_header(head, "Connection", "keep-alive");
  return head + "\r\n";
}

HttpExchange::HttpExchange(const AnswerForm& form, std::function<void()> wake)
    : form_(form), wake_(std::move(wake)) {}

void HttpExchange::wake() {
  if (!is_woken_ && wake_) wake_();
  is_woken_ = true;
}

void HttpExchange::append(std::string_view bytes) {
  bytes_ += bytes;
  unsent_ += std::ssize(bytes);
}

void HttpExchange::set_header(std::string name, std::string value) {
  const std::lock_guard lock(mutex_);
  headers_[std::move(name)] = std::move(value);
}

std::string HttpExchange::head_of(HttpResponse response, int64_t length) const {
  response.headers.insert(response.headers.end(), headers_.begin(), headers_.end());
  return answer_head(response, form_, length);
}

void HttpExchange::respond(const HttpResponse& response) {
  // Dies after the lock is free: a callback may hold the last responder.
  std::vector<std::function<void()>> unneeded;
  const std::lock_guard lock(mutex_);
  if (state_ != State::kOpen) return;
  append(head_of({.status = response.status,
                  .content_type = response.content_type,
                  .headers = response.headers},
                 std::ssize(response.body)));
  if (!form_.is_head) append(response.body);
  state_ = State::kAnswered;
  unneeded.swap(gone_);
  wake();
}

void HttpExchange::begin_stream(int status, std::string_view content_type) {
  const std::lock_guard lock(mutex_);
  if (state_ != State::kOpen) return;
  // Without chunks the end of the connection is the end of the stream.
  if (!form_.is_http11) form_.keep_alive = false;
  append(head_of({.status = status,
                  .content_type = std::string(content_type),
                  .headers = {{"Cache-Control", "no-cache"}}},
                 -1));
  state_ = State::kStreaming;
  wake();
}

void HttpExchange::write(std::string_view piece) {
  const std::lock_guard lock(mutex_);
  // An empty chunk would end the stream.
  if (state_ != State::kStreaming || piece.empty() || form_.is_head) return;
  if (form_.is_http11) append(fmt::format("{:x}\r\n", piece.size()));
  append(piece);
  if (form_.is_http11) append("\r\n");
  if (unsent_ > form_.max_unsent_bytes) {
    state_ = State::kCut;
    bytes_.clear();
    // The connection may wait for room, with the last news not taken yet.
    is_woken_ = false;
  }
  wake();
}

void HttpExchange::end_stream() {
  std::vector<std::function<void()>> unneeded;
  const std::lock_guard lock(mutex_);
  if (state_ != State::kStreaming) return;
  if (form_.is_http11 && !form_.is_head) append("0\r\n\r\n");
  state_ = State::kAnswered;
  unneeded.swap(gone_);
  wake();
}

void HttpExchange::on_gone(std::function<void()> gone) {
  {
    const std::lock_guard lock(mutex_);
    if (state_ == State::kAnswered) return;
    if (state_ != State::kDetached) {
      gone_.push_back(std::move(gone));
      return;
    }
  }
  gone();
}

void HttpExchange::abandon(const HttpResponse& error) {
  {
    std::vector<std::function<void()>> unneeded;
    const std::lock_guard lock(mutex_);
    if (state_ == State::kStreaming) {
      // What was written is sent; the connection then ends without the last chunk.
      form_.keep_alive = false;
      state_ = State::kAnswered;
      unneeded.swap(gone_);
      wake();
    }
    if (state_ != State::kOpen) return;
  }
  respond(error);
}

HttpExchange::News HttpExchange::take() {
  const std::lock_guard lock(mutex_);
  is_woken_ = false;
  return {.bytes = std::exchange(bytes_, {}),
          .is_last = state_ == State::kAnswered,
          .is_cut = state_ == State::kCut,
          .keep_alive = form_.keep_alive};
}

bool HttpExchange::is_cut() const {
  const std::lock_guard lock(mutex_);
  return state_ == State::kCut;
}

bool HttpExchange::is_detached() const {
  const std::lock_guard lock(mutex_);
  return state_ == State::kDetached;
}

std::vector<std::function<void()>> HttpExchange::detach() {
  const std::lock_guard lock(mutex_);
  wake_ = nullptr;
  const bool was_complete = state_ == State::kAnswered;
  // An answer that is complete stays so for its responder.
  if (!was_complete) state_ = State::kDetached;
  return std::exchange(gone_, {});
}

std::shared_ptr<HttpResponder> make_responder(std::shared_ptr<HttpExchange> exchange,
                                              std::shared_ptr<const HttpResponse> dropped) {
  return std::make_shared<Responder>(std::move(exchange), std::move(dropped));
}

}  // namespace lockstep::serve
