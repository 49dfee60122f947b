// SPDX-License-Identifier: Apache-2.0
#include "train/trainer.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/check.h"
#include "ops/token_logprob.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "train/gradient_tree.h"

namespace lockstep::train {

/// A micro-batch on the way through the model.
struct Trainer::Packed {
  model::ForwardBatch batch;
  at::Tensor rows;              ///< [S] rows of the hidden states whose next token is scored.
  at::Tensor targets;           ///< [S] those tokens.
  std::vector<int64_t> scored;  ///< Scored tokens of each sample.
};

namespace {

std::vector<float> copy_range(const at::Tensor& values, int64_t first, int64_t count) {
  if (!values.defined()) return {};
  const float* data = values.const_data_ptr<float>() + first;
  return {data, data + count};
}

/// Whether both samples begin with the same prompt and have scored tokens behind it.
bool have_same_prompt(const Sample& a, const Sample& b) {
  const int64_t prompt = a.prompt_tokens();
  return prompt > 0 && prompt == b.prompt_tokens() && prompt < std::ssize(a.ids) &&
         prompt < std::ssize(b.ids) &&
         std::equal(a.ids.begin(), a.ids.begin() + prompt, b.ids.begin());
}

/// Samples one behind another, packed.
struct PackedSamples {
  ops::PackedSequences sequences;
  std::vector<int64_t> ids, rows, targets;

  void append_tokens(std::span<const int64_t> tokens, int64_t parent) {
    ids.insert(ids.end(), tokens.begin(), tokens.end());
    sequences.append(std::ssize(tokens), parent);
  }
  /// A sample whose first `shared` tokens are sequence `parent`, which is there already; 0: it is whole.
  void append(const Sample& sample, int64_t shared, int64_t parent) {
    LOCKSTEP_CHECK(
        !sample.ids.empty() && sample.ids.size() == sample.mask.size() && !sample.mask[0],
        "a sample of {} ids and {} mask entries", sample.ids.size(), sample.mask.size());
    const int64_t start = sequences.tokens() - shared;
    for (int64_t t = 1; t < std::ssize(sample.ids); ++t) {
      if (!sample.mask[static_cast<size_t>(t)]) continue;
      const bool is_first = shared && t == shared;  // predicted by the parent's last token
      rows.push_back(is_first ? sequences.offsets[static_cast<size_t>(parent) + 1] - 1
                              : start + t - 1);
      targets.push_back(sample.ids[static_cast<size_t>(t)]);
    }
    append_tokens(std::span(sample.ids).subspan(static_cast<size_t>(shared)), parent);
  }
};

}  // namespace

Trainer::Packed Trainer::pack(std::span<const Sample> samples) const {
  Packed packed;
  PackedSamples all;
  for (size_t i = 0; i < samples.size();) {
    size_t end = i + 1;
    while (options_.share_prompts && end < samples.size() &&
           have_same_prompt(samples[i], samples[end]))
      ++end;
    int64_t shared = 0, parent = ops::PackedSequences::kNoParent;
    if (end - i > 1) {
      shared = samples[i].prompt_tokens();
      parent = all.sequences.count();
      all.append_tokens(std::span(samples[i].ids).first(static_cast<size_t>(shared)),
                        ops::PackedSequences::kNoParent);
    }
    for (; i < end; ++i) {
      all.append(samples[i], shared, parent);
      packed.scored.push_back(samples[i].num_scored());
    }
  }
  const auto tensor = [](const std::vector<int64_t>& values) {
    at::Tensor made =
        at::empty({static_cast<int64_t>(values.size())}, at::TensorOptions().dtype(at::kLong));
    std::copy(values.begin(), values.end(), made.mutable_data_ptr<int64_t>());
    return made;
  };
  packed.batch.ids = tensor(all.ids);
  packed.rows = tensor(all.rows);
  packed.targets = tensor(all.targets);
  packed.batch.sequences = std::move(all.sequences);
  packed.batch.positions = model::positions_of(packed.batch.sequences);
  return packed;
}

std::vector<MicroBatch> Trainer::plan(std::span<const Sample> samples) const {
  std::vector<SampleLength> lengths;
  for (size_t i = 0; i < samples.size(); ++i) {
    const bool shares = options_.share_prompts && i && have_same_prompt(samples[i - 1], samples[i]);
    lengths.push_back({std::ssize(samples[i].ids), shares ? samples[i].prompt_tokens() : 0});
  }
  return plan_micro_batches(lengths, options_.max_tokens_per_micro_batch);
}

int64_t Sample::num_scored() const {
  return std::count_if(mask.begin(), mask.end(), [](uint8_t m) { return m != 0; });
}

int64_t Sample::prompt_tokens() const {
  return std::find_if(mask.begin(), mask.end(), [](uint8_t m) { return m != 0; }) - mask.begin();
}

Trainer::Trainer(model::ModelWeights& weights, const TrainerOptions& options)
    : weights_(&weights),
      decoder_(weights),
      options_(options),
      layer_parameters_(weights.layers().size()) {
  const auto& parameters = weights.parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    weights.parameters()[i].value.set_requires_grad(true);
    const std::string& id = parameters[i].id;
    if (id.starts_with("layers."))
      layer_parameters_[static_cast<size_t>(std::stoll(id.substr(7)))].push_back(i);
    else if (id == "embedding")
      embedding_ = i;
    else if (id == "final_norm")
      final_norm_ = i;
    else if (id == "head")
      head_ = i;
  }
  if (weights.config().tie_word_embeddings) head_ = embedding_;
}

std::vector<at::Tensor> Trainer::values(const std::vector<size_t>& indices) const {
  std::vector<at::Tensor> tensors;
  for (const size_t index : indices) tensors.push_back(weights_->parameters()[index].value);
  return tensors;
}

