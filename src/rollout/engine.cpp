// SPDX-License-Identifier: Apache-2.0
#include "rollout/engine.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "base/digest.h"
#include "base/op_timer.h"
#include "base/random.h"
#include "cache/cache_tensors.h"
#include "model/decoder.h"
#include "rollout/scheduler.h"
#include "tensor/aten.h"
#include "tensor/parallel.h"

namespace lockstep::rollout {
namespace {

constexpr int64_t kPageTokens = 64;

cache::CacheSpec spec_of(const model::ModelWeights& weights) {
  const model::ModelConfig& config = weights.config();
  cache::CacheSpec spec;
  for (const auto mixer : config.mixers)
    spec.layers.push_back({mixer == model::MixerKind::kAttention});
  spec.dtype = weights.dtype();
  spec.page_tokens = kPageTokens;
  spec.num_key_value_heads = config.num_key_value_heads;
  spec.head_dim = config.head_dim;
  spec.conv_taps = config.linear_conv_kernel_dim;
  spec.conv_channels = config.conv_dim();
  spec.value_heads = config.linear_num_value_heads;
  spec.key_head_dim = config.linear_key_head_dim;
  spec.value_head_dim = config.linear_value_head_dim;
  return spec;
}

/// The state slots of a prompt and of one branch of it.
constexpr int64_t kLeastSlots = 2;

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

int64_t pages_for(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

at::Tensor id_tensor(const std::vector<int64_t>& values) {
  at::Tensor made =
      at::empty({static_cast<int64_t>(values.size())}, at::TensorOptions().dtype(at::kLong));
  std::copy(values.begin(), values.end(), made.mutable_data_ptr<int64_t>());
  return made;
}

}  // namespace

struct Engine::Cache {
  int64_t num_pages = 0, num_slots = 0;
  cache::CacheTensors tensors;
  Cache(const cache::CacheSpec& spec)
      : num_pages(spec.num_pages), num_slots(spec.num_slots), tensors(spec) {}
};

/// One call of generate: the state of its groups and sequences.
class Engine::Run {
 public:
  Run(Engine& engine,
      std::span<const GenerationRequest> requests,
      const GenerationSettings& settings)
      : engine_(engine),
        requests_(requests),
        settings_(settings),
        decoder_(*engine.weights_),
        least_part_tokens_(least_part_tokens(*engine.weights_)),
        scheduler_(limits()),
        results_(requests.size()),
        prompt_logits_(requests.size()) {
    for (const auto& request : requests) {
      scheduler_.add({static_cast<int64_t>(request.prompt.size()), settings.max_new_tokens,
                      request.num_samples});
      const Digest prompt =
          digest_of(request.prompt.data(), request.prompt.size() * sizeof(int64_t));
      const std::array<uint64_t, 4> words{prompt.low, prompt.high, request.occurrence,
                                          request.draw};
      stream_keys_.push_back(digest_of(words.data(), sizeof(words)).low);
      results_[stream_keys_.size() - 1].resize(static_cast<size_t>(request.num_samples));
    }
  }

  std::vector<std::vector<Completion>> run(const Progress& progress) {
    at::NoGradGuard no_grad;
    while (scheduler_.has_work()) {
      start_branches();
      step();
      if (progress) progress(tokens_, completions_);
    }
    return std::move(results_);
  }

 private:
  struct Active {
    /// The ids of prompt and completion, kept only for a repetition penalty.
    std::vector<int64_t> seen;
    std::optional<StopStringFinder> stop_strings;
  };

  /// Tokens [N], int64, and their log-probabilities [N].
  struct Drawn {
    at::Tensor tokens, logprobs;
  };

  SchedulerLimits limits() const {
    return {.max_num_seqs = engine_.options_.max_num_seqs,
            .page_tokens = kPageTokens,
            .num_pages = engine_.cache_->num_pages,
            .num_slots = engine_.cache_->num_slots};
  }

