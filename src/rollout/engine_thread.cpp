// SPDX-License-Identifier: Apache-2.0
#include "rollout/engine_thread.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <set>
#include <thread>

#include "base/check.h"
#include "base/log.h"
#include "cache/cache_tensors.h"
#include "rollout/cache_plan.h"
#include "rollout/prefill_pace.h"
#include "rollout/sampler.h"
#include "tensor/aten.h"

namespace lockstep::rollout {
namespace {

/// A step with a piece of a long prompt takes at most so many times as long as one without it.
constexpr double kStretch = 2.2;
constexpr int kMostFailures = 3;

/// The parameters of a model, by id, without their values.
using ParameterForms = std::vector<std::pair<std::string, std::vector<int64_t>>>;
ParameterForms forms_of(const model::ModelWeights& weights) {
  ParameterForms forms;
  for (const model::Parameter& parameter : weights.parameters())
    forms.emplace_back(parameter.id, parameter.shape);
  return forms;
}

}  // namespace

/// The thread and what it owns. Other threads leave commands.
///
///               pause(kKeep, kAbort)
///   running ──────────────────────────> paused ── resume ──> running
///      └── pause(kWait) ──> draining ──────^
class EngineThread::Loop {
 public:
  explicit Loop(Setup setup)
      : setup_(std::move(setup)),
        weights_(std::move(setup_.weights)),
        dtype_(weights_->dtype()),
        forms_(forms_of(*weights_)),
        facts_(make_facts()),
        spec_(make_spec()),
        cache_(spec_) {
    // A sequence has to fit into the cache, so what it holds is what a request may ask for.
    const int64_t held = (spec_.num_pages - 1) * kPageTokens;
    if (held < facts_.max_model_len) {
      log_info(
          "sampler: sequences of up to {} tokens instead of {}, for which --cache_memory has no "
          "room",
          held, facts_.max_model_len);
      facts_.max_model_len = held;
    }
    version_ = setup_.weight_version;
    thread_ = std::thread([this] { run(); });
  }

