// A server whose handler tells what it was asked, or hands the request to the test.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "serve/http_server.h"
#include "tests/serve/raw_client.h"

namespace lockstep::testing {

/// Something that happens on another thread, and the wait for it.
class Event {
 public:
  void set() {
    const std::lock_guard lock(mutex_);
    ++count_;
    changed_.notify_all();
  }
  /// True once set() was called `count` times; false if that takes longer than a client waits.
  bool wait(int count = 1) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::milliseconds(RawClient::kPatienceMs),
                             [&] { return count_ >= count; });
  }
  int count() {
    const std::lock_guard lock(mutex_);
    return count_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int count_ = 0;
};

/// GET or POST /echo says what it was asked; /hold gives the responder to the test; /throw throws;
/// /drop forgets the responder.
class TestServer {
 public:
  using Responder = std::shared_ptr<serve::HttpResponder>;

  explicit TestServer(const serve::HttpLimits& limits = {})
      : server_(
            "127.0.0.1",
            0,
            limits,
            [this](serve::HttpRequest&& request, Responder responder) {
              handle(std::move(request), std::move(responder));
            },
            [](int status, std::string_view message) {
              return fmt::format("error {}: {}", status, message);
            }) {}

  uint16_t port() const { return server_.port(); }
  serve::HttpServer& server() { return server_; }
  /// The responder of the next request to /hold.
  Responder take_held() {
    std::unique_lock lock(mutex_);
    const bool came = changed_.wait_for(lock, std::chrono::milliseconds(RawClient::kPatienceMs),
                                        [&] { return !held_.empty(); });
    if (!came) throw std::runtime_error("no request to /hold came");
    Responder responder = std::move(held_.front());
    held_.pop_front();
    return responder;
  }
  int64_t num_requests() {
    const std::lock_guard lock(mutex_);
    return num_requests_;
  }
  /// Fails the test unless a new client is served.
  void expect_serves(const std::string& after) {
    RawClient client(port());
    client.send(raw_request("GET", "/echo"));
    const auto answer = client.read_answer();
    ASSERT_TRUE(answer) << "no answer after " << after;
    EXPECT_EQ(answer->status, 200) << "after " << after;
    client.reset();
  }
  /// Waits until all connections are gone. It counts its sleeps, since a clock goes on while
  /// something holds up the whole program.
  bool is_empty_in_time() {
    for (int i = 0; i < RawClient::kPatienceMs && server_.connections() > 0; ++i) ::usleep(1'000);
    return server_.connections() == 0;
  }

 private:
  void handle(serve::HttpRequest&& request, Responder responder) {
    const std::lock_guard lock(mutex_);
    ++num_requests_;
    if (request.path == "/hold") {
      held_.push_back(std::move(responder));
      changed_.notify_all();
    } else if (request.path == "/throw") {
      throw std::runtime_error("the handler failed");
    } else if (request.path != "/drop") {
      std::string text = request.method + " " + request.path;
      for (const auto& [name, value] : request.query) text += " " + name + "=" + value;
      if (request.headers.count("x-test")) text += " x-test:" + request.headers["x-test"];
      text += " body " +
              (request.body.size() < 100 ? request.body : std::to_string(request.body.size()));
      responder->respond({.status = 200, .body = text, .content_type = "text/plain"});
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Responder> held_;
  int64_t num_requests_ = 0;
  // Last, so that it ends before what its threads use.
  serve::HttpServer server_;
};

}  // namespace lockstep::testing