  /// Starts samples from their prefilled prompts: copies what they need, then draws the first token
  /// from the prompt's last logits.
  void start_branches() {
    for (;;) {
      const auto branches = scheduler_.branch();
      if (branches.empty()) return;
      std::vector<int64_t> handles;
      std::vector<at::Tensor> rows;
      for (const Branch& branch : branches) {
        auto& tensors = engine_.cache_->tensors;
        if (branch.copy_page) tensors.copy_page(branch.copy_page->first, branch.copy_page->second);
        if (branch.copy_slot) tensors.copy_slot(branch.copy_slot->first, branch.copy_slot->second);
        const GenerationRequest& request = requests_[static_cast<size_t>(branch.group)];
        active_.resize(std::max(active_.size(), static_cast<size_t>(branch.sequence) + 1));
        Active& active = active_[static_cast<size_t>(branch.sequence)];
        if (settings_.sampling.repetition_penalty != 1) active.seen = request.prompt;
        if (!settings_.stop_strings.empty())
          active.stop_strings.emplace(*settings_.tokenizer, settings_.stop_strings);
        handles.push_back(branch.sequence);
        rows.push_back(prompt_logits_[static_cast<size_t>(branch.group)]);
        if (branch.sample + 1 == request.num_samples)
          prompt_logits_[static_cast<size_t>(branch.group)].reset();
      }
      accept(handles, draw(handles, at::stack(rows)));
    }
  }

  /// Some sequences of a step, which one forward computes.
  struct Part {
    model::CachedBatch cached;
    std::vector<int64_t> ids, positions, last_rows;
    std::vector<std::vector<int32_t>> tables;
    /// The prompts to prefill, which are the first of its sequences.
    std::vector<int64_t> groups;
    /// The running sequences, which follow them.
    std::vector<int64_t> handles;
    /// Its rows in what is kept.
    int64_t first_row = 0;
    /// [groups, V]
    at::Tensor prompt_logits;
    /// The next token of each handle.
    Drawn drawn;

    void append(std::span<const int64_t> tokens,
                int64_t start,
                int32_t slot,
                const std::vector<int32_t>& pages) {
      for (size_t i = 0; i < tokens.size(); ++i) {
        ids.push_back(tokens[i]);
        positions.push_back(start + static_cast<int64_t>(i));
      }
      const auto count = static_cast<int64_t>(tokens.size());
      cached.paged.sequences.append(count);
      cached.paged.context_lengths.push_back(static_cast<int32_t>(start + count));
      cached.slots.push_back(slot);
      last_rows.push_back(cached.paged.sequences.tokens() - 1);
      tables.push_back(pages);
    }
  };

  /// One forward over the prompts to prefill and one token of every running sequence.
  void step() {
    const auto prefills = scheduler_.start_prefills();
    const std::vector<int64_t> running = scheduler_.running();
    if (prefills.empty() && running.empty()) {
      LOCKSTEP_CHECK(!scheduler_.has_work(), "the sampler has work but nothing can run");
      return;
    }
    std::vector<Part> parts = make_parts(prefills, running);
    // Inside of it each op runs on one thread.
    at::parallel_for(0, std::ssize(parts), 1, [&](int64_t begin, int64_t end) {
      at::NoGradGuard no_grad;
      for (int64_t i = begin; i < end; ++i) compute(parts[static_cast<size_t>(i)]);
    });
    for (const Part& part : parts)
      for (size_t i = 0; i < part.groups.size(); ++i) {
        prompt_logits_[static_cast<size_t>(part.groups[i])] =
            part.prompt_logits.select(0, static_cast<int64_t>(i));
        scheduler_.prefill_done(part.groups[i]);
      }
    for (const Part& part : parts) accept(part.handles, part.drawn);
  }

  /// The step as one part that all threads share, or as a part for each thread if each has enough
  /// to do. A sequence's bits do not depend on the others of its part, and one parallel region for
  /// a whole forward is faster than many small ones.
  std::vector<Part> make_parts(const std::vector<Prefill>& prefills,
                               const std::vector<int64_t>& running) {
    std::vector<int64_t> lengths;
    for (const Prefill& prefill : prefills)
      lengths.push_back(std::ssize(requests_[static_cast<size_t>(prefill.group)].prompt));
    lengths.resize(prefills.size() + running.size(), 1);
    const auto ends = split_evenly(lengths, at::get_num_threads(), least_part_tokens_);
    std::vector<Part> parts(ends.size());
    size_t next = 0;
    for (size_t i = 0; i < parts.size(); ++i) {
      Part& part = parts[i];
      part.cached.tensors = &engine_.cache_->tensors;
      if (settings_.keep) part.first_row = settings_.keep->reserve(0);
      for (; next < ends[i]; ++next) {
        if (next < prefills.size()) {
          const Prefill& prefill = prefills[next];
          part.cached.tensors->clear_slot(prefill.slot);
          part.append(requests_[static_cast<size_t>(prefill.group)].prompt, 0, prefill.slot,
                      prefill.pages);
          part.groups.push_back(prefill.group);
          note_prompt_rows(prefill.group);
          continue;
        }
        const int64_t handle = running[next - prefills.size()];
        RunningSequence& sequence = scheduler_.sequence(handle);
        const int64_t token = result(sequence).token_ids.back();
        part.append({&token, 1}, sequence.length, sequence.slot, sequence.pages);
        part.handles.push_back(handle);
        if (settings_.keep) result(sequence).kept_rows.push_back(settings_.keep->reserve(1));
        ++sequence.length;
      }
      fill_block_table(part.cached.paged, part.tables);
    }
    return parts;
  }

