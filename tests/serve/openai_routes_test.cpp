// Requests through the API to a fake sampler and back.
// SPDX-License-Identifier: Apache-2.0
#include "serve/openai_routes.h"

#include <chrono>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "serve/swift_infer.h"
#include "tests/serve/api_fixture.h"
#include "tests/support/expect_error.h"

namespace lockstep::serve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(OpenAiRoutes, NamesTheModels) {
  ServedApi served;
  const Json list = served.get("/v1/models").json();
  EXPECT_EQ(list["object"], "list");
  ASSERT_EQ(list["data"].size(), 1u);
  EXPECT_EQ(list["data"][0]["id"], "tiny");
  EXPECT_EQ(list["data"][0]["root"], "models/tiny");
  EXPECT_EQ(list["data"][0]["max_model_len"], 4096);
  EXPECT_EQ(served.get("/v1/models/also-tiny").json()["id"], "also-tiny");
  const FakeAnswer unknown = served.get("/v1/models/gpt");
  EXPECT_EQ(unknown.status, 404);
  EXPECT_EQ(unknown.json()["error"]["code"], "model-not-found");
}

TEST(OpenAiRoutes, LeavesOtherPathsAlone) {
  ServedApi served;
  served.get("/v1/models");
  HttpRequest request{.method = "GET", .path = "/health"};
  EXPECT_FALSE(served.api->handle(request, std::make_shared<FakeResponder>()));
}

TEST(OpenAiRoutes, RefusesOtherMethods) {
  ServedApi served;
  EXPECT_ERROR(served.get("/v1/completions"), RequestError, "bad-method",
               "/v1/completions: expected POST, got GET");
  EXPECT_ERROR(served.post("/v1/models", "{}"), RequestError, "bad-method",
               "/v1/models: expected GET, got POST");
}

TEST(OpenAiRoutes, CompletesAText) {
  ServedApi served;
  served.engine.script = says("Grüße<|im_end|>");
  served.engine.cached_tokens = 1;
  const FakeAnswer answer = served.complete(R"("model": "tiny", "prompt": "Say:", "seed": 5)");
  EXPECT_EQ(answer.status, 200);
  const Json body = answer.json();
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["model"], "tiny");
  EXPECT_EQ(body["system_fingerprint"], "lockstep-default");
  EXPECT_THAT(body["id"].get<std::string>(), StartsWith("cmpl-"));
  EXPECT_EQ("cmpl-" + answer.headers.at("X-Request-Id"), body["id"]);
  const Json choice = body["choices"].at(0);
  EXPECT_EQ(choice["text"], "Grüße");
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_EQ(choice["stop_reason"], nullptr);
  EXPECT_EQ(choice["logprobs"], nullptr);
  EXPECT_FALSE(choice.contains("token_ids"));
  const int64_t prompt = std::ssize(served.tokenizer().encode("Say:")),
                tokens = std::ssize(served.tokenizer().encode("Grüße<|im_end|>"));
  EXPECT_EQ(body["usage"], (Json{{"prompt_tokens", prompt},
                                 {"completion_tokens", tokens},
                                 {"total_tokens", prompt + tokens},
                                 {"prompt_tokens_details", {{"cached_tokens", 1}}}}));
  const rollout::Request request = served.engine.requests().at(0);
  EXPECT_EQ(request.prompt, served.tokenizer().encode("Say:"));
  EXPECT_EQ(request.settings.seed, 5u);
  EXPECT_EQ(request.settings.max_new_tokens, 16);
  EXPECT_EQ(request.settings.stop_ids, served.options.eos_ids);
  EXPECT_EQ(request.id, body["id"]);
}

