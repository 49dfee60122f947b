// Several adapters trained in one run (--train_adapter): each ends in the bytes of its training
// alone, whatever happens to the run, and the model is in memory once.
// SPDX-License-Identifier: Apache-2.0
#include <csignal>
#include <fstream>
#include <regex>
#include <set>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"
#include "tests/e2e/training.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

class AdapterSet : public ::testing::TestWithParam<Training> {
 protected:
  static void SetUpTestSuite() {
    shared_ = new TempDir;
    new_model(*shared_, "model", {"--like", "qwen3_5_moe"});
    const std::vector<Json> rows = sum_rows(18);
    write_rows(*shared_, "few.jsonl", {rows.begin(), rows.begin() + 5});
    write_rows(*shared_, "more.jsonl", {rows.begin() + 5, rows.begin() + 8});
    write_rows(*shared_, "others.jsonl", {rows.begin() + 8, rows.begin() + 14});
    write_rows(*shared_, "held_out.jsonl", {rows.begin() + 14, rows.end()});
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }
  static std::string rows(const char* name) { return (*shared_ / name).string(); }

  Arguments command(const fs::path& output) const {
    const Training& training = GetParam();
    const Arguments all{training.command,
                        "--model",
                        (*shared_ / "model").string(),
                        "--output_dir",
                        output.string(),
                        "--val_dataset",
                        rows("held_out.jsonl"),
                        "--learning_rate",
                        "1e-2",
                        "--num_train_epochs",
                        "2",
                        "--logging_steps",
                        "1",
                        "--save_steps",
                        "2",
                        "--threads",
                        "1",
                        "--quiet"};
    return all + training.flags;
  }
  Arguments together(const fs::path& output) const {
    return command(output) + Arguments{"--train_adapter",
                                       "long=" + rows("few.jsonl"),
                                       rows("more.jsonl"),
                                       "short=" + rows("others.jsonl"),
                                       "reseeded=" + rows("others.jsonl"),
                                       "--train_adapter_seed",
                                       "reseeded=7"};
  }

  /// Trains each adapter in a run of its own.
  void train_alone(const fs::path& output) const {
    run_well(command(output / "long") +
             Arguments{"--dataset", rows("few.jsonl"), rows("more.jsonl")});
    run_well(command(output / "short") + Arguments{"--dataset", rows("others.jsonl")});
    run_well(command(output / "reseeded") +
             Arguments{"--dataset", rows("others.jsonl"), "--seed", "7"});
  }

  static std::set<std::string> names_in(const fs::path& run) {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(run))
      names.insert(entry.path().filename().string());
    return names;
  }

  /// Two runs have the same files, and all bytes but times and paths.
  static void expect_same_run(const fs::path& run, const fs::path& alone) {
    ASSERT_EQ(names_in(run), names_in(alone));
    for (const std::string& name : names_in(alone)) {
      if (!name.starts_with("checkpoint-")) continue;
      const auto files = tree_of(run / name), expected = tree_of(alone / name);
      ASSERT_EQ(files.size(), expected.size());
      for (const auto& [file, bytes] : expected)
        if (file != "args.json" && file != "trainer_state.json") {
          EXPECT_TRUE(files.at(file) == bytes) << run << " " << name << "/" << file;
        }
    }
    EXPECT_EQ(fs::read_symlink(run / "last"), fs::read_symlink(alone / "last"));
    EXPECT_EQ(timeless_rows(run), timeless_rows(alone));
    EXPECT_TRUE(slurp(run / "completions.jsonl") == slurp(alone / "completions.jsonl"));
    EXPECT_THAT(temporaries_in(run), IsEmpty());
  }
  static void expect_same_runs(const fs::path& output, const fs::path& alone) {
    EXPECT_EQ(names_in(output), (std::set<std::string>{"long", "reseeded", "short"}));
    for (const char* name : {"long", "reseeded", "short"})
      expect_same_run(output / name, alone / name);
  }

  static inline TempDir* shared_ = nullptr;
  TempDir folder_;
};

