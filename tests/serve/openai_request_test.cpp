// The fields of requests: what they mean, and what each of them refuses.
// SPDX-License-Identifier: Apache-2.0
#include "serve/openai_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "fuzz/fuzz_targets.h"
#include "serve/chat_messages.h"
#include "tests/support/fuzz_replay.h"
#include "tests/text/chat_models.h"

namespace lockstep::serve {

using text::json;
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

constexpr RequestBounds kBounds{.vocab_size = 1000, .max_logprobs = 20};
const std::string kMessages = R"("messages": [{"role": "user", "content": "hi"}])";
const std::string kTools =
    R"("tools": [{"type": "function", "function": {"name": "get", "parameters": {}}}])";

/// A request with these fields besides those that it needs.
OpenAiRequest completion(const std::string& fields) {
  return parse_completion_request(R"({"prompt": "p")" + (fields.empty() ? "" : ", " + fields) + "}",
                                  kBounds);
}
OpenAiRequest chat(const std::string& fields) {
  return parse_chat_request("{" + kMessages + (fields.empty() ? "" : ", " + fields) + "}", kBounds);
}

/// The place and the words of a refusal; "" if there is none.
template <class Parse>
std::string refusal(const Parse& parse) {
  try {
    parse();
    return "";
  } catch (const RequestError& error) {
    EXPECT_EQ(error.status(), 400);
    return error.where() + "|" + error.what();
  }
}

TEST(OpenAiRequest, TellsExpertsWhereThereAreSome) {
  using rollout::RecordExperts;
  constexpr RequestBounds kWithExperts{.vocab_size = 1000, .has_experts = true};
  const auto parse = [&](const std::string& keys, const RequestBounds& bounds,
                         const char* more = "") {
    return parse_completion_request(R"({"prompt": "p", "lockstep": {)" + keys + "}" + more + "}",
                                    bounds)
        .settings.record_experts;
  };
  const std::string ids = R"("routed_experts": true)",
                    weights = ids + R"(, "routed_weights": true)";
  EXPECT_EQ(parse("", kBounds), RecordExperts::kNothing);
  EXPECT_EQ(parse(R"("routed_experts": false)", kBounds), RecordExperts::kNothing);
  EXPECT_EQ(parse(ids, kWithExperts), RecordExperts::kIds);
  EXPECT_EQ(parse(weights, kWithExperts), RecordExperts::kIdsAndWeights);
  EXPECT_THAT(refusal([&] { parse(ids, kBounds); }), HasSubstr("lockstep.routed_experts|"));
  EXPECT_THAT(refusal([&] { parse(R"("routed_weights": true)", kWithExperts); }),
              HasSubstr("lockstep.routed_weights|"));
  EXPECT_THAT(refusal([&] { parse(ids, kWithExperts, R"(, "stream": true)"); }),
              HasSubstr("none with \"stream\": true"));
}

TEST(OpenAiRequest, HasVllmsDefaults) {
  const OpenAiRequest text = completion("");
  EXPECT_EQ(text.max_tokens, 16);
  EXPECT_FALSE(text.is_chat || text.is_stream || text.echo || text.logprobs || text.seed);
  EXPECT_EQ(std::get<std::string>(text.prompts.at(0)), "p");
  EXPECT_EQ(text.settings.sampling.temperature, 1);
  EXPECT_EQ(text.settings.sampling.top_k, -1);
  EXPECT_EQ(text.settings.sampling.top_p, 1);
  EXPECT_TRUE(text.skip_special_tokens);
  EXPECT_FALSE(text.settings.prompt_logprobs);
  const OpenAiRequest talk = chat("");
  EXPECT_TRUE(talk.is_chat && talk.include_reasoning && talk.parallel_tool_calls);
  EXPECT_FALSE(talk.max_tokens);
  EXPECT_EQ(talk.tool_choice, ToolChoice::kNone);
  EXPECT_EQ(talk.chat.end, text::PromptEnd::kGenerationPrompt);
  // Null is as good as absent, as clients write it.
  EXPECT_EQ(
      completion(R"("max_tokens": null, "stop": null, "logprobs": null, "seed": null)").max_tokens,
      16);
}

TEST(OpenAiRequest, ReadsHowToSample) {
  const OpenAiRequest request = completion(
      R"("model": "m", "n": 3, "best_of": 3, "max_tokens": 9, "min_tokens": 2, "temperature": 0.5,
         "top_p": 0.9, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.5, "presence_penalty": -2,
         "frequency_penalty": 0.25, "logit_bias": {"7": -100, "3": 1.5}, "seed": -1,
         "stop": ["a", "b"], "stop_token_ids": [5, 6], "ignore_eos": true,
         "weight_version": "v2", "request_id": "mine", "user": 5, "metadata": [1], "unknown": {},
         "lockstep": {"occurrence": 18446744073709551615, "draw": 2}, "priority": 0)");
  EXPECT_EQ(request.model, "m");
  EXPECT_EQ(request.num_samples, 3);
  EXPECT_EQ(request.max_tokens, 9);
  EXPECT_EQ(request.seed, ~uint64_t{0});
  EXPECT_EQ(request.occurrence, ~uint64_t{0});
  EXPECT_EQ(request.draw, 2u);
  EXPECT_EQ(request.weight_version, "v2");
  EXPECT_EQ(request.request_id, "mine");
  const auto& settings = request.settings;
  EXPECT_EQ(settings.min_new_tokens, 2);
  EXPECT_EQ(settings.sampling.temperature, 0.5);
  EXPECT_EQ(settings.sampling.top_p, 0.9);
  EXPECT_EQ(settings.sampling.top_k, 7);
  EXPECT_EQ(settings.sampling.min_p, 0.1);
  EXPECT_EQ(settings.sampling.repetition_penalty, 1.5);
  EXPECT_EQ(settings.sampling.presence_penalty, -2);
  EXPECT_EQ(settings.sampling.frequency_penalty, 0.25);
  EXPECT_THAT(settings.sampling.logit_bias, ElementsAre(Pair(3, 1.5f), Pair(7, -100.f)));
  EXPECT_THAT(settings.stop_strings, ElementsAre("a", "b"));
  EXPECT_THAT(settings.stop_ids, ElementsAre(5, 6));
  EXPECT_TRUE(settings.ignore_eos);
  EXPECT_THAT(completion(R"("stop": "x")").settings.stop_strings, ElementsAre("x"));
}

TEST(OpenAiRequest, ReadsWhatTheAnswerShows) {
  const OpenAiRequest request = completion(
      R"("stream": true, "stream_options": {"include_usage": true, "continuous_usage_stats": true},
         "echo": true, "max_tokens": 0, "logprobs": 2, "return_token_ids": true,
         "return_tokens_as_token_ids": true, "include_stop_str_in_output": true,
         "skip_special_tokens": false, "spaces_between_special_tokens": true,
         "add_special_tokens": false, "prompt_logprobs": 0)");
  EXPECT_TRUE(request.is_stream && request.include_usage && request.continuous_usage);
  EXPECT_TRUE(request.echo && request.logprobs && request.return_token_ids);
  EXPECT_TRUE(request.tokens_as_ids && request.include_stop_string);
  EXPECT_FALSE(request.skip_special_tokens);
  EXPECT_EQ(request.max_tokens, 0);
  EXPECT_EQ(request.settings.top_logprobs, 2);
  EXPECT_EQ(request.settings.prompt_logprobs, 0);
  // An echo shows log-probabilities of the prompt, too.
  EXPECT_EQ(completion(R"("echo": true, "logprobs": 3)").settings.prompt_logprobs, 3);
  const OpenAiRequest talk = chat(R"("logprobs": true, "top_logprobs": 4, "max_tokens": 5,
      "max_completion_tokens": 6, "include_reasoning": false, "parallel_tool_calls": false)");
  EXPECT_TRUE(talk.logprobs);
  EXPECT_EQ(talk.settings.top_logprobs, 4);
  EXPECT_EQ(talk.max_tokens, 6);
  EXPECT_FALSE(talk.include_reasoning || talk.parallel_tool_calls);
  // As TRL asks for none.
  EXPECT_FALSE(chat(R"("logprobs": false, "top_logprobs": null)").logprobs);
  EXPECT_TRUE(chat(R"("logprobs": true)").logprobs);
}

TEST(OpenAiRequest, PromptsAreTextsOrIds) {
  const auto prompts = [](const std::string& prompt) {
    return parse_completion_request("{\"prompt\": " + prompt + "}", kBounds).prompts;
  };
  EXPECT_EQ(std::get<std::string>(prompts(R"(["a", "b"])").at(1)), "b");
  EXPECT_THAT(std::get<1>(prompts("[1, 999]").at(0)), ElementsAre(1, 999));
  EXPECT_THAT(std::get<1>(prompts("[[1], [2, 3]]").at(1)), ElementsAre(2, 3));
  for (const char* bad :
       {"null", "[]", "{}", "5", "true", "[1, \"a\"]", "[\"a\", 1]", "[[1], 2]", "[1.5]", "[-1]",
        "[1000]", "[[1000]]", "[null]", "[[[1]]]", "[{}]", "[99999999999999999999]"})
    EXPECT_THAT(refusal([&] { prompts(bad); }), HasSubstr("prompt|prompt: expected")) << bad;
  std::string many = "[\"a\"";
  for (int64_t i = 1; i < kMaxPrompts; ++i) many += ",\"a\"";
  EXPECT_EQ(std::ssize(prompts(many + "]")), kMaxPrompts);
  EXPECT_THAT(refusal([&] { prompts(many + ",\"a\"]"); }), HasSubstr("at most 1024 prompts"));
  const auto samples = [&](int64_t n) {
    const std::string body = fmt::format(R"({{"n": {}, "prompt": {}]}})", n, many);
    return refusal([&] { parse_completion_request(body, kBounds); });
  };
  EXPECT_EQ(samples(16), "");
  EXPECT_THAT(samples(17), HasSubstr("n|n: expected at most 16384 completions of all prompts"));
}

struct BadField {
  const char *field, *json;
  /// The place that the error names, if it is another one.
  const char* place = nullptr;
};

/// Values of the wrong type or range, for fields that both kinds of request have.
constexpr BadField kBadInBoth[] = {
    {"model", "5"},
    {"n", "0"},
    {"n", "\"1\""},
    {"n", "1.0"},
    {"n", "1025"},
    {"n", "true"},
    {"min_tokens", "-1"},
    {"min_tokens", "\"a\""},
    {"temperature", "-0.1"},
    {"temperature", "\"1\""},
    {"temperature", "1e-30"},
    {"temperature", "1e30"},
    {"top_p", "0"},
    {"top_p", "1.1"},
    {"top_p", "[]"},
    {"top_k", "-2"},
    {"top_k", "1.5"},
    {"min_p", "-1"},
    {"min_p", "2"},
    {"repetition_penalty", "0"},
    {"repetition_penalty", "{}"},
    {"presence_penalty", "3"},
    {"presence_penalty", "\"0\""},
    {"frequency_penalty", "-3"},
    {"frequency_penalty", "true"},
    {"logit_bias", "[]"},
    {"logit_bias", "{\"a\": 1}"},
    {"logit_bias", "{\"1000\": 1}"},
    {"logit_bias", "{\"-1\": 1}"},
    {"logit_bias", "{\"1\": 101}"},
    {"logit_bias", "{\"1\": \"1\"}"},
    {"logit_bias", "{\"1\": 1, \"01\": 2}"},
    {"seed", "1.5"},
    {"seed", "\"1\""},
    {"seed", "true"},
    {"stop", "5"},
    {"stop", "\"\""},
    {"stop", "[\"a\", \"\"]"},
    {"stop", "[1]"},
    {"stop", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"},
    {"stop_token_ids", "5"},
    {"stop_token_ids", "[1000]"},
    {"stop_token_ids", "[-1]"},
    {"stop_token_ids", "[\"a\"]"},
    {"ignore_eos", "1"},
    {"include_stop_str_in_output", "\"true\""},
    {"skip_special_tokens", "0"},
    {"spaces_between_special_tokens", "0"},
    {"add_special_tokens", "0"},
    {"prompt_logprobs", "-2"},
    {"prompt_logprobs", "21"},
    {"prompt_logprobs", "-1"},
    {"prompt_logprobs", "\"1\""},
    {"stream", "1"},
    {"stream_options", "{}"},
    {"stream_options", "5"},
    {"return_token_ids", "1"},
    {"return_tokens_as_token_ids", "1"},
    {"priority", "1"},
    {"priority", "\"0\""},
    {"request_id", "5"},
    {"request_id", "\"a b\""},
    {"request_id", "\"a\\r\\nb\""},
    {"weight_version", "5"},
    {"lockstep", "5"},
    {"lockstep", "{\"occurrence\": -1}", "lockstep.occurrence"},
    {"lockstep", "{\"draw\": 18446744073709551616}", "lockstep.draw"},
    {"lockstep", "{\"draw\": \"1\"}", "lockstep.draw"},
    {"response_format", "{\"type\": \"json_object\"}"},
    {"response_format", "{}"},
    {"response_format", "\"text\""},
    {"structured_outputs", "{\"regex\": \"a\"}"},
    {"guided_json", "{}"},
    {"guided_regex", "\"a\""},
    {"use_beam_search", "true"},
    {"prompt_embeds", "\"\""},
    {"truncate_prompt_tokens", "5"},
    {"allowed_token_ids", "[1]"},
    {"bad_words", "[\"a\"]"},
    {"thinking_token_budget", "5"},
};

constexpr BadField kBadInCompletions[] = {
    {"best_of", "2"},         {"best_of", "\"1\""},  {"max_tokens", "0"},  {"max_tokens", "-1"},
    {"max_tokens", "\"16\""}, {"max_tokens", "1e3"}, {"suffix", "\"a\""},  {"echo", "1"},
    {"logprobs", "21"},       {"logprobs", "-1"},    {"logprobs", "true"}, {"logprobs", "-2"},
    {"min_tokens", "17"},
};

constexpr BadField kBadInChats[] = {
    {"max_tokens", "0"},
    {"max_completion_tokens", "0"},
    {"max_completion_tokens", "\"5\""},
    {"logprobs", "1"},
    {"top_logprobs", "1"},
    {"top_logprobs", "\"1\""},
    {"top_logprobs", "21"},
    {"echo", "true"},
    {"chat_template", "\"{{ 1 }}\""},
    {"chat_template_kwargs", "5"},
    {"chat_template_kwargs", "{\"messages\": []}", "chat_template_kwargs.messages"},
    {"documents", "[{}]"},
    {"reasoning_effort", "5"},
    {"include_reasoning", "\"no\""},
    {"parallel_tool_calls", "1"},
    {"add_generation_prompt", "1"},
    {"continue_final_message", "1"},
    {"tools", "[]"},
    {"tools", "{}"},
    {"tools", "[5]", "tools[0]"},
    {"tools", "[{\"type\": \"retrieval\"}]", "tools[0].type"},
    {"tools", "[{\"function\": 5}]", "tools[0].function"},
    {"tools", "[{\"function\": {}}]", "tools[0].function.name"},
    {"tools", "[{\"function\": {\"name\": \"a\", \"parameters\": 5}}]",
     "tools[0].function.parameters"},
    {"tool_choice", "\"auto\""},
    {"tool_choice", "\"required\""},
    {"functions", "[]"},
    {"function_call", "\"auto\""},
    {"modalities", "[\"audio\"]"},
    {"audio", "{}"},
    {"prediction", "{}"},
};

TEST(OpenAiRequest, NamesTheFieldThatIsWrong) {
  const auto expect_refused = [](const BadField& bad, auto&& parse) {
    const std::string fields = fmt::format("\"{}\": {}", bad.field, bad.json);
    const std::string place = bad.place ? bad.place : bad.field;
    EXPECT_THAT(refusal([&] { parse(fields); }), ::testing::StartsWith(place + "|" + place + ": "))
        << fields;
  };
  for (const BadField& bad : kBadInBoth) {
    expect_refused(bad, completion);
    expect_refused(bad, chat);
  }
  for (const BadField& bad : kBadInCompletions) expect_refused(bad, completion);
  for (const BadField& bad : kBadInChats) expect_refused(bad, chat);
}

TEST(OpenAiRequest, RefusesFieldsThatContradictEachOther) {
  EXPECT_THAT(refusal([] { completion(R"("n": 2, "temperature": 0)"); }), HasSubstr("n|n: "));
  EXPECT_THAT(refusal([] { chat(R"("min_tokens": 7, "max_completion_tokens": 6)"); }),
              HasSubstr("min_tokens|min_tokens: expected at most max_tokens, which is 6"));
  EXPECT_THAT(refusal([] { completion(R"("stream": true, "prompt_logprobs": 1)"); }),
              HasSubstr("prompt_logprobs|"));
  EXPECT_THAT(
      refusal([] { chat(R"("continue_final_message": true, "add_generation_prompt": true)"); }),
      HasSubstr("continue_final_message|"));
}

TEST(OpenAiRequest, WholeVocabularyIsToldWhereTheServerAllowsIt) {
  EXPECT_THAT(refusal([] { completion(R"("logprobs": -1)"); }),
              HasSubstr("got 1000, the whole vocabulary (hint: start the server with a larger "
                        "--max_logprobs)"));
  for (const int64_t most : {int64_t{-1}, int64_t{1000}}) {
    const auto request = parse_completion_request(R"({"prompt": "p", "logprobs": -1})",
                                                  {.vocab_size = 1000, .max_logprobs = most});
    EXPECT_EQ(request.settings.top_logprobs, 1000);
  }
}

TEST(OpenAiRequest, BodiesThatAreNoObjectAreRefused) {
  for (const char* bad : {"", "[]", "5", "{", "{\"a\": 1, \"a\": 2}", "{\"a\": NaN}", "\xff",
                          "{\"a\": \"\xff\"}", "{} {}"})
    EXPECT_THAT(refusal([&] { parse_chat_request(bad, kBounds); }), HasSubstr("|body: expected"))
        << bad;
  const std::string deep = "{\"a\": " + std::string(100000, '[');
  EXPECT_THAT(refusal([&] { parse_completion_request(deep, kBounds); }),
              HasSubstr("levels of nesting"));
}

TEST(OpenAiRequest, MessagesTakeTheFormOfTemplates) {
  const Json checked = checked_messages(json(R"([
      {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
      {"role": "user", "content": "q", "name": "me"},
      {"role": "assistant", "content": null, "refusal": null, "reasoning": "r",
       "tool_calls": [{"id": "c", "type": "function",
                       "function": {"name": "get", "arguments": "{}"}}]},
      {"role": "tool", "tool_call_id": "c", "content": "7"}])"));
  EXPECT_EQ(checked[0], json(R"({"role": "system", "content": "ab"})"));
  EXPECT_EQ(checked[1]["name"], "me");
  EXPECT_EQ(checked[2]["content"], "");
  EXPECT_EQ(checked[2]["reasoning_content"], "r");
  EXPECT_FALSE(checked[2].contains("refusal"));
  EXPECT_EQ(checked[3]["role"], "tool");
}

TEST(OpenAiRequest, NamesTheMessageThatIsWrong) {
  const auto refused = [](const std::string& message) {
    return refusal([&] {
      parse_chat_request(R"({"messages": [{"role": "user", "content": "q"}, )" + message + "]}",
                         kBounds);
    });
  };
  const std::pair<const char*, const char*> cases[] = {
      {"5", "messages[1]|"},
      {R"({"content": "a"})", "messages[1].role|"},
      {R"({"role": "judge", "content": "a"})", "messages[1].role|"},
      {R"({"role": "user"})", "messages[1].content|"},
      {R"({"role": "user", "content": 5})", "messages[1].content|"},
      {R"({"role": "user", "content": [5]})", "messages[1].content[0]|"},
      {R"({"role": "user", "content": [{"type": "text"}]})", "messages[1].content[0].text|"},
      {R"({"role": "assistant", "tool_calls": 5})", "messages[1].tool_calls|"},
      {R"({"role": "assistant", "tool_calls": [{}]})", "messages[1].tool_calls[0].function|"},
      {R"({"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": 5}}]})",
       "messages[1].tool_calls[0].function.arguments|"},
      {R"({"role": "assistant", "content": "a", "reasoning_content": 5})",
       "messages[1].reasoning_content|"},
  };
  for (const auto& [message, place] : cases) EXPECT_THAT(refused(message), HasSubstr(place));
  EXPECT_THAT(
      refused(R"({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]})"),
      HasSubstr("parts of type \"image_url\" (images, sound, video and files)"));
  EXPECT_THAT(refusal([] { parse_chat_request(R"({"messages": []})", kBounds); }),
              HasSubstr("messages|"));
  EXPECT_THAT(refusal([] { parse_chat_request("{}", kBounds); }), HasSubstr("messages|"));
}

TEST(OpenAiRequest, ToolsAreChosen) {
  EXPECT_EQ(chat(kTools).tool_choice, ToolChoice::kAuto);
  EXPECT_EQ(chat(kTools + R"(, "tool_choice": "none")").tool_choice, ToolChoice::kNone);
  EXPECT_EQ(chat(kTools + R"(, "tool_choice": "required")").tool_choice, ToolChoice::kRequired);
  const auto named =
      chat(kTools + R"(, "tool_choice": {"type": "function", "function": {"name": "get"}})");
  EXPECT_EQ(named.tool_choice, ToolChoice::kNamed);
  EXPECT_EQ(named.tool_name, "get");
  EXPECT_EQ(chat(R"("tool_choice": "none")").tool_choice, ToolChoice::kNone);
  for (const char* bad : {"5", "\"any\"", "{}", R"({"function": {"name": "put"}})",
                          R"({"type": "custom", "function": {"name": "get"}})"})
    EXPECT_THAT(refusal([&] { chat(kTools + ", \"tool_choice\": " + bad); }),
                HasSubstr("tool_choice"))
        << bad;
}

TEST(OpenAiRequest, TemplatesGetTheirVariables) {
  const auto effort = chat(R"("reasoning_effort": "low", "chat_template_kwargs": {"a": [1]})").chat;
  EXPECT_EQ(effort.variables, json(R"({"a": [1], "enable_thinking": true,
                                       "reasoning_effort": "low"})"));
  EXPECT_EQ(chat(R"("reasoning_effort": "none")").chat.variables["enable_thinking"], false);
  EXPECT_EQ(chat(R"("reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": false})")
                .chat.variables["enable_thinking"],
            false);
  EXPECT_EQ(chat(R"("continue_final_message": true)").chat.end, text::PromptEnd::kContinued);
  EXPECT_EQ(chat(R"("add_generation_prompt": false)").chat.end, text::PromptEnd::kNone);
}

TEST(OpenAiRequest, TokenizeAndDetokenize) {
  const auto text = parse_tokenize_request(R"({"prompt": "", "return_token_strs": true})");
  EXPECT_EQ(std::get<std::string>(text.input), "");
  EXPECT_TRUE(text.return_token_strs);
  const auto talk = parse_tokenize_request("{" + kMessages + R"(, "model": "m"})");
  EXPECT_EQ(talk.model, "m");
  EXPECT_EQ(std::get<ChatInput>(talk.input).messages.size(), 1u);
  EXPECT_THAT(refusal([] { parse_tokenize_request("{}"); }), HasSubstr("prompt|"));
  EXPECT_THAT(refusal([] { parse_tokenize_request(R"({"prompt": ["a"]})"); }),
              HasSubstr("prompt|"));
  EXPECT_THAT(parse_detokenize_request(R"({"tokens": [3]})", kBounds).tokens, ElementsAre(3));
  for (const char* bad : {"{}", R"({"tokens": "a"})", R"({"tokens": [1000]})"})
    EXPECT_THAT(refusal([&] { parse_detokenize_request(bad, kBounds); }), HasSubstr("tokens|"));
}

}  // namespace
}  // namespace lockstep::serve

namespace lockstep::fuzz {
namespace {

const std::string kFields =
    R"("model": "m", "n": 2, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1,
       "repetition_penalty": 1.5, "presence_penalty": 1, "frequency_penalty": 0.25,
       "logit_bias": {"7": -100}, "seed": 1, "stop": ["a"], "stop_token_ids": [5],
       "min_tokens": 1, "stream": true, "stream_options": {"include_usage": true},
       "lockstep": {"occurrence": 1, "draw": 2}, "request_id": "r", "weight_version": "v")";

TEST(Fuzz, CompletionRequestsSurviveMutations) {
  replay(fuzz_completion_request,
         {R"({"prompt": "p"})", R"({"prompt": ["a", "b"], "max_tokens": 9, "logprobs": 3})",
          R"({"prompt": [[1, 2], [3]], "echo": true, "max_tokens": 0})",
          R"({"prompt": [1, 2], )" + kFields + "}"},
         10000);
}

TEST(Fuzz, ChatRequestsSurviveMutations) {
  replay(fuzz_chat_request,
         {R"({"messages": [{"role": "user", "content": "hi"}], )" + kFields + "}",
          R"({"messages": [{"role": "system", "content": [{"type": "text", "text": "a"}]},
              {"role": "assistant", "content": null, "tool_calls": [{"id": "c", "type": "function",
               "function": {"name": "get", "arguments": "{\"a\": 1}"}}]},
              {"role": "tool", "tool_call_id": "c", "content": "7"}],
              "tools": [{"type": "function", "function": {"name": "get", "parameters":
                {"type": "object", "properties": {"a": {"type": "integer"}}}}}],
              "tool_choice": {"type": "function", "function": {"name": "get"}},
              "chat_template_kwargs": {"enable_thinking": false}, "reasoning_effort": "low"})"},
         10000);
}

TEST(Fuzz, TokenizeRequestsSurviveMutations) {
  replay(fuzz_tokenize_request,
         {R"({"prompt": "p", "return_token_strs": true})", R"({"tokens": [1, 2]})",
          R"({"messages": [{"role": "user", "content": "hi"}]})"},
         5000);
}

}  // namespace
}  // namespace lockstep::fuzz
