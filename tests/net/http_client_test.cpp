// The HTTP client against servers that answer well, late, by halves, wrongly or not at all.
// SPDX-License-Identifier: Apache-2.0
#include "net/http_client.h"

#include <atomic>
#include <chrono>
#include <csignal>
#include <string>
#include <thread>
#include <vector>

#include "base/json.h"
#include "tests/support/expect_error.h"
#include "tests/support/socket_server.h"

namespace lockstep::net {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using testing::SocketConnection;
using testing::SocketRequest;
using testing::SocketServer;
using Clock = std::chrono::steady_clock;

constexpr milliseconds kLong{20'000}, kShort{300};

/// Answers with what came.
void echo(SocketConnection& connection, const SocketRequest& request) {
  const auto key = request.headers.find("authorization");
  connection.answer(200, dump_json({{"method", request.method},
                                    {"target", request.target},
                                    {"body", request.body},
                                    {"key", key == request.headers.end() ? "" : key->second}}));
}

milliseconds since(Clock::time_point begin) {
  return std::chrono::duration_cast<milliseconds>(Clock::now() - begin);
}

TEST(HttpClient, SendsMethodPathBodyAndKey) {
  SocketServer server(echo);
  const HttpClient client(server.url() + "/base/", "secret");
  EXPECT_EQ(client.url(), server.url() + "/base");
  const Json got = client.get_json("/a?b=c", kLong);
  EXPECT_EQ(got["method"], "GET");
  EXPECT_EQ(got["target"], "/base/a?b=c");
  EXPECT_EQ(got["key"], "Bearer secret");
  const Json posted = client.post_json("/x", {{"n", 3}}, kLong);
  EXPECT_EQ(posted["method"], "POST");
  EXPECT_EQ(posted["body"], R"({"n":3})");
}

TEST(HttpClient, SendsNoKeyWhereThereIsNone) {
  SocketServer server(echo);
  EXPECT_EQ(HttpClient(server.url(), "").get_json("/", kLong)["key"], "");
}

TEST(HttpClient, ALargeBodyGoesAtOnceBothWays) {
  std::atomic<bool> is_asked_first{false};
  SocketServer server([&](SocketConnection& connection, const SocketRequest& request) {
    // A client that asks for a "100 Continue" waits a second for it.
    if (request.headers.count("expect")) is_asked_first = true;
    echo(connection, request);
  });
  const std::string body(3 << 20, 'x');
  const HttpAnswer answer = HttpClient(server.url(), "").post("/", body, kLong);
  EXPECT_EQ(parse_json(answer.body, "answer")["body"].get<std::string>().size(), body.size());
  EXPECT_FALSE(is_asked_first);
}

TEST(HttpClient, CallsOneAfterAnotherShareAConnection) {
  SocketServer server(echo);
  const HttpClient client(server.url(), "");
  for (int i = 0; i < 5; ++i) client.get("/", kLong);
  EXPECT_EQ(server.connections(), 1);
}

TEST(HttpClient, ManyThreadsCallAtOnce) {
  SocketServer server([](SocketConnection& connection, const SocketRequest& request) {
    connection.wait(milliseconds(20));
    echo(connection, request);
  });
  const HttpClient client(server.url(), "");
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i)
    threads.emplace_back([&, i] {
      for (int k = 0; k < 5; ++k) {
        const std::string body = std::to_string(10 * i + k);
        right += parse_json(client.post("/", body, kLong).body, "answer")["body"] == body;
      }
    });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(right, 40);
  EXPECT_LE(server.connections(), 8);
}

TEST(HttpClient, AConnectionThatTheServerClosedIsMadeAnew) {
  SocketServer server([](SocketConnection& connection, const SocketRequest& request) {
    echo(connection, request);
    connection.close();
  });
  const HttpClient client(server.url(), "");
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(client.post("/", "x", kLong).status, 200);
    std::this_thread::sleep_for(milliseconds(20));
  }
  EXPECT_EQ(server.connections(), 3);
}

TEST(HttpClient, ADeadPortIsNamed) {
  const std::string url = "http://127.0.0.1:" + std::to_string(testing::dead_port());
  const HttpClient client(url, "");
  EXPECT_ERROR(client.get("/health", kLong), PeerError, "connection-failed",
               url + ": expected the answer to GET /health, got none: ");
}

TEST(HttpClient, AServerThatAnswersLateIsLeftAtTheDeadline) {
  SocketServer server([](SocketConnection& connection, const SocketRequest& request) {
    if (connection.wait(kLong)) echo(connection, request);
  });
  const HttpClient client(server.url(), "");
  const auto begin = Clock::now();
  EXPECT_ERROR(client.post("/slow", "{}", kShort), PeerError, "deadline",
               server.url() + ": expected the answer to POST /slow within 0.3 s, got none");
  // libcurl counts whole milliseconds, from its own start.
  EXPECT_GE(since(begin), kShort - milliseconds(2));
  EXPECT_LT(since(begin), milliseconds(2000));
}

