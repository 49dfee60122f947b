// SPDX-License-Identifier: Apache-2.0
#include "rollout/sampler.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/check.h"
#include "base/digest.h"
#include "base/op_timer.h"
#include "base/random.h"
#include "model/expert_ranks.h"
#include "rollout/step_forward.h"
#include "tensor/aten.h"
#include "tensor/index_tensor.h"
#include "tensor/parallel.h"

namespace lockstep::rollout {
namespace {

/// How many rows of a prompt are scored at once: their logits are in memory together.
constexpr int64_t kScoredRows = 32;

/// The key of a request's random numbers, besides the seed and the number of the sample.
uint64_t stream_key(const Request& request) {
  const Digest prompt = digest_of(request.prompt.data(), request.prompt.size() * sizeof(int64_t));
  const std::array<uint64_t, 4> words{prompt.low, prompt.high, request.occurrence, request.draw};
  return digest_of(words.data(), sizeof(words)).low;
}

/// The temperature that log-probabilities are of.
double scored_temperature(const RequestSettings& settings) {
  return settings.sampling.temperature > 0 ? settings.sampling.temperature : 1.0;
}

}  // namespace

/// A request in work.
struct Sampler::Active {
  Request request;
  RequestHandler handler;
  int64_t group = 0;
  uint64_t key = 0;
  /// Which samples have ended, and how many.
  std::vector<bool> ended;
  int64_t num_ended = 0;
  bool is_begun = false, is_prompt_told = false;
  int64_t cached_tokens = 0;
  /// With prompt_logprobs: of each token of the prompt, as far as it has been computed.
  std::vector<ScoredToken> prompt_logprobs;
  /// Where the rows of the prompt are kept; all samples share them.
  std::vector<int64_t> prompt_rows;
  /// With record_experts: those of the prompt as far as it has been computed.
  RoutedExperts prompt_experts;
};

/// A sample in work.
struct Sampler::Sample {
  Active* active = nullptr;
  std::optional<StopStringFinder> stop_strings;
  /// Where rows are kept; those of the first `kept` tokens have been written.
  std::vector<int64_t> kept_rows;
  int64_t kept = 0;
  /// With record_experts: those of the completion as far as it has been computed.
  RoutedExperts experts;
};

struct Sampler::Drawn {
  ScoredToken token;
  /// What went wrong; "": nothing.
  std::string code, error;
};

Sampler::Sampler(Setup setup)
    : setup_(std::move(setup)),
      scheduler_(setup_.limits),
      prompt_ends_(at::empty({setup_.limits.num_slots + 1, setup_.weights->config().hidden_size},
                             at::TensorOptions().dtype(setup_.weights->dtype()))),
      version_(std::make_unique<std::string>(setup_.weight_version)) {}

Sampler::~Sampler() = default;

bool Sampler::has_begun() const {
  return std::any_of(requests_.begin(), requests_.end(),
                     [](const auto& entry) { return entry.second->is_begun; });
}

int64_t Sampler::waiting_for_first_token() const {
  return std::count_if(requests_.begin(), requests_.end(),
                       [](const auto& entry) { return !entry.second->is_prompt_told; });
}

Sampler::Active& Sampler::request_of(int64_t sequence) {
  return *samples_[static_cast<size_t>(sequence)]->active;
}

/// Prefixes are shared by requests with the same adapter, under the same weights. Where the experts
/// of all tokens are told, all tokens are computed, so that the request shares with itself alone.
uint64_t Sampler::space_of(const Request& request) {
  constexpr uint64_t kOwn = uint64_t{1} << 63;
  if (request.settings.record_experts != RecordExperts::kNothing) return kOwn | ++own_spaces_;
  return space_ << 32 | (request.adapter ? request.adapter->number() : 0);
}

void Sampler::submit(Request request, RequestHandler handler) {
  LOCKSTEP_CHECK(!requests_.contains(request.id), "two requests with the id {}", request.id);
  auto active = std::make_unique<Active>();
  active->key = stream_key(request);
  active->ended.resize(static_cast<size_t>(request.num_samples));
  active->handler = std::move(handler);
  active->group = scheduler_.add({.prompt = request.prompt,
                                  .max_new_tokens = request.settings.max_new_tokens,
                                  .num_samples = request.num_samples,
                                  .space = space_of(request),
                                  .computes_prompt = request.settings.prompt_logprobs.has_value()});
  active->request = std::move(request);
  by_group_.resize(std::max(by_group_.size(), static_cast<size_t>(active->group) + 1));
  by_group_[static_cast<size_t>(active->group)] = active.get();
  const std::string id = active->request.id;
  requests_.emplace(id, std::move(active));
}

/// Makes the copies with which a sequence starts.
void Sampler::begin(const Start& start) {
  const Sequence& sequence = scheduler_.sequence(start.sequence);
  Active& active = *by_group_[static_cast<size_t>(sequence.group)];
  samples_.resize(std::max(samples_.size(), static_cast<size_t>(start.sequence) + 1));
  auto& sample = samples_[static_cast<size_t>(start.sequence)];
  if (!sample) {
    sample = std::make_unique<Sample>();
    sample->active = &active;
    if (!active.request.settings.stop_strings.empty())
      sample->stop_strings.emplace(*setup_.tokenizer, active.request.settings.stop_strings);
    if (setup_.keep) {
      const int64_t prompt = sequence.prompt_tokens;
      if (active.prompt_rows.empty()) {
        active.prompt_rows.resize(static_cast<size_t>(prompt));
        std::iota(active.prompt_rows.begin(), active.prompt_rows.end(),
                  setup_.keep->reserve(prompt));
      } else {
        sample->kept = prompt;
      }
      sample->kept_rows = active.prompt_rows;
    }
    if (!std::exchange(active.is_begun, true)) active.cached_tokens = start.cached_tokens;
  }
  if (start.copied_page) setup_.cache->copy_page(start.copied_page, sequence.pages.back());
  if (start.copied_slot)
    setup_.cache->copy_slot(start.copied_slot, sequence.slot);
  else
    setup_.cache->clear_slot(sequence.slot);
}

void Sampler::tell_prompt(Active& active) {
  if (std::exchange(active.is_prompt_told, true)) return;
  LOCKSTEP_CHECK(active.request.settings.record_experts == RecordExperts::kNothing ||
                     active.prompt_experts.tokens() == std::ssize(active.request.prompt),
                 "the experts of {} tokens of a prompt of {}", active.prompt_experts.tokens(),
                 active.request.prompt.size());
  prompt_tokens_ += std::ssize(active.request.prompt);
  active.handler(PromptDone{active.cached_tokens, std::move(active.prompt_logprobs),
                            std::move(active.prompt_experts)});
}

/// Draws the first tokens of sequences whose whole prompt was found.
void Sampler::draw_whole(const std::vector<Start>& starts) {
  std::vector<int64_t> slots, rows, sequences;
  // Prompts are found under the same adapter only.
  model::AdapterRows adapters;
  for (const Start& start : starts) {
    if (!start.is_whole) continue;
    const auto known = std::find(slots.begin(), slots.end(), start.copied_slot);
    rows.push_back(known - slots.begin());
    if (known == slots.end()) {
      slots.push_back(start.copied_slot);
      adapters.append(request_of(start.sequence).request.adapter.get(), 1);
    }
    sequences.push_back(start.sequence);
  }
  if (sequences.empty()) return;
  const at::Tensor logits =
      ops::vocabulary_logits(prompt_ends_.index_select(0, index_tensor(slots)),
                             model::adapted_head(setup_.weights->head(), adapters.take()));
  auto drawn = draw(sequences, logits.index_select(0, index_tensor(rows)));
  for (size_t i = 0; i < sequences.size(); ++i)
    if (samples_[static_cast<size_t>(sequences[i])]) accept(sequences[i], std::move(drawn[i]));
}

StepItem Sampler::item_of(const Work& work) {
  const Sequence& sequence = scheduler_.sequence(work.sequence);
  Sample& sample = *samples_[static_cast<size_t>(work.sequence)];
  StepItem item{
      .tokens = std::span(sequence.tokens)
                    .subspan(static_cast<size_t>(work.first), static_cast<size_t>(work.count)),
      .first = work.first,
      .slot = sequence.slot,
      .pages = &sequence.pages,
      .adapter = sample.active->request.adapter.get(),
      .draws = work.draws,
      .scores = sample.active->request.settings.prompt_logprobs &&
                work.first < sequence.prompt_tokens && !sample.active->is_prompt_told,
      .kept = work.count,
      .experts = sample.active->request.settings.record_experts};
  if (!setup_.keep) return item;
  const int64_t end = work.first + work.count;
  item.kept = std::clamp<int64_t>(sample.kept - work.first, 0, work.count);
  if (item.kept == work.count) return item;
  // Behind the prompt, rows come as tokens do.
  while (std::ssize(sample.kept_rows) < end) sample.kept_rows.push_back(setup_.keep->reserve(1));
  item.kept_row = sample.kept_rows[static_cast<size_t>(work.first + item.kept)];
  sample.kept = end;
  return item;
}

Sampler::StepCounts Sampler::step(int64_t prefill_tokens, bool begun_only) {
  at::NoGradGuard no_grad;
  const auto starts = scheduler_.start(begun_only);
  for (const Start& start : starts) begin(start);
  draw_whole(starts);
  const std::vector<Work> works = scheduler_.plan(prefill_tokens);
  StepCounts counts;
  if (works.empty()) return counts;
  std::vector<StepItem> items;
  for (const Work& work : works) {
    items.push_back(item_of(work));
    // A work of one token that ends a sequence decodes, or costs as much.
    (work.count == 1 && work.draws ? counts.decoded : counts.prefilled) += work.count;
  }
  const model::Decoder decoder(*setup_.weights);
  std::vector<StepPart> parts = make_parts(items, *setup_.cache, *setup_.weights);
  std::vector<std::vector<Drawn>> drawn(parts.size());
  const auto compute = [&](size_t i) {
    parts[i].compute(decoder, setup_.weights->head(), setup_.exact, setup_.keep);
    std::vector<int64_t> sequences;
    for (const size_t item : parts[i].drawing()) sequences.push_back(works[item].sequence);
    if (!sequences.empty()) drawn[i] = draw(sequences, parts[i].logits());
  };
  model::ExpertRanks* const ranks = setup_.weights->expert_ranks();
  if (ranks) ranks->begin_forward(/*computes=*/true);
  // Inside of it each op runs on one thread.
  at::parallel_for(0, std::ssize(parts), 1, [&](int64_t begin, int64_t end) {
    at::NoGradGuard no_grad_here;
    for (int64_t i = begin; i < end; ++i) compute(static_cast<size_t>(i));
  });
  if (ranks) ranks->end_forward();
  for (const StepPart& part : parts)
    for (size_t place = 0; place < part.items().size(); ++place)
      finish_work(works[part.items()[place]], part, place);
  for (size_t i = 0; i < parts.size(); ++i)
    for (size_t k = 0; k < drawn[i].size(); ++k) {
      const int64_t sequence = works[parts[i].drawing()[k]].sequence;
      // Its request may have failed by another sample's token.
      if (samples_[static_cast<size_t>(sequence)]) accept(sequence, std::move(drawn[i][k]));
    }
  return counts;
}

void Sampler::finish_work(const Work& work, const StepPart& part, size_t place) {
  if (const auto snapshot = scheduler_.computed(work)) {
    setup_.cache->copy_slot(snapshot->from, snapshot->to);
    if (snapshot->ends_prompt) prompt_ends_.select(0, snapshot->to).copy_(part.last_hidden(place));
  }
  Active& active = request_of(work.sequence);
  if (active.request.settings.record_experts != RecordExperts::kNothing)
    record_experts(work, part.experts(place));
  const bool scores = active.request.settings.prompt_logprobs && !active.is_prompt_told;
  if (scores && work.first < std::ssize(active.request.prompt))
    score_prompt(active, work, part.hidden(place));
}

/// Adds the experts of those tokens of a work that are computed for the first time: a prompt's are
/// computed by one sample for all, and what was preempted is computed again, to the same bits.
void Sampler::record_experts(const Work& work, const model::ExpertChoices& experts) {
  Sample& sample = *samples_[static_cast<size_t>(work.sequence)];
  Active& active = *sample.active;
  const int64_t prompt = std::ssize(active.request.prompt);
  const auto add = [&](RoutedExperts& to, int64_t begin, int64_t end) {
    to.layers = experts.experts.size(1);
    to.chosen = experts.experts.size(2);
    // Positions in the sequence: `begin` is that of the first entry of `to`.
    const int64_t known = begin + to.tokens(), last = std::min(end, work.first + work.count);
    if (known >= last || known < work.first) return;
    const int64_t values = to.layers * to.chosen, first = (known - work.first) * values,
                  count = (last - known) * values;
    const int32_t* const ids = experts.experts.const_data_ptr<int32_t>() + first;
    to.ids.insert(to.ids.end(), ids, ids + count);
    if (active.request.settings.record_experts != RecordExperts::kIdsAndWeights) return;
    const float* const weights = experts.weights.const_data_ptr<float>() + first;
    to.weights.insert(to.weights.end(), weights, weights + count);
  };
  if (!active.is_prompt_told) add(active.prompt_experts, 0, prompt);
  add(sample.experts, prompt, std::numeric_limits<int64_t>::max());
}

/// Scores the tokens of the prompt that follow those of a work; hidden [count, D].
void Sampler::score_prompt(Active& active, const Work& work, const at::Tensor& hidden) {
  const auto& prompt = active.request.prompt;
  const int64_t top = *active.request.settings.prompt_logprobs;
  auto& scores = active.prompt_logprobs;
  if (scores.empty()) scores.push_back({{prompt.front(), 0, 0}, {}});
  const int64_t end = std::min(work.first + work.count, std::ssize(prompt) - 1);
  // What was computed before, and again after a preemption, has been scored.
  for (int64_t first = std::ssize(scores) - 1; first < end; first += kScoredRows) {
    const int64_t rows = std::min(kScoredRows, end - first);
    model::AdapterRows adapter;
    adapter.append(active.request.adapter.get(), rows);
    const at::Tensor logits =
        ops::vocabulary_logits(hidden.narrow(0, first - work.first, rows),
                               model::adapted_head(setup_.weights->head(), adapter.take()));
    for (int64_t i = 0; i < rows; ++i)
      scores.push_back(scored({logits.const_data_ptr<float>() + i * logits.size(1),
                               static_cast<size_t>(logits.size(1))},
                              prompt[static_cast<size_t>(first + i + 1)],
                              scored_temperature(active.request.settings), top));
  }
}

/// The log-probability of a token, and those of the `top` most likely ones with their ranks.
ScoredToken Sampler::scored(std::span<const float> logits,
                            int64_t token,
                            double temperature,
                            int64_t top) const {
  const auto normalizer = ops::normalizer_of_logits(logits, temperature);
  const float logit = logits[static_cast<size_t>(token)];
  ScoredToken scored{{token, normalizer.logprob(logit), 0}, {}, {}};
  if (top <= 0) return scored;
  scored.token.rank =
      1 + std::count_if(logits.begin(), logits.end(), [&](float other) { return other > logit; });
  std::vector<int64_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), int64_t{0});
  const auto count = std::min<std::ptrdiff_t>(top, std::ssize(ids));
  std::partial_sort(ids.begin(), ids.begin() + count, ids.end(), [&](int64_t a, int64_t b) {
    const float first = logits[static_cast<size_t>(a)], second = logits[static_cast<size_t>(b)];
    return first != second ? first > second : a < b;
  });
  for (std::ptrdiff_t i = 0; i < count; ++i)
    scored.top.push_back(
        {ids[static_cast<size_t>(i)],
         normalizer.logprob(logits[static_cast<size_t>(ids[static_cast<size_t>(i)])]), i + 1});
  return scored;
}

