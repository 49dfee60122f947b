// SPDX-License-Identifier: Apache-2.0
#include "net/http_client.h"

#include <algorithm>
#include <array>
#include <curl/curl.h>
#include <mutex>
#include <optional>
#include <vector>

#include "base/check.h"
#include "base/json.h"

namespace lockstep::net {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

/// A server in reach accepts a connection within this time.
constexpr milliseconds kConnectTimeout{10'000};
/// How often a waiting call looks whether it is cancelled.
constexpr milliseconds kCancelInterval{100};
constexpr size_t kLongestBody = size_t{1} << 30;

/// libcurl's own state, once for the process.
void init_curl() {
  static const CURLcode code = curl_global_init(CURL_GLOBAL_DEFAULT);
  LOCKSTEP_CHECK(code == CURLE_OK, "libcurl does not start: {}", curl_easy_strerror(code));
}

/// One part of a URL; unset where it has none.
std::optional<std::string> url_part(CURLU* url, CURLUPart part) {
  char* text = nullptr;
  if (curl_url_get(url, part, &text, 0) != CURLUE_OK) return {};
  std::string copy = text;
  curl_free(text);
  return copy;
}

/// Checks a base URL and returns it without a slash at its end.
std::string checked_url(const std::string& url) {
  const auto refuse = [&](const std::string& why) {
    fail<ConfigError>("bad-url", url, "expected http://HOST:PORT, got {}", why);
  };
  const std::unique_ptr<CURLU, void (*)(CURLU*)> parsed(curl_url(), curl_url_cleanup);
  if (const CURLUcode code = curl_url_set(parsed.get(), CURLUPART_URL, url.c_str(), 0))
    refuse(curl_url_strerror(code));
  const auto scheme = url_part(parsed.get(), CURLUPART_SCHEME);
  if (scheme != "http" && scheme != "https") refuse("the scheme " + scheme.value_or("none"));
  if (url_part(parsed.get(), CURLUPART_HOST).value_or("").empty()) refuse("no host");
  for (const CURLUPart part : {CURLUPART_USER, CURLUPART_PASSWORD})
    if (url_part(parsed.get(), part)) refuse("a user or password in it");
  for (const CURLUPart part : {CURLUPART_QUERY, CURLUPART_FRAGMENT})
    if (url_part(parsed.get(), part)) refuse("a query or fragment in it");
  std::string base = url;
  while (base.ends_with('/')) base.pop_back();
  return base;
}

}  // namespace

bool is_this_machine(const std::string& url) {
  const std::unique_ptr<CURLU, void (*)(CURLU*)> parsed(curl_url(), curl_url_cleanup);
  if (curl_url_set(parsed.get(), CURLUPART_URL, url.c_str(), 0) != CURLUE_OK) return false;
  const std::string host = url_part(parsed.get(), CURLUPART_HOST).value_or("");
  return host == "localhost" || host == "[::1]" || host.starts_with("127.");
}

namespace {

void check_api_key(const std::string& key) {
  const bool is_printable =
      std::all_of(key.begin(), key.end(), [](unsigned char c) { return c > ' ' && c < 127; });
  if (!is_printable)
    fail<ConfigError>("bad-api-key", "API key",
                      "expected printable characters without spaces, got others");
}

/// A connection with its handles; libcurl reuses it while the server keeps it open.
class Connection {
 public:
  Connection() : easy_(curl_easy_init()), multi_(curl_multi_init()) {
    LOCKSTEP_CHECK(easy_ && multi_, "libcurl gives no handle");
  }
  ~Connection() {
    curl_easy_cleanup(easy_);
    curl_multi_cleanup(multi_);
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// What became of a transfer.
  struct Result {
    CURLcode code = CURLE_OK;
    bool is_late = false, is_cancelled = false;
    std::string error;
    HttpAnswer answer;
  };

  struct Call {
    std::string url;
    const std::string* body = nullptr;
    const curl_slist* headers = nullptr;
    milliseconds timeout{};
    const std::function<bool()>* cancelled = nullptr;
  };

  Result transfer(const Call& call) {
    Result result;
    set_options(call, result);
    curl_multi_add_handle(multi_, easy_);
    run(call, result);
    curl_multi_remove_handle(multi_, easy_);
    long status = 0;
    curl_easy_getinfo(easy_, CURLINFO_RESPONSE_CODE, &status);
    result.answer.status = static_cast<int>(status);
    if (result.code) result.error = error_[0] ? error_.data() : curl_easy_strerror(result.code);
    return result;
  }

 private:
  static size_t take_body(char* data, size_t, size_t count, void* to) {
    auto& body = *static_cast<std::string*>(to);
    if (body.size() + count > kLongestBody) return 0;
    body.append(data, count);
    return count;
  }

  void set_options(const Call& call, Result& result) {
    curl_easy_reset(easy_);
    error_[0] = '\0';
    // Signals belong to the program; without this libcurl uses SIGALRM for names.
    curl_easy_setopt(easy_, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy_, CURLOPT_ERRORBUFFER, error_.data());
    curl_easy_setopt(easy_, CURLOPT_URL, call.url.c_str());
    curl_easy_setopt(easy_, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy_, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
    // A proxy of the environment would see every prompt, and most know nothing of local servers.
    curl_easy_setopt(easy_, CURLOPT_PROXY, "");
    curl_easy_setopt(easy_, CURLOPT_TCP_NODELAY, 1L);
    curl_easy_setopt(easy_, CURLOPT_TCP_KEEPALIVE, 1L);
    const milliseconds connect = std::min(call.timeout, kConnectTimeout);
    curl_easy_setopt(easy_, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(connect.count()));
    curl_easy_setopt(easy_, CURLOPT_TIMEOUT_MS, static_cast<long>(call.timeout.count()));
    curl_easy_setopt(easy_, CURLOPT_HTTPHEADER, call.headers);
    curl_easy_setopt(easy_, CURLOPT_WRITEFUNCTION, take_body);
    curl_easy_setopt(easy_, CURLOPT_WRITEDATA, &result.answer.body);
    if (!call.body) return;
    curl_easy_setopt(easy_, CURLOPT_POST, 1L);
    curl_easy_setopt(easy_, CURLOPT_POSTFIELDS, call.body->data());
    curl_easy_setopt(easy_, CURLOPT_POSTFIELDSIZE_LARGE,
                     static_cast<curl_off_t>(call.body->size()));
  }

  void run(const Call& call, Result& result) {
    // libcurl keeps the deadline itself; this one holds if it does not.
    const auto deadline = Clock::now() + call.timeout + kCancelInterval;
    for (int running = 1; running;) {
      curl_multi_perform(multi_, &running);
      if (!running) break;
      if (*call.cancelled && (*call.cancelled)()) {
        result.is_cancelled = true;
        return;
      }
      if (Clock::now() > deadline) {
        result.is_late = true;
        result.code = CURLE_OPERATION_TIMEDOUT;
        return;
      }
      curl_multi_poll(multi_, nullptr, 0, static_cast<int>(kCancelInterval.count()), nullptr);
    }
    int left = 0;
    while (const CURLMsg* message = curl_multi_info_read(multi_, &left))
      if (message->msg == CURLMSG_DONE) result.code = message->data.result;
    result.is_late = result.code == CURLE_OPERATION_TIMEDOUT;
  }

  CURL* easy_;
  CURLM* multi_;
  std::array<char, CURL_ERROR_SIZE> error_{};
};

Json json_of(const HttpAnswer& answer, const std::string& url, const std::string& request) {
  if (answer.status != 200)
    fail<PeerError>("peer-refused", url, "expected 200 from {}, got {}: {}", request, answer.status,
                    error_message(answer));
  try {
    return parse_json(answer.body, url);
  } catch (const FormatError& error) {
    fail<PeerError>("peer-refused", url, "expected JSON from {}, got {}", request,
                    error_message(answer));
  }
}

}  // namespace

std::string error_message(const HttpAnswer& answer) {
  constexpr size_t kShown = 200;
  try {
    const Json body = parse_json(answer.body, "answer");
    if (body.is_object()) {
      const Json error = body.value("error", Json());
      if (error.is_object() && error.contains("message") && error["message"].is_string())
        return error["message"].get<std::string>();
      if (error.is_string()) return error.get<std::string>();
      if (body.contains("detail")) return dump_json(body["detail"]);
    }
  } catch (const FormatError&) {
    // Not every server answers in JSON, above all not those in front of ours.
  }
  if (answer.body.empty()) return "an empty body";
  std::string shown = answer.body.substr(0, kShown);
  for (char& c : shown)
    if (static_cast<unsigned char>(c) < ' ') c = ' ';
  return dump_json(Json(shown));
}

struct HttpClient::Impl {
  std::string url;
  curl_slist* headers = nullptr;
  std::mutex mutex;
  std::vector<std::unique_ptr<Connection>> idle;

