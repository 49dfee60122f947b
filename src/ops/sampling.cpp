// SPDX-License-Identifier: Apache-2.0
//
// Weights are e = exp((l - max) / temperature): probabilities up to a common factor. Without top-k
// and top-p the row is scanned in place; with them a short list of candidates is made first.
#include "ops/sampling.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include "base/check.h"
#include "base/options.h"  // Range
#include "ops/cpu/sampling.h"

namespace lockstep::ops {
namespace {

using Row = std::span<const float>;

/// Calls visit(first, part of the row) for runs of at most kMaxWeightRun, until it returns true.
template <class Visit>
void for_each_run(Row logits, Visit&& visit) {
  for (size_t first = 0; first < logits.size(); first += cpu::kMaxWeightRun)
    if (visit(first,
              logits.subspan(first, std::min<size_t>(cpu::kMaxWeightRun, logits.size() - first))))
      return;
}

double total_weight(Row logits, const cpu::WeightRule& rule) {
  double total = 0;
  for_each_run(logits, [&](size_t, Row run) {
    total += cpu::sum_of_weights(run.data(), std::ssize(run), rule);
    return false;
  });
  return total;
}

/// The first position at which the sum of `weights`, begun at `before`, exceeds `goal`; the last
/// one of positive weight where rounding keeps the sum from getting there. Never one of weight 0.
size_t invert(std::span<const float> weights, double before, double goal) {
  size_t last = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] <= 0) continue;
    last = i;
    before += weights[i];
    if (before > goal) break;
  }
  return last;
}

/// A token whose share is that of its weight in `total`.
DrawnToken drawn(int64_t id, Row logits, const cpu::WeightRule& rule, double total) {
  const double x = (double{logits[static_cast<size_t>(id)]} - rule.max) * rule.inverse_temperature;
  return {id, x - std::log(total)};
}

/// Draws from the whole row, which is scanned twice and never stored.
DrawnToken draw_from_row(Row logits, const cpu::WeightRule& rule, double uniform) {
  const double total = total_weight(logits, rule), goal = uniform * total;
  double before = 0;
  size_t crossing = 0;
  double before_crossing = 0;
  for_each_run(logits, [&](size_t first, Row run) {
    const double sum = cpu::sum_of_weights(run.data(), std::ssize(run), rule);
    if (sum > 0) {
      crossing = first;
      before_crossing = before;
    }
    before += sum;
    return before > goal;
  });
  const size_t count = std::min<size_t>(cpu::kMaxWeightRun, logits.size() - crossing);
  float weights[cpu::kMaxWeightRun];
  cpu::weights(logits.data() + crossing, static_cast<int64_t>(count), rule, weights);
  const size_t id = crossing + invert({weights, count}, before_crossing, goal);
  return drawn(static_cast<int64_t>(id), logits, rule, total);
}

/// Tokens that may be drawn, with their weights.
struct Candidate {
  int32_t id;
  float weight;
};

/// Ids of all logits >= threshold, in order.
std::vector<int32_t> ids_at_least(Row logits, float threshold) {
  std::vector<int32_t> ids;
  size_t used = 0;
  for_each_run(logits, [&](size_t first, Row run) {
    ids.resize(used + run.size() + cpu::kIndexSlack);
    used += static_cast<size_t>(cpu::indices_at_least(
        run.data(), std::ssize(run), threshold, static_cast<int64_t>(first), ids.data() + used));
    return false;
  });
  ids.resize(used);
  return ids;
}

/// The k-th largest logit. At least k logits reach the k-th largest of the maxima of short runs, so
/// only those are looked at one by one.
float kth_largest(Row logits, size_t k) {
  constexpr size_t kRun = 256;
  std::vector<float> values;
  for (size_t first = 0; first < logits.size(); first += kRun) {
    const size_t count = std::min(kRun, logits.size() - first);
    values.push_back(cpu::largest(logits.data() + first, static_cast<int64_t>(count)));
  }
  float bound = -std::numeric_limits<float>::infinity();
  const auto select = [&] {
    const auto kth = values.begin() + static_cast<std::ptrdiff_t>(k - 1);
    std::nth_element(values.begin(), kth, values.end(), std::greater<float>());
    return *kth;
  };
  if (values.size() >= k) bound = select();
  values.clear();
  for (const int32_t id : ids_at_least(logits, bound))
    values.push_back(logits[static_cast<size_t>(id)]);
  return select();
}

/// Weights of the tokens whose logit is at least `threshold`, in order of ids.
std::vector<Candidate> candidates_at_least(Row logits,
                                           float threshold,
                                           const cpu::WeightRule& rule) {
  const std::vector<int32_t> ids = ids_at_least(logits, threshold);
  std::vector<float> values(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) values[i] = logits[static_cast<size_t>(ids[i])];
  std::vector<float> weights(ids.size());
  cpu::weights(values.data(), std::ssize(values), rule, weights.data());
  std::vector<Candidate> candidates(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) candidates[i] = {ids[i], weights[i]};
  return candidates;
}

double sum_of(const std::vector<Candidate>& candidates) {
  double sum = 0;
  for (const Candidate& candidate : candidates) sum += candidate.weight;
  return sum;
}

/// Tokens enough for a weight of `goal`: all above a threshold that is lowered until they suffice.
/// Rows are peaked, so that they are few.
std::vector<Candidate> heaviest(Row logits, double goal, const cpu::WeightRule& rule) {
  for (const double weight : {1e-2, 1e-4, 1e-7}) {
    const double distance = std::log(weight) / rule.inverse_temperature;
    auto candidates = candidates_at_least(logits, static_cast<float>(rule.max + distance), rule);
    if (sum_of(candidates) >= goal) return candidates;
  }
  return candidates_at_least(logits, -std::numeric_limits<float>::infinity(), rule);
}

