// SPDX-License-Identifier: Apache-2.0
#include "serve/router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/json.h"
#include "serve/error_answer.h"
#include "tests/serve/raw_client.h"

namespace lockstep::serve {
namespace {

using lockstep::testing::raw_request;
using lockstep::testing::RawAnswer;
using lockstep::testing::RawClient;

/// A router behind a real server.
class RouterTest : public ::testing::Test {
 protected:
  void start(const std::string& api_key) {
    router_ = std::make_unique<Router>(api_key);
    const auto say = [](const char* text) {
      return [text](HttpRequest&&, const std::shared_ptr<HttpResponder>& responder) {
        respond_json(*responder, text);
      };
    };
    router_->add("GET", "/health", say("\"well\""));
    router_->add("GET", "/thing", say("\"got\""));
    router_->add("POST", "/thing", say("\"posted\""));
    router_->add("POST", "/refuse", [](HttpRequest&&, const auto&) {
      throw RequestError(409, "version-mismatch", "weight_version", "expected 1, got 2");
    });
    router_->add("POST", "/busy", [](HttpRequest&&, const auto&) {
      throw RequestError(503, "queue-full", "", "the queue is full");
    });
    router_->add("POST", "/fail", [](HttpRequest&&, const auto&) {
      throw std::runtime_error("a secret of the inside");
    });
    router_->add("GET", "/stream", [](HttpRequest&&, const auto& responder) {
      responder->begin_stream(200, "text/event-stream");
      responder->end_stream();
    });
    router_->set_fallback([](HttpRequest& request, const auto& responder) {
      if (request.path != "/other") return false;
      respond_json(*responder, "\"elsewhere\"");
      return true;
    });
    server_ = std::make_unique<HttpServer>(
        "127.0.0.1", 0, HttpLimits{},
        [this](HttpRequest&& request, std::shared_ptr<HttpResponder> responder) {
          router_->handle(std::move(request), responder);
        },
        [](int status, std::string_view message) { return error_body(status, message); });
  }
  RawAnswer ask(std::string_view method, std::string_view path, std::string_view headers = "") {
    RawClient client(server_->port());
    client.send(raw_request(method, path, "", headers));
    return client.read_answer(method == "HEAD").value_or(RawAnswer{});
  }
  static Json error_of(const RawAnswer& answer) {
    return parse_json(answer.body, "answer").at("error");
  }

  std::unique_ptr<Router> router_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(RouterTest, PathAndMethodSayWhoAnswers) {
  start("");
  EXPECT_EQ(ask("GET", "/thing").body, "\"got\"");
  EXPECT_EQ(ask("POST", "/thing").body, "\"posted\"");
  EXPECT_EQ(ask("POST", "/thing/").body, "\"posted\"");
  EXPECT_EQ(ask("GET", "/other/").body, "\"elsewhere\"");
  const auto head = ask("HEAD", "/thing");
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.headers.at("content-length"), "5");
}

TEST_F(RouterTest, UnknownPathsAndMethodsAreErrorsInOpenAisForm) {
  start("");
  for (const char* path : {"/nothing", "/", "//", "/thing/else", "/THING"}) {
    const auto answer = ask("GET", path);
    EXPECT_EQ(answer.status, 404) << path;
    EXPECT_EQ(error_of(answer).at("code"), "unknown-path");
    EXPECT_TRUE(error_of(answer).at("type").is_string());
    EXPECT_TRUE(error_of(answer).at("param").is_null());
  }
  const auto answer = ask("DELETE", "/thing");
  EXPECT_EQ(answer.status, 405);
  EXPECT_EQ(answer.headers.at("allow"), "GET, POST");
  EXPECT_EQ(error_of(answer).at("message"), "/thing: expected GET, POST, got DELETE");
}

TEST_F(RouterTest, WhatAHandlerThrowsIsToldToTheClient) {
  start("");
  auto answer = ask("POST", "/refuse");
  EXPECT_EQ(answer.status, 409);
  EXPECT_EQ(error_of(answer).at("code"), "version-mismatch");
  EXPECT_EQ(error_of(answer).at("param"), "weight_version");
  answer = ask("POST", "/busy");
  EXPECT_EQ(answer.status, 503);
  EXPECT_EQ(answer.headers.count("retry-after"), 1);
  answer = ask("POST", "/fail");
  EXPECT_EQ(answer.status, 500);
  EXPECT_EQ(answer.body.find("secret"), std::string::npos);
}

TEST_F(RouterTest, EveryPathButHealthWantsTheKey) {
  start("right");
  EXPECT_EQ(ask("GET", "/health").status, 200);
  EXPECT_EQ(ask("GET", "/health/").status, 200);
  EXPECT_EQ(ask("GET", "/thing", "Authorization: Bearer right\r\n").status, 200);
  EXPECT_EQ(ask("GET", "/thing", "Authorization: bearer  right\r\n").status, 200);
  EXPECT_EQ(ask("GET", "/other", "Authorization: Bearer right\r\n").status, 200);
  for (const char* header :
       {"", "Authorization: Bearer\r\n", "Authorization: Bearer \r\n",
        "Authorization: Bearer righ\r\n", "Authorization: Bearer right!\r\n",
        "Authorization: Bearer Right\r\n", "Authorization: Bearer rightright\r\n",
        "Authorization: Basic right\r\n", "Authorization: right\r\n", "X-Api-Key: right\r\n",
        "Authorization: Bearer right\r\nAuthorization: Bearer right\r\n"})
    for (const char* path : {"/thing", "/other", "/nothing", "/healthy", "/health/x", "/health?"}) {
      const auto answer = ask("GET", path, header);
      if (std::string_view(path) == "/health?") {
        EXPECT_EQ(answer.status, 200);
        continue;
      }
      EXPECT_EQ(answer.status, 401) << path << " " << header;
      EXPECT_EQ(answer.headers.at("www-authenticate"), "Bearer");
      EXPECT_THAT(std::string(error_of(answer).at("code")), ::testing::HasSubstr("api-key"));
    }
}

TEST_F(RouterTest, AnswersNameTheRequest) {
  start("");
  EXPECT_EQ(ask("GET", "/thing", "X-Request-Id: mine-7\r\n").headers.at("x-request-id"), "mine-7");
  EXPECT_EQ(ask("GET", "/stream", "X-Request-Id: mine-8\r\n").headers.at("x-request-id"), "mine-8");
  EXPECT_EQ(ask("POST", "/fail", "X-Request-Id: mine-9\r\n").headers.at("x-request-id"), "mine-9");
  const std::string one = ask("GET", "/thing").headers.at("x-request-id");
  const std::string other = ask("GET", "/nothing").headers.at("x-request-id");
  EXPECT_THAT(one, ::testing::StartsWith("req-"));
  EXPECT_NE(one, other);
  const std::string too_long = "X-Request-Id: " + std::string(200, 'a') + "\r\n";
  EXPECT_THAT(ask("GET", "/thing", too_long).headers.at("x-request-id"),
              ::testing::StartsWith("req-"));
}

}  // namespace
}  // namespace lockstep::serve
