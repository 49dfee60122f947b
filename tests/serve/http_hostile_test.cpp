// What clients do by mistake or on purpose. The server says why it refuses, and goes on.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <random>
#include <sys/resource.h>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "serve/http_server.h"
#include "tests/serve/test_server.h"
#include "tests/support/test_seed.h"

namespace lockstep::serve {
namespace {

using namespace std::chrono_literals;
using lockstep::testing::Event;
using lockstep::testing::raw_request;
using lockstep::testing::RawClient;
using lockstep::testing::TestServer;
using ::testing::HasSubstr;
using Clock = std::chrono::steady_clock;

struct HostileCase {
  std::string bytes;
  int status;
  /// Part of the answer's body.
  std::string reason;
};

std::string many_headers() {
  std::string headers;
  for (int i = 0; i < 20'000; ++i) headers += fmt::format("X-{}: {}\r\n", i, i);
  return headers;
}

std::vector<HostileCase> hostile_cases() {
  const std::string head = "POST /echo HTTP/1.1\r\nHost: x\r\n";
  const std::string chunked = head + "Transfer-Encoding: chunked\r\n\r\n";
  const std::string long_text(100'000, 'a');
  return {
      {"GARBAGE\r\n\r\n", 400, "malformed"},
      {std::string("\0\0\0\0\r\n\r\n", 8), 400, "malformed"},
      {"\x16\x03\x01\x02\r\n\r\n", 400, "malformed"},
      {"GET /echo\r\n\r\n", 400, "malformed"},
      {"GET  /echo HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed"},
      {"GET /echo HTTP/1.1\nHost: x\n\n\r\n\r\n", 505, "expected HTTP/1"},
      {"GET /echo HTTP/1.1\r\nHost : x\r\n\r\n", 400, "malformed"},
      {"GET /echo HTTP/1.1\r\nno colon\r\n\r\n", 400, "malformed"},
      {std::string("GET /echo HTTP/1.1\r\nHost: x\r\nX: a\0b\r\n\r\n", 39), 400, "malformed"},
      {"GET /echo HTTP/3.0\r\nHost: x\r\n\r\n", 505, "expected HTTP/1"},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "expected HTTP/1"},
      {"GET /echo HTTP/1.1\r\n\r\n", 400, "Host"},
      {"GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "Host"},
      {"GET echo HTTP/1.1\r\nHost: x\r\n\r\n", 400, "slash"},
      {"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 400, "slash"},
      {"GET /%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n", 400, "UTF-8"},
      {"GET /echo?a=%c3 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "UTF-8"},
      {"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400, ""},
      {"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "UTF-8"},
      {"GET /%4 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "UTF-8"},
      {head + "Content-Length: -1\r\n\r\n", 400, "malformed"},
      {head + "Content-Length: +1\r\n\r\n", 400, "malformed"},
      {head + "Content-Length: 1x\r\n\r\n", 400, "malformed"},
      {head + "Content-Length: \r\n\r\n", 400, "malformed"},
      {head + "Content-Length: 99999999999999999999999\r\n\r\n", 400, "malformed"},
      {head + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "malformed"},
      {head + "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "malformed"},
      {head + "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", 400, "malformed"},
      {head + "Transfer-Encoding: gzip\r\n\r\n", 501, "chunked"},
      {head + "Transfer-Encoding: gzip, chunked\r\n\r\n", 501, "chunked"},
      {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "HTTP/1.0"},
      {head + "Expect: a miracle\r\n\r\n", 417, "100-continue"},
      {head + "Content-Length: 1073741824\r\n\r\n", 413, "longer"},
      {head + "Content-Length: 18446744073709551615\r\n\r\n", 413, "longer"},
      {chunked + "-1\r\n", 400, "malformed"},
      {chunked + "zz\r\n", 400, "malformed"},
      {chunked + "3\r\nabcdef\r\n", 400, "malformed"},
      {chunked + "ffffffffffffffff\r\n", 413, "longer"},
      {chunked + "10000000000000000\r\n", 400, "malformed"},
      {chunked + "200000\r\n", 413, "longer"},
      {chunked + "1;" + long_text, 400, "chunk"},
      {chunked + "0\r\nX: " + long_text, 400, ""},
      {"GET /" + long_text + " HTTP/1.1\r\nHost: x\r\n\r\n", 414, "first line"},
      {long_text, 414, "first line"},
      {"GET /echo HTTP/1.1\r\nHost: x\r\nX: " + long_text + "\r\n\r\n", 431, "headers"},
      {"GET /echo HTTP/1.1\r\nHost: x\r\n" + many_headers() + "\r\n", 431, "headers"},
      // The first line alone, and then one header without end.
      {"GET /echo HTTP/1.1\r\nX: " + long_text + long_text, 431, "headers"},
  };
}

TEST(HttpHostile, MalformedRequestsAreRefusedWithAReason) {
  TestServer server({.max_body_bytes = 1 << 20});
  for (const HostileCase& hostile : hostile_cases()) {
    const std::string shown = hostile.bytes.substr(0, 80);
    RawClient client(server.port());
    client.send(hostile.bytes);
    const auto answer = client.read_answer();
    ASSERT_TRUE(answer) << shown;
    EXPECT_EQ(answer->status, hostile.status) << shown << "\n" << answer->body;
    EXPECT_THAT(answer->body, HasSubstr(fmt::format("error {}: ", hostile.status))) << shown;
    EXPECT_THAT(answer->body, HasSubstr(hostile.reason)) << shown;
    EXPECT_EQ(answer->headers.at("connection"), "close") << shown;
    client.shut_writing();
    EXPECT_TRUE(client.is_closed_by_server()) << shown;
    EXPECT_EQ(server.num_requests(), 0) << shown;
  }
  server.expect_serves("malformed requests");
  EXPECT_TRUE(server.is_empty_in_time());
}

/// Random bytes in the place of good ones: some answer comes, or the end, and never silence.
TEST(HttpHostile, DamagedRequestsAreAnsweredOrCut) {
  TestServer server({.read_timeout = 300ms});
  std::mt19937_64 random(lockstep::testing::test_seed(7));
  const std::string good = raw_request("POST", "/echo?a=b", "0123456789", "X-Test: one\r\n") +
                           "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
                           "4\r\nwiki\r\n0\r\n\r\n";
  for (int i = 0; i < 300; ++i) {
    std::string bytes = good;
    for (uint64_t damage = 1 + random() % 4; damage > 0; --damage) {
      const size_t at = random() % bytes.size();
      switch (random() % 3) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.erase(at, 1 + random() % 8);
          break;
        default:
          bytes.insert(at, 1 + random() % 3, static_cast<char>(random()));
          break;
      }
      if (bytes.empty()) bytes = good;
    }
    RawClient client(server.port());
    client.send(bytes);
    client.shut_writing();
    EXPECT_TRUE(client.is_closed_by_server()) << i;
  }
  server.expect_serves("damaged requests");
  EXPECT_TRUE(server.is_empty_in_time());
}

/// A body's length is looked at before the body: nothing of it is read.
TEST(HttpHostile, AHugeBodyIsRefusedBeforeItIsRead) {
  TestServer server;
  RawClient polite(server.port());
  polite.send(
      "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n"
      "Expect: 100-continue\r\n\r\n");
  EXPECT_EQ(polite.read_answer()->status, 413);
  // A client that sends it all the same gets the answer too, and no reset before it has read.
  RawClient rude(server.port());
  rude.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1073741824\r\n\r\n");
  const std::string block(1 << 20, 'x');
  for (int i = 0; i < 16; ++i) ASSERT_TRUE(rude.send(block)) << i;
  const auto answer = rude.read_answer();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 413);
  server.expect_serves("1 GB bodies");
}

TEST(HttpHostile, AllBodiesTogetherHaveALimit) {
  TestServer server({.max_body_bytes = 1'000, .max_total_body_bytes = 1'500});
  const std::string request = raw_request("POST", "/echo", std::string(1'000, 'x'));
  RawClient first(server.port());
  first.send(request.substr(0, request.size() - 1));
  const auto held_until = Clock::now() + 10s;
  // The first head must have been read before the second one counts against it.
  int status = 200;
  while (status == 200 && Clock::now() < held_until) {
    RawClient second(server.port());
    second.send(request);
    status = second.read_answer()->status;
    second.reset();
  }
  EXPECT_EQ(status, 503);
  first.send(request.substr(request.size() - 1));
  EXPECT_EQ(first.read_answer()->status, 200);
  RawClient third(server.port());
  third.send(request);
  EXPECT_EQ(third.read_answer()->status, 200);
}

TEST(HttpHostile, ASlowRequestIsCutOffAtItsDeadline) {
  TestServer server({.read_timeout = 300ms, .idle_timeout = 10min});
  for (const std::string start : {"GET /echo HTTP/1.1\r\nX: ",
                                  "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n",
                                  "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked"
                                  "\r\n\r\nff\r\n"}) {
    RawClient client(server.port());
    const auto begin = Clock::now();
    client.send(start);
    // A byte now and then does not begin the time anew.
    while (client.is_quiet(20) && Clock::now() - begin < 15s) client.send("a");
    const auto answer = client.read_answer();
    ASSERT_TRUE(answer) << start;
    EXPECT_EQ(answer->status, 408) << start;
    EXPECT_GE(Clock::now() - begin, 300ms);
    EXPECT_LT(Clock::now() - begin, 10s);
  }
  server.expect_serves("slow requests");
  EXPECT_EQ(server.num_requests(), 1);
}

TEST(HttpHostile, AnIdleConnectionIsClosed) {
  TestServer server({.read_timeout = 10min, .idle_timeout = 200ms});
  RawClient silent(server.port());
  RawClient kept(server.port());
  kept.send(raw_request("GET", "/echo"));
  EXPECT_EQ(kept.read_answer()->status, 200);
  EXPECT_TRUE(silent.is_closed_by_server());
  EXPECT_TRUE(kept.is_closed_by_server());
}

TEST(HttpHostile, ABodyThatStopsHalfWayNeverReachesTheHandler) {
  TestServer server;
  for (const bool is_reset : {false, true}) {
    RawClient client(server.port());
    client.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf");
    if (is_reset)
      client.reset();
    else
      client.close();
    EXPECT_TRUE(server.is_empty_in_time());
  }
  EXPECT_EQ(server.num_requests(), 0);
  server.expect_serves("bodies that stopped");
}

/// A stream to a client that does not read, from a server that holds a megabyte for it.
struct UnreadStream {
  TestServer server{{.write_timeout = 10min, .max_unsent_bytes = 1 << 20}};
  RawClient client{server.port()};
  std::shared_ptr<HttpResponder> responder;
  Event gone;

  UnreadStream() {
    client.send(raw_request("GET", "/hold"));
    responder = server.take_held();
    responder->on_gone([this] { gone.set(); });
    responder->begin_stream(200, "text/plain");
  }
  void expect_cut_off(const char* what) {
    EXPECT_TRUE(gone.wait());
    EXPECT_TRUE(server.is_empty_in_time());
    server.expect_serves(what);
  }
};

TEST(HttpHostile, AClientThatDoesNotReadIsCutOffAtTheUnsentLimit) {
  UnreadStream stream;
  const std::string piece(1 << 16, 'x');
  // The system's own buffers take some megabytes.
  for (int i = 0; i < 1'000 && stream.gone.count() == 0; ++i) {
    stream.responder->write(piece);
    ::usleep(100);
  }
  stream.expect_cut_off("a client that did not read");
}

TEST(HttpHostile, APieceAboveTheUnsentLimitEndsAConnectionThatHasSentEverything) {
  UnreadStream stream;
  for (int i = 0; i < 100'000 && stream.responder->unsent_bytes() > 0; ++i) ::usleep(100);
  ASSERT_EQ(stream.responder->unsent_bytes(), 0);
  stream.responder->write(std::string(2 << 20, 'x'));
  stream.expect_cut_off("a piece above the limit");
}

TEST(HttpHostile, AClientThatDoesNotReadIsCutOffAtItsDeadline) {
  TestServer server({.write_timeout = 200ms, .max_unsent_bytes = int64_t{1} << 30});
  for (const bool is_stream : {true, false}) {
    RawClient client;
    client.limit_receive_buffer(4'096);
    ASSERT_TRUE(client.connect(server.port()));
    client.send(raw_request("GET", "/hold"));
    const auto responder = server.take_held();
    if (is_stream) {
      responder->begin_stream(200, "text/plain");
      responder->write(std::string(32 << 20, 'x'));
    } else {
      responder->respond({.body = std::string(32 << 20, 'x')});
    }
    EXPECT_TRUE(server.is_empty_in_time());
    EXPECT_GT(responder->unsent_bytes(), 0);
  }
  server.expect_serves("clients that did not read");
}

/// Requests that nobody reads the answers of do not fill the server's memory.
TEST(HttpHostile, AFloodOfPipelinedRequestsIsReadAtThePaceOfItsAnswers) {
  TestServer server;
  RawClient client(server.port());
  client.send(raw_request("GET", "/hold"));
  const auto responder = server.take_held();
  const std::string request = raw_request("GET", "/echo");
  std::string flood;
  while (flood.size() < (32u << 20)) flood += request;
  size_t taken = 0;
  for (int quiet = 0; quiet < 20 && taken < flood.size();) {
    const size_t bytes = client.send_without_waiting(std::string_view(flood).substr(taken));
    taken += bytes;
    quiet = bytes == 0 ? quiet + 1 : 0;
    if (bytes == 0) ::usleep(5'000);
  }
  // The system's buffers hold some megabytes, the server 64 KiB.
  EXPECT_LT(taken, flood.size());
  EXPECT_EQ(server.num_requests(), 1);
  responder->respond({.body = "at last"});
  EXPECT_EQ(client.read_answer()->body, "at last");
  for (size_t i = 0; i < 1'000; ++i) ASSERT_EQ(client.read_answer()->body, "GET /echo body ");
  client.reset();
  EXPECT_TRUE(server.is_empty_in_time());
}

TEST(HttpHostile, ConnectionsOverTheLimitAreTurnedAwayAtOnce) {
  TestServer server({.max_connections = 3});
  std::vector<RawClient> clients;
  for (int i = 0; i < 3; ++i) {
    clients.emplace_back(server.port());
    clients.back().send(raw_request("GET", "/echo"));
    EXPECT_EQ(clients.back().read_answer()->status, 200);
  }
  RawClient fourth(server.port());
  const auto answer = fourth.read_answer();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 503);
  EXPECT_EQ(answer->headers.count("retry-after"), 1);
  EXPECT_TRUE(fourth.is_closed_by_server());
  clients[0].send(raw_request("GET", "/echo"));
  EXPECT_EQ(clients[0].read_answer()->status, 200);
  clients.clear();
  EXPECT_TRUE(server.is_empty_in_time());
  server.expect_serves("too many connections");
}

/// Sets the limit of descriptors for a scope.
class DescriptorLimit {
 public:
  explicit DescriptorLimit(rlim_t limit) {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const rlimit now{std::min(limit, before_.rlim_max), before_.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &now);
  }
  ~DescriptorLimit() { ::setrlimit(RLIMIT_NOFILE, &before_); }
  DescriptorLimit(const DescriptorLimit&) = delete;
  DescriptorLimit& operator=(const DescriptorLimit&) = delete;

 private:
  rlimit before_{};
};

TEST(HttpHostile, ItOutlivesTheLastDescriptor) {
  TestServer server;
  std::vector<RawClient> clients(40);
  {
    const int next = ::dup(0);
    ::close(next);
    const DescriptorLimit few(static_cast<rlim_t>(next) + 5);
    int answered = 0, turned_away = 0;
    for (RawClient& client : clients) {
      ASSERT_TRUE(client.connect(server.port()));
      client.send(raw_request("GET", "/echo"));
      const auto answer = client.read_answer();
      ++(answer && answer->status == 200 ? answered : turned_away);
    }
    EXPECT_EQ(answered, 5);
    EXPECT_EQ(turned_away, 35);
    clients[0].send(raw_request("GET", "/echo"));
    EXPECT_EQ(clients[0].read_answer()->status, 200);
    clients.clear();
    EXPECT_TRUE(server.is_empty_in_time());
  }
  server.expect_serves("the last descriptor");
}

/// As many as the limit of descriptors allows: each takes two here, one at either end.
TEST(HttpHostile, TenThousandConnectionsAreServed) {
  const DescriptorLimit most(RLIM_INFINITY);
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  const size_t count = std::min<size_t>(10'000, limit.rlim_cur / 2 - 100);
  RecordProperty("connections", static_cast<int>(count));
  TestServer server({.max_connections = 20'000});
  std::vector<RawClient> clients;
  clients.reserve(count);
  for (size_t i = 0; i < count; ++i) clients.emplace_back(server.port());
  for (int round = 0; round < 2; ++round) {
    for (RawClient& client : clients) client.send(raw_request("POST", "/echo", "hello"));
    for (RawClient& client : clients) {
      const auto answer = client.read_answer();
      ASSERT_TRUE(answer);
      ASSERT_EQ(answer->body, "POST /echo body hello");
    }
  }
  EXPECT_EQ(server.server().connections(), static_cast<int64_t>(count));
  server.expect_serves("ten thousand connections");
  for (RawClient& client : clients) client.reset();
  EXPECT_TRUE(server.is_empty_in_time());
}

}  // namespace
}  // namespace lockstep::serve
