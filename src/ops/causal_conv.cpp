// The causal convolution: which rows a token's taps are, and threads over tokens, around the
// kernels of cpu/causal_conv.h.
// SPDX-License-Identifier: Apache-2.0
#include "ops/causal_conv.h"

#include <algorithm>
#include <cstring>
#include <set>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/op_timer.h"
#include "ops/cpu/causal_conv.h"
#include "ops/kernel_data.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tensor/parallel.h"

namespace lockstep::ops {
namespace {

// The backward's unit of work: its float32 rows stay in the second-level cache, and the partial
// sums of the weight's gradient, one a unit, do not depend on the number of threads.
constexpr int64_t kBlockTokens = 64, kBlockChannels = 512;

/// Rows of [T, C] or [.., C] memory, `stride` elements apart.
template <class T>
struct Rows {
  T* data;
  int64_t stride;
  T* operator[](int64_t row) const { return data + row * stride; }
};
template <class T>
Rows<T> rows_of(const at::Tensor& x) {
  return {elements<T>(x), x.stride(-2)};
}

/// The inputs of a convolution: packed tokens, and W-1 rows before each sequence (its parent's last
/// ones, zeros before).
template <class T>
class TapRows {
 public:
  TapRows(Rows<T> x, const PackedSequences& sequences, int64_t width, int64_t channels)
      : x_(x), sequences_(sequences), width_(width), zeros_(static_cast<size_t>(channels)) {}

  /// Sets the W rows of the token at `position` of sequence b; `history` is the sequence's [W-1,
  /// C], or null: what its parent tells.
  void set(int64_t b, int64_t position, Rows<T> history, const T** taps) const {
    const int64_t token = sequences_.first_token(b) + position;
    for (int64_t j = 0; j < width_; ++j) {
      const int64_t at = position - width_ + 1 + j;
      if (at >= 0)
        taps[j] = x_[token - width_ + 1 + j];
      else
        taps[j] = history.data ? history[at + width_ - 1] : row_before(b, at);
    }
  }

 private:
  /// The row at `position` < 0 of sequence b.
  const T* row_before(int64_t b, int64_t position) const {
    const int64_t at = sequences_.history(b) + position;
    if (at < 0) return zeros_.data();
    return x_[sequences_.first_token(sequences_.parent(b)) + at];
  }

  Rows<T> x_;
  const PackedSequences& sequences_;
  int64_t width_;
  std::vector<T> zeros_;
};

/// [C, 1, W] in any dtype -> [W, C] float32.
at::Tensor weight_by_tap(const at::Tensor& weight) {
  return weight.select(1, 0).to(at::kFloat).t().contiguous();
}

at::Tensor with_whole_rows(const at::Tensor& x) { return x.stride(1) == 1 ? x : x.contiguous(); }

/// `history(b)` gives the rows before sequence b; after(b) is called for each token of it, when its
/// row is computed.
template <class T, class History, class After>
void run_forward(const at::Tensor& x,
                 const at::Tensor& weight_WC,
                 const PackedSequences& sequences,
                 const at::Tensor& out,
                 const History& history,
                 const After& after) {
  const int64_t width = weight_WC.size(0), channels = weight_WC.size(1);
  const cpu::ConvTaps conv{weight_WC.const_data_ptr<float>(), channels, width, channels};
  const TapRows<T> rows(rows_of<T>(x), sequences, width, channels);
  const Rows<T> to = rows_of<T>(out);
  const int64_t grain = thread_grain(channels);
  parallel_for(0, sequences.tokens(), grain, [&](int64_t begin, int64_t end) {
    std::vector<const T*> taps(static_cast<size_t>(width));
    const auto& offsets = sequences.offsets();
    int64_t b = std::upper_bound(offsets.begin(), offsets.end(), begin) - offsets.begin() - 1;
    for (int64_t t = begin; t < end; ++t) {
      if (t == offsets[static_cast<size_t>(b) + 1]) ++b;
      rows.set(b, t - offsets[static_cast<size_t>(b)], history(b), taps.data());
      cpu::conv_row(conv, taps.data(), to[t]);
      after(b);
    }
  });
}

/// Up to kBlockTokens tokens of a sequence.
struct Block {
  /// `first` is a position in the sequence.
  int64_t sequence, first, count;
};

std::vector<Block> blocks_of(const PackedSequences& sequences) {
  std::vector<Block> blocks;
  for (int64_t b = 0; b < sequences.count(); ++b)
    for (int64_t first = 0; first < sequences.length(b); first += kBlockTokens)
      blocks.push_back({b, first, std::min(kBlockTokens, sequences.length(b) - first)});
  return blocks;
}

/// The backward over one block: its rows of dx and its part [W, C] of the weight's gradient. The
/// gradients of the sums are computed for the W-1 tokens behind the block too, which read its last
/// tokens; behind a sequence's last token stand the sequences that continue it, whose gradients are
/// added.
template <class T>
class BlockBackward {
 public:
  BlockBackward(const at::Tensor& x,
                const at::Tensor& weight_WC,
                const PackedSequences& sequences,
                const at::Tensor& out_gradient,
                const at::Tensor& x_gradient)
      : weight_(weight_WC.const_data_ptr<float>()),
        width_(weight_WC.size(0)),
        channels_(weight_WC.size(1)),
        sequences_(sequences),
        children_(sequences.children()),
        rows_(rows_of<T>(x), sequences, width_, channels_),
        dout_(rows_of<T>(out_gradient)),
        dx_(rows_of<T>(x_gradient)) {}

