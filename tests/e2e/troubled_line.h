// A line between a trainer that offers weights over TCP and its receivers, on which something goes
// wrong.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/json.h"
#include "sync/connection.h"
#include "sync/tcp_wire.h"
#include "tests/support/loopback_listener.h"

namespace lockstep::testing {

enum class Trouble : int { kCut, kCorrupt, kSwap, kDouble, kDelay };

/// Passes on requests and answers. The byte of weights number `at`, of all connections together, is
/// where the trouble comes: the line is cut before it, it changes, its piece of a few bytes changes
/// places with the next or comes twice, or it is late.
class TroubledLine {
 public:
  TroubledLine(uint16_t trainer, Trouble trouble, size_t at)
      : trainer_(trainer), trouble_(trouble), left_(static_cast<int64_t>(at)) {
    accepting_ = std::thread([this] {
      for (int taken = 0; (taken = listener_.accept()) >= 0;)
        passing_.emplace_back([this, taken] { pass(taken); });
    });
  }
  ~TroubledLine() {
    listener_.close();
    accepting_.join();
    for (std::thread& thread : passing_) thread.join();
  }
  TroubledLine(const TroubledLine&) = delete;
  TroubledLine& operator=(const TroubledLine&) = delete;

  uint16_t port() const { return listener_.port(); }

 private:
  static constexpr size_t kPiece = 61;

  void pass(int taken) {
    const std::chrono::seconds idle(10);
    sync::Connection receiver(taken, "receiver", idle);
    try {
      sync::Connection trainer("127.0.0.1", trainer_, idle);
      while (true) {
        trainer.send(receiver.receive_line(sync::kMostLineBytes) + "\n");
        const std::string answer = trainer.receive_line(sync::kMostLineBytes);
        receiver.send(answer + "\n");
        std::string bytes(parse_json(answer, "answer").value("bytes", size_t{0}), '\0');
        trainer.receive_all(std::as_writable_bytes(std::span(bytes)));
        if (!pass_bytes(receiver, std::move(bytes))) return;
      }
    } catch (const Error&) {
      // One end has had enough.
    }
  }

  /// False: the line is cut.
  bool pass_bytes(sync::Connection& receiver, std::string bytes) {
    const int64_t before = left_.fetch_sub(static_cast<int64_t>(bytes.size()));
    const bool is_hit = before >= 0 && before < static_cast<int64_t>(bytes.size());
    if (is_hit) {
      const auto at = static_cast<size_t>(before);
      switch (trouble_) {
        case Trouble::kCut:
          receiver.send(bytes.substr(0, at));
          return false;
        case Trouble::kCorrupt:
          bytes[at] = static_cast<char>(bytes[at] ^ 1);
          break;
        case Trouble::kSwap:
          swap_pieces(bytes, at);
          break;
        case Trouble::kDouble:
          double_piece(bytes, at);
          break;
        case Trouble::kDelay:
          std::this_thread::sleep_for(std::chrono::milliseconds(300));
      }
    }
    receiver.send(bytes);
    return true;
  }

  /// The first two pieces from `at` on, or before it, that are not the same.
  static void swap_pieces(std::string& bytes, size_t at) {
    for (size_t first = std::min(at, bytes.size() - std::min(bytes.size(), 2 * kPiece));
         first + 2 * kPiece <= bytes.size(); ++first) {
      const std::string one = bytes.substr(first, kPiece),
                        two = bytes.substr(first + kPiece, kPiece);
      if (one == two) continue;
      bytes.replace(first, 2 * kPiece, two + one);
      return;
    }
    bytes[at] = static_cast<char>(bytes[at] ^ 1);
  }

  /// A piece at `at` or before it that differs from what follows it.
  static void double_piece(std::string& bytes, size_t at) {
    const size_t first = std::min(at, bytes.size() - std::min(bytes.size(), 2 * kPiece));
    const std::string piece = bytes.substr(first, kPiece);
    if (piece == bytes.substr(first + kPiece, kPiece) || bytes.size() < 2 * kPiece)
      bytes[at] = static_cast<char>(bytes[at] ^ 1);
    else
      bytes.insert(first, piece);
  }

  LoopbackListener listener_;
  uint16_t trainer_;
  Trouble trouble_;
  std::atomic<int64_t> left_;
  std::vector<std::thread> passing_;
  std::thread accepting_;
};

}  // namespace lockstep::testing