/// Draws the next token of a sequence from its logits [V].
Sampler::Drawn Sampler::draw(int64_t handle, std::span<const float> logits) const {
  const Sequence& sequence = scheduler_.sequence(handle);
  const Active& active = *samples_[static_cast<size_t>(handle)]->active;
  const RequestSettings& settings = active.request.settings;
  const auto position = static_cast<uint64_t>(std::ssize(sequence.tokens) - sequence.prompt_tokens);
  const RandomStream stream("sample", settings.seed, active.key,
                            static_cast<uint64_t>(sequence.sample));
  const bool may_stop = static_cast<int64_t>(position) >= settings.min_new_tokens;
  try {
    const ops::DrawnToken token = ops::draw_token(
        logits, settings.sampling,
        {.tokens = sequence.tokens, .num_prompt = sequence.prompt_tokens}, stream.uniform(position),
        may_stop ? std::span<const int64_t>() : std::span<const int64_t>(settings.stop_ids));
    Drawn drawn{scored(logits, token.id, scored_temperature(settings), settings.top_logprobs), "",
                ""};
    if (settings.sampling.narrows()) drawn.token.processed = static_cast<float>(token.logprob);
    return drawn;
  } catch (const Error& error) {
    // It ends this request; the others of the step have their tokens.
    return {{}, error.code(), error.what()};
  }
}