TEST(HttpClient, ATrickleOfBytesDoesNotMoveTheDeadline) {
  SocketServer server([](SocketConnection& connection, const SocketRequest&) {
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
    while (!connection.is_closed() && connection.wait(milliseconds(20))) connection.send("x");
  });
  const auto begin = Clock::now();
  EXPECT_ERROR(HttpClient(server.url(), "").get("/", kShort), PeerError, "deadline", "0.3 s");
  EXPECT_LT(since(begin), milliseconds(2000));
}

TEST(HttpClient, AServerThatDiesInTheMiddleOfABodyIsAFailedConnection) {
  SocketServer server([](SocketConnection& connection, const SocketRequest&) {
    connection.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
    connection.close();
  });
  EXPECT_ERROR(HttpClient(server.url(), "").get("/x", kLong), PeerError, "connection-failed",
               "GET /x");
}

TEST(HttpClient, AServerThatDiesBeforeItsAnswerIsAFailedConnection) {
  SocketServer server(
      [](SocketConnection& connection, const SocketRequest&) { connection.close(); });
  EXPECT_ERROR(HttpClient(server.url(), "").post("/x", "{}", kLong), PeerError, "connection-failed",
               "POST /x");
}

TEST(HttpClient, AnAnswerThatIsNoJsonIsRefused) {
  SocketServer server([](SocketConnection& connection, const SocketRequest&) {
    connection.answer(200, "<html>\n");
  });
  EXPECT_ERROR(HttpClient(server.url(), "").get_json("/x", kLong), PeerError, "peer-refused",
               "expected JSON from GET /x, got \"<html> \"");
}

TEST(HttpClient, AnErrorCarriesTheServersWords) {
  std::string body;
  SocketServer server(
      [&](SocketConnection& connection, const SocketRequest&) { connection.answer(409, body); });
  const HttpClient client(server.url(), "");
  const auto expect_words = [&](std::string text, const char* words) {
    body = std::move(text);
    EXPECT_ERROR(client.post_json("/x", Json::object(), kLong), PeerError, "peer-refused",
                 std::string("expected 200 from POST /x, got 409: ") + words);
    EXPECT_EQ(client.get("/x", kLong).status, 409);
  };
  expect_words(R"({"error": {"message": "another version", "code": "version-mismatch"}})",
               "another version");
  expect_words(R"({"detail": "Not Found"})", "\"Not Found\"");
  expect_words("", "an empty body");
  expect_words("plain", "\"plain\"");
}

TEST(HttpClient, ARedirectIsNotFollowed) {
  SocketServer server([](SocketConnection& connection, const SocketRequest&) {
    connection.send("HTTP/1.1 302 Found\r\nLocation: /other\r\nContent-Length: 0\r\n\r\n");
  });
  EXPECT_EQ(HttpClient(server.url(), "").get("/", kLong).status, 302);
}

TEST(HttpClient, AWaitIsCancelledWithinAMoment) {
  SocketServer server(
      [](SocketConnection& connection, const SocketRequest&) { connection.wait(kLong); });
  const HttpClient client(server.url(), "");
  const auto begin = Clock::now();
  EXPECT_ERROR(client.post("/x", "{}", kLong, [&] { return since(begin) > kShort; }),
               InterruptedError, "interrupted", server.url());
  EXPECT_LT(since(begin), milliseconds(2000));
}

TEST(HttpClient, ProxiesOfTheEnvironmentAreNotAsked) {
  SocketServer server(echo);
  const std::string proxy = "http://127.0.0.1:" + std::to_string(testing::dead_port());
  ::setenv("http_proxy", proxy.c_str(), 1);
  EXPECT_EQ(HttpClient(server.url(), "").get("/", kLong).status, 200);
  ::unsetenv("http_proxy");
}

TEST(HttpClient, AUrlThatIsNoBaseIsRefused) {
  for (const char* url :
       {"", "127.0.0.1:8000", "ftp://host", "http://", "http://host:70000", "http://user:word@host",
        "http://host/?q=1", "http://host/#part", "http://a b"})
    EXPECT_ERROR(HttpClient(url, ""), ConfigError, "bad-url", "expected http://HOST:PORT");
}

TEST(HttpClient, AKeyThatWouldBreakTheHeaderIsRefused) {
  for (const char* key : {"a\r\nX: y", "a b", "\xc3\xa9"})
    EXPECT_ERROR(HttpClient("http://host", key), ConfigError, "bad-api-key", "printable");
}

}  // namespace
}  // namespace lockstep::net
