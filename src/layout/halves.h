// The two halves of a plan for processes that share no memory: a rank of the source sends what it
// has, and a rank of the target takes what it needs.
// SPDX-License-Identifier: Apache-2.0
//
// Both sides make the same plan from the two layouts, so that only bytes travel. How they travel is
// not said here. An update of one pair of ranks:
//
//   sender                                receiver
//     fill() each message to the rank  →    begin(), take() each one in any order
//     sent(): the digest of them all   →    check(), then commit() once all ranks have checked
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "layout/byte_io.h"
#include "layout/layout.h"
#include "layout/plan.h"

namespace lockstep::layout {

/// All that one rank of the source has of a piece: the regions of its copies in the plan's order,
/// each in logical order and in the target's type.
struct Message {
  int32_t from_rank = 0, to_rank = 0;
  /// The index of the piece in the plan.
  size_t piece = 0;
  /// In bytes; at most the piece's. It follows from the plan.
  int64_t size = 0;
  friend bool operator==(const Message&, const Message&) = default;
};

/// All messages of a plan to the layout `to`, by piece and then by sender.
std::vector<Message> messages_of(const Plan& plan, const Layout& to);

/// What one rank of the source does. Keeps references to everything it is given, and reads only
/// this rank's tensors.
///
/// Threads: fill() from any, for different messages.
class Sender {
 public:
  /// Throws InternalError naming a tensor whose type the layouts change and the plan does not.
  Sender(const Layout& from, const Layout& to, const Plan& plan, int32_t rank, ByteSource& source);

  /// What this rank sends, in the plan's order.
  const std::vector<Message>& messages() const { return messages_; }
  /// Fills `bytes`, which has the size of the message and begins where an element may lie. Returns
  /// the digest that travels with it. Throws FormatError "layout-conflict" naming a tensor whose
  /// values the way back would not restore, though the plan declares no rounding.
  Digest fill(const Message& message, std::span<std::byte> bytes);
  /// The digest of all messages to a rank of the target, as they were filled last.
  Digest sent(int32_t to_rank) const;

 private:
  void fill_copy(const Copy& copy, std::byte* to) const;

  const Layout& from_;
  const Layout& to_;
  const Plan& plan_;
  int32_t rank_;
  ByteSource& source_;
  std::vector<Message> messages_;
  /// By message.
  std::vector<std::optional<Digest>> digests_;
};

/// What one rank of the target does. Keeps references to everything it is given. An update in which
/// it throws is dropped.
///
/// Threads: not thread-safe.
class Receiver {
 public:
  Receiver(const Layout& to, const Plan& plan, int32_t rank, UpdateSink& sink);
  /// Drops what is not committed.
  ~Receiver() { drop(); }
  Receiver(const Receiver&) = delete;
  Receiver& operator=(const Receiver&) = delete;

  /// What this rank gets, in the plan's order.
  const std::vector<Message>& messages() const { return messages_; }
  /// Begins an update; one that is under way is dropped.
  void begin();
  /// Takes a message as it came. Its bytes begin where an element may lie. A piece is written when
  /// all of its senders' messages are here. Throws FormatError "bad-message" for a message that
  /// comes before begin(), twice, in another size, for another rank or of a piece or rank that the
  /// plan does not know; "digest-mismatch".
  void take(const Message& message, std::span<const std::byte> bytes, const Digest& digest);
  /// Checks that everything is here and is what each sender says it sent: Sender::sent(), by its
  /// rank. Throws FormatError "bad-message" naming a message that is missing, "digest-mismatch".
  void check(const std::map<int32_t, Digest>& sent);
  /// Makes the update what the sink's readers see. Throws InternalError before check().
  void commit();
  /// Drops the update, if one is under way.
  void drop() noexcept;

 private:
  enum class State : uint8_t { kIdle, kOpen, kChecked };
  /// A piece of which some messages are missing.
  struct OpenPiece {
    int64_t num_missing = 0;
    /// Empty where the sink lends its memory.
    std::vector<std::byte> bytes;
  };
  template <class Act>
  void or_drop(const Act& act);
  const std::string& tensor_name(size_t piece) const;
  size_t index_of(const Message& message) const;
  void accept(const Message& message, std::span<const std::byte> bytes, const Digest& digest);
  void place(const Message& message, std::span<const std::byte> bytes, std::byte* to) const;

  const Layout& to_;
  const Plan& plan_;
  int32_t rank_;
  UpdateSink& sink_;
  State state_ = State::kIdle;
  std::vector<Message> messages_;
  /// By message: the digest of one that came.
  std::vector<std::optional<Digest>> digests_;
  /// By index of the piece in the plan.
  std::map<size_t, OpenPiece> open_;
};

}  // namespace lockstep::layout
