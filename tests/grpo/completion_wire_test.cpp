// Requests and completions on the wire: what is sent, and what is not taken.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/completion_wire.h"

#include <limits>
#include <set>

#include "base/json.h"
#include "net/number_block.h"
#include "tests/support/expect_error.h"

namespace lockstep::grpo {
namespace {

rollout::Request request() {
  rollout::Request made;
  made.prompt = {4, 5};
  made.num_samples = 2;
  made.settings.max_new_tokens = 3;
  made.settings.stop_ids = {9};
  made.settings.seed = std::numeric_limits<uint64_t>::max();
  ops::SamplingParameters& sampling = made.settings.sampling;
  sampling.temperature = 0.7;
  sampling.top_k = 5;
  sampling.top_p = 0.9;
  sampling.min_p = 0.1;
  sampling.repetition_penalty = 1.5;
  made.occurrence = 2;
  made.draw = ~uint64_t{6};
  made.weight_version = "step-1:d";
  return made;
}

Json choice(int64_t index, std::vector<int64_t> ids, const char* reason) {
  const auto size = ids.size();
  return {
      {"index", index},
      {"finish_reason", reason},
      {"token_ids", std::move(ids)},
      {"logprobs", {{"token_logprobs", std::vector<double>(size, -0.25)}}},
      {"weight_versions", Json::array({{{"version", "step-1:d"}, {"start", 0}, {"end", size}}})}};
}

Json answer() { return {{"choices", {choice(1, {1, 9}, "stop"), choice(0, {1, 2, 3}, "length")}}}; }

TEST(CompletionWire, ARequestToVllmHasItsFieldsAndASeedOfItsOwn) {
  const Json ours = completion_body(request(), "name"),
             body = vllm_completion_body(request(), "name");
  for (const auto& [name, value] : body.items())
    EXPECT_TRUE(name == "seed" || value == ours[name]) << name;
  EXPECT_FALSE(body.contains("lockstep") || body.contains("weight_version"));
  EXPECT_EQ(body.size() + 2, ours.size());
  const auto seed = [](const rollout::Request& one) {
    return vllm_completion_body(one, "name")["seed"].get<uint64_t>();
  };
  // Seeds of the samples behind it still fit a signed number.
  EXPECT_LT(seed(request()), uint64_t{1} << 62);
  EXPECT_EQ(seed(request()), body["seed"].get<uint64_t>());
  std::set<uint64_t> seeds{seed(request())};
  for (int i = 0; i < 4; ++i) {
    rollout::Request other = request();
    if (i == 0) other.prompt.push_back(1);
    if (i == 1) other.settings.seed = 3;
    if (i == 2) other.occurrence = 3;
    if (i == 3) other.draw = 1;
    seeds.insert(seed(other));
  }
  EXPECT_EQ(seeds.size(), 5u);
  Json untold = answer();
  for (Json& choice : untold["choices"]) choice.erase("weight_versions");
  EXPECT_EQ(read_vllm_completions(untold, request(), "s")[1].token_ids,
            (std::vector<int64_t>{1, 9}));
  EXPECT_ERROR(read_completions(untold, request(), "s"), PeerError, "bad-answer",
               "weight_versions");
}

TEST(CompletionWire, ARequestSaysAllThatDecidesItsTokens) {
  const Json body = parse_json(dump_json(completion_body(request(), "name")), "body");
  EXPECT_EQ(body, parse_json(R"({"model":"name","prompt":[4,5],"n":2,"max_tokens":3,
      "temperature":0.7,"top_p":0.9,"top_k":5,"min_p":0.1,"repetition_penalty":1.5,
      "seed":18446744073709551615,"stop_token_ids":[9],"ignore_eos":false,"logprobs":0,
      "return_token_ids":true,"lockstep":{"occurrence":2,"draw":18446744073709551609},
      "weight_version":"step-1:d"})",
                             "expected"));
  rollout::Request more = request();
  more.settings.stop_strings = {"a"};
  more.settings.min_new_tokens = 2;
  more.settings.sampling.frequency_penalty = 0.5;
  more.settings.sampling.presence_penalty = -1;
  more.settings.sampling.logit_bias = {{7, 0.1F}};
  more.weight_version.reset();
  const Json other = completion_body(more, "name");
  EXPECT_EQ(other["stop"], Json::array({"a"}));
  EXPECT_EQ(other["min_tokens"], 2);
  EXPECT_EQ(other["frequency_penalty"], 0.5);
  EXPECT_EQ(other["presence_penalty"], -1);
  EXPECT_EQ(other["logit_bias"], parse_json(R"({"7":0.1})", "expected"));
  EXPECT_FALSE(other.contains("weight_version"));
}

