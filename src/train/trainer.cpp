// SPDX-License-Identifier: Apache-2.0
#include "train/trainer.h"

#include <algorithm>
#include <optional>

#include <fmt/format.h>

#include "base/check.h"
#include "base/heap.h"
#include "model/adapter_names.h"
#include "ops/token_logprob.h"
#include "parallel/gather.h"
#include "tensor/aten.h"
#include "tensor/autograd.h"
#include "tensor/index_tensor.h"
#include "train/expert_gradients.h"
#include "train/gradient_sums.h"
#include "train/packed_pass.h"
#include "train/rank_exchange.h"
#include "train/rank_waves.h"
#include "train/slot_tree.h"

namespace lockstep::train {

namespace {

std::vector<float> copy_range(const at::Tensor& values, int64_t first, int64_t count) {
  if (!values.defined()) return {};
  const float* data = values.const_data_ptr<float>() + first;
  return {data, data + count};
}

at::Tensor leaf(const at::Tensor& value) { return value.detach().set_requires_grad(true); }

std::span<const Sample> samples_of(std::span<const Sample> samples, const MicroBatch& cut) {
  return samples.subspan(static_cast<size_t>(cut.first), static_cast<size_t>(cut.last - cut.first));
}

/// Says which share of the micro-batches' tokens is done.
class WorkDone {
 public:
  WorkDone(const std::vector<MicroBatch>& plan, const std::function<void(double share)>& progress)
      : progress_(progress) {
    for (const MicroBatch& cut : plan) all_ += static_cast<double>(cut.tokens);
  }
  /// Adds `tokens`; part of a token's work counts as a part of a token.
  void add(double tokens) {
    done_ += tokens;
    if (progress_) progress_(std::min(1.0, done_ / all_));
  }

 private:
  const std::function<void(double share)>& progress_;
  double all_ = 0, done_ = 0;
};

}  // namespace

Trainer::Trainer(model::ModelWeights& weights,
                 const TrainerOptions& options,
                 std::vector<model::Adapter*> adapters,
                 const Shards& shards)
    : weights_(&weights),
      adapters_(std::move(adapters)),
      shards_(shards),
      parameters_(model::all_parameters(weights, adapters_)),
      decoder_(weights),
      experts_(shards.expert_parallel() > 1
                   ? std::make_shared<model::ExpertRanks>(shards.experts(), shards.ranks())
                   : nullptr),
      layers_(std::make_unique<GatheredLayers>(weights, shards, experts_)),
      options_(options),
      layer_parameters_(weights.layers().size()),
      kept_layers_(options.gradient_checkpointing ? 0 : num_layers()) {
  check_rank_count(ranks().size());
  if (experts_) experts_->set_adapters({adapters_.begin(), adapters_.end()});
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const model::Parameter& parameter = *parameters_[i];
    parameter.value.set_requires_grad(parameter.is_trained());
    if (parameter.layer != model::Parameter::kNoLayer) {
      if (parameter.is_trained())
        layer_parameters_[static_cast<size_t>(parameter.layer)].push_back(i);
      continue;
    }
    outer_parameters_.push_back(i);
    if (parameter.id == "embedding") {
      embedding_ = i;
    } else if (parameter.id == "final_norm") {
      final_norm_ = i;
    } else if (parameter.id == "head") {
      head_ = i;
    } else if (parameter.id.find(model::kEmbeddingA) != std::string::npos ||
               parameter.id.find(model::kEmbeddingB) != std::string::npos) {
      embedding_pairs_.push_back(i);
    } else {
      head_pairs_.push_back(i);
    }
  }
  if (weights.config().tie_word_embeddings) head_ = embedding_;
  if (!parameter(embedding_).is_trained() && embedding_pairs_.empty())
    while (lowest_layer_ < num_layers() &&
           layer_parameters_[static_cast<size_t>(lowest_layer_)].empty())
      ++lowest_layer_;
}

bool Trainer::has_dropout() const {
  return std::any_of(adapters_.begin(), adapters_.end(),
                     [](const model::Adapter* adapter) { return adapter->config().dropout > 0; });
}

void Trainer::keep_layers(int64_t count) {
  LOCKSTEP_CHECK(count >= 0 && count <= num_layers(), "{} of {} layers", count, num_layers());
  kept_layers_ = count;
}

