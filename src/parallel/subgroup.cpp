// SPDX-License-Identifier: Apache-2.0
#include "parallel/subgroup.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace lockstep::parallel {
namespace {

/// A call and the bytes that it sends, which are a copy.
class OfCopy : public Pending {
 public:
  explicit OfCopy(std::vector<std::byte> bytes) : bytes_(std::move(bytes)) {}
  std::span<const std::byte> bytes() const { return bytes_; }
  void set(std::unique_ptr<Pending> call) { call_ = std::move(call); }
  void wait() override { call_->wait(); }

 private:
  std::vector<std::byte> bytes_;
  std::unique_ptr<Pending> call_;
};

class Subgroup : public Group {
 public:
  Subgroup(Group& all, std::vector<int64_t> members) : all_(all), members_(std::move(members)) {
    const auto own = std::find(members_.begin(), members_.end(), all.rank());
    LOCKSTEP_CHECK(own != members_.end(), "rank {} is in no part", all.rank());
    rank_ = own - members_.begin();
  }

  int64_t rank() const override { return rank_; }
  int64_t size() const override { return std::ssize(members_); }

  std::unique_ptr<Pending> begin_all_to_all(std::span<const std::byte> send,
                                            std::span<const int64_t> send_counts,
                                            std::span<std::byte> receive,
                                            std::span<const int64_t> receive_counts,
                                            const Call& call) override {
    // What is sent and received lies in the order of members, which is that of their ranks.
    return all_.begin_all_to_all(send, of_all(send_counts), receive, of_all(receive_counts), call);
  }

  std::unique_ptr<Pending> begin_all_gather(std::span<const std::byte> own,
                                            std::span<std::byte> all,
                                            const Call& call) override {
    const std::vector<int64_t> counts(members_.size(), std::ssize(own));
    return send_copies(own, std::vector<bool>(members_.size(), true), all, counts, call);
  }

  std::unique_ptr<Pending> begin_broadcast(std::span<std::byte> bytes,
                                           int64_t root,
                                           const Call& call) override {
    std::vector<bool> to(members_.size(), rank_ == root);
    to[static_cast<size_t>(rank_)] = false;
    std::vector<int64_t> counts(members_.size());
    if (rank_ != root) counts[static_cast<size_t>(root)] = std::ssize(bytes);
    return send_copies(bytes, to, rank_ == root ? bytes.first(0) : bytes, counts, call);
  }

 private:
  std::vector<int64_t> of_all(std::span<const int64_t> counts) const {
    LOCKSTEP_CHECK(counts.size() == members_.size(), "{} counts for {} ranks", counts.size(),
                   members_.size());
    std::vector<int64_t> all(static_cast<size_t>(all_.size()));
    for (size_t i = 0; i < counts.size(); ++i) all[static_cast<size_t>(members_[i])] = counts[i];
    return all;
  }

  /// Sends the same bytes to all members of `to`.
  std::unique_ptr<Pending> send_copies(std::span<const std::byte> bytes,
                                       const std::vector<bool>& to,
                                       std::span<std::byte> receive,
                                       std::span<const int64_t> receive_counts,
                                       const Call& call) {
    std::vector<std::byte> copies;
    std::vector<int64_t> counts;
    for (const bool is_sent : to) {
      counts.push_back(is_sent ? std::ssize(bytes) : 0);
      if (is_sent) copies.insert(copies.end(), bytes.begin(), bytes.end());
    }
    auto pending = std::make_unique<OfCopy>(std::move(copies));
    pending->set(begin_all_to_all(pending->bytes(), counts, receive, receive_counts, call));
    return pending;
  }

  Group& all_;
  std::vector<int64_t> members_;
  int64_t rank_ = 0;
};

}  // namespace

std::unique_ptr<Group> make_subgroup(Group& all, std::vector<int64_t> members) {
  LOCKSTEP_CHECK(std::is_sorted(members.begin(), members.end()), "the ranks of a part ascend");
  return std::make_unique<Subgroup>(all, std::move(members));
}

}  // namespace lockstep::parallel