std::vector<SampleScores> Trainer::score(std::span<const Sample> samples,
                                         const ScoreOptions& options) const {
  at::NoGradGuard no_grad;
  std::vector<SampleScores> scores;
  for (const MicroBatch& cut : plan(samples)) {
    Packed packed = pack(
        samples.subspan(static_cast<size_t>(cut.first), static_cast<size_t>(cut.last - cut.first)));
    packed.batch.chunked_delta = options.chunked_delta;
    const at::Tensor hidden = decoder_.forward(packed.batch).index_select(0, packed.rows);
    const auto found = ops::token_logprobs(hidden, weights_->head(), packed.targets,
                                           options.temperature, options.with_entropy);
    int64_t first = 0;
    for (const int64_t count : packed.scored) {
      scores.push_back(
          {copy_range(found.logprobs, first, count), copy_range(found.entropy, first, count)});
      first += count;
    }
  }
  return scores;
}

/// Where the walk over the layers begins and ends.
struct Trainer::Ends {
  at::Tensor embedded;       ///< [T, D], with its graph.
  at::Tensor last;           ///< [T, D] what the final norm read, a leaf.
  at::Tensor logprobs;       ///< [S], with its graph.
  at::Tensor grad_logprobs;  ///< [S]
};

/// What the backward pass of one layer needs: its input as a leaf and, unless it is recomputed, its output.
struct Trainer::Tape {
  at::Tensor input, output;
};

void Trainer::micro_batch(std::span<const Sample> samples,
                          int64_t first,
                          const ScoreOptions& options,
                          const SampleLoss& loss,
                          GradientTree& tree) {
  const Packed packed = pack(samples);
  const auto shared = decoder_.prepare(packed.batch);
  const auto leaf = [](const at::Tensor& value) { return value.detach().set_requires_grad(true); };

  const at::Tensor embedded = decoder_.embed(packed.batch.ids);
  at::Tensor hidden = embedded.detach();
  std::vector<Tape> tapes;
  for (int64_t i = 0; i < decoder_.num_layers(); ++i) {
    Tape tape{leaf(hidden), {}};
    if (options_.gradient_checkpointing) {
      at::NoGradGuard no_grad;
      hidden = decoder_.layer(i, tape.input, packed.batch, shared);
    } else {
      tape.output = decoder_.layer(i, tape.input, packed.batch, shared);
      hidden = tape.output.detach();
    }
    tapes.push_back(std::move(tape));
  }

  const at::Tensor last = leaf(hidden);
  const at::Tensor scored = decoder_.finish(last).index_select(0, packed.rows);
  const auto found = ops::token_logprobs(scored, weights_->head(), packed.targets,
                                         options.temperature, options.with_entropy);
  at::Tensor grad_logprobs = at::zeros_like(found.logprobs.detach());
  int64_t row = 0;
  for (size_t i = 0; i < samples.size(); ++i) {
    const int64_t count = packed.scored[i];
    const SampleScores scores{copy_range(found.logprobs.detach(), row, count),
                              copy_range(found.entropy, row, count)};
    loss(first + static_cast<int64_t>(i), scores,
         {grad_logprobs.mutable_data_ptr<float>() + row, static_cast<size_t>(count)});
    row += count;
  }
  if (!row) return;  // nothing is scored: nothing to learn from

  backward(packed, {embedded, last, found.logprobs, grad_logprobs}, std::move(tapes), tree);
}

void Trainer::backward(const Packed& packed,
                       const Ends& ends,
                       std::vector<Tape> tapes,
                       GradientTree& tree) const {
  const auto shared = decoder_.prepare(packed.batch);
  // From here on every unit's gradients are final as soon as they are computed: what a sharded run would send.
  auto head = lockstep::gradients(
      {ends.logprobs},
      {ends.last, weights_->parameters()[final_norm_].value, weights_->parameters()[head_].value},
      {ends.grad_logprobs});
  at::Tensor grad_hidden = std::move(head[0]);
  tree.add(final_norm_, std::move(head[1]));
  tree.add(head_, std::move(head[2]));
  for (int64_t i = decoder_.num_layers() - 1; i >= 0; --i) {
    Tape tape = std::move(tapes[static_cast<size_t>(i)]);
    if (!tape.output.defined()) tape.output = decoder_.layer(i, tape.input, packed.batch, shared);
    const auto& indices = layer_parameters_[static_cast<size_t>(i)];
    std::vector<at::Tensor> inputs = values(indices);
    inputs.push_back(tape.input);
    auto grads = lockstep::gradients({tape.output}, inputs, {grad_hidden});
    grad_hidden = std::move(grads.back());
    for (size_t j = 0; j < indices.size(); ++j)
      if (grads[j].defined()) tree.add(indices[j], std::move(grads[j]));
  }
  auto embedding = lockstep::gradients({ends.embedded}, {weights_->parameters()[embedding_].value},
                                       {grad_hidden});
  tree.add(embedding_, std::move(embedding[0]));
}

std::vector<at::Tensor> Trainer::gradients(std::span<const Sample> samples,
                                           const ScoreOptions& options,
                                           const SampleLoss& loss) {
  GradientTree tree(weights_->parameters().size());
  int64_t slot = 0;
  for (const MicroBatch& cut : plan(samples)) {
    for (; slot < cut.slot; ++slot) tree.finish_slot();
    micro_batch(
        samples.subspan(static_cast<size_t>(cut.first), static_cast<size_t>(cut.last - cut.first)),
        cut.first, options, loss, tree);
  }
  for (; slot < kNumSlots; ++slot) tree.finish_slot();
  return tree.take();
}

}  // namespace lockstep::train
