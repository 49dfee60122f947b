// The engine under load: what a request returns is what it returns alone, and nothing stays behind.
// SPDX-License-Identifier: Apache-2.0
#include "rollout/engine_thread.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <thread>

#include "model/decoder.h"
#include "rollout/engine.h"
#include "tests/model/tiny_model.h"
#include "tests/rollout/engine_client.h"
#include "tests/support/expect_error.h"
#include "text/default_tokenizer.h"

namespace lockstep::rollout {
namespace {

using model::Family;
using model::WeightDtype;
using std::chrono::steady_clock;
using testing::id_tensor;
using testing::kFamilies;
using testing::kTinyVocabulary;
using testing::random_ids;
using testing::tiny_weights;

/// Requests of many kinds, whose prompts often begin alike.
std::vector<Request> some_requests(int64_t count, std::mt19937_64& random) {
  std::vector<std::vector<int64_t>> beginnings;
  for (const size_t length : {40, 130, 300}) beginnings.push_back(random_ids(length, random));
  std::vector<Request> requests;
  for (int64_t i = 0; i < count; ++i) {
    std::vector<int64_t> prompt;
    if (random() % 4) prompt = beginnings[random() % beginnings.size()];
    const auto rest = random_ids(random() % 8 ? random() % 60 + 1 : random() % 200 + 1, random);
    prompt.insert(prompt.end(), rest.begin(), rest.end());
    if (i % 7 == 3) prompt = requests.back().prompt;
    Request request =
        request_of(std::to_string(i), prompt, 1 + static_cast<int64_t>(random() % 150));
    request.num_samples = 1 + static_cast<int64_t>(random() % 3);
    request.settings.seed = random();
    request.settings.sampling.temperature = random() % 4 ? 0.5 + static_cast<double>(i % 3) : 0;
    if (random() % 3 == 0) request.settings.sampling.top_k = 20;
    if (random() % 4 == 0) request.settings.sampling.frequency_penalty = 0.7;
    if (random() % 4 == 0) request.settings.stop_ids = {3, 4, 5, 6, 7};
    request.settings.min_new_tokens = static_cast<int64_t>(random() % 4);
    requests.push_back(std::move(request));
  }
  return requests;
}

TEST(EngineThread, WhatARequestReturnsDoesNotDependOnWhatRunsBesideIt) {
  for (const Family family : kFamilies)
    for (const WeightDtype dtype : {WeightDtype::kFloat32, WeightDtype::kBFloat16}) {
      SCOPED_TRACE(fmt::format("{}, dtype {}", enum_name(family), static_cast<int>(dtype)));
      std::mt19937_64 random(testing::test_seed(1));
      auto requests = some_requests(12, random);
      // Two of these outgrow 13 pages together, after they have started together.
      for (int i = 0; i < 3; ++i)
        requests.push_back(request_of(fmt::format("long {}", i), random_ids(60, random), 500));
      std::map<std::string, Answer> alone;
      {
        // One at a time, whole prompts, nothing kept.
        const auto idle = make_engine(family, dtype, {.max_num_seqs = 1, .cache_memory = 0.25},
                                      {.enable_prefix_caching = false});
        Client client(*idle);
        for (const Request& request : requests) alone[request.id] = client.ask(request);
      }
      // So few pages that sequences are preempted, or so many slots that states are kept; and so
      // few tokens a step that prompts are cut.
      int64_t preemptions = 0, hits = 0;
      for (const double memory : {gib_of(family, dtype, 13), 0.02}) {
        const auto engine = make_engine(
            family, dtype, {.max_num_seqs = 8, .max_model_len = 1000, .cache_memory = memory},
            {.max_num_batched_tokens = 100});
        Client client(*engine);
        std::vector<std::thread> threads;
        for (size_t first = 0; first < 4; ++first)
          threads.emplace_back([&, first] {
            for (size_t i = first; i < requests.size(); i += 4) client.send(requests[i]);
          });
        for (std::thread& thread : threads) thread.join();
        for (const Request& request : requests)
          expect_same(client.wait(request.id), alone[request.id], request.id);
        preemptions += engine->stats().preemptions;
        hits += engine->stats().prefix_hits;
        expect_nothing_held(*engine);
      }
      EXPECT_GT(preemptions, 0);
      EXPECT_GT(hits, 0);
    }
}

TEST(EngineThread, AbortsLeaveNothingBehindAndDisturbNobody) {
  for (const Family family : {Family::kQwen3, Family::kQwen3_5Moe}) {
    SCOPED_TRACE(enum_name(family));
    std::mt19937_64 random(testing::test_seed(2));
    const auto requests = some_requests(60, random);
    const auto engine =
        make_engine(family, WeightDtype::kFloat32, {.max_num_seqs = 8, .cache_memory = 0.01});
    Client client(*engine);
    std::map<std::string, Answer> alone;
    for (size_t i = 0; i < requests.size(); i += 2) {
      Request request = requests[i];
      request.id += " alone";
      alone[requests[i].id] = client.ask(request);
    }
    for (const Request& request : requests) client.send(request);
    for (size_t i = 1; i < requests.size(); i += 2) {
      if (random() % 2) std::this_thread::sleep_for(std::chrono::milliseconds(random() % 8));
      engine->abort_request(requests[i].id);
    }
    for (size_t i = 0; i < requests.size(); ++i) {
      const Answer answer = client.wait(requests[i].id);
      if (i % 2 == 0) {
        expect_same(answer, alone[requests[i].id], requests[i].id);
        continue;
      }
      EXPECT_EQ(std::ssize(answer.samples), requests[i].num_samples);
      for (const auto& [index, sample] : answer.samples) EXPECT_TRUE(sample.done);
    }
    EXPECT_FALSE(engine->abort_request("none"));
    expect_nothing_held(*engine);
  }
}

/// The logits [T, V] behind each token.
at::Tensor logits_of(const model::ModelWeights& weights, const std::vector<int64_t>& ids) {
  at::NoGradGuard no_grad;
  model::ForwardBatch batch;
  batch.ids = id_tensor(ids);
  batch.sequences.append(std::ssize(ids));
  batch.positions = model::positions_of(batch.sequences);
  return ops::vocabulary_logits(model::Decoder(weights).forward(batch), weights.head());
}

TEST(EngineThread, PromptsAndAlternativesAreScoredAsATrainerWould) {
  for (const Family family : {Family::kQwen3, Family::kQwen3_5}) {
    SCOPED_TRACE(enum_name(family));
    const auto weights = tiny_weights(family);
    const auto engine = make_engine(family, WeightDtype::kFloat32, {.cache_memory = 0.25},
                                    {.max_num_batched_tokens = 64});
    Client client(*engine);
    std::mt19937_64 random(testing::test_seed(3));
    Request request = request_of("a", random_ids(150, random), 5);
    request.settings.prompt_logprobs = 2;
    request.settings.top_logprobs = 3;
    request.settings.sampling.temperature = 0.7;
    const Answer answer = client.ask(request);
    std::vector<int64_t> ids = request.prompt;
    ids.insert(ids.end(), answer.samples.at(0).ids.begin(), answer.samples.at(0).ids.end());
    const at::Tensor logits = logits_of(*weights, ids);
    const at::Tensor expected = ops::logprobs_of_logits(
        logits.narrow(0, 0, std::ssize(ids) - 1), id_tensor({ids.begin() + 1, ids.end()}), 0.7);
    const auto ordered = logits.argsort(/*dim=*/1, /*descending=*/true);
    ASSERT_EQ(answer.prompt->logprobs.size(), request.prompt.size());
    EXPECT_EQ(answer.prompt->logprobs[0].token.rank, 0);
    for (size_t t = 1; t < ids.size(); ++t) {
      const auto row = static_cast<int64_t>(t) - 1;
      const bool is_prompt = t < request.prompt.size();
      const size_t n = is_prompt ? 0 : t - request.prompt.size();
      const float logprob =
          is_prompt ? answer.prompt->logprobs[t].token.logprob : answer.samples.at(0).logprobs[n];
      EXPECT_EQ(logprob, expected.const_data_ptr<float>()[row]) << t;
      const auto& top = is_prompt ? answer.prompt->logprobs[t].top : answer.samples.at(0).top[n];
      ASSERT_EQ(top.size(), is_prompt ? 2u : 3u);
      for (size_t k = 0; k < top.size(); ++k) {
        EXPECT_EQ(top[k].id, ordered[row][static_cast<int64_t>(k)].item<int64_t>());
        EXPECT_EQ(top[k].rank, static_cast<int64_t>(k) + 1);
        EXPECT_TRUE(top[k].id != ids[t] || top[k].logprob == logprob);
      }
      if (!is_prompt) continue;
      const auto place = (ordered[row] == ids[t]).nonzero().item<int64_t>();
      EXPECT_EQ(answer.prompt->logprobs[t].token.rank, place + 1);
    }
    // Once more, with the prompt in the cache: it is scored all the same.
    request.id = "b";
    const Answer again = client.ask(request);
    EXPECT_EQ(again.prompt->logprobs[149].token.logprob,
              answer.prompt->logprobs[149].token.logprob);
  }
}

TEST(EngineThread, TheSecondRequestFindsThePromptOfTheFirst) {
  for (const Family family : kFamilies) {
    SCOPED_TRACE(enum_name(family));
    const auto engine = make_engine(family, WeightDtype::kFloat32);
    Client client(*engine);
    std::mt19937_64 random(testing::test_seed(4));
    Request request = request_of("a", random_ids(1000, random), 8);
    const Answer first = client.ask(request);
    EXPECT_EQ(first.prompt->cached_tokens, 0);
    request.id = "b";
    const Answer second = client.ask(request);
    EXPECT_EQ(second.prompt->cached_tokens, 1000);
    expect_same(second, first, "b");
    // The next turn of a conversation: prompt, answer, question.
    request.id = "c";
    request.prompt.insert(request.prompt.end(), first.samples.at(0).ids.begin(),
                          first.samples.at(0).ids.end());
    const auto question = random_ids(20, random);
    request.prompt.insert(request.prompt.end(), question.begin(), question.end());
    // All but the last token of the answer, which no layer read.
    EXPECT_GE(client.ask(request).prompt->cached_tokens, 1000);
  }
}

TEST(EngineThread, MinTokensHoldOffStopIds) {
  const auto engine = make_engine(Family::kQwen3, WeightDtype::kFloat32);
  Client client(*engine);
  Request request = request_of("a", {1, 2, 3}, 20);
  for (int64_t id = 0; id < kTinyVocabulary - 1; ++id) request.settings.stop_ids.push_back(id);
  EXPECT_EQ(client.ask(request).samples.at(0).ids.size(), 1u);
  request.id = "b";
  request.settings.min_new_tokens = 4;
  const Answer answer = client.ask(request);
  const auto& ids = answer.samples.at(0).ids;
  ASSERT_GE(ids.size(), 4u);
  for (size_t t = 0; t < 4; ++t) EXPECT_EQ(ids[t], kTinyVocabulary - 1);
}

TEST(EngineThread, SequencesAreAsLongAsTheCacheHolds) {
  const auto engine =
      make_engine(Family::kQwen3, WeightDtype::kFloat32,
                  {.max_num_seqs = 2, .max_model_len = 100'000, .cache_memory = 0.001});
  const int64_t most = engine->facts().max_model_len;
  ASSERT_GT(most, 0);
  ASSERT_LT(most, 100'000);
  Client client(*engine);
  client.send(request_of("fits", {1, 2, 3}, most - 3));
  EXPECT_ERROR(client.send(request_of("long", {1, 2, 3}, most - 2)), RequestError,
               "prompt-too-long", fmt::format("at most {} tokens", most));
  client.wait("fits", [](const Answer& answer) { return !answer.samples.empty(); });
  EXPECT_EQ(most, (engine->stats().pages - 1) * kPageTokens);
  engine->abort_all();
  client.wait("fits");
}

TEST(EngineThread, RequestsAreRefusedAtOnce) {
  const auto engine = make_engine(Family::kQwen3, WeightDtype::kFloat32,
                                  {.max_num_seqs = 1, .max_model_len = 600, .cache_memory = 0.01},
                                  {.max_queue = 2});
  Client client(*engine);
  EXPECT_ERROR(client.send(request_of("long", std::vector<int64_t>(590, 1), 11)), RequestError,
               "prompt-too-long", "at most 600 tokens, got 590 + 11");
  EXPECT_ERROR(client.send(request_of("none", {}, 1)), RequestError, "bad-request", "token");
  EXPECT_ERROR(client.send(request_of("id", {kTinyVocabulary}, 1)), RequestError, "bad-request",
               "expected ids in [0, 199), got 199");
  Request demanding = request_of("version", {1}, 1);
  demanding.weight_version = "other";
  EXPECT_ERROR(client.send(demanding), RequestError, "version-mismatch",
               "version other, got default");
  client.send(request_of("running", {1, 2}, 590));
  client.wait("running", [](const Answer& answer) { return answer.prompt.has_value(); });
  client.send(request_of("w1", {1}, 1));
  EXPECT_ERROR(client.send(request_of("w1", {1}, 1)), RequestError, "bad-request",
               "no request in work has, got w1");
  client.send(request_of("w2", {1}, 1));
  EXPECT_ERROR(client.send(request_of("w3", {1}, 1)), RequestError, "queue-full", "at most 2");
  EXPECT_EQ(engine->stats().waiting, 2);
  engine->abort_all();
  for (const char* id : {"running", "w1", "w2"})
    EXPECT_EQ(client.wait(id).done->status, RequestDone::Status::kAborted);
  EXPECT_EQ(client.ask(request_of("w3", {1}, 1)).done->status, RequestDone::Status::kCompleted);
}

TEST(EngineThread, ADeadlineEndsARequestWithWhatItHas) {
  const auto engine = make_engine(Family::kQwen3, WeightDtype::kFloat32);
  Client client(*engine);
  Request request = request_of("a", {1, 2, 3}, 3000);
  request.deadline = steady_clock::now() + std::chrono::milliseconds(50);
  const Answer late = client.ask(request);
  EXPECT_EQ(late.done->status, RequestDone::Status::kDeadline);
  EXPECT_EQ(late.samples.at(0).done->end, SampleEnd::kAborted);
  EXPECT_LT(late.samples.at(0).ids.size(), 3000u);
  // A request that waits has one as well, also while nothing is sampled.
  engine->pause(PauseMode::kKeep, true, [] {});
  request.id = "b";
  request.deadline = steady_clock::now() + std::chrono::milliseconds(20);
  EXPECT_EQ(client.ask(request).done->status, RequestDone::Status::kDeadline);
  engine->resume();
  EXPECT_EQ(client.ask(request_of("c", {1}, 2)).done->status, RequestDone::Status::kCompleted);
}

/// What greedy sampling says after `ids` under the weights of a seed.
std::vector<int64_t> greedy(Family family, uint64_t seed, std::vector<int64_t> ids, size_t count) {
  const auto weights = tiny_weights(family, WeightDtype::kFloat32, seed);
  Engine engine(*weights, {.cache_memory = 0.25});
  GenerationSettings settings;
  settings.sampling.temperature = 0;
  settings.max_new_tokens = static_cast<int64_t>(count);
  const std::vector<GenerationRequest> requests{{.prompt = std::move(ids)}};
  return engine.generate(requests, settings)[0][0].token_ids;
}

TEST(EngineThread, ASwapBetweenTwoStepsShowsInTheVersionsOfTokens) {
  for (const Family family : {Family::kQwen3, Family::kQwen3_5}) {
    SCOPED_TRACE(enum_name(family));
    const auto engine = make_engine(family, WeightDtype::kFloat32);
    Client client(*engine);
    std::mt19937_64 random(testing::test_seed(5));
    Request request = request_of("kept", random_ids(90, random), 400);
    request.settings.sampling.temperature = 0;
    client.send(request);
    client.wait("kept", [](const Answer& answer) {
      return answer.samples.contains(0) && answer.samples.at(0).ids.size() >= 10;
    });
    EXPECT_TRUE(waits_for([&](auto done) { engine->pause(PauseMode::kKeep, true, done); }));
    EXPECT_TRUE(engine->is_paused());
    EXPECT_EQ(swap(*engine, family, 2, "second"), nullptr);
    EXPECT_EQ(engine->weight_version(), "second");
    engine->resume();
    const Answer answer = client.wait("kept");
    const auto& sample = answer.samples.at(0);
    ASSERT_EQ(sample.ids.size(), 400u);
    const auto border = std::find(sample.versions.begin(), sample.versions.end(), "second");
    const auto first = static_cast<size_t>(border - sample.versions.begin());
    ASSERT_GE(first, 10u);
    ASSERT_LT(first, 400u);
    EXPECT_TRUE(std::all_of(sample.versions.begin(), border,
                            [](const auto& version) { return version == "default"; }));
    EXPECT_TRUE(std::all_of(border, sample.versions.end(),
                            [](const auto& version) { return version == "second"; }));
    const auto middle = sample.ids.begin() + static_cast<int64_t>(first);
    EXPECT_EQ(greedy(family, 1, request.prompt, first),
              std::vector<int64_t>(sample.ids.begin(), middle));
    std::vector<int64_t> longer = request.prompt;
    longer.insert(longer.end(), sample.ids.begin(), middle);
    EXPECT_EQ(greedy(family, 2, longer, 400 - first),
              std::vector<int64_t>(middle, sample.ids.end()));
    // Nothing of the old weights is found in the cache.
    request.id = "fresh";
    request.settings.max_new_tokens = 20;
    EXPECT_EQ(client.ask(request).samples.at(0).ids, greedy(family, 2, request.prompt, 20));
  }
}

TEST(EngineThread, APauseWaitsForWhatRunsOrEndsIt) {
  const auto engine = make_engine(Family::kQwen3_5, WeightDtype::kFloat32,
                                  {.max_num_seqs = 2, .cache_memory = 0.25});
  Client client(*engine);
  const auto has_begun = [](const Answer& answer) { return answer.prompt.has_value(); };
  Request request = request_of("running", {1, 2, 3}, 300);
  request.num_samples = 4;
  client.send(request);
  client.wait("running", has_begun);
  client.send(request_of("waiting", {4, 5}, 5));
  EXPECT_TRUE(waits_for([&](auto done) { engine->pause(PauseMode::kWait, true, done); }));
  const Answer running = client.wait("running");
  EXPECT_EQ(running.done->status, RequestDone::Status::kCompleted);
  for (const auto& [index, sample] : running.samples) EXPECT_EQ(sample.ids.size(), 300u);
  EXPECT_EQ(swap(*engine, Family::kQwen3_5, 2, "second"), nullptr);
  EXPECT_FALSE(client.wait("waiting", [](const Answer&) { return true; }).prompt);
  engine->resume();
  EXPECT_EQ(client.wait("waiting").samples.at(0).versions[0], "second");
  EXPECT_FALSE(engine->is_paused());

  client.send(request_of("aborted", {1, 2, 3}, 3000));
  client.wait("aborted", has_begun);
  EXPECT_TRUE(waits_for([&](auto done) { engine->pause(PauseMode::kAbort, true, done); }));
  const Answer aborted = client.wait("aborted");
  EXPECT_EQ(aborted.done->status, RequestDone::Status::kAborted);
  EXPECT_FALSE(aborted.samples.at(0).ids.empty());
  // Again, as often as one likes.
  EXPECT_TRUE(waits_for([&](auto done) { engine->pause(PauseMode::kAbort, true, done); }));
  engine->resume();
  engine->resume();
  EXPECT_EQ(client.ask(request_of("next", {1}, 2)).done->status, RequestDone::Status::kCompleted);
}

TEST(EngineThread, ARequestThatDemandsAVersionNeverMixesTwo) {
  const auto engine = make_engine(Family::kQwen3, WeightDtype::kFloat32);
  Client client(*engine);
  Request request = request_of("a", {1, 2, 3}, 3000);
  request.weight_version = "default";
  client.send(request);
  client.wait("a", [](const Answer& answer) { return answer.prompt.has_value(); });
  EXPECT_EQ(swap(*engine, Family::kQwen3, 2, "second"), nullptr);
  const Answer answer = client.wait("a");
  EXPECT_EQ(answer.done->status, RequestDone::Status::kFailed);
  EXPECT_EQ(answer.done->http_status, 409);
  EXPECT_EQ(answer.done->code, "version-mismatch");
}

TEST(EngineThread, WeightsOfAnotherModelAreRefusedAndTheOldOnesStay) {
  const auto engine = make_engine(Family::kQwen3, WeightDtype::kFloat32);
  Client client(*engine);
  Request request = request_of("a", {1, 2, 3}, 6);
  const Answer before = client.ask(request);
  EXPECT_ERROR(std::rethrow_exception(swap(*engine, Family::kQwen3_5, 2, "second")), FormatError,
               "shape-mismatch", "another model's");
  EXPECT_EQ(engine->weight_version(), "default");
  request.id = "b";
  expect_same(client.ask(request), before, "b");
}

std::unique_ptr<StagedModel> staged_as(
    std::function<std::shared_ptr<const model::ModelWeights>()> build) {
  auto staged = std::make_unique<StagedModel>();
  staged->build = std::move(build);
  return staged;
}

TEST(EngineThread, WeightsAreMadeWhenTheOldOnesAreGone) {
  const auto engine = make_engine(Family::kQwen3, WeightDtype::kFloat32),
             other = make_engine(Family::kQwen3, WeightDtype::kFloat32);
  Client client(*engine), expected(*other);
  EXPECT_EQ(swap(*other, Family::kQwen3, 2, "second"), nullptr);
  const Answer before = client.ask(request_of("a", {1, 2, 3}, 6));
  const std::weak_ptr<const model::ModelWeights> old = engine->weights();
  const auto error = swap(*engine, staged_as([&] {
    EXPECT_TRUE(old.expired());
    return tiny_weights(Family::kQwen3, WeightDtype::kFloat32, 2);
  }),
                          "second");
  EXPECT_EQ(error, nullptr);
  EXPECT_EQ(engine->weight_version(), "second");
  const Answer after = client.ask(request_of("b", {1, 2, 3}, 6));
  expect_same(after, expected.ask(request_of("b", {1, 2, 3}, 6)), "b");
  EXPECT_NE(after.samples.at(0).logprobs, before.samples.at(0).logprobs);
}

TEST(EngineThread, WithoutWeightsItRefusesUntilOthersCome) {
  const auto engine = make_engine(Family::kQwen3, WeightDtype::kFloat32);
  Client client(*engine);
  const Answer before = client.ask(request_of("a", {1, 2, 3}, 6));
  engine->pause(PauseMode::kKeep, false, [] {});
  client.send(request_of("running", {1, 2, 3}, 60));
  const auto broken = swap(*engine, staged_as([]() -> std::shared_ptr<const model::ModelWeights> {
    fail<FormatError>("digest-mismatch", "block", "expected others");
  }),
                           "second");
  EXPECT_ERROR(std::rethrow_exception(broken), FormatError, "digest-mismatch", "block");
  EXPECT_NE(client.wait("running").done->status, RequestDone::Status::kCompleted);
  EXPECT_FALSE(engine->has_weights());
  EXPECT_TRUE(engine->is_alive());
  EXPECT_EQ(engine->weights(), nullptr);
  EXPECT_EQ(engine->weight_version(), "");
  engine->resume();
  EXPECT_ERROR(client.send(request_of("b", {1, 2, 3}, 6)), RequestError, "poisoned", "broke off");
  // Nor are weights of another model any.
  EXPECT_NE(swap(*engine, Family::kQwen3_5, 1, "third"), nullptr);
  EXPECT_FALSE(engine->has_weights());
  EXPECT_EQ(swap(*engine, Family::kQwen3, 1, "fourth"), nullptr);
  EXPECT_TRUE(engine->has_weights());
  EXPECT_EQ(engine->weight_version(), "fourth");
  expect_same(client.ask(request_of("c", {1, 2, 3}, 6)), before, "c");
  expect_nothing_held(*engine);
}

TEST(EngineThread, WhatIsTakenInIsAnsweredWhenTheEngineEnds) {
  auto engine = make_engine(Family::kQwen3, WeightDtype::kFloat32);
  Client client(*engine);
  for (int i = 0; i < 20; ++i) client.send(request_of(std::to_string(i), {1, 2, 3}, 3000));
  engine.reset();
  for (int i = 0; i < 20; ++i)
    EXPECT_EQ(client.wait(std::to_string(i)).done->status, RequestDone::Status::kAborted);
}

TEST(EngineThread, LogitsThatAreNoNumbersEndTheirRequest) {
  auto weights = tiny_weights(Family::kQwen3);
  // The embedding of one token is not finite: who has it fails, the others do not see it.
  for (auto& parameter : weights->parameters())
    if (parameter.id == "embedding") parameter.value.select(0, 7).fill_(std::nanf(""));
  weights->pack();
  EngineThread engine({.weights = std::move(weights), .engine = {.cache_memory = 0.25}});
  Client client(engine);
  client.send(request_of("good", {1, 2, 3}, 40));
  const Answer bad = client.ask(request_of("bad", {1, 7, 3}, 40));
  EXPECT_EQ(bad.done->status, RequestDone::Status::kFailed);
  EXPECT_EQ(bad.done->code, "non-finite-logits");
  EXPECT_TRUE(engine.is_alive());
  client.wait("good");
  expect_nothing_held(engine);
}

}  // namespace
}  // namespace lockstep::rollout