TEST(OpenAiRoutes, AnswersAChat) {
  ServedApi served;
  served.engine.script = says("<think>\nhm\n</think>\n\nHello<|im_end|>");
  const Json body = served.ask().json();
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_THAT(body["id"].get<std::string>(), StartsWith("chatcmpl-"));
  const Json choice = body["choices"].at(0);
  EXPECT_EQ(choice["message"], json(R"({"role": "assistant", "content": "Hello", "refusal": null,
                                        "reasoning_content": "hm", "reasoning": "hm"})"));
  EXPECT_EQ(choice["finish_reason"], "stop");
  const rollout::Request request = served.engine.requests().at(0);
  EXPECT_EQ(served.tokenizer().decode(request.prompt),
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
  // All the room that there is.
  EXPECT_EQ(request.settings.max_new_tokens, 4096 - std::ssize(request.prompt));
  // Thinking can be left out of the answer.
  const Json hidden = served.ask(R"("include_reasoning": false)").json();
  EXPECT_EQ(hidden["choices"][0]["message"],
            json(R"({"role": "assistant", "content": "Hello", "refusal": null})"));
}

TEST(OpenAiRoutes, ThinkingThatThePromptOpenedIsReasoning) {
  ServedApi served("qwen3_5_think.jinja");
  served.engine.script = says("hm\n</think>\n\nHello<|im_end|>");
  EXPECT_EQ(served.ask().json()["choices"][0]["message"]["reasoning_content"], "hm");
  served.engine.script = says("still thinking about it");
  const Json cut = served.ask(R"("max_tokens": 3)").json()["choices"][0];
  EXPECT_EQ(cut["finish_reason"], "length");
  EXPECT_EQ(cut["message"]["content"], nullptr);
  EXPECT_THAT(cut["message"]["reasoning"].get<std::string>(), StartsWith("still"));
  served.engine.script = says("plain</think><|im_end|>");
  const Json off = served.ask(R"("chat_template_kwargs": {"enable_thinking": false})").json();
  EXPECT_EQ(off["choices"][0]["message"]["content"], "plain</think>");
}

const std::string kTools =
    R"("tools": [{"type": "function", "function": {"name": "weather", "parameters":
        {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}}}])";

TEST(OpenAiRoutes, CallsTools) {
  for (const bool is_xml : {false, true}) {
    ServedApi served(is_xml ? "qwen3_5_nothink.jinja" : "qwen3.jinja");
    const std::string call =
        is_xml ? "<tool_call>\n<function=weather>\n<parameter=city>\nEms\n</parameter>\n"
                 "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"
               : "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Ems\", "
                 "\"days\": 3}}\n</tool_call>";
    served.engine.script = says("Let me see.\n\n" + call + "\n" + call + "<|im_end|>");
    const Json choice = served.ask(kTools + ", \"seed\": 1").json()["choices"][0];
    EXPECT_EQ(choice["finish_reason"], "tool_calls");
    EXPECT_EQ(choice["message"]["content"], "Let me see.");
    const Json calls = choice["message"]["tool_calls"];
    ASSERT_EQ(calls.size(), 2u);
    EXPECT_EQ(calls[0]["type"], "function");
    EXPECT_EQ(calls[0]["function"]["name"], "weather");
    EXPECT_EQ(calls[0]["function"]["arguments"], R"({"city": "Ems", "days": 3})");
    EXPECT_THAT(calls[0]["id"].get<std::string>(), StartsWith("call_"));
    EXPECT_NE(calls[0]["id"], calls[1]["id"]);
    // The same request gets the same answer, whatever stands around it.
    EXPECT_EQ(served.ask(kTools + ", \"seed\": 1").json()["choices"][0], choice);
    EXPECT_NE(served.ask(kTools + ", \"seed\": 2").json()["choices"][0]["message"]["tool_calls"],
              calls);
    const Json one = served.ask(kTools + R"(, "parallel_tool_calls": false)").json();
    EXPECT_EQ(one["choices"][0]["message"]["tool_calls"].size(), 1u);
    // The template shows the tools, and the client reads the calls itself.
    const Json none = served.ask(kTools + R"(, "tool_choice": "none")").json()["choices"][0];
    EXPECT_EQ(none["message"]["content"], "Let me see.\n\n" + call + "\n" + call);
    EXPECT_EQ(none["finish_reason"], "stop");
  }
}

