// Ranks that compute one thing together, and the few calls in which they exchange bytes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace lockstep::parallel {

/// A collective call: its name in errors, and how long it may take from the moment in which this
/// rank makes it. Every rank makes the same calls of the same names in the same order.
struct Call {
  /// "gradients of layer 3"
  std::string name;
  /// Unset: the group's.
  std::optional<std::chrono::milliseconds> deadline = {};
};
/// The deadline of the calls of a group, where nobody says another. Longer than any rank computes
/// between two calls: that a rank is lost is seen earlier, by its connection or its heartbeat.
constexpr std::chrono::milliseconds kCallDeadline = std::chrono::minutes(30);

/// A call that has begun. Its buffers are neither written nor freed, and those that it fills are
/// not read, before wait() has returned.
class Pending {
 public:
  virtual ~Pending() = default;
  /// Returns when the call is done on this rank. Throws PeerError "rank-lost" or "rank-late", which
  /// name the call. Call it once.
  virtual void wait() = 0;
};

/// A group of ranks. What crosses it are bytes: sums are formed by their receivers, in an order
/// that is ours, so that no bit depends on how a transport adds.
///
/// Units: all counts in bytes. Not thread-safe.
class Group {
 public:
  virtual ~Group() = default;
  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;
  bool is_first() const { return rank() == 0; }

  /// Sends `send_counts[r]` bytes of `send` to each rank r, one behind another, and fills `receive`
  /// with `receive_counts[r]` bytes of each rank r, likewise. What a rank sends to another is what
  /// the other expects of it; anything may be 0.
  virtual std::unique_ptr<Pending> begin_all_to_all(std::span<const std::byte> send,
                                                    std::span<const int64_t> send_counts,
                                                    std::span<std::byte> receive,
                                                    std::span<const int64_t> receive_counts,
                                                    const Call& call) = 0;
  /// Fills `all` with the `own` of every rank, one behind another; all are equally long.
  virtual std::unique_ptr<Pending> begin_all_gather(std::span<const std::byte> own,
                                                    std::span<std::byte> all,
                                                    const Call& call) = 0;
  /// Gives every rank the bytes of rank `root`.
  virtual std::unique_ptr<Pending> begin_broadcast(std::span<std::byte> bytes,
                                                   int64_t root,
                                                   const Call& call) = 0;

  void all_to_all(std::span<const std::byte> send,
                  std::span<const int64_t> send_counts,
                  std::span<std::byte> receive,
                  std::span<const int64_t> receive_counts,
                  const Call& call) {
    begin_all_to_all(send, send_counts, receive, receive_counts, call)->wait();
  }
  void all_gather(std::span<const std::byte> own, std::span<std::byte> all, const Call& call) {
    begin_all_gather(own, all, call)->wait();
  }
  void broadcast(std::span<std::byte> bytes, int64_t root, const Call& call) {
    begin_broadcast(bytes, root, call)->wait();
  }
  /// Returns when all ranks have made this call.
  void barrier(const Call& call);
  /// The texts of all ranks, by rank. They may differ in length; each call tells the lengths first.
  std::vector<std::string> gather(const std::string& own, const Call& call);
};

/// The group of a process that is alone: every call is a copy. It has no state.
Group& alone();

}  // namespace lockstep::parallel
