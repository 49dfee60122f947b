// SPDX-License-Identifier: Apache-2.0
//
// How samples become micro-batches.
#include "train/packed_pass.h"

#include <algorithm>
#include <utility>

#include "tensor/aten.h"
#include "tensor/index_tensor.h"

namespace lockstep::train {
namespace {

at::Tensor float_tensor(const std::vector<float>& values) {
  const at::Tensor made = at::empty({std::ssize(values)}, at::TensorOptions().dtype(at::kFloat));
  std::copy(values.begin(), values.end(), made.mutable_data_ptr<float>());
  return made;
}

/// What RouterWatch::changed holds of tokens and layers that were not computed with given experts.
constexpr uint8_t kNoChoice = 0xFF;

at::Tensor no_choices(const model::ExpertChoices& replayed) {
  return at::full({replayed.experts.size(0), replayed.experts.size(1)}, kNoChoice,
                  at::TensorOptions().dtype(at::kByte));
}

}  // namespace

bool are_kept(std::span<const Sample> samples) {
  return std::all_of(samples.begin(), samples.end(), [&](const Sample& sample) {
    return sample.is_kept() && sample.kept == samples.front().kept;
  });
}

/// Adds what the forward has replayed; what it computes again says the same.
void Trainer::Packed::add_replayed(ReplayCounts& counts) const {
  if (!watch.changed.defined()) return;
  const int64_t tokens = watch.changed.size(0), layers = watch.changed.size(1);
  const int32_t* const ids = watch.replayed.experts.const_data_ptr<int32_t>();
  const int64_t token_ids = watch.replayed.experts.stride(0);
  for (int64_t t = 0; t < tokens; ++t) {
    if (ids[t * token_ids] < 0) continue;
    const double weight = watch.token_weights.const_data_ptr<float>()[t];
    for (int64_t m = 0; m < layers; ++m) {
      const uint8_t changed = watch.changed.const_data_ptr<uint8_t>()[t * layers + m];
      if (changed == kNoChoice) continue;
      counts.changed += weight * changed;
      counts.choices += weight;
    }
  }
}

/// Packs samples, the first of which has number `first` in its step.
Trainer::Packed Trainer::pack(std::span<const Sample> samples,
                              const DropoutKeys* dropout,
                              int64_t first) const {
  const auto number = [&](size_t i) { return first + static_cast<int64_t>(i); };
  Packed packed;
  PackedSamples all{.adapters = adapters_, .dropout = dropout};
  std::vector<float> token_weights;
  for (size_t i = 0; i < samples.size();) {
    size_t end = i + 1;
    while (options_.share_prompts && end < samples.size() &&
           have_same_prompt(samples[i], samples[end]))
      ++end;
    int64_t shared = 0, parent = ops::PackedSequences::kNoParent;
    if (end - i > 1) {
      shared = samples[i].prompt_tokens();
      parent = all.sequences.count();
      all.append_tokens(samples[i], number(i), 0, shared, ops::PackedSequences::kNoParent);
      token_weights.resize(all.ids.size(), static_cast<float>(end - i));
      // The completions of a group have the rows of its one prompt.
      for (size_t next = i + 1; next < end; ++next)
        all.note_twins(samples[next], samples[next - 1], shared, all.sequences.first_token(parent));
    }
    for (; i < end; ++i) {
      all.append(samples[i], number(i), shared, parent);
      token_weights.resize(all.ids.size(), 1);
      packed.scored.push_back(samples[i].num_scored());
    }
  }
  packed.batch.ids = index_tensor(all.ids);
  packed.rows = index_tensor(all.rows);
  packed.targets = index_tensor(all.targets);
  if (are_kept(samples)) {
    packed.kept = samples.front().kept;
    packed.kept_rows = std::move(all.kept_rows);
    packed.twin_tokens = std::move(all.twin_tokens);
    packed.twin_rows = std::move(all.twin_rows);
  }
  packed.batch.sequences = std::move(all.sequences);
  packed.batch.adapters = all.adapted.take();
  packed.scored_adapters = all.scored.take();
  if (dropout) {
    const at::Tensor keys = index_tensor(all.dropout_keys);
    for (model::AdaptedRows& own : packed.batch.adapters)
      own.dropout = {own.adapter->config().dropout, keys};
    for (model::AdaptedRows& own : packed.scored_adapters)
      own.dropout = {own.adapter->config().dropout, keys.index_select(0, packed.rows)};
  }
  packed.batch.positions = model::positions_of(packed.batch.sequences);
  packed.places = std::move(all.places);
  packed.watch.token_weights = float_tensor(token_weights);
  packed.watch.replayed = model::ExpertChoices::join(all.routed);
  if (packed.watch.replayed.defined()) {
    packed.watch.changed = no_choices(packed.watch.replayed);
    packed.use_watch();
  }
  return packed;
}

Trainer::RankPlans Trainer::plan_of_ranks(std::span<const Sample> samples) const {
  std::vector<SampleLength> lengths;
  for (size_t i = 0; i < samples.size(); ++i) {
    const bool shares = options_.share_prompts && i && have_same_prompt(samples[i - 1], samples[i]);
    lengths.push_back({samples[i].needed_tokens(), shares ? samples[i].prompt_tokens() : 0});
  }
  const auto plan = plan_micro_batches(lengths, options_.max_tokens_per_micro_batch);
  RankPlans of_ranks;
  for (int64_t rank = 0; rank < ranks().size(); ++rank)
    of_ranks.push_back(micro_batches_of_rank(plan, rank, ranks().size()));
  return of_ranks;
}

/// By rank, where the waves of its micro-batches end: as many on all ranks, at least one, and the
/// last ones at the same time.
std::vector<std::vector<size_t>> Trainer::wave_ends(const RankPlans& plans) const {
  std::vector<std::vector<size_t>> ends;
  size_t most = 1;
  for (const std::vector<MicroBatch>& cuts : plans) {
    ends.push_back(plan_waves(cuts, wave_costs()).ends);
    most = std::max(most, ends.back().size());
  }
  for (std::vector<size_t>& of_rank : ends)
    of_rank.insert(of_rank.begin(), most - of_rank.size(), 0);
  return ends;
}

int64_t Sample::num_scored() const {
  return std::count_if(mask.begin(), mask.end(), [](uint8_t m) { return m != 0; });
}

int64_t Sample::needed_tokens() const {
  const auto last = std::find_if(mask.rbegin(), mask.rend(), [](uint8_t m) { return m != 0; });
  return last == mask.rend() ? std::ssize(ids) : mask.rend() - last - 1;
}

int64_t Sample::prompt_tokens() const {
  return std::find_if(mask.begin(), mask.end(), [](uint8_t m) { return m != 0; }) - mask.begin();
}

}  // namespace lockstep::train
