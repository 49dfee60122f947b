// Every command as a user runs it, on models that new-model made.
// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdlib>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/e2e/program_files.h"
#include "tests/support/source_dir.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

struct Form {
  const char *like, *dtype, *nested;
};
void PrintTo(const Form& form, std::ostream* out) {
  *out << form.like << "_" << form.dtype << (form.nested[0] == 't' ? "_nested" : "_flat");
}

class EveryForm : public ::testing::TestWithParam<Form> {};

TEST_P(EveryForm, IsMadeScoredSampledAndExported) {
  const TempDir folder;
  const auto& [like, dtype, nested] = GetParam();
  const std::string model =
      new_model(folder, "model", {"--like", like, "--torch_dtype", dtype, "--nested", nested});
  for (const char* file : {"config.json", "generation_config.json", "model.safetensors",
                           "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"})
    EXPECT_TRUE(fs::is_regular_file(fs::path(model) / file)) << file;
  const std::string rows = write_rows(folder, "rows.jsonl", sum_rows(2));

  const auto scored =
      parse_rows(run_well({"score", "--model", model, "--dataset", rows, "--quiet"}).out);
  ASSERT_EQ(scored.size(), 2u);
  EXPECT_TRUE(scored[0]["logprobs"][0].is_null());
  for (size_t t = 1; t < scored[0]["logprobs"].size(); ++t)
    EXPECT_LT(scored[0]["logprobs"][t].get<double>(), 0);

  const std::string questions =
      write_rows(folder, "questions.jsonl", {chat_row("2+3="), chat_row("1+1=")});
  // The sampler's log-probabilities are the scorer's.
  const auto sampled = parse_rows(run_well({"infer", "--model", model, "--dataset", questions,
                                            "--max_new_tokens", "6", "--ignore_eos", "--quiet"})
                                      .out);
  ASSERT_EQ(sampled.size(), 2u);
  const Json& response = sampled[0]["responses"][0];
  EXPECT_EQ(response["finish_reason"], "length");
  ASSERT_EQ(response["token_ids"].size(), 6u);
  const auto prompt = parse_rows(run_well({"tokenize", "--model", model, "--dataset",
                                           write_rows(folder, "prompt.jsonl", {[] {
                                                        Json row = chat_row("2+3=");
                                                        row["add_generation_prompt"] = true;
                                                        return row;
                                                      }()})})
                                     .out)[0]["ids"];
  Json ids = prompt;
  for (const Json& id : response["token_ids"]) ids.push_back(id);
  const auto again =
      parse_rows(run_well({"score", "--model", model, "--dataset",
                           write_rows(folder, "ids.jsonl", {{{"input_ids", ids}}}), "--quiet"})
                     .out);
  const Json& logprobs = again[0]["logprobs"];
  for (size_t t = 0; t < 6; ++t)
    EXPECT_EQ(logprobs[prompt.size() + t], response["logprobs"][t]) << t;

  run_well({"export", "--model", model, "--output_dir", (folder / "copy").string(), "--quiet"});
  EXPECT_TRUE(tree_of(folder / "copy") == tree_of(model));
}

