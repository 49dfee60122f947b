// A client of the sampler's thread for tests: it sends requests and keeps what they tell.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "rollout/cache_plan.h"
#include "rollout/engine_thread.h"
#include "tests/model/tiny_model.h"

namespace lockstep::rollout {

/// What a request has told so far.
struct Answer {
  struct Sample {
    std::vector<int64_t> ids;
    std::vector<float> logprobs;
    std::vector<std::vector<TokenLogprob>> top;
    std::vector<std::string> versions;
    std::optional<SampleDone> done;
  };
  std::map<int64_t, Sample> samples;
  std::optional<PromptDone> prompt;
  std::optional<RequestDone> done;
};

/// Sends requests and keeps what they tell. No wait is longer than kPatience.
class Client {
 public:
  static constexpr std::chrono::seconds kPatience{300};
  explicit Client(EngineService& engine) : engine_(&engine) {}

  void send(const Request& request) {
    engine_->submit(request, [this, id = request.id](RequestEvent&& event) {
      const std::lock_guard lock(mutex_);
      take(answers_[id], std::move(event));
      changed_.notify_all();
    });
  }
  /// Waits until `condition` holds of an answer.
  template <class Condition>
  Answer wait(const std::string& id, const Condition& condition) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kPatience, [&] { return condition(answers_[id]); }))
        << "request " << id;
    return answers_[id];
  }
  Answer wait(const std::string& id) {
    return wait(id, [](const Answer& answer) { return answer.done.has_value(); });
  }
  Answer ask(const Request& request) {
    send(request);
    return wait(request.id);
  }

 private:
  static void take(Answer& answer, RequestEvent&& event) {
    EXPECT_FALSE(answer.done) << "nothing follows the end";
    if (auto* const prompt = std::get_if<PromptDone>(&event)) {
      EXPECT_FALSE(answer.prompt);
      answer.prompt = std::move(*prompt);
    } else if (auto* const token = std::get_if<SampleToken>(&event)) {
      EXPECT_TRUE(answer.prompt);
      Answer::Sample& sample = answer.samples[token->sample];
      EXPECT_FALSE(sample.done);
      sample.ids.push_back(token->token.token.id);
      sample.logprobs.push_back(token->token.token.logprob);
      sample.top.push_back(token->token.top);
      sample.versions.push_back(*token->weight_version);
    } else if (auto* const done = std::get_if<SampleDone>(&event)) {
      EXPECT_FALSE(answer.samples[done->sample].done);
      answer.samples[done->sample].done = *done;
    } else {
      answer.done = std::get<RequestDone>(event);
    }
  }

  EngineService* engine_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Answer> answers_;
};

inline std::unique_ptr<EngineThread> make_engine(
    model::Family family,
    model::WeightDtype dtype,
    const EngineOptions& engine = {.cache_memory = 0.25},
    const ServiceOptions& service = {}) {
  return std::make_unique<EngineThread>(EngineThread::Setup{
      .weights = testing::tiny_weights(family, dtype), .engine = engine, .service = service});
}

inline Request request_of(std::string id, std::vector<int64_t> prompt, int64_t max_new_tokens) {
  Request request;
  request.id = std::move(id);
  request.prompt = std::move(prompt);
  request.settings.max_new_tokens = max_new_tokens;
  return request;
}

inline void expect_same(const Answer& a, const Answer& b, const std::string& id) {
  ASSERT_EQ(a.samples.size(), b.samples.size()) << id;
  for (const auto& [index, sample] : a.samples) {
    const Answer::Sample& other = b.samples.at(index);
    ASSERT_EQ(sample.ids, other.ids) << "request " << id << ", sample " << index;
    ASSERT_EQ(std::memcmp(sample.logprobs.data(), other.logprobs.data(),
                          sample.logprobs.size() * sizeof(float)),
              0)
        << "request " << id << ", sample " << index;
    EXPECT_EQ(sample.done->end, other.done->end);
  }
}

inline void expect_nothing_held(EngineThread& engine) {
  engine.reset_prefix_cache();
  const auto deadline = std::chrono::steady_clock::now() + Client::kPatience;
  EngineStats stats = engine.stats();
  while (std::chrono::steady_clock::now() < deadline &&
         (stats.pages_in_use || stats.pages_cached || stats.slots_in_use || stats.slots_cached ||
          stats.running || stats.waiting)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    stats = engine.stats();
  }
  EXPECT_EQ(stats.pages_in_use + stats.pages_cached, 0);
  EXPECT_EQ(stats.slots_in_use + stats.slots_cached, 0);
  EXPECT_EQ(stats.running + stats.waiting, 0);
}

/// Memory of which so many pages of a tiny model are made, and few slots: they get half of it, but
/// two in any case.
inline double gib_of(model::Family family, model::WeightDtype dtype, int64_t pages) {
  const auto weights = testing::tiny_weights(family, dtype);
  const cache::CacheSpec spec = cache_spec(*weights);
  const int64_t bytes = pages * spec.page_bytes() + spec.page_bytes() / 2;
  const int64_t states =
      spec.slot_bytes() ? std::max(kLeastSlots * spec.slot_bytes(), bytes) : int64_t{0};
  return static_cast<double>(bytes + states) / (1 << 30);
}

/// Waits for a callback; null if it does not come.
template <class Call>
bool waits_for(const Call& call) {
  std::mutex mutex;
  std::condition_variable changed;
  bool is_done = false;
  call([&] {
    const std::lock_guard lock(mutex);
    is_done = true;
    changed.notify_all();
  });
  std::unique_lock lock(mutex);
  return changed.wait_for(lock, Client::kPatience, [&] { return is_done; });
}

inline std::exception_ptr swap(EngineThread& engine,
                               std::unique_ptr<StagedModel> staged,
                               std::string version) {
  std::exception_ptr error;
  EXPECT_TRUE(waits_for([&](auto done) {
    engine.swap_weights(std::move(staged), std::move(version), [&error, done](auto result) {
      error = result;
      done();
    });
  }));
  return error;
}

inline std::exception_ptr swap(EngineThread& engine,
                               model::Family family,
                               uint64_t seed,
                               std::string version) {
  auto staged = std::make_unique<StagedModel>();
  staged->weights = testing::tiny_weights(family, model::WeightDtype::kFloat32, seed);
  return swap(engine, std::move(staged), std::move(version));
}

}  // namespace lockstep::rollout