/// Calls visit() with one run of this rank's micro-batches after another, and with how many any
/// rank has in it, on all ranks equally often: each gathers the layers once.
template <class Visit>
void Trainer::for_each_run(const RankPlans& plans, Visit&& visit) const {
  constexpr size_t kTogether = 4;
  const size_t most = most_of(plans);
  const std::vector<MicroBatch>& own = own_of(plans);
  for (size_t first = 0; first < most; first += kTogether) {
    const size_t begin = std::min(first, own.size()), end = std::min(first + kTogether, own.size());
    visit(std::span(own).subspan(begin, end - begin), std::min(kTogether, most - first));
  }
}

/// Whether what samples kept stands in for the forward, where they kept something. Ranks that share
/// out experts go through the layers together, so either all of them have kept everything, or none
/// reuses anything.
bool Trainer::reuses_kept(std::span<const Sample> samples,
                          const RankPlans& plans,
                          const ScoreOptions& options) const {
  if (!options.reuse_kept || !experts_) return options.reuse_kept;
  const auto& own = own_of(plans);
  const bool has_all = std::all_of(own.begin(), own.end(), [&](const MicroBatch& cut) {
    return are_kept(samples_of(samples, cut));
  });
  const auto all = parallel::gather_list(ranks(), std::vector<uint8_t>{has_all}, {"what is kept"});
  return std::count(all.begin(), all.end(), uint8_t{0}) == 0;
}

/// Hidden states [0, D].
at::Tensor Trainer::no_tokens() const {
  return at::empty({0, weights_->config().hidden_size},
                   at::TensorOptions().dtype(weights_->dtype()));
}

/// What the final norm makes of the rows that are scored, of each batch: from what was kept where
/// that is asked for and there. `count`: how many batches any rank has.
std::vector<at::Tensor> Trainer::last_hidden(const std::vector<Packed>& batches,
                                             size_t count,
                                             bool reuse_kept) const {
  const auto uses_kept = [&](const Packed& packed) { return reuse_kept && packed.kept; };
  std::vector<at::Tensor> hidden;
  std::vector<model::Decoder::Shared> shared;
  for (const Packed& packed : batches) {
    shared.push_back(decoder_.prepare(packed.batch));
    hidden.push_back(uses_kept(packed) ? at::Tensor() : decoder_.embed(packed.batch));
  }
  for (int64_t layer = 0; layer < num_layers(); ++layer) {
    layers_->gather(layer, layer + 1 < num_layers() ? std::optional(layer + 1) : std::nullopt);
    for (size_t i = 0; i < batches.size(); ++i)
      if (!uses_kept(batches[i]))
        hidden[i] = decoder_.layer(layer, hidden[i], batches[i].batch, shared[i]);
    if (experts_ && !reuse_kept)
      for (size_t i = batches.size(); i < count; ++i) decoder_.layer(layer, no_tokens(), {}, {});
    layers_->give_back(layer);
  }
  for (size_t i = 0; i < batches.size(); ++i)
    hidden[i] = uses_kept(batches[i]) ? decoder_.finish(batches[i].kept->gather(
                                            num_layers(), batches[i].kept_rows_of_scored()))
                                      : decoder_.finish(hidden[i]).index_select(0, batches[i].rows);
  return hidden;
}

std::vector<SampleScores> Trainer::score(std::span<const Sample> samples,
                                         const ScoreOptions& options) const {
  at::NoGradGuard no_grad;
  std::vector<SampleScores> scores;
  const RankPlans plans = plan_of_ranks(samples);
  WorkDone work(own_of(plans), options.progress);
  const bool reuse_kept = !options.record_experts && reuses_kept(samples, plans, options);
  for_each_run(plans, [&](std::span<const MicroBatch> run, size_t most) {
    std::vector<Packed> batches;
    for (const MicroBatch& cut : run) {
      Packed& packed = batches.emplace_back(pack(samples_of(samples, cut)));
      packed.batch.chunked_delta = options.chunked_delta;
      if (!options.record_experts) continue;
      packed.kept.reset();
      packed.watch.recorded = model::ExpertChoices::room(
          weights_->config(), packed.batch.ids.numel(), options.record_weights);
      packed.use_watch();
    }
    const std::vector<at::Tensor> last = last_hidden(batches, most, reuse_kept);
    for (size_t i = 0; i < batches.size(); ++i) {
      const Packed& packed = batches[i];
      const auto found = ops::token_logprobs(
          last[i], model::adapted_head(weights_->head(), packed.scored_adapters), packed.targets,
          options.temperature, options.with_entropy);
      int64_t first = 0;
      size_t sample = 0;
      for (const int64_t count : packed.scored) {
        scores.push_back(
            {copy_range(found.logprobs, first, count), copy_range(found.entropy, first, count)});
        if (options.record_experts) scores.back().routed = packed.recorded(sample++);
        first += count;
      }
      work.add(static_cast<double>(run[i].tokens));
    }
  });
  model::ExpertChoices shape;
  if (options.record_experts)
    shape = model::ExpertChoices::room(weights_->config(), 0, options.record_weights);
  return gather_scores(ranks(), samples, std::move(scores), options.with_entropy, shape);
}

