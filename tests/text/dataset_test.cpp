// Rows in the forms that people's files have, and what is said about bad ones.
// SPDX-License-Identifier: Apache-2.0
#include "text/dataset.h"

#include <set>

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/source_dir.h"
#include "tests/text/dataset_fixture.h"

namespace lockstep::text {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST_F(DatasetTest, KeepsMessagesAsTheyStand) {
  const Row got = row(
      R"({"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}],"solution":"7","answer":1})");
  EXPECT_EQ(got.messages, kHiHo);
  EXPECT_EQ(got.columns, json(R"({"solution":"7","answer":1})"));
  EXPECT_EQ(got.where, (directory_ / "rows.jsonl").string() + ":1");
  EXPECT_TRUE(got.tools.is_null());
  EXPECT_TRUE(got.chat_template_kwargs.is_null());
}

// A thirty-digit solution must not become the double next to it.
TEST_F(DatasetTest, KeepsTheDigitsOfNumbers) {
  const char* const digits = "987654321098765432109876543210";
  const Row got = row(fmt::format(
      R"({{"messages":[{{"role":"user","content":"q","x":{0}}}],"solution":{0},"deep":{{"er":[{0}]}}}})",
      digits));
  EXPECT_EQ(number_text(got.columns["solution"]), digits);
  EXPECT_EQ(number_text(got.columns["deep"]["er"][0]), digits);
  EXPECT_EQ(row(fmt::format(R"({{"query":{0},"response":{0}}})", digits)).messages,
            json(fmt::format(
                R"([{{"role":"user","content":"{0}"}},{{"role":"assistant","content":"{0}"}}])",
                digits)));
  EXPECT_TRUE(row(R"({"query":"q","solution":2e-05})").columns["solution"].is_number());
}

TEST_F(DatasetTest, ReadsShareGptConversations) {
  const std::string rows =
      R"({"conversations":[{"from":"human","value":"hi"},{"from":"gpt","value":"ho"}],"system":"S"})";
  EXPECT_EQ(
      messages(rows),
      json(
          R"([{"role":"system","content":"S"},{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}])"));
  EXPECT_THAT(load(rows).mapping_notes,
              ElementsAre("conversations -> messages", "system -> system message"));
  for (const char* names : {R"("USER" "Assistant")", R"("human" "model")", R"("user" "chatgpt")"}) {
    const std::string text = names;
    const size_t gap = text.find(' ');
    EXPECT_EQ(messages(R"({"conversations":[{"from":)" + text.substr(0, gap) +
                       R"(,"value":"hi"},{"from":)" + text.substr(gap + 1) + R"(,"value":"ho"}]})"),
              kHiHo)
        << names;
  }
}

TEST_F(DatasetTest, MakesToolCallsOfShareGptFunctionCalls) {
  EXPECT_EQ(
      messages(
          R"({"conversations":[{"from":"user","value":"a"},{"from":"bot","value":"I look."},)"
          R"({"from":"function_call","value":"{\"name\":\"f\",\"arguments\":{\"x\":1}}"},)"
          R"({"from":"observation","value":"2"},{"from":"function_call","value":{"name":"g"}}]})"),
      json(R"([{"role":"user","content":"a"},
                     {"role":"assistant","content":"I look.","tool_calls":[
                       {"type":"function","function":{"name":"f","arguments":{"x":1}}}]},
                     {"role":"tool","content":"2"},
                     {"role":"assistant","content":"","tool_calls":[
                       {"type":"function","function":{"name":"g"}}]}])"));
}