bool comes_before(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
}

/// Keeps the fewest tokens, by descending weight (ties: lower id first), whose weights add up to
/// `goal`. Halves the range in which the last of them lies, so that nothing is sorted and the order
/// of ids stays.
void keep_top_p(std::vector<Candidate>& candidates, double goal) {
  std::vector<Candidate> order = candidates;
  auto first = order.begin(), last = order.end();
  while (last - first > 1) {
    const auto middle = first + (last - first) / 2;
    std::nth_element(first, middle, last, comes_before);
    double sum = 0;
    for (auto candidate = first; candidate != middle; ++candidate) sum += candidate->weight;
    if (sum >= goal) {
      last = middle;
    } else {
      goal -= sum;
      first = middle;
    }
  }
  const Candidate border = *first;
  std::erase_if(candidates, [&](const Candidate& c) { return comes_before(border, c); });
}

bool narrows_top_k(Row logits, const SamplingParameters& parameters) {
  return parameters.top_k > 0 && parameters.top_k < std::ssize(logits);
}

/// Draws under top-k or top-p (or both).
DrawnToken draw_from_candidates(Row logits,
                                const SamplingParameters& parameters,
                                const cpu::WeightRule& rule,
                                double uniform) {
  const bool has_top_k = narrows_top_k(logits, parameters);
  std::vector<Candidate> candidates;
  // Tokens that tie with the k-th stay, as in transformers.
  if (has_top_k)
    candidates = candidates_at_least(
        logits, kth_largest(logits, static_cast<size_t>(parameters.top_k)), rule);
  if (parameters.top_p < 1) {
    const double total = has_top_k ? sum_of(candidates) : total_weight(logits, rule);
    const double goal = parameters.top_p * total;
    if (!has_top_k) candidates = heaviest(logits, goal, rule);
    keep_top_p(candidates, goal);
  }
  // The largest weight is 1, so min-p compares with the weights themselves.
  const auto floor = static_cast<float>(parameters.min_p);
  std::vector<float> weights;
  for (const Candidate& candidate : candidates)
    weights.push_back(candidate.weight < floor ? 0 : candidate.weight);
  double total = 0;
  for (const float weight : weights) total += weight;
  const int64_t id = candidates[invert(weights, /*before=*/0, uniform * total)].id;
  return drawn(id, logits, rule, total);
}

/// The logits after biases and penalties, in the order of vLLM's sampler. The repetition penalty
/// changes each id that was seen once, however often it was seen.
std::vector<float> changed_logits(Row logits,
                                  const SamplingParameters& parameters,
                                  const TokenHistory& history,
                                  std::span<const int64_t> banned) {
  std::vector<float> row(logits.begin(), logits.end());
  const auto at = [&](int64_t id) -> float& {
    LOCKSTEP_CHECK(id >= 0 && id < std::ssize(row), "id {} of {} logits", id, row.size());
    return row[static_cast<size_t>(id)];
  };
  for (const auto& [id, bias] : parameters.logit_bias) at(id) += bias;
  if (parameters.repetition_penalty != 1) {
    const auto factor = static_cast<float>(parameters.repetition_penalty);
    const std::set<int64_t> seen(history.tokens.begin(), history.tokens.end());
    for (const int64_t id : seen) at(id) = at(id) > 0 ? at(id) / factor : at(id) * factor;
  }
  if (parameters.frequency_penalty != 0 || parameters.presence_penalty != 0) {
    std::map<int64_t, int64_t> counts;
    for (const int64_t id : history.tokens.subspan(static_cast<size_t>(history.num_prompt)))
      ++counts[id];
    for (const auto& [id, count] : counts)
      at(id) -= static_cast<float>(parameters.frequency_penalty * static_cast<double>(count) +
                                   parameters.presence_penalty);
  }
  // Finite, so that differences to the largest logit are numbers.
  for (const int64_t id : banned)
    if (id >= 0 && id < std::ssize(row)) at(id) = -std::numeric_limits<float>::max() / 4;
  return row;
}

}  // namespace

DrawnToken draw_token(std::span<const float> logits,
                      const SamplingParameters& parameters,
                      const TokenHistory& history,
                      double uniform,
                      std::span<const int64_t> banned) {
  LOCKSTEP_CHECK(uniform >= 0 && uniform < 1, "uniform is {}", uniform);
  constexpr Range kFactor = Range::logit_factor();
  LOCKSTEP_CHECK(parameters.temperature == 0 || kFactor.contains(parameters.temperature),
                 "temperature is {}", parameters.temperature);
  LOCKSTEP_CHECK(kFactor.contains(parameters.repetition_penalty), "repetition_penalty is {}",
                 parameters.repetition_penalty);
  std::vector<float> changed;
  if (parameters.changes_logits() || !banned.empty()) {
    changed = changed_logits(logits, parameters, history, banned);
    logits = changed;
  }
  const float max = cpu::largest(logits.data(), std::ssize(logits));
  if (!std::isfinite(max))
    fail<InternalError>("non-finite-logits", "sample_token",
                        "expected finite logits, got non-finite logits (largest of {}: {})",
                        logits.size(), max);
  if (parameters.temperature == 0)
    return {std::find(logits.begin(), logits.end(), max) - logits.begin(), 0};
  const auto inverse = static_cast<float>(1 / parameters.temperature);
  cpu::WeightRule rule{.max = max, .inverse_temperature = inverse, .floor = 0};
  if (narrows_top_k(logits, parameters) || parameters.top_p < 1)
    return draw_from_candidates(logits, parameters, rule, uniform);
  rule.floor = static_cast<float>(parameters.min_p);
  return draw_from_row(logits, rule, uniform);
}

}  // namespace lockstep::ops
