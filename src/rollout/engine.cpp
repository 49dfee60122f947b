// SPDX-License-Identifier: Apache-2.0
#include "rollout/engine.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "cache/cache_tensors.h"
#include "model/decoder.h"  // layer_token_bytes
#include "rollout/cache_plan.h"
#include "rollout/sampler.h"
#include "tensor/aten.h"

namespace lockstep::rollout {
namespace {

constexpr int64_t kAllTokens = std::numeric_limits<int64_t>::max();

template <class... Handlers>
struct Overloaded : Handlers... {
  using Handlers::operator()...;
};
template <class... Handlers>
Overloaded(Handlers...) -> Overloaded<Handlers...>;

/// The completions of a batch while they come.
class Batch {
 public:
  Batch(std::span<const GenerationRequest> requests, const GenerationSettings& settings)
      : settings_(settings), results_(requests.size()) {
    for (size_t i = 0; i < requests.size(); ++i)
      results_[i].resize(static_cast<size_t>(requests[i].num_samples));
  }

  Request request_of(const GenerationRequest& from, size_t index) const {
    Request request;
    request.id = std::to_string(index);
    request.prompt = from.prompt;
    request.num_samples = from.num_samples;
    request.settings.sampling = settings_.sampling;
    request.settings.max_new_tokens = from.max_new_tokens.value_or(settings_.max_new_tokens);
    request.settings.stop_ids = settings_.stop_ids;
    request.settings.stop_strings = settings_.stop_strings;
    request.settings.ignore_eos = settings_.ignore_eos;
    request.settings.seed = settings_.seed;
    request.settings.record_experts = settings_.record_experts;
    request.occurrence = from.occurrence;
    request.draw = from.draw;
    return request;
  }

  RequestHandler handler_of(size_t index) {
    return [this, index](RequestEvent&& event) {
      std::visit(Overloaded{[&](PromptDone&& prompt) { share(index, std::move(prompt)); },
                            [&](SampleToken&& token) { add(index, token); },
                            [&](SampleDone&& done) { end(index, std::move(done)); },
                            [&](RequestDone&& done) {
                              if (done.status == RequestDone::Status::kFailed && failed_.empty())
                                failed_ = done.code, error_ = done.error;
                            }},
                 std::move(event));
    };
  }

  /// Tells of the tokens of a step, and throws what went wrong in it.
  void finish_step(const Engine::Progress& progress) {
    if (!failed_.empty()) throw InternalError(failed_, "", error_);
    for (const auto& [request, completion] : new_tokens_) settings_.on_token(request, *completion);
    new_tokens_.clear();
    for (const auto& [request, sample] : ended_)
      settings_.on_done(request, sample, results_[request][sample]);
    ended_.clear();
    if (progress) progress(tokens_, completions_);
  }
  std::vector<std::vector<Completion>> take() { return std::move(results_); }

 private:
  void share(size_t index, PromptDone&& prompt) {
    if (prompt.experts.is_empty()) return;
    const auto experts = std::make_shared<const RoutedExperts>(std::move(prompt.experts));
    for (Completion& completion : results_[index]) completion.prompt_experts = experts;
  }

  void add(size_t index, const SampleToken& token) {
    Completion& completion = results_[index][static_cast<size_t>(token.sample)];
    completion.token_ids.push_back(token.token.token.id);
    completion.logprobs.push_back(token.token.token.logprob);
    if (token.token.processed) completion.processed_logprobs.push_back(*token.token.processed);
    ++tokens_;
    if (settings_.on_token) new_tokens_.emplace_back(static_cast<int64_t>(index), &completion);
  }

  void end(size_t index, SampleDone&& done) {
    Completion& completion = results_[index][static_cast<size_t>(done.sample)];
    completion.finish_reason =
        done.end == SampleEnd::kStop ? FinishReason::kStop : FinishReason::kLength;
    completion.has_stop_token = done.has_stop_token;
    completion.stop_string = std::move(done.stop_string);
    completion.kept_rows = std::move(done.kept_rows);
    completion.experts = std::move(done.experts);
    ++completions_;
    if (settings_.on_done) ended_.emplace_back(index, static_cast<size_t>(done.sample));
  }

