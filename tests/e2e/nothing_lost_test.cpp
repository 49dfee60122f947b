// No output destroys an input, no run another's, and a signal loses no step.
// SPDX-License-Identifier: Apache-2.0
#include <csignal>
#include <cstdlib>
#include <string>
#include <sys/wait.h>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/bad_input.h"

namespace lockstep::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// The folder has a run whose checkpoint is a model, and rows.
class NothingLost : public BadInput {
 protected:
  NothingLost() {
    fs::create_directories(run / "checkpoint-2");
    fs::copy(model(), run / "checkpoint-2", fs::copy_options::recursive);
    fs::create_directory_symlink("checkpoint-2", run / "last");
    write_text(run / "last" / "trainer_state.json", "{\"global_step\": 2}");
    write_text(run / "args.json", "{\"output_dir\": \"run\", \"tuner_type\": \"full\"}");
    for (const char* name : {"ids.jsonl", "chats.jsonl", "batch.jsonl"})
      fs::copy(inputs / name, outputs / name);
    fs::create_hard_link(outputs / "ids.jsonl", outputs / "twin.jsonl");
    fs::create_symlink("ids.jsonl", outputs / "link.jsonl");
  }
  /// Refused with everything as it was, although an output that is there may be replaced.
  void expect_apart(const Arguments& command, const std::string& words) const {
    expect_refused(command + Arguments{"--overwrite", "true"}, outputs, {"output-is-input", words});
  }
  std::string in(const std::string& name) const { return (outputs / name).string(); }

  fs::path run = outputs / "run";
};

TEST_F(NothingLost, ATrainingThatWouldDeleteWhatItReadsIsRefused) {
  const std::string last = (run / "last").string();
  for (const std::string& output : {run.string(), in("run/"), in("run/../run"), outputs.string()}) {
    const Arguments more{"--output_dir", output};
    expect_apart(sft(last, chats) + more, "holds --model");
    expect_apart(grpo(last, chats) + more, "holds --model");
    expect_apart(grpo(model(), chats) + Arguments{"--ref_model", last} + more, "holds --ref_model");
  }
  expect_apart(sft(last, chats) + Arguments{"--output_dir", last}, "is --model");
  expect_apart(sft(last, chats) + Arguments{"--output_dir", in("run/checkpoint-2/next")},
               "lies in --model");
  expect_apart(sft(model(), in("chats.jsonl") + "#3") + Arguments{"--output_dir", outputs.string()},
               "holds --dataset");
  expect_apart(sft(model(), chats) +
                   Arguments{"--val_dataset", in("chats.jsonl"), "--output_dir", outputs.string()},
               "holds --val_dataset");
  expect_apart(sft(model(), chats) +
                   Arguments{"--system", in("ids.jsonl"), "--output_dir", outputs.string()},
               "holds --system");
  expect_apart(sft(model(), chats) + Arguments{"--resume_from_checkpoint", last, "--output_dir",
                                               in("run/checkpoint-2/next")},
               "lies in --resume_from_checkpoint");
}

