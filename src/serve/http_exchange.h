// Where the answer to one request passes from any thread to the thread of its connection.
// SPDX-License-Identifier: Apache-2.0
//
//   open ── respond() ──────────────────────────▶ answered     all bytes are known
//   open ── begin_stream() ─▶ streaming ── end_stream() ─▶ answered
//   streaming ── dropped ─▶ answered                            the connection ends without the end
//   streaming ── too much unsent ─▶ cut                         the connection ends at once
//   any ── detach() ─▶ detached                                 nothing is heard any more
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "serve/http_server.h"

namespace lockstep::serve {

/// What an answer's bytes depend on besides the answer.
struct AnswerForm {
  /// HTTP/1.1 knows chunks; to an older client a stream ends with its connection.
  bool is_http11 = true;
  bool keep_alive = true;
  /// The answer to HEAD has no body.
  bool is_head = false;
  int64_t max_unsent_bytes = 0;
};

/// The whole head of an answer; `length` < 0: a stream.
std::string answer_head(const HttpResponse& response, const AnswerForm& form, int64_t length);

/// The answer to one request, on its way. Threads: safe.
class HttpExchange {
 public:
  /// `wake` tells the connection that take() has something new; it must not wait.
  HttpExchange(const AnswerForm& form, std::function<void()> wake);

  /// The responder's side: see HttpResponder.
  void set_header(std::string name, std::string value);
  void respond(const HttpResponse& response);
  void begin_stream(int status, std::string_view content_type);
  void write(std::string_view piece);
  void end_stream();
  void on_gone(std::function<void()> gone);
  int64_t unsent_bytes() const { return unsent_; }
  /// The last responder has died: `error` if nothing was said yet, else the stream ends without its
  /// end.
  void abandon(const HttpResponse& error);

  struct News {
    std::string bytes;
    /// Nothing follows.
    bool is_last = false;
    bool is_cut = false;
    bool keep_alive = false;
  };
  /// The connection's side: what came since the last call.
  News take();
  /// That many of the bytes of take() have left.
  void sent(int64_t bytes) { unsent_ -= bytes; }
  bool is_cut() const;
  bool is_detached() const;
  /// The connection looks no more. Returns what is to be called because the client left before the
  /// answer was complete.
  std::vector<std::function<void()>> detach();

 private:
  enum class State : uint8_t { kOpen, kStreaming, kAnswered, kCut, kDetached };

  /// The head of an answer with the headers of set_header().
  std::string head_of(HttpResponse response, int64_t length) const;
  void append(std::string_view bytes);
  void wake();

  AnswerForm form_;
  mutable std::mutex mutex_;
  std::function<void()> wake_;
  bool is_woken_ = false;
  State state_ = State::kOpen;
  std::map<std::string, std::string> headers_;
  std::string bytes_;
  std::vector<std::function<void()>> gone_;
  std::atomic<int64_t> unsent_{0};
};

/// The responder of an exchange. If it dies before an answer, `dropped` is the answer; it is shared
/// with the server, which may be gone by then.
std::shared_ptr<HttpResponder> make_responder(std::shared_ptr<HttpExchange> exchange,
                                              std::shared_ptr<const HttpResponse> dropped);

}  // namespace lockstep::serve