TEST_P(AdapterSet, EachEndsInTheBytesOfItsTrainingAlone) {
  const fs::path output = folder_ / "together", alone = folder_ / "alone";
  run_well(together(output));
  train_alone(alone);
  expect_same_runs(output, alone);
  // They are three adapters: other rows, or another seed, make another one.
  std::set<std::string> values;
  for (const char* name : {"long", "short", "reseeded"})
    values.insert(slurp(output / name / "last" / "adapter_model.safetensors"));
  EXPECT_EQ(values.size(), 3u);
  // The options beside an adapter are those of its training alone, which goes on from it.
  const Json args = parse_json_file(output / "reseeded" / "args.json");
  EXPECT_EQ(args["dataset"], Json({rows("others.jsonl")}));
  EXPECT_EQ(args["output_dir"], (output / "reseeded").string());
  EXPECT_EQ(args["seed"], 7);
  run_well(command(output / "reseeded") +
           Arguments{"--dataset", rows("others.jsonl"), "--seed", "7", "--resume_from_checkpoint",
                     (output / "reseeded" / "checkpoint-2").string()});
  expect_same_run(output / "reseeded", alone / "reseeded");
}

TEST_P(AdapterSet, ARunThatIsStoppedAndKilledEndsInTheSameBytes) {
  const fs::path unbroken = folder_ / "unbroken", broken = folder_ / "broken";
  // Long enough for a signal to find it before its end.
  const Arguments epochs{"--num_train_epochs",
                         GetParam().command == std::string("sft") ? "9" : "2"};
  run_well(together(unbroken) + epochs);
  const Arguments resumed =
      together(broken) + epochs + Arguments{"--resume_from_checkpoint", "last"};
  {
    RunningProgram program(together(broken) + epochs);
    ASSERT_TRUE(wait_until(program, [&] {
      const fs::path log = broken / "short" / "logging.jsonl";
      return fs::exists(log) && slurp(log).find("grad_norm") != std::string::npos;
    }));
    program.send(SIGTERM);
    const ProgramResult result = program.wait();
    ASSERT_EQ(result.exit_code, 128 + SIGTERM) << result.err;
    // Each that has made a step has saved it, and the error names both.
    EXPECT_THAT(result.err, AllOf(HasSubstr("long: step "), HasSubstr("short: step "),
                                  HasSubstr((broken / "long" / "checkpoint-").string()),
                                  HasSubstr((broken / "short" / "checkpoint-").string()),
                                  HasSubstr("are saved (hint: --resume_from_checkpoint last")));
    for (const char* name : {"long", "short"})
      EXPECT_TRUE(fs::exists(broken / name / "last" / "adapter_model.safetensors")) << name;
  }
  {
    RunningProgram program(resumed);
    wait_until(program, [&] { return fs::exists(broken / "long" / "checkpoint-4"); });
    program.send(SIGKILL);
    program.wait();
  }
  run_well(resumed);
  // What the signal saved is there besides.
  for (const char* name : {"long", "short", "reseeded"})
    for (const std::string& entry : names_in(broken / name))
      if (entry.starts_with("checkpoint-") && !fs::exists(unbroken / name / entry))
        fs::remove_all(broken / name / entry);
  expect_same_runs(broken, unbroken);
}