TEST_F(NothingLost, ACommandThatWouldReplaceWhatItReadsIsRefused) {
  const std::string last = (run / "last").string(), copy = in("run/checkpoint-2");
  expect_apart({"export", "--model", last, "--output_dir", copy}, "is --model");
  expect_apart({"export", "--model", copy, "--output_dir", run.string()}, "holds --model");
  expect_apart({"new-model", "--tokenizer", copy, "--output_dir", last}, "is --tokenizer");
  expect_apart({"new-model", "--config", copy + "/config.json", "--output_dir", copy},
               "holds --config");
  expect_apart({"layout", "convert", "--from", "checkpoint", "--to", "hf-runtime", "--input", copy,
                "--output_dir", last},
               "is --input");
  expect_apart({"layout", "convert", "--from", "checkpoint", "--to", "hf-runtime", "--input",
                model(), "--model", copy, "--output_dir", run.string()},
               "holds --model");
  for (const char* name : {"ids.jsonl", "twin.jsonl", "link.jsonl", "run/../ids.jsonl"}) {
    const std::string output = in(name);
    expect_apart({"score", "--model", model(), "--dataset", in("ids.jsonl"), "--output", output},
                 "--output: ");
    expect_apart({"infer", "--model", model(), "--dataset", in("ids.jsonl"), "--result_path",
                  output, "--max_new_tokens", "1"},
                 "--result_path: ");
    expect_apart({"tokenize", "--model", model(), "--dataset", in("ids.jsonl"), "--output", output},
                 "is --dataset");
    expect_apart({"grad", "--model", model(), "--batch", in("ids.jsonl"), "--output", output},
                 "is --batch");
    expect_apart(
        {"reward", "--dataset", in("ids.jsonl"), "--reward_funcs", "format", "--output", output},
        "is --dataset");
  }
  expect_apart({"score", "--model", copy, "--dataset", ids, "--output", copy + "/config.json"},
               "lies in --model");
  const std::string config = outputs / "score.yaml";
  write_text(config, "model: " + model() + "\ndataset: " + ids + "\noverwrite: true\n");
  expect_refused({"score", config, "--output", config}, outputs,
                 {"output-is-input", "is the configuration"});
}

/// A folder that is more than a checkpoint, or none, is not replaced by one.
TEST_F(NothingLost, OverwriteReplacesCheckpointsAndRunsAlone) {
  const auto expect_kept = [&](const std::string& name, const std::string& words) {
    for (const Arguments& command :
         {exported(model()), Arguments{"new-model", "--output_dir", out()},
          Arguments{"layout", "convert", "--from", "checkpoint", "--to", "hf-runtime", "--input",
                    model(), "--output_dir", out()}}) {
      Arguments there = command + Arguments{"--overwrite", "true"};
      std::replace(there.begin(), there.end(), out(), in(name));
      expect_refused(there, outputs, {"output-exists", words});
    }
  };
  write_text(outputs / "notes", "mine");
  expect_kept("notes", "is no folder");
  fs::create_directories(outputs / "project" / ".git");
  expect_kept("project", "has no config.json");
  write_text(outputs / "project" / "config.json", "{}");
  expect_kept("project", "holds the folder .git");
  fs::remove(outputs / "project" / ".git");
  expect_kept("project", "has no weights");
  fs::create_directories(outputs / "home" / "runs");
  for (const Arguments& command : {sft(model(), chats), grpo(model(), chats)})
    expect_refused(
        command + Arguments{"--overwrite", "true", "--output_dir", (outputs / "home").string()},
        outputs, {"output-exists", "holds runs but no args.json of a run"});
  for (int time = 0; time < 2; ++time)
    run_well(exported(model()) + Arguments{"--overwrite", "true"});
  for (int time = 0; time < 2; ++time)
    run_well(sft(model(), chats) +
             Arguments{"--overwrite", "true", "--output_dir", (outputs / "again").string()});
}

/// What is saved later was read at the start.
TEST_F(NothingLost, ARunNeedsItsModelsFolderOnlyToBegin) {
  const fs::path copy = damaged();
  write_text(copy / "README.md", "about it");
  for (const char* command : {"grpo", "sft"}) {
    fs::remove_all(outputs / "out");
    fs::remove_all(inputs / "gone");
    fs::copy(copy, inputs / "gone");
    const std::string gone = (inputs / "gone").string();
    RunningProgram program((command == std::string("grpo") ? grpo(gone, chats) : sft(gone, chats)) +
                           Arguments{"--max_steps", "40", "--save_steps", "40", "--threads", "1",
                                     "--logging_steps", "1", "--quiet"});
    ASSERT_TRUE(wait_until(program, [&] { return fs::exists(outputs / "out" / "logging.jsonl"); }))
        << program.wait().err;
    fs::remove_all(inputs / "gone");
    ASSERT_FALSE(fs::exists(outputs / "out" / "last")) << "the model was deleted too late";
    const ProgramResult result = program.wait();
    EXPECT_EQ(result.exit_code, 0) << result.err;
    const fs::path saved = outputs / "out" / "checkpoint-40";
    for (const auto& entry : fs::directory_iterator(copy)) {
      const auto name = entry.path().filename();
      if (name == "model.safetensors" || name == "config.json") continue;
      EXPECT_EQ(slurp(saved / name), slurp(entry.path())) << name;
    }
    run_well({"score", "--model", saved.string(), "--dataset", ids});
  }
}