std::vector<Sampler::Drawn> Sampler::draw(const std::vector<int64_t>& sequences,
                                          const at::Tensor& logits) const {
  const OpTimer timer("sample_token");
  std::vector<Drawn> drawn(sequences.size());
  const int64_t vocabulary = logits.size(1);
  const float* data = logits.const_data_ptr<float>();
  parallel_for(0, std::ssize(sequences), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      drawn[static_cast<size_t>(i)] =
          draw(sequences[static_cast<size_t>(i)],
               {data + i * vocabulary, static_cast<size_t>(vocabulary)});
  });
  return drawn;
}

/// Tells of a token, and ends the sample if the token ends it.
void Sampler::accept(int64_t handle, Drawn drawn) {
  Sample& sample = *samples_[static_cast<size_t>(handle)];
  Active& active = *sample.active;
  if (!drawn.code.empty())
    return end_request(active, {RequestDone::Status::kFailed, 500, drawn.code, drawn.error});
  const RequestSettings& settings = active.request.settings;
  const int64_t token = drawn.token.token.id;
  scheduler_.append(handle, token);
  ++generation_tokens_;
  const Sequence& sequence = scheduler_.sequence(handle);
  const int64_t generated = std::ssize(sequence.tokens) - sequence.prompt_tokens;
  SampleDone done{.sample = sequence.sample};
  done.has_stop_token = !settings.ignore_eos &&
                        std::find(settings.stop_ids.begin(), settings.stop_ids.end(), token) !=
                            settings.stop_ids.end();
  if (sample.stop_strings) {
    done.stop_string = sample.stop_strings->push(token);
    if (generated < settings.min_new_tokens) done.stop_string.reset();
  }
  tell_prompt(active);
  active.handler(
      SampleToken{sequence.sample, std::move(drawn.token), done.has_stop_token, version_.get()});
  if (done.has_stop_token || done.stop_string)
    done.end = SampleEnd::kStop;
  else if (generated < settings.max_new_tokens)
    return;
  else
    done.end = SampleEnd::kLength;
  end_sample(handle, std::move(done));
}

