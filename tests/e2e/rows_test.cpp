// Rows as people have them, through the whole program: what is trained on, what is said, and what
// is saved along.
// SPDX-License-Identifier: Apache-2.0
#include <filesystem>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/json.h"
#include "tests/e2e/program_files.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

class Rows : public ::testing::Test {
 protected:
  std::string model() {
    if (model_.empty()) model_ = new_model(folder_, "model", {"--like", "qwen3"});
    return model_;
  }
  std::string write(const std::string& text, const char* name = "rows.jsonl") {
    return folder_.write(name, text).string();
  }
  Arguments sft(const std::string& rows, const std::string& out, const char* saving = "no") {
    return {"sft",         "--model",     model(), "--tuner_type",
            "full",        "--dataset",   rows,    "--output_dir",
            folder_ / out, "--max_steps", "1",     "--save_strategy",
            saving,        "--threads",   "1"};
  }
  Arguments grpo(const std::string& rows, const std::string& out) {
    return {"grpo",
            "--model",
            model(),
            "--tuner_type",
            "full",
            "--dataset",
            rows,
            "--output_dir",
            folder_ / out,
            "--reward_funcs",
            "accuracy",
            "--num_generations",
            "2",
            "--max_completion_length",
            "4",
            "--max_steps",
            "1",
            "--beta",
            "0",
            "--save_strategy",
            "no",
            "--threads",
            "1"};
  }
  /// The loss of the first step.
  double loss_of(const std::string& out) {
    return read_rows(folder_ / out / "logging.jsonl").at(0)["loss"].get<double>();
  }
  std::vector<int64_t> ids_of(const std::string& text) {
    const std::string rows = write_rows(folder_, "text.jsonl", {Json{{"text", text}}});
    return parse_rows(run_well({"tokenize", "--model", model(), "--dataset", rows, "--quiet"})
                          .out)[0]["ids"]
        .get<std::vector<int64_t>>();
  }

  TempDir folder_;
  std::string model_;
};

/// The sum of a conversation's log-probabilities at the tokens of `words`, which stand in it once.
struct Words {
  double sum = 0;
  int64_t count = 0;
};
Words words_in(const Json& scored, const std::vector<int64_t>& words) {
  const auto ids = scored["input_ids"].get<std::vector<int64_t>>();
  const auto at = std::search(ids.begin(), ids.end(), words.begin(), words.end());
  EXPECT_NE(at, ids.end());
  Words result;
  for (size_t i = 0; i < words.size(); ++i, ++result.count)
    result.sum += scored["logprobs"][static_cast<size_t>(at - ids.begin()) + i].get<double>();
  return result;
}

TEST_F(Rows, TheLossIsThatOfTheTurnsThatARowDoesNotExclude) {
  const std::string start = R"({"messages":[{"role":"assistant","content":"Welcome!"},)"
                            R"({"role":"user","content":"2+3?"},{"role":"assistant","content":"5")";
  const std::string plain = start + "}]}";
  const Json scored = parse_rows(run_well({"score", "--model", model(), "--dataset", write(plain),
                                           "--quiet", "--threads", "1"})
                                     .out)[0];
  const Words first = words_in(scored, ids_of("Welcome!<|im_end|>")),
              second = words_in(scored, ids_of("5<|im_end|>"));
  run_well(sft(write(plain), "both"));
  EXPECT_NEAR(loss_of("both"), -(first.sum + second.sum) / double(first.count + second.count),
              1e-4);
  run_well(sft(write(start + R"(,"loss":false}]})"), "first"));
  EXPECT_NEAR(loss_of("first"), -first.sum / double(first.count), 1e-4);
  // A factor weighs the loss; the number of tokens stays.
  run_well(sft(write(start + R"(,"loss_scale":0.5}]})"), "weighed"));
  EXPECT_NEAR(loss_of("weighed"),
              -(first.sum + 0.5 * second.sum) / double(first.count + second.count), 1e-4);
}

TEST_F(Rows, EveryFieldCaseTrains) {
  int count = 0;
  for (const Json& line :
       read_rows(testing::source_dir() / "tests/data/field_cases/conversations.jsonl")) {
    const std::string kind = line["kind"];
    SCOPED_TRACE(kind);
    const std::string rows = write_rows(folder_, "case.jsonl", {line["row"]});
    const std::string out = "case" + std::to_string(count++);
    if (kind.starts_with("nested columns")) {
      run_well(grpo(rows, out) +
               Arguments{"--columns", R"({"reward_model.ground_truth": "solution"})"});
      run_well(sft(rows, out + "s") +
               Arguments{"--columns", R"({"reward_model.ground_truth": "response"})"});
      // Unmapped it is a question without an answer, and the error says how to map one.
      const ProgramResult result = run_program(sft(rows, out + "u"));
      EXPECT_EQ(result.exit_code, 2);
      EXPECT_THAT(result.err, HasSubstr(R"(--columns '{"reward_model.ground_truth": )"));
      continue;
    }
    run_well(sft(rows, out));
    const ProgramResult result = run_program(grpo(rows, out + "g"));
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_THAT(result.err, HasSubstr("expected a column solution for the reward accuracy, got"));
    if (kind.starts_with("query and response")) {
      EXPECT_THAT(result.err, HasSubstr(R"(--columns '{"answer": "solution"}')"));
      run_well(grpo(rows, out + "m") + Arguments{"--columns", R"({"answer": "solution"})"});
    }
  }
  EXPECT_GE(count, 7);
}

