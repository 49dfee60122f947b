// Reasoning and calls of tools in answers: whole, and cut anywhere.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <random>

#include <gtest/gtest.h>

#include "tests/support/test_seed.h"
#include "tests/text/chat_models.h"
#include "text/reasoning.h"
#include "text/tool_calls.h"

namespace lockstep::text {
namespace {

const Json kNoTools = nullptr;
const Json kTools = json(R"([{"type": "function", "function": {"name": "get", "parameters": {
  "type": "object",
  "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "hot": {"type": "boolean"},
    "share": {"type": "number"}, "list": {"type": "array"}, "map": {"type": "object"},
    "maybe": {"anyOf": [{"type": "integer"}, {"type": "null"}]}, "unit": {"$ref": "#/$defs/unit"},
    "text_or_null": {"type": ["string", "null"]}, "open": {}},
  "$defs": {"unit": {"type": "integer"}}}}}])");

PartedText parted(std::string_view text, ThinkingStart start) {
  ReasoningSplitter splitter(start);
  PartedText whole = splitter.push(text);
  const PartedText rest = splitter.finish();
  return {whole.reasoning + rest.reasoning, whole.content + rest.content};
}

TEST(Reasoning, IsWhatStandsBeforeTheEndOfThinking) {
  for (const char* text : {"<think>\na\n\nb\n</think>\n\nc\n", " \n<think>a\n\nb</think>c\n"}) {
    const PartedText parts = parted(text, ThinkingStart::kIfWritten);
    EXPECT_EQ(parts.reasoning, "a\n\nb");
    EXPECT_EQ(parts.content, "c\n");
  }
  const PartedText opened = parted("a\n</think>\n\nc", ThinkingStart::kOpen);
  EXPECT_EQ(opened.reasoning, "a");
  EXPECT_EQ(opened.content, "c");
  EXPECT_EQ(parted("<think>\na</think>c", ThinkingStart::kOpen).reasoning, "a");
}

TEST(Reasoning, IsAllOfAThoughtThatWasCutOff) {
  EXPECT_EQ(parted("<think>\nwell, <b> </thin", ThinkingStart::kIfWritten).reasoning,
            "well, <b> </thin");
  EXPECT_EQ(parted("well\n", ThinkingStart::kOpen).reasoning, "well");
  EXPECT_EQ(parted("\n<thi", ThinkingStart::kOpen).reasoning, "<thi");
  EXPECT_EQ(parted("<think>\n", ThinkingStart::kIfWritten).content, "");
}

TEST(Reasoning, IsNoneWhereTheModelDoesNotBeginWithIt) {
  for (const char* text : {"no <think>a</think> b", "<thin", "", "  \n"}) {
    EXPECT_EQ(parted(text, ThinkingStart::kIfWritten).content, text);
    EXPECT_EQ(parted(text, ThinkingStart::kIfWritten).reasoning, "");
  }
  EXPECT_EQ(parted("<think>a</think>b", ThinkingStart::kNever).content, "<think>a</think>b");
}