model::RouterCounts Trainer::router_counts(std::span<const Sample> samples,
                                           const ScoreOptions& options) const {
  at::NoGradGuard no_grad;
  const int64_t experts = weights_->config().num_experts;
  const RankPlans plans = plan_of_ranks(samples);
  std::vector<model::RouterCounts> own(own_of(plans).size());
  auto next = own.begin();
  for_each_run(plans, [&](std::span<const MicroBatch> run, size_t most) {
    std::vector<Packed> batches;
    for (const MicroBatch& cut : run) {
      const at::Tensor zeros = at::zeros({experts}, at::TensorOptions().dtype(at::kDouble));
      Packed& packed = batches.emplace_back(pack(samples_of(samples, cut)));
      packed.batch.chunked_delta = options.chunked_delta;
      *next = {zeros, zeros.clone()};
      packed.watch.counts = &*next++;
      packed.use_watch();
    }
    last_hidden(batches, most, /*reuse_kept=*/false);
  });
  return gather_counts(ranks(), own, experts);
}

/// What the micro-batches of an optimizer step share.
struct Trainer::Step {
  const ScoreOptions& options;
  const SampleLoss& loss;
  /// Unset: nothing is dropped.
  std::optional<DropoutKeys> dropout;
  /// Whether what samples kept stands in for the forward.
  bool reuses_kept = false;
  /// The sums of each parameter's gradients, over the slots of this rank.
  std::vector<SlotTree<TensorSum>> sums;
  /// The embedding's gradient that comes through the ids; a tied head's comes in addition.
  SlotTree<RowSums> embedding;
  /// Those of experts that ranks share out; null: `sums` has them.
  std::unique_ptr<ExpertGradients> of_experts = nullptr;
  /// Those of this rank's samples, in order.
  std::vector<SampleScores> scores = {};

  void add(const Pass& pass, size_t parameter, at::Tensor gradient) {
    sums[parameter].add(pass.slot, {std::move(gradient)});
    if (pass.next_slot > pass.slot) sums[parameter].finish(pass.next_slot - 1);
  }
};

/// A micro-batch before the first layer, or behind the last one if it was kept.
Trainer::Pass Trainer::begin_pass(std::span<const Sample> samples,
                                  const MicroBatch& cut,
                                  const Step& step) const {
  Pass pass;
  pass.first = cut.first;
  pass.slot = cut.slot;
  pass.packed = pack(samples_of(samples, cut), step.dropout ? &*step.dropout : nullptr, cut.first);
  if (step.options.router_slopes.defined()) {
    pass.packed.watch.slopes = step.options.router_slopes;
    pass.packed.use_watch();
  }
  pass.learns = pass.packed.rows.numel() > 0 || pass.packed.watch.slopes.defined();
  pass.shared = decoder_.prepare(pass.packed.batch);
  if (step.reuses_kept && pass.packed.kept) {
    const auto kept = [&](int64_t layer) {
      return leaf(pass.packed.kept->gather(layer, pass.packed.kept_rows));
    };
    for (int64_t i = 0; i < num_layers(); ++i) pass.tapes.push_back({kept(i), {}});
    pass.last = kept(num_layers());
    pass.expected = pass.last.detach();
    pass.is_kept = true;
  } else {
    pass.expected = decoder_.embed(pass.packed.batch).detach();
  }
  return pass;
}

/// The part of a rank that has fewer micro-batches than another, with whose experts it computes.
Trainer::Pass Trainer::idle_pass(const Step& step) const {
  Pass pass{.is_kept = step.reuses_kept};
  pass.expected = no_tokens();
  pass.last = leaf(pass.expected);
  pass.grad_hidden = pass.expected;
  if (pass.is_kept)
    for (int64_t i = 0; i < num_layers(); ++i) pass.tapes.push_back({leaf(pass.expected), {}});
  return pass;
}