std::vector<Form> forms() {
  std::vector<Form> all;
  for (const char* dtype : {"float32", "bfloat16"}) {
    for (const char* like : {"qwen3", "qwen3_moe", "qwen3_5", "qwen3_5_moe"})
      all.push_back({like, dtype, "false"});
    for (const char* like : {"qwen3_5", "qwen3_5_moe"}) all.push_back({like, dtype, "true"});
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Forms, EveryForm, ::testing::ValuesIn(forms()), [](const auto& test) {
  return ::testing::PrintToString(test.param);
});

/// One small model for all tests.
class Run : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new TempDir;
    new_model(*shared_, "model", {"--like", "qwen3_5"});
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }
  static std::string model() { return (*shared_ / "model").string(); }
  std::vector<Json> infer(const std::vector<Json>& rows, const Arguments& more) const {
    return parse_rows(run_well(Arguments{"infer", "--model", model(), "--dataset",
                                         write_rows(folder, "rows.jsonl", rows), "--max_new_tokens",
                                         "12", "--threads", "1", "--quiet"} +
                               more)
                          .out);
  }
  Arguments grpo(const std::string& output) const {
    return {"grpo",
            "--model",
            model(),
            "--tuner_type",
            "full",
            "--dataset",
            write_rows(folder, "rows.jsonl", sum_rows(6)),
            "--output_dir",
            output,
            "--reward_funcs",
            "format",
            "--num_generations",
            "2",
            "--max_completion_length",
            "4",
            "--threads",
            "1",
            "--quiet"};
  }

  static inline TempDir* shared_ = nullptr;
  TempDir folder;
};

TEST_F(Run, TheSameSeedMakesTheSameModelAndAnotherMakesAnother) {
  const std::string same = new_model(folder, "same", {"--like", "qwen3_5"});
  const std::string other = new_model(folder, "other", {"--like", "qwen3_5", "--seed", "7"});
  EXPECT_TRUE(tree_of(same) == tree_of(model()));
  EXPECT_FALSE(slurp(fs::path(other) / "model.safetensors") ==
               slurp(fs::path(model()) / "model.safetensors"));
}

TEST_F(Run, TokenizeGoesBothWays) {
  const std::vector<Json> texts = {{{"text", "2+3=5 <|im_end|>\n"}}, {{"text", "Grüße, 世界"}}};
  const auto tokenize = [&](const std::vector<Json>& rows) {
    return parse_rows(
        run_well({"tokenize", "--model", model(), "--dataset", write_rows(folder, "t.jsonl", rows)})
            .out);
  };
  const auto ids = tokenize(texts);
  EXPECT_EQ(tokenize(ids), texts);
  const Json rendered = tokenize({sum_rows(1)[0]})[0];
  EXPECT_EQ(tokenize({{{"text", rendered["text"]}}})[0]["ids"], rendered["ids"]);
}

TEST_F(Run, ACompletionDependsOnItsSeedAndNotOnOtherRows) {
  const std::vector<Json> rows = sum_rows(3);
  const auto together = infer(rows, {"--num_return_sequences", "3"});
  EXPECT_EQ(infer(rows, {"--num_return_sequences", "3"}), together);
  EXPECT_NE(infer(rows, {"--num_return_sequences", "3", "--seed", "7"}), together);
  EXPECT_EQ(infer({rows[2]}, {"--num_return_sequences", "3"})[0], together[2]);
  EXPECT_EQ(infer(rows, {"--num_return_sequences", "3", "--max_num_seqs", "2"}), together);
  const Json& responses = together[0]["responses"];
  ASSERT_EQ(responses.size(), 3u);
  EXPECT_NE(responses[0], responses[1]);
}

TEST_F(Run, GreedySamplingTakesTheLikeliestTokenWhateverTheSeed) {
  const auto greedy = infer(sum_rows(2), {"--temperature", "0"});
  EXPECT_EQ(infer(sum_rows(2), {"--temperature", "0", "--seed", "7"}), greedy);
  EXPECT_EQ(
      infer(sum_rows(2), {"--temperature", "3", "--top_k", "1"})[0]["responses"][0]["token_ids"],
      greedy[0]["responses"][0]["token_ids"]);
  // Nothing of the nucleus but its first token is left.
  EXPECT_EQ(infer(sum_rows(2), {"--top_p", "0.000001"})[0]["responses"][0]["token_ids"],
            greedy[0]["responses"][0]["token_ids"]);
  EXPECT_EQ(infer(sum_rows(2), {"--min_p", "1"})[0]["responses"][0]["token_ids"],
            greedy[0]["responses"][0]["token_ids"]);
}

