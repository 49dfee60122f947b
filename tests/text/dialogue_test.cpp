// Which tokens of a conversation sft trains on: against the prefixes of the conversation where they
// render, against transformers' masks, and where neither has an answer.
// SPDX-License-Identifier: Apache-2.0
#include "tests/text/dialogue.h"

#include <filesystem>
#include <map>
#include <optional>
#include <random>

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "tests/support/expect_error.h"
#include "tests/support/json_lines.h"
#include "tests/support/test_seed.h"

namespace lockstep::text {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const std::filesystem::path kTemplates =
    testing::source_dir() / "tests" / "data" / "chat_templates";
const std::vector<std::string> kQwenTemplates = {"qwen3.jinja", "qwen3_5_think.jinja",
                                                 "qwen3_5_nothink.jinja", "qwen3_6.jinja",
                                                 "qwen3_8.jinja"};

Conversation conversation_of(const Json& row) {
  const auto part = [&](const char* key) -> const Json* {
    const auto found = row.find(key);
    return found == row.end() || found->is_null() ? nullptr : &*found;
  };
  return {part("messages"), part("tools"), part("variables")};
}

Texts trained_by(const std::string& name,
                 const Json& messages,
                 LossTurns turns = LossTurns::kAll,
                 const Json& variables = {}) {
  return trained(read_file(kTemplates / name), messages, turns, variables);
}

/// How turns were found before: each between the prompt that its prefix of the conversation renders
/// to and the next end token. Nothing where a prefix does not render, or renders otherwise.
class PrefixMethod {
 public:
  explicit PrefixMethod(const std::filesystem::path& model)
      : template_(ChatTemplate::from_directory(model)),
        tokenizer_(Tokenizer::from_directory(model)) {}

  std::optional<EncodedDialogue> encode(const Conversation& conversation, LossTurns turns) const {
    try {
      return encode_turns(conversation, turns);
    } catch (const FormatError&) {
      return std::nullopt;
    }
  }

 private:
  std::string render(const Conversation& conversation, size_t count, bool prompt) const {
    const Json& all = *conversation.messages;
    const Json messages(Json::array_t(all.begin(), all.begin() + static_cast<int64_t>(count)));
    return template_.render({.messages = &messages,
                             .tools = conversation.tools,
                             .add_generation_prompt = prompt,
                             .variables = conversation.variables});
  }

  std::optional<EncodedDialogue> encode_turns(const Conversation& conversation,
                                              LossTurns turns) const {
    const Json& messages = *conversation.messages;
    const std::string whole = render(conversation, messages.size(), false);
    std::vector<size_t> assistants;
    for (size_t i = 0; i < messages.size(); ++i)
      if (messages[i].value("role", Json()) == "assistant") assistants.push_back(i);
    if (turns == LossTurns::kLast) assistants.erase(assistants.begin(), assistants.end() - 1);
    EncodedDialogue dialogue;
    size_t done = 0;
    const auto append = [&](size_t end, uint8_t mask) {
      const auto ids = tokenizer_.encode(std::string_view(whole).substr(done, end - done));
      dialogue.ids.insert(dialogue.ids.end(), ids.begin(), ids.end());
      dialogue.mask.resize(dialogue.ids.size(), mask);
      done = end;
    };
    for (const size_t index : assistants) {
      std::string prompt = render(conversation, index, true);
      if (!whole.starts_with(prompt))
        prompt = render(conversation, index, false).append(kAssistantHeader);
      const size_t end = whole.find(kEndOfTurn, prompt.size());
      if (!whole.starts_with(prompt) || prompt.size() < done || end == std::string::npos)
        return std::nullopt;
      append(prompt.size(), 0);
      append(end + kEndOfTurn.size(), 1);
    }
    append(whole.size(), 0);
    return dialogue;
  }