  /// The rows of a prompt that is about to be prefilled; all of its completions share them.
  void note_prompt_rows(int64_t group) {
    if (!settings_.keep) return;
    const auto tokens = std::ssize(requests_[static_cast<size_t>(group)].prompt);
    std::vector<int64_t> rows(static_cast<size_t>(tokens));
    std::iota(rows.begin(), rows.end(), settings_.keep->reserve(tokens));
    for (Completion& completion : results_[static_cast<size_t>(group)]) completion.kept_rows = rows;
  }

  /// Computes the forward, the logits and the next tokens of a part.
  void compute(Part& part) const {
    model::ForwardBatch batch{id_tensor(part.ids), id_tensor(part.positions),
                              part.cached.paged.sequences, &part.cached, !settings_.exact};
    std::function<void(int64_t, const at::Tensor&)> keep;
    if (settings_.keep)
      keep = [&](int64_t layer, const at::Tensor& hidden) {
        settings_.keep->write(layer, part.first_row, hidden);
      };
    const at::Tensor hidden =
        decoder_.forward(batch, keep).index_select(0, id_tensor(part.last_rows));
    const at::Tensor logits = ops::vocabulary_logits(hidden, engine_.weights_->head());
    const auto num_prompts = std::ssize(part.groups);
    // Copied, since the few rows of prompts outlive the step.
    part.prompt_logits = logits.narrow(0, 0, num_prompts).clone();
    if (!part.handles.empty())
      part.drawn = draw(part.handles, logits.narrow(0, num_prompts, std::ssize(part.handles)));
  }

  static void fill_block_table(ops::PagedBatch& paged,
                               const std::vector<std::vector<int32_t>>& tables) {
    for (const auto& table : tables)
      paged.max_blocks = std::max(paged.max_blocks, static_cast<int64_t>(table.size()));
    paged.block_table.assign(tables.size() * static_cast<size_t>(paged.max_blocks), 0);
    for (size_t b = 0; b < tables.size(); ++b)
      std::copy(tables[b].begin(), tables[b].end(),
                paged.block_table.begin() + static_cast<int64_t>(b) * paged.max_blocks);
  }

  Completion& result(const RunningSequence& sequence) {
    return results_[static_cast<size_t>(sequence.group)][static_cast<size_t>(sequence.sample)];
  }

  const Completion& result(const RunningSequence& sequence) const {
    return results_[static_cast<size_t>(sequence.group)][static_cast<size_t>(sequence.sample)];
  }