TEST_F(Run, AStopWordEndsACompletionAndIsCutFromItsText) {
  int stopped = 0;
  for (const Json& row :
       infer(sum_rows(3), {"--stop_words", "e", "a", "--num_return_sequences", "4"}))
    for (const Json& response : row["responses"]) {
      const auto text = response["text"].get<std::string>();
      EXPECT_THAT(text, Not(HasSubstr("e")));
      EXPECT_THAT(text, Not(HasSubstr("a")));
      EXPECT_EQ(response["logprobs"].size(), response["token_ids"].size());
      EXPECT_EQ(response["finish_reason"] == "length", response["token_ids"].size() == 12)
          << dump_json(response);
      stopped += response["finish_reason"] == "stop";
    }
  EXPECT_GT(stopped, 0);
}

TEST_F(Run, AChatStreamsWhatABatchGives) {
  const auto question = [](const std::string& text) { return std::vector<Json>{chat_row(text)}; };
  const fs::path input = folder / "input";
  write_file(input, "3 plus 4?\n/new\nand now?\n/quit\nnever asked\n");
  for (const Arguments& more : {Arguments{"--temperature", "0"},
                                Arguments{"--temperature", "0", "--stop_words", "e", "ab"}}) {
    std::string expected;
    for (const char* text : {"3 plus 4?", "and now?"})
      expected += infer(question(text), more)[0]["responses"][0]["text"].get<std::string>() + "\n";
    const Arguments chat = {"infer", "--model",   model(), "--max_new_tokens",
                            "12",    "--threads", "1",     "--quiet"};
    EXPECT_EQ(run_well(chat + more, {.input = input}).out, expected);
  }
}

TEST_F(Run, ResultsGoToAFileAllOrNothing) {
  const std::string path = (folder / "results.jsonl").string();
  const auto rows = infer(sum_rows(2), {});
  EXPECT_THAT(infer(sum_rows(2), {"--result_path", path}), IsEmpty());
  EXPECT_EQ(read_rows(path), rows);
}

TEST_F(Run, ARunDirectoryHoldsWhatItPromises) {
  const fs::path run = folder / "run";
  run_well(grpo(run.string()) + Arguments{"--max_steps", "5", "--save_steps", "1",
                                          "--save_total_limit", "2", "--logging_steps", "2"});
  const auto names = tree_of(run);
  for (const char* name : {"args.json", "logging.jsonl", "completions.jsonl", "last",
                           "checkpoint-4/", "checkpoint-5/"})
    EXPECT_TRUE(names.count(name)) << name;
  for (const char* name : {"checkpoint-1/", "checkpoint-2/", "checkpoint-3/"})
    EXPECT_FALSE(names.count(name)) << name;
  EXPECT_EQ(names.at("last"), "-> checkpoint-5");
  EXPECT_EQ(std::distance(fs::directory_iterator(run / "runs"), {}), 1);
  EXPECT_THAT(temporaries_in(run), IsEmpty());

  const Json args = parse_json_file(run / "args.json");
  EXPECT_EQ(args.at("max_steps"), 5);
  EXPECT_EQ(args.at("loss_type"), "grpo");  // defaults too
  EXPECT_EQ(args.at("model"), model());

  std::vector<std::string> steps;
  const auto log = read_rows(run / "logging.jsonl");
  for (size_t i = 0; i + 1 < log.size(); ++i) steps.push_back(log[i].at("global_step/max_steps"));
  EXPECT_THAT(steps, ::testing::ElementsAre("1/5", "2/5", "4/5", "5/5"));
  EXPECT_EQ(log.back().at("global_step"), 5);
  EXPECT_EQ(log.back().at("last_model_checkpoint"), (run / "checkpoint-5").string());

  const auto completions = read_rows(run / "completions.jsonl");
  ASSERT_EQ(completions.size(), 5u);
  for (const char* key : {"step", "prompt", "completion", "Format", "advantages", "solution"})
    EXPECT_EQ(completions[0].at(key).size(), 2u) << key;
  EXPECT_EQ(completions[4]["step"][0], "5");
  EXPECT_THAT(completions[0]["prompt"][0].get<std::string>(), HasSubstr("<|im_start|>assistant"));

  const Json state = parse_json_file(run / "checkpoint-5" / "trainer_state.json");
  EXPECT_EQ(state.at("global_step"), 5);
}

