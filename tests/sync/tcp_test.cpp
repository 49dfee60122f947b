// Weights over TCP: what a trainer's sender and a server's receiver make of each other, and of what
// goes wrong between them.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <thread>

#include <gtest/gtest.h>

#include "base/json.h"
#include "sync/secret.h"
#include "sync/weight_delta.h"
#include "sync/weight_receiver.h"
#include "sync/weight_sender.h"
#include "tensor/aten.h"
#include "tests/support/expect_error.h"
#include "tests/support/loopback_listener.h"

namespace lockstep::sync {
namespace {

using namespace std::chrono_literals;

constexpr size_t kMostBytes = size_t{1} << 30;
const WeightReceiver::CheckTensors kAnyTensors = [](const WeightImage&) {};

std::shared_ptr<SharedMemory> block_of(const std::vector<std::byte>& bytes) {
  auto block = SharedMemory::create_nameless(bytes.size());
  std::memcpy(block->bytes().data(), bytes.data(), bytes.size());
  return block;
}

/// A model whose weights are offered.
class Trainer {
 public:
  explicit Trainer(const SenderLimits& limits = {})
      : sender("127.0.0.1", 0, limits),
        writer(tensors),
        block(SharedMemory::create_nameless(writer.bytes())) {
    digest = writer.write(block->bytes(), 2).hex();
    offer({});
  }
  /// Changes an element of each tensor, and offers weights and delta.
  void step() {
    sender.withdraw();
    for (const io::NamedTensor& named : tensors)
      if (named.tensor.numel()) named.tensor.view({-1})[3] += 1;
    const std::string base = digest;
    DeltaWriter changes(kMostBytes);
    digest = writer
                 .write(block->bytes(), 2,
                        [&](size_t i, auto before, auto after) {
                          changes.add(i, before, after, writer.element_bytes(i));
                        })
                 .hex();
    delta =
        changes.finish(base, digest, writer.bytes(), block->bytes().first(writer.header_bytes()));
    offer(base);
  }
  void offer(const std::string& base) {
    offered = {.from = sender.address(), .digest = digest, .bytes = writer.bytes()};
    sender.offer({.digest = digest,
                  .block = block,
                  .base = base,
                  .delta = base.empty() ? nullptr : block_of(delta)});
  }
  OfferedBlock with_delta(const std::string& base) const {
    OfferedBlock other = offered;
    other.base = base;
    other.delta_bytes = delta.size();
    return other;
  }

  std::vector<io::NamedTensor> tensors = {{"large", at::randn({3000, 2000})},
                                          {"a", at::randn({700, 11}).to(at::kBFloat16)},
                                          {"b", at::randn({900, 1100})},
                                          {"c", at::randn({5})},
                                          {"empty", at::empty({0, 4})}};
  WeightSender sender;
  ImageWriter writer;
  std::shared_ptr<SharedMemory> block;
  std::string digest;
  std::vector<std::byte> delta;
  OfferedBlock offered;
};

void expect_same(const WeightImage& image, const Trainer& trainer) {
  EXPECT_EQ(image.digest().hex(), trainer.digest);
  ASSERT_EQ(image.entries().size(), trainer.tensors.size());
  for (const io::TensorEntry& entry : image.entries()) {
    const auto named = std::find_if(trainer.tensors.begin(), trainer.tensors.end(),
                                    [&](const auto& one) { return one.name == entry.name; });
    ASSERT_NE(named, trainer.tensors.end()) << entry.name;
    EXPECT_TRUE(image.tensor(entry).equal(named->tensor)) << entry.name;
  }
}

TEST(WeightsOverTcp, ComeWholeAndThenAsDeltas) {
  Trainer trainer;
  WeightReceiver receiver;
  expect_same(receiver.receive(trainer.offered, kMostBytes, kAnyTensors), trainer);
  EXPECT_EQ(trainer.sender.bytes_sent(), static_cast<int64_t>(trainer.writer.bytes()));
  for (int step = 0; step < 3; ++step) {
    const std::string base = trainer.digest;
    trainer.step();
    const int64_t before = trainer.sender.bytes_sent();
    expect_same(receiver.receive(trainer.with_delta(base), kMostBytes, kAnyTensors), trainer);
    EXPECT_EQ(trainer.sender.bytes_sent() - before, static_cast<int64_t>(trainer.delta.size()));
  }
  trainer.step();
  expect_same(receiver.receive(trainer.offered, kMostBytes, kAnyTensors), trainer);
}

TEST(WeightsOverTcp, SeveralReceiversAtOnce) {
  Trainer trainer;
  std::vector<std::jthread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      WeightReceiver receiver;
      expect_same(receiver.receive(trainer.offered, kMostBytes, kAnyTensors), trainer);
    });
}