TEST_F(DatasetTest, ReadsMsSwiftPairs) {
  const std::string rows =
      R"({"system":"S","conversation":[{"human":"hi","assistant":"ho"},{"user":"a","gpt":"b","loss":false},{"human":"open"}]})";
  EXPECT_EQ(messages(rows), json(R"([{"role":"system","content":"S"},
                                     {"role":"user","content":"hi"},
                                     {"role":"assistant","content":"ho"},
                                     {"role":"user","content":"a"},
                                     {"role":"assistant","content":"b","loss":false},
                                     {"role":"user","content":"open"}])"));
  EXPECT_THAT(load(rows).mapping_notes,
              ElementsAre("conversation -> messages", "system -> system message"));
  EXPECT_EQ(messages(R"({"conversations":[{"bot":"hi"}]})"),
            json(R"([{"role":"assistant","content":"hi"}])"));
  EXPECT_ERROR(load(R"({"conversation":[{"human":null}]})"), FormatError, "bad-row",
               "a question or an answer as message 1");
  EXPECT_ERROR(load(R"({"conversation":[{"human":"a","assistant":{"x":1}}]})"), FormatError,
               "bad-row", "text in assistant");
}

TEST_F(DatasetTest, ReadsOpenAisOlderAndNewerForms) {
  EXPECT_EQ(
      messages(
          R"({"messages":[{"role":"developer","content":"S"},)"
          R"({"role":"user","content":[{"type":"input_text","text":"a"}]},)"
          R"({"role":"assistant","content":null,"function_call":{"name":"f","arguments":"{}"}},)"
          R"({"role":"function","name":"f","content":"4"}]})"),
      json(R"([{"role":"system","content":"S"},
                     {"role":"user","content":"a"},
                     {"role":"assistant","content":"","tool_calls":[
                       {"type":"function","function":{"name":"f","arguments":"{}"}}]},
                     {"role":"tool","content":"4","name":"f"}])"));
}

TEST_F(DatasetTest, KeepsTheTrainingKeysOfToolCalls) {
  EXPECT_EQ(
      messages(
          R"({"messages":[{"role":"user","content":"a"},)"
          R"({"role":"tool_call","content":"{\"name\":\"f\",\"parameters\":{}}","loss":false},)"
          R"({"role":"tool-call","content":{"name":"g"}},)"
          R"({"role":"tool","content":{"t":[1]}},{"role":"tool","content":4}]})"),
      json(R"([{"role":"user","content":"a"},
                     {"role":"assistant","content":"","loss":false,"tool_calls":[
                       {"type":"function","function":{"name":"f","arguments":{}}},
                       {"type":"function","function":{"name":"g"}}]},
                     {"role":"tool","content":"{\"t\": [1]}"},
                     {"role":"tool","content":"4"}])"));
  // One turn of the template cannot be half trained on.
  EXPECT_ERROR(load(R"({"messages":[{"role":"assistant","content":"a","loss":true},)"
                    R"({"role":"tool_call","content":{"name":"f"},"loss":false}]})"),
               FormatError, "bad-row",
               "expected the loss of the turn that the tool call belongs to");
}

TEST_F(DatasetTest, FlattensContentParts) {
  EXPECT_EQ(
      messages(
          R"({"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},{"role":"assistant","content":[{"type":"text","text":"c"},{"type":"tool_use","id":"1","name":"f","input":{"x":1}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"1","content":[{"type":"text","text":"r"}]}]}]})"),
      json(R"([{"role":"user","content":"ab"},
                     {"role":"assistant","content":"c","tool_calls":[{"type":"function","function":{"name":"f","arguments":{"x":1}}}]},
                     {"role":"tool","content":"r"}])"));
}

TEST_F(DatasetTest, KeepsToolCallsAndReasoning) {
  const std::string list =
      R"([{"role":"user","content":"a"},{"role":"assistant","content":"","reasoning_content":"r","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]},{"role":"tool","content":"1","name":"f"}])";
  EXPECT_EQ(messages(R"({"messages":)" + list + "}"), json(list));
  EXPECT_EQ(messages(R"({"messages":)" + Json(list).dump() + "}"), json(list))
      << "a list as a string";
  EXPECT_EQ(
      messages(
          R"({"messages":[{"role":"assistant","content":null,"tool_calls":[]}]})")[0]["content"],
      "");
}