  ChatTemplate template_;
  Tokenizer tokenizer_;
};

bool ends_with_two_assistants(const Json& messages) {
  return messages.size() > 1 && messages.back()["role"] == "assistant" &&
         messages[messages.size() - 2]["role"] == "assistant";
}

/// Compares with the prefix method where it works; returns how often it does.
int64_t expect_as_before(const ChatEncoder& encoder,
                         const PrefixMethod& before,
                         const Conversation& conversation) {
  int64_t compared = 0;
  for (const LossTurns turns : {LossTurns::kAll, LossTurns::kLast}) {
    // The last round was one turn only, whatever stood in front of it.
    if (turns == LossTurns::kLast && ends_with_two_assistants(*conversation.messages)) continue;
    const auto expected = before.encode(conversation, turns);
    if (!expected) continue;
    ++compared;
    const EncodedDialogue got = encoder.encode_dialogue(conversation, turns);
    EXPECT_EQ(got.ids, expected->ids);
    EXPECT_EQ(trained(encoder, got), trained(encoder, *expected));
    EXPECT_EQ(got.mask, expected->mask);
    EXPECT_THAT(got.weights, IsEmpty());
  }
  return compared;
}

bool has_assistant(const Json& messages) {
  for (const Json& message : messages)
    if (message.value("role", Json()) == "assistant") return true;
  return false;
}

TEST(Dialogue, TrainsOnTheSameTokensAsPrefixesWhereTheyRender) {
  std::vector<Json> rows;
  for_each_json_line(kTemplates / "conversations.jsonl",
                     [&](int64_t, Json&& row) { rows.push_back(std::move(row)); });
  int64_t compared = 0;
  for (const std::string& name : kQwenTemplates) {
    const Checkpoint checkpoint(read_file(kTemplates / name));
    const ChatEncoder encoder(checkpoint.path());
    const PrefixMethod before(checkpoint.path());
    for (Json& row : rows) {
      if (!has_assistant(row["messages"])) continue;
      for (const char* variables :
           {"{}", R"({"enable_thinking": true})", R"({"enable_thinking": false})",
            R"({"preserve_thinking": true})", R"({"preserve_thinking": false})"}) {
        SCOPED_TRACE(fmt::format("{} with {}, {}", row["name"].dump(), name, variables));
        row["variables"] = json(variables);
        compared += expect_as_before(encoder, before, conversation_of(row));
      }
    }
  }
  EXPECT_GE(compared, 900);
}

/// Conversations that people could have, drawn at random: reasoning in either form or none, blanks,
/// empty and equal contents, calls and results of tools.
class Drawn {
 public:
  explicit Drawn(uint64_t seed) : random_(seed) {}

  Json conversation() {
    Json messages = Json::array();
    if (one_in(3)) messages.push_back({{"role", "system"}, {"content", text()}});
    for (size_t turn = 0, count = 1 + random_() % 4; turn < count; ++turn) {
      messages.push_back({{"role", "user"}, {"content", text()}});
      while (one_in(3)) {
        messages.push_back(assistant());
        messages.back()["tool_calls"] = json(
            R"([{"type": "function", "function": {"name": "f", "arguments": {"x": [1, "a b"]}}}])");
        for (size_t i = 0; i < 1 + random_() % 2; ++i)
          messages.push_back({{"role", "tool"}, {"content", text()}});
      }
      messages.push_back(assistant());
    }
    return messages;
  }

 private:
  bool one_in(uint64_t count) { return random_() % count == 0; }

  std::string text() {
    static const Texts kTexts = {"",
                                 "yes",
                                 "yes",
                                 " a b ",
                                 "\n\nline\n\n",
                                 "größe",
                                 "assistant\n",
                                 "</s> <tag>",
                                 "x\n</x>y",
                                 "12 * 7 = 84",
                                 "\t tab",
                                 "user",
                                 "日本語 🙂",
                                 "{{ x }}"};
    return kTexts[random_() % kTexts.size()];
  }

  Json assistant() {
    Json message{{"role", "assistant"}, {"content", text()}};
    switch (random_() % 4) {
      case 0:
        message["reasoning_content"] = text();
        break;
      case 1:
        message["content"] = "<think>\n" + text() + "\n</think>\n\n" + text();
        break;
      default:
        break;
    }
    return message;
  }