TEST(WeightsOverTcp, ADeltaNeedsItsBase) {
  Trainer trainer;
  WeightReceiver receiver;
  const std::string base = trainer.digest;
  trainer.step();
  const auto receive = [&](const OfferedBlock& offered) {
    return receiver.receive(offered, kMostBytes, kAnyTensors);
  };
  EXPECT_ERROR(receive(trainer.with_delta(base)), FormatError, "wrong-base", "(none)");
  expect_same(receive(trainer.offered), trainer);
  // It has the new ones by now.
  EXPECT_ERROR(receive(trainer.with_delta(base)), FormatError, "wrong-base", base);
  receiver.forget();
  EXPECT_ERROR(receive(trainer.with_delta(trainer.digest)), FormatError, "wrong-base", "(none)");
}

TEST(WeightsOverTcp, WhatABrokenDeltaHasSpoiltIsForgotten) {
  Trainer trainer;
  WeightReceiver receiver;
  receiver.receive(trainer.offered, kMostBytes, kAnyTensors);
  const std::string base = trainer.digest;
  trainer.step();
  const std::vector<std::byte> good = trainer.delta;
  // The last chunk is cut, when the others have been applied.
  trainer.delta.back() ^= std::byte{1};
  trainer.offer(base);
  const auto receive = [&] {
    return receiver.receive(trainer.with_delta(base), kMostBytes, kAnyTensors);
  };
  EXPECT_THROW(receive(), FormatError);
  trainer.delta = good;
  trainer.offer(base);
  EXPECT_ERROR(receive(), FormatError, "wrong-base", "(none)");
  expect_same(receiver.receive(trainer.offered, kMostBytes, kAnyTensors), trainer);
}

TEST(WeightsOverTcp, StrangersGetNothing) {
  Trainer trainer;
  WeightReceiver receiver;
  OfferedBlock other = trainer.offered;
  other.from.token = random_secret();
  EXPECT_ERROR(receiver.receive(other, kMostBytes, kAnyTensors), PeerError, "wrong-token",
               "127.0.0.1");
  other = trainer.offered;
  other.digest = random_secret();
  EXPECT_ERROR(receiver.receive(other, kMostBytes, kAnyTensors), PeerError, "no-such-weights",
               "127.0.0.1");
  EXPECT_EQ(trainer.sender.bytes_sent(), 0);
  const auto answer_to = [&](const std::string& line) {
    Connection connection("127.0.0.1", trainer.sender.address().port, 5s);
    connection.send(line);
    return parse_json(connection.receive_line(kMostLineBytes), "answer")["error"]["code"];
  };
  EXPECT_EQ(answer_to("GET / HTTP/1.1\r\n"), "bad-request");
  EXPECT_EQ(answer_to("[]\n"), "bad-request");
  EXPECT_EQ(answer_to(std::string(2000, 'x')), "bad-line");
  EXPECT_EQ(answer_to("{\"protocol\":2}\n"), "wrong-protocol");
  RangeRequest request{.token = trainer.offered.from.token,
                       .weights = trainer.digest,
                       .base = "",
                       .begin = 0,
                       .end = trainer.writer.bytes() + 1};
  EXPECT_EQ(answer_to(request_line(request)), "bad-request");
  request.begin = 9;
  request.end = 8;
  EXPECT_EQ(answer_to(request_line(request)), "bad-request");
  request.base = trainer.digest;
  EXPECT_EQ(answer_to(request_line(request)), "no-such-weights");
  EXPECT_EQ(trainer.sender.bytes_sent(), 0);
  expect_same(receiver.receive(trainer.offered, kMostBytes, kAnyTensors), trainer);
}