void Sampler::end_sample(int64_t handle, SampleDone done) {
  Sample& sample = *samples_[static_cast<size_t>(handle)];
  Active& active = *sample.active;
  done.kept_rows = std::move(sample.kept_rows);
  done.experts = std::move(sample.experts);
  const Sequence& sequence = scheduler_.sequence(handle);
  LOCKSTEP_CHECK(
      active.request.settings.record_experts == RecordExperts::kNothing ||
          done.experts.tokens() == std::ssize(sequence.tokens) - sequence.prompt_tokens - 1,
      "the experts of {} tokens of a completion of {}", done.experts.tokens(),
      std::ssize(sequence.tokens) - sequence.prompt_tokens);
  active.ended[static_cast<size_t>(done.sample)] = true;
  ++active.num_ended;
  scheduler_.finish(handle);
  samples_[static_cast<size_t>(handle)].reset();
  active.handler(std::move(done));
  if (active.num_ended == active.request.num_samples) end_request(active, {});
}

/// Ends a request, with those of its samples that have not ended.
void Sampler::end_request(Active& active, RequestDone done) {
  scheduler_.cancel_waiting(active.group);
  for (size_t handle = 0; handle < samples_.size(); ++handle) {
    if (!samples_[handle] || samples_[handle]->active != &active) continue;
    scheduler_.finish(static_cast<int64_t>(handle));
    samples_[handle].reset();
  }
  for (size_t i = 0; i < active.ended.size(); ++i)
    if (!active.ended[i])
      active.handler(SampleDone{.sample = static_cast<int64_t>(i), .end = SampleEnd::kAborted});
  const auto found = requests_.find(active.request.id);
  const std::unique_ptr<Active> owned = std::move(found->second);
  requests_.erase(found);
  owned->handler(std::move(done));
}