TEST_F(DatasetTest, MapsFamiliarNames) {
  for (const char* query :
       {"query", "prompt", "input", "instruction", "question", "problem", "Question"}) {
    for (const char* response : {"response", "answer", "output", "targets", "target", "answer_key",
                                 "answers", "text", "completion", "content"}) {
      SCOPED_TRACE(std::string(query) + " " + response);
      const Row got = row(Json{{query, "hi"}, {response, "ho"}, {"level", 3}}.dump());
      EXPECT_EQ(got.messages, kHiHo);
      EXPECT_EQ(got.columns, json(R"({"level":3})")) << "the response is consumed";
    }
  }
  EXPECT_THAT(load(R"({"question":"hi","answer":"ho"})").mapping_notes,
              ElementsAre("question -> user message", "answer -> assistant message"));
}

TEST_F(DatasetTest, CopiesTheSolutionAndKeepsIt) {
  const Row got = row(R"({"problem":"hi","solution":"ho"})");
  EXPECT_EQ(got.messages, kHiHo);
  EXPECT_EQ(got.columns, json(R"({"solution":"ho"})"));
  EXPECT_EQ(row(R"({"problem":"hi","solution":42})").messages[1]["content"], "42");
}

TEST_F(DatasetTest, RenamesNeitherOfTwoColumnsThatWouldClash) {
  const Row got = row(R"({"question":"hi","answer":"a","solution":"b"})");
  EXPECT_EQ(got.messages, json(R"([{"role":"user","content":"hi"}])"));
  EXPECT_EQ(got.columns, json(R"({"answer":"a","solution":"b"})"));
  // In the columns of the whole file, not of one row.
  EXPECT_EQ(load("{\"question\":\"hi\",\"answer\":\"a\"}\n{\"question\":\"hi\",\"output\":\"b\"}")
                .rows[0]
                .columns,
            json(R"({"answer":"a"})"));
  EXPECT_EQ(row(R"({"query":"hi","prompt":"p","response":"ho","answer":"a"})").messages, kHiHo)
      << "the names themselves go first";
  EXPECT_ERROR(load(R"({"question":"hi","prompt":"p"})"), FormatError, "bad-row",
               "question and prompt could both be it");
}

TEST_F(DatasetTest, ReadsAlpacaRows) {
  EXPECT_EQ(messages(R"({"instruction":"h","input":"i","output":"ho"})"),
            json(R"([{"role":"user","content":"h\ni"},{"role":"assistant","content":"ho"}])"));
  EXPECT_EQ(messages(R"({"instruction":"hi","input":"","output":"ho"})"), kHiHo);
  EXPECT_EQ(messages(R"({"instruction":"hi","input":null,"output":"ho"})"), kHiHo);
}

TEST_F(DatasetTest, PutsHistoryBeforeTheQuery) {
  EXPECT_EQ(
      messages(R"({"history":[["hi","ho"]],"query":"q","system_prompt":"S"})"),
      json(
          R"([{"role":"system","content":"S"},{"role":"user","content":"hi"},{"role":"assistant","content":"ho"},{"role":"user","content":"q"}])"));
}

TEST_F(DatasetTest, ReadsPromptsThatAreLists) {
  const Row trl = row(
      R"({"prompt":[{"role":"user","content":"hi"}],"completion":[{"role":"assistant","content":"ho"}],"solution":"7"})");
  EXPECT_EQ(trl.messages, kHiHo);
  EXPECT_EQ(trl.columns, json(R"({"solution":"7"})"));
  const Row verl = row(
      R"({"data_source":"d","prompt":[{"role":"user","content":"hi"}],"reward_model":{"ground_truth":"7"}})");
  EXPECT_EQ(verl.messages, json(R"([{"role":"user","content":"hi"}])"));
  EXPECT_EQ(verl.columns,
            json(R"({"data_source":"d","reward_model":{"ground_truth":"7"},"solution":"7"})"));
  EXPECT_EQ(messages(R"({"prompt":[{"role":"user","content":"hi"}],"completion":"ho"})"), kHiHo);
  EXPECT_EQ(messages(R"({"prompt":[{"role":"user","content":"hi"}],"response":"ho"})"), kHiHo);
  EXPECT_EQ(messages(R"({"prompt":[{"role":"user","content":"x"}],"query":"hi","answer":"ho"})"),
            kHiHo)
      << "the very name goes first";
}