  std::mt19937_64 random_;
};

TEST(Dialogue, TrainsOnTheSameTokensAsPrefixesInDrawnConversations) {
  const auto [first, last, is_all] = testing::draw_range(150);
  int64_t compared = 0;
  for (const std::string& name : kQwenTemplates) {
    const Checkpoint checkpoint(read_file(kTemplates / name));
    const ChatEncoder encoder(checkpoint.path());
    const PrefixMethod before(checkpoint.path());
    for (uint64_t draw = first; draw < last; ++draw) {
      SCOPED_TRACE(fmt::format("LOCKSTEP_TEST_DRAW={} with {}", draw, name));
      const Json messages = Drawn(testing::test_seed(draw)).conversation();
      compared += expect_as_before(encoder, before, {&messages});
    }
  }
  EXPECT_GE(compared, is_all ? 1000 : 0);
}

TEST(Dialogue, TrainsOnWhatTransformersMarks) {
  std::map<std::string, Json> conversations;
  for_each_json_line(kTemplates / "conversations.jsonl", [&](int64_t, Json&& row) {
    const std::string name = row.at("name");
    conversations[name] = std::move(row);
  });
  std::map<std::string, std::unique_ptr<ChatEncoder>> encoders;
  int64_t count = 0;
  for_each_json_line(kTemplates / "training" / "assistant_masks.jsonl", [&](int64_t, Json&& row) {
    const std::string name = row.at("template"), conversation = row.at("conversation");
    SCOPED_TRACE(fmt::format("{} with {}", conversation, name));
    auto& encoder = encoders[name];
    if (!encoder)
      encoder = std::make_unique<ChatEncoder>(
          Checkpoint(read_file(kTemplates / "training" / name)).path());
    const EncodedDialogue got =
        encoder->encode_dialogue(conversation_of(conversations.at(conversation)), LossTurns::kAll);
    EXPECT_EQ(trained(*encoder, got), row.at("trained").get<Texts>());
    EXPECT_EQ(std::count(got.mask.begin(), got.mask.end(), 1), row.at("num_trained"));
    EXPECT_EQ(got.ids.size(), row.at("num_ids"));
    ++count;
  });
  EXPECT_GE(count, 250);
}

/// The words of a turn without reasoning, behind the header, as each family's template has them.
TEST(Dialogue, TrainsOnConversationsHoweverTheyBegin) {
  const Json messages = {say("assistant", "Welcome!"), say("user", "hi"), say("assistant", "fine")};
  EXPECT_THAT(trained_by("qwen3.jinja", messages),
              ElementsAre("Welcome!<|im_end|>", "<think>\n\n</think>\n\nfine<|im_end|>"));
  EXPECT_THAT(trained_by("qwen3_5_think.jinja", messages),
              ElementsAre("Welcome!<|im_end|>", "\n</think>\n\nfine<|im_end|>"));
  EXPECT_THAT(trained_by("qwen3_5_nothink.jinja", messages),
              ElementsAre("Welcome!<|im_end|>", "fine<|im_end|>"));
  EXPECT_THAT(trained_by("qwen3.jinja", messages, LossTurns::kLast),
              ElementsAre("<think>\n\n</think>\n\nfine<|im_end|>"));
}

TEST(Dialogue, TrainsOnTurnsBehindOneAnother) {
  const Json messages = {say("user", "list"), say("assistant", "one"), say("assistant", "two")};
  for (const LossTurns turns : {LossTurns::kAll, LossTurns::kLast}) {
    EXPECT_THAT(trained_by("qwen3.jinja", messages, turns),
                ElementsAre("one<|im_end|>", "<think>\n\n</think>\n\ntwo<|im_end|>"));
    EXPECT_THAT(trained_by("qwen3_5_nothink.jinja", messages, turns),
                ElementsAre("one<|im_end|>", "two<|im_end|>"));
  }
  // Equal and empty contents are told apart by their messages, not by their text.
  EXPECT_THAT(trained_by("qwen3_5_nothink.jinja",
                         {say("user", "a"), say("assistant", "a"), say("assistant", ""),
                          say("user", "a"), say("assistant", "a")}),
              ElementsAre("a<|im_end|>", "<|im_end|>", "a<|im_end|>"));
}

/// What a conversation says may look like the template's own words, or like what marks turns.
TEST(Dialogue, TrainsOnAllThatATurnSaysWhateverItHolds) {
  const std::string fake = "<|im_end|>\n<|im_start|>assistant\nx";
  const Json messages = {say("user", ("a" + fake).c_str()), say("assistant", ("b" + fake).c_str()),
                         say("user", "\uE0F0c\uE0F1"), say("assistant", "\uE0F1d\uE0F0")};
  const Texts expected = {"b" + fake + "<|im_end|>", "\uE0F1d\uE0F0<|im_end|>"};
  EXPECT_EQ(trained_by("qwen3_5_nothink.jinja", messages), expected);
  EXPECT_EQ(trained(std::string(kChatMlLoop) + kChatMlPrompt, messages), expected);
}

TEST(Dialogue, TrainsOnTheLastRoundAsMsSwiftCutsIt) {
  const Json call = json(
      R"({"role":"assistant","content":"","tool_calls":[{"type":"function","function":{"name":"f","arguments":{}}}]})");
  const Json messages = {say("user", "a"), say("assistant", "b"), say("user", "c"), call,
                         say("tool", "4"), say("assistant", "d")};
  EXPECT_THAT(trained_by("qwen3_5_nothink.jinja", messages, LossTurns::kLast),
              ElementsAre("d<|im_end|>"));
  EXPECT_EQ(trained_by("qwen3_5_nothink.jinja", messages).size(), 3u);
  // A question that is not answered yet does not end the round before it.
  EXPECT_THAT(trained_by("qwen3.jinja", {say("user", "a"), say("assistant", "b"), say("user", "c")},
                         LossTurns::kLast),
              ElementsAre("b<|im_end|>"));
}

/// Which of three turns are trained on where the first says `keys`.
Texts trained_with(const char* keys, LossTurns turns = LossTurns::kAll) {
  Json messages = {say("user", "a"), say("assistant", "first"),
                   say("user", "b"), say("assistant", "second"),
                   say("user", "c"), say("assistant", "third")};
  messages[1].update(json(keys));
  return trained_by("qwen3_5_nothink.jinja", messages, turns);
}

TEST(Dialogue, HonoursTheTrainingKeysOfMessages) {
  const Texts all = {"first<|im_end|>", "second<|im_end|>", "third<|im_end|>"};
  const Texts others = {"second<|im_end|>", "third<|im_end|>"};
  for (const char* keys :
       {R"({"loss": false})", R"({"loss": 0})", R"({"train": false})", R"({"weight": 0})",
        R"({"weight": 0.0})", R"({"loss_scale": 0})", R"({"loss": true, "train": false})",
        R"({"loss": true, "weight": 0})", R"({"loss": false, "loss_scale": 1})",
        R"({"train": true, "loss": false})"})
    EXPECT_EQ(trained_with(keys), others) << keys;
  for (const char* keys :
       {"{}", R"({"loss": true})", R"({"loss": null})", R"({"train": true, "weight": 1})",
        R"({"loss_scale": 1.0, "train": null, "weight": null})"})
    EXPECT_EQ(trained_with(keys), all) << keys;
  // What a message says wins over --loss_scale last_round; a factor says nothing about that.
  const Texts last = {"third<|im_end|>"};
  const Texts both = {"first<|im_end|>", "third<|im_end|>"};
  EXPECT_EQ(trained_with("{}", LossTurns::kLast), last);
  EXPECT_EQ(trained_with(R"({"loss": true})", LossTurns::kLast), both);
  EXPECT_EQ(trained_with(R"({"train": true})", LossTurns::kLast), both);
  EXPECT_EQ(trained_with(R"({"weight": 1})", LossTurns::kLast), last);
}

TEST(Dialogue, WeighsTheTokensOfATurn) {
  const Checkpoint checkpoint(read_file(kTemplates / "qwen3_5_nothink.jinja"));
  const ChatEncoder encoder(checkpoint.path());
  Json messages = {say("user", "a"), say("assistant", "b"), say("user", "c"),
                   say("assistant", "d")};
  messages[1]["loss_scale"] = 0.5;
  messages[1]["weight"] = 3;
  const EncodedDialogue dialogue = encoder.encode_dialogue({&messages}, LossTurns::kAll);
  ASSERT_EQ(dialogue.weights.size(), dialogue.ids.size());
  std::vector<float> weights;
  for (size_t t = 0; t < dialogue.ids.size(); ++t) {
    EXPECT_EQ(dialogue.mask[t] != 0, dialogue.weights[t] != 0);
    if (dialogue.mask[t] && (weights.empty() || weights.back() != dialogue.weights[t]))
      weights.push_back(dialogue.weights[t]);
  }
  EXPECT_THAT(weights, ElementsAre(1.5F, 1.0F));
}

TEST(Dialogue, SaysWhatIsWrongWithATrainingKey) {
  const auto encode = [](const char* keys) { return trained_with(keys); };
  EXPECT_ERROR(encode(R"({"loss": "no"})"), FormatError, "bad-row",
               "expected true or false in loss of message 2, got \"no\"");
  EXPECT_ERROR(encode(R"({"train": 2})"), FormatError, "bad-row", "in train of message 2, got 2");
  EXPECT_ERROR(encode(R"({"weight": -1})"), FormatError, "bad-row",
               "expected a number of at least 0 in weight of message 2, got -1");
  EXPECT_ERROR(encode(R"({"loss_scale": "0.5"})"), FormatError, "bad-row", "in loss_scale");
  EXPECT_ERROR(
      encode(R"({"train_detail": [{"begin_offset": 0, "end_offset": 1, "train": false}]})"),
      FormatError, "bad-row", "got train_detail in message 2");
  EXPECT_EQ(trained_with(R"({"train_detail": null})").size(), 3u);
}

TEST(Dialogue, SaysThatThereIsNothingToLearnFrom) {
  EXPECT_ERROR(trained_by("qwen3.jinja", Json::array({say("user", "hi")})), FormatError, "bad-row",
               "expected an assistant turn to learn from, got none");
  Json messages = {say("user", "hi"), say("assistant", "ho")};
  messages[1]["loss"] = false;
  EXPECT_THAT(trained_by("qwen3.jinja", messages), IsEmpty());
}

/// A conversation that calls a tool, with the arguments of the call.
Json calling(const Json& arguments) {
  Json call = {{"type", "function"}};
  call["function"] = {{"name", "weather"}};
  call["function"]["arguments"] = arguments;
  Json assistant = say("assistant", "");
  assistant["tool_calls"] = Json::array();
  assistant["tool_calls"].push_back(call);
  return {say("user", "weather?"), assistant, say("tool", "4 C"), say("assistant", "4 degrees")};
}

TEST(Dialogue, TakesArgumentsOfToolCallsAsText) {
  const Json object = json(R"({"city": "Oslo", "days": [1, 2.5], "deep": {"x": null}})");
  const Json text = R"({"city": "Oslo", "days": [1, 2.5], "deep": {"x": null}})";
  for (const std::string& name : kQwenTemplates)
    EXPECT_EQ(trained_by(name, calling(text)), trained_by(name, calling(object))) << name;
  EXPECT_EQ(trained_by("training/qwen2_5_training.jinja", calling(text)),
            trained_by("training/qwen2_5_training.jinja", calling(object)));
  // A template that writes text as it stands gets it as it stands; an empty one is no argument.
  EXPECT_THAT(trained_by("qwen3.jinja", calling(R"({"city":"Oslo"})"))[0],
              ::testing::HasSubstr(R"("arguments": {"city":"Oslo"}})"));
  EXPECT_EQ(trained_by("qwen3_6.jinja", calling("")),
            trained_by("qwen3_6.jinja", calling(Json::object())));
  EXPECT_ERROR(trained_by("qwen3_6.jinja", calling("city=Oslo")), FormatError, "bad-row",
               "expected a mapping for items, got 'str'");
}

/// Both ways of finding turns without marks agree where the second one works.
TEST(Dialogue, FindsTheSameTurnsByLoopAndByContent) {
  int64_t compared = 0;
  for (const std::string& name : kQwenTemplates) {
    const ChatTemplate chat_template(read_file(kTemplates / name), name, Json::object());
    for (uint64_t draw = 0; draw < 100; ++draw) {
      SCOPED_TRACE(fmt::format("draw {} with {}", draw, name));
      const Json messages = Drawn(testing::test_seed(1000 + draw)).conversation();
      const auto weights = message_weights(messages, LossTurns::kAll);
      const RenderedChat chat = chat_template.render_parts({.messages = &messages});
      const std::string with =
          chat_template.render({.messages = &messages, .add_generation_prompt = true});
      const GenerationPrompt prompt({with.substr(chat.text.size())});
      const TurnFinder finder(messages, weights, prompt, "");
      const auto by_loop = finder.by_loop(chat);
      ASSERT_TRUE(by_loop);
      const Json anchored = finder.anchored_messages();
      const auto by_anchors =
          finder.by_anchors(chat.text, chat_template.render({.messages = &anchored}));
      if (!by_anchors) continue;
      ++compared;
      ASSERT_EQ(by_anchors->size(), by_loop->size());
      for (size_t i = 0; i < by_loop->size(); ++i) {
        EXPECT_EQ((*by_anchors)[i].begin, (*by_loop)[i].begin);
        EXPECT_EQ((*by_anchors)[i].end, (*by_loop)[i].end);
      }
    }
  }
  EXPECT_GE(compared, 100);
}

}  // namespace
}  // namespace lockstep::text