bool Sampler::abort_request(std::string_view id) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return false;
  end_request(*found->second, {.status = RequestDone::Status::kAborted});
  return true;
}

int64_t Sampler::abort_all() {
  const int64_t count = std::ssize(requests_);
  while (!requests_.empty()) abort_request(std::string(requests_.begin()->first));
  return count;
}

void Sampler::end_late(std::chrono::steady_clock::time_point now) {
  std::vector<Active*> late;
  for (const auto& [id, active] : requests_)
    if (active->request.deadline && *active->request.deadline <= now) late.push_back(active.get());
  for (Active* active : late) end_request(*active, {.status = RequestDone::Status::kDeadline});
}

std::optional<std::chrono::steady_clock::time_point> Sampler::next_deadline() const {
  std::optional<std::chrono::steady_clock::time_point> next;
  for (const auto& [id, active] : requests_)
    if (active->request.deadline && (!next || *active->request.deadline < *next))
      next = active->request.deadline;
  return next;
}

void Sampler::fail_running(const std::exception& error) {
  std::vector<Active*> running;
  for (const auto& [id, active] : requests_)
    if (std::any_of(samples_.begin(), samples_.end(),
                    [&](const auto& sample) { return sample && sample->active == active.get(); }))
      running.push_back(active.get());
  // What was being computed is in no state to be kept.
  scheduler_.preempt_all(/*keeps_prefixes=*/false);
  for (Active* active : running)
    end_request(*active, {RequestDone::Status::kFailed, 500, "internal", error.what()});
}