TEST(Reasoning, DependsOnTheTemplate) {
  EXPECT_TRUE(writes_thoughts(chat_model()));
  EXPECT_TRUE(writes_thoughts(chat_model("qwen3.jinja")));
  EXPECT_TRUE(writes_thoughts(chat_model("qwen3_5_think.jinja")));
  const text::ChatEncoder plain(
      default_tokenizer(),
      text::ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", "plain", {}));
  EXPECT_FALSE(writes_thoughts(plain));
  EXPECT_EQ(thinking_start(false, "<think>\n"), ThinkingStart::kNever);
  EXPECT_EQ(thinking_start(true, "<think>\n"), ThinkingStart::kOpen);
  EXPECT_EQ(thinking_start(true, ""), ThinkingStart::kIfWritten);
  EXPECT_EQ(thinking_start(true, "<think>\n\n</think>\n\n"), ThinkingStart::kIfWritten);
}

TEST(ToolCalls, DialectIsTheTemplates) {
  EXPECT_EQ(tool_dialect(chat_model()), ToolDialect::kJson);
  EXPECT_EQ(tool_dialect(chat_model("qwen3.jinja")), ToolDialect::kJson);
  for (const char* name :
       {"qwen3_5_think.jinja", "qwen3_5_nothink.jinja", "qwen3_6.jinja", "qwen3_8.jinja"})
    EXPECT_EQ(tool_dialect(chat_model(name)), ToolDialect::kXml) << name;
  const text::ChatEncoder plain(
      default_tokenizer(),
      text::ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", "plain", {}));
  EXPECT_EQ(tool_dialect(plain), ToolDialect::kNone);
}

TEST(ToolCalls, ReadsJson) {
  const auto call = [](std::string_view body) {
    const auto found = parse_tool_call(body, ToolDialect::kJson, kNoTools);
    return found ? found->name + " " + found->arguments : "";
  };
  EXPECT_EQ(
      call("\n{\"name\": \"get\", \"arguments\": {\"a\":0.1000000000000000000001,\"b\":\"ä\"}}\n"),
      "get {\"a\": 0.1000000000000000000001, \"b\": \"ä\"}");
  EXPECT_EQ(call(R"({"name": "now"})"), "now {}");
  EXPECT_EQ(call(R"({"name": "f", "arguments": "{\"a\": 12345678901234567890123}"})"),
            "f {\"a\": 12345678901234567890123}");
  for (const char* bad :
       {"", "{}", R"({"name": ""})", R"({"name": 1, "arguments": {}})", R"(["f"])",
        R"({"name": "f", "arguments": [1]})", R"({"name": "f", "arguments": "x"})",
        R"({"name": "f", "arguments": {"a": 1, "a": 2}})", R"({"name": "f"} {"name": "g"})"})
    EXPECT_EQ(call(bad), "") << bad;
}

TEST(ToolCalls, ReadsXmlByTheTypesOfTheSchema) {
  const auto call = [](std::string_view body) {
    const auto found = parse_tool_call(body, ToolDialect::kXml, kTools);
    return found ? found->name + " " + found->arguments : "";
  };
  const auto argument = [&](const std::string& name, const std::string& text) {
    return call("<function=get>\n<parameter=" + name + ">\n" + text +
                "\n</parameter>\n</function>");
  };
  EXPECT_EQ(argument("city", "Bad\n Ems \n"), R"(get {"city": "Bad\n Ems \n"})");
  EXPECT_EQ(argument("city", "7"), R"(get {"city": "7"})");
  EXPECT_EQ(argument("days", "7"), R"(get {"days": 7})");
  EXPECT_EQ(argument("days", "7.5"), R"(get {"days": "7.5"})");
  EXPECT_EQ(argument("days", "a week"), R"(get {"days": "a week"})");
  EXPECT_EQ(argument("share", "0.10"), R"(get {"share": 0.1})");
  EXPECT_EQ(argument("hot", "True"), R"(get {"hot": true})");
  EXPECT_EQ(argument("hot", "false"), R"(get {"hot": false})");
  EXPECT_EQ(argument("list", "[1, \"a\"]"), R"(get {"list": [1, "a"]})");
  EXPECT_EQ(argument("map", "{\"a\": {}}"), R"(get {"map": {"a": {}}})");
  EXPECT_EQ(argument("maybe", "None"), R"(get {"maybe": null})");
  EXPECT_EQ(argument("maybe", "3"), R"(get {"maybe": 3})");
  EXPECT_EQ(argument("unit", "3"), R"(get {"unit": 3})");
  EXPECT_EQ(argument("text_or_null", "null"), R"(get {"text_or_null": null})");
  EXPECT_EQ(argument("text_or_null", "None of it"), R"(get {"text_or_null": "None of it"})");
  EXPECT_EQ(argument("open", "3"), R"(get {"open": "3"})");
  EXPECT_EQ(argument("unknown", "3"), R"(get {"unknown": "3"})");
  EXPECT_EQ(call("<function=get></function>"), "get {}");
  EXPECT_EQ(call("<function=get><parameter=city>a</parameter><parameter=days>1</parameter>"
                 "</function>"),
            R"(get {"city": "a", "days": 1})");
  for (const char* bad :
       {"", "<function=>", "<function=>\n</function>", "<function=get>", "get</function>",
        "<function=get>\n<parameter=city>\na\n</function>",
        "<function=get>x<parameter=city>a</parameter></function>",
        "<function=get><parameter=a>1</parameter><parameter=a>2</parameter></function>",
        "<function=get></function> more"})
    EXPECT_EQ(call(bad), "") << bad;
}

AnswerPiece taken(std::string_view text, ToolDialect dialect = ToolDialect::kJson) {
  ToolCallReader reader(dialect, kTools);
  AnswerPiece whole = reader.push(text);
  AnswerPiece rest = reader.finish();
  whole.content += rest.content;
  std::move(rest.calls.begin(), rest.calls.end(), std::back_inserter(whole.calls));
  return whole;
}

TEST(ToolCalls, AreTakenOutOfTheText) {
  const std::string call = "<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>";
  const AnswerPiece two = taken("Let me see.\n\n" + call + "\n" + call);
  EXPECT_EQ(two.content, "Let me see.");
  EXPECT_EQ(two.calls.size(), 2u);
  EXPECT_EQ(taken(call + "\nbehind \n").content, "behind \n");
  EXPECT_EQ(taken(call.substr(0, call.size() - 12)).calls.size(), 1u) << "without its last marker";
  EXPECT_EQ(taken(call, ToolDialect::kNone).content, call);
}

TEST(ToolCalls, StayInTheTextWhereTheyAreMalformed) {
  for (const std::string text :
       {"a \n<tool_call>\n{\"name\": \"f\"", "a <tool_call>{}</tool_call> b", "a\n\n<tool_ca",
        "<tool_call>", "<tool_call><tool_call>\n{\"name\": \"f\"}\n</tool_call>"}) {
    const AnswerPiece whole = taken(text);
    EXPECT_EQ(whole.content, text);
    EXPECT_TRUE(whole.calls.empty());
  }
}

TEST(ToolCalls, BeginAsTheTemplateWritesThem) {
  EXPECT_EQ(tool_call_opening(ToolDialect::kXml, "get"), "<tool_call>\n<function=get>\n");
  EXPECT_EQ(tool_call_opening(ToolDialect::kJson, "get"),
            "<tool_call>\n{\"name\": \"get\", \"arguments\":");
  EXPECT_EQ(tool_call_opening(ToolDialect::kXml, ""), "<tool_call>\n<function=");
  EXPECT_EQ(tool_call_opening(ToolDialect::kJson, ""), "<tool_call>\n{\"name\":");
}

/// What both readers make of a text that comes in these pieces.
std::string read_in_pieces(const std::vector<std::string>& pieces,
                           ThinkingStart start,
                           ToolDialect dialect) {
  ReasoningSplitter splitter(start);
  ToolCallReader reader(dialect, kTools);
  std::string reasoning, content, calls;
  const auto add = [&](AnswerPiece&& piece) {
    content += piece.content;
    for (const ToolCall& call : piece.calls) calls += call.name + call.arguments + ";";
  };
  const auto add_parts = [&](PartedText&& parts) {
    reasoning += parts.reasoning;
    add(reader.push(parts.content));
  };
  for (const std::string& piece : pieces) add_parts(splitter.push(piece));
  add_parts(splitter.finish());
  add(reader.finish());
  return reasoning + "\x1f" + content + "\x1f" + calls;
}

/// The parts of a whole text by plain searches, for texts that hold no malformed call.
std::string read_plainly(std::string text, ThinkingStart start) {
  std::string reasoning, calls;
  const auto strip = [](std::string part, const char* characters) {
    part.erase(0, std::min(part.find_first_not_of(characters), part.size()));
    part.resize(part.find_last_not_of(characters) + 1);
    return part;
  };
  const size_t open = text.find("<think>");
  bool thinks = start == ThinkingStart::kOpen;
  if (open != text.npos && text.find_first_not_of(" \r\n") == open) {
    text.erase(0, open + 7);
    thinks = true;
  }
  if (thinks) {
    const size_t close = std::min(text.find("</think>"), text.size());
    reasoning = strip(text.substr(0, close), "\n");
    text.erase(0, close + 8);
    text.erase(0, std::min(text.find_first_not_of('\n'), text.size()));
  }
  std::string content;
  for (size_t at; (at = text.find("<tool_call>")) != text.npos;) {
    const std::string before = text.substr(0, at);
    content += before.substr(0, before.find_last_not_of(" \n") + 1);
    const size_t close = text.find("</tool_call>", at);
    const auto call =
        parse_tool_call(text.substr(at + 11, close - at - 11), ToolDialect::kJson, kTools);
    calls += call->name + call->arguments + ";";
    text.erase(0, close + 12);
    text.erase(0, std::min(text.find_first_not_of(" \n"), text.size()));
  }
  return reasoning + "\x1f" + content + text + "\x1f" + calls;
}

TEST(AnswerParts, DoNotDependOnWhereTheTextWasCut) {
  std::mt19937_64 generator(testing::test_seed(15));
  const std::vector<std::string> shards = {
      "<think>",
      "</think>",
      "<thi",
      "</",
      "<",
      "\n",
      "\n\n",
      " ",
      "é",
      "日",
      "word",
      "<tool_call>\n{\"name\": \"get\", \"arguments\": {\"city\": \"</think>\"}}\n</tool_call>",
      "<tool_call>\n<function=get>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
      "<tool_call>",
      "</tool_call>",
      "<tool",
      "{}"};
  for (int draw = 0; draw < 2000; ++draw) {
    std::string text;
    for (uint64_t i = generator() % 12; i > 0; --i) text += shards[generator() % shards.size()];
    std::vector<std::string> pieces;
    for (size_t at = 0; at < text.size();) {
      pieces.push_back(text.substr(at, 1 + generator() % 9));
      at += pieces.back().size();
    }
    for (const auto start :
         {ThinkingStart::kNever, ThinkingStart::kIfWritten, ThinkingStart::kOpen})
      for (const auto dialect : {ToolDialect::kNone, ToolDialect::kJson, ToolDialect::kXml})
        ASSERT_EQ(read_in_pieces(pieces, start, dialect), read_in_pieces({text}, start, dialect))
            << text;
  }
}

TEST(AnswerParts, AreThoseOfPlainSearches) {
  std::mt19937_64 generator(testing::test_seed(16));
  const std::vector<std::string> shards = {
      "\n",
      "\n\n",
      "word",
      "日",
      " a b",
      "<b>",
      "<tool_call>\n{\"name\": \"get\", \"arguments\": {\"city\": \"Ems\"}}\n</tool_call>"};
  for (int draw = 0; draw < 1000; ++draw) {
    const auto some = [&](uint64_t most) {
      std::string text;
      for (uint64_t i = generator() % most; i > 0; --i) text += shards[generator() % shards.size()];
      return text;
    };
    std::string text = generator() % 2 ? "<think>" : "";
    const auto start = generator() % 2 ? ThinkingStart::kOpen : ThinkingStart::kIfWritten;
    const bool thinks = !text.empty() || start == ThinkingStart::kOpen;
    text += some(6);
    if (thinks && generator() % 4) text += "</think>" + some(8);
    ASSERT_EQ(read_in_pieces({text}, start, ToolDialect::kJson), read_plainly(text, start)) << text;
  }
}

}  // namespace
}  // namespace lockstep::text
