// Attention and the gated delta rule over ranks that share out tokens, against one rank: all bits,
// of values and of gradients.
// SPDX-License-Identifier: Apache-2.0
#include "ops/token_ranks.h"

#include <barrier>
#include <cstring>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <ATen/core/IListRef.h>  // the list of at::cat

#include "ops/attention.h"
#include "ops/causal_conv.h"
#include "ops/gated_delta.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"

namespace lockstep::ops {
namespace {

using testing::same_bits;

/// Ranks that are threads.
class Ranks {
 public:
  explicit Ranks(int64_t size) : size_(size), meeting_(size), offers_(static_cast<size_t>(size)) {}

  class Rank : public TokenRanks {
   public:
    Rank(Ranks& all, int64_t rank) : all_(all), rank_(rank) {}
    int64_t rank() const override { return rank_; }
    int64_t size() const override { return all_.size_; }
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

   private:
    Ranks& all_;
    int64_t rank_;
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

constexpr int64_t kHeads = 8, kKeyHeads = 4, kDim = 16;
constexpr int64_t kQuery = kHeads * kDim, kKey = kKeyHeads * kDim;

PackedSequences sequences_of(const std::vector<int64_t>& lengths, bool has_child) {
  PackedSequences sequences;
  for (const int64_t length : lengths) sequences.append(length);
  if (has_child) sequences.append(6, 0);
  return sequences;
}

at::Tensor columns(const at::Tensor& x, int64_t first, int64_t count, int64_t heads) {
  return x.narrow(1, first, count).view({x.size(0), heads, -1});
}

/// What some of the heads make of all tokens: [T, C] -> [T, O], by the part of the heads.
using Core =
    std::function<at::Tensor(const at::Tensor& x, const PackedSequences&, int64_t rank, int64_t)>;
struct Case {
  const char* name;
  std::vector<int64_t> pieces, out_pieces;
  Core core;
};

Case attention() {
  return {"attention",
          {kQuery, kKey, kKey},
          {kQuery},
          [](const at::Tensor& x, const PackedSequences& sequences, int64_t, int64_t size) {
            const int64_t q = kQuery / size, kv = kKey / size;
            return causal_attention(columns(x, 0, q, kHeads / size),
                                    columns(x, q, kv, kKeyHeads / size),
                                    columns(x, q + kv, kv, kKeyHeads / size), sequences, 0.25)
                .view({x.size(0), q});
          }};
}

/// The convolution, the gates and the rule. Its weights are parts of fixed ones.
Case delta() {
  const at::Tensor conv = at::empty({kKey + kKey + kQuery, 1, 4}, at::kFloat).uniform_(-1, 1),
                   A_log = at::empty({kHeads}, at::kFloat).uniform_(-1, 1),
                   bias = at::empty({kHeads}, at::kFloat).uniform_(-1, 1);
  return {"delta",
          {kKey, kKey, kQuery, kHeads, kHeads},
          {kQuery},
          [=](const at::Tensor& x, const PackedSequences& sequences, int64_t rank, int64_t size) {
            const int64_t k = kKey / size, v = kQuery / size, heads = kHeads / size;
            const at::Tensor taps =
                at::cat({conv.narrow(0, rank * k, k), conv.narrow(0, kKey + rank * k, k),
                         conv.narrow(0, 2 * kKey + rank * v, v)});
            const at::Tensor mixed = causal_conv(x.narrow(1, 0, 2 * k + v), taps, sequences);
            const auto gates = gated_delta_gates(
                x.narrow(1, 2 * k + v, heads), x.narrow(1, 2 * k + v + heads, heads),
                A_log.narrow(0, rank * heads, heads), bias.narrow(0, rank * heads, heads));
            return gated_delta_rule({columns(mixed, 0, k, kKeyHeads / size),
                                     columns(mixed, k, k, kKeyHeads / size),
                                     columns(mixed, 2 * k, v, heads), gates.log_decay, gates.beta},
                                    sequences)
                .output.view({x.size(0), v});
          }};
}

/// The value and the gradient that one rank alone finds, against those of `counts` tokens a rank.
void expect_same_bits(const Case& test,
                      at::ScalarType dtype,
                      const PackedSequences& sequences,
                      const std::vector<int64_t>& counts) {
  int64_t width = 0;
  for (const int64_t piece : test.pieces) width += piece;
  const int64_t tokens = sequences.tokens();
  const at::Tensor x = at::empty({tokens, width}, at::kFloat).uniform_(-1, 1).to(dtype),
                   dout = at::empty({tokens, kQuery}, at::kFloat).uniform_(-1, 1).to(dtype);
  const at::Tensor leaf = x.detach().clone().set_requires_grad(true);
  const at::Tensor whole = test.core(leaf, sequences, 0, 1);
  const at::Tensor dx = lockstep::gradients({whole}, {leaf}, {dout})[0];
  const auto size = std::ssize(counts);
  Ranks all(size);
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      Ranks::Rank member(all, rank);
      const TokenShare share{&member, counts};
      const int64_t first = share.first(), count = share.own();
      const at::Tensor own = x.narrow(0, first, count).clone().set_requires_grad(true);
      const at::Tensor out =
          own_tokens(test.core(own_columns(own, test.pieces, share), sequences, rank, size),
                     test.out_pieces, share);
      const at::Tensor gradient =
          lockstep::gradients({out}, {own}, {dout.narrow(0, first, count)})[0];
      EXPECT_TRUE(same_bits(out.detach(), whole.detach().narrow(0, first, count))) << rank;
      EXPECT_TRUE(same_bits(gradient, dx.narrow(0, first, count))) << rank;
    });
  for (std::thread& thread : threads) thread.join();
}

TEST(TokenRanks, HeadsOfAllTokensHaveTheBitsOfOneRank) {
  for (const Case& test : {attention(), delta()})
    for (const auto dtype : {at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(::testing::Message() << test.name << ", " << dtype);
      const PackedSequences ragged = sequences_of({70, 1, 9, 30}, /*has_child=*/true);
      expect_same_bits(test, dtype, ragged, {116});
      expect_same_bits(test, dtype, ragged, {58, 58});
      expect_same_bits(test, dtype, ragged, {3, 113});
      expect_same_bits(test, dtype, ragged, {29, 0, 87, 0});
      expect_same_bits(test, dtype, sequences_of({2, 1}, false), {1, 1, 1, 0});
    }
}

TEST(TokenRanks, TheirNumberDividesEachPiece) {
  Ranks all(1);
  class Three : public Ranks::Rank {
   public:
    using Ranks::Rank::Rank;
    int64_t size() const override { return 3; }
  } three(all, 0);
  EXPECT_ERROR(own_columns(at::zeros({2, 9}), {6, 3}, {&three, {1, 1, 1}}), ShapeError, "bad-shape",
               "[1, 9]");
  EXPECT_ERROR(own_columns(at::zeros({1, 9}), {5, 4}, {&three, {1, 1, 1}}), ShapeError, "bad-cut",
               "columns that 3 ranks divide");
}

}  // namespace
}  // namespace lockstep::ops
