// A token's hidden state depends on its own sequence alone: not on packing, pages, splits or
// threads.
// SPDX-License-Identifier: Apache-2.0
#include "model/decoder.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "tests/model/tiny_model.h"
#include "tests/support/expect_close.h"

namespace lockstep::model {
namespace {

using testing::id_tensor;
using testing::kFamilies;
using testing::random_ids;
using testing::same_bits;
using testing::tiny_weights;

using Sequences = std::vector<std::vector<int64_t>>;

Sequences sequences_of(const std::vector<size_t>& lengths, uint64_t seed) {
  std::mt19937_64 random(testing::test_seed(seed));
  Sequences sequences;
  for (const size_t length : lengths) sequences.push_back(random_ids(length, random));
  return sequences;
}

/// The hidden states of uncached sequences, packed.
at::Tensor forward(const ModelWeights& weights, const Sequences& sequences) {
  at::NoGradGuard no_grad;
  ForwardBatch batch;
  std::vector<int64_t> ids;
  for (const auto& sequence : sequences) {
    ids.insert(ids.end(), sequence.begin(), sequence.end());
    batch.sequences.append(static_cast<int64_t>(sequence.size()));
  }
  batch.ids = id_tensor(ids);
  batch.positions = positions_of(batch.sequences);
  return Decoder(weights).forward(batch);
}

/// Calls `body` for each family and dtype.
template <class Body>
void for_each_model(Body&& body) {
  for (const Family family : kFamilies) {
    for (const WeightDtype dtype : {WeightDtype::kFloat32, WeightDtype::kBFloat16}) {
      SCOPED_TRACE(std::string(enum_name(family)) +
                   (dtype == WeightDtype::kFloat32 ? " float32" : " bfloat16"));
      body(*tiny_weights(family, dtype));
    }
  }
}

TEST(Decoder, PackedEqualsAlone) {
  const Sequences sequences = sequences_of({1, 7, 64, 65, 30, 2}, 1);
  for_each_model([&](const ModelWeights& weights) {
    const at::Tensor packed = forward(weights, sequences);
    int64_t row = 0;
    for (const auto& sequence : sequences) {
      const auto length = static_cast<int64_t>(sequence.size());
      EXPECT_TRUE(same_bits(packed.narrow(0, row, length), forward(weights, {sequence}))) << length;
      row += length;
    }
  });
}

TEST(Decoder, LaterTokensDoNotMatter) {
  Sequences sequences = sequences_of({50}, 2);
  for_each_model([&](const ModelWeights& weights) {
    const at::Tensor whole = forward(weights, sequences);
    for (const size_t length : {1, 2, 33}) {
      const Sequences cut{
          {sequences[0].begin(), sequences[0].begin() + static_cast<int64_t>(length)}};
      EXPECT_TRUE(
          same_bits(whole.narrow(0, 0, static_cast<int64_t>(length)), forward(weights, cut)))
          << length;
    }
  });
}

TEST(Decoder, ThreadCountDoesNotMatter) {
  const Sequences sequences = sequences_of({70, 3, 40}, 3);
  const int threads = at::get_num_threads();
  for_each_model([&](const ModelWeights& weights) {
    at::set_num_threads(1);
    const at::Tensor one = forward(weights, sequences);
    at::set_num_threads(3);
    EXPECT_TRUE(same_bits(one, forward(weights, sequences)));
  });
  at::set_num_threads(threads);
}

TEST(Decoder, EveryTokenOfTheSequenceMatters) {
  Sequences sequences = sequences_of({40}, 4);
  for_each_model([&](const ModelWeights& weights) {
    const at::Tensor before = forward(weights, sequences);
    Sequences changed = sequences;
    changed[0][0] = (changed[0][0] + 1) % testing::kTinyVocabulary;
    EXPECT_FALSE(same_bits(before.narrow(0, 39, 1), forward(weights, changed).narrow(0, 39, 1)));
  });
}

cache::CacheSpec cache_spec(const ModelWeights& weights, int64_t num_pages, int64_t num_slots) {
  const ModelConfig& config = weights.config();
  cache::CacheSpec spec;
  for (const auto mixer : config.mixers) spec.layers.push_back({mixer == MixerKind::kAttention});
  spec.dtype = weights.dtype();
  spec.page_tokens = 16;
  spec.num_pages = num_pages;
  spec.num_slots = num_slots;
  spec.num_key_value_heads = config.num_key_value_heads;
  spec.head_dim = config.head_dim;
  spec.conv_taps = config.linear_conv_kernel_dim;
  spec.conv_channels = config.conv_dim();
  spec.value_heads = config.linear_num_value_heads;
  spec.key_head_dim = config.linear_key_head_dim;
  spec.value_head_dim = config.linear_value_head_dim;
  return spec;
}

/// Feeds sequences through a paged cache, each by a few tokens a call.
class CachedForward {
 public:
  CachedForward(const ModelWeights& weights, const Sequences& sequences, uint64_t seed)
      : weights_(weights),
        sequences_(sequences),
        random_(seed),
        done_(sequences.size(), 0),
        tensors_(cache_spec(weights,
                            kPagesEach * static_cast<int64_t>(sequences.size()),
                            static_cast<int64_t>(sequences.size()))) {
    pages_.resize(static_cast<size_t>(kPagesEach) * sequences.size());
    slots_.resize(sequences.size());
    std::iota(pages_.begin(), pages_.end(), 1);
    std::iota(slots_.begin(), slots_.end(), 1);
    std::shuffle(pages_.begin(), pages_.end(), random_);
    std::shuffle(slots_.begin(), slots_.end(), random_);
    // What memory happens to hold: a sequence reads its slot once it is cleared, and of its pages
    // the rows that it wrote.
    for (auto& layer : tensors_.layers)
      for (at::Tensor* tensor : {&layer.keys, &layer.values, &layer.conv, &layer.state})
        if (tensor->defined()) tensor->fill_(std::numeric_limits<double>::quiet_NaN());
    for (const int64_t slot : slots_) tensors_.clear_slot(slot);
  }