TEST_F(Rows, CountsAreSaidWhenAllDroppingIsDone) {
  std::string rows = "{\n";
  for (int i = 0; i < 5; ++i)
    rows += R"({"question":"1+1?","answer":"2","solution":"2"})"
            "\n";
  rows += R"({"colour":"red"})"
          "\n";
  rows += R"({"question":")" + std::string(3000, 'a') + R"(","answer":"b","solution":"c"})" + "\n";
  rows += R"({"question":"no solution","answer":"b"})"
          "\n";
  const std::string file = write(rows);
  const Arguments lenient = {"--strict", "false", "--columns", R"({"answer": "response"})"};
  const ProgramResult trained =
      run_well(sft(file, "s") + lenient + Arguments{"--max_length", "64"});
  EXPECT_THAT(trained.err, HasSubstr("dataset: 6 of 9 rows are used; dropped: 2 bad, 1 without a "
                                     "token to learn from"));
  EXPECT_THAT(trained.err, HasSubstr("columns of dataset: answer -> response"));
  EXPECT_THAT(trained.err, Not(HasSubstr("rows kept")));
  const ProgramResult asked =
      run_well(grpo(file, "g") + lenient +
               Arguments{"--truncation_strategy", "delete", "--max_length", "64"});
  EXPECT_THAT(asked.err, HasSubstr("dataset: 5 of 9 rows are used; dropped: 3 bad, 1 longer than"));
}

TEST_F(Rows, ARowThatIsTooLongIsCutAtEitherEndOrDropped) {
  const std::string rows = write(
      "{\"input_ids\":[5,6,7,8,9,10,11,12]}\n"
      "{\"input_ids\":[20,21,22]}\n");
  const auto summed = [&](const std::string& ids) {
    const Json scored = parse_rows(
        run_well({"score", "--model", model(), "--dataset",
                  write("{\"input_ids\":" + ids + "}", "ids.jsonl"), "--quiet", "--threads", "1"})
            .out)[0];
    double sum = 0;
    for (const Json& value : scored["logprobs"])
      if (!value.is_null()) sum += value.get<double>();
    return sum;
  };
  const auto trained = [&](const std::string& strategy) {
    return run_well(sft(rows, strategy) + Arguments{"--max_length", "5", "--truncation_strategy",
                                                    strategy, "--per_device_train_batch_size",
                                                    "2"});
  };
  const double kept = summed("[20,21,22]");
  EXPECT_THAT(trained("right").err,
              HasSubstr("1 rows are longer than 5 tokens and lose their end"));
  EXPECT_NEAR(loss_of("right"), -(summed("[5,6,7,8,9]") + kept) / 6, 1e-5);
  EXPECT_THAT(trained("left").err, HasSubstr("lose their beginning"));
  EXPECT_NEAR(loss_of("left"), -(summed("[8,9,10,11,12]") + kept) / 6, 1e-5);
  EXPECT_THAT(trained("delete").err,
              HasSubstr("dataset: 1 of 2 rows are used; dropped: 1 longer than 5 tokens"));
  EXPECT_NEAR(loss_of("delete"), -kept / 2, 1e-5);
}

TEST_F(Rows, HeldOutRowsAreCountedWhenAllDroppingIsDone) {
  std::string rows;
  for (int i = 0; i < 10; ++i)
    rows += R"({"question":")" + std::string(i % 2 ? 1 : 3000, 'a') + "\",\"answer\":\"b\"}\n";
  const ProgramResult split =
      run_well(sft(write(rows), "split") + Arguments{"--split_dataset_ratio", "0.4", "--max_length",
                                                     "64", "--truncation_strategy", "delete"});
  EXPECT_THAT(split.err, HasSubstr(" of 6 rows are used; dropped: "));
  EXPECT_THAT(split.err, HasSubstr(" of 4 rows are used; dropped: "));
  EXPECT_THAT(split.err, Not(HasSubstr("6 rows for training")));
}