TEST_F(Run, SftEvaluatesHeldOutRows) {
  const std::string rows = write_rows(folder, "rows.jsonl", sum_rows(8));
  const auto sft = [&](const std::string& name, const Arguments& more) {
    run_well(Arguments{"sft", "--model", model(), "--tuner_type", "full", "--dataset", rows,
                       "--output_dir", (folder / name).string(), "--max_steps", "4", "--eval_steps",
                       "2", "--learning_rate", "1e-3", "--threads", "1", "--quiet"} +
             more);
    std::vector<double> losses;
    for (const Json& line : read_rows(folder / name / "logging.jsonl"))
      if (line.contains("eval_loss")) losses.push_back(line["eval_loss"].get<double>());
    return losses;
  };
  const auto losses = sft("val", {"--val_dataset", rows, "--eval_on_start", "true"});
  ASSERT_EQ(losses.size(), 3u);
  EXPECT_LT(losses[2], losses[0]);  // they are the rows that are learnt
  EXPECT_EQ(sft("split", {"--split_dataset_ratio", "0.25"}).size(), 2u);
}

/// The size behind `words` in a program's output, in GiB.
double size_behind(const std::string& text, const std::string& words) {
  const size_t found = text.find(words);
  EXPECT_NE(found, std::string::npos) << words << " in " << text;
  if (found == std::string::npos) return 0;
  size_t length = 0;
  const std::string rest = text.substr(found + words.size());
  const double number = std::stod(rest, &length);
  return rest.compare(length, 4, " MiB") == 0 ? number / 1024 : number;
}

/// What the memory budget decides is which layers keep their activations, not what is learnt. It
/// counts the program itself.
TEST_F(Run, TheMemoryBudgetDecidesHowManyLayersKeepTheirActivations) {
  const std::string rows =
      write_rows(folder, "rows.jsonl", id_rows(std::vector<int64_t>(64, 250), 2048, 1));
  const auto sft = [&](const std::string& name, const Arguments& more) {
    return run_program(Arguments{"sft", "--model", model(), "--tuner_type", "full", "--dataset",
                                 rows, "--output_dir", (folder / name).string(), "--max_steps", "1",
                                 "--per_device_train_batch_size", "64", "--learning_rate", "1e-3",
                                 "--threads", "1"} +
                       more);
  };
  const auto weights = [&](const std::string& name) {
    return read_file(folder / name / "checkpoint-1" / "model.safetensors");
  };
  const ProgramResult kept = sft("kept", {});
  EXPECT_THAT(kept.err, HasSubstr("memory plan: 4 of 4 layers keep"));
  const double whole = size_behind(kept.err, "memory plan: "),
               present = size_behind(kept.err, " at most\nmemory plan: ");
  EXPECT_GT(present, 0.02);  // the program
  ASSERT_GT(whole, present + 0.08);
  const ProgramResult recomputed =
      sft("recomputed", {"--memory_budget", std::to_string(present + 0.03)});
  EXPECT_THAT(recomputed.err, HasSubstr("memory plan: 0 of 4 layers keep"));
  EXPECT_TRUE(weights("kept") == weights("recomputed"));
  const ProgramResult refused = sft("refused", {"--memory_budget", std::to_string(present / 2)});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.err, HasSubstr("--memory_budget"));
  EXPECT_FALSE(fs::exists(folder / "refused"));
}