  void run(const Block& block, float* weight_gradient) const {
    const int64_t behind = block.first + block.count + width_ - 1;
    const int64_t own_end = std::min(behind, sequences_.length(block.sequence));
    const int64_t end = children_[static_cast<size_t>(block.sequence)].empty() ? own_end : behind;
    std::vector<float> sums(static_cast<size_t>((end - block.first) * kBlockChannels));
    for (int64_t c = 0; c < channels_; c += kBlockChannels) {
      const cpu::ConvTaps conv{weight_ + c, channels_, width_,
                               std::min(kBlockChannels, channels_ - c)};
      sum_gradients(block, own_end, c, conv, sums.data(), weight_gradient + c);
      for (int64_t t = own_end; t < end; ++t)
        sum_of_children(block, t, c, conv, sums.data() + (t - block.first) * kBlockChannels);
      input_gradients(block, end, c, conv, sums.data());
    }
  }

 private:
  int64_t start(int64_t sequence) const { return sequences_.first_token(sequence); }

  void sum_gradients(const Block& block,
                     int64_t end,
                     int64_t channel,
                     const cpu::ConvTaps& conv,
                     float* sums,
                     float* weight_gradient) const {
    std::vector<const T*> taps(static_cast<size_t>(width_));
    for (int64_t t = block.first; t < end; ++t) {
      rows_.set(block.sequence, t, {nullptr, 0}, taps.data());
      for (const T*& tap : taps) tap += channel;
      const bool own = t < block.first + block.count;
      cpu::conv_row_gradient(conv, taps.data(), dout_[start(block.sequence) + t] + channel,
                             sums + (t - block.first) * kBlockChannels,
                             own ? weight_gradient : nullptr);
    }
  }

  /// The gradients of the children's sums at position t of the block's sequence, which is behind
  /// its last token.
  void sum_of_children(
      const Block& block, int64_t t, int64_t channel, const cpu::ConvTaps& conv, float* sum) const {
    std::vector<const T*> taps(static_cast<size_t>(width_));
    std::vector<float> one(static_cast<size_t>(conv.channels));
    std::fill_n(sum, conv.channels, 0.0F);
    const int64_t position = t - sequences_.length(block.sequence);
    for (const int64_t child : children_[static_cast<size_t>(block.sequence)]) {
      if (position >= sequences_.length(child)) continue;
      rows_.set(child, position, {nullptr, 0}, taps.data());
      for (const T*& tap : taps) tap += channel;
      cpu::conv_row_gradient(conv, taps.data(), dout_[start(child) + position] + channel,
                             one.data(), nullptr);
      for (int64_t c = 0; c < conv.channels; ++c) sum[c] += one[static_cast<size_t>(c)];
    }
  }