  const GenerationSettings& settings_;
  std::vector<std::vector<Completion>> results_;
  std::vector<std::pair<int64_t, const Completion*>> new_tokens_;
  /// Request and number of the completions that the step has ended.
  std::vector<std::pair<size_t, size_t>> ended_;
  int64_t tokens_ = 0, completions_ = 0;
  std::string failed_, error_;
};

}  // namespace

struct Engine::Cache {
  cache::CacheSpec spec;
  cache::CacheTensors tensors;
  explicit Cache(const cache::CacheSpec& with) : spec(with), tensors(with) {}
};

Engine::Engine(const model::ModelWeights& weights,
               const EngineOptions& options,
               const model::Adapter* adapter)
    : options_(options) {
  use(weights, adapter);
}
Engine::~Engine() = default;

void Engine::use(const model::ModelWeights& weights, const model::Adapter* adapter) {
  if (weights_ != &weights || adapter_.get() != adapter) held_.reset();
  weights_ = &weights;
  // Not owned.
  adapter_ = std::shared_ptr<const model::Adapter>(std::shared_ptr<void>(), adapter);
}

int64_t Engine::max_model_len() const {
  return options_.max_model_len.value_or(weights_->config().max_position_embeddings);
}

int64_t Engine::cache_bytes() const {
  return static_cast<int64_t>(options_.cache_memory * (1 << 30));
}

void Engine::release_cache() {
  held_.reset();
  cache_.reset();
}

cache::CacheSpec Engine::plan_cache(std::span<const GroupSpec> groups) const {
  return plan_batch_cache(*weights_, groups, options_.max_num_seqs, cache_bytes());
}

int64_t Engine::planned_cache_bytes(std::span<const GroupSpec> groups, bool holds_prefixes) const {
  const cache::CacheSpec spec = holds_prefixes ? plan_held_cache(groups) : plan_cache(groups);
  return spec.num_pages * spec.page_bytes() + spec.num_slots * spec.slot_bytes();
}

int64_t Engine::planned_work_bytes(std::span<const GroupSpec> groups) const {
  const model::ModelConfig& config = weights_->config();
  const int64_t sequences = planned_sequences(groups);
  int64_t prompts = 0, prefilled = 0;
  for (const GroupSpec& group : groups) {
    if (prompts && prefilled + group.prompt_tokens > SchedulerLimits().max_step_tokens) break;
    ++prompts;
    prefilled += group.prompt_tokens;
  }
  const int64_t logits = (sequences + prompts) * config.vocab_size * 4;
  return logits + std::max(sequences, prefilled) *
                      model::layer_token_bytes(
                          config, static_cast<int64_t>(c10::elementSize(weights_->dtype())));
}

int64_t Engine::planned_sequences(std::span<const GroupSpec> groups) const {
  Scheduler scheduler(limits_of(plan_cache(groups), *weights_, options_.max_num_seqs));
  for (size_t i = 0; i < groups.size() && std::cmp_less(i, options_.max_num_seqs); ++i)
    scheduler.add({.prompt = std::vector<int64_t>(static_cast<size_t>(groups[i].prompt_tokens),
                                                  static_cast<int64_t>(i)),
                   .max_new_tokens = groups[i].max_new_tokens,
                   .num_samples = groups[i].num_samples});
  // What starts before the first sequences have grown.
  for (int64_t before = -1; before != scheduler.num_running();) {
    before = scheduler.num_running();
    for (const Start& start : scheduler.start())
      if (start.is_whole) scheduler.append(start.sequence, 0);
    for (const Work& work : scheduler.plan(kAllTokens)) {
      if (scheduler.sequence(work.sequence).computed >=
          scheduler.sequence(work.sequence).prompt_tokens)
        continue;
      scheduler.computed(work);
      if (work.draws) scheduler.append(work.sequence, 0);
    }
  }
  return scheduler.num_running();
}

void Engine::check_room(int64_t prompt_tokens,
                        int64_t max_new_tokens,
                        std::string_view where) const {
  const int64_t longest_allowed = max_model_len();
  if (prompt_tokens < 1 || prompt_tokens + max_new_tokens > longest_allowed)
    fail<ConfigError>("prompt-too-long", where,
                      "expected prompt + completion of at most {} tokens, got {} + {}",
                      longest_allowed, prompt_tokens, max_new_tokens);
  const cache::CacheSpec spec = cache_spec(*weights_);
  const int64_t pages = pages_of_group(prompt_tokens, max_new_tokens, kPageTokens);
  const int64_t bytes = pages * spec.page_bytes() + kLeastSlots * spec.slot_bytes();
  if (bytes > cache_bytes())
    fail<ConfigError>(
        "cache-too-small", "--cache_memory",
        "expected room for one sequence of {} pages and {} states ({} MiB), got {} GiB", pages,
        kLeastSlots, (bytes >> 20) + 1, options_.cache_memory);
}

/// Makes the caches, unless there are as large ones.
void Engine::make_cache(const cache::CacheSpec& spec) {
  if (cache_ && cache_->spec.num_pages >= spec.num_pages &&
      cache_->spec.num_slots >= spec.num_slots)
    return;
  held_.reset();
  cache_.reset();
  cache_ = std::make_unique<Cache>(spec);
}

std::unique_ptr<Sampler> Engine::new_sampler(const GenerationSettings& settings) const {
  SchedulerLimits limits = limits_of(cache_->spec, *weights_, options_.max_num_seqs);
  limits.keeps_prefixes = holds_prefixes_;
  return std::make_unique<Sampler>(Sampler::Setup{.weights = weights_,
                                                  .cache = &cache_->tensors,
                                                  .tokenizer = settings.tokenizer,
                                                  .keep = settings.keep,
                                                  .limits = limits,
                                                  .exact = settings.exact,
                                                  .weight_version = {}});
}

/// All sequences at once, whether they run or wait for their next turn, with the state that each
/// has left behind.
cache::CacheSpec Engine::plan_held_cache(std::span<const GroupSpec> groups) const {
  int64_t sequences = 0;
  for (const GroupSpec& group : groups) sequences += group.num_samples;
  cache::CacheSpec spec = plan_batch_cache(*weights_, groups, sequences, cache_bytes());
  if (spec.slot_bytes()) {
    const int64_t left =
        cache_bytes() - spec.num_pages * spec.page_bytes() - spec.num_slots * spec.slot_bytes();
    spec.num_slots += std::clamp<int64_t>(left / spec.slot_bytes(), 0, sequences);
  }
  return spec;
}

void Engine::hold_prefixes(std::span<const GroupSpec> groups) {
  drop_prefixes();
  make_cache(plan_held_cache(groups));
  holds_prefixes_ = true;
}

void Engine::drop_prefixes() {
  held_.reset();
  holds_prefixes_ = false;
}

std::pair<int64_t, int64_t> Engine::prefix_hits() const {
  EngineStats stats;
  if (held_) held_->add_stats(stats);
  return {stats.prefix_queries, stats.prefix_hits};
}

std::vector<std::vector<Completion>> Engine::generate(std::span<const GenerationRequest> requests,
                                                      const GenerationSettings& settings,
                                                      const Progress& progress) {
  if (requests.empty()) return {};
  std::vector<GroupSpec> groups;
  for (const auto& request : requests) {
    const auto length = static_cast<int64_t>(request.prompt.size());
    const int64_t most = request.max_new_tokens.value_or(settings.max_new_tokens);
    check_room(length, most);
    groups.push_back({length, most, request.num_samples});
  }
  make_cache(plan_cache(groups));
  Batch batch(requests, settings);
  std::unique_ptr<Sampler> sampler = held_ ? std::move(held_) : new_sampler(settings);
  for (size_t i = 0; i < requests.size(); ++i) {
    Request request = batch.request_of(requests[i], i);
    request.adapter = adapter_;
    sampler->submit(std::move(request), batch.handler_of(i));
  }
  while (sampler->has_work()) {
    sampler->step(kAllTokens);
    batch.finish_step(progress);
  }
  // After an error it is gone, with the requests that it had in work.
  if (holds_prefixes_) held_ = std::move(sampler);
  return batch.take();
}

}  // namespace lockstep::rollout
