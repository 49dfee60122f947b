// Log-probabilities in answers, and streams against whole answers.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "serve/json_text.h"
#include "tests/serve/api_fixture.h"
#include "tests/support/test_seed.h"

namespace lockstep::serve {
namespace {

using ::testing::StartsWith;

TEST(JsonText, IsReadBackAsItWas) {
  std::string all;
  for (int c = 0; c < 128; ++c) all += static_cast<char>(c);
  all += "é日🙂\"\\";
  // A NUL is no part of JSON text but as an escape.
  EXPECT_EQ(parse_json(json_text(all), "test"), Json(all));
  std::mt19937_64 generator(testing::test_seed(17));
  for (int i = 0; i < 1000; ++i) {
    const float value = -std::exp(static_cast<float>(generator() % 2000) / 100.0F - 15.0F);
    std::string text;
    append_json_float(text, value);
    const Json read = parse_json(text, "test");
    EXPECT_TRUE(read.is_number_float());
    EXPECT_EQ(static_cast<float>(read.get<double>()), std::max(value, -9999.0F));
  }
  for (const float none : {-INFINITY, NAN, -1e9F}) {
    std::string text;
    append_json_float(text, none);
    EXPECT_EQ(text, "-9999.0");
  }
}

TEST(Logprobs, OfCompletionsHaveFourLists) {
  ServedApi served;
  served.engine.script = says("é a<|im_end|>");
  const auto ids = served.tokenizer().encode("é a<|im_end|>");
  const auto logprobs = [&](const std::string& fields) {
    return served.complete(R"("prompt": "p", )" + fields).json()["choices"][0]["logprobs"];
  };
  const Json plain = logprobs(R"("logprobs": 0)");
  ASSERT_EQ(plain["tokens"].size(), ids.size());
  int64_t offset = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    const std::string name = served.tokenizer().decode({&ids[i], 1});
    EXPECT_EQ(plain["tokens"][i], name);
    EXPECT_EQ(static_cast<float>(plain["token_logprobs"][i].get<double>()), FakeEngine::logprob(i));
    EXPECT_EQ(plain["top_logprobs"][i], (Json{{name, plain["token_logprobs"][i]}}));
    EXPECT_EQ(plain["text_offset"][i], offset);
    // Halves of a character are U+FFFD, one character each.
    offset += name == "\xEF\xBF\xBD" ? 1 : std::ssize(name);
  }
  const Json by_id = logprobs(R"("logprobs": 2, "return_tokens_as_token_ids": true)");
  EXPECT_EQ(by_id["tokens"][0], fmt::format("token_id:{}", ids[0]));
  EXPECT_EQ(by_id["top_logprobs"][0].size(), 2u);
  EXPECT_TRUE(by_id["top_logprobs"][0].contains(fmt::format("token_id:{}", ids[0] + 1)));
}

TEST(Logprobs, NamesThatAreEqualAreToldOnce) {
  // Halves of characters are all U+FFFD.
  ServedApi served;
  served.engine.script = says("\xF0\x9F\x99\x82<|im_end|>");
  const Json body = served.complete(R"("prompt": "p", "logprobs": 20)").json();
  const Json top = body["choices"][0]["logprobs"]["top_logprobs"][0];
  EXPECT_LT(top.size(), 20u);
  EXPECT_TRUE(top.contains("\xEF\xBF\xBD"));
}

TEST(Logprobs, OfChatsHaveBytes) {
  ServedApi served;
  served.engine.script = says("é<|im_end|>");
  const Json content = served.ask(R"("logprobs": true, "top_logprobs": 1)")
                           .json()["choices"][0]["logprobs"]["content"];
  const auto ids = served.tokenizer().encode("é<|im_end|>");
  ASSERT_EQ(content.size(), ids.size());
  std::string bytes;
  for (size_t i = 0; i + 1 < content.size(); ++i)
    for (const Json& byte : content[i]["bytes"]) bytes += static_cast<char>(byte.get<int>());
  EXPECT_EQ(bytes, "é");
  EXPECT_EQ(content.back()["token"], "<|im_end|>");
  EXPECT_EQ(content[0]["top_logprobs"].size(), 1u);
  EXPECT_EQ(content[0]["top_logprobs"][0]["logprob"], content[0]["logprob"]);
  EXPECT_EQ(served.ask(R"("logprobs": true)")
                .json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"],
            json("[]"));
}

TEST(Logprobs, OfPromptsAreVllms) {
  ServedApi served;
  const Json body = served.complete(R"("prompt": [5, 6, 7], "prompt_logprobs": 2)").json();
  const Json list = body["choices"][0]["prompt_logprobs"];
  ASSERT_EQ(list.size(), 3u);
  EXPECT_EQ(list[0], nullptr);
  EXPECT_EQ(list[1]["6"]["rank"], 1);
  EXPECT_EQ(list[1]["6"]["decoded_token"], served.tokenizer().decode(std::vector<int64_t>{6}));
  EXPECT_EQ(static_cast<float>(list[1]["6"]["logprob"].get<double>()), FakeEngine::logprob(1));
  EXPECT_TRUE(list[1].contains("7"));
  const Json own = served.complete(R"("prompt": [5, 6, 7], "prompt_logprobs": 0)").json();
  EXPECT_EQ(own["choices"][0]["prompt_logprobs"][2].size(), 1u);
  EXPECT_EQ(own["choices"][0]["prompt_logprobs"][2]["7"]["rank"], nullptr);
  EXPECT_EQ(served.ask(R"("prompt_logprobs": 1)").json()["prompt_logprobs"][0], nullptr);
}

TEST(Logprobs, OfAnEchoBeginWithThePrompt) {
  ServedApi served;
  served.engine.script = says("b<|im_end|>");
  const auto ids = served.tokenizer().encode("a c");
  const Json choice =
      served.complete(R"("prompt": "a c", "echo": true, "logprobs": 1)").json()["choices"][0];
  EXPECT_EQ(choice["text"], "a cb");
  const Json logprobs = choice["logprobs"];
  ASSERT_EQ(logprobs["tokens"].size(), ids.size() + 2);
  EXPECT_EQ(logprobs["token_logprobs"][0], nullptr);
  EXPECT_EQ(logprobs["top_logprobs"][0], nullptr);
  EXPECT_EQ(static_cast<float>(logprobs["token_logprobs"][1].get<double>()),
            FakeEngine::logprob(1));
  // Only the prompt: as programs score texts.
  const Json scored =
      served.complete(R"("prompt": "a c", "echo": true, "logprobs": 1, "max_tokens": 0)").json();
  EXPECT_EQ(scored["choices"][0]["text"], "a c");
  EXPECT_EQ(scored["choices"][0]["logprobs"]["tokens"].size(), ids.size());
  EXPECT_EQ(scored["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(scored["usage"]["completion_tokens"], 0);
}

/// What the events of a stream say about each choice, put together.
Json put_together(const std::vector<Json>& events) {
  Json choices = Json::object();
  for (const Json& event : events) {
    for (const Json& part : event["choices"]) {
      Json& choice = choices[part["index"].dump()];
      if (choice.is_null()) choice = Json::object();
      EXPECT_FALSE(choice.contains("finish_reason")) << "behind the end: " << part;
      const Json delta = part.contains("delta") ? part["delta"] : Json{{"content", part["text"]}};
      for (const char* name : {"content", "reasoning_content", "reasoning"})
        if (delta.contains(name))
          choice[name] = choice.value(name, "") + delta[name].get<std::string>();
      for (const Json& call : delta.value("tool_calls", Json::array())) {
        EXPECT_EQ(call["index"], choice.value("tool_calls", Json::array()).size());
        Json whole = call;
        whole.erase("index");
        choice["tool_calls"].push_back(whole);
      }
      for (const char* name : {"token_ids", "prompt_token_ids"})
        for (const Json& id : part.value(name, Json::array())) choice[name].push_back(id);
      if (part["logprobs"].is_object())
        for (const auto& [name, list] : part["logprobs"].items())
          for (const Json& one : list) choice["logprobs"][name].push_back(one);
      if (part.contains("weight_versions")) choice["weight_versions"] = part["weight_versions"];
      if (!part["finish_reason"].is_null()) {
        choice["finish_reason"] = part["finish_reason"];
        choice["stop_reason"] = part["stop_reason"];
      }
    }
  }
  return choices;
}

/// The same of a whole answer.
Json taken_apart(const Json& body) {
  Json choices = Json::object();
  for (const Json& whole : body["choices"]) {
    Json& choice = choices[whole["index"].dump()];
    const Json message =
        whole.contains("message") ? whole["message"] : Json{{"content", whole["text"]}};
    choice["content"] = message["content"].is_null() ? Json("") : message["content"];
    for (const char* name : {"reasoning_content", "reasoning", "tool_calls"})
      if (message.contains(name)) choice[name] = message[name];
    for (const char* name :
         {"token_ids", "prompt_token_ids", "weight_versions", "finish_reason", "stop_reason"})
      if (whole.contains(name)) choice[name] = whole[name];
    if (whole["logprobs"].is_object()) choice["logprobs"] = whole["logprobs"];
  }
  return choices;
}

std::string random_text(std::mt19937_64& generator) {
  static const std::vector<std::string> kShards = {
      "<think>\n",
      "\n</think>\n\n",
      "\n",
      " ",
      "word",
      "grün",
      "🙂",
      "日本",
      "<tool",
      "stop",
      "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Ems\"}}\n</tool_call>",
      "<tool_call>\n{\"name\": \n</tool_call>",
      "<|im_start|>",
      "st",
      "op"};
  std::string text;
  for (uint64_t i = generator() % 14; i > 0; --i) text += kShards[generator() % kShards.size()];
  return text + (generator() % 3 ? "<|im_end|>" : " the end is never reached");
}

TEST(Streams, PutTogetherAreTheWholeAnswer) {
  std::mt19937_64 generator(testing::test_seed(18));
  ServedApi served;
  served.engine.next_version = {3, "v2"};
  const std::vector<std::string> options = {
      R"("return_token_ids": true)", R"("n": 2)", R"("stop": ["stop", "日"])",
      R"("include_stop_str_in_output": true)", R"("skip_special_tokens": false)"};
  const std::string tools = R"("tools": [{"type": "function", "function": {"name": "weather"}}])";
  for (int draw = 0; draw < 200; ++draw) {
    std::vector<std::string> texts = {random_text(generator), random_text(generator)};
    served.engine.script = [&](const rollout::Request&, int64_t sample) {
      return texts[static_cast<size_t>(sample)];
    };
    const bool is_chat = generator() % 2;
    std::string fields = fmt::format(R"("seed": 3, "max_tokens": {})", 1 + generator() % 5);
    for (const std::string& option : options)
      if (generator() % 2) fields += ", " + option;
    if (generator() % 2)
      fields += is_chat ? R"(, "logprobs": true, "top_logprobs": 2)" : R"(, "logprobs": 2)";
    if (is_chat && generator() % 2) fields += ", " + tools;
    if (!is_chat && generator() % 2) fields += R"(, "echo": true)";
    if (!is_chat) fields += R"(, "prompt": ["p q", "r"])";
    const auto ask = [&](const std::string& more) {
      return is_chat ? served.ask(fields + more) : served.complete(fields + more);
    };
    const FakeAnswer whole = ask(""), stream = ask(R"(, "stream": true)");
    ASSERT_TRUE(stream.is_stream);
    EXPECT_EQ(stream.content_type, "text/event-stream");
    Json expected = taken_apart(whole.json()), told = put_together(stream.events());
    if (is_chat && whole.json().contains("prompt_token_ids")) {
      EXPECT_EQ(stream.events().front()["prompt_token_ids"], whole.json()["prompt_token_ids"]);
    }
    for (auto& [name, choice] : told.items()) {
      // Members come in another order.
      EXPECT_EQ(nlohmann::json(choice), nlohmann::json(expected[name])) << fields << texts[0];
    }
    ASSERT_EQ(told.size(), expected.size());
    if (HasFailure()) FAIL() << fields << "\n" << texts[0] << "\n" << texts[1];
  }
}

TEST(Streams, SayWhatWasUsedWhereThatIsAsked) {
  ServedApi served;
  served.engine.script = says("one two<|im_end|>");
  served.engine.cached_tokens = 2;
  const Json usage = served.ask().json()["usage"];
  auto events = served.ask(R"("stream": true, "stream_options": {"include_usage": true})").events();
  EXPECT_EQ(events.back()["choices"], Json::array());
  EXPECT_EQ(events.back()["usage"], usage);
  EXPECT_FALSE(events[0].contains("usage"));
  EXPECT_EQ(events[0]["object"], "chat.completion.chunk");
  EXPECT_EQ(events[0]["choices"][0]["delta"], json(R"({"role": "assistant", "content": ""})"));
  events = served
               .ask(R"("stream": true, "stream_options": {"include_usage": true,
                                                          "continuous_usage_stats": true})")
               .events();
  EXPECT_EQ(events[0]["usage"]["completion_tokens"], 0);
  EXPECT_EQ(events[1]["usage"]["completion_tokens"], 1);
  events = served.ask(R"("stream": true)").events();
  EXPECT_FALSE(events.back().contains("usage"));
}

TEST(Streams, TellEachTokenAtOnce) {
  ServedApi served;
  served.engine.holds = true;
  const auto responder = served.start(
      "/v1/completions", R"({"prompt": "p", "stream": true, "return_token_ids": true})");
  served.engine.wait_for_held(1);
  const auto held = served.engine.take_held();
  const std::string version = "default";
  const int64_t id = served.tokenizer().encode("a").at(0);
  std::string seen;
  for (int i = 0; i < 3; ++i) {
    held.second(rollout::SampleToken{.sample = 0, .token = {{id, -1}}, .weight_version = &version});
    const std::string token = fmt::format("\"token_ids\":[{}]", id);
    const FakeAnswer so_far = responder->wait([&](const FakeAnswer& answer) {
      return answer.body.size() > seen.size() && answer.body.find(token, seen.size()) != seen.npos;
    });
    EXPECT_FALSE(so_far.is_complete);
    seen = so_far.body;
  }
  held.second(rollout::SampleDone{.sample = 0, .end = rollout::SampleEnd::kLength});
  held.second(rollout::RequestDone{});
  const auto events = responder->wait().events();
  // The prompt, a token each, and the end.
  EXPECT_EQ(events.size(), 5u);
  EXPECT_EQ(events[0]["choices"][0]["prompt_token_ids"].size(), 1u);
  EXPECT_EQ(events.back()["choices"][0]["finish_reason"], "length");
}

TEST(Streams, HaveAnEventForATokenThatEndsInsideACharacter) {
  ServedApi served;
  served.engine.script = says("🎉<|im_end|>");
  const size_t tokens = served.tokenizer().encode("🎉").size();
  ASSERT_GT(tokens, 1u);
  const std::string fields = R"("prompt": "p", "stream": true)";
  const auto events = served.complete(fields).events();
  // A token each, and the end.
  ASSERT_EQ(events.size(), tokens + 1);
  for (size_t i = 0; i + 1 < tokens; ++i) EXPECT_EQ(events[i]["choices"][0]["text"], "");
  EXPECT_EQ(events[tokens - 1]["choices"][0]["text"], "🎉");
}

TEST(Streams, TellErrorsInside) {
  ServedApi served;
  served.engine.holds = true;
  const auto responder = served.start("/v1/completions", R"({"prompt": "p", "stream": true})");
  served.engine.wait_for_held(1);
  const auto held = served.engine.take_held();
  const std::string version = "default";
  held.second(rollout::SampleToken{.sample = 0, .token = {{5, -1}}, .weight_version = &version});
  held.second(rollout::RequestDone{.status = rollout::RequestDone::Status::kFailed,
                                   .error = "a page was lost"});
  const FakeAnswer answer = responder->wait();
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.events().back()["error"]["message"], "a page was lost");
  // Before anything was told, the status says it.
  served.engine.holds = false;
  served.engine.refuse_at = 2;
  served.engine.refusal = RequestError(503, "queue-full", "", "full");
  EXPECT_EQ(served.ask(R"("stream": true)").status, 503);
}

}  // namespace
}  // namespace lockstep::serve
