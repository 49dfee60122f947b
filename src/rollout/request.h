// A request to the sampler, and what it tells about it while it runs. It needs no libtorch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "ops/sampling.h"  // SamplingParameters
#include "rollout/routed_experts.h"

namespace lockstep::model {
class Adapter;
}

namespace lockstep::rollout {

/// How the completions of a request are drawn and when they end.
struct RequestSettings {
  ops::SamplingParameters sampling;
  int64_t max_new_tokens = 512;
  /// Before this many tokens, ids of `stop_ids` are not drawn and stop strings do not end it.
  int64_t min_new_tokens = 0;
  std::vector<int64_t> stop_ids;
  std::vector<std::string> stop_strings;
  /// Whether sampling goes on behind stop ids.
  bool ignore_eos = false;
  uint64_t seed = 42;
  /// For how many of the most likely tokens each token's alternatives are told; 0: none.
  int64_t top_logprobs = 0;
  /// The same for each token of the prompt; 0 tells its own log-probability only. Unset: nothing
  /// is told about the prompt.
  std::optional<int64_t> prompt_logprobs;
  /// Whether the experts are told that each token had. Then what was computed for other requests
  /// is not used, since nobody knows it any more of that.
  RecordExperts record_experts = RecordExperts::kNothing;
};

/// A prompt and how many completions it gets.
struct Request {
  /// Names it, for abort and for the log. Not empty, and no other request in work has it.
  std::string id;
  /// At least one id, all of them in the vocabulary.
  std::vector<int64_t> prompt;
  int64_t num_samples = 1;
  RequestSettings settings;
  /// Keys of the random numbers besides seed, prompt and number of the sample: which of several
  /// equal prompts of one draw this is, and which draw it is. A trainer sets them; 0 for others.
  uint64_t occurrence = 0, draw = 0;
  /// What is added to the model for it, to its end; null: nothing. It is bound to the shapes of the
  /// weights that sample, and stays so when they are swapped.
  std::shared_ptr<const model::Adapter> adapter;
  /// The weight version that it must be sampled under; unset: any.
  std::optional<std::string> weight_version;
  /// When it ends with what it has.
  std::optional<std::chrono::steady_clock::time_point> deadline;
};

/// A token and how likely it was. `logprob` is of the distribution after temperature (1 for greedy
/// sampling) and before top-k, top-p and min-p.
struct TokenLogprob {
  int64_t id = 0;
  float logprob = 0;
  /// 1 for the most likely token; 0 where no alternatives were asked for.
  int64_t rank = 0;
};

/// A token with its most likely alternatives, the likeliest first.
struct ScoredToken {
  TokenLogprob token;
  std::vector<TokenLogprob> top;
  /// Its log-probability in the distribution that it was drawn from, where top-k and the like make
  /// that another one (vLLM's "processed" log-probabilities).
  std::optional<float> processed;
};

enum class SampleEnd : uint8_t {
  /// A stop id or a stop string.
  kStop,
  /// max_new_tokens.
  kLength,
  /// abort_request(), a pause that aborts, or a deadline.
  kAborted,
};

/// The prompt has been computed, or was found in the cache.
struct PromptDone {
  /// How many of its tokens were found in the cache.
  int64_t cached_tokens = 0;
  /// With RequestSettings::prompt_logprobs: one for each token, the first of them with rank 0 and
  /// logprob 0, since nothing stands before it.
  std::vector<ScoredToken> logprobs;
  /// With RequestSettings::record_experts: those of all of its tokens.
  RoutedExperts experts;
};

/// The next token of a sample.
struct SampleToken {
  int64_t sample = 0;
  ScoredToken token;
  /// It is a stop id that ends the sample, so that it is no part of the text.
  bool is_stop_token = false;
  /// The weight version that it was sampled under; its address is valid while the handler runs.
  const std::string* weight_version = nullptr;
};

/// A sample has ended; its last token, if it has one, was told before.
struct SampleDone {
  int64_t sample = 0;
  SampleEnd end = SampleEnd::kLength;
  /// The last token is a stop id.
  bool has_stop_token = false;
  /// The stop string that ended it, if one did; it is part of the tokens.
  std::optional<std::string> stop_string;
  /// Where what the layers read is kept (Sampler::keep): its rows for prompt and completion,
  /// without the last token, which no layer read.
  std::vector<int64_t> kept_rows;
  /// With RequestSettings::record_experts: those of the completion's tokens but the last, which no
  /// layer read.
  RoutedExperts experts;
};

/// The request has ended. Nothing follows.
struct RequestDone {
  enum class Status : uint8_t {
    /// All samples ended with kStop or kLength.
    kCompleted,
    kAborted,
    kDeadline,
    /// Something failed in it. Other requests go on.
    kFailed,
  };
  Status status = Status::kCompleted;
  /// For kFailed: what a server answers (RequestError), and why.
  int http_status = 500;
  std::string code, error;
};

using RequestEvent = std::variant<PromptDone, SampleToken, SampleDone, RequestDone>;

/// Takes the events of one request, in order. Called by the thread that samples, which waits for
/// it: it must only hand them on, and not throw.
using RequestHandler = std::function<void(RequestEvent&& event)>;

}  // namespace lockstep::rollout
