// SPDX-License-Identifier: Apache-2.0
#include "train/packed_samples.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/check.h"
#include "tensor/aten.h"

namespace lockstep::train {

namespace {

bool have_same_experts(const Sample& a, const Sample& b, int64_t tokens) {
  if (a.routed.defined() != b.routed.defined()) return false;
  if (!a.routed.defined()) return true;
  const auto equal = [&](const at::Tensor& x, const at::Tensor& y) {
    return x.defined() == y.defined() &&
           (!x.defined() || x.narrow(0, 0, tokens).equal(y.narrow(0, 0, tokens)));
  };
  return equal(a.routed.experts, b.routed.experts) && equal(a.routed.weights, b.routed.weights);
}

}  // namespace

bool have_same_prompt(const Sample& a, const Sample& b) {
  const int64_t prompt = a.prompt_tokens();
  return a.adapter == b.adapter && prompt > 0 && prompt == b.prompt_tokens() &&
         prompt < std::ssize(a.ids) && prompt < std::ssize(b.ids) &&
         std::equal(a.ids.begin(), a.ids.begin() + prompt, b.ids.begin()) &&
         have_same_experts(a, b, prompt);
}

DropoutKeys::DropoutKeys(const DropoutStep& step, std::span<const Sample> samples)
    : samples_(samples) {
  for (size_t i = 0; i < samples.size(); ++i) {
    const auto number = static_cast<int64_t>(i);
    streams_.emplace_back(fmt::format("dropout {}", samples[i].adapter), step.seed,
                          static_cast<uint64_t>(step.step), i);
    leaders_.push_back(i && have_same_prompt(samples[i - 1], samples[i]) ? leaders_.back()
                                                                         : number);
  }
}

int64_t DropoutKeys::key(int64_t sample, int64_t position) const {
  const auto own = static_cast<size_t>(sample);
  const bool is_prompt = position < samples_[own].prompt_tokens();
  const auto stream = is_prompt ? static_cast<size_t>(leaders_[own]) : own;
  return static_cast<int64_t>(streams_[stream].bits(static_cast<uint64_t>(position)));
}

void PackedSamples::append_tokens(
    const Sample& sample, int64_t number, int64_t first, int64_t last, int64_t parent) {
  // Empty for a completion of one token, which the last token of its prompt predicts.
  if (first == last) return;
  ids.insert(ids.end(), sample.ids.begin() + first, sample.ids.begin() + last);
  if (sample.is_kept())
    kept_rows.insert(kept_rows.end(), sample.kept_rows.begin() + first,
                     sample.kept_rows.begin() + last);
  sequences.append(last - first, parent);
  routed.emplace_back(
      sample.routed.defined() ? sample.routed.narrow(first, last - first) : model::ExpertChoices(),
      last - first);
  if (dropout)
    for (int64_t t = first; t < last; ++t) dropout_keys.push_back(dropout->key(number, t));
  if (!adapters.empty()) adapted.append(adapter_of(sample), last - first);
}

const model::Adapter* PackedSamples::adapter_of(const Sample& sample) const {
  return sample.adapter < 0 ? nullptr : adapters[static_cast<size_t>(sample.adapter)];
}

void PackedSamples::note_twins(const Sample& sample,
                               const Sample& other,
                               int64_t shared,
                               int64_t start) {
  if (!sample.is_kept() || !other.is_kept() ||
      std::equal(sample.kept_rows.begin(), sample.kept_rows.begin() + shared,
                 other.kept_rows.begin()))
    return;
  for (int64_t t = 0; t < shared; ++t) twin_tokens.push_back(start + t);
  twin_rows.insert(twin_rows.end(), sample.kept_rows.begin(), sample.kept_rows.begin() + shared);
}

void PackedSamples::append(const Sample& sample, int64_t number, int64_t shared, int64_t parent) {
  LOCKSTEP_CHECK(!sample.ids.empty() && sample.ids.size() == sample.mask.size() && !sample.mask[0],
                 "a sample of {} ids and {} mask entries", sample.ids.size(), sample.mask.size());
  LOCKSTEP_CHECK(
      !sample.routed.defined() || sample.routed.experts.size(0) >= sample.needed_tokens(),
      "experts of {} of {} tokens", sample.routed.experts.size(0), sample.needed_tokens());
  const int64_t start = sequences.tokens() - shared;
  places.push_back({shared ? sequences.first_token(parent) : 0, shared, sequences.tokens(),
                    sample.needed_tokens() - shared});
  for (int64_t t = 1; t < std::ssize(sample.ids); ++t) {
    if (!sample.mask[static_cast<size_t>(t)]) continue;
    // The parent's last token predicts it.
    const bool is_first = shared && t == shared;
    rows.push_back(is_first ? sequences.first_token(parent + 1) - 1 : start + t - 1);
    targets.push_back(sample.ids[static_cast<size_t>(t)]);
  }
  if (!adapters.empty()) scored.append(adapter_of(sample), sample.num_scored());
  append_tokens(sample, number, shared, sample.needed_tokens(), parent);
}

}  // namespace lockstep::train