TEST_F(DatasetTest, TakesTheGroundTruthOfVerlsRowsForTheSolution) {
  const std::string row_text =
      R"({"prompt":[{"role":"user","content":"hi"}],"reward_model":{"ground_truth":"7"}})";
  EXPECT_THAT(load(row_text).mapping_notes,
              ElementsAre("prompt -> messages", "reward_model.ground_truth -> solution"));
  // A solution of the file's own, a mapping, and a wish not to guess go first.
  EXPECT_EQ(row(R"({"query":"hi","reward_model":{"ground_truth":"7"},"solution":"8"})")
                .columns["solution"],
            "8");
  EXPECT_FALSE(row(row_text, {.disable_auto_column_mapping = true}).columns.contains("solution"));
  EXPECT_EQ(row(R"({"query":"hi","reward_model":"{\"ground_truth\": 7}"})").columns["solution"], 7);
}

TEST_F(DatasetTest, TakesRecordedCompletionsOutOfTheConversation) {
  const DatasetOptions options{.recorded = true};
  const char* text = R"({"prompt":"hi","completion":"ho","solution":"7","n":1e-30})";
  const Row got = row(text, options);
  EXPECT_EQ(got.messages.size(), 2u);
  EXPECT_EQ(got.messages[0]["content"], "hi");
  EXPECT_EQ(got.messages[1]["content"], "7");  // not the completion
  EXPECT_EQ(got.recorded, json(R"({"completion":"ho"})"));
  EXPECT_EQ(dump_json(got.file_row), text);
  EXPECT_TRUE(got.columns.contains("solution"));
  EXPECT_FALSE(got.columns.contains("completion"));
  // A row may have no conversation.
  const Row bare = row(R"({"solution":"7","completions":["a","b"],"token_ids":[1]})", options);
  EXPECT_TRUE(bare.messages.is_null());
  EXPECT_EQ(bare.columns["solution"], "7");
  EXPECT_EQ(bare.recorded, json(R"({"completions":["a","b"],"token_ids":[1]})"));
  // A renamed column is one, too; the row of the file keeps its own name.
  DatasetOptions renaming = options;
  renaming.columns = {{"said", "completion"}};
  const Row renamed = row(R"({"query":"hi","said":"ho"})", renaming);
  EXPECT_EQ(renamed.recorded, json(R"({"completion":"ho"})"));
  EXPECT_EQ(renamed.file_row, json(R"({"query":"hi","said":"ho"})"));
  EXPECT_TRUE(row(text).recorded.is_null());
}

TEST_F(DatasetTest, AddsTheDefaultSystemPromptWhereThereIsNone) {
  DatasetOptions options;
  options.system = "D";
  EXPECT_EQ(messages(R"({"query":"hi"})", options)[0]["content"], "D");
  EXPECT_EQ(messages(R"({"query":"hi","system":"S"})", options)[0]["content"], "S");
  EXPECT_EQ(
      messages(
          R"({"messages":[{"role":"system","content":"M"},{"role":"user","content":"hi"}],"system":"S"})",
          options)
          .size(),
      2u);
}

TEST_F(DatasetTest, ReadsToolsAndTemplateVariables) {
  const Json tools = json(R"([{"type":"function"}])");
  EXPECT_EQ(
      row(R"({"query":"hi","tools":[{"type":"function"}],"chat_template_kwargs":{"enable_thinking":false}})")
          .chat_template_kwargs,
      json(R"({"enable_thinking":false})"));
  EXPECT_EQ(row(R"({"query":"hi","tools":"[{\"type\":\"function\"}]"})").tools, tools);
  EXPECT_EQ(row(R"({"query":"hi","tools":["{\"type\":\"function\"}"]})").tools, tools);
  EXPECT_TRUE(row(R"({"query":"hi","tools":[]})").tools.is_null());
  EXPECT_ERROR(load(R"({"query":"hi","tools":{}})"), FormatError, "bad-row", "a list in tools");
  EXPECT_ERROR(load(R"({"query":"hi","tools":[1]})"), FormatError, "bad-row", "objects in tools");
  EXPECT_ERROR(load(R"({"query":"hi","chat_template_kwargs":[]})"), FormatError, "bad-row",
               "chat_template_kwargs");
  EXPECT_ERROR(load(R"({"query":"hi","tools":"none"})"), FormatError, "bad-row",
               "expected JSON in tools, got text that is none");
  EXPECT_ERROR(load(R"({"query":"hi","tools":["{"]})"), FormatError, "bad-row", "JSON in tools");
  EXPECT_ERROR(load(R"({"query":"hi","chat_template_kwargs":"x"})"), FormatError, "bad-row",
               "expected JSON in chat_template_kwargs");
}

TEST_F(DatasetTest, ReadsJsonLists) {
  const Dataset dataset = load("[\n {\"query\": \"a, ] }\\\"\"},\n\n {\"query\":\n  [1][0]}]",
                               {.strict = false}, "rows.json");
  ASSERT_EQ(dataset.rows.size(), 1u);
  EXPECT_EQ(dataset.rows[0].messages[0]["content"], "a, ] }\"");
  EXPECT_EQ(dataset.rows[0].where, (directory_ / "rows.json").string() + ":2");
  EXPECT_THAT(dataset.dropped_reasons.at(0), ::testing::HasSubstr("rows.json:4: "));
  EXPECT_EQ(load("{\"query\":\"a\"}\n{\"query\":\"b\"}\n", {}, "rows.json").rows.size(), 2u)
      << "JSON lines in a .json file";
  EXPECT_ERROR(load("[{\"query\":\"a\"},]", {}, "rows.json"), FormatError, "bad-row",
               "rows.json:1: ");
  EXPECT_ERROR(load("[{\"query\":\"a\"}", {}, "rows.json"), FormatError, "bad-row",
               "end of the file");
  EXPECT_ERROR(load("[{\"query\":\"a\"}]\n]", {}, "rows.json"), FormatError, "bad-row",
               "nothing behind the list");
  EXPECT_ERROR(load("[ ]", {}, "rows.json"), FormatError, "bad-row", "at least one row");
}

TEST_F(DatasetTest, ReadsCsv) {
  const Dataset dataset = load(
      "\xef\xbb\xbfquestion,answer,note\r\n\"a \"\"b\"\",\nc\",1,\r\n\nd,2,\"\"\n", {}, "rows.csv");
  ASSERT_EQ(dataset.rows.size(), 2u);
  EXPECT_EQ(
      dataset.rows[0].messages,
      json(R"([{"role":"user","content":"a \"b\",\nc"},{"role":"assistant","content":"1"}])"));
  EXPECT_EQ(dataset.rows[0].columns, json(R"({"note":null})"));
  EXPECT_EQ(dataset.rows[1].columns, json(R"({"note":""})"));
  EXPECT_EQ(dataset.rows[1].where, (directory_ / "rows.csv").string() + ":5");
  EXPECT_EQ(load("query\nhi", {}, "rows.csv").rows.size(), 1u) << "no line end at the end";
  EXPECT_ERROR(load("query,b\nhi\n", {}, "rows.csv"), FormatError, "bad-row",
               "rows.csv:2: expected 2 fields, got 1");
  EXPECT_ERROR(load("query,query\n1,2\n", {}, "rows.csv"), FormatError, "bad-row",
               "\"query\" twice");
  EXPECT_ERROR(load("query\n\"hi\n\n", {}, "rows.csv"), FormatError, "bad-row",
               "rows.csv:2: expected a closing quote");
  EXPECT_ERROR(load("query\n\"hi\"x\n", {}, "rows.csv"), FormatError, "bad-row",
               "rows.csv:2: expected a comma");
  EXPECT_ERROR(load("query\nhi\n\xff\n", {}, "rows.csv"), FormatError, "bad-row",
               "rows.csv:3: expected UTF-8");
  EXPECT_ERROR(load("query\n", {}, "rows.csv"), FormatError, "bad-row", "at least one row");
}

TEST_F(DatasetTest, NamesTheLineOfABadRow) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"[1]", "expected a JSON object, got array"},
      {"{", "byte"},
      {"{\"query\":\"\xff\"}", "byte"},
      {R"({"query":"a","query":"b"})", "each key once"},
      {R"({"colour":"red","size":1})", "got columns colour, size"},
      {R"({"query":null,"id":1})", "expected messages, or a query"},
      {R"({"query":["a"]})", "expected text in query"},
      {R"({"query":"a","history":[["b"]]})", "[query, response]"},
      {R"({"query":"a","history":{}})", "history"},
      {R"({"query":"a","image":"x.png"})", "got image"},
      {R"({"query":"a","images":["x.png"]})", "got images"},
      {R"({"query":"a","Videos":["x.mp4"]})", "got Videos"},
      {R"({"query":"a","audios":[{"path":"x"}]})", "got audios"},
  };
  for (const auto& [text, words] : cases) {
    SCOPED_TRACE(text);
    EXPECT_ERROR(load("{\"query\":\"good\"}\n\n" + text), FormatError, "bad-row", words);
    EXPECT_ERROR(load("{\"query\":\"good\"}\n\n" + text), FormatError, "bad-row", "rows.jsonl:3: ");
  }
  EXPECT_EQ(messages(R"({"query":"hi","images":[],"video":null,"audio":""})").size(), 1u)
      << "empty ones are nothing";
}

