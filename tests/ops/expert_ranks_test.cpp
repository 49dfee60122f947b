// Experts that ranks share out, against the same experts on one rank: all bits, of values and of
// each rank's gradients.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <barrier>
#include <cstring>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "ops/moe.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tensor/index_tensor.h"
#include "tests/support/expect_close.h"

namespace lockstep::ops {
namespace {

using testing::same_bits;

constexpr int64_t kDim = 40, kExperts = 8, kChosen = 3, kWidth = 24, kRank = 4;

at::Tensor uniform(at::IntArrayRef shape, at::ScalarType dtype = at::kFloat) {
  return at::empty(shape, at::kFloat).uniform_(-1, 1).to(dtype);
}

/// Ranks that are threads.
class Ranks {
 public:
  explicit Ranks(int64_t size) : size_(size), meeting_(size), offers_(static_cast<size_t>(size)) {}

  class Rank : public ExpertRanks {
   public:
    Rank(Ranks& all, int64_t rank, bool learns) : all_(all), rank_(rank), learns_(learns) {}
    int64_t rank() const override { return rank_; }
    int64_t size() const override { return all_.size_; }
    bool learns() const override { return learns_; }
    void exchange(std::span<const std::byte> send,
                  std::span<const int64_t> send_counts,
                  std::span<std::byte> receive,
                  std::span<const int64_t> receive_counts,
                  const char* what) override {
      all_.offers_[static_cast<size_t>(rank_)] = {send, send_counts, what};
      all_.meeting_.arrive_and_wait();
      for (size_t from = 0; from < all_.offers_.size(); ++from) {
        const Offer& offer = all_.offers_[from];
        EXPECT_STREQ(offer.what, what);
        size_t begin = 0;
        for (int64_t to = 0; to < rank_; ++to)
          begin += static_cast<size_t>(offer.counts[static_cast<size_t>(to)]);
        const auto count = static_cast<size_t>(receive_counts[from]);
        EXPECT_EQ(offer.counts[static_cast<size_t>(rank_)], receive_counts[from]);
        if (count) std::memcpy(receive.data(), offer.bytes.data() + begin, count);
        receive = receive.subspan(count);
      }
      all_.meeting_.arrive_and_wait();
    }
    void take_gradient(const at::Tensor& bank, int64_t source, at::Tensor gradient) override {
      EXPECT_TRUE(taken.emplace(std::pair(bank.unsafeGetTensorImpl(), source), gradient).second);
    }
    std::map<std::pair<const void*, int64_t>, at::Tensor> taken;

   private:
    Ranks& all_;
    int64_t rank_;
    bool learns_;
  };

 private:
  struct Offer {
    std::span<const std::byte> bytes;
    std::span<const int64_t> counts;
    const char* what = nullptr;
  };
  int64_t size_;
  std::barrier<> meeting_;
  std::vector<Offer> offers_;
};

ExpertLowRank pair_of(int64_t in, int64_t out, uint64_t name) {
  ExpertLowRank pair{.a = ExpertBank(uniform({kExperts, kRank, in}).set_requires_grad(true)),
                     .b = ExpertBank(uniform({kExperts, out, kRank}).set_requires_grad(true)),
                     .scale = 0.75,
                     .name = name};
  pair.pack();
  return pair;
}

/// The tokens of one rank.
struct Tokens {
  at::Tensor x;
  Routing routing;
  at::Tensor dout;
  std::vector<ExpertTerm> terms;
};

struct Result {
  at::Tensor out;
  /// Of x, the weights, and the leaves.
  std::vector<at::Tensor> gradients;
};

/// A layer's experts with two adapters, and the tokens of each rank.
struct Layer {
  at::Tensor gate_up, down;
  std::vector<ExpertLowRank> pairs;
  std::vector<Tokens> homes;

  /// Rank 1 has no tokens, and rank 2 none with the second adapter.
  Layer(at::ScalarType dtype, int64_t ranks, bool has_adapters)
      : gate_up(uniform({kExperts, 2 * kWidth, kDim}, dtype).set_requires_grad(true)),
        down(uniform({kExperts, kDim, kWidth}, dtype).set_requires_grad(true)) {
    for (uint64_t i = 0; i < 2; ++i) {
      pairs.push_back(pair_of(kDim, 2 * kWidth, 2 * i));
      pairs.push_back(pair_of(kWidth, kDim, 2 * i + 1));
    }
    for (int64_t rank = 0; rank < ranks; ++rank) {
      const int64_t count = rank == 1 ? 0 : 9 + 4 * rank;
      Tokens& home = homes.emplace_back();
      home.x = uniform({count, kDim}, dtype).set_requires_grad(true);
      home.dout = uniform({count, kDim}, dtype);
      const at::Tensor logits = uniform({std::max<int64_t>(count, 1), kExperts}, dtype);
      home.routing = route(logits, kChosen, true);
      home.routing.weights = home.routing.weights.narrow(0, 0, count).contiguous();
      home.routing.experts = home.routing.experts.narrow(0, 0, count).contiguous();
      home.routing.weights.set_requires_grad(true);
      if (!has_adapters) continue;
      std::vector<int64_t> first, second, keys;
      for (int64_t t = 0; t < count; ++t) {
        if (t % 3 == 0) first.push_back(t);
        if (t % 3 == 1 && rank != 2) second.push_back(t);
        keys.push_back(1000 * rank + 7 * t);
      }
      // One that has no token of an adapter says nothing of its dropout.
      const ops::Dropout dropout =
          first.empty() ? ops::Dropout{} : ops::Dropout{0.25, index_tensor(keys)};
      home.terms = {{&pairs[0], &pairs[1], index_tensor(first), dropout},
                    {&pairs[2], nullptr, index_tensor(second), {}}};
    }
  }

