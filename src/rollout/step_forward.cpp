// SPDX-License-Identifier: Apache-2.0
#include "rollout/step_forward.h"

#include <algorithm>
#include <numeric>

#include "tensor/aten.h"
#include "tensor/index_tensor.h"

namespace lockstep::rollout {
namespace {

/// How many tokens make a part that is worth a thread of its own: with fewer, reading all weights
/// costs more than the thread computes. Weights that fit into a cache are read faster.
int64_t least_part_tokens(const model::ModelWeights& weights) {
  return weights.packed_bytes() > (int64_t{64} << 20) ? 100 : 32;
}

/// Cuts items of these lengths, in their order, into `count` parts of about equal sums, and returns
/// the end of each part. Makes one part of all if parts would be smaller than `least`, or uneven by
/// more than a quarter.
std::vector<size_t> split_evenly(const std::vector<int64_t>& lengths,
                                 int64_t count,
                                 int64_t least) {
  const int64_t total = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  std::vector<size_t> ends;
  int64_t sum = 0, begun = 0, largest = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    sum += lengths[i];
    if (sum * count < total * (std::ssize(ends) + 1)) continue;
    ends.push_back(i + 1);
    largest = std::max(largest, sum - begun);
    begun = sum;
  }
  const bool is_even = std::ssize(ends) == count && largest * count * 4 <= total * 5;
  if (total < count * least || !is_even) return {lengths.size()};
  return ends;
}

}  // namespace

void StepPart::append(size_t index, const StepItem& item) {
  const auto count = std::ssize(item.tokens);
  const int64_t begin = std::ssize(ids_);
  for (int64_t i = 0; i < count; ++i) {
    ids_.push_back(item.tokens[static_cast<size_t>(i)]);
    positions_.push_back(item.first + i);
  }
  cached_.paged.sequences.append(count);
  cached_.paged.context_lengths.push_back(static_cast<int32_t>(item.first + count));
  cached_.slots.push_back(item.slot);
  last_rows_.push_back(begin + count - 1);
  tables_.push_back(item.pages);
  adapters_.append(item.adapter, count);
  items_.push_back(index);
  if (item.draws) {
    drawn_rows_.push_back(std::ssize(items_) - 1);
    drawing_.push_back(index);
    drawn_adapters_.append(item.adapter, 1);
  }
  scores_ |= item.scores;
  records_ = std::max(records_, item.experts);
  if (item.kept >= count) return;
  const int64_t token = begin + item.kept, kept = count - item.kept;
  if (!kept_.empty() && kept_.back().token + kept_.back().count == token &&
      kept_.back().row + kept_.back().count == item.kept_row)
    kept_.back().count += kept;
  else
    kept_.push_back({token, kept, item.kept_row});
}

void StepPart::compute(const model::Decoder& decoder,
                       const ops::VocabularyHead& head,
                       bool exact,
                       model::LayerInputs* keep) {
  ops::PagedBatch& paged = cached_.paged;
  for (const auto* table : tables_)
    paged.max_blocks = std::max(paged.max_blocks, std::ssize(*table));
  paged.block_table.assign(tables_.size() * static_cast<size_t>(paged.max_blocks), 0);
  for (size_t b = 0; b < tables_.size(); ++b)
    std::copy(tables_[b]->begin(), tables_[b]->end(),
              paged.block_table.begin() + static_cast<int64_t>(b) * paged.max_blocks);
  model::ForwardBatch batch{.ids = index_tensor(ids_),
                            .positions = index_tensor(positions_),
                            .sequences = paged.sequences,
                            .cached = &cached_,
                            .chunked_delta = !exact,
                            .adapters = adapters_.take()};
  if (records_ != RecordExperts::kNothing) {
    experts_ = model::ExpertChoices::room(decoder.config(), std::ssize(ids_),
                                          records_ == RecordExperts::kIdsAndWeights);
    batch.router = std::make_shared<model::RouterWatch>(model::RouterWatch{.recorded = experts_});
  }
  std::function<void(int64_t, const at::Tensor&)> read;
  if (keep)
    read = [&](int64_t layer, const at::Tensor& hidden) {
      for (const KeptRun& run : kept_)
        keep->write(layer, run.row, hidden.narrow(0, run.token, run.count));
    };
  const at::Tensor hidden = decoder.forward(batch, read);
  if (scores_) hidden_ = hidden;
  last_hidden_ = hidden.index_select(0, index_tensor(last_rows_));
  if (drawn_rows_.empty()) return;
  const bool all_draw = drawn_rows_.size() == items_.size();
  logits_ = ops::vocabulary_logits(
      all_draw ? last_hidden_ : last_hidden_.index_select(0, index_tensor(drawn_rows_)),
      model::adapted_head(head, drawn_adapters_.take()));
}

at::Tensor StepPart::last_hidden(size_t place) const {
  return last_hidden_.select(0, static_cast<int64_t>(place));
}

at::Tensor StepPart::hidden(size_t place) const {
  const auto& sequences = cached_.paged.sequences;
  return hidden_.narrow(0, sequences.first_token(static_cast<int64_t>(place)),
                        sequences.length(static_cast<int64_t>(place)));
}

model::ExpertChoices StepPart::experts(size_t place) const {
  const auto& sequences = cached_.paged.sequences;
  return experts_.narrow(sequences.first_token(static_cast<int64_t>(place)),
                         sequences.length(static_cast<int64_t>(place)));
}

std::vector<StepPart> make_parts(std::span<const StepItem> items,
                                 cache::CacheTensors& cache,
                                 const model::ModelWeights& weights) {
  std::vector<int64_t> lengths;
  for (const StepItem& item : items) lengths.push_back(std::ssize(item.tokens));
  std::vector<StepPart> parts;
  size_t next = 0;
  // The calls of ranks that share out experts come one after another.
  const int64_t most_parts = weights.expert_ranks() ? 1 : at::get_num_threads();
  for (const size_t end : split_evenly(lengths, most_parts, least_part_tokens(weights))) {
    StepPart& part = parts.emplace_back(cache);
    for (; next < end; ++next) part.append(next, items[next]);
  }
  return parts;
}

}  // namespace lockstep::rollout
