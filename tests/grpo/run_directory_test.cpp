// SPDX-License-Identifier: Apache-2.0
#include "grpo/run_directory.h"

#include <cmath>
#include <csignal>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <sys/resource.h>
#include <vector>

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep::grpo {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;

/// What tells the folder of a run.
constexpr const char* kArgs = "{\"output_dir\": \"run\", \"tuner_type\": \"full\"}";

RunOptions options_for(const fs::path& path) {
  RunOptions options;
  options.output_dir = path.string();
  options.report_to = {"none"};
  return options;
}

TEST(RunDirectory, RefusesAnExistingRunUnlessItIsOverwritten) {
  const TempDir temp;
  RunOptions options = options_for(temp.path() / "run");
  const Json args = parse_json(kArgs, "args");
  { RunDirectory(options, args, claim_run(options, {})).log({{"loss", 1}}, 1); }
  EXPECT_ERROR(RunDirectory(options, Json::object(), claim_run(options, {})), ConfigError,
               "output-exists", "--overwrite");
  options.overwrite = true;
  RunDirectory fresh(options, Json::object(), claim_run(options, {}));
  EXPECT_EQ(read_file(temp.path() / "run" / "logging.jsonl"), "");
}

/// A difference from what is no number is infinite. JSON cannot say that, and null says nothing.
TEST(RunDirectory, WhatIsInfiniteOrNoNumberIsLoggedByName) {
  const TempDir temp;
  const RunOptions options = options_for(temp.path() / "run");
  constexpr double kInfinite = std::numeric_limits<double>::infinity();
  RunDirectory(options, Json::object(), claim_run(options, {}))
      .log({{"a", kInfinite}, {"b", -kInfinite}, {"c", std::nan("")}, {"d", 0.5}, {"e", Json()}},
           1);
  EXPECT_EQ(read_file(temp.path() / "run" / "logging.jsonl"),
            "{\"a\": \"inf\", \"b\": \"-inf\", \"c\": \"nan\", \"d\": 0.5, \"e\": null}\n");
}

/// A full disk, as a limit on the size of files. The lock's file is smaller, the options are not.
TEST(RunDirectory, AStartThatFailsLeavesNothing) {
  const TempDir temp;
  const RunOptions options = options_for(temp.path() / "new" / "run");
  const Json args{{"system", std::string(4096, 'x')}};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{1024, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  EXPECT_ERROR(RunDirectory(options, args, claim_run(options, {})), IoError, "unwritable-output",
               "args.json");
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(fs::is_empty(temp.path()));
}

TEST(RunDirectory, OverwritingLeavesForeignFilesAlone) {
  const TempDir temp;
  fs::create_directories(temp.path() / "run");
  write_file(temp.path() / "run" / "notes.txt", "mine");
  write_file(temp.path() / "run" / "logging.jsonl", "old\n");
  write_file(temp.path() / "run" / "args.json", kArgs);
  RunOptions options = options_for(temp.path() / "run");
  options.overwrite = true;
  RunDirectory run(options, Json::object(), claim_run(options, {}));
  EXPECT_EQ(read_file(temp.path() / "run" / "notes.txt"), "mine");
  EXPECT_EQ(read_file(temp.path() / "run" / "logging.jsonl"), "");
}

/// Every second folder of somebody who trains has a runs/ or a checkpoint-500 of another program.
TEST(RunDirectory, OverwritingTakesNothingFromAFolderThatIsNoRun) {
  const TempDir temp;
  RunOptions options = options_for(temp.path() / "home");
  options.overwrite = true;
  const fs::path theirs = temp.path() / "home";
  for (const char* name : {"runs", "checkpoint-500", "last"}) {
    fs::remove_all(theirs);
    fs::create_directories(theirs / name);
    write_file(theirs / name / "theirs", "kept");
    write_file(theirs / "args.json", "{\"theirs\": true}");
    EXPECT_ERROR(claim_run(options, {}), ConfigError, "output-exists", "but no args.json of a run");
    EXPECT_EQ(read_file(theirs / name / "theirs"), "kept");
    EXPECT_FALSE(fs::exists(theirs / ".lockstep.lock"));
  }
  // Beside what a run does not write, it may begin.
  fs::remove_all(theirs);
  fs::create_directories(theirs / "photos");
  write_file(theirs / ".lock", "of another program");
  { const RunDirectory run(options, Json::object(), claim_run(options, {})); }
  EXPECT_TRUE(fs::exists(theirs / "photos"));
  EXPECT_EQ(read_file(theirs / ".lock"), "of another program");
  write_file(temp.path() / "file", "kept");
  options.output_dir = temp.path() / "file";
  EXPECT_ERROR(claim_run(options, {}), ConfigError, "output-exists", "expected a folder");
}

TEST(RunDirectory, ResumingCutsTheLogsBackToTheCheckpoint) {
  const TempDir temp;
  RunOptions options = options_for(temp.path() / "run");
  int64_t kept = 0;
  {
    RunDirectory run(options, Json::object(), claim_run(options, {}));
    run.log({{"loss", 1}}, 1);
    kept = static_cast<int64_t>(fs::file_size(temp.path() / "run" / "logging.jsonl"));
    run.log({{"loss", 2}}, 2);
  }
  // What an interrupted save leaves is swept away; what another program is writing is not.
  fs::create_directories(temp.path() / "run" / ".checkpoint-2.tmp-1-1");
  fs::create_directories(temp.path() / "run" / ".exported.tmp-1-1");
  options.resume_from_checkpoint = "last";
  const ResumePoint point{.directory = temp.path() / "run" / "checkpoint-1",
                          .global_step = 1,
                          .is_same_run = true,
                          .state = {{"logging_bytes", kept}, {"completions_bytes", 0}}};
  RunDirectory run(options, Json::object(),
                   {.path = options.output_dir,
                    .resume = point,
                    .lock = std::make_shared<DirectoryLock>(options.output_dir, "--output_dir")});
  EXPECT_EQ(read_file(temp.path() / "run" / "logging.jsonl"), "{\"loss\": 1}\n");
  EXPECT_FALSE(fs::exists(temp.path() / "run" / ".checkpoint-2.tmp-1-1"));
  EXPECT_TRUE(fs::exists(temp.path() / "run" / ".exported.tmp-1-1"));
}

/// A resumed run cuts its logs in place: not those of a copy by hard links, nor what a link shows.
TEST(RunDirectory, LogsThatHaveOtherNamesAreNotCutThere) {
  const TempDir temp;
  RunOptions options = options_for(temp.path() / "run");
  {
    RunDirectory run(options, Json::object(), claim_run(options, {}));
    run.log({{"loss", 1}}, 1);
  }
  const fs::path run = temp.path() / "run", copy = temp.path() / "copy.jsonl",
                 rows = temp.path() / "rows.jsonl";
  fs::create_hard_link(run / "logging.jsonl", copy);
  write_file(rows, "{\"a\": 1}\n");
  fs::remove(run / "completions.jsonl");
  fs::create_symlink(rows, run / "completions.jsonl");
  options.resume_from_checkpoint = "last";
  const ResumePoint point{.directory = run / "checkpoint-1",
                          .global_step = 1,
                          .is_same_run = true,
                          .state = {{"logging_bytes", 0}, {"completions_bytes", 0}}};
  RunDirectory resumed(
      options, Json::object(),
      {.path = run, .resume = point, .lock = std::make_shared<DirectoryLock>(run, "--output_dir")});
  resumed.log({{"loss", 2}}, 2);
  EXPECT_EQ(read_file(run / "logging.jsonl"), "{\"loss\": 2}\n");
  EXPECT_EQ(read_file(copy), "{\"loss\": 1}\n");
  EXPECT_EQ(read_file(rows), "{\"a\": 1}\n");
}

/// `export --output_dir run/checkpoint-9` beside a run that begins.
TEST(RunDirectory, WhatAnotherProcessWritesThereIsLeftAlone) {
  const TempDir temp;
  const fs::path run = temp.path() / "run";
  fs::create_directories(run / ".checkpoint-1.tmp-1-7");
  AtomicDirectory exported(run / "checkpoint-9");
  const RunOptions options = options_for(run);
  const RunDirectory fresh(options, Json::object(), claim_run(options, {}));
  EXPECT_TRUE(fs::exists(exported.staging()));
  EXPECT_FALSE(fs::exists(run / ".checkpoint-1.tmp-1-7"));
  exported.commit();
}

TEST(ClaimRun, ARunThatIsBeingWrittenIsNobodyElses) {
  const TempDir temp;
  RunOptions options = options_for(temp.path() / "run");
  const RunDirectory first(options, Json::object(), claim_run(options, {}));
  const auto names = [&] {
    std::set<std::string> found;
    for (const auto& entry : fs::directory_iterator(temp.path() / "run"))
      found.insert(entry.path().filename().string());
    return found;
  };
  const auto before = names();
  const auto refused = [&] {
    EXPECT_ERROR(claim_run(options, {}), ConfigError, "output-locked", "process ");
  };
  refused();
  options.overwrite = true;
  refused();
  options.overwrite = false;
  options.resume_from_checkpoint = "last";
  refused();
  EXPECT_EQ(names(), before);
}

TEST(ClaimRun, OfTwoThatBeginTogetherOneIsRefused) {
  const TempDir temp;
  const RunOptions options = options_for(temp.path() / "run");
  const RunClaim one = claim_run(options, {}), other = claim_run(options, {});
  {
    const RunDirectory first(options, Json::object(), one);
    EXPECT_ERROR(RunDirectory(options, Json::object(), other), ConfigError, "output-locked", "");
  }
  EXPECT_ERROR(RunDirectory(options, Json::object(), other), ConfigError, "output-exists", "");
}

TEST(ClaimRun, VersionsOfOneMomentAreTwo) {
  const TempDir temp;
  RunOptions options = options_for(temp.path() / "runs");
  options.add_version = true;
  const RunClaim one = claim_run(options, {}), other = claim_run(options, {});
  const RunDirectory first(options, Json::object(), one), second(options, Json::object(), other);
  EXPECT_NE(first.path(), second.path());
}

TEST(ClaimRun, WhatAKilledStartLeavesIsNoRun) {
  const TempDir temp;
  const fs::path run = temp.path() / "run";
  fs::create_directories(run / ".checkpoint-1.tmp-1-7");
  write_file(run / ".lockstep.lock", "process 1 on nowhere\n");
  write_file(run / ".args.json.tmp-1-0", "{");
  const RunOptions options = options_for(run);
  const RunDirectory fresh(options, Json::object(), claim_run(options, {}));
  EXPECT_FALSE(fs::exists(run / ".checkpoint-1.tmp-1-7"));
  EXPECT_FALSE(fs::exists(run / ".args.json.tmp-1-0"));
}

/// `sft … --output_dir run`, then `grpo --model run/last … --output_dir run --overwrite`.
TEST(ClaimRun, ARunThatHoldsAnInputIsNotOverwritten) {
  const TempDir temp;
  const fs::path run = temp.path() / "run";
  fs::create_directories(run / "checkpoint-1");
  fs::create_directory_symlink("checkpoint-1", run / "last");
  write_file(run / "args.json", "{}");
  RunOptions options = options_for(run);
  options.overwrite = true;
  const std::vector<InputPath> inputs{{"--model", run / "last"}};
  EXPECT_ERROR(claim_run(options, inputs), ConfigError, "output-is-input", "holds --model");
  EXPECT_TRUE(fs::exists(run / "args.json"));
  EXPECT_FALSE(fs::exists(run / ".lockstep.lock"));
  // A version of its own beside it is no danger.
  options.add_version = true;
  EXPECT_EQ(claim_run(options, inputs).path.parent_path(), run);
}

TEST(FindResumePoint, LastWithoutACheckpointStartsAnew) {
  const TempDir temp;
  RunOptions options = options_for(temp.path() / "run");
  EXPECT_FALSE(find_resume_point(options));
  options.resume_from_checkpoint = "last";
  EXPECT_FALSE(find_resume_point(options));
}

/// Somebody took the trainer's state out of a checkpoint to give the weights away.
TEST(ClaimRun, AStartAnewRemovesNoWeights) {
  const TempDir temp;
  const fs::path run = temp.path() / "run";
  fs::create_directories(run / "checkpoint-5");
  write_file(run / "checkpoint-5" / "config.json", "{}");
  write_file(run / "args.json", kArgs);
  RunOptions options = options_for(run);
  options.resume_from_checkpoint = "last";
  EXPECT_ERROR(claim_run(options, {}), ConfigError, "bad-resume", "got checkpoint-5 without");
  options.overwrite = true;
  EXPECT_NO_THROW(claim_run(options, {}));
  options.overwrite = false;
  fs::remove_all(run / "checkpoint-5");
  EXPECT_NO_THROW(claim_run(options, {}));
}

TEST(FindResumePoint, AStateOfOtherTypesIsOneError) {
  const TempDir temp;
  const fs::path checkpoint = temp.path() / "checkpoint-3";
  fs::create_directories(checkpoint);
  write_file(checkpoint / "config.json", "{}");
  RunOptions options = options_for(temp.path() / "run");
  options.resume_from_checkpoint = checkpoint.string();
  const auto find = [&](const std::string& lockstep) {
    write_file(checkpoint / "trainer_state.json",
               "{\"global_step\": 3, \"log_history\": []" + lockstep + "}");
    return find_resume_point(options);
  };
  // transformers' Trainer writes none.
  EXPECT_TRUE(find("").value().state.is_null());
  EXPECT_TRUE(find(R"(, "lockstep": {"command": "sft"})").value().state.is_object());
  for (const auto& [text, words] : std::map<std::string, std::string>{
           {"5", "expected an object in lockstep, got number"},
           {R"({"command": 5})", "expected a string in lockstep.command, got number"},
           {R"({"plan": []})", "expected an object in lockstep.plan, got array"},
           {R"({"metrics": "x"})", "expected an object in lockstep.metrics, got string"},
           {R"({"metrics": {"loss": 5}})",
            "expected [kind, value, weight] in lockstep.metrics.loss"},
           {R"({"metrics": {"loss": [0, 1]}})", "in lockstep.metrics.loss, got array"},
           {R"({"metrics": {"loss": [9, 1, 1]}})", "in lockstep.metrics.loss, got array"},
           {R"({"metrics": {"loss": [0, null, 1]}})", "in lockstep.metrics.loss, got array"},
           {R"({"best": 5})", "expected an object in lockstep.best, got number"},
           {R"({"best": {"metric": 5}})", "expected a string in lockstep.best.metric, got number"},
           {R"({"best": {"greater_is_better": "x"}})", "in lockstep.best.greater_is_better"},
           {R"({"has_optimizer": 1})", "expected true or false in lockstep.has_optimizer"},
           {R"({"logging_bytes": -1})", "expected a whole number in lockstep.logging_bytes"}})
    EXPECT_ERROR(find(", \"lockstep\": " + text), FormatError, "bad-resume", words);
}

TEST(FindResumePoint, AFolderThatIsNoCheckpointIsAnError) {
  const TempDir temp;
  RunOptions options = options_for(temp.path() / "run");
  options.resume_from_checkpoint = temp.path().string();
  EXPECT_ERROR(find_resume_point(options), ConfigError, "bad-resume", "trainer_state.json");
}

}  // namespace
}  // namespace lockstep::grpo