TEST(OpenAiRoutes, BeginsTheCallThatIsDemanded) {
  ServedApi served("qwen3_5_think.jinja");
  const auto prompt = [&] {
    return served.tokenizer().decode(served.engine.requests().back().prompt);
  };
  served.engine.script =
      says("<parameter=city>\nEms\n</parameter>\n</function>\n</tool_call><|im_end|>");
  const Json named =
      served
          .ask(kTools + R"(, "tool_choice": {"type": "function", "function": {"name": "weather"}})")
          .json()["choices"][0];
  EXPECT_TRUE(prompt().ends_with("<think>\n\n</think>\n\n<tool_call>\n<function=weather>\n"))
      << prompt();
  EXPECT_EQ(named["finish_reason"], "stop");
  EXPECT_EQ(named["message"]["content"], nullptr);
  EXPECT_EQ(named["message"]["tool_calls"][0]["function"]["arguments"], R"({"city": "Ems"})");
  served.engine.script = says("weather>\n</function>\n</tool_call><|im_end|>");
  const Json required = served.ask(kTools + R"(, "tool_choice": "required")").json()["choices"][0];
  EXPECT_TRUE(prompt().ends_with("<tool_call>\n<function=")) << prompt();
  EXPECT_EQ(required["finish_reason"], "tool_calls");
  EXPECT_EQ(required["message"]["tool_calls"][0]["function"]["name"], "weather");
  // What is no call after all is told as it was written, with what the prompt began.
  served.engine.script = says("oh, no<|im_end|>");
  const Json broken = served.ask(kTools + R"(, "tool_choice": "required")").json()["choices"][0];
  EXPECT_EQ(broken["message"]["content"], "<tool_call>\n<function=oh, no");
  EXPECT_EQ(broken["finish_reason"], "stop");
}

TEST(OpenAiRoutes, NumbersPromptsAndSamples) {
  ServedApi served;
  served.engine.script = [&](const rollout::Request& request, int64_t sample) {
    return served.tokenizer().decode(request.prompt) + std::to_string(sample) + "<|im_end|>";
  };
  const Json body = served.complete(R"("prompt": ["a", "b"], "n": 3, "request_id": "mine")").json();
  std::vector<std::string> texts;
  for (size_t i = 0; i < body["choices"].size(); ++i) {
    EXPECT_EQ(body["choices"][i]["index"], i);
    texts.push_back(body["choices"][i]["text"]);
  }
  EXPECT_THAT(texts, ElementsAre("a0", "a1", "a2", "b0", "b1", "b2"));
  EXPECT_EQ(body["id"], "cmpl-mine");
  EXPECT_EQ(served.engine.requests().at(1).id, "cmpl-mine-1");
}

TEST(OpenAiRoutes, SeedsMakePromptsAlikeOrNot) {
  ServedApi served;
  served.complete(R"("prompt": ["a", "a"], "seed": 7, "lockstep": {"occurrence": 2, "draw": 9},
                     "weight_version": "v3")");
  served.complete(R"("prompt": ["a", "a"])");
  const auto requests = served.engine.requests();
  EXPECT_EQ(requests.at(0).settings.seed, 7u);
  EXPECT_EQ(requests.at(1).settings.seed, 7u);
  EXPECT_EQ(requests.at(1).occurrence, 2u);
  EXPECT_EQ(requests.at(1).draw, 9u);
  EXPECT_EQ(requests.at(1).weight_version, "v3");
  EXPECT_NE(requests.at(2).settings.seed, requests.at(3).settings.seed);
  EXPECT_NE(requests.at(2).id, requests.at(3).id);
}

