// The ranks that share out a model's experts.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include "ops/moe.h"
#include "parallel/group.h"

namespace lockstep::model {

class Adapter;

/// Each rank computes with its experts for the tokens of all: every forward of a layer that has
/// experts, and every backward, is a call of all ranks (ModelWeights::share_experts). One that has
/// no tokens makes it with none (Decoder::layer).
///
/// Where ranks do not know how many forwards the others make, each says before every one of them
/// whether it makes one (begin_forward), and one that makes none any more still computes for those
/// that do (join_forwards in decoder.h).
///
/// Not thread-safe: one forward at a time.
class ExpertRanks : public ops::ExpertRanks {
 public:
  /// `ranks` have all experts together, as have others of `all`, whose calls are the same ones.
  ExpertRanks(std::shared_ptr<parallel::Group> ranks, parallel::Group& all)
      : ranks_(std::move(ranks)), all_(&all) {}

  int64_t rank() const override { return ranks_->rank(); }
  int64_t size() const override { return ranks_->size(); }
  void exchange(std::span<const std::byte> send,
                std::span<const int64_t> send_counts,
                std::span<std::byte> receive,
                std::span<const int64_t> receive_counts,
                const char* what) override {
    ranks_->all_to_all(send, send_counts, receive, receive_counts, {what});
  }
  bool learns() const override { return learns_; }
  void take_gradient(const at::Tensor& bank, int64_t source, at::Tensor gradient) override {
    if (take_) take_(bank, source, std::move(gradient));
  }

  /// Whether any rank makes a forward now, of which this one says whether it does. A call of all
  /// ranks.
  bool begin_forward(bool computes);
  void end_forward() { is_in_forward_ = false; }
  /// Whether a forward has begun and not ended. After an error it leaves the others in calls that
  /// this rank will not make.
  bool is_in_forward() const { return is_in_forward_; }

  /// The adapters that tokens of any rank may have; on all ranks in the same order.
  void set_adapters(std::vector<const Adapter*> adapters) { adapters_ = std::move(adapters); }
  const std::vector<const Adapter*>& adapters() const { return adapters_; }
  /// Whether the tokens of the next forwards add to gradients.
  void set_learns(bool learns) { learns_ = learns; }
  /// Is given what take_gradient() is; nothing takes them at first.
  using TakeGradient = std::function<void(const at::Tensor& bank, int64_t source, at::Tensor)>;
  void set_take(TakeGradient take) { take_ = std::move(take); }

 private:
  std::shared_ptr<parallel::Group> ranks_;
  parallel::Group* all_;
  bool is_in_forward_ = false;
  std::vector<const Adapter*> adapters_;
  bool learns_ = true;
  TakeGradient take_;
};

}  // namespace lockstep::model