TEST_F(DatasetTest, NamesWhatIsWrongWithMessages) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"[]", "at least one message"},
      {"7", "a list"},
      {"\"no list\"", "byte"},
      {"null", "expected messages, as other rows have"},
      {"[1]", "an object as message 1"},
      {R"([{"role":"user","content":"a"},{"role":"judge","content":"b"}])",
       "role system, user, assistant or tool as message 2"},
      {R"([{"content":"b"}])", "role system"},
      {R"([{"role":"user"}])", "text in content"},
      {R"([{"role":"user","content":5}])", "text in content"},
      {R"([{"role":"assistant","content":null}])", "text in content"},
      {R"([{"role":"user","content":[{"type":"image_url","image_url":{}}]}])",
       "images, video and audio"},
      {R"([{"role":"function_call","content":"{}"}])", "tool call"},
      {R"([{"role":"user","content":[{"type":"tool_result","content":5}]}])", "tool_result"},
  };
  for (const auto& [list, words] : cases) {
    SCOPED_TRACE(list);
    EXPECT_ERROR(
        load("{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}\n{\"messages\":" + list + "}"),
        FormatError, "bad-row", words);
  }
}

TEST_F(DatasetTest, DropsAndCountsBadRowsUnlessStrict) {
  std::string rows = "{\"query\":\"a\"}\n";
  for (int i = 0; i < 12; ++i) rows += i % 2 == 0 ? "{\n" : "{\"colour\":1}\n";
  const Dataset dataset = load(rows + "{\"query\":\"b\"}", {.strict = false});
  EXPECT_EQ(dataset.rows.size(), 2u);
  EXPECT_EQ(dataset.dropped, 12);
  EXPECT_EQ(dataset.dropped_reasons.size(), 10u);
  EXPECT_THAT(dataset.dropped_reasons[0], ::testing::HasSubstr("rows.jsonl:2: "));
  EXPECT_THAT(load("{\"query\":\"a\"}").dropped_reasons, IsEmpty());
  EXPECT_ERROR(load("{\n", {.strict = false}), FormatError, "empty-dataset", "rows.jsonl:1: ");
}