  /// Advances sequence b by `steps[b]` tokens and checks the new rows against the uncached forward.
  void advance(const std::vector<int64_t>& steps, const std::vector<at::Tensor>& expected) {
    at::NoGradGuard no_grad;
    CachedBatch cached{.tensors = &tensors_};
    cached.paged.max_blocks = kPagesEach;
    std::vector<int64_t> ids, positions;
    for (size_t b = 0; b < steps.size(); ++b) {
      if (!steps[b]) continue;
      for (int64_t i = 0; i < steps[b]; ++i) {
        ids.push_back(sequences_[b][static_cast<size_t>(done_[b] + i)]);
        positions.push_back(done_[b] + i);
      }
      cached.paged.sequences.append(steps[b]);
      cached.paged.context_lengths.push_back(static_cast<int32_t>(done_[b] + steps[b]));
      cached.slots.push_back(slots_[b]);
      for (int64_t i = 0; i < kPagesEach; ++i)
        cached.paged.block_table.push_back(
            pages_[b * static_cast<size_t>(kPagesEach) + static_cast<size_t>(i)]);
    }
    if (ids.empty()) return;
    const ForwardBatch batch{id_tensor(ids), id_tensor(positions), cached.paged.sequences, &cached};
    const at::Tensor hidden = Decoder(weights_).forward(batch);
    int64_t row = 0;
    for (size_t b = 0; b < steps.size(); ++b) {
      if (!steps[b]) continue;
      EXPECT_TRUE(
          same_bits(hidden.narrow(0, row, steps[b]), expected[b].narrow(0, done_[b], steps[b])))
          << "sequence " << b << ", tokens " << done_[b] << " and " << steps[b] - 1 << " more";
      row += steps[b];
      done_[b] += steps[b];
    }
  }

  int64_t left(size_t b) const { return static_cast<int64_t>(sequences_[b].size()) - done_[b]; }
  static constexpr int64_t kPagesEach = 6;

 private:
  const ModelWeights& weights_;
  const Sequences& sequences_;
  std::mt19937_64 random_;
  std::vector<int64_t> done_;
  cache::CacheTensors tensors_;
  std::vector<int32_t> pages_;
  std::vector<int64_t> slots_;
};

TEST(Decoder, PrefillThenDecodeEqualsFullForward) {
  const Sequences sequences = sequences_of({22, 70, 9, 40}, 5);
  const std::vector<int64_t> prompts{17, 64, 1, 33};
  for_each_model([&](const ModelWeights& weights) {
    std::vector<at::Tensor> expected;
    for (const auto& sequence : sequences) expected.push_back(forward(weights, {sequence}));
    CachedForward cached(weights, sequences, 6);
    // The second half of the prompts come while the first half already decode.
    cached.advance({prompts[0], prompts[1], 0, 0}, expected);
    cached.advance({1, 1, prompts[2], prompts[3]}, expected);
    for (int step = 0; step < 8; ++step) {
      std::vector<int64_t> steps;
      for (size_t b = 0; b < sequences.size(); ++b)
        steps.push_back(std::min<int64_t>(1, cached.left(b)));
      cached.advance(steps, expected);
    }
  });
}

TEST(Decoder, AnySplitIntoCallsEqualsFullForward) {
  const Sequences sequences = sequences_of({45, 80, 33}, 7);
  for_each_model([&](const ModelWeights& weights) {
    std::vector<at::Tensor> expected;
    for (const auto& sequence : sequences) expected.push_back(forward(weights, {sequence}));
    std::mt19937_64 random(testing::test_seed(8));
    CachedForward cached(weights, sequences, 9);
    while (cached.left(0) + cached.left(1) + cached.left(2)) {
      std::vector<int64_t> steps;
      for (size_t b = 0; b < sequences.size(); ++b)
        steps.push_back(std::min(cached.left(b), static_cast<int64_t>(random() % 20)));
      cached.advance(steps, expected);
    }
  });
}

}  // namespace
}  // namespace lockstep::model