  void input_gradients(const Block& block,
                       int64_t end,
                       int64_t channel,
                       const cpu::ConvTaps& conv,
                       const float* sums) const {
    std::vector<const float*> taken(static_cast<size_t>(width_));
    for (int64_t t = block.first; t < block.first + block.count; ++t) {
      for (int64_t j = 0; j < width_; ++j) {
        // The token whose tap j is t.
        const int64_t reader = t + width_ - 1 - j;
        taken[static_cast<size_t>(j)] =
            reader < end ? sums + (reader - block.first) * kBlockChannels : nullptr;
      }
      cpu::conv_input_gradient(conv, taken.data(), dx_[start(block.sequence) + t] + channel);
    }
  }

  const float* weight_;
  int64_t width_, channels_;
  const PackedSequences& sequences_;
  std::vector<std::vector<int64_t>> children_;
  TapRows<T> rows_;
  Rows<T> dout_, dx_;
};

/// [units, W, C] -> [W, C], added in order of units.
at::Tensor sum_in_order(const at::Tensor& parts) {
  const at::Tensor total = at::zeros_like(parts.select(0, 0));
  const float* from = parts.const_data_ptr<float>();
  float* to = total.mutable_data_ptr<float>();
  const int64_t size = total.numel();
  parallel_for(0, size, thread_grain(1), [&](int64_t begin, int64_t end) {
    for (int64_t unit = 0; unit < parts.size(0); ++unit)
      for (int64_t i = begin; i < end; ++i) to[i] += from[unit * size + i];
  });
  return total;
}

template <class T>
std::vector<at::Tensor> run_backward(const at::Tensor& x,
                                     const at::Tensor& weight,
                                     const PackedSequences& sequences,
                                     const at::Tensor& out_gradient) {
  const at::Tensor weight_WC = weight_by_tap(weight),
                   x_gradient = at::empty(x.sizes(), x.options());
  const at::Tensor dout = with_whole_rows(out_gradient);
  const BlockBackward<T> backward(x, weight_WC, sequences, dout, x_gradient);
  const auto blocks = blocks_of(sequences);
  const at::Tensor parts = at::zeros(
      {static_cast<int64_t>(blocks.size()), weight_WC.size(0), weight_WC.size(1)}, at::kFloat);
  float* part = parts.mutable_data_ptr<float>();
  const int64_t grain = thread_grain(kBlockTokens * x.size(1));
  parallel_for(0, parts.size(0), grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      backward.run(blocks[static_cast<size_t>(i)], part + i * weight_WC.numel());
  });
  const at::Tensor weight_gradient = sum_in_order(parts).t().unsqueeze(1);
  return {x_gradient, weight_gradient.to(weight.scalar_type()).contiguous()};
}

void check_conv(const char* op,
                const at::Tensor& x,
                const at::Tensor& weight,
                const PackedSequences& sequences) {
  if (x.dim() != 2 || x.size(0) != sequences.tokens() || weight.dim() != 3 ||
      weight.size(0) != x.size(1) || weight.size(1) != 1 || weight.size(2) < 1)
    fail<ShapeError>("bad-shape", op, "expected x [{}, C] and weight [C, 1, W], got [{}] and [{}]",
                     sequences.tokens(), fmt::join(x.sizes(), ", "),
                     fmt::join(weight.sizes(), ", "));
  check_dtype(x.scalar_type(), op);
  check_dtype(weight.scalar_type(), op);
}

void check_pool(const at::Tensor& x,
                const at::Tensor& weight,
                const PackedSequences& sequences,
                const at::Tensor& pool,
                std::span<const int64_t> slots) {
  const char* op = "causal_conv_cached";
  if (pool.dim() != 3 || pool.size(1) != weight.size(2) - 1 || pool.size(2) != x.size(1) ||
      pool.scalar_type() != x.scalar_type() || !pool.is_contiguous())
    fail<ShapeError>("bad-shape", op,
                     "pool: expected contiguous [N, {}, {}] in x's dtype, got [{}]",
                     weight.size(2) - 1, x.size(1), fmt::join(pool.sizes(), ", "));
  if (sequences.has_parents())
    fail<ShapeError>("bad-shape", op, "expected sequences without parents");
  const std::set<int64_t> distinct(slots.begin(), slots.end());
  if (static_cast<int64_t>(slots.size()) != sequences.count() || distinct.size() != slots.size() ||
      (!slots.empty() && (*distinct.begin() < 0 || *distinct.rbegin() >= pool.size(0))))
    fail<ShapeError>("bad-slot", op, "slots: expected {} different rows of a pool of {}, got [{}]",
                     sequences.count(), pool.size(0), fmt::join(slots, ", "));
}

/// Moves the last W-1 = `kept` inputs of sequence b into its history.
template <class T>
void update_history(const Rows<T>& rows,
                    const PackedSequences& sequences,
                    int64_t b,
                    int64_t kept,
                    int64_t channels,
                    const Rows<T>& history) {
  const int64_t length = sequences.length(b);
  // Upwards, so that a row is read before it is overwritten.
  for (int64_t r = 0; r < kept; ++r) {
    const int64_t position = length - kept + r;
    const T* from =
        position < 0 ? history[position + kept] : rows[sequences.first_token(b) + position];
    std::memcpy(history[r], from, static_cast<size_t>(channels) * sizeof(T));
  }
}

}  // namespace