at::Tensor Trainer::layer_of(int64_t index, const at::Tensor& input, const Pass& pass) const {
  if (experts_) experts_->set_learns(pass.learns);
  return decoder_.layer(index, input, pass.packed.batch, pass.shared);
}

/// Takes the micro-batches that are not kept through all layers.
void Trainer::forward(std::vector<Pass>& passes) const {
  for (int64_t i = 0; i < num_layers(); ++i) {
    layers_->gather(i, i + 1 < num_layers() ? std::optional(i + 1) : std::nullopt);
    for (Pass& pass : passes) {
      if (pass.is_kept) continue;
      Pass::Tape tape{leaf(pass.expected), {}};
      if (i < num_layers() - kept_layers_) {
        at::NoGradGuard no_grad;
        pass.expected = layer_of(i, tape.input, pass);
      } else {
        tape.output = layer_of(i, tape.input, pass);
        pass.expected = tape.output.detach();
      }
      pass.tapes.push_back(std::move(tape));
    }
    layers_->give_back(i);
  }
  for (Pass& pass : passes)
    if (!pass.is_kept) pass.last = leaf(pass.expected);
}

/// Computes log-probabilities, the loss of each sample, and its gradients down to the last hidden
/// states.
void Trainer::backward_head(Pass& pass, Step& step) const {
  const at::Tensor scored = decoder_.finish(pass.last).index_select(0, pass.packed.rows);
  const auto found = ops::token_logprobs(
      scored, model::adapted_head(weights_->head(), pass.packed.scored_adapters),
      pass.packed.targets, step.options.temperature,
      step.options.with_entropy || step.options.with_entropy_gradient);
  std::vector<at::Tensor> outputs{found.logprobs}, grads{at::zeros_like(found.logprobs.detach())};
  if (step.options.with_entropy_gradient) {
    outputs.push_back(found.entropy);
    grads.push_back(at::zeros_like(grads[0]));
  }
  int64_t row = 0;
  for (size_t i = 0; i < pass.packed.scored.size(); ++i) {
    const int64_t count = pass.packed.scored[i];
    const SampleScores& scores = step.scores.emplace_back(SampleScores{
        copy_range(found.logprobs, row, count), copy_range(found.entropy, row, count)});
    const auto part = [&](size_t output) {
      if (output >= grads.size()) return std::span<float>();
      return std::span(grads[output].mutable_data_ptr<float>() + row, static_cast<size_t>(count));
    };
    step.loss(pass.first + static_cast<int64_t>(i), scores, {part(0), part(1)});
    row += count;
  }
  // Nothing is scored, so there is nothing to learn from but by the routers.
  if (!row) {
    if (pass.learns || experts_) pass.grad_hidden = at::zeros_like(pass.last.detach());
    return;
  }
  std::vector<size_t> indices = head_pairs_;
  for (const size_t i : {final_norm_, head_})
    if (parameter(i).is_trained()) indices.push_back(i);
  learn(indices, outputs, grads, pass.last, pass, step);
  pass.last.reset();
}

/// Goes backward from `outputs` to `input` and to parameters: adds the gradients of these to the
/// step's, and makes the input's the pass's.
void Trainer::learn(const std::vector<size_t>& indices,
                    const std::vector<at::Tensor>& outputs,
                    const std::vector<at::Tensor>& grad_outputs,
                    const at::Tensor& input,
                    Pass& pass,
                    Step& step) const {
  std::vector<at::Tensor> inputs{input};
  for (const size_t i : indices) inputs.push_back(parameter(i).value);
  auto grads = lockstep::gradients(outputs, inputs, grad_outputs);
  pass.grad_hidden = std::move(grads[0]);
  if (!pass.learns) return;
  for (size_t j = 0; j < indices.size(); ++j)
    if (grads[j + 1].defined()) step.add(pass, indices[j], std::move(grads[j + 1]));
}

