// What a completion may and may not depend on, and its log-probabilities against the trainer's.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstring>

#include "base/json.h"
#include "model/decoder.h"
#include "rollout/engine.h"
#include "tests/e2e/exactness.h"
#include "tests/model/tiny_model.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"
#include "tests/support/uninitialized_memory.h"
#include "text/default_tokenizer.h"
#include "train/trainer.h"

namespace lockstep::rollout {
namespace {

using model::Family;
using model::WeightDtype;
using testing::id_tensor;
using testing::kFamilies;
using testing::kTinyVocabulary;
using testing::random_ids;
using testing::tiny_weights;

using Completions = std::vector<std::vector<Completion>>;

GenerationSettings settings_of(int64_t max_new_tokens, double temperature = 1) {
  GenerationSettings settings;
  settings.max_new_tokens = max_new_tokens;
  settings.sampling.temperature = temperature;
  settings.seed = 7;
  return settings;
}

/// Prompts around the page size of 64, a few samples each.
std::vector<GenerationRequest> some_requests(uint64_t seed) {
  std::mt19937_64 random(testing::test_seed(seed));
  std::vector<GenerationRequest> requests;
  for (const size_t length : {1, 5, 63, 64, 65, 30}) {
    GenerationRequest request;
    request.prompt = random_ids(length, random);
    request.num_samples = 1 + static_cast<int64_t>(requests.size() % 3);
    requests.push_back(std::move(request));
  }
  return requests;
}

bool same(const Completion& a, const Completion& b) {
  return a.token_ids == b.token_ids && a.logprobs.size() == b.logprobs.size() &&
         !std::memcmp(a.logprobs.data(), b.logprobs.data(), a.logprobs.size() * sizeof(float)) &&
         a.finish_reason == b.finish_reason && a.has_stop_token == b.has_stop_token &&
         a.stop_string == b.stop_string;
}

void expect_same(const Completions& a, const Completions& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(a[i].size(), b[i].size());
    for (size_t j = 0; j < a[i].size(); ++j)
      EXPECT_TRUE(same(a[i][j], b[i][j])) << "request " << i << ", sample " << j;
  }
}

/// Prompt and completion, the completion scored.
std::vector<train::Sample> samples_of(const std::vector<GenerationRequest>& requests,
                                      const Completions& completions) {
  std::vector<train::Sample> samples;
  for (size_t i = 0; i < requests.size(); ++i) {
    for (const Completion& completion : completions[i]) {
      train::Sample sample;
      sample.ids = requests[i].prompt;
      sample.ids.insert(sample.ids.end(), completion.token_ids.begin(), completion.token_ids.end());
      sample.mask.assign(sample.ids.size(), 1);
      std::fill_n(sample.mask.begin(), requests[i].prompt.size(), 0);
      samples.push_back(std::move(sample));
    }
  }
  return samples;
}

TEST(Engine, SamplerLogprobsEqualTrainersBitForBit) {
  for (const Family family : kFamilies) {
    for (const WeightDtype dtype : {WeightDtype::kFloat32, WeightDtype::kBFloat16}) {
      const auto weights = tiny_weights(family, dtype);
      Engine engine(*weights, {.max_num_seqs = 5, .cache_memory = 0.25});
      for (const double temperature : {1.0, 0.7}) {
        SCOPED_TRACE(fmt::format("{}, dtype {}, temperature {}", enum_name(family),
                                 static_cast<int>(dtype), temperature));
        const auto requests = some_requests(3);
        const auto completions = engine.generate(requests, settings_of(20, temperature));
        const auto samples = samples_of(requests, completions);
        const train::Trainer trainer(*weights,
                                     {.max_tokens_per_micro_batch = temperature == 1 ? 4096 : 100});
        const auto scores = trainer.score(samples, {.temperature = temperature});
        size_t next = 0;
        for (const auto& group : completions) {
          for (const Completion& completion : group) {
            const auto& scored = scores[next++].logprobs;
            ASSERT_EQ(scored.size(), completion.logprobs.size());
            for (size_t t = 0; t < scored.size(); ++t)
              ASSERT_EQ(scored[t], completion.logprobs[t])
                  << "completion " << next - 1 << ", token " << t;
          }
        }
      }
    }
  }
}

/// The same over lengths up to 4,000, shared prompts and completions that end anywhere. 100,000
/// tokens a case: bench/exactness.cpp. Samples with what the layers read for them, and a loss that
/// pulls every token.
TEST(Engine, WhatLayersReadIsTheTrainersForward) {
  for (const Family family : kFamilies)
    for (const WeightDtype dtype : {WeightDtype::kFloat32, WeightDtype::kBFloat16}) {
      SCOPED_TRACE(fmt::format("{}, dtype {}", enum_name(family), static_cast<int>(dtype)));
      const auto weights = tiny_weights(family, dtype);
      Engine engine(*weights, {.max_num_seqs = 5, .cache_memory = 0.25});
      const auto kept =
          std::make_shared<model::LayerInputs>(weights->config(), weights->dtype(), 1000);
      auto settings = settings_of(20);
      settings.keep = kept.get();
      settings.stop_ids = {3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
      const auto requests = some_requests(3);
      const auto completions = engine.generate(requests, settings);
      auto samples = samples_of(requests, completions);
      size_t next = 0;
      for (const auto& group : completions)
        for (const Completion& completion : group) {
          ASSERT_EQ(std::ssize(completion.kept_rows), samples[next].needed_tokens());
          samples[next].kept_rows = completion.kept_rows;
          samples[next++].kept = kept;
        }
      train::Trainer trainer(*weights, {.max_tokens_per_micro_batch = 100});
      const auto scores = [&](bool reuse) {
        return trainer.score(samples, {.temperature = 0.7, .reuse_kept = reuse});
      };
      const auto gradients = [&](bool reuse) {
        return trainer.gradients(samples, {.reuse_kept = reuse},
                                 [](int64_t, const train::SampleScores&, train::SampleGradient d) {
                                   std::fill(d.logprobs.begin(), d.logprobs.end(), 0.01F);
                                 });
      };
      const auto with = scores(true), without = scores(false);
      for (size_t i = 0; i < samples.size(); ++i)
        EXPECT_EQ(with[i].logprobs, without[i].logprobs) << i;
      const auto own = gradients(false), reused = gradients(true);
      for (size_t i = 0; i < own.size(); ++i)
        EXPECT_TRUE(testing::same_bits(reused[i], own[i])) << weights->parameters()[i].id;
      EXPECT_TRUE(trainer.comparison().is_exact());
      // Rows of another token are found out, by the embedding first of all.
      std::swap(samples[1].kept_rows[0], samples[1].kept_rows[3]);
      gradients(true);
      ASSERT_FALSE(trainer.comparison().is_exact());
      EXPECT_EQ(trainer.comparison().different()[0].layer, train::kEmbedding);
    }
}

TEST(Engine, SamplerLogprobsEqualTrainersOverAllLengths) {
  const int threads = at::get_num_threads();
  for (const Family family : kFamilies)
    for (const WeightDtype dtype : {WeightDtype::kFloat32, WeightDtype::kBFloat16})
      for (const int count : {1, 2}) {
        SCOPED_TRACE(fmt::format("{}, dtype {}, {} threads", enum_name(family),
                                 static_cast<int>(dtype), count));
        at::set_num_threads(count);
        const testing::Tally tally = testing::compare_logprobs(family, dtype, 2000);
        EXPECT_GE(tally.tokens, 2000);
        EXPECT_GT(tally.longest, testing::kLongestSequence - testing::kNewTokens);
        EXPECT_EQ(tally.different, 0) << "largest difference " << tally.largest;
      }
  at::set_num_threads(threads);
}

/// --exact false: long prompts by chunks, equal within rounding.
TEST(Engine, ChunkedPromptsAreCloseToExactOnes) {
  for (const Family family : {Family::kQwen3_5, Family::kQwen3}) {
    SCOPED_TRACE(enum_name(family));
    const auto weights = tiny_weights(family);
    Engine engine(*weights, {.max_num_seqs = 4, .cache_memory = 0.25});
    auto settings = settings_of(6, 0);
    const auto requests = some_requests(13);
    const Completions exact = engine.generate(requests, settings);
    settings.exact = false;
    const Completions chunked = engine.generate(requests, settings);
    bool differs = false;
    for (size_t i = 0; i < exact.size(); ++i) {
      ASSERT_EQ(chunked[i][0].token_ids, exact[i][0].token_ids) << i;
      for (size_t t = 0; t < exact[i][0].logprobs.size(); ++t) {
        EXPECT_NEAR(chunked[i][0].logprobs[t], exact[i][0].logprobs[t], 1e-4) << i;
        differs |= chunked[i][0].logprobs[t] != exact[i][0].logprobs[t];
      }
    }
    EXPECT_EQ(differs,
              family == Family::kQwen3_5);  // the chunked form was used, where there is one
  }
}

TEST(Engine, BatchSizeDoesNotMatter) {
  for (const Family family : kFamilies) {
    SCOPED_TRACE(enum_name(family));
    const auto weights = tiny_weights(family, WeightDtype::kBFloat16);
    const auto requests = some_requests(4);
    const auto settings = settings_of(12);
    Engine alone(*weights, {.max_num_seqs = 1, .cache_memory = 0.25});
    const Completions expected = alone.generate(requests, settings);
    for (const int64_t most : {2, 64}) {
      Engine engine(*weights, {.max_num_seqs = most, .cache_memory = 0.25});
      expect_same(engine.generate(requests, settings), expected);
    }
  }
}

TEST(Engine, OrderAndCompanyOfRequestsDoNotMatter) {
  for (const Family family : kFamilies) {
    SCOPED_TRACE(enum_name(family));
    const auto weights = tiny_weights(family);
    const auto requests = some_requests(5);
    const auto settings = settings_of(10);
    Engine engine(*weights, {.max_num_seqs = 4, .cache_memory = 0.25});
    const Completions expected = engine.generate(requests, settings);
    std::vector<GenerationRequest> turned(requests.rbegin(), requests.rend());
    Completions reversed = engine.generate(turned, settings);
    std::reverse(reversed.begin(), reversed.end());
    expect_same(reversed, expected);
    for (size_t i = 0; i < requests.size(); ++i)
      expect_same(engine.generate(std::span(requests).subspan(i, 1), settings), {expected[i]});
  }
}

TEST(Engine, ThreadCountDoesNotMatter) {
  const int threads = at::get_num_threads();
  for (const Family family : kFamilies) {
    SCOPED_TRACE(enum_name(family));
    const auto weights = tiny_weights(
        family, family == Family::kQwen3_5Moe ? WeightDtype::kBFloat16 : WeightDtype::kFloat32);
    // So many that each thread takes a part of the batch, and so few that all share it.
    for (const int64_t samples : {20, 1}) {
      auto requests = some_requests(6);
      for (GenerationRequest& request : requests) request.num_samples = samples;
      at::set_num_threads(1);
      Engine engine(*weights, {.cache_memory = 0.25});
      const Completions expected = engine.generate(requests, settings_of(6));
      for (const int more : {2, 3}) {
        at::set_num_threads(more);
        expect_same(engine.generate(requests, settings_of(6)), expected);
      }
    }
  }
  at::set_num_threads(threads);
}

TEST(Engine, AFreedCacheIsMadeAgain) {
  const auto weights = tiny_weights(Family::kQwen3_5);
  const auto requests = some_requests(7);
  Engine engine(*weights, {.cache_memory = 0.25});
  const Completions expected = engine.generate(requests, settings_of(5));
  engine.release_cache();
  expect_same(engine.generate(requests, settings_of(5)), expected);
}

TEST(Engine, NothingReadsWhatACacheHeldBefore) {
  for (const Family family : kFamilies)
    for (const WeightDtype dtype : {WeightDtype::kFloat32, WeightDtype::kBFloat16}) {
      SCOPED_TRACE(enum_name(family));
      const auto weights = tiny_weights(family, dtype);
      auto requests = some_requests(7);
      for (GenerationRequest& request : requests) request.num_samples = 3;
      const Completions expected =
          Engine(*weights, {.cache_memory = 0.25}).generate(requests, settings_of(9));
      const testing::NanInUninitializedMemory nan;
      ASSERT_TRUE(at::empty({4}).isnan().all().item<bool>());
      expect_same(Engine(*weights, {.cache_memory = 0.25}).generate(requests, settings_of(9)),
                  expected);
    }
}

TEST(Engine, PlansForTheSequencesThatRunAtOnce) {
  const auto weights = tiny_weights(Family::kQwen3_5);
  const Engine engine(*weights, {.max_num_seqs = 4, .cache_memory = 4});
  const std::vector<GroupSpec> many(1000, {100, 60, 4}), more(2000, {100, 60, 4});
  EXPECT_EQ(engine.planned_cache_bytes(many), engine.planned_cache_bytes(more));
  std::vector<GroupSpec> one_longer = many;
  one_longer.back().prompt_tokens = 1000;
  EXPECT_GT(engine.planned_cache_bytes(one_longer), engine.planned_cache_bytes(many));
}

TEST(Engine, GreedyIsTheArgmaxOfRepeatedFullForwards) {
  for (const Family family : kFamilies) {
    SCOPED_TRACE(enum_name(family));
    const auto weights = tiny_weights(family);
    const model::Decoder decoder(*weights);
    std::mt19937_64 random(testing::test_seed(8));
    std::vector<int64_t> ids = random_ids(60, random);
    const std::vector<GenerationRequest> requests{{.prompt = ids}};
    Engine engine(*weights, {.cache_memory = 0.25});
    const Completion completion = engine.generate(requests, settings_of(8, 0))[0][0];
    at::NoGradGuard no_grad;
    for (size_t t = 0; t < completion.token_ids.size(); ++t) {
      model::ForwardBatch batch;
      batch.ids = id_tensor(ids);
      batch.sequences.append(static_cast<int64_t>(ids.size()));
      batch.positions = model::positions_of(batch.sequences);
      const at::Tensor last =
          decoder.forward(batch).narrow(0, static_cast<int64_t>(ids.size()) - 1, 1);
      const at::Tensor logits = ops::vocabulary_logits(last, weights->head());
      const int64_t best = logits.argmax().item<int64_t>();
      ASSERT_EQ(completion.token_ids[t], best) << t;
      const float logprob = at::log_softmax(logits.to(at::kDouble), 1)[0][best].item<float>();
      EXPECT_NEAR(completion.logprobs[t], logprob, 1e-5);  // greedy: of temperature 1
      ids.push_back(best);
    }
  }
}

TEST(Engine, SeedOccurrenceDrawAndNumberGiveOtherTokens) {
  const auto weights = tiny_weights(Family::kQwen3);
  Engine engine(*weights, {.cache_memory = 0.25});
  std::mt19937_64 random(testing::test_seed(9));
  GenerationRequest request{.prompt = random_ids(9, random), .num_samples = 2};
  auto settings = settings_of(12);
  const auto tokens = [&] { return engine.generate({&request, 1}, settings)[0][0].token_ids; };
  const auto first = engine.generate({&request, 1}, settings)[0];
  EXPECT_EQ(tokens(), first[0].token_ids);
  EXPECT_NE(first[1].token_ids, first[0].token_ids);
  request.occurrence = 1;
  EXPECT_NE(tokens(), first[0].token_ids);
  request.occurrence = 0;
  request.draw = 1;
  EXPECT_NE(tokens(), first[0].token_ids);
  request.draw = 0;
  settings.seed = 8;
  EXPECT_NE(tokens(), first[0].token_ids);
}

TEST(Engine, SampleNumbersDoNotDependOnHowManyThereAre) {
  const auto weights = tiny_weights(Family::kQwen3_5);
  Engine engine(*weights, {.cache_memory = 0.25});
  std::mt19937_64 random(testing::test_seed(10));
  GenerationRequest request{.prompt = random_ids(70, random), .num_samples = 5};
  const auto five = engine.generate({&request, 1}, settings_of(6))[0];
  request.num_samples = 2;
  const auto two = engine.generate({&request, 1}, settings_of(6))[0];
  for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(same(two[i], five[i])) << i;
}

TEST(Engine, EndsAtMaxNewTokens) {
  const auto weights = tiny_weights(Family::kQwen3);
  Engine engine(*weights, {.cache_memory = 0.25});
  for (const int64_t most : {1, 3}) {
    const std::vector<GenerationRequest> requests{{.prompt = {1, 2, 3}, .num_samples = 3}};
    const auto completions = engine.generate(requests, settings_of(most))[0];
    for (const Completion& completion : completions) {
      EXPECT_EQ(static_cast<int64_t>(completion.token_ids.size()), most);
      EXPECT_EQ(completion.logprobs.size(), completion.token_ids.size());
      EXPECT_EQ(completion.finish_reason, FinishReason::kLength);
      EXPECT_FALSE(completion.has_stop_token || completion.stop_string);
    }
  }
}

TEST(Engine, StopIdsEndACompletionUnlessIgnored) {
  const auto weights = tiny_weights(Family::kQwen3_5);
  Engine engine(*weights, {.cache_memory = 0.25});
  const std::vector<GenerationRequest> requests{{.prompt = {4, 5, 6}, .num_samples = 4}};
  auto settings = settings_of(30);
  const auto whole = engine.generate(requests, settings)[0];
  settings.stop_ids = {kTinyVocabulary + 5, whole[2].token_ids[7]};
  const auto stopped = engine.generate(requests, settings)[0];
  for (size_t i = 0; i < whole.size(); ++i) {
    const auto& ids = whole[i].token_ids;
    const auto stop = std::find(ids.begin(), ids.end(), settings.stop_ids[1]);
    const bool stops = stop != ids.end();
    EXPECT_EQ(stopped[i].token_ids, std::vector<int64_t>(ids.begin(), stops ? stop + 1 : stop));
    EXPECT_EQ(stopped[i].has_stop_token, stops);
    EXPECT_EQ(stopped[i].finish_reason, stops ? FinishReason::kStop : FinishReason::kLength);
  }
  EXPECT_TRUE(stopped[2].has_stop_token);
  settings.ignore_eos = true;
  expect_same({engine.generate(requests, settings)[0]}, {whole});
}

/// A tokenizer whose token i is the letter 'a' + i % 26 followed by i: every id of the model has a
/// text of its own. The bytes, which a tokenizer must have, lie above the model's ids.
text::Tokenizer letter_tokenizer() {
  Json json = text::default_tokenizer_json(512);
  Json vocabulary = Json::object();
  for (int64_t id = 0; id < kTinyVocabulary; ++id)
    vocabulary[std::string(1, static_cast<char>('a' + id % 26)) + std::to_string(id)] = id;
  for (const auto& [token, id] : json["model"]["vocab"].items())
    if (id.get<int64_t>() < 256) vocabulary[token] = kTinyVocabulary + id.get<int64_t>();
  json["model"]["vocab"] = vocabulary;
  json["model"]["merges"] = Json::array();
  json["added_tokens"] = Json::array();
  return text::Tokenizer::from_json(json, Json::object(), "letters");
}

TEST(Engine, StopStringsEndACompletionAlsoAcrossTokens) {
  const auto weights = tiny_weights(Family::kQwen3);
  Engine engine(*weights, {.cache_memory = 0.25});
  const text::Tokenizer tokenizer = letter_tokenizer();
  const std::vector<GenerationRequest> requests{{.prompt = {4, 5, 6}}};
  auto settings = settings_of(20);
  const Completion whole = engine.generate(requests, settings)[0][0];
  const auto text_of = [&](size_t count) {
    return tokenizer.decode(std::span(whole.token_ids).first(count));
  };
  // The last character of token 8 and the first of token 9.
  const std::string stop{text_of(9).back(), text_of(10)[text_of(9).size()]};
  size_t expected = 1;
  while (text_of(expected).find(stop) == std::string::npos) ++expected;
  ASSERT_LE(expected, 10u);
  settings.tokenizer = &tokenizer;
  settings.stop_strings = {"not in any text", stop};
  const Completion stopped = engine.generate(requests, settings)[0][0];
  EXPECT_EQ(stopped.token_ids,
            std::vector<int64_t>(whole.token_ids.begin(),
                                 whole.token_ids.begin() + static_cast<int64_t>(expected)));
  EXPECT_EQ(stopped.stop_string, stop);
  EXPECT_EQ(stopped.finish_reason, FinishReason::kStop);
  EXPECT_FALSE(stopped.has_stop_token);
}

TEST(Engine, ARepetitionPenaltyAvoidsTokensOfPromptAndCompletion) {
  const auto weights = tiny_weights(Family::kQwen3);
  Engine engine(*weights, {.cache_memory = 0.25});
  std::vector<int64_t> prompt;
  for (int64_t id = 0; id < 100; ++id) prompt.push_back(id);
  auto settings = settings_of(20, 0);
  settings.sampling.repetition_penalty = 1e6;
  const std::vector<GenerationRequest> requests{{.prompt = prompt}};
  auto ids = engine.generate(requests, settings)[0][0].token_ids;
  for (const int64_t id : ids) EXPECT_GE(id, 100);
  std::sort(ids.begin(), ids.end());
  EXPECT_EQ(std::adjacent_find(ids.begin(), ids.end()), ids.end());
}

/// Steps that a generation takes with room for `pages` pages of a tiny Qwen3 in float32.
int64_t steps_with_pages(const std::vector<GenerationRequest>& requests, int64_t pages) {
  const auto weights = tiny_weights(Family::kQwen3);
  const auto& config = weights->config();
  const int64_t page_bytes =
      config.num_hidden_layers * 2 * 64 * config.num_key_value_heads * config.head_dim * 4;
  // Half a page more, so that no rounding of GiB loses one.
  Engine engine(*weights, {.cache_memory = (static_cast<double>(pages) + 0.5) *
                                           static_cast<double>(page_bytes) / (1 << 30)});
  int64_t steps = 0;
  engine.generate(requests, settings_of(8), [&](int64_t, int64_t) { ++steps; });
  return steps;
}

TEST(Engine, SamplesShareTheirPromptsPages) {
  std::mt19937_64 random(testing::test_seed(11));
  // 200 tokens are three full pages and one partly filled; each of eight samples adds one page, the
  // last takes the prompt's.
  const std::vector<GenerationRequest> requests{
      {.prompt = random_ids(200, random), .num_samples = 8}};
  // One step for the prompt, seven for the tokens after the first, which comes from the prompt's
  // logits.
  EXPECT_EQ(steps_with_pages(requests, 3 + 8), 8);
  EXPECT_GT(steps_with_pages(requests, 3 + 7), 8);
}

TEST(Engine, ProgressCountsTokensAndCompletions) {
  const auto weights = tiny_weights(Family::kQwen3);
  Engine engine(*weights, {.cache_memory = 0.25});
  const auto requests = some_requests(12);
  int64_t tokens = 0, completions = 0;
  const auto done = engine.generate(requests, settings_of(6), [&](int64_t t, int64_t c) {
    EXPECT_GE(t, tokens);
    EXPECT_GE(c, completions);
    tokens = t;
    completions = c;
  });
  int64_t expected_tokens = 0, expected_completions = 0;
  for (const auto& group : done) {
    expected_completions += static_cast<int64_t>(group.size());
    for (const auto& completion : group)
      expected_tokens += static_cast<int64_t>(completion.token_ids.size());
  }
  EXPECT_EQ(tokens, expected_tokens);
  EXPECT_EQ(completions, expected_completions);
}

/// A step samples one token for every sequence that runs.
TEST(Engine, PlannedSequencesAreThoseThatRunAtOnce) {
  const auto weights = tiny_weights(Family::kQwen3_5);
  constexpr int64_t kPrompt = 70, kNew = 40, kPrompts = 6, kGroup = 4;
  std::mt19937_64 random(testing::test_seed(12));
  std::vector<GenerationRequest> requests;
  for (int64_t i = 0; i < kPrompts; ++i)
    requests.push_back({.prompt = random_ids(kPrompt, random), .num_samples = kGroup});
  GenerationSettings settings = settings_of(kNew);
  settings.ignore_eos = true;
  std::vector<int64_t> planned;
  for (const EngineOptions& options :
       {EngineOptions{.cache_memory = 0.25}, EngineOptions{.max_num_seqs = 5, .cache_memory = 0.25},
        EngineOptions{.cache_memory = 0.0015}}) {
    Engine engine(*weights, options);
    int64_t before = 0, most = 0, is_first = true;
    engine.generate(requests, settings, [&](int64_t tokens, int64_t completions) {
      // Where sequences start, their first token comes on top.
      if (!completions && before && !std::exchange(is_first, false)) most = tokens - before;
      before = tokens;
    });
    planned.push_back(
        engine.planned_sequences(std::vector<GroupSpec>(kPrompts, {kPrompt, kNew, kGroup})));
    EXPECT_EQ(planned.back(), most) << options.cache_memory;
  }
  EXPECT_EQ(planned[0], kPrompts * kGroup);
  EXPECT_EQ(planned[1], 5);
  EXPECT_GT(planned[2], 1);
  EXPECT_LT(planned[2], kPrompts * kGroup);
}

TEST(Engine, PromptsThatDoNotFitAreErrors) {
  const auto weights = tiny_weights(Family::kQwen3);
  Engine engine(*weights, {.max_model_len = 16, .cache_memory = 0.25});
  const std::vector<GenerationRequest> fits{{.prompt = std::vector<int64_t>(12, 1)}};
  EXPECT_EQ(engine.generate(fits, settings_of(4))[0][0].token_ids.size(), 4u);
  const std::vector<GenerationRequest> longer{{.prompt = std::vector<int64_t>(13, 1)}},
      empty{{.prompt = {}}};
  EXPECT_ERROR(engine.generate(longer, settings_of(4)), ConfigError, "prompt-too-long",
               "at most 16 tokens, got 13 + 4");
  EXPECT_ERROR(engine.generate(empty, settings_of(4)), ConfigError, "prompt-too-long", "got 0 + 4");
  Engine standard(*weights, {.cache_memory = 0.25});
  EXPECT_ERROR(standard.generate(fits, settings_of(4096)), ConfigError, "prompt-too-long", "4096");
}

TEST(Engine, ACacheThatIsTooSmallIsAnError) {
  for (const Family family : {Family::kQwen3, Family::kQwen3_5}) {
    const auto weights = tiny_weights(family);
    Engine engine(*weights, {.cache_memory = 1e-6});
    const std::vector<GenerationRequest> requests{{.prompt = {1, 2, 3}}};
    EXPECT_ERROR(engine.generate(requests, settings_of(4)), ConfigError, "cache-too-small",
                 "--cache_memory");
  }
}

TEST(Engine, NoRequestsGiveNoCompletions) {
  const auto weights = tiny_weights(Family::kQwen3);
  Engine engine(*weights, {.cache_memory = 0.25});
  EXPECT_TRUE(engine.generate({}, settings_of(4)).empty());
}

/// The prompts of another turn: those before with their completions, and some ids more.
std::vector<GenerationRequest> next_turn(const std::vector<GenerationRequest>& requests,
                                         const Completions& completions,
                                         std::mt19937_64& random) {
  std::vector<GenerationRequest> next;
  for (size_t i = 0; i < requests.size(); ++i)
    for (const Completion& completion : completions[i]) {
      GenerationRequest& request = next.emplace_back();
      request.prompt = requests[i].prompt;
      request.prompt.insert(request.prompt.end(), completion.token_ids.begin(),
                            completion.token_ids.end());
      const auto more = random_ids(1 + random() % 20, random);
      request.prompt.insert(request.prompt.end(), more.begin(), more.end());
      request.max_new_tokens = 3 + static_cast<int64_t>(next.size()) % 5;
    }
  return next;
}

TEST(Sampler, TurnsGoOnFromWhatIsHeldAndReturnWhatTheyWouldAlone) {
  for (const Family family : kFamilies) {
    SCOPED_TRACE(enum_name(family));
    const auto weights = tiny_weights(family);
    Engine holding(*weights, {.cache_memory = 0.25}), fresh(*weights, {.cache_memory = 0.25});
    std::mt19937_64 random(testing::test_seed(4));
    auto requests = some_requests(4);
    const std::vector<GroupSpec> longest(requests.size(), {200, 60, 3});
    holding.hold_prefixes(longest);
    int64_t known = 0;
    for (int turn = 0; turn < 3; ++turn) {
      const auto completions = holding.generate(requests, settings_of(9));
      expect_same(completions, fresh.generate(requests, settings_of(9)));
      for (size_t i = 0; i < requests.size(); ++i)
        EXPECT_EQ(std::ssize(completions[i][0].token_ids), requests[i].max_new_tokens.value_or(9));
      requests = next_turn(requests, completions, random);
      // All but the last token that was drawn has been computed.
      if (turn < 2)
        for (const GenerationRequest& request : requests) known += std::ssize(request.prompt);
    }
    const auto [asked, found] = holding.prefix_hits();
    EXPECT_GT(asked, known);
    // What comes new in a turn is at most 20 ids of each.
    EXPECT_GT(found, known - 21 * 2 * std::ssize(requests));
    holding.drop_prefixes();
    EXPECT_EQ(holding.prefix_hits().second, 0);
  }
}

}  // namespace
}  // namespace lockstep::rollout