TEST(WeightsOverTcp, NoMemoryIsTakenForWhatTheModelCannotHave) {
  Trainer trainer;
  WeightReceiver receiver;
  OfferedBlock huge = trainer.offered;
  huge.bytes = size_t{1} << 50;
  EXPECT_ERROR(receiver.receive(huge, kMostBytes, kAnyTensors), FormatError, "too-large",
               "expected weights of at most 1073741824 bytes, got 1125899906842624");
  huge = trainer.with_delta(trainer.digest);
  huge.delta_bytes = size_t{1} << 50;
  EXPECT_ERROR(receiver.receive(huge, kMostBytes, kAnyTensors), FormatError, "too-large", "");
}

TEST(WeightsOverTcp, TensorsAreCheckedBeforeTheyCome) {
  Trainer trainer;
  WeightReceiver receiver;
  const auto refuse = [](const WeightImage& image) {
    fail<FormatError>("unknown-tensor", image.entries()[1].name, "expected none, got one");
  };
  EXPECT_ERROR(receiver.receive(trainer.offered, kMostBytes, refuse), FormatError, "unknown-tensor",
               "b");
  EXPECT_LT(trainer.sender.bytes_sent(), 2000);
  expect_same(receiver.receive(trainer.offered, kMostBytes, kAnyTensors), trainer);
}

TEST(WeightsOverTcp, OfferedWeightsThatChangeOnTheWayAreFound) {
  Trainer trainer;
  WeightReceiver receiver;
  trainer.block->bytes()[trainer.writer.bytes() - 4] ^= std::byte{1};
  EXPECT_ERROR(receiver.receive(trainer.offered, kMostBytes, kAnyTensors), FormatError,
               "digest-mismatch", "expected bytes of digest");
  trainer.block->bytes()[trainer.writer.bytes() - 4] ^= std::byte{1};
  expect_same(receiver.receive(trainer.offered, kMostBytes, kAnyTensors), trainer);
}

TEST(WeightsOverTcp, TheEndOfTheTrainerIsSeenAtOnce) {
  std::optional<Trainer> trainer(std::in_place);
  const OfferedBlock offered = trainer->offered;
  trainer.reset();
  WeightReceiver receiver;
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_ERROR(receiver.receive(offered, kMostBytes, kAnyTensors), PeerError, "connection-failed",
               "127.0.0.1");
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
}

TEST(WeightsOverTcp, AnAddressThatIsNotThisMachinesIsRefused) {
  EXPECT_ERROR(WeightSender("192.0.2.1", 0), IoError, "cannot-listen", "192.0.2.1:0");
  EXPECT_ERROR(WeightSender("no such host", 0), IoError, "cannot-listen", "no such host");
  const WeightSender one("127.0.0.1", 0);
  EXPECT_ERROR(WeightSender("127.0.0.1", one.address().port), IoError, "cannot-listen", "in use");
  EXPECT_ERROR(
      WeightReceiver().receive(
          {.from = {.host = "no such host", .port = 1}, .digest = random_secret(), .bytes = 100},
          kMostBytes, kAnyTensors),
      PeerError, "connection-failed", "no such host:1");
}