TEST_P(AdapterSet, ARunElsewhereGoesOnFromTheFolderOfAnother) {
  const fs::path whole = folder_ / "whole", half = folder_ / "half", rest = folder_ / "rest";
  run_well(together(whole));
  fs::copy(whole, half, fs::copy_options::recursive | fs::copy_options::copy_symlinks);
  for (const char* name : {"long", "short", "reseeded"})
    for (const std::string& entry : names_in(half / name))
      if (entry == "last" || (entry.starts_with("checkpoint-") && entry != "checkpoint-2"))
        fs::remove_all(half / name / entry);
  run_well(together(rest) + Arguments{"--resume_from_checkpoint", half.string()});
  for (const char* name : {"long", "short", "reseeded"})
    for (const char* file : {"adapter_model.safetensors", "training_state/optimizer.safetensors"})
      EXPECT_TRUE(slurp(rest / name / "last" / file) == slurp(whole / name / "last" / file))
          << name << " " << file;
  const ProgramResult refused = run_program(
      together(folder_ / "none") + Arguments{"--resume_from_checkpoint", (half / "long").string()});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.err, HasSubstr("which has no checkpoint in"));
}

INSTANTIATE_TEST_SUITE_P(
    Trainings,
    AdapterSet,
    ::testing::Values(Training{"Sft",
                               "sft",
                               {"--per_device_train_batch_size", "2", "--lora_dropout", "0.1",
                                "--eval_on_start", "true"}},
                      // A generation batch is used in two steps, so that a buffer waits while
                      // others have their turns; the reference model is the one that all share; and
                      // each has an embedding of its own.
                      Training{
                          "Grpo", "grpo",
                          short_completions() + Arguments{"--num_generations_eval", "2",
                                                          "--steps_per_generation", "2", "--beta",
                                                          "0.1", "--lora_experts", "true",
                                                          "--modules_to_save", "embed_tokens"}}),
    [](const auto& test) { return test.param.name; });

/// What is said and refused.
class AdapterSetFlags : public ::testing::Test {
 protected:
  AdapterSetFlags()
      : model_(new_model(folder_, "model", {"--like", "qwen3"})),
        rows_(write_rows(folder_, "rows.jsonl", sum_rows(4))) {}

  Arguments sft(const Arguments& more) const {
    return Arguments{"sft", "--model",   model_, "--output_dir", folder_ / "out", "--max_steps",
                     "1",   "--threads", "1"} +
           more;
  }
  void expect_refused(const Arguments& arguments, const std::string& words) const {
    const ProgramResult result = run_program(arguments);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_THAT(result.err, HasSubstr(words));
    EXPECT_FALSE(fs::exists(folder_ / "out"));
  }

  TempDir folder_;
  std::string model_, rows_;
};

TEST_F(AdapterSetFlags, WhatCannotBeMeantIsRefusedBeforeAnythingIsWritten) {
  const std::string a = "a=" + rows_, b = "b=" + rows_;
  const struct {
    Arguments flags;
    std::string words;
  } cases[] = {
      {{}, "lockstep sft needs --dataset or --train_adapter"},
      {{"--train_adapter", a, "--dataset", rows_}, "expected no --dataset beside it"},
      {{"--train_adapter", a, "--tuner_type", "full"}, "expected --tuner_type lora, got full"},
      {{"--train_adapter", rows_}, "expected NAME=DATASET, got no name"},
      {{"--train_adapter", "a="}, "expected NAME=DATASET, got no dataset"},
      {{"--train_adapter", a, b, a}, "expected each name once, got a twice"},
      {{"--train_adapter", "..=" + rows_}, "got \"..\""},
      {{"--train_adapter", ".a=" + rows_}, "got \".a\""},
      {{"--train_adapter", "a b=" + rows_}, "got \"a b\""},
      {{"--train_adapter", "=" + rows_}, "got \"\""},
      {{"--train_adapter", "last=" + rows_}, "a run directory does not use itself, got last"},
      {{"--train_adapter", "checkpoint-3=" + rows_}, "got checkpoint-3"},
      {{"--train_adapter", a, "--train_adapter_seed", "c=1"}, "NAME=SEED of an adapter"},
      {{"--train_adapter", a, "--train_adapter_seed", "a=-1"}, "a whole number >= 0 as a seed"},
      {{"--train_adapter", a, "--train_adapter_seed", "a=1", "a=2"}, "expected one seed of a"},
      {{"--dataset", rows_, "--train_adapter_seed", "a=1"}, "NAME=SEED of an adapter"},
      {{"--train_adapter", a, "b=" + (folder_ / "none.jsonl").string()}, "none.jsonl"},
      {{"--train_adapter", a, "--resume_from_checkpoint", model_}, "which has no checkpoint in"},
  };
  for (const auto& one : cases) expect_refused(sft(one.flags), one.words);
  expect_refused({"grpo", "--model", model_, "--output_dir", folder_ / "out", "--train_adapter", a,
                  "--reward_funcs", "format", "--rollout_mode", "server", "--rollout_server",
                  "http://127.0.0.1:9"},
                 "expected --rollout_mode colocate, got server");
}

