// Samples the completions of many requests, a step at a time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "cache/cache_tensors.h"
#include "model/decoder.h"  // ExpertChoices
#include "model/layer_inputs.h"
#include "model/weights.h"
#include "rollout/completion.h"
#include "rollout/engine_service.h"  // EngineStats
#include "rollout/request.h"
#include "rollout/scheduler.h"
#include "text/tokenizer.h"

namespace lockstep::rollout {

class StepPart;
struct StepItem;

/// The requests in work, their sequences and what they hold of the caches.
///
/// What a request returns is a function of weights, prompt, settings and the request's keys. It
/// does not depend on what else runs, on threads, on how steps are cut, on preemption or on what
/// the prefix cache held; without `exact` that holds within rounding. Not thread-safe: one thread
/// owns it.
class Sampler {
 public:
  struct Setup {
    /// They outlive it.
    const model::ModelWeights* weights = nullptr;
    cache::CacheTensors* cache = nullptr;
    /// For stop strings; may be null if no request has any.
    const text::Tokenizer* tokenizer = nullptr;
    /// If set, what the layers read is kept here, for training to reuse (with `exact` its own
    /// forward reads the same bits). It has room for all tokens of prompts and completions.
    model::LayerInputs* keep = nullptr;
    SchedulerLimits limits;
    /// With false, prompts go through the chunked delta rule, which is equal within rounding.
    bool exact = true;
    std::string weight_version;
  };
  explicit Sampler(Setup setup);
  ~Sampler();

  /// Takes a request in. It fits (the caller checked), and no other one has its id.
  void submit(Request request, RequestHandler handler);
  /// Ends a request with what it has; false if there is none of that id.
  bool abort_request(std::string_view id);
  /// Ends all of them; returns how many there were.
  int64_t abort_all();
  /// Ends those whose deadline has passed.
  void end_late(std::chrono::steady_clock::time_point now);
  /// The earliest deadline.
  std::optional<std::chrono::steady_clock::time_point> next_deadline() const;
  /// Ends all that run, as failed.
  void fail_running(const std::exception& error);

  struct StepCounts {
    /// Tokens of prompts (or of what is computed again), and of sequences that decode.
    int64_t prefilled = 0, decoded = 0;
  };
  /// Computes up to `prefill_tokens` of prompts and one token of every running sequence. With
  /// `begun_only` no request starts. Throws what a forward throws; then the running requests have
  /// to be ended by fail_running().
  StepCounts step(int64_t prefill_tokens, bool begun_only = false);
  bool has_work() const { return scheduler_.has_work(); }
  /// Whether a request has begun that has not ended.
  bool has_begun() const;
  /// How many requests have no token yet.
  int64_t waiting_for_first_token() const;

  /// Samples with other weights of the same model from now on. Running requests go on from the
  /// caches that they have, unless recompute_all() follows. Those that demand another version fail.
  void use_weights(const model::ModelWeights& weights, std::string version);
  void set_weight_version(std::string version);
  const std::string& weight_version() const { return *version_; }
  /// Computes what running requests have in the caches anew.
  void recompute_all();
  void forget_prefixes() { scheduler_.forget_prefixes(); }
  void add_stats(EngineStats& stats) const;

 private:
  struct Active;
  struct Sample;
  struct Drawn;

  Active& request_of(int64_t sequence);
  uint64_t space_of(const Request& request);
  void begin(const Start& start);
  void tell_prompt(Active& active);
  void draw_whole(const std::vector<Start>& starts);
  StepItem item_of(const Work& work);
  void finish_work(const Work& work, const StepPart& part, size_t place);
  void score_prompt(Active& active, const Work& work, const at::Tensor& hidden);
  void record_experts(const Work& work, const model::ExpertChoices& experts);
  ScoredToken scored(std::span<const float> logits,
                     int64_t token,
                     double temperature,
                     int64_t top) const;
  Drawn draw(int64_t sequence, std::span<const float> logits) const;
  std::vector<Drawn> draw(const std::vector<int64_t>& sequences, const at::Tensor& logits) const;
  void accept(int64_t sequence, Drawn drawn);
  void end_sample(int64_t sequence, SampleDone done);
  void end_request(Active& active, RequestDone done);

  Setup setup_;
  Scheduler scheduler_;
  /// [slots + 1, D]: behind which hidden state the next token is drawn, for prompts in the cache.
  at::Tensor prompt_ends_;
  std::map<std::string, std::unique_ptr<Active>, std::less<>> requests_;
  /// By handle of the scheduler.
  std::vector<Active*> by_group_;
  std::vector<std::unique_ptr<Sample>> samples_;
  std::unique_ptr<std::string> version_;
  uint64_t space_ = 0;
  /// How many requests have had a space of prefixes of their own.
  uint64_t own_spaces_ = 0;
  int64_t prompt_tokens_ = 0, generation_tokens_ = 0;
};

}  // namespace lockstep::rollout