/// Rows that share a prompt are computed together, which takes more at once than rows that share
/// nothing.
TEST_F(Run, TheMemoryPlanIsNotBelowThePeak) {
  std::vector<Json> rows;
  for (int i = 0; i < 64; ++i) {
    std::vector<int64_t> ids(250);
    for (size_t t = 0; t < ids.size(); ++t)
      ids[t] = static_cast<int64_t>(5 + (t < 120 ? 7 * t : 31 * t + static_cast<size_t>(i)) % 2000);
    std::vector<int> mask(120, 0);
    mask.resize(ids.size(), 1);
    rows.push_back({{"input_ids", ids}, {"completion_mask", mask}});
  }
  const std::string err =
      run_well(Arguments{"sft", "--model", model(), "--tuner_type", "full", "--dataset",
                         write_rows(folder, "shared.jsonl", rows), "--output_dir",
                         (folder / "shared").string(), "--max_steps", "2",
                         "--per_device_train_batch_size", "64", "--threads", "1"})
          .err;
  EXPECT_LE(size_behind(err, "memory: "), size_behind(err, " at the peak, ")) << err;
}

/// The sampler's caches stay over training steps where the budget has room for both, and are made
/// again where it has not; what is learnt is the same.
TEST_F(Run, TheMemoryBudgetDecidesWhetherTheCachesStay) {
  // Long prompts: large caches, and little to sample.
  std::vector<Json> questions;
  for (int i = 0; i < 3; ++i)
    questions.push_back(chat_row(std::string(1500, static_cast<char>('a' + i)), "a"));
  for (Json& question : questions) question["solution"] = "a";
  const std::string rows = write_rows(folder, "caches.jsonl", questions);
  const auto grpo = [&](const std::string& name, const Arguments& more) {
    return run_well(Arguments{"grpo",
                              "--model",
                              model(),
                              "--tuner_type",
                              "full",
                              "--dataset",
                              rows,
                              "--reward_funcs",
                              "soft_overlong",
                              "--soft_cache_length",
                              "2",
                              "--num_generations",
                              "32",
                              "--max_completion_length",
                              "4",
                              "--max_steps",
                              "3",
                              "--learning_rate",
                              "1e-3",
                              "--beta",
                              "0",
                              "--output_dir",
                              (folder / name).string(),
                              "--threads",
                              "1"} +
                    more);
  };
  const auto weights = [&](const std::string& name) {
    return read_file(folder / name / "checkpoint-3" / "model.safetensors");
  };
  const std::string stay = grpo("stay", {}).err;
  const char* const kStays = " more from the first sampling on: the caches of 32 sequences";
  ASSERT_THAT(stay, HasSubstr(kStays));
  const double whole = size_behind(stay, "memory plan: "),
               caches = size_behind(stay.substr(stay.rfind("memory plan: ", stay.find(kStays))),
                                    "memory plan: ");
  ASSERT_GT(caches, 0.01);
  // What the caches take is not there while the step needs it.
  const std::string again =
      grpo("again", {"--memory_budget", std::to_string(whole - 0.55 * caches)}).err;
  EXPECT_THAT(again, HasSubstr(" more while sampling: the caches of 32 sequences"));
  EXPECT_TRUE(weights("stay") == weights("again"));
}

TEST_F(Run, SftTakesRowsOfIds) {
  const std::string rows =
      write_rows(folder, "ids.jsonl",
                 {{{"input_ids", {5, 6, 7, 8}}},
                  {{"input_ids", {9, 10, 11}}, {"completion_mask", {0, 0, 1}}}});
  const fs::path run = folder / "ids";
  run_well({"sft", "--model", model(), "--tuner_type", "full", "--dataset", rows + "#3",
            "--output_dir", run.string(), "--max_steps", "2", "--threads", "1", "--quiet"});
  EXPECT_EQ(read_rows(run / "logging.jsonl").back().at("global_step"), 2);
  // They are checked as other rows are.
  for (const Json& bad : {Json{{"input_ids", {5, 6}}, {"images", {"x.png"}}},
                          Json{{"input_ids", Json::array()}}, Json{{"input_ids", {5, 9999999}}}}) {
    const ProgramResult result = run_program(
        {"sft", "--model", model(), "--tuner_type", "full", "--dataset",
         write_rows(folder, "bad.jsonl", {{{"input_ids", {5, 6}}}, bad}), "--output_dir",
         (folder / "bad").string(), "--max_steps", "1", "--threads", "1", "--quiet"});
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_THAT(result.err, HasSubstr("bad-row]: "));
    EXPECT_THAT(result.err, HasSubstr("bad.jsonl:2"));
  }
}