TEST(OpenAiRoutes, SaysWhyAnAnswerEnded) {
  ServedApi served;
  served.engine.script = says("one two three<|im_end|>");
  const auto choice = [&](const std::string& fields) {
    return served.complete(R"("prompt": "p", )" + fields).json()["choices"][0];
  };
  Json cut = choice(R"("stop": "two")");
  EXPECT_EQ(cut["text"], "one ");
  EXPECT_EQ(cut["finish_reason"], "stop");
  EXPECT_EQ(cut["stop_reason"], "two");
  EXPECT_EQ(choice(R"("stop": "two", "include_stop_str_in_output": true)")["text"], "one two");
  cut = choice(R"("max_tokens": 1)");
  EXPECT_EQ(cut["finish_reason"], "length");
  EXPECT_EQ(cut["stop_reason"], nullptr);
  const auto ids = served.tokenizer().encode("one two three");
  const int64_t last = ids.back();
  cut = choice(fmt::format(R"("stop_token_ids": [{}], "return_token_ids": true)", last));
  EXPECT_EQ(cut["stop_reason"], last);
  EXPECT_EQ(cut["token_ids"].get<std::vector<int64_t>>(), ids);
  EXPECT_FALSE(cut["text"].get<std::string>().ends_with("three")) << cut["text"];
  EXPECT_EQ(choice(R"("include_stop_str_in_output": true, "skip_special_tokens": false)")["text"],
            "one two three<|im_end|>");
}

TEST(OpenAiRoutes, TellsVersionsOfTokens) {
  ServedApi served;
  served.engine.script = says("one two three four<|im_end|>");
  served.engine.next_version = {2, "v2"};
  const int64_t count = std::ssize(served.tokenizer().encode("one two three four<|im_end|>"));
  const Json choice =
      served.complete(R"("prompt": [5, 6], "return_token_ids": true)").json()["choices"][0];
  EXPECT_EQ(choice["prompt_token_ids"], json("[5, 6]"));
  EXPECT_EQ(choice["weight_versions"], (Json{{{"version", "default"}, {"start", 0}, {"end", 2}},
                                             {{"version", "v2"}, {"start", 2}, {"end", count}}}));
  const Json chat = served.ask(R"("return_token_ids": true)").json();
  EXPECT_EQ(chat["prompt_token_ids"].size(), served.engine.requests().back().prompt.size());
  EXPECT_EQ(chat["choices"][0]["token_ids"].size(), count);
}