TEST_F(NothingLost, ASecondRunInTheSameFolderIsToldWhoWritesThere) {
  const Arguments endless =
      sft(model(), chats) +
      Arguments{"--max_steps", "100000", "--save_steps", "5", "--save_total_limit", "1",
                "--threads",   "1",      "--quiet"};
  RunningProgram first(endless);
  ASSERT_TRUE(wait_until(first, [&] { return fs::exists(outputs / "out" / "last"); }))
      << first.wait().err;
  for (const Arguments& more : {Arguments{}, Arguments{"--overwrite", "true"},
                                Arguments{"--resume_from_checkpoint", "last"},
                                Arguments{"--resume_from_checkpoint", out("out/last")}}) {
    const ProgramResult second = run_program(endless + more);
    EXPECT_EQ(second.exit_code, kBadInput) << second.err;
    EXPECT_THAT(second.err, HasSubstr("error[output-locked]: --output_dir: "));
    EXPECT_THAT(second.err, HasSubstr("process " + std::to_string(first.process()) + " on "));
  }
  EXPECT_TRUE(first.is_running());
  // A version of its own is another folder.
  first.send(SIGKILL);
  first.wait();
  // The lock file of a process that is gone holds nobody up.
  EXPECT_TRUE(fs::exists(outputs / "out" / ".lockstep.lock"));
  const int64_t step =
      parse_json_file(outputs / "out" / "last" / "trainer_state.json").at("global_step");
  run_well(endless +
           Arguments{"--resume_from_checkpoint", "last", "--max_steps", std::to_string(step + 2)});
  EXPECT_FALSE(fs::exists(outputs / "out" / ".lockstep.lock"));
  EXPECT_THAT(temporaries_in(outputs / "out"), IsEmpty());
}

/// Ends a training in a step and gives what it said.
ProgramResult interrupt(const Arguments& command, const fs::path& run, int signal) {
  RunningProgram program(command);
  EXPECT_TRUE(wait_until(program, [&] { return !slurp(run / "logging.jsonl").empty(); }))
      << program.wait().err;
  program.send(signal);
  return program.wait();
}

TEST_F(NothingLost, ASignalSavesTheStepThatItFinds) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    for (const char* command : {"grpo", "sft"}) {
      fs::remove_all(outputs / "out");
      const Arguments endless =
          (command == std::string("grpo") ? grpo(model(), chats) : sft(model(), chats)) +
          Arguments{"--max_steps",     "100000", "--save_steps", "100000",
                    "--logging_steps", "1",      "--threads",    "1"};
      const ProgramResult result = interrupt(endless, outputs / "out", signal);
      EXPECT_EQ(result.exit_code, 128 + signal) << result.err;
      EXPECT_THAT(result.err, HasSubstr("lockstep: the run ends when this step is done and saved"));
      const int64_t steps = std::ssize(read_rows(outputs / "out" / "logging.jsonl"));
      const std::string name = "checkpoint-" + std::to_string(steps);
      EXPECT_EQ(fs::read_symlink(outputs / "out" / "last"), name);
      EXPECT_THAT(result.err, HasSubstr(name + " is saved"));
    }
  }
}