void Sampler::use_weights(const model::ModelWeights& weights, std::string version) {
  setup_.weights = &weights;
  ++space_;
  scheduler_.forget_prefixes();
  set_weight_version(std::move(version));
}

void Sampler::set_weight_version(std::string version) {
  *version_ = std::move(version);
  std::vector<Active*> refused;
  for (const auto& [id, active] : requests_)
    if (active->request.weight_version && *active->request.weight_version != *version_)
      refused.push_back(active.get());
  for (Active* active : refused)
    end_request(*active, {RequestDone::Status::kFailed, 409, "version-mismatch",
                          fmt::format("expected weights of version {}, got {} while it was in work",
                                      *active->request.weight_version, *version_)});
}

void Sampler::recompute_all() {
  scheduler_.preempt_all(/*keeps_prefixes=*/false);
  scheduler_.forget_prefixes();
}

void Sampler::add_stats(EngineStats& stats) const {
  const auto& pages = scheduler_.pages();
  const auto& slots = scheduler_.slots();
  stats.running = scheduler_.num_running();
  stats.waiting = scheduler_.num_waiting();
  stats.pages = pages.capacity();
  stats.pages_cached = pages.num_idle();
  stats.pages_in_use = pages.capacity() - pages.num_free() - pages.num_idle();
  stats.slots = slots.capacity();
  stats.slots_cached = slots.num_idle();
  stats.slots_in_use = slots.capacity() - slots.num_free() - slots.num_idle();
  stats.prompt_tokens = prompt_tokens_;
  stats.generation_tokens = generation_tokens_;
  stats.preemptions = scheduler_.num_preemptions();
  stats.prefix_queries = scheduler_.prefix_queries();
  stats.prefix_hits = scheduler_.prefix_hits();
}

}  // namespace lockstep::rollout
