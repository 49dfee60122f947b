// Requests with adapters, and without, at once: each returns what it returns alone.
// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <random>

#include "base/digest.h"
#include "model/decoder.h"
#include "rollout/engine_thread.h"
#include "tests/model/lively_adapter.h"
#include "tests/rollout/engine_client.h"

namespace lockstep::rollout {
namespace {

using model::Family;
using model::WeightDtype;
using testing::kFamilies;
using testing::random_ids;
using testing::tiny_weights;

using AdapterPointer = std::shared_ptr<const model::Adapter>;

/// None, one beside everything, and two beside parts of it, of other ranks and scales.
std::vector<AdapterPointer> some_adapters(const model::ModelWeights& weights) {
  const bool has_experts = weights.config().num_experts > 0;
  std::vector<AdapterPointer> adapters{nullptr};
  adapters.push_back(
      testing::lively_adapter(testing::modules_with(weights, ""), {.rank = 2, .alpha = 4}, 1));
  adapters.push_back(testing::lively_adapter(testing::modules_with(weights, "self_attn"),
                                             {.rank = 5, .alpha = 3}, 2));
  adapters.push_back(testing::lively_adapter(
      testing::modules_with(weights, has_experts ? "experts.down_proj" : "down_proj"),
      {.rank = 3, .alpha = 9}, 3));
  return adapters;
}

/// Requests whose prompts begin alike, or are the same, with adapters in turn.
std::vector<Request> requests_with(const std::vector<AdapterPointer>& adapters,
                                   int64_t max_new_tokens,
                                   std::mt19937_64& random) {
  const auto beginning = random_ids(150, random);
  std::vector<Request> requests;
  for (int round = 0; round < 4; ++round) {
    std::vector<int64_t> prompt = beginning;
    // In the last round the prompts are those of the one before.
    if (round < 3) {
      const auto rest = random_ids(1 + random() % 40, random);
      prompt.insert(prompt.end(), rest.begin(), rest.end());
    } else {
      prompt = requests.back().prompt;
    }
    for (size_t i = 0; i < adapters.size(); ++i) {
      Request request = request_of(fmt::format("{} {}", round, i), prompt, max_new_tokens);
      request.num_samples = 1 + round % 2;
      request.settings.seed = random();
      request.settings.sampling.temperature = round == 1 ? 0 : 0.8;
      request.settings.top_logprobs = 1;
      if (round == 2) request.settings.prompt_logprobs = 0;
      request.adapter = adapters[i];
      requests.push_back(std::move(request));
    }
  }
  return requests;
}

/// What each returns alone, with nothing in the cache.
std::map<std::string, Answer> answers_alone(Family family,
                                            WeightDtype dtype,
                                            const std::vector<Request>& requests) {
  const auto engine = make_engine(family, dtype, {.max_num_seqs = 2, .cache_memory = 0.25},
                                  {.enable_prefix_caching = false});
  Client client(*engine);
  std::map<std::string, Answer> alone;
  for (const Request& request : requests) alone[request.id] = client.ask(request);
  return alone;
}

void expect_same_prompt(const Answer& a, const Answer& b, const std::string& id) {
  ASSERT_EQ(a.prompt->logprobs.size(), b.prompt->logprobs.size()) << id;
  for (size_t t = 0; t < a.prompt->logprobs.size(); ++t)
    EXPECT_EQ(a.prompt->logprobs[t].token.logprob, b.prompt->logprobs[t].token.logprob)
        << id << ", token " << t;
}

TEST(Adapters, WhatARequestReturnsDoesNotDependOnTheAdaptersBesideIt) {
  for (const Family family : kFamilies)
    for (const WeightDtype dtype : {WeightDtype::kFloat32, WeightDtype::kBFloat16}) {
      SCOPED_TRACE(fmt::format("{}, dtype {}", enum_name(family), static_cast<int>(dtype)));
      std::mt19937_64 random(testing::test_seed(1));
      const auto adapters = some_adapters(*tiny_weights(family, dtype));
      auto requests = requests_with(adapters, 40, random);
      // Two of these outgrow 13 pages together, after they have started together.
      for (size_t i = 0; i < 3; ++i) {
        requests.push_back(request_of(fmt::format("long {}", i), random_ids(60, random), 500));
        requests.back().adapter = adapters[i];
      }
      auto alone = answers_alone(family, dtype, requests);
      // An adapter that did nothing would pass unseen.
      for (int round = 0; round < 4; ++round)
        for (size_t i = 1; i < adapters.size(); ++i)
          EXPECT_NE(alone[fmt::format("{} {}", round, i)].samples[0].logprobs,
                    alone[fmt::format("{} 0", round)].samples[0].logprobs)
              << round << i;
      int64_t preemptions = 0, hits = 0;
      for (const double memory : {gib_of(family, dtype, 13), 0.02}) {
        const auto engine = make_engine(
            family, dtype, {.max_num_seqs = 8, .max_model_len = 1000, .cache_memory = memory},
            {.max_num_batched_tokens = 100});
        Client client(*engine);
        for (const Request& request : requests) client.send(request);
        for (const Request& request : requests) {
          const Answer answer = client.wait(request.id);
          expect_same(answer, alone[request.id], request.id);
          expect_same_prompt(answer, alone[request.id], request.id);
        }
        preemptions += engine->stats().preemptions;
        hits += engine->stats().prefix_hits;
        expect_nothing_held(*engine);
      }
      EXPECT_GT(preemptions, 0);
      EXPECT_GT(hits, 0);
    }
}

TEST(Adapters, APrefixIsFoundUnderTheSameAdapterAlone) {
  for (const Family family : kFamilies) {
    SCOPED_TRACE(enum_name(family));
    const auto weights = tiny_weights(family);
    const auto adapters = some_adapters(*weights);
    const auto engine = make_engine(family, WeightDtype::kFloat32);
    Client client(*engine);
    std::mt19937_64 random(testing::test_seed(2));
    Request request = request_of("", random_ids(1000, random), 4);
    for (const int round : {0, 1})
      for (size_t i = 0; i < adapters.size(); ++i) {
        request.id = fmt::format("{} {}", round, i);
        request.adapter = adapters[i];
        EXPECT_EQ(client.ask(request).prompt->cached_tokens, round ? 1000 : 0) << i;
      }
    // Equal numbers in another adapter are another adapter.
    request.id = "again";
    request.adapter =
        testing::lively_adapter(testing::modules_with(*weights, ""), {.rank = 2, .alpha = 4}, 1);
    EXPECT_EQ(client.ask(request).prompt->cached_tokens, 0);
  }
}

TEST(Adapters, StayBoundWhenTheWeightsAreSwapped) {
  for (const Family family : {Family::kQwen3, Family::kQwen3_5Moe}) {
    SCOPED_TRACE(enum_name(family));
    std::mt19937_64 random(testing::test_seed(3));
    // Made for weights that are gone.
    const auto adapters = some_adapters(*tiny_weights(family));
    const auto requests = requests_with(adapters, 20, random);
    const auto engine = make_engine(family, WeightDtype::kFloat32);
    Client client(*engine);
    Request running = request_of("running", random_ids(30, random), 400);
    running.adapter = adapters[1];
    running.settings.sampling.temperature = 0;
    client.send(running);
    const auto has_begun = [](const Answer& answer) {
      return answer.samples.contains(0) && answer.samples.at(0).ids.size() >= 10;
    };
    client.wait("running", has_begun);
    for (const Request& request : requests) client.ask(request);
    EXPECT_TRUE(waits_for([&](auto done) { engine->pause(PauseMode::kKeep, true, done); }));
    const std::weak_ptr<const model::ModelWeights> before = engine->weights();
    EXPECT_EQ(swap(*engine, family, 2, "second"), nullptr);
    EXPECT_TRUE(before.expired());
    engine->resume();
    // It goes on under the new weights, with its adapter.
    const Answer::Sample sample = client.wait("running").samples.at(0);
    const auto border = std::find(sample.versions.begin(), sample.versions.end(), "second");
    const int64_t first = border - sample.versions.begin();
    ASSERT_LT(first, 400);
    Request rest = request_of("rest", running.prompt, 400 - first);
    rest.prompt.insert(rest.prompt.end(), sample.ids.begin(), sample.ids.begin() + first);
    rest.settings.sampling.temperature = 0;
    rest.adapter = adapters[1];
    // The new weights from their beginning on.
    EngineThread fresh({.weights = tiny_weights(family, WeightDtype::kFloat32, 2),
                        .engine = {.cache_memory = 0.25}});
    Client other(fresh);
    EXPECT_EQ(other.ask(rest).samples.at(0).ids,
              std::vector<int64_t>(sample.ids.begin() + first, sample.ids.end()));
    for (Request request : requests) {
      request.id += " again";
      expect_same(client.ask(request), other.ask(request), request.id);
    }
  }
}

TEST(Adapters, OneLivesAsLongAsItsRequests) {
  const auto engine = make_engine(Family::kQwen3, WeightDtype::kFloat32);
  Client client(*engine);
  AdapterPointer adapter = testing::lively_adapter(testing::modules_with(*engine->weights(), ""),
                                                   {.rank = 2, .alpha = 4}, 1);
  const std::weak_ptr<const model::Adapter> seen = adapter;
  Request request = request_of("a", {1, 2, 3}, 600);
  request.adapter = std::move(adapter);
  client.send(request);
  request.adapter = nullptr;
  client.wait("a", [](const Answer& answer) { return answer.prompt.has_value(); });
  EXPECT_FALSE(seen.expired());
  EXPECT_EQ(client.wait("a").samples.at(0).ids.size(), 600u);
  expect_nothing_held(*engine);
  EXPECT_TRUE(seen.expired());
}

TEST(Adapters, NeverChangeTheModel) {
  for (const Family family : {Family::kQwen3, Family::kQwen3_5Moe}) {
    const auto engine = make_engine(family, WeightDtype::kBFloat16);
    const auto digests = [&] {
      std::vector<std::string> all;
      for (const model::Parameter& parameter : engine->weights()->parameters())
        all.push_back(digest_of(parameter.value.const_data_ptr(), parameter.value.nbytes()).hex());
      return all;
    };
    const auto before = digests();
    Client client(*engine);
    std::mt19937_64 random(testing::test_seed(4));
    for (const Request& request : requests_with(some_adapters(*engine->weights()), 10, random))
      client.ask(request);
    EXPECT_EQ(digests(), before);
  }
}

}  // namespace
}  // namespace lockstep::rollout