TEST_F(AdapterSetFlags, NoFolderOfAnAdapterDestroysTheRowsOfAnother) {
  const fs::path inside = folder_ / "out" / "b" / "rows.jsonl";
  fs::create_directories(inside.parent_path());
  fs::copy(rows_, inside);
  const auto before = tree_of(folder_ / "out");
  const ProgramResult result = run_program(
      sft({"--overwrite", "true", "--train_adapter", "a=" + inside.string(), "b=" + rows_}));
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, AllOf(HasSubstr("output-is-input"), HasSubstr("--train_adapter")));
  EXPECT_EQ(tree_of(folder_ / "out"), before);
}

TEST_F(AdapterSetFlags, LogLinesAndErrorsSayWhichAdapterTheyAreOf) {
  const std::string bad = write_rows(folder_, "bad.jsonl", {Json{{"messages", "none"}}});
  const ProgramResult refused =
      run_program(sft({"--train_adapter", "good=" + rows_, "bad=" + bad}));
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.err, AllOf(HasSubstr("[good] adapter: "), HasSubstr("bad.jsonl:1"),
                                 HasSubstr("the adapter bad cannot go on")));
  EXPECT_FALSE(fs::exists(folder_ / "out"));

  const ProgramResult result = run_well(
      sft({"--train_adapter", "first=" + rows_, "second=" + rows_, "--save_strategy", "no"}));
  for (const char* words : {"[first] step 1/1", "[second] step 1/1", "[second] run directory: ",
                            "2 adapters take turns beside one copy of the weights"})
    EXPECT_THAT(result.err, HasSubstr(words));
  EXPECT_THAT(result.err, Not(HasSubstr("cannot go on")));
}

/// The part of the memory plan that says how much of `what` there is all the time.
std::string planned(const ProgramResult& result, const std::string& what) {
  std::smatch found;
  std::regex_search(result.err, found, std::regex("all the time: .*" + what + " ([0-9.]+ .iB)"));
  return found[1];
}

TEST_F(AdapterSetFlags, TheMemoryPlanCountsTheModelOnceAndEachOptimizer) {
  const Arguments pairs{"--save_strategy", "no", "--target_modules", "q_proj", "--train_adapter"};
  const ProgramResult one = run_well(sft(pairs + Arguments{"a=" + rows_})),
                      two = run_well(sft(pairs + Arguments{"b=" + rows_, "c=" + rows_}));
  const auto more = [&](const std::string& what) {
    return std::stod(planned(two, what)) - std::stod(planned(one, what));
  };
  // The second adapter: half of what its two moments take.
  const double adapter = std::stod(planned(one, "optimizer")) / 2;
  EXPECT_NEAR(more(", weights"), adapter, 0.02 * adapter);
  // Of few rows panels are up to twice as large.
  EXPECT_GT(more("packed weights"), 0.5 * adapter);
  EXPECT_LT(more("packed weights"), 3 * adapter);
  EXPECT_NEAR(std::stod(planned(two, "optimizer")), 2 * std::stod(planned(one, "optimizer")),
              0.01 * std::stod(planned(two, "optimizer")));
}