/// A peer that answers in its own way.
class OddTrainer {
 public:
  explicit OddTrainer(std::function<void(Connection&)> serve) : serve_(std::move(serve)) {
    thread_ = std::thread([this] {
      const int taken = listener_.accept();
      if (taken < 0) return;
      Connection connection(taken, "odd", 10s);
      try {
        connection.receive_line(kMostLineBytes);
        serve_(connection);
      } catch (const PeerError&) {
        // The receiver has had enough.
      }
    });
  }
  ~OddTrainer() {
    listener_.close();
    thread_.join();
  }
  OfferedBlock offered() const {
    return {.from = {.host = "127.0.0.1", .port = listener_.port(), .token = random_secret()},
            .digest = random_secret(),
            .bytes = 10'000};
  }

 private:
  std::function<void(Connection&)> serve_;
  testing::LoopbackListener listener_;
  std::thread thread_;
};

std::string length_text(uint64_t length) {
  return {reinterpret_cast<const char*>(&length), sizeof(length)};
}

TEST(WeightsOverTcp, OddTrainersAreRefused) {
  const auto expect = [](const std::function<void(Connection&)>& serve, const char* code,
                         const char* message) {
    const OddTrainer odd(serve);
    WeightReceiver receiver({.idle = 300ms, .connections = 2});
    const auto begin = std::chrono::steady_clock::now();
    try {
      receiver.receive(odd.offered(), kMostBytes, kAnyTensors);
      ADD_FAILURE() << "expected " << code;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
    EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
  };
  expect([](Connection& c) { c.send("no JSON\n"); }, "bad-answer", "127.0.0.1");
  expect([](Connection& c) { c.send("{\"bytes\":7}\n"); }, "bad-answer", "expected 8 bytes, got");
  expect([](Connection& c) { c.send(std::string(3000, 'x')); }, "bad-line", "at most 1024");
  expect([](Connection&) {}, "no-request", "closed");
  expect([](Connection&) { std::this_thread::sleep_for(1s); }, "deadline", "nothing for too long");
  expect([](Connection& c) { c.send("{\"bytes\":8}\nabc"); }, "connection-failed", "the end");
  expect(
      [](Connection& c) {
        c.send("{\"bytes\":8}\nabc");
        std::this_thread::sleep_for(1s);
      },
      "deadline", "nothing for too long");
  expect([](Connection& c) { c.send("{\"bytes\":8}\n" + length_text(10'000'000'000)); },
         "bad-image", "expected a header of at most 9992 bytes, got one of 10000000000");
  expect([](Connection& c) { c.send(refusal_line("no-such-weights", "gone \xff")); },
         "no-such-weights", "gone");
}

TEST(WeightsOverTcp, ReceiversThatStopReadingAreCutOff) {
  Trainer trainer({.idle = 300ms, .connections = 2});
  Connection idle("127.0.0.1", trainer.sender.address().port, 5s),
      stuck("127.0.0.1", trainer.sender.address().port, 5s);
  stuck.send(request_line({.token = trainer.offered.from.token,
                           .weights = trainer.digest,
                           .base = "",
                           .begin = 0,
                           .end = trainer.writer.bytes()}));
  // There are no more than two places: others wait for these two to be closed.
  WeightReceiver receiver({.idle = 5s, .connections = 1});
  expect_same(receiver.receive(trainer.offered, kMostBytes, kAnyTensors), trainer);
}

TEST(WeightsOverTcp, WithdrawnWeightsAreNotReadAnyMore) {
  Trainer trainer;
  Connection idle("127.0.0.1", trainer.sender.address().port, 5s);
  const OfferedBlock old = trainer.offered;
  WeightReceiver receiver;
  std::jthread stepping([&] {
    // Nor does it wait for those who do not read.
    const auto begin = std::chrono::steady_clock::now();
    for (int i = 0; i < 20; ++i) trainer.step();
    EXPECT_LT(std::chrono::steady_clock::now() - begin, 30s);
  });
  // Either whole or not at all.
  for (int i = 0; i < 20; ++i) {
    try {
      const WeightImage image = receiver.receive(old, kMostBytes, kAnyTensors);
      EXPECT_EQ(image.digest().hex(), old.digest);
      image.verify(1);
    } catch (const Error&) {
      // They are gone.
    }
  }
  stepping.join();
  expect_same(receiver.receive(trainer.offered, kMostBytes, kAnyTensors), trainer);
}

}  // namespace
}  // namespace lockstep::sync