TEST(OpenAiRoutes, TokenizesTextsAndChats) {
  ServedApi served;
  const Json text =
      served.post("/tokenize", R"({"prompt": "grün é<think>", "return_token_strs": true})").json();
  const auto ids = served.tokenizer().encode("grün é<think>");
  EXPECT_EQ(text["tokens"].get<std::vector<int64_t>>(), ids);
  EXPECT_EQ(text["count"], ids.size());
  EXPECT_EQ(text["max_model_len"], 4096);
  std::string joined;
  for (const Json& piece : text["token_strs"]) joined += piece.get<std::string>();
  EXPECT_EQ(joined, "grÃ¼nĠÃ©<think>");
  const Json chat =
      served.post("/tokenize", R"({"messages": [{"role": "user", "content": "hi"}]})").json();
  EXPECT_EQ(served.tokenizer().decode(chat["tokens"].get<std::vector<int64_t>>()),
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(chat["token_strs"], nullptr);
  const Json back =
      served.post("/detokenize", "{\"tokens\": " + dump_json(text["tokens"]) + "}").json();
  EXPECT_EQ(back["prompt"], "grün é<think>");
  EXPECT_EQ(served.post("/detokenize", R"({"model": "gpt", "tokens": []})").status, 404);
  const Json rendered = served
                            .post("/v1/chat/completions/render",
                                  R"({"messages": [{"role": "user", "content": "hi"}]})")
                            .json();
  EXPECT_EQ(rendered["token_ids"], chat["tokens"]);
  EXPECT_TRUE(served.engine.requests().empty());
}

TEST(OpenAiRoutes, RefusesWhatCannotBeAnswered) {
  ServedApi served;
  served.engine.facts_.max_model_len = 8;
  const auto error = [](const FakeAnswer& answer) {
    return fmt::format("{} {} {} {}", answer.status, answer.json()["error"]["code"].dump(),
                       answer.json()["error"]["param"].dump(),
                       answer.json()["error"]["message"].dump());
  };
  EXPECT_THAT(error(served.complete(R"("prompt": [1,2,3,4,5,6,7,8])")),
              StartsWith(R"(400 "prompt-too-long" "prompt")"));
  EXPECT_THAT(error(served.complete(R"("prompt": "")")),
              StartsWith(R"(400 "bad-request" "prompt")"));
  EXPECT_THAT(error(served.complete(R"("prompt": "p", "model": "gpt-9")")),
              StartsWith(R"(404 "model-not-found" "model")"));
  EXPECT_THAT(error(served.post("/v1/completions", "nonsense")),
              StartsWith(R"(400 "bad-json" null)"));
  EXPECT_THAT(error(served.complete(R"("prompt": "p", "n": "2")")),
              StartsWith(R"(400 "bad-request" "n" "n: expected a whole number from 1 to 1024)"));
  EXPECT_TRUE(served.engine.requests().empty());
  // Room for three tokens: that is all it gets.
  served.engine.script = says("a b c d e f");
  EXPECT_EQ(served.complete(R"("prompt": [1,2,3,4,5])").json()["choices"][0]["finish_reason"],
            "length");
  EXPECT_EQ(served.engine.requests().at(0).settings.max_new_tokens, 3);
}

TEST(OpenAiRoutes, TemplatesRefuseWithTheirOwnWords) {
  ServedApi served("qwen3_5_think.jinja");
  const FakeAnswer answer = served.post(
      "/v1/chat/completions", R"({"messages": [{"role": "assistant", "content": "alone"}]})");
  EXPECT_EQ(answer.status, 400);
  EXPECT_EQ(answer.json()["error"]["param"], "messages");
  EXPECT_THAT(answer.json()["error"]["message"].get<std::string>(), HasSubstr("No user query"));
}

TEST(OpenAiRoutes, SaysWhatTheSamplerRefuses) {
  ServedApi served;
  served.engine.refuse_at = 1;
  served.engine.refusal = RequestError(503, "queue-full", "", "expected a place in the queue");
  const FakeAnswer full = served.complete(R"("prompt": "p")");
  EXPECT_EQ(full.status, 503);
  EXPECT_EQ(full.headers.at("Retry-After"), "1");
  EXPECT_EQ(full.json()["error"]["code"], "queue-full");
  EXPECT_EQ(full.json()["error"]["type"], "overloaded_error");
  served.engine.refuse_at = 2;
  served.engine.refusal = RequestError(409, "version-mismatch", "weight_version", "expected v2");
  const FakeAnswer other = served.complete(R"("prompt": "p", "weight_version": "v1")");
  EXPECT_EQ(other.status, 409);
  EXPECT_EQ(other.json()["error"]["param"], "weight_version");
}

TEST(OpenAiRoutes, OneRefusedPromptEndsTheOthers) {
  ServedApi served;
  served.engine.holds = true;
  served.engine.refuse_at = 2;
  served.engine.refusal = RequestError(503, "queue-full", "", "full");
  const FakeAnswer answer = served.complete(R"("prompt": ["a", "b", "c"], "request_id": "r")");
  EXPECT_EQ(answer.status, 503);
  EXPECT_EQ(served.engine.requests().size(), 2u);
  EXPECT_THAT(served.engine.aborted(), ::testing::Contains("cmpl-r-0"));
}

TEST(OpenAiRoutes, WhatFailsInTheSamplerIsAnError) {
  ServedApi served;
  served.engine.holds = true;
  const auto responder = served.start("/v1/completions", R"({"prompt": "p"})");
  served.engine.wait_for_held(1);
  served.engine.take_held().second(
      rollout::RequestDone{.status = rollout::RequestDone::Status::kFailed,
                           .http_status = 503,
                           .code = "stopping",
                           .error = "the sampler stops"});
  const FakeAnswer answer = responder->wait();
  EXPECT_EQ(answer.status, 503);
  EXPECT_EQ(answer.json()["error"]["message"], "the sampler stops");
  EXPECT_EQ(answer.json()["error"]["code"], "stopping");
}

TEST(OpenAiRoutes, AnAbortedRequestTellsWhatItHas) {
  ServedApi served;
  served.engine.holds = true;
  const auto responder =
      served.start("/v1/completions", R"({"prompt": "p", "return_token_ids": true})");
  served.engine.wait_for_held(1);
  const auto held = served.engine.take_held();
  const std::string version = "default";
  const int64_t id = served.tokenizer().encode("a").at(0);
  held.second(rollout::SampleToken{.sample = 0, .token = {{id, -1}}, .weight_version = &version});
  held.second(rollout::SampleDone{.sample = 0, .end = rollout::SampleEnd::kAborted});
  held.second(rollout::RequestDone{.status = rollout::RequestDone::Status::kAborted});
  const Json choice = responder->wait().json()["choices"][0];
  EXPECT_EQ(choice["text"], "a");
  EXPECT_EQ(choice["finish_reason"], "abort");
  EXPECT_EQ(choice["token_ids"], json("[" + std::to_string(id) + "]"));
}

TEST(OpenAiRoutes, AClientThatLeavesEndsItsRequests) {
  ServedApi served;
  served.engine.holds = true;
  const auto responder =
      served.start("/v1/completions", R"({"prompt": ["a", "b"], "request_id": "r"})");
  served.engine.wait_for_held(2);
  responder->leave();
  EXPECT_THAT(served.engine.aborted(), ElementsAre("cmpl-r-0", "cmpl-r-1"));
  // What the sampler still tells of them goes nowhere, and nothing is left of them.
  for (int i = 0; i < 2; ++i) {
    auto [request, handler] = served.engine.take_held();
    served.engine.play(request, handler);
  }
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (responder.use_count() > 1 && std::chrono::steady_clock::now() < deadline)
    std::this_thread::yield();
  EXPECT_EQ(responder.use_count(), 1);
}

TEST(OpenAiRoutes, ARequestsHeaderNamesIt) {
  ServedApi served;
  HttpRequest request{.method = "POST",
                      .path = "/v1/completions",
                      .headers = {{"x-request-id", "from-header"}},
                      .body = R"({"prompt": "p", "request_id": "from-body"})"};
  const FakeAnswer answer = served.start(request)->wait();
  EXPECT_EQ(answer.json()["id"], "cmpl-from-header");
  EXPECT_EQ(answer.headers.at("X-Request-Id"), "from-header");
  request.headers["x-request-id"] = "a b";
  const FakeAnswer bad = served.start(request)->wait();
  EXPECT_EQ(bad.status, 400);
  EXPECT_EQ(bad.json()["error"]["param"], "X-Request-Id");
}

TEST(OpenAiRoutes, RequestsEndInTime) {
  ServedApi served;
  served.options.request_timeout = std::chrono::seconds(100);
  const auto before = std::chrono::steady_clock::now();
  served.complete(R"("prompt": "p")");
  const auto deadline = served.engine.requests().at(0).deadline;
  ASSERT_TRUE(deadline);
  EXPECT_GE(*deadline, before + std::chrono::seconds(100));
  EXPECT_LE(*deadline, std::chrono::steady_clock::now() + std::chrono::seconds(100));
}

TEST(SwiftInfer, AnswersManyChatsInOrder) {
  ServedApi served("qwen3_5_think.jinja");
  served.engine.script = [&](const rollout::Request& request, int64_t) {
    return "about " + served.tokenizer().decode(request.prompt).substr(17, 1) +
           "</think> x<|im_end|>";
  };
  const FakeAnswer answer = served.post("/infer/", R"({
      "infer_requests": [
        {"messages": [{"role": "user", "content": "a"}], "images": [], "audios": [], "videos": [],
         "tools": null, "objects": {}, "data_dict": {}, "uuid": null, "add_eos": null},
        {"messages": [{"role": "user", "content": "b"}]},
        {"messages": [{"role": "user", "content": "a"}], "tools": []}],
      "request_config": {"max_tokens": 20, "temperature": 0.5, "top_k": null, "num_beams": 1,
        "stop": [], "seed": 3, "stream": false, "logprobs": true, "top_logprobs": null, "n": 1,
        "presence_penalty": 0.0, "length_penalty": 1.0, "return_details": true},
      "metrics": null, "use_tqdm": false, "adapter_request": null})");
  ASSERT_EQ(answer.status, 200) << answer.body;
  const Json list = answer.json();
  ASSERT_EQ(list.size(), 3u);
  const Json choice = list[1]["response"]["choices"][0];
  // The text is whole, with what the template began it with.
  EXPECT_EQ(choice["message"]["content"], "<think>\nabout b</think> x");
  EXPECT_FALSE(choice["message"].contains("reasoning_content"));
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_EQ(choice["token_ids"].size(), choice["logprobs"]["content"].size());
  EXPECT_FALSE(list[1]["response"]["prompt_token_ids"].empty());
  EXPECT_EQ(list[1]["messages"], nullptr);
  EXPECT_EQ(list[1]["response_token_ids"], json("[]"));
  EXPECT_EQ(list[2]["response"]["choices"][0]["message"]["content"], "<think>\nabout a</think> x");
  const auto requests = served.engine.requests();
  EXPECT_EQ(requests.at(0).settings.sampling.temperature, 0.5);
  EXPECT_EQ(requests.at(0).settings.max_new_tokens, 20);
  // Equal prompts are told apart.
  EXPECT_EQ(requests.at(0).occurrence, 0u);
  EXPECT_EQ(requests.at(1).occurrence, 0u);
  EXPECT_EQ(requests.at(2).occurrence, 1u);
  EXPECT_EQ(served.post("/infer", R"({"infer_requests": []})").json(), json("[]"));
}

TEST(SwiftInfer, NamesTheRequestThatIsWrong) {
  ServedApi served;
  const auto param = [&](const std::string& body) {
    const FakeAnswer answer = served.post("/infer/", body);
    EXPECT_EQ(answer.status, 400) << body;
    return answer.json()["error"]["param"].get<std::string>();
  };
  const std::string good = R"({"messages": [{"role": "user", "content": "a"}]})";
  EXPECT_EQ(param("{}"), "infer_requests");
  EXPECT_EQ(param("{\"infer_requests\": [" + good + ", 5]}"), "infer_requests[1]");
  EXPECT_EQ(param("{\"infer_requests\": [" + good + ", {}]}"), "infer_requests[1].messages");
  EXPECT_EQ(param(R"({"infer_requests": [{"messages": [], "images": ["x"]}]})"),
            "infer_requests[0].images");
  for (const char* bad : {R"("n": 2)", R"("num_beams": 2)", R"("stream": true)",
                          R"("structured_outputs_regex": "a")"})
    EXPECT_THAT(param("{\"infer_requests\": [" + good + "], \"request_config\": {" + bad + "}}"),
                StartsWith("request_config."));
  EXPECT_EQ(param("{\"infer_requests\": [" + good + R"(], "request_config": {"top_p": 2}})"),
            "infer_requests[0].top_p");
  EXPECT_TRUE(served.engine.requests().empty());
}

TEST(SwiftInfer, OneErrorEndsAll) {
  ServedApi served;
  served.engine.holds = true;
  const std::string body = R"({"infer_requests": [{"messages": [{"role": "user", "content": "a"}]},
                                                  {"messages": [{"role": "user", "content": "b"}]}]})";
  const auto failing = served.start("/infer/", body);
  served.engine.wait_for_held(2);
  const auto at_work = served.engine.take_held();
  served.engine.take_held().second(
      rollout::RequestDone{.status = rollout::RequestDone::Status::kFailed,
                           .code = "internal",
                           .error = "a page is lost"});
  EXPECT_EQ(failing->wait().status, 500);
  EXPECT_THAT(served.engine.aborted(), ::testing::Contains(served.engine.requests().at(0).id));
  const auto leaving = served.start("/infer/", body);
  served.engine.wait_for_held(2);
  leaving->leave();
  EXPECT_THAT(served.engine.aborted(), ::testing::Contains(served.engine.requests().at(3).id));
}

TEST(SwiftInfer, WhatStartsAfterAFailureEndsAtOnce) {
  const auto whole = std::make_shared<FakeResponder>();
  const auto each = rollout_responders(2, whole);
  int gone = 0;
  each[0]->on_gone([&] { ++gone; });
  each[0]->respond({.status = 500, .body = "{}"});
  EXPECT_EQ(gone, 1);
  each[1]->on_gone([&] { ++gone; });
  EXPECT_EQ(gone, 2);
}

}  // namespace
}  // namespace lockstep::serve