  /// Draws the next token of each sequence from its row of logits [N, V] -> [N] int64.
  at::Tensor sample(const std::vector<int64_t>& handles, const at::Tensor& logits) const {
    const OpTimer timer("sample_token");
    const auto count = static_cast<int64_t>(handles.size());
    const int64_t vocabulary = logits.size(1);
    at::Tensor tokens = at::empty({count}, at::TensorOptions().dtype(at::kLong));
    int64_t* out = tokens.mutable_data_ptr<int64_t>();
    const float* data = logits.const_data_ptr<float>();
    parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t handle = handles[static_cast<size_t>(i)];
        const RunningSequence& sequence = scheduler_.sequence(handle);
        const RandomStream stream("sample", settings_.seed,
                                  stream_keys_[static_cast<size_t>(sequence.group)],
                                  static_cast<uint64_t>(sequence.sample));
        const auto position = static_cast<uint64_t>(result(sequence).token_ids.size());
        out[i] = ops::sample_token({data + i * vocabulary, static_cast<size_t>(vocabulary)},
                                   settings_.sampling, active_[static_cast<size_t>(handle)].seen,
                                   stream.uniform(position));
      }
    });
    return tokens;
  }

  Drawn draw(const std::vector<int64_t>& handles, const at::Tensor& logits) const {
    const at::Tensor tokens = sample(handles, logits);
    const double temperature =
        settings_.sampling.temperature > 0 ? settings_.sampling.temperature : 1.0;
    return {tokens, ops::logprobs_of_logits(logits, tokens, temperature)};
  }

  void accept(const std::vector<int64_t>& handles, const Drawn& drawn) {
    for (size_t i = 0; i < handles.size(); ++i)
      accept(handles[i], drawn.tokens.const_data_ptr<int64_t>()[i],
             drawn.logprobs.const_data_ptr<float>()[i]);
  }

  /// Appends a token to its completion, and ends the sequence if the token ends it.
  void accept(int64_t handle, int64_t token, float logprob) {
    const RunningSequence& sequence = scheduler_.sequence(handle);
    Completion& completion = result(sequence);
    Active& active = active_[static_cast<size_t>(handle)];
    completion.token_ids.push_back(token);
    completion.logprobs.push_back(logprob);
    ++tokens_;
    if (settings_.sampling.repetition_penalty != 1) active.seen.push_back(token);
    const bool is_stop_id = std::find(settings_.stop_ids.begin(), settings_.stop_ids.end(),
                                      token) != settings_.stop_ids.end();
    completion.has_stop_token = is_stop_id && !settings_.ignore_eos;
    if (active.stop_strings) completion.stop_string = active.stop_strings->push(token);
    if (settings_.on_token) settings_.on_token(sequence.group, completion);
    if (completion.has_stop_token || completion.stop_string)
      completion.finish_reason = FinishReason::kStop;
    else if (static_cast<int64_t>(completion.token_ids.size()) < settings_.max_new_tokens)
      return;
    active = {};
    ++completions_;
    scheduler_.finish(handle);
  }

  Engine& engine_;
  std::span<const GenerationRequest> requests_;
  const GenerationSettings& settings_;
  model::Decoder decoder_;
  int64_t least_part_tokens_;
  Scheduler scheduler_;
  std::vector<std::vector<Completion>> results_;
  std::vector<at::Tensor>
      /// [V] of each prefilled prompt, until its last sample started.
      prompt_logits_;
  std::vector<uint64_t> stream_keys_;
  std::vector<Active> active_;
  int64_t tokens_ = 0, completions_ = 0;
};

Engine::Engine(const model::ModelWeights& weights, const EngineOptions& options)
    : weights_(&weights), options_(options) {}
Engine::~Engine() = default;

int64_t Engine::cache_bytes() const {
  return static_cast<int64_t>(options_.cache_memory * (1 << 30));
}

void Engine::release_cache() { cache_.reset(); }

int64_t Engine::planned_cache_bytes(std::span<const GroupSpec> groups) const {
  const cache::CacheSpec spec = plan_cache(groups);
  return spec.num_pages * spec.page_bytes() + spec.num_slots * spec.slot_bytes();
}

int64_t Engine::planned_work_bytes(std::span<const GroupSpec> groups) const {
  const model::ModelConfig& config = weights_->config();
  const int64_t sequences = planned_sequences(groups);
  int64_t prompts = 0, prefilled = 0;
  for (const GroupSpec& group : groups) {
    if (prompts && prefilled + group.prompt_tokens > SchedulerLimits().max_prefill_tokens) break;
    ++prompts;
    prefilled += group.prompt_tokens;
  }
  const int64_t logits = (sequences + prompts) * config.vocab_size * 4;
  return logits + std::max(sequences, prefilled) *
                      model::layer_token_bytes(
                          config, static_cast<int64_t>(c10::elementSize(weights_->dtype())));
}

int64_t Engine::planned_sequences(std::span<const GroupSpec> groups) const {
  const cache::CacheSpec spec = plan_cache(groups);
  Scheduler scheduler({.max_num_seqs = options_.max_num_seqs,
                       .page_tokens = kPageTokens,
                       .num_pages = spec.num_pages,
                       .num_slots = spec.num_slots});
  for (const GroupSpec& group : groups) scheduler.add(group);
  for (int64_t before = -1; before != scheduler.num_running();) {
    before = scheduler.num_running();
    for (const Prefill& prefill : scheduler.start_prefills()) scheduler.prefill_done(prefill.group);
    while (!scheduler.branch().empty()) {
    }
  }
  return scheduler.num_running();
}