TEST_F(DatasetTest, RefusesFilesWithoutRows) {
  EXPECT_ERROR(load(""), FormatError, "bad-row", "rows.jsonl: expected at least one row");
  EXPECT_ERROR(load("\n \n"), FormatError, "bad-row", "at least one row");
  EXPECT_ERROR(load("", {}, "rows.csv"), FormatError, "bad-row", "at least one row");
}

TEST_F(DatasetTest, SaysHowToConvertWhatItDoesNotRead) {
  const auto load_name = [](std::string name) {
    DatasetOptions options;
    options.dataset = {std::move(name)};
    return load_dataset(options);
  };
  EXPECT_ERROR(load_name("openai/gsm8k"), FormatError, "unsupported-dataset",
               "load_dataset('openai/gsm8k'");
  EXPECT_ERROR(load_name("AI-MO/NuminaMath-TIR:default#1000"), FormatError, "unsupported-dataset",
               "('AI-MO/NuminaMath-TIR'");
  EXPECT_ERROR(load_name(directory_.write("a.parquet", "PAR1").string()), FormatError,
               "unsupported-dataset", "read_parquet");
  EXPECT_ERROR(load_name(directory_.write("a.txt", "x").string()), FormatError,
               "unsupported-dataset", "a.txt");
  EXPECT_ERROR(load_name(directory_.path().string()), FormatError, "unsupported-dataset",
               "a folder");
  EXPECT_ERROR(load_name("data/missing.jsonl"), IoError, "unreadable-file", "data/missing.jsonl");
  EXPECT_ERROR(load_name("./data/missing"), IoError, "unreadable-file", "missing");
  EXPECT_ERROR(load_name(directory_.write("a.jsonl", "{}").string() + "#0"), ConfigError,
               "bad-config", "#0");
  EXPECT_ERROR(load_name(directory_.write("a.jsonl", "{}").string() + "#x"), ConfigError,
               "bad-config", "#x");
  EXPECT_ERROR(load_dataset({}), ConfigError, "bad-config", "--dataset");
}