/// What the plan says is there all the time, in MiB.
double present_mib(const ProgramResult& result) {
  std::smatch found;
  if (!std::regex_search(result.err, found,
                         std::regex("memory plan: ([0-9.]+) (MiB|GiB) all the time")))
    return 0;
  return std::stod(found[1]) * (found[2] == "GiB" ? 1024 : 1);
}
std::string gib(double mib) { return fmt::format("{:.5f}", mib / 1024); }

TEST_F(AdapterSetFlags, TheMemoryBudgetIsThatOfAllAdapters) {
  const Arguments pairs{"--save_strategy", "no", "--lora_rank", "1024", "--train_adapter"};
  const ProgramResult one = run_well(sft(pairs + Arguments{"a=" + rows_}));
  // The second takes that much once for itself, about once more in panels, and twice for its
  // optimizer.
  const double adapter = std::stod(planned(one, "optimizer")) / 2;
  ASSERT_GT(adapter, 16);
  fs::remove_all(folder_ / "out");
  expect_refused(sft({"--memory_budget", gib(present_mib(one) + 2 * adapter)}) + pairs +
                     Arguments{"b=" + rows_, "c=" + rows_},
                 "--memory_budget: expected more than the ");
}

TEST_F(AdapterSetFlags, TheMemoryBudgetChangesNoByte) {
  // Long prompts: large caches, and little to sample.
  const auto prompts = [&](const char* name, char letter) {
    Json row = chat_row(std::string(1200, letter));
    row["solution"] = "a";
    return write_rows(folder_, name, {row});
  };
  const Arguments grpo = Arguments{"grpo",
                                   "--model",
                                   model_,
                                   "--max_steps",
                                   "2",
                                   "--learning_rate",
                                   "1e-2",
                                   "--threads",
                                   "1",
                                   "--train_adapter",
                                   "a=" + prompts("a.jsonl", 'a'),
                                   "b=" + prompts("b.jsonl", 'b')} +
                         short_completions() +
                         Arguments{"--num_generations", "16", "--max_completion_length", "4",
                                   "--soft_max_length", "4",  "--soft_cache_length",     "3"};
  const fs::path large = folder_ / "large", small = folder_ / "small";
  const ProgramResult first = run_well(grpo + Arguments{"--output_dir", large}),
                      second = run_well(grpo + Arguments{"--output_dir", small, "--memory_budget",
                                                         gib(present_mib(first) + 30)});
  // The first keeps the caches between the turns, and what sampling read.
  EXPECT_THAT(first.err, AllOf(HasSubstr("more from the first sampling on: the caches of "),
                               HasSubstr("more for what sampling keeps for training")));
  EXPECT_THAT(second.err, AllOf(HasSubstr("more while sampling: the caches of "),
                                Not(HasSubstr("more for what sampling keeps for training"))));
  for (const char* name : {"a", "b"}) {
    for (const char* file : {"adapter_model.safetensors", "training_state/optimizer.safetensors"})
      EXPECT_TRUE(slurp(small / name / "last" / file) == slurp(large / name / "last" / file))
          << name << " " << file;
    EXPECT_TRUE(slurp(small / name / "completions.jsonl") ==
                slurp(large / name / "completions.jsonl"));
  }
}