TEST(CompletionWire, CompletionsAreReadInTheOrderOfTheirNumbers) {
  const auto read = read_completions(answer(), request(), "server");
  ASSERT_EQ(read.size(), 2u);
  EXPECT_EQ(read[0].token_ids, (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(read[0].finish_reason, rollout::FinishReason::kLength);
  EXPECT_FALSE(read[0].has_stop_token);
  EXPECT_EQ(read[1].token_ids, (std::vector<int64_t>{1, 9}));
  EXPECT_EQ(read[1].logprobs, (std::vector<float>{-0.25F, -0.25F}));
  EXPECT_EQ(read[1].finish_reason, rollout::FinishReason::kStop);
  EXPECT_TRUE(read[1].has_stop_token);
}

TEST(CompletionWire, WhatTokensWereDrawnWithIsReadWhereAServerSaysIt) {
  Json one = answer();
  one["choices"][0]["processed_logprobs"] = {-0.125, 0};
  const auto read = read_completions(one, request(), "server");
  EXPECT_TRUE(read[0].processed_logprobs.empty());
  EXPECT_EQ(read[1].processed_logprobs, (std::vector<float>{-0.125F, 0}));
  EXPECT_EQ(read[1].logprobs, (std::vector<float>{-0.25F, -0.25F}));
}

rollout::Request request_with_experts(rollout::RecordExperts what) {
  rollout::Request asking = request();
  asking.settings.record_experts = what;
  return asking;
}

/// Experts in 2 layers, 1 each: the prompt's ids begin with 300, a choice's with 400 and 500.
Json answer_with_experts(const rollout::Request& asking, bool with_weights) {
  Json one = answer();
  const auto add = [&](Json& choice, const std::string& prefix, int64_t tokens, int32_t first) {
    const std::vector<int64_t> shape{tokens, 2, 1};
    std::vector<int32_t> ids(static_cast<size_t>(2 * tokens), first);
    choice[prefix + "routed_experts"] =
        parse_json(net::number_block_text<int32_t>(shape, ids), "block");
    if (with_weights)
      choice[prefix + "routed_weights"] = parse_json(
          net::number_block_text<float>(shape, std::vector<float>(ids.size(), 0.5F)), "block");
  };
  for (Json& choice : one["choices"]) {
    const bool is_first = choice["index"] == 0;
    add(choice, "", std::ssize(choice["token_ids"]) - 1, is_first ? 400 : 500);
    if (is_first) add(choice, "prompt_", std::ssize(asking.prompt), 300);
  }
  return one;
}

TEST(CompletionWire, ExpertsAreAskedForAndReadForPromptAndCompletions) {
  using rollout::RecordExperts;
  EXPECT_FALSE(completion_body(request(), "m")["lockstep"].contains("routed_experts"));
  for (const RecordExperts what : {RecordExperts::kIds, RecordExperts::kIdsAndWeights}) {
    const bool with_weights = what == RecordExperts::kIdsAndWeights;
    const rollout::Request asking = request_with_experts(what);
    const Json keys = completion_body(asking, "m")["lockstep"];
    EXPECT_EQ(keys["routed_experts"], true);
    EXPECT_EQ(keys.contains("routed_weights"), with_weights);
    const auto read = read_completions(answer_with_experts(asking, with_weights), asking, "server");
    ASSERT_EQ(read.size(), 2u);
    EXPECT_EQ(read[0].prompt_experts, read[1].prompt_experts);
    EXPECT_EQ(read[0].prompt_experts->tokens(), std::ssize(asking.prompt));
    EXPECT_EQ(read[0].prompt_experts->ids[0], 300);
    EXPECT_EQ(read[0].experts.ids, (std::vector<int32_t>{400, 400, 400, 400}));
    EXPECT_EQ(read[1].experts.ids, (std::vector<int32_t>{500, 500}));
    EXPECT_EQ(read[1].experts.weights.size(), with_weights ? 2u : 0u);
  }
}

TEST(CompletionWire, ExpertsThatAreNotWholeAreNotTaken) {
  const rollout::Request asking = request_with_experts(rollout::RecordExperts::kIdsAndWeights);
  const auto expect_refusal = [&](const char* words, auto&& change) {
    Json one = answer_with_experts(asking, true);
    read_completions(one, asking, "server");
    for (Json& choice : one["choices"])
      if (choice["index"] == 0) change(choice);
    EXPECT_ERROR(read_completions(one, asking, "server"), PeerError, "bad-answer", words);
  };
  const auto block = [](const std::vector<int64_t>& shape, const std::vector<int32_t>& ids) {
    return parse_json(net::number_block_text<int32_t>(shape, ids), "block");
  };
  expect_refusal("\"routed_experts\"", [](Json& c) { c.erase("routed_experts"); });
  expect_refusal("\"prompt_routed_experts\"", [](Json& c) { c.erase("prompt_routed_experts"); });
  expect_refusal("\"routed_weights\"", [](Json& c) { c.erase("routed_weights"); });
  expect_refusal("the experts of 2 tokens", [&](Json& c) {
    c["routed_experts"] = block({1, 2, 1}, {1, 2});
  });
  expect_refusal("the experts of 2 tokens", [&](Json& c) {
    c["routed_experts"] = block({2, 2, 1}, {1, 2, 3, -1});
  });
  expect_refusal("experts of one shape", [&](Json& c) {
    c["routed_experts"] = block({2, 1, 2}, {1, 2, 3, 4});
    c["routed_weights"] = parse_json(
        net::number_block_text<float>(std::vector<int64_t>{2, 1, 2}, std::vector<float>(4)), "b");
  });
}

TEST(CompletionWire, EveryFloatComesBackAsItWas) {
  for (const float value : {-0.1F, -1e-30F, -7.62939453e-06F, -88.7228394F, 0.0F}) {
    Json one = answer();
    one["choices"][0]["logprobs"]["token_logprobs"][0] = shortest_double(value);
    const Json wire = parse_json(dump_json(one), "wire");
    EXPECT_EQ(read_completions(wire, request(), "server")[1].logprobs[0], value);
  }
}

TEST(CompletionWire, WhatIsNotWholeIsNotTaken) {
  const auto expect_refusal = [](const char* words, auto&& change) {
    Json one = answer();
    change(one["choices"]);
    EXPECT_ERROR(read_completions(one, request(), "server"), PeerError, "bad-answer", words);
  };
  expect_refusal("2 choices", [](Json& c) { c.erase(1); });
  expect_refusal("each number of a choice once", [](Json& c) { c[0]["index"] = 0; });
  expect_refusal("each number of a choice once", [](Json& c) { c[0]["index"] = 2; });
  expect_refusal("\"token_ids\"", [](Json& c) { c[0].erase("token_ids"); });
  expect_refusal("token id", [](Json& c) { c[0]["token_ids"][0] = "1"; });
  expect_refusal("token id", [](Json& c) { c[0]["token_ids"][0] = -1; });
  expect_refusal("1 to 3 tokens", [](Json& c) { c[0]["token_ids"] = Json::array(); });
  expect_refusal("2 log-probabilities",
                 [](Json& c) { c[0]["logprobs"]["token_logprobs"].push_back(-1); });
  expect_refusal("log-probability",
                 [](Json& c) { c[0]["logprobs"]["token_logprobs"][1] = nullptr; });
  expect_refusal("2 processed log-probabilities",
                 [](Json& c) { c[0]["processed_logprobs"] = Json::array({-1}); });
  expect_refusal("a processed log-probability", [](Json& c) {
    c[0]["processed_logprobs"] = Json::array({-1, "0"});
  });
  expect_refusal("weights step-1:d", [](Json& c) { c[0]["weight_versions"][0]["version"] = "x"; });
  expect_refusal("versions of 2 tokens", [](Json& c) { c[0]["weight_versions"][0]["end"] = 1; });
  expect_refusal("span", [](Json& c) { c[0]["weight_versions"][0]["start"] = 1; });
  expect_refusal("stop or length", [](Json& c) { c[0]["finish_reason"] = "tool_calls"; });
  expect_refusal("finish_reason", [](Json& c) { c[0]["finish_reason"] = nullptr; });
  // A server with another set of stop tokens ends where this trainer would go on.
  expect_refusal("a token that ends completions here", [](Json& c) { c[0]["token_ids"][1] = 5; });
  expect_refusal("3 tokens where the length", [](Json& c) { c[0]["finish_reason"] = "length"; });
  for (const char* text : {"[]", "{}", R"({"choices":{}})", R"({"choices":[1,2]})"})
    EXPECT_ERROR(read_completions(parse_json(text, "x"), request(), "server"), PeerError,
                 "bad-answer", "server: expected");
}

TEST(CompletionWire, AnAbortedCompletionIsNoneOfTheServersMistakes) {
  Json one = answer();
  one["choices"][0]["finish_reason"] = "abort";
  one["choices"][0]["token_ids"] = Json::array();
  EXPECT_ERROR(read_completions(one, request(), "server"), PeerError, "request-aborted",
               "server: expected whole completions");
}

TEST(CompletionWire, AStopStringMayEndACompletion) {
  rollout::Request with_strings = request();
  with_strings.settings.stop_strings = {"x"};
  Json one = answer();
  one["choices"][0]["token_ids"][1] = 5;
  one["choices"][0]["stop_reason"] = "x";
  const auto read = read_completions(one, with_strings, "server");
  EXPECT_FALSE(read[1].has_stop_token);
  EXPECT_EQ(read[1].stop_string, "x");
}

}  // namespace
}  // namespace lockstep::grpo
