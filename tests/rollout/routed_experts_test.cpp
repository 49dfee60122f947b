// The experts that the sampler tells are those that a forward over the whole sequence chooses,
// whatever was preempted, cut, or found in the prefix cache.
// SPDX-License-Identifier: Apache-2.0
#include <map>
#include <random>

#include "model/decoder.h"
#include "tests/model/tiny_model.h"
#include "tests/rollout/engine_client.h"

namespace lockstep::rollout {
namespace {

using model::Family;
using model::WeightDtype;
using testing::random_ids;
using testing::tiny_weights;

constexpr Family kExpertFamilies[] = {Family::kQwen3Moe, Family::kQwen3_5Moe};

/// What the routers choose for each of these tokens.
model::ExpertChoices choices_of(const model::ModelWeights& weights,
                                const std::vector<int64_t>& ids) {
  at::NoGradGuard no_grad;
  model::ForwardBatch batch;
  batch.ids = testing::id_tensor(ids);
  batch.sequences.append(std::ssize(ids));
  batch.positions = model::positions_of(batch.sequences);
  const auto recorded =
      model::ExpertChoices::room(weights.config(), std::ssize(ids), /*with_weights=*/true);
  batch.router = std::make_shared<model::RouterWatch>(model::RouterWatch{.recorded = recorded});
  model::Decoder(weights).forward(batch);
  return recorded;
}

/// `told` begins with token `first` of the sequence.
void expect_choices(const RoutedExperts& told,
                    const model::ExpertChoices& expected,
                    int64_t first,
                    bool with_weights) {
  const int64_t values = expected.experts.size(1) * expected.experts.size(2);
  ASSERT_EQ(told.layers, expected.experts.size(1));
  ASSERT_EQ(told.chosen, expected.experts.size(2));
  ASSERT_LE(first + told.tokens(), expected.experts.size(0));
  const int32_t* const ids = expected.experts.const_data_ptr<int32_t>() + first * values;
  EXPECT_TRUE(std::equal(told.ids.begin(), told.ids.end(), ids));
  if (!with_weights) {
    EXPECT_TRUE(told.weights.empty());
    return;
  }
  ASSERT_EQ(told.weights.size(), told.ids.size());
  const float* const weights = expected.weights.const_data_ptr<float>() + first * values;
  EXPECT_TRUE(std::equal(told.weights.begin(), told.weights.end(), weights));
}

/// Requests that begin alike, two of them with one prompt; every third is told of no experts.
std::vector<Request> some_requests(std::mt19937_64& random) {
  const auto beginning = random_ids(130, random);
  std::vector<Request> requests;
  for (int64_t i = 0; i < 9; ++i) {
    auto prompt = beginning;
    const auto rest = random_ids(1 + random() % 90, random);
    prompt.insert(prompt.end(), rest.begin(), rest.end());
    if (i % 4 == 1) prompt = requests.back().prompt;
    Request& request = requests.emplace_back(
        request_of(std::to_string(i), prompt, 1 + static_cast<int64_t>(random() % 120)));
    request.num_samples = 1 + i % 3;
    request.settings.seed = random();
    // Greedy samples of one prompt go the same way.
    request.settings.sampling.temperature = i % 4 == 2 ? 0 : 1;
    request.settings.record_experts = static_cast<RecordExperts>(i % 3);
  }
  // These outgrow 13 pages together.
  for (int64_t i = 9; i < 12; ++i) {
    requests.push_back(request_of(std::to_string(i), random_ids(60, random), 500));
    requests.back().settings.record_experts = RecordExperts::kIds;
  }
  return requests;
}

TEST(RoutedExperts, AreThoseOfAForwardOverTheWholeSequence) {
  for (const Family family : kExpertFamilies) {
    SCOPED_TRACE(enum_name(family));
    const auto weights = tiny_weights(family);
    std::mt19937_64 random(testing::test_seed(1));
    const auto requests = some_requests(random);
    int64_t preemptions = 0, hits = 0;
    std::map<std::string, Answer> before;
    for (const double memory : {gib_of(family, WeightDtype::kFloat32, 13), 0.03}) {
      const auto engine =
          make_engine(family, WeightDtype::kFloat32,
                      {.max_num_seqs = 8, .max_model_len = 1000, .cache_memory = memory},
                      {.max_num_batched_tokens = 100});
      Client client(*engine);
      for (const Request& request : requests) client.send(request);
      for (const Request& request : requests) {
        SCOPED_TRACE(request.id);
        const Answer answer = client.wait(request.id);
        const RecordExperts what = request.settings.record_experts;
        const bool with_weights = what == RecordExperts::kIdsAndWeights;
        for (const auto& [index, sample] : answer.samples) {
          if (what == RecordExperts::kNothing) {
            EXPECT_TRUE(answer.prompt->experts.is_empty() && sample.done->experts.is_empty());
            continue;
          }
          std::vector<int64_t> ids = request.prompt;
          ids.insert(ids.end(), sample.ids.begin(), sample.ids.end());
          const auto expected = choices_of(*weights, ids);
          ASSERT_EQ(answer.prompt->experts.tokens(), std::ssize(request.prompt));
          expect_choices(answer.prompt->experts, expected, 0, with_weights);
          if (sample.ids.size() == 1) continue;
          ASSERT_EQ(sample.done->experts.tokens(), std::ssize(sample.ids) - 1);
          expect_choices(sample.done->experts, expected, std::ssize(request.prompt), with_weights);
        }
        if (!before.contains(request.id)) before[request.id] = answer;
        expect_same(answer, before[request.id], request.id);
      }
      preemptions += engine->stats().preemptions;
      hits += engine->stats().prefix_hits;
      expect_nothing_held(*engine);
    }
    EXPECT_GT(preemptions, 0);
    EXPECT_GT(hits, 0);
  }
}

/// A request that is told of experts computes its prompt, though another one has left it there.
TEST(RoutedExperts, OfAPromptThatIsInTheCacheAreToldToo) {
  for (const Family family : kExpertFamilies) {
    SCOPED_TRACE(enum_name(family));
    const auto weights = tiny_weights(family);
    const auto engine = make_engine(family, WeightDtype::kFloat32);
    Client client(*engine);
    std::mt19937_64 random(testing::test_seed(2));
    Request request = request_of("a", random_ids(300, random), 4);
    client.ask(request);
    for (const char* id : {"b", "c"}) {
      request.id = id;
      request.settings.record_experts = RecordExperts::kIds;
      const Answer answer = client.ask(request);
      EXPECT_EQ(answer.prompt->cached_tokens, 0);
      expect_choices(answer.prompt->experts, choices_of(*weights, request.prompt), 0, false);
    }
    request.id = "d";
    request.settings.record_experts = RecordExperts::kNothing;
    EXPECT_EQ(client.ask(request).prompt->cached_tokens, 300);
  }
}

}  // namespace
}  // namespace lockstep::rollout