/// Real text: twenty steps on questions of GSM8K.
TEST_F(Run, GrpoOnGsm8kHasFiniteMetrics) {
  const std::string moe = new_model(folder, "moe", {"--like", "qwen3_5_moe", "--size", "10m"});
  const fs::path source = testing::source_dir();
  const std::string rows = (folder / "gsm8k.jsonl").string();
  const std::string prepare = (source / "examples/gsm8k/prepare.sh").string() + " " +
                              (source / "tests/data/gsm8k/test_200.jsonl").string() + " > " + rows;
  ASSERT_EQ(std::system(prepare.c_str()), 0);
  const fs::path run = folder / "gsm8k";
  run_well({"grpo",
            "--model",
            moe,
            "--tuner_type",
            "full",
            "--dataset",
            rows,
            "--output_dir",
            run.string(),
            "--reward_funcs",
            "accuracy",
            "format",
            "--num_generations",
            "4",
            "--per_device_train_batch_size",
            "8",
            "--max_completion_length",
            "32",
            "--max_steps",
            "20",
            "--logging_steps",
            "1",
            "--log_entropy",
            "true",
            "--learning_rate",
            "1e-4",
            "--save_strategy",
            "no",
            "--quiet"});
  const auto log = read_rows(run / "logging.jsonl");
  ASSERT_EQ(log.size(), 21u);
  for (size_t step = 0; step < 20; ++step) {
    // JSON has no word for what is not finite: such a value would be null.
    for (const auto& [key, value] : log[step].items()) EXPECT_FALSE(value.is_null()) << key;
    EXPECT_GT(log[step].at("entropy/mean").get<double>(), 0) << step;
    EXPECT_EQ(log[step].at("train/sampler_logprob_max_diff"), 0.0) << step;
  }
}

TEST_F(Run, AVersionedRunLeavesTheFirstOneAlone) {
  const fs::path base = folder / "base";
  for (int i = 0; i < 2; ++i)
    run_well(grpo(base.string()) + Arguments{"--max_steps", "1", "--add_version", "true"});
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(base))
    names.push_back(entry.path().filename().string());
  EXPECT_THAT(names, Contains(StartsWith("v0-")));
  EXPECT_THAT(names, Contains(StartsWith("v1-")));
}

TEST_F(Run, AConfigurationFileStartsARunAndLaterFlagsWin) {
  const fs::path run = folder / "run";
  const std::string rows = write_rows(folder, "rows.jsonl", sum_rows(4));
  const std::string config =
      folder
          .write("run.yaml", "model: " + model() + "\ntuner_type: full\ndataset:\n  - " + rows +
                                 "\nper_device_train_batch_size: 2\nmax_steps: 3\noutput_dir: " +
                                 run.string() + "\nlearning_rate: 1.0e-4\n")
          .string();
  run_well({"sft", config, "--max_steps", "1", "--quiet"});
  const Json args = parse_json_file(run / "args.json");
  EXPECT_EQ(args.at("max_steps"), 1);
  EXPECT_EQ(args.at("per_device_train_batch_size"), 2);
  EXPECT_EQ(read_rows(run / "logging.jsonl").back().at("global_step"), 1);
}

}  // namespace
}  // namespace lockstep::testing
