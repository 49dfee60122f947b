// The sampler for a batch of prompts: all are known, and their completions come back together.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/on_resume.h"
#include "base/options.h"
#include "cache/cache_tensors.h"  // CacheSpec
#include "model/adapter.h"
#include "model/layer_inputs.h"
#include "model/weights.h"
#include "ops/sampling.h"
#include "rollout/completion.h"
#include "rollout/scheduler.h"
#include "text/tokenizer.h"

namespace lockstep::rollout {

/// One prompt and how many completions it gets.
struct GenerationRequest {
  /// At least one id.
  std::vector<int64_t> prompt;
  int64_t num_samples = 1;
  /// Keys of the random numbers besides the prompt: which of several equal prompts of one draw this
  /// is, and which draw it is.
  uint64_t occurrence = 0, draw = 0;
  /// Unset: the settings'.
  std::optional<int64_t> max_new_tokens = {};
};

/// How completions are drawn and when they end.
struct GenerationSettings {
  ops::SamplingParameters sampling;
  int64_t max_new_tokens = 512;
  std::vector<int64_t> stop_ids;
  /// Strings that end a completion; they need `tokenizer`.
  std::vector<std::string> stop_strings;
  const text::Tokenizer* tokenizer = nullptr;
  /// Whether sampling goes on behind stop ids.
  bool ignore_eos = false;
  uint64_t seed = 42;
  /// With false, long prompts go through the chunked delta rule, which is equal within rounding.
  bool exact = true;
  /// If set, what the layers read is kept here, for training to reuse (with `exact` its own forward
  /// reads the same bits). It has room for all tokens of prompts and completions; completions say
  /// which rows are theirs.
  model::LayerInputs* keep = nullptr;
  /// RequestSettings::record_experts
  RecordExperts record_experts = RecordExperts::kNothing;
  /// Called with a completion after each of its tokens, for streams. Sampling waits for it.
  std::function<void(int64_t request, const Completion& so_far)> on_token;
  /// Called with each completion when it is done, after the step that ends it. It may throw to
  /// stop.
  std::function<void(size_t request, size_t sample, const Completion& completion)> on_done;
};

struct EngineOptions {
  /// How many sequences run at once at most.
  int64_t max_num_seqs = 256;
  /// The most tokens of a prompt and its completion; unset: the model's max_position_embeddings.
  std::optional<int64_t> max_model_len;
  /// Memory for keys, values and states, in GiB.
  double cache_memory = 4.0;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("max_num_seqs", max_num_seqs, "How many sequences are sampled at once at most.",
          Range::at_least(1), OnResume::kSaid);
    visit("max_model_len", max_model_len,
          "Longest prompt plus completion, in tokens; unset: the model's.", Range::at_least(2));
    visit("cache_memory", cache_memory,
          "Memory for keys, values and states of the sampler, in GiB.", Range::above(0),
          OnResume::kSaid);
  }
};

class Sampler;

/// Samples completions under the weights as they are now.
///
/// A completion is a function of weights, prompt, settings, the request's keys and its number among
/// the request's completions. It does not depend on what else is in the batch, on threads or on the
/// order of requests. Weights and adapter must outlive it. Not thread-safe.
class Engine {
 public:
  Engine(const model::ModelWeights& weights,
         const EngineOptions& options,
         const model::Adapter* adapter = nullptr);
  ~Engine();

  /// The most tokens of a prompt with its completion.
  int64_t max_model_len() const;
  /// Samples from now on under other weights of the same model, and with another adapter, or none.
  void use(const model::ModelWeights& weights, const model::Adapter* adapter);

  /// Called after each step with the tokens sampled and the completions done so far. It may throw
  /// to stop.
  using Progress = std::function<void(int64_t tokens, int64_t completions)>;

  /// Completions of each request, in order. Throws ConfigError "prompt-too-long" and
  /// "cache-too-small" before any work.
  std::vector<std::vector<Completion>> generate(std::span<const GenerationRequest> requests,
                                                const GenerationSettings& settings,
                                                const Progress& progress = {});
  /// Throws what generate would throw for a prompt of this length: ConfigError "prompt-too-long"
  /// and "cache-too-small". `where` names the prompt.
  void check_room(int64_t prompt_tokens,
                  int64_t max_new_tokens,
                  std::string_view where = "sampler") const;
  /// From now on what was computed stays for the next calls of generate, which go on from there
  /// where a prompt begins like one with its completion that came before: `groups` are the longest
  /// that come. The weights must not change, nor the settings but for lengths.
  void hold_prefixes(std::span<const GroupSpec> groups);
  /// Ends that.
  void drop_prefixes();
  /// How many tokens of prompts were looked for in what is held, and how many were there.
  std::pair<int64_t, int64_t> prefix_hits() const;
  /// Frees the caches; the next generate makes them again.
  void release_cache();
  /// How many bytes of caches generate would make for such requests, for the memory plan; with
  /// `holds_prefixes` those of hold_prefixes.
  int64_t planned_cache_bytes(std::span<const GroupSpec> groups, bool holds_prefixes = false) const;
  /// About how many bytes a step of generate takes besides the caches for such requests.
  int64_t planned_work_bytes(std::span<const GroupSpec> groups) const;
  /// How many sequences of such requests generate would run at once, as --max_num_seqs and the
  /// caches allow.
  int64_t planned_sequences(std::span<const GroupSpec> groups) const;

 private:
  struct Cache;

  int64_t cache_bytes() const;
  cache::CacheSpec plan_cache(std::span<const GroupSpec> groups) const;
  cache::CacheSpec plan_held_cache(std::span<const GroupSpec> groups) const;
  void make_cache(const cache::CacheSpec& spec);
  std::unique_ptr<Sampler> new_sampler(const GenerationSettings& settings) const;

  const model::ModelWeights* weights_ = nullptr;
  std::shared_ptr<const model::Adapter> adapter_;
  EngineOptions options_;
  std::unique_ptr<Cache> cache_;
  /// Between hold_prefixes and drop_prefixes; made by the first generate.
  bool holds_prefixes_ = false;
  std::unique_ptr<Sampler> held_;
};

}  // namespace lockstep::rollout
