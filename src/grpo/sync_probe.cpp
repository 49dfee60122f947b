// SPDX-License-Identifier: Apache-2.0
#include "grpo/sync_probe.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"

namespace lockstep::grpo {

SyncProbe::SyncProbe(const train::Trainer& trainer,
                     RolloutClient& rollout,
                     std::vector<int64_t> ids,
                     bool exact,
                     std::optional<double> bound)
    : trainer_(trainer), rollout_(rollout), is_exact_(exact), bound_(bound) {
  ids.resize(std::min(ids.size(), kMostTokens));
  sample_.mask.assign(ids.size(), 1);
  if (!ids.empty()) sample_.mask[0] = 0;
  sample_.ids = std::move(ids);
}

void SyncProbe::check(const RolloutClient::Published& published, Metrics& metrics) const {
  if (!published.is_new) return;
  metrics.add("sync/seconds", published.seconds);
  if (published.bytes) {
    metrics.add("sync/bytes", static_cast<double>(published.bytes));
    metrics.add("sync/gigabytes_per_second",
                static_cast<double>(published.bytes) / 1e9 / published.seconds);
  }
  if (published.sparsity) metrics.add("sync/sparsity", *published.sparsity);
  // The first token is not predicted.
  if (sample_.ids.size() < 2) return;
  const auto scores = trainer_.score({&sample_, 1}, {.chunked_delta = !is_exact_});
  const std::vector<float>& expected = scores[0].logprobs;
  for (const RolloutClient::ServerScores& server : rollout_.score(sample_.ids)) {
    double largest = 0;
    size_t at = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      double difference = std::abs(double(server.logprobs.at(i)) - double(expected[i]));
      if (std::isnan(difference)) difference = std::numeric_limits<double>::infinity();
      if (difference <= largest) continue;
      largest = difference;
      at = i;
    }
    metrics.add_max("sync/max_logprob_diff", largest);
    const auto bound = server.is_exact && is_exact_ ? std::optional(0.0) : bound_;
    if (bound && largest > *bound)
      fail<PeerError>("wrong-weights", server.url,
                      "expected the log-probabilities of the trainer's weights, within {:.3g}, got "
                      "{} where the trainer has {} (token {} of a probe of {}): the update did not "
                      "make the weights what they should be",
                      *bound, server.logprobs[at], expected[at], at + 1, sample_.ids.size());
  }
}

}  // namespace lockstep::grpo