void Engine::check_room(int64_t prompt_tokens,
                        int64_t max_new_tokens,
                        std::string_view where) const {
  const int64_t longest_allowed =
      options_.max_model_len.value_or(weights_->config().max_position_embeddings);
  if (prompt_tokens < 1 || prompt_tokens + max_new_tokens > longest_allowed)
    fail<ConfigError>("prompt-too-long", where,
                      "expected prompt + completion of at most {} tokens, got {} + {}",
                      longest_allowed, prompt_tokens, max_new_tokens);
  const cache::CacheSpec spec = spec_of(*weights_);
  const int64_t pages = pages_of_group(prompt_tokens, max_new_tokens, kPageTokens);
  const int64_t bytes = pages * spec.page_bytes() + kLeastSlots * spec.slot_bytes();
  if (bytes > cache_bytes())
    fail<ConfigError>(
        "cache-too-small", "--cache_memory",
        "expected room for one sequence of {} pages and {} states ({} MiB), got {} GiB", pages,
        kLeastSlots, (bytes >> 20) + 1, options_.cache_memory);
}

/// Makes slots and pages for as many sequences as may run at once, if they were the longest ones,
/// as far as the budget has room. Slots get at most half of it, but two in any case. If half of the
/// budget leaves too little for the longest group, the group gets what it needs.
cache::CacheSpec Engine::plan_cache(std::span<const GroupSpec> groups) const {
  std::vector<const GroupSpec*> longest;
  int64_t most = 0;
  for (const GroupSpec& group : groups) {
    longest.push_back(&group);
    most = std::max(most, pages_of_group(group.prompt_tokens, group.max_new_tokens, kPageTokens));
  }
  const auto length = [](const GroupSpec& group) {
    return group.prompt_tokens + group.max_new_tokens;
  };
  std::stable_sort(longest.begin(), longest.end(),
                   [&](const GroupSpec* a, const GroupSpec* b) { return length(*a) > length(*b); });
  int64_t running = 0, prompts = 0, waiting = 0, pages = 0;
  for (const GroupSpec* group : longest) {
    const int64_t samples = std::min(group->num_samples, options_.max_num_seqs - running);
    if (samples == 0) break;
    running += samples;
    ++prompts;
    pages += samples * pages_for(length(*group)) + pages_for(group->prompt_tokens);
  }
  // One step computes some more prompts ahead, whose sequences wait; the most when they are short.
  int64_t prefilled = 0;
  for (auto group = longest.rbegin(); group != longest.rend() - prompts; ++group) {
    prefilled += (*group)->prompt_tokens;
    if (prefilled > SchedulerLimits().max_prefill_tokens) break;
    ++waiting;
    pages += pages_for((*group)->prompt_tokens);
  }
  cache::CacheSpec spec = spec_of(*weights_);
  spec.num_slots = running + prompts + waiting;
  if (spec.slot_bytes())
    spec.num_slots =
        std::min(spec.num_slots, std::max(kLeastSlots, cache_bytes() / 2 / spec.slot_bytes()));
  spec.num_pages = pages;
  if (spec.page_bytes())
    spec.num_pages =
        std::min(pages, (cache_bytes() - spec.num_slots * spec.slot_bytes()) / spec.page_bytes());
  if (spec.num_pages < most) {
    spec.num_slots = kLeastSlots;
    spec.num_pages = most;
  }
  return spec;
}

std::vector<std::vector<Completion>> Engine::generate(std::span<const GenerationRequest> requests,
                                                      const GenerationSettings& settings,
                                                      const Progress& progress) {
  if (requests.empty()) return {};
  std::vector<GroupSpec> groups;
  for (const auto& request : requests) {
    const auto length = static_cast<int64_t>(request.prompt.size());
    check_room(length, settings.max_new_tokens);
    groups.push_back({length, settings.max_new_tokens, request.num_samples});
  }
  const cache::CacheSpec spec = plan_cache(groups);
  if (!cache_ || cache_->num_pages < spec.num_pages || cache_->num_slots < spec.num_slots) {
    cache_.reset();
    cache_ = std::make_unique<Cache>(spec);
  }
  return Run(*this, requests, settings).run(progress);
}

}  // namespace lockstep::rollout