/// Each adapter has versions of its own; a run goes on in the newest ones, and another begins from
/// them.
TEST_F(AdapterSetFlags, VersionsAreThoseOfEachAdapter) {
  const fs::path out = folder_ / "out", next = folder_ / "next", whole = folder_ / "whole";
  const Arguments set{"--train_adapter", "a=" + rows_, "b=" + rows_},
      versions = set + Arguments{"--add_version", "true"};
  const auto steps = [](const char* count) {
    return Arguments{"--lr_scheduler_type", "constant", "--max_steps", count};
  };
  const auto version = [&](const char* name, const std::string& number) {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(out / name))
      if (entry.path().filename().string().starts_with("v" + number + "-"))
        found.push_back(entry.path());
    EXPECT_EQ(found.size(), 1u) << name << " " << number;
    return found.empty() ? fs::path() : found[0];
  };
  run_well(sft(versions + steps("1")));
  run_well(sft(versions + steps("1")));
  run_well(sft(versions + steps("2") + Arguments{"--resume_from_checkpoint", "last"}));
  run_well(
      sft(set + steps("3") + Arguments{"--resume_from_checkpoint", out, "--output_dir", next}));
  run_well(sft(set + steps("3") + Arguments{"--output_dir", whole, "--save_steps", "1"}));
  for (const char* name : {"a", "b"}) {
    EXPECT_EQ(std::distance(fs::directory_iterator(out / name), {}), 2);
    EXPECT_EQ(fs::read_symlink(version(name, "0") / "last"), "checkpoint-1");
    const fs::path newest = version(name, "1");
    EXPECT_EQ(fs::read_symlink(newest / "last"), "checkpoint-2");
    EXPECT_EQ(fs::read_symlink(next / name / "last"), "checkpoint-3");
    for (const char* file : {"adapter_model.safetensors", "training_state/optimizer.safetensors"}) {
      EXPECT_TRUE(slurp(newest / "last" / file) == slurp(whole / name / "checkpoint-2" / file))
          << name << " " << file;
      EXPECT_TRUE(slurp(next / name / "last" / file) == slurp(whole / name / "last" / file))
          << name << " " << file;
    }
  }
}

TEST_F(AdapterSetFlags, AnErrorOfOneAdapterCostsTheOthersNoStep) {
  const std::string five = write_rows(folder_, "five.jsonl", sum_rows(5)),
                    seven = write_rows(folder_, "seven.jsonl", sum_rows(7));
  const fs::path out = folder_ / "out";
  // Checkpoints at steps 5, 10, … of the one and 7, 14, … of the other.
  RunningProgram program(sft({"--max_steps", "400", "--save_strategy", "epoch", "--quiet",
                              "--train_adapter", "seven=" + seven, "five=" + five}));
  ASSERT_TRUE(wait_until(program, [&] { return fs::exists(out / "five" / "checkpoint-5"); }));
  // No folder can be made where a file is.
  fs::rename(out / "five", out / "gone");
  std::ofstream(out / "five") << "a file";
  const ProgramResult result = program.wait();
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, AllOf(HasSubstr("the adapter five cannot go on"), HasSubstr("out/five"),
                                Not(HasSubstr("not all saved"))));
  const std::string last = fs::read_symlink(out / "seven" / "last");
  EXPECT_EQ(std::stoi(last.substr(last.find('-') + 1)) % 5, 0) << last;
}

// Another copy of the weights, packed or not, would show.
TEST(AdapterSetMemory, TheModelIsThereOnce) {
  const TempDir folder;
  const std::string model = new_model(folder, "model", {"--like", "qwen3", "--size", "100m"}),
                    rows = write_rows(folder, "rows.jsonl", sum_rows(2));
  const auto weights = static_cast<int64_t>(fs::file_size(fs::path(model) / "model.safetensors"));
  ASSERT_GT(weights, 200'000'000);
  const auto peak = [&](const char* output, int64_t count) {
    Arguments arguments{"sft",
                        "--model",
                        model,
                        "--output_dir",
                        folder / output,
                        "--max_steps",
                        "2",
                        "--save_strategy",
                        "no",
                        "--target_modules",
                        "q_proj",
                        "--lora_rank",
                        "2",
                        "--quiet",
                        "--train_adapter"};
    for (int64_t i = 0; i < count; ++i) arguments.push_back(fmt::format("a{}={}", i, rows));
    return run_well(arguments).peak_bytes;
  };
  EXPECT_LT(peak("four", 4) - peak("one", 1), weights / 4);
}

}  // namespace
}  // namespace lockstep::testing
