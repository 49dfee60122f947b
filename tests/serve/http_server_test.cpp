// SPDX-License-Identifier: Apache-2.0
#include "serve/http_server.h"

#include <atomic>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/serve/test_server.h"
#include "tests/support/expect_error.h"

namespace lockstep::serve {
namespace {

using namespace std::chrono_literals;
using lockstep::testing::Event;
using lockstep::testing::raw_request;
using lockstep::testing::RawClient;
using lockstep::testing::TestServer;
using Clock = std::chrono::steady_clock;

/// More than the system takes for a client that does not read.
constexpr size_t kMoreThanBuffers = 32 << 20;

std::string numbered_piece(int number) {
  return fmt::format("piece {} of a long stream, ", number) + std::string(200, 'x');
}

/// Returns when the system takes no more of an answer larger than its buffers.
void wait_until_full(const HttpResponder& responder) {
  int64_t before = 0;
  for (int quiet = 0; quiet < 10;) {
    const int64_t unsent = responder.unsent_bytes();
    quiet = unsent == before ? quiet + 1 : 0;
    before = unsent;
    std::this_thread::sleep_for(5ms);
  }
}

TEST(HttpServer, RequestsArriveAsTheyWereSentOverOneConnection) {
  TestServer server;
  RawClient client(server.port());
  client.send(raw_request("GET", "/echo?b=2&a=%C3%B6", "", "X-Test: one\r\nx-test: two\r\n"));
  auto answer = client.read_answer();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->status, 200);
  EXPECT_EQ(answer->body, "GET /echo a=\xc3\xb6 b=2 x-test:one, two body ");
  EXPECT_EQ(answer->headers["content-type"], "text/plain");
  EXPECT_EQ(answer->headers.count("connection"), 0);
  client.send(raw_request("POST", "/echo", "some text"));
  EXPECT_EQ(client.read_answer()->body, "POST /echo body some text");
  client.send(raw_request("POST", "/echo", std::string(3'000'000, 'x')));
  EXPECT_EQ(client.read_answer()->body, "POST /echo body 3000000");
  // curl -X POST sends neither a length nor chunks: there is no body then.
  client.send(raw_request("POST", "/echo"));
  EXPECT_EQ(client.read_answer()->body, "POST /echo body ");
  client.send(raw_request("GET", "/echo", "", "Connection: close\r\n"));
  answer = client.read_answer();
  EXPECT_EQ(answer->headers["connection"], "close");
  EXPECT_TRUE(client.is_closed_by_server());
}

TEST(HttpServer, HeadHasNoBody) {
  TestServer server;
  RawClient client(server.port());
  client.send(raw_request("HEAD", "/echo") + raw_request("GET", "/echo"));
  const auto answer = client.read_answer(/*is_head_request=*/true);
  EXPECT_EQ(answer->headers.at("content-length"), "16");
  EXPECT_EQ(client.read_answer()->body, "GET /echo body ");
}

TEST(HttpServer, PipelinedRequestsAreAnsweredInOrder) {
  TestServer server;
  RawClient client(server.port());
  client.send(raw_request("GET", "/hold") + raw_request("POST", "/echo", "1") +
              raw_request("GET", "/hold") + raw_request("POST", "/echo", "2"));
  const auto first = server.take_held();
  EXPECT_TRUE(client.is_quiet(50));
  first->respond({.body = "first"});
  EXPECT_EQ(client.read_answer()->body, "first");
  EXPECT_EQ(client.read_answer()->body, "POST /echo body 1");
  server.take_held()->respond({.body = "second"});
  EXPECT_EQ(client.read_answer()->body, "second");
  EXPECT_EQ(client.read_answer()->body, "POST /echo body 2");
}

/// However the bytes of several requests are cut into packets, the answers are the same.
TEST(HttpServer, PacketSizesDoNotMatter) {
  TestServer server;
  const std::string bytes =
      raw_request("POST", "/echo", "abc") +
      "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
      "4;name=value\r\nwiki\r\n5\r\npedia\r\n0\r\nX-Test: trailer\r\n\r\n\r\n" +
      raw_request("GET", "/echo?x=1");
  for (size_t size = 1; size < bytes.size(); size += 1 + size / 3) {
    RawClient client(server.port());
    for (size_t at = 0; at < bytes.size(); at += size) {
      client.send(bytes.substr(at, size));
      if (size < 8) ::usleep(200);
    }
    EXPECT_EQ(client.read_answer()->body, "POST /echo body abc") << size;
    EXPECT_EQ(client.read_answer()->body, "POST /echo body wikipedia") << size;
    EXPECT_EQ(client.read_answer()->body, "GET /echo x=1 body ") << size;
  }
}

TEST(HttpServer, AClientMayAskBeforeItSendsABody) {
  TestServer server;
  RawClient client(server.port());
  const std::string request = raw_request("POST", "/echo", "later", "Expect: 100-Continue\r\n");
  const size_t head = request.find("\r\n\r\n") + 4;
  client.send(request.substr(0, head));
  EXPECT_EQ(client.read_answer()->status, 100);
  client.send(request.substr(head));
  EXPECT_EQ(client.read_answer()->body, "POST /echo body later");
  // A body that follows at once needs no answer in between.
  client.send(request);
  EXPECT_EQ(client.read_answer()->status, 200);
}

TEST(HttpServer, OldClientsGetAnswersThatTheyUnderstand) {
  TestServer server;
  RawClient once(server.port());
  once.send("GET /echo HTTP/1.0\r\n\r\n");
  EXPECT_EQ(once.read_answer()->body, "GET /echo body ");
  EXPECT_TRUE(once.is_closed_by_server());

  RawClient kept(server.port());
  kept.send("GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_EQ(kept.read_answer()->headers.at("connection"), "keep-alive");
  kept.send("GET /hold HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  const auto responder = server.take_held();
  responder->begin_stream(200, "text/event-stream");
  responder->write("data: 1\n\n");
  responder->end_stream();
  const auto answer = kept.read_answer();
  EXPECT_EQ(answer->headers.count("transfer-encoding"), 0);
  EXPECT_EQ(answer->headers.at("connection"), "close");
  EXPECT_EQ(answer->body, "data: 1\n\n");
  EXPECT_TRUE(answer->is_whole);
}

TEST(HttpServer, AStreamComesPieceByPieceAndTheConnectionStays) {
  TestServer server;
  RawClient client(server.port());
  client.send(raw_request("GET", "/hold"));
  const auto responder = server.take_held();
  responder->begin_stream(200, "text/event-stream");
  responder->write("");
  responder->write("data: 1\n\n");
  std::string seen;
  while (seen.find("data: 1\n\n\r\n") == std::string::npos) {
    const std::string piece = client.read_some(1 << 16);
    ASSERT_FALSE(piece.empty());
    seen += piece;
  }
  EXPECT_NE(seen.find("Transfer-Encoding: chunked\r\n"), std::string::npos);
  for (const auto until = Clock::now() + 10s; responder->unsent_bytes() > 0;) {
    ASSERT_LT(Clock::now(), until);
    std::this_thread::yield();
  }
  responder->end_stream();
  // What follows the end is not sent.
  responder->write("late");
  responder->respond({.body = "late"});
  client.send(raw_request("GET", "/echo"));
  while (seen.find("GET /echo body ") == std::string::npos) {
    const std::string piece = client.read_some(1 << 16);
    ASSERT_FALSE(piece.empty());
    seen += piece;
  }
  EXPECT_NE(seen.find("\r\n0\r\n\r\nHTTP/1.1 200 OK"), std::string::npos);
  EXPECT_EQ(seen.find("late"), std::string::npos);
}

/// A reader slower than the writer gets every byte, in order, also when there is more than the
/// system's buffers hold.
TEST(HttpServer, AStreamWaitsForASlowReader) {
  TestServer server;
  for (const int receive_buffer : {4'096, 65'536, 262'144}) {
    RawClient client;
    client.limit_receive_buffer(receive_buffer);
    ASSERT_TRUE(client.connect(server.port()));
    client.send(raw_request("GET", "/hold"));
    const auto responder = server.take_held();
    std::thread writer([&] {
      responder->begin_stream(200, "text/plain");
      for (int i = 0; i < 60'000; ++i) responder->write(numbered_piece(i));
      responder->end_stream();
    });
    const auto answer = client.read_answer();
    writer.join();
    ASSERT_TRUE(answer);
    ASSERT_TRUE(answer->is_whole);
    std::string expected;
    for (int i = 0; i < 60'000; ++i) expected += numbered_piece(i);
    EXPECT_TRUE(answer->body == expected);
  }
}

/// What is written while the connection waits for room follows without another word.
TEST(HttpServer, AStreamGoesOnAfterAWaitForRoom) {
  TestServer server({.max_unsent_bytes = int64_t{1} << 30});
  RawClient client;
  client.limit_receive_buffer(65'536);
  ASSERT_TRUE(client.connect(server.port()));
  client.send(raw_request("GET", "/hold"));
  const auto responder = server.take_held();
  responder->begin_stream(200, "text/plain");
  std::string expected(kMoreThanBuffers, 'x');
  responder->write(expected);
  wait_until_full(*responder);
  responder->write("the rest");
  expected += "the rest";
  // The connection hears of the rest while it waits.
  std::this_thread::sleep_for(50ms);
  responder->end_stream();
  const auto answer = client.read_answer();
  ASSERT_TRUE(answer);
  ASSERT_TRUE(answer->is_whole);
  EXPECT_TRUE(answer->body == expected);
}

/// The system has room again only after about a megabyte. A reader that takes longer for that than
/// the deadline is slow, not dead.
TEST(HttpServer, AReaderThatIsSlowAllTheTimeIsNotCutOff) {
  TestServer server({.write_timeout = 600ms});
  RawClient client;
  client.limit_receive_buffer(4'096);
  ASSERT_TRUE(client.connect(server.port()));
  client.send(raw_request("GET", "/hold"));
  const auto responder = server.take_held();
  const std::string body(kMoreThanBuffers, 'x');
  responder->respond({.body = body});
  wait_until_full(*responder);
  std::string seen;
  for (int i = 0; i < 20; ++i) {
    const std::string piece = client.read_some(1 << 16);
    ASSERT_FALSE(piece.empty());
    seen += piece;
    std::this_thread::sleep_for(150ms);
  }
  const size_t head = seen.find("\r\n\r\n") + 4;
  while (seen.size() < head + body.size()) {
    const std::string piece = client.read_some(1 << 20);
    ASSERT_FALSE(piece.empty()) << "cut off after " << seen.size() << " bytes";
    seen += piece;
  }
  EXPECT_TRUE(seen.substr(head) == body);
}

TEST(HttpServer, WhatAHandlerLeavesOutIsAnError) {
  TestServer server;
  RawClient client(server.port());
  client.send(raw_request("GET", "/throw"));
  auto answer = client.read_answer();
  EXPECT_EQ(answer->status, 500);
  EXPECT_EQ(answer->body, "error 500: the handler failed");
  client.send(raw_request("GET", "/drop"));
  answer = client.read_answer();
  EXPECT_EQ(answer->status, 500);
  EXPECT_EQ(answer->body, "error 500: the request was dropped without an answer");
  client.send(raw_request("GET", "/hold"));
  {
    const auto responder = server.take_held();
    responder->begin_stream(200, "text/plain");
    responder->write("half");
  }
  answer = client.read_answer();
  ASSERT_TRUE(answer);
  EXPECT_EQ(answer->body, "half");
  EXPECT_FALSE(answer->is_whole);
  EXPECT_TRUE(client.is_closed_by_server());
}

TEST(HttpServer, AClientThatLeavesIsNoticedWhileItsAnswerIsComputed) {
  TestServer server;
  for (const bool is_reset : {false, true}) {
    Event gone;
    RawClient client(server.port());
    client.send(raw_request("POST", "/hold", "text"));
    const auto responder = server.take_held();
    responder->on_gone([&] { gone.set(); });
    EXPECT_EQ(gone.count(), 0);
    if (is_reset)
      client.reset();
    else
      client.close();
    EXPECT_TRUE(gone.wait());
    EXPECT_TRUE(server.is_empty_in_time());
    // Whoever asks later is told at once; what is said to nobody does nothing.
    responder->on_gone([&] { gone.set(); });
    EXPECT_EQ(gone.count(), 2);
    responder->begin_stream(200, "text/plain");
    responder->write("to nobody");
    responder->end_stream();
  }
  server.expect_serves("clients that left");
}

TEST(HttpServer, ACompleteAnswerHasNoClientThatLeaves) {
  TestServer server;
  Event gone;
  RawClient client(server.port());
  client.send(raw_request("GET", "/hold"));
  const auto responder = server.take_held();
  responder->on_gone([&] { gone.set(); });
  responder->respond({.body = "done"});
  EXPECT_EQ(client.read_answer()->body, "done");
  client.close();
  EXPECT_TRUE(server.is_empty_in_time());
  responder->on_gone([&] { gone.set(); });
  EXPECT_EQ(gone.count(), 0);
}

TEST(HttpServer, StoppingFinishesAnswersAndTakesNoNewRequests) {
  TestServer server;
  RawClient idle(server.port()), reading(server.port()), busy(server.port());
  idle.send(raw_request("GET", "/echo"));
  EXPECT_EQ(idle.read_answer()->status, 200);
  reading.send("GET /echo HTT");
  busy.send(raw_request("GET", "/hold") + raw_request("GET", "/echo"));
  const auto responder = server.take_held();
  std::atomic<bool> is_stopped{false}, was_complete{false};
  std::thread stopper([&] {
    was_complete = server.server().stop(Clock::now() + 20s);
    is_stopped = true;
  });
  EXPECT_TRUE(idle.is_closed_by_server());
  EXPECT_TRUE(reading.is_closed_by_server());
  RawClient late;
  EXPECT_FALSE(late.connect(server.port()));
  EXPECT_FALSE(is_stopped);
  responder->respond({.body = "finished"});
  EXPECT_EQ(busy.read_answer()->body, "finished");
  EXPECT_TRUE(busy.is_closed_by_server());
  stopper.join();
  EXPECT_TRUE(was_complete);
  EXPECT_EQ(server.server().connections(), 0);
}

TEST(HttpServer, StoppingCutsWhatIsNotDoneAtTheDeadline) {
  TestServer server;
  Event gone;
  RawClient client(server.port());
  client.send(raw_request("GET", "/hold"));
  const auto responder = server.take_held();
  responder->on_gone([&] { gone.set(); });
  EXPECT_FALSE(server.server().stop(Clock::now() + 50ms));
  EXPECT_TRUE(gone.wait());
  EXPECT_TRUE(client.is_closed_by_server());
  EXPECT_TRUE(server.server().stop(Clock::now()));
}

/// The last responder may outlive the server that it came from.
TEST(HttpServer, ARespondersLifeIsItsOwn) {
  TestServer::Responder responder;
  {
    TestServer server;
    RawClient client(server.port());
    client.send(raw_request("GET", "/hold"));
    responder = server.take_held();
  }
  Event gone;
  responder->on_gone([&] { gone.set(); });
  EXPECT_EQ(gone.count(), 1);
  responder->respond({.body = "too late"});
  responder.reset();
}

TEST(HttpServer, ABusyPortAndAHostWithoutAddressAreErrors) {
  TestServer server;
  const auto start = [](const std::string& host, uint16_t port) {
    HttpServer(
        host, port, {}, [](HttpRequest&&, std::shared_ptr<HttpResponder>) {},
        [](int, std::string_view) { return std::string(); });
  };
  EXPECT_ERROR(start("127.0.0.1", server.port()), IoError, "address-in-use", "another program");
  EXPECT_ERROR(start("no-such-host.invalid", 0), ConfigError, "bad-address", "no-such-host");
  EXPECT_ERROR(start("", 0), ConfigError, "bad-address", "none");
  EXPECT_ERROR(start("192.0.2.1", 0), ConfigError, "bad-address", "192.0.2.1:0");
  server.expect_serves("others tried its port");
}

}  // namespace
}  // namespace lockstep::serve
