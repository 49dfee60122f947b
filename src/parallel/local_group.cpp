// SPDX-License-Identifier: Apache-2.0
#include "parallel/local_group.h"

#include <condition_variable>
#include <cstring>
#include <mutex>
#include <numeric>
#include <string>

#include "base/check.h"

namespace lockstep::parallel {
namespace {

/// What a rank brings to a call: what it sends to each rank, and how much it expects of each.
struct Offer {
  /// The call, as errors show it.
  std::string text;
  std::vector<std::span<const std::byte>> parts;
  std::vector<int64_t> expected;
};

/// What is wrong with the offers of a call; empty if they fit together.
std::string fault_of(const std::vector<Offer>& offers) {
  for (size_t from = 0; from < offers.size(); ++from) {
    if (offers[from].text != offers[0].text)
      return fmt::format("expected {} as on rank 0, got {} on rank {}", offers[0].text,
                         offers[from].text, from);
    for (size_t to = 0; to < offers.size(); ++to)
      if (std::ssize(offers[from].parts[to]) != offers[to].expected[from])
        return fmt::format("expected {} bytes of rank {} on rank {}, got {}",
                           offers[to].expected[from], from, to, offers[from].parts[to].size());
  }
  return {};
}

/// Where the ranks' threads meet, twice a call: when all offers are there, and when all are read.
class Meeting {
 public:
  explicit Meeting(size_t size) : offers_(size) {}

  const std::vector<Offer>& offers() const { return offers_; }
  void bring(size_t rank, Offer offer, const Call& call) {
    offers_[rank] = std::move(offer);
    arrive(call);
  }
  void arrive(const Call& call) {
    std::unique_lock lock(mutex_);
    const uint64_t round = round_;
    if (++arrived_ == offers_.size()) {
      arrived_ = 0;
      ++round_;
      changed_.notify_all();
      return;
    }
    const auto deadline = call.deadline.value_or(kCallDeadline);
    const bool is_over =
        changed_.wait_for(lock, deadline, [&] { return round_ != round || has_left_; });
    if (round_ != round) return;
    if (is_over) fail<PeerError>("rank-lost", call.name, "expected all ranks, got one that left");
    fail<PeerError>("rank-late", call.name, "expected {} ranks within {} ms, got {}",
                    offers_.size(), deadline.count(), arrived_);
  }
  /// A rank makes no more calls.
  void leave() {
    const std::lock_guard lock(mutex_);
    has_left_ = true;
    changed_.notify_all();
  }

 private:
  std::vector<Offer> offers_;
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t arrived_ = 0;
  uint64_t round_ = 0;
  bool has_left_ = false;
};

class Done : public Pending {
 public:
  void wait() override {}
};

class LocalGroup : public Group {
 public:
  LocalGroup(std::shared_ptr<Meeting> meeting, size_t rank)
      : meeting_(std::move(meeting)), rank_(rank) {}
  ~LocalGroup() override { meeting_->leave(); }
  LocalGroup(const LocalGroup&) = delete;
  LocalGroup& operator=(const LocalGroup&) = delete;

  int64_t rank() const override { return static_cast<int64_t>(rank_); }
  int64_t size() const override { return std::ssize(meeting_->offers()); }

  std::unique_ptr<Pending> begin_all_to_all(std::span<const std::byte> send,
                                            std::span<const int64_t> send_counts,
                                            std::span<std::byte> receive,
                                            std::span<const int64_t> receive_counts,
                                            const Call& call) override {
    Offer offer{fmt::format("all-to-all \"{}\"", call.name),
                {},
                {receive_counts.begin(), receive_counts.end()}};
    for (const int64_t count : send_counts) {
      offer.parts.push_back(send.first(static_cast<size_t>(count)));
      send = send.subspan(static_cast<size_t>(count));
    }
    return exchange(std::move(offer), receive, call);
  }

  std::unique_ptr<Pending> begin_all_gather(std::span<const std::byte> own,
                                            std::span<std::byte> all,
                                            const Call& call) override {
    const auto ranks = static_cast<size_t>(size());
    return exchange({fmt::format("all-gather \"{}\"", call.name), std::vector(ranks, own),
                     std::vector(ranks, std::ssize(own))},
                    all, call);
  }

  std::unique_ptr<Pending> begin_broadcast(std::span<std::byte> bytes,
                                           int64_t root,
                                           const Call& call) override {
    const auto from = static_cast<size_t>(root), ranks = static_cast<size_t>(size());
    Offer offer{fmt::format("broadcast of rank {}: \"{}\"", root, call.name),
                std::vector<std::span<const std::byte>>(ranks), std::vector<int64_t>(ranks, 0)};
    if (rank_ != from) {
      offer.expected[from] = std::ssize(bytes);
      return exchange(std::move(offer), bytes, call);
    }
    offer.parts.assign(ranks, bytes);
    offer.parts[from] = {};
    return exchange(std::move(offer), {}, call);
  }

 private:
  /// Fills `receive` with what the ranks send to this one.
  std::unique_ptr<Pending> exchange(Offer own, std::span<std::byte> receive, const Call& call) {
    LOCKSTEP_CHECK(std::accumulate(own.expected.begin(), own.expected.end(), int64_t{0}) ==
                       std::ssize(receive),
                   "{}: the counts are not those of {} bytes", call.name, receive.size());
    std::string fault;
    if (size() == 1) {
      // alone() serves all threads of a process: one rank writes nothing that they share.
      fault = deliver({std::move(own)}, receive);
    } else {
      meeting_->bring(rank_, std::move(own), call);
      fault = deliver(meeting_->offers(), receive);
      meeting_->arrive(call);
    }
    if (!fault.empty()) fail<InternalError>("rank-call", call.name, "{}", fault);
    return std::make_unique<Done>();
  }

  /// Copies what the offers have for this rank; returns what is wrong with them instead, if they do
  /// not fit together.
  std::string deliver(const std::vector<Offer>& offers, std::span<std::byte> receive) const {
    std::string fault = fault_of(offers);
    if (!fault.empty()) return fault;
    for (const Offer& offer : offers) {
      const std::span<const std::byte> part = offer.parts[rank_];
      if (!part.empty()) std::memcpy(receive.data(), part.data(), part.size());
      receive = receive.subspan(part.size());
    }
    return {};
  }

  std::shared_ptr<Meeting> meeting_;
  size_t rank_;
};

}  // namespace

std::vector<std::unique_ptr<Group>> make_local_groups(int64_t size) {
  const auto meeting = std::make_shared<Meeting>(static_cast<size_t>(size));
  std::vector<std::unique_ptr<Group>> groups;
  for (size_t rank = 0; rank < static_cast<size_t>(size); ++rank)
    groups.push_back(std::make_unique<LocalGroup>(meeting, rank));
  return groups;
}

}  // namespace lockstep::parallel