  ~Impl() { curl_slist_free_all(headers); }

  void add_header(const std::string& line) {
    headers = curl_slist_append(headers, line.c_str());
    LOCKSTEP_CHECK(headers, "libcurl takes no header");
  }

  std::unique_ptr<Connection> take() {
    const std::lock_guard lock(mutex);
    if (idle.empty()) return std::make_unique<Connection>();
    auto connection = std::move(idle.back());
    idle.pop_back();
    return connection;
  }

  HttpAnswer call(std::string_view method,
                  std::string_view path,
                  const std::string* body,
                  milliseconds timeout,
                  const std::function<bool()>& cancelled) {
    const std::string request = fmt::format("{} {}", method, path);
    auto connection = take();
    Connection::Result result = connection->transfer(
        {url + std::string(path), body, headers, std::max(timeout, milliseconds(1)), &cancelled});
    if (result.is_cancelled)
      fail<InterruptedError>("interrupted", url, "expected the answer to {}, got a cancellation",
                             request);
    if (result.is_late)
      fail<PeerError>("deadline", url, "expected the answer to {} within {:.4g} s, got none ({})",
                      request, static_cast<double>(timeout.count()) / 1000, result.error);
    if (result.code)
      fail<PeerError>("connection-failed", url, "expected the answer to {}, got none: {}", request,
                      result.error);
    const std::lock_guard lock(mutex);
    idle.push_back(std::move(connection));
    return std::move(result.answer);
  }
};

HttpClient::HttpClient(const std::string& url, const std::string& api_key)
    : impl_(std::make_unique<Impl>()) {
  init_curl();
  impl_->url = checked_url(url);
  check_api_key(api_key);
  impl_->add_header("Content-Type: application/json");
  // Without it libcurl asks before it sends a large body, and waits a second for the answer.
  impl_->add_header("Expect:");
  if (!api_key.empty()) impl_->add_header("Authorization: Bearer " + api_key);
}

HttpClient::~HttpClient() = default;

const std::string& HttpClient::url() const { return impl_->url; }

HttpAnswer HttpClient::get(std::string_view path,
                           milliseconds timeout,
                           const std::function<bool()>& cancelled) const {
  return impl_->call("GET", path, nullptr, timeout, cancelled);
}

HttpAnswer HttpClient::post(std::string_view path,
                            const std::string& body,
                            milliseconds timeout,
                            const std::function<bool()>& cancelled) const {
  return impl_->call("POST", path, &body, timeout, cancelled);
}

Json HttpClient::get_json(std::string_view path,
                          milliseconds timeout,
                          const std::function<bool()>& cancelled) const {
  return json_of(get(path, timeout, cancelled), url(), fmt::format("GET {}", path));
}

Json HttpClient::post_json(std::string_view path,
                           const Json& body,
                           milliseconds timeout,
                           const std::function<bool()>& cancelled) const {
  return json_of(post(path, dump_json(body), timeout, cancelled), url(),
                 fmt::format("POST {}", path));
}

}  // namespace lockstep::net