/// What a shell makes of a command; `{}` in it is the program with its arguments.
int run_in_shell(const std::string& line, const Arguments& arguments) {
  std::string words = shell_word(program_path());
  for (const std::string& argument : arguments) words += " " + shell_word(argument);
  const int status = std::system(fmt::format(fmt::runtime(line), words).c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/// `… 2>&1 | head`, or a tee that was killed: the log is lost, the training is not.
TEST_F(NothingLost, ARunWhoseLogNobodyReadsGoesOn) {
  const Arguments command = sft(model(), chats) + Arguments{"--threads", "1"};
  EXPECT_EQ(run_in_shell("(sleep 0.2; exec {}) 2>&1 | true", command), 0);
  EXPECT_EQ(fs::read_symlink(outputs / "out" / "last"), "checkpoint-2");
  // Results that nobody reads are not worth a word.
  const std::string status = in("status"), err = in("err");
  run_in_shell(
      "(sleep 0.2; {} 2>" + shell_word(err) + "; echo $? >" + shell_word(status) + ") | true",
      {"tokenize", "--quiet", "--model", model(), "--dataset",
       write_rows(inputs, "text.jsonl", {{{"text", "a"}}})});
  EXPECT_EQ(slurp(status), "141\n");
  EXPECT_EQ(slurp(err), "");
}

TEST_F(NothingLost, ASignalSavesNothingWhereThatIsSwitchedOff) {
  for (const Arguments& off :
       {Arguments{"--save_on_interrupt", "false"}, Arguments{"--save_strategy", "no"}}) {
    fs::remove_all(outputs / "out");
    const Arguments endless = grpo(model(), chats) + off +
                              Arguments{"--max_steps",     "100000", "--save_steps", "100000",
                                        "--logging_steps", "1",      "--threads",    "1"};
    const ProgramResult result = interrupt(endless, outputs / "out", SIGTERM);
    EXPECT_EQ(result.exit_code, kTerminated) << result.err;
    EXPECT_FALSE(fs::exists(fs::symlink_status(outputs / "out" / "last")));
  }
}

/// A long evaluation is not waited for: the resumed run does it.
TEST_F(NothingLost, AnEvaluationThatASignalCutsShortIsTheResumedRuns) {
  const std::string many = write_rows(inputs, "many.jsonl", sum_rows(64));
  const auto command = [&](const std::string& name) {
    return grpo(model(), chats) + Arguments{"--output_dir",
                                            out(name),
                                            "--val_dataset",
                                            many,
                                            "--eval_steps",
                                            "2",
                                            "--save_steps",
                                            "10",
                                            "--logging_steps",
                                            "1",
                                            "--max_steps",
                                            "4",
                                            "--num_generations_eval",
                                            "8",
                                            "--max_completion_length",
                                            "24",
                                            "--threads",
                                            "1",
                                            "--quiet"};
  };
  run_well(command("whole"));
  RunningProgram program(command("cut"));
  // The first step's line is there; the second step's comes after its evaluation.
  ASSERT_TRUE(wait_until(program, [&] {
    return count_lines(outputs / "cut" / "completions.jsonl") >= 2;
  })) << program.wait().err;
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  program.send(SIGTERM);
  EXPECT_EQ(program.wait().exit_code, kTerminated);
  EXPECT_EQ(fs::read_symlink(outputs / "cut" / "last"), "checkpoint-2");
  EXPECT_FALSE(parse_json_file(outputs / "cut" / "last" / "trainer_state.json")
                   .at("lockstep")
                   .at("is_step_finished"));
  run_well(command("cut") + Arguments{"--resume_from_checkpoint", "last"});
  EXPECT_TRUE(slurp(outputs / "cut" / "completions.jsonl") ==
              slurp(outputs / "whole" / "completions.jsonl"));
  EXPECT_EQ(timeless_rows(outputs / "cut"), timeless_rows(outputs / "whole"));
  EXPECT_TRUE(slurp(outputs / "cut" / "last" / "model.safetensors") ==
              slurp(outputs / "whole" / "last" / "model.safetensors"));
}

TEST_F(NothingLost, ASignalBeforeTheFirstStepLeavesWhatAKilledStartLeaves) {
  // A fast processor reads a hundred thousand of them in less than a second.
  const std::string large = write_rows(inputs, "large.jsonl", sum_rows(300'000));
  RunningProgram program(grpo(model(), large) + Arguments{"--threads", "1", "--quiet"});
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  program.send(SIGTERM);
  const ProgramResult result = program.wait();
  EXPECT_EQ(result.exit_code, kTerminated) << result.err;
  EXPECT_FALSE(fs::exists(outputs / "out"));
}

}  // namespace
}  // namespace lockstep::testing