/// As ms-swift does; read back, they are the same rows in all that an evaluation sees.
TEST_F(Rows, HeldOutRowsAreKeptBesideTheLogs) {
  std::string rows;
  for (int i = 0; i < 6; ++i)
    rows += fmt::format(R"({{"question":"{0}?","response":"{0}!","note":[{0}],)"
                        R"("chat_template_kwargs":{{"enable_thinking":false}}}})"
                        "\n",
                        i);
  rows += R"({"question":"plain","response":"text"})"
          "\n"
          R"({"input_ids":[5,6,7]})"
          "\n";
  const Arguments flags = {"--eval_on_start", "true"};
  const std::string all = write(rows);
  run_well(sft(all, "split") + flags + Arguments{"--split_dataset_ratio", "0.5"});
  const fs::path kept = folder_ / "split" / "val_dataset.jsonl";
  EXPECT_EQ(read_rows(kept).size(), 4u);
  for (const Json& row : read_rows(kept)) {
    EXPECT_TRUE(row.contains("messages") || row.contains("input_ids")) << row;
    EXPECT_EQ(row.contains("note"), row.contains("chat_template_kwargs")) << row;
  }
  run_well(sft(all, "again") + flags + Arguments{"--val_dataset", kept.string()});
  const auto first_loss = [&](const char* run) {
    for (const Json& line : read_rows(folder_ / run / "logging.jsonl"))
      if (line.contains("eval_loss")) return line["eval_loss"].get<double>();
    return 0.0;
  };
  EXPECT_GT(first_loss("split"), 0);
  EXPECT_EQ(first_loss("split"), first_loss("again"));
  EXPECT_FALSE(fs::exists(folder_ / "again" / "val_dataset.jsonl"));
  // It belongs to the run, which may be replaced.
  run_well(sft(all, "split") + Arguments{"--overwrite", "true"});
  EXPECT_FALSE(fs::exists(kept));
}

TEST_F(Rows, TheLastBatchOfAnEpochIsNotDropped) {
  const std::string rows =
      write("{\"input_ids\":[5,6,7]}\n{\"input_ids\":[8,9,10]}\n{\"input_ids\":[11,12,13]}\n");
  Arguments command = sft(rows, "all");
  const auto max_steps = std::find(command.begin(), command.end(), "--max_steps");
  command.erase(max_steps, max_steps + 2);
  command = command + Arguments{"--num_train_epochs", "1", "--per_device_train_batch_size", "2"};
  run_well(command + Arguments{"--dataloader_drop_last", "false"});
  const auto log = read_rows(folder_ / "all" / "logging.jsonl");
  EXPECT_EQ(log.back()["global_step"], 2);
  const ProgramResult dropped =
      run_program(command + Arguments{"--dataloader_drop_last", "true", "--overwrite", "true"});
  EXPECT_EQ(dropped.exit_code, 2);
  EXPECT_THAT(dropped.err, HasSubstr("the last batch of an epoch is trained on"));
}

TEST_F(Rows, ScoreAndInferReadConversationsAsTrainingDoes) {
  const std::string openai =
      R"({"messages":[{"role":"user","content":"weather?"},{"role":"assistant","content":"","tool_calls":)"
      R"([{"type":"function","function":{"name":"f","arguments":{"city":"Oslo"}}}]},{"role":"tool","content":"4"}]})"
      "\n";
  const std::string sharegpt =
      R"({"messages":[{"from":"human","value":"weather?"},{"from":"function_call","value":)"
      R"("{\"name\":\"f\",\"arguments\":{\"city\":\"Oslo\"}}"},{"from":"observation","value":"4"}]})"
      "\n";
  const std::string file = write(openai + sharegpt);
  const auto scored = parse_rows(
      run_well({"score", "--model", model(), "--dataset", file, "--quiet", "--threads", "1"}).out);
  EXPECT_EQ(scored[0]["logprobs"], scored[1]["logprobs"]);
  const auto sampled =
      parse_rows(run_well({"infer", "--model", model(), "--dataset", file, "--quiet", "--threads",
                           "1", "--temperature", "0", "--max_new_tokens", "4"})
                     .out);
  EXPECT_EQ(sampled[0]["responses"], sampled[1]["responses"]);
  // Lists and tables are read as well as lines.
  const std::string list = write("[" + openai + "]", "rows.json");
  EXPECT_EQ(parse_rows(run_well({"score", "--model", model(), "--dataset", list, "--quiet",
                                 "--threads", "1"})
                           .out)[0]["logprobs"],
            scored[0]["logprobs"]);
}

TEST_F(Rows, NamedTemplatesAreUsedAndSavedAlong) {
  const fs::path folder = fs::path(model()) / "additional_chat_templates";
  fs::create_directory(folder);
  const std::string tools =
      "{%- for m in messages -%}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' "
      "}}{%- endfor -%}TOOLS";
  write_file(folder / "tool_use.jinja", tools);
  write_file(folder / "rag.jinja", "{% no template of ours %}\r\n");
  const std::string rows = write(
      R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}],"tools":[{"name":"f"}]})");
  const auto rendered = parse_rows(
      run_well({"tokenize", "--model", model(), "--dataset", rows, "--quiet"}).out)[0]["text"];
  EXPECT_EQ(rendered, "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\nTOOLS");
  run_well(sft(rows, "run", "steps"));
  run_well({"export", "--model", model(), "--output_dir", folder_ / "exported"});
  run_well(
      {"new-model", "--like", "qwen3", "--tokenizer", model(), "--output_dir", folder_ / "new"});
  for (const fs::path& saved :
       {folder_ / "run/checkpoint-1", folder_ / "exported", folder_ / "new"})
    for (const char* name : {"tool_use.jinja", "rag.jinja"})
      EXPECT_EQ(read_file(saved / "additional_chat_templates" / name), read_file(folder / name))
          << saved;
}

}  // namespace
}  // namespace lockstep::testing