void Trainer::backward_layer(int64_t index, Pass& pass, Step& step) {
  if (!pass.grad_hidden.defined()) return;
  Pass::Tape tape = std::move(pass.tapes.back());
  pass.tapes.pop_back();
  if (!tape.output.defined()) {
    tape.output = layer_of(index, tape.input, pass);
    if (pass.learns) comparison_.add(index, tape.output.detach(), pass.expected, pass.is_kept);
    if (pass.learns && pass.is_kept)
      compare_twins(pass.packed, index, tape.output.detach(), comparison_);
  }
  pass.expected = tape.input.detach();
  if (index == 0 && pass.is_kept && pass.learns)
    compare_embedding(pass.packed, pass.expected, comparison_);
  learn(layer_parameters_[static_cast<size_t>(index)], {tape.output}, {pass.grad_hidden},
        tape.input, pass, step);
}

void Trainer::backward_embedding(const Pass& pass, Step& step) const {
  if (parameter(embedding_).is_trained())
    step.embedding.add(pass.slot, sum_rows(pass.packed.batch.ids, pass.grad_hidden));
  if (embedding_pairs_.empty()) return;
  const at::Tensor rows = decoder_.embed(pass.packed.batch);
  // No sample of it has an adapter of the embedding.
  if (!rows.requires_grad()) return;
  std::vector<at::Tensor> inputs;
  for (const size_t i : embedding_pairs_) inputs.push_back(parameter(i).value);
  auto grads = lockstep::gradients({rows}, inputs, {pass.grad_hidden});
  for (size_t j = 0; j < grads.size(); ++j)
    if (grads[j].defined()) step.add(pass, embedding_pairs_[j], std::move(grads[j]));
}

/// Compares what the embedding gives with `read`, which layer 0 read while sampling.
void Trainer::compare_embedding(const Packed& packed,
                                const at::Tensor& read,
                                LayerComparison& comparison) const {
  const at::NoGradGuard no_grad;
  const at::Tensor now = decoder_.embed(packed.batch);
  comparison.add(kEmbedding, now, read, /*is_sampler=*/true);
  compare_twins(packed, kEmbedding, now, comparison);
}

/// What `layer` gives the tokens that sampling computed more than once, against what each of the
/// other computations gave.
void Trainer::compare_twins(const Packed& packed,
                            int64_t layer,
                            const at::Tensor& now,
                            LayerComparison& comparison) const {
  if (packed.twin_rows.empty()) return;
  comparison.add(layer, now.index_select(0, index_tensor(packed.twin_tokens)),
                 packed.kept->gather(layer + 1, packed.twin_rows), /*is_sampler=*/true);
}

LayerComparison Trainer::compare_layers(std::span<const Sample> samples,
                                        bool with_gradients) const {
  std::optional<at::NoGradGuard> no_grad;
  if (!with_gradients) no_grad.emplace();
  LayerComparison comparison;
  layers_->gather_all();
  const RankPlans plans = plan_of_ranks(samples);
  for (const MicroBatch& cut : own_of(plans)) {
    const Packed packed = pack(samples_of(samples, cut));
    LOCKSTEP_CHECK(packed.kept, "samples {} to {} kept nothing", cut.first, cut.last);
    const model::Decoder::Shared shared = decoder_.prepare(packed.batch);
    const auto read = [&](int64_t layer) { return packed.kept->gather(layer, packed.kept_rows); };
    at::Tensor input = read(0);
    compare_embedding(packed, input, comparison);
    for (int64_t i = 0; i < num_layers(); ++i) {
      const at::Tensor next = read(i + 1),
                       now = decoder_.layer(i, input, packed.batch, shared).detach();
      comparison.add(i, now, next, /*is_sampler=*/true);
      compare_twins(packed, i, now, comparison);
      input = next;
    }
  }
  layers_->give_all_back();
  comparison.gather(ranks());
  return comparison;
}

namespace {

/// A head's gradient of at least this many bytes leaves holes in the heap that matter.
constexpr int64_t kLargeBlock = int64_t{256} << 20;

}  // namespace

/// What ranks that share out experts have in common, since they go through layers together: as many
/// layers that keep what they made, although their memory may differ.
void Trainer::agree_with_ranks(Step& step) {
  step.of_experts = std::make_unique<ExpertGradients>(*experts_, parameters_);
  const auto all = parallel::gather_list(ranks(), std::vector{kept_layers_}, {"kept layers"});
  kept_layers_ = *std::min_element(all.begin(), all.end());
}