at::Tensor causal_conv(const at::Tensor& x,
                       const at::Tensor& weight,
                       const PackedSequences& sequences) {
  const OpTimer timer("causal_conv");
  check_conv("causal_conv", x, weight, sequences);
  const bool trains = wants_gradient({x, weight});
  const at::NoGradGuard no_grad;
  const at::Tensor rows = with_whole_rows(x), out = at::empty(x.sizes(), x.options());
  for_dtype(x.scalar_type(), "causal_conv", [&](auto element) {
    using T = decltype(element);
    run_forward<T>(
        rows, weight_by_tap(weight), sequences, out,
        [](int64_t) {
          return Rows<T>{nullptr, 0};
        },
        [](int64_t) {});
  });
  if (!trains) return out;
  return attach_backward(
      {x, weight}, {out},
      [rows = rows.detach(), weight, sequences](const auto& gradients, const auto&) {
        if (!gradients[0].defined()) return std::vector<at::Tensor>(2);
        return for_dtype(rows.scalar_type(), "causal_conv", [&](auto element) {
          return run_backward<decltype(element)>(rows, weight, sequences, gradients[0]);
        });
      })[0];
}

at::Tensor causal_conv_cached(const at::Tensor& x,
                              const at::Tensor& weight,
                              const PackedSequences& sequences,
                              const at::Tensor& pool,
                              std::span<const int64_t> slots) {
  const OpTimer timer("causal_conv_cached");
  check_conv("causal_conv_cached", x, weight, sequences);
  check_pool(x, weight, sequences, pool, slots);
  const at::NoGradGuard no_grad;
  const at::Tensor rows = with_whole_rows(x), out = at::empty(x.sizes(), x.options());
  for_dtype(x.scalar_type(), "causal_conv", [&](auto element) {
    using T = decltype(element);
    const int64_t kept = pool.size(1), channels = pool.size(2);
    T* const histories = elements<T>(pool);
    const auto history = [&](int64_t b) {
      return Rows<T>{histories + slots[static_cast<size_t>(b)] * kept * channels, channels};
    };
    const auto update = [&](int64_t b) {
      update_history(rows_of<T>(rows), sequences, b, kept, channels, history(b));
    };
    // A history is read by all tokens of its sequence, on several threads: only where there is one
    // token it can be moved at once, while it is in the cache.
    const bool one_token = sequences.tokens() == sequences.count();
    run_forward<T>(rows, weight_by_tap(weight), sequences, out, history, [&](int64_t b) {
      if (one_token) update(b);
    });
    if (!one_token)
      for (int64_t b = 0; b < sequences.count(); ++b) update(b);
  });
  return out;
}

}  // namespace lockstep::ops