TEST_F(DatasetTest, JoinsFilesEachWithItsOwnNames) {
  DatasetOptions options;
  options.dataset = {directory_.write("a.jsonl", R"({"question":"hi","answer":"ho"})").string(),
                     directory_.write("b#1.jsonl", R"({"query":"hi","response":"ho"})").string()};
  const Dataset dataset = load_dataset(options);
  ASSERT_EQ(dataset.rows.size(), 2u);
  EXPECT_EQ(dataset.rows[0].messages, kHiHo);
  EXPECT_EQ(dataset.rows[1].messages, kHiHo);
}

TEST_F(DatasetTest, DrawsRowsByNumber) {
  std::string rows;
  for (int i = 0; i < 10; ++i) rows += fmt::format("{{\"query\":\"{}\"}}\n", i);
  const std::string path = directory_.write("rows.jsonl", rows).string();
  const auto drawn = [&](int64_t count, int64_t seed) {
    DatasetOptions options;
    options.dataset = {fmt::format("{}#{}", path, count)};
    options.data_seed = seed;
    std::vector<std::string> queries;
    for (const Row& row : load_dataset(options).rows) queries.push_back(row.messages[0]["content"]);
    return queries;
  };
  const auto four = drawn(4, 42);
  EXPECT_EQ(std::set<std::string>(four.begin(), four.end()).size(), 4u) << "no row twice";
  EXPECT_EQ(four, drawn(4, 42));
  EXPECT_NE(drawn(9, 42), drawn(9, 43));
  const auto more = drawn(24, 42);
  ASSERT_EQ(more.size(), 24u);
  for (size_t i = 0; i < 20; ++i)
    EXPECT_EQ(more[i], std::to_string(i % 10)) << "whole copies in order";
  EXPECT_EQ(std::vector<std::string>(more.begin() + 20, more.end()), four);
}

TEST_F(DatasetTest, ReadsGsm8k) {
  DatasetOptions options;
  options.dataset = {(testing::source_dir() / "tests/data/gsm8k/test_200.jsonl").string()};
  options.columns = {{"answer", "solution"}};
  const Dataset dataset = load_dataset(options);
  EXPECT_EQ(dataset.rows.size(), 200u);
  for (const Row& row : dataset.rows) {
    EXPECT_EQ(row.messages.size(), 2u);
    EXPECT_THAT(row.columns["solution"].get<std::string>(), ::testing::HasSubstr("\n#### "));
  }
}

}  // namespace
}  // namespace lockstep::text