/// This rank's micro-batches of a wave; where ranks go through layers together, as many on all.
std::vector<Trainer::Pass> Trainer::begin_passes(std::span<const Sample> samples,
                                                 const RankWave& cuts,
                                                 const Step& step) const {
  std::vector<Pass> passes;
  for (size_t i = 0; i < cuts.count(ranks().rank()); ++i) {
    const auto [cut, next_slot] = cuts.at(ranks().rank(), i);
    Pass& pass = passes.emplace_back(begin_pass(samples, *cut, step));
    pass.next_slot = next_slot;
  }
  while (experts_ && passes.size() < cuts.most()) passes.push_back(idle_pass(step));
  return passes;
}

/// Sums the gradients of parameters over all ranks, when the last of them has come.
void Trainer::finish(const std::vector<size_t>& indices,
                     Step& step,
                     std::vector<at::Tensor>& gradients) const {
  for (const size_t i : indices)
    gradients[i] = step.of_experts && parameter(i).is_expert ? step.of_experts->take(i)
                                                             : step.sums[i].take().value;
  sum_over_ranks(shards_, parameters_, indices, gradients);
}

std::vector<at::Tensor> Trainer::gradients(std::span<const Sample> samples,
                                           const ScoreOptions& options,
                                           const SampleLoss& loss) {
  comparison_ = {};
  replayed_ = {};
  const RankPlans plans = plan_of_ranks(samples);
  Step step{.options = options,
            .loss = loss,
            .dropout = {},
            .sums = std::vector<SlotTree<TensorSum>>(parameters_.size()),
            .embedding = {}};
  if (options.dropout && has_dropout()) step.dropout.emplace(*options.dropout, samples);
  step.reuses_kept = reuses_kept(samples, plans, options) && !step.dropout;
  if (experts_) agree_with_ranks(step);
  const WaveCosts costs = wave_costs();
  // A backward takes about twice as long as its forward.
  WorkDone work(own_of(plans), options.progress);
  const double layers = static_cast<double>(num_layers());
  std::vector<at::Tensor> gradients(parameters_.size());
  const auto waves = wave_ends(plans);
  const auto num_waves = waves.front().size();
  for (size_t wave = 0; wave < num_waves; ++wave) {
    const RankWave cuts(plans, waves, wave);
    std::vector<Pass> passes = begin_passes(samples, cuts, step);
    forward(passes);
    // It comes while the head computes.
    if (lowest_layer_ < num_layers()) layers_->begin(num_layers() - 1);
    for (Pass& pass : passes) {
      if (pass.is_idle()) continue;
      backward_head(pass, step);
      if (costs.head >= kLargeBlock) release_freed_memory();
      work.add(static_cast<double>(pass.packed.batch.sequences.tokens()) / 3);
    }
    for (int64_t i = num_layers() - 1; i >= lowest_layer_; --i) {
      layers_->gather(i, i > lowest_layer_ ? std::optional(i - 1) : std::nullopt);
      for (size_t k = 0; k < passes.size(); ++k) {
        if (experts_) step.of_experts->begin(cuts.slots(*experts_, k, ranks().rank()));
        backward_layer(i, passes[k], step);
        work.add(static_cast<double>(passes[k].packed.batch.sequences.tokens()) / layers * 2 / 3);
      }
      layers_->give_back(i);
      // A layer's gradients are final when its last wave is done.
      if (wave + 1 == num_waves) finish(layer_parameters_[static_cast<size_t>(i)], step, gradients);
    }
    for (const Pass& pass : passes) {
      if (pass.learns) backward_embedding(pass, step);
      pass.packed.add_replayed(replayed_);
    }
  }
  comparison_.gather(ranks());
  replayed_ = gather_counts(ranks(), replayed_);
  scores_ = gather_scores(ranks(), samples, std::move(step.scores),
                          options.with_entropy || options.with_entropy_gradient, {});
  finish(outer_parameters_, step, gradients);
  add_embedding(step, gradients[embedding_]);
  return gradients;
}

/// Adds the embedding's gradient that comes through the ids of all ranks' tokens.
void Trainer::add_embedding(Step& step, at::Tensor& gradient) const {
  const RowSums rows = sum_over_ranks(ranks(), step.embedding.take());
  if (rows.ids.empty()) return;
  const parallel::ElementRange range = shards_.range(parameter(embedding_));
  if (!gradient.defined()) gradient = empty_gradient(shards_, parameter(embedding_)).zero_();
  add_rows(rows, gradient, range.first);
}

}  // namespace lockstep::train