  std::vector<at::Tensor> banks() const {
    std::vector<at::Tensor> all{gate_up, down};
    for (const ExpertLowRank& pair : pairs) all.insert(all.end(), {pair.a.weight, pair.b.weight});
    return all;
  }
  /// Of x, the weights, and the banks behind them.
  Result run(const Tokens& home, bool keeps_empty_terms, ExpertRanks* ranks) const {
    std::vector<ExpertTerm> terms;
    for (const ExpertTerm& term : home.terms)
      if (keeps_empty_terms || term.tokens.numel()) terms.push_back(term);
    const at::Tensor out = experts(home.x, home.routing, ExpertBank::packed(gate_up),
                                   ExpertBank::packed(down), terms, ranks);
    std::vector<at::Tensor> inputs{home.x, home.routing.weights};
    for (const at::Tensor& bank : banks()) inputs.push_back(bank);
    return {out.detach(), lockstep::gradients({out}, inputs, {home.dout})};
  }
};

/// What each rank alone computes, and what all of them do together.
void expect_same_bits(at::ScalarType dtype, int64_t ranks, bool has_adapters, int64_t silent) {
  const Layer layer(dtype, ranks, has_adapters);
  std::vector<Result> expected;
  for (const Tokens& home : layer.homes) expected.push_back(layer.run(home, false, nullptr));
  Ranks all(ranks);
  std::vector<Ranks::Rank> members;
  for (int64_t rank = 0; rank < ranks; ++rank) members.emplace_back(all, rank, rank != silent);
  std::vector<Result> found(static_cast<size_t>(ranks));
  std::vector<std::thread> threads;
  for (size_t rank = 0; rank < found.size(); ++rank)
    threads.emplace_back([&, rank] {
      const at::NoGradGuard no_grad;
      const Tokens& home = layer.homes[rank];
      const at::Tensor scored = experts(home.x, home.routing, ExpertBank::packed(layer.gate_up),
                                        ExpertBank::packed(layer.down), home.terms, &members[rank]);
      const at::AutoGradMode with_grad(true);
      found[rank] = layer.run(home, true, &members[rank]);
      EXPECT_TRUE(same_bits(scored, found[rank].out));
    });
  for (std::thread& thread : threads) thread.join();
  for (size_t home = 0; home < found.size(); ++home) {
    const bool is_silent = static_cast<int64_t>(home) == silent;
    EXPECT_TRUE(same_bits(found[home].out, expected[home].out)) << "rank " << home;
    for (size_t i = 0; i < 2; ++i) {
      const at::Tensor& own = found[home].gradients[i];
      EXPECT_TRUE(same_bits(own, is_silent ? at::zeros_like(own) : expected[home].gradients[i]))
          << "rank " << home << ", gradient " << i;
    }
    const std::vector<at::Tensor> banks = layer.banks();
    for (size_t bank = 0; bank < banks.size(); ++bank) {
      EXPECT_FALSE(found[home].gradients[2 + bank].defined());
      const at::Tensor& whole = expected[home].gradients[2 + bank];
      for (int64_t owner = 0; owner < ranks; ++owner) {
        const auto& taken = members[static_cast<size_t>(owner)].taken;
        const auto own = taken.find({banks[bank].unsafeGetTensorImpl(), home});
        const bool is_expected = whole.defined() && !is_silent && layer.homes[home].x.size(0) > 0;
        if (layer.homes[home].x.size(0) > 0) {
          ASSERT_EQ(own != taken.end(), is_expected) << "bank " << bank << " of rank " << home;
        }
        if (!is_expected) continue;
        const int64_t count = kExperts / ranks;
        EXPECT_TRUE(same_bits(own->second, whole.narrow(0, owner * count, count)))
            << "bank " << bank << " of rank " << home << " on rank " << owner;
      }
    }
  }
}

TEST(ExpertRanks, HaveTheBitsOfEachRankAlone) {
  for (const auto dtype : {at::kFloat, at::kBFloat16})
    for (const int64_t ranks : {1, 2, 4}) {
      SCOPED_TRACE(::testing::Message() << ranks << " ranks, " << dtype);
      expect_same_bits(dtype, ranks, /*has_adapters=*/false, /*silent=*/-1);
    }
}

TEST(ExpertRanks, HaveTheBitsOfEachRankAloneWithAdapters) {
  for (const int64_t ranks : {1, 2, 4}) {
    SCOPED_TRACE(::testing::Message() << ranks << " ranks");
    expect_same_bits(at::kFloat, ranks, /*has_adapters=*/true, /*silent=*/-1);
  }
}

TEST(ExpertRanks, OneThatDoesNotLearnAddsNothing) {
  expect_same_bits(at::kFloat, 4, /*has_adapters=*/true, /*silent=*/2);
}

}  // namespace
}  // namespace lockstep::ops