  ~Loop() {
    {
      const std::lock_guard lock(mutex_);
      stops_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  void submit(Request request, RequestHandler handler) {
    check(request);
    const std::string id = request.id;
    {
      const std::lock_guard lock(mutex_);
      if (stops_ || !alive_)
        throw RequestError(503, "stopping", "", "the sampler takes no more requests");
      if (is_poisoned_)
        throw RequestError(503, "poisoned", "",
                           "expected weights, got none: an update broke off when the old ones were "
                           "gone, and no other has come since");
      if (request.weight_version && *request.weight_version != version_)
        throw RequestError(409, "version-mismatch", "weight_version",
                           fmt::format("expected weights of version {}, got {}",
                                       *request.weight_version, version_));
      if (queued_ >= setup_.service.max_queue)
        throw RequestError(503, "queue-full", "",
                           fmt::format("expected at most {} waiting requests (--max_queue)",
                                       setup_.service.max_queue));
      if (!ids_.insert(id).second)
        throw RequestError(400, "bad-request", "request_id",
                           fmt::format("expected an id that no request in work has, got {}", id));
      ++queued_;
    }
    auto counted = [this, id, handler = std::move(handler),
                    is_queued = true](RequestEvent&& event) mutable {
      const bool is_done = std::holds_alternative<RequestDone>(event);
      if (is_done || std::holds_alternative<PromptDone>(event)) {
        const std::lock_guard lock(mutex_);
        queued_ -= std::exchange(is_queued, false);
        if (is_done) ids_.erase(id);
      }
      handler(std::move(event));
    };
    command([this, request = std::make_shared<Request>(std::move(request)),
             counted = std::move(counted)]() mutable {
      // The version may have changed since.
      if (request->weight_version && *request->weight_version != sampler_->weight_version())
        return counted(
            RequestDone{RequestDone::Status::kFailed, 409, "version-mismatch",
                        fmt::format("expected weights of version {}, got {}",
                                    *request->weight_version, sampler_->weight_version())});
      sampler_->submit(std::move(*request), std::move(counted));
    });
  }

  /// Leaves something to do between two steps.
  void command(std::function<void()> work) {
    {
      const std::lock_guard lock(mutex_);
      if (stops_) return;
      commands_.push_back(std::move(work));
    }
    changed_.notify_all();
  }

  bool abort_request(std::string id) {
    {
      const std::lock_guard lock(mutex_);
      if (!ids_.contains(id)) return false;
    }
    command([this, id = std::move(id)] { sampler_->abort_request(id); });
    return true;
  }

  int64_t abort_all() {
    int64_t count = 0;
    {
      const std::lock_guard lock(mutex_);
      count = std::ssize(ids_);
    }
    command([this] { sampler_->abort_all(); });
    return count;
  }

  void pause(PauseMode mode, bool clear_cache, std::function<void()> done) {
    is_paused_ = true;
    command([this, mode, clear_cache, done = std::move(done)]() mutable {
      state_ = mode == PauseMode::kWait && state_ == State::kRunning ? State::kDraining : state_;
      if (mode != PauseMode::kWait) state_ = State::kPaused;
      if (mode == PauseMode::kAbort) sampler_->abort_all();
      keeps_caches_ = mode == PauseMode::kKeep && !clear_cache;
      if (mode == PauseMode::kKeep && clear_cache) sampler_->recompute_all();
      if (clear_cache) sampler_->forget_prefixes();
      waiters_.push_back([this, clear_cache, done = std::move(done)] {
        // What was drained meanwhile has left prefixes again.
        if (clear_cache) sampler_->forget_prefixes();
        done();
      });
    });
  }

  void resume() {
    is_paused_ = false;
    command([this] {
      state_ = State::kRunning;
      keeps_caches_ = false;
    });
  }

  void swap_weights(std::unique_ptr<StagedWeights> staged,
                    std::string version,
                    std::function<void(std::exception_ptr)> done) {
    auto shared = std::shared_ptr<StagedWeights>(std::move(staged));
    command([this, shared, version = std::move(version), done = std::move(done)] {
      try {
        auto* const model = dynamic_cast<StagedModel*>(shared.get());
        LOCKSTEP_CHECK(model && (model->weights || model->build), "weights of another sampler");
        if (!model->weights) {
          drop_weights();
          model->weights = std::exchange(model->build, {})();
        }
        use(std::move(model->weights), version);
      } catch (const std::exception& error) {
        if (!weights_) end_without_weights(error);
        return done(std::current_exception());
      }
      done(nullptr);
    });
  }

  void set_weight_version(std::string version) {
    command([this, version = std::move(version)] { set_version(version); });
  }
  std::string weight_version() const {
    const std::lock_guard lock(mutex_);
    return version_;
  }
  std::shared_ptr<const model::ModelWeights> weights() const {
    const std::lock_guard lock(mutex_);
    return weights_;
  }
  void reset_prefix_cache() {
    command([this] { sampler_->forget_prefixes(); });
  }
  bool is_paused() const { return is_paused_; }
  EngineStats stats() const {
    const std::lock_guard lock(mutex_);
    EngineStats stats = stats_;
    stats.waiting = std::max(stats.waiting, queued_);
    return stats;
  }
  const EngineFacts& facts() const { return facts_; }
  bool is_alive() const {
    const std::lock_guard lock(mutex_);
    return alive_;
  }
  bool has_weights() const {
    const std::lock_guard lock(mutex_);
    return !is_poisoned_;
  }

 private:
  enum class State : uint8_t { kRunning, kDraining, kPaused };

  EngineFacts make_facts() const {
    return {.max_model_len =
                setup_.engine.max_model_len.value_or(weights_->config().max_position_embeddings),
            .vocab_size = weights_->config().vocab_size,
            .max_num_seqs = setup_.engine.max_num_seqs,
            .is_exact = setup_.exact,
            .has_experts = weights_->config().num_experts > 0,
            .dtype = weights_->dtype() == at::kFloat ? "float32" : "bfloat16"};
  }

  cache::CacheSpec make_spec() const {
    const auto budget = static_cast<int64_t>(setup_.engine.cache_memory * (1 << 30));
    const cache::CacheSpec spec =
        plan_serving_cache(*weights_, setup_.engine.max_num_seqs, facts_.max_model_len, budget);
    const int64_t least = pages_of_group(1, 1, kPageTokens);
    if (spec.num_pages < least ||
        spec.num_slots * spec.slot_bytes() + least * spec.page_bytes() > budget)
      fail<ConfigError>("cache-too-small", "--cache_memory",
                        "expected room for one sequence of {} pages and {} states, got {} GiB",
                        least, kLeastSlots, setup_.engine.cache_memory);
    return spec;
  }

  SchedulerLimits limits() const {
    SchedulerLimits limits = limits_of(spec_, *weights_, setup_.engine.max_num_seqs);
    limits.max_step_tokens = std::max(setup_.service.max_num_batched_tokens, limits.max_num_seqs);
    limits.keeps_prefixes = setup_.service.enable_prefix_caching;
    return limits;
  }

  void check(const Request& request) const {
    const auto bad = [](const char* field, const std::string& message) {
      throw RequestError(400, "bad-request", field, message);
    };
    const int64_t prompt = std::ssize(request.prompt);
    const RequestSettings& settings = request.settings;
    if (prompt < 1) bad("prompt", "expected at least one token, got none");
    for (const int64_t id : request.prompt)
      if (id < 0 || id >= facts_.vocab_size)
        bad("prompt", fmt::format("expected ids in [0, {}), got {}", facts_.vocab_size, id));
    if (request.num_samples < 1) bad("n", "expected at least one completion");
    if (settings.max_new_tokens < 1) bad("max_tokens", "expected at least one token");
    if (prompt + settings.max_new_tokens > facts_.max_model_len)
      throw RequestError(400, "prompt-too-long", "prompt",
                         fmt::format("expected prompt + completion of at most {} tokens, got {} "
                                     "+ {}",
                                     facts_.max_model_len, prompt, settings.max_new_tokens));
    if (!settings.stop_strings.empty() && !setup_.tokenizer)
      bad("stop", "expected no stop strings, since the checkpoint has no tokenizer");
    for (const auto& [id, bias] : settings.sampling.logit_bias)
      if (id < 0 || id >= facts_.vocab_size)
        bad("logit_bias", fmt::format("expected ids in [0, {}), got {}", facts_.vocab_size, id));
  }

  void run() {
    at::NoGradGuard no_grad;
    sampler_.emplace(Sampler::Setup{.weights = weights_.get(),
                                    .cache = &cache_,
                                    .tokenizer = setup_.tokenizer,
                                    .keep = nullptr,
                                    .limits = limits(),
                                    .exact = setup_.exact,
                                    .weight_version = setup_.weight_version});
    int failures = 0;
    while (take_commands() && failures < kMostFailures) {
      sampler_->end_late(std::chrono::steady_clock::now());
      if (can_step()) failures = try_step() ? 0 : failures + 1;
      settle();
    }
    std::deque<std::function<void()>> rest;
    {
      const std::lock_guard lock(mutex_);
      stops_ = true;
      alive_ = false;
      rest.swap(commands_);
    }
    // What was taken in is answered.
    for (auto& work : rest) work();
    sampler_->abort_all();
    state_ = State::kPaused;
    settle();
  }

  bool can_step() const {
    if (!weights_ || !sampler_->has_work() || state_ == State::kPaused) return false;
    return state_ == State::kRunning || sampler_->has_begun();
  }

  /// Waits until there is something to do, and does what was asked for. False when all is over.
  bool take_commands() {
    std::deque<std::function<void()>> commands;
    {
      std::unique_lock lock(mutex_);
      sampler_->add_stats(stats_);
      const auto is_wanted = [&] { return stops_ || !commands_.empty() || can_step(); };
      if (const auto deadline = sampler_->next_deadline())
        changed_.wait_until(lock, *deadline, is_wanted);
      else
        changed_.wait(lock, is_wanted);
      if (stops_) return false;
      commands.swap(commands_);
    }
    for (auto& work : commands) work();
    return true;
  }

  bool try_step() {
    const auto begin = std::chrono::steady_clock::now();
    try {
      const auto counts =
          sampler_->step(std::min(setup_.service.max_num_batched_tokens,
                                  pace_.tokens(last_decoded_, sampler_->waiting_for_first_token())),
                         /*begun_only=*/state_ == State::kDraining);
      last_decoded_ = counts.decoded;
      const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
      pace_.add(counts.prefilled, counts.decoded, taken.count());
      return true;
    } catch (const std::exception& error) {
      log_warning("sampler: a step failed, and with it the requests that ran in it: {}",
                  error.what());
      sampler_->fail_running(error);
      return false;
    }
  }

  /// Answers those who wait for a pause.
  void settle() {
    if (waiters_.empty()) return;
    if (state_ == State::kDraining && sampler_->has_begun()) return;
    if (state_ == State::kDraining) state_ = State::kPaused;
    for (const auto& waiter : std::exchange(waiters_, {})) waiter();
  }

  /// The caches and all kernels were chosen for the shapes of the first weights.
  void check_same_model(const model::ModelWeights& other) const {
    if (other.dtype() != dtype_ || forms_of(other) != forms_)
      fail<FormatError>("shape-mismatch", "weights",
                        "expected the parameters of the model that is served, got another model's");
  }

  /// Frees the weights' memory.
  void drop_weights() {
    std::shared_ptr<const model::ModelWeights> old;
    const std::lock_guard lock(mutex_);
    weights_.swap(old);
    version_.clear();
  }

  /// No weights came in the place of those that were dropped.
  void end_without_weights(const std::exception& error) {
    log_warning("sampler: it has no weights, and refuses requests until others come: {}",
                error.what());
    {
      const std::lock_guard lock(mutex_);
      is_poisoned_ = true;
    }
    sampler_->fail_running(error);
    sampler_->abort_all();
  }

  void use(std::shared_ptr<const model::ModelWeights> weights, const std::string& version) {
    check_same_model(*weights);
    sampler_->use_weights(*weights, version);
    if (!keeps_caches_) sampler_->recompute_all();
    const std::lock_guard lock(mutex_);
    weights_.swap(weights);
    is_poisoned_ = false;
    version_ = version;
  }

  void set_version(const std::string& version) {
    {
      const std::lock_guard lock(mutex_);
      version_ = version;
    }
    sampler_->set_weight_version(version);
  }

  Setup setup_;
  /// Set by the thread alone, under the mutex. Null: others are made in their place, or were not.
  std::shared_ptr<const model::ModelWeights> weights_;
  /// What they must be.
  const at::ScalarType dtype_;
  const ParameterForms forms_;
  EngineFacts facts_;
  cache::CacheSpec spec_;
  cache::CacheTensors cache_;

  // Of the thread alone.
  std::optional<Sampler> sampler_;
  State state_ = State::kRunning;
  /// Running requests go on from their caches though the weights change.
  bool keeps_caches_ = false;
  std::vector<std::function<void()>> waiters_;
  PrefillPace pace_{kStretch};
  int64_t last_decoded_ = 0;

  // Under the mutex.
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> commands_;
  std::set<std::string, std::less<>> ids_;
  std::string version_;
  EngineStats stats_;
  int64_t queued_ = 0;
  bool stops_ = false, alive_ = true;
  /// An update broke off when the old weights were gone.
  bool is_poisoned_ = false;

  /// What was asked for last, whether the loop has come to it or not.
  std::atomic<bool> is_paused_ = false;
  std::thread thread_;
};

EngineThread::EngineThread(Setup setup) : loop_(std::make_unique<Loop>(std::move(setup))) {}
EngineThread::~EngineThread() = default;

void EngineThread::submit(Request request, RequestHandler handler) {
  loop_->submit(std::move(request), std::move(handler));
}
bool EngineThread::abort_request(std::string_view id) {
  return loop_->abort_request(std::string(id));
}
int64_t EngineThread::abort_all() { return loop_->abort_all(); }
void EngineThread::pause(PauseMode mode, bool clear_cache, std::function<void()> done) {
  loop_->pause(mode, clear_cache, std::move(done));
}
void EngineThread::resume() { loop_->resume(); }
bool EngineThread::is_paused() const { return loop_->is_paused(); }
void EngineThread::swap_weights(std::unique_ptr<StagedWeights> weights,
                                std::string version,
                                std::function<void(std::exception_ptr)> done) {
  loop_->swap_weights(std::move(weights), std::move(version), std::move(done));
}
std::string EngineThread::weight_version() const { return loop_->weight_version(); }
std::shared_ptr<const model::ModelWeights> EngineThread::weights() const {
  return loop_->weights();
}
void EngineThread::set_weight_version(std::string version) {
  loop_->set_weight_version(std::move(version));
}
void EngineThread::reset_prefix_cache() { loop_->reset_prefix_cache(); }
EngineStats EngineThread::stats() const { return loop_->stats(); }
const EngineFacts& EngineThread::facts() const { return loop_->facts(); }
bool EngineThread::is_alive() const { return loop_->is_alive(); }
bool EngineThread::has_weights() const { return loop_->has_weights(); }

}  // namespace lockstep::rollout
