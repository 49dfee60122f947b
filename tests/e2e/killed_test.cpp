// Thirty runs that are killed, signalled and started twice at moments drawn from a seed, and taken
// up again until they are through: each ends in the bytes of one that nobody disturbed.
// SPDX-License-Identifier: Apache-2.0
//
// LOCKSTEP_TEST_SEED=N does the Nth alone.
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstring>
#include <functional>
#include <random>
#include <set>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"
#include "tests/support/test_seed.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kRuns = 30, kMaxSteps = 8, kWorkers = 2;

/// A way to train: a generation buffer that is used in several steps with held-out rows, and sft.
struct Training {
  const char* command;
  Arguments flags;
};
const Training kTrainings[] = {
    {"grpo",
     {"--reward_funcs", "soft_overlong", "--soft_max_length", "8", "--soft_cache_length", "7",
      "--max_completion_length", "8", "--num_generations", "4", "--steps_per_generation", "4",
      "--stop_words", "e", "a", "--num_generations_eval", "4"}},
    {"sft", {"--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"}},
};

/// What is done to a run. Each ends it, unless it is through before.
enum class Disturbance {
  kKill,
  kTerminate,
  kInterrupt,
  kHangUp,
  kSignalTwice,
  kStartTwice,
  kKillInSave,
  kKillInPrune,
  kCount
};

/// How often a disturbance found a run that was not through.
using Tally = std::array<std::atomic<int>, static_cast<size_t>(Disturbance::kCount)>;

/// What all runs share.
struct World {
  World() {
    new_model(folder, "model", {"--like", "qwen3_5"});
    write_rows(folder, "rows.jsonl", sum_rows(12));
    write_rows(folder, "held_out.jsonl", sum_rows(12));
    for (const Training& training : kTrainings) {
      // Every step of the undisturbed run is there to compare with.
      const auto begin = Clock::now();
      run_well(command(training, whole(training)) + Arguments{"--save_steps", "1"});
      durations.push_back(Clock::now() - begin);
    }
  }

  fs::path whole(const Training& training) const { return folder / training.command; }

  Arguments command(const Training& training, const fs::path& output) const {
    return Arguments{training.command,
                     "--model",
                     folder / "model",
                     "--tuner_type",
                     "full",
                     "--dataset",
                     folder / "rows.jsonl",
                     "--val_dataset",
                     folder / "held_out.jsonl",
                     "--eval_steps",
                     "2",
                     "--output_dir",
                     output,
                     "--max_steps",
                     std::to_string(kMaxSteps),
                     "--learning_rate",
                     "1e-3",
                     "--logging_steps",
                     "2",
                     "--threads",
                     "1",
                     "--quiet"} +
           training.flags;
  }

  TempDir folder;
  std::vector<Clock::duration> durations;
};

/// True while a checkpoint is being written.
bool is_saving(const fs::path& run) {
  std::error_code gone;  // entries come and go meanwhile
  for (fs::directory_iterator entry(run, gone), end; !gone && entry != end; entry.increment(gone))
    if (entry->path().filename().string().starts_with(".checkpoint-")) return true;
  return false;
}

/// One of the runs, from its start to its end.
class DisturbedRun {
 public:
  DisturbedRun(const World& world, uint64_t number, Tally& tally)
      : world_(world),
        tally_(tally),
        random_(test_seed(number)),
        training_(kTrainings[number % std::size(kTrainings)]),
        duration_(world.durations[number % std::size(kTrainings)]),
        whole_(world.whole(training_)),
        run_(folder_ / "run"),
        command_(world.command(training_, run_) + Arguments{"--resume_from_checkpoint", "last"}) {
    keeps_all_ = draw(2) == 0;
    command_ = command_ + (keeps_all_ ? Arguments{"--save_steps", "2"}
                                      : Arguments{"--save_steps", "1", "--save_total_limit", "1"});
    saves_ = draw(4) > 0;
    if (!saves_) command_ = command_ + Arguments{"--save_on_interrupt", "false"};
  }

  /// What went wrong; empty where nothing did.
  std::vector<std::string> go() {
    try {
      disturb_and_finish();
    } catch (const std::exception& error) {
      problems_.push_back(error.what());
    }
    return problems_;
  }

 private:
  void disturb_and_finish() {
    for (int left = 2 + draw(2); left > 0 && problems_.empty(); --left) {
      disturb(static_cast<Disturbance>(draw(static_cast<int>(Disturbance::kCount))));
      check_checkpoints();
    }
    if (problems_.empty()) finish();
  }

  int draw(int below) { return static_cast<int>(random_() % static_cast<uint64_t>(below)); }

  void require(bool is_so, const std::string& what) {
    if (!is_so) problems_.push_back(what);
  }

  /// `most`: at most this share of an undisturbed run, in percent.
  void sleep_somewhere(int most) { std::this_thread::sleep_for(duration_ * draw(most) / 100); }

  void disturb(Disturbance disturbance) {
    RunningProgram program(command_);
    if (disturbance == Disturbance::kKillInSave)
      wait_until(program, [&] { return is_saving(run_); });
    else if (disturbance == Disturbance::kKillInPrune && !keeps_all_)
      wait_for_prune(program);
    else
      sleep_somewhere(disturbance == Disturbance::kStartTwice ? 30 : 100);
    int sent = SIGKILL;
    switch (disturbance) {
      case Disturbance::kStartTwice:
        if (start_again(program)) return;
        break;
      case Disturbance::kTerminate:
        sent = SIGTERM;
        break;
      case Disturbance::kInterrupt:
        sent = SIGINT;
        break;
      case Disturbance::kHangUp:
        sent = SIGHUP;
        break;
      case Disturbance::kSignalTwice:
        program.send(SIGINT);
        std::this_thread::sleep_for(milliseconds(30 + draw(100)));
        sent = SIGTERM;
        break;
      default:
        break;
    }
    program.send(sent);
    const ProgramResult result = program.wait();
    // A run that is through before the signal comes ends well.
    const bool is_first =
        disturbance == Disturbance::kSignalTwice && result.exit_code == 128 + SIGINT;
    require(result.exit_code == 128 + sent || result.exit_code == 0 || is_first,
            fmt::format("exit code {} after signal {}: {}", result.exit_code, sent, result.err));
    if (result.exit_code != 0 && disturbance != Disturbance::kStartTwice)
      ++tally_[static_cast<size_t>(disturbance)];
    for (const int signal : {SIGINT, SIGTERM, SIGHUP})
      if (result.exit_code == 128 + signal) check_saved(result);
  }

  /// Waits for the first file of an old checkpoint to vanish, without a pause: nobody may find the
  /// rest of it in its place.
  void wait_for_prune(RunningProgram& program) {
    std::vector<fs::path> seen;
    while (program.is_running()) {
      for (const fs::path& file : seen)
        if (!fs::exists(file)) return;
      seen.clear();
      for (int step = 0; step < kMaxSteps; ++step)
        for (const char* file : {"config.json", "trainer_state.json", "model.safetensors"})
          if (const fs::path path = run_ / fmt::format("checkpoint-{}", step) / file;
              fs::exists(path))
            seen.push_back(path);
    }
  }

  /// Starts the same command while the first runs: one of the two is told of the other. True where
  /// that was the first.
  bool start_again(RunningProgram& first) {
    const ProgramResult second = run_program(command_);
    const auto is_told = [](const ProgramResult& result) {
      return result.exit_code == 2 && (result.err.find("output-locked") != std::string::npos ||
                                       result.err.find("output-exists") != std::string::npos);
    };
    if (is_told(second)) {
      ++tally_[static_cast<size_t>(Disturbance::kStartTwice)];
      return false;
    }
    require(second.exit_code == 0, "second start: " + second.err);
    // It has run to the end: the first had ended before, or was the later one.
    const ProgramResult result = first.wait();
    require(result.exit_code == 0 || is_told(result), "first start: " + result.err);
    return true;
  }

  /// A run that was stopped in a step, and says so, has saved that step.
  void check_saved(const ProgramResult& result) {
    const size_t begin = result.err.find("]: step ");
    if (begin == std::string::npos || !saves_) return;
    const std::string name = fmt::format(
        "checkpoint-{}", std::atoi(result.err.c_str() + begin + std::strlen("]: step ")));
    require(result.err.find(name + " is saved") != std::string::npos, result.err);
    require(fs::read_symlink(run_ / "last") == name, "last is not the step that was stopped in");
  }

  /// None is half, and none is lost.
  void check_checkpoints() {
    if (!fs::exists(run_)) return;
    std::set<std::string> found;
    for (const auto& entry : fs::directory_iterator(run_)) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with("checkpoint-")) continue;
      found.insert(name);
      const auto got = tree_of(entry.path()), expected = tree_of(whole_ / name);
      for (const auto& [file, bytes] : got)
        if (file == "args.json" || file == "trainer_state.json")
          require(parse_json(bytes, file).is_object(), name + "/" + file);
        else
          require(expected.contains(file) && expected.at(file) == bytes,
                  name + "/" + file + " is another than the undisturbed run's");
      for (const auto& [file, bytes] : expected)
        require(got.contains(file), name + "/" + file + " is missing");
    }
    if (keeps_all_)
      for (const std::string& name : seen_) require(found.contains(name), name + " is lost");
    else
      require(seen_.empty() || !found.empty(), "all checkpoints are lost");
    seen_ = found;
    if (fs::exists(fs::symlink_status(run_ / "last")))
      require(fs::exists(run_ / "last" / "trainer_state.json"), "last points nowhere");
  }

  void finish() {
    const ProgramResult result = run_program(command_);
    require(result.exit_code == 0, "the last start: " + result.err);
    if (result.exit_code != 0) return;
    check_checkpoints();
    const std::string last = fmt::format("checkpoint-{}", kMaxSteps);
    require(fs::read_symlink(run_ / "last") == last, "last is not " + last);
    require(slurp(run_ / "completions.jsonl") == slurp(whole_ / "completions.jsonl"),
            "completions.jsonl is another");
    require(timeless_rows(run_) == timeless_rows(whole_), "logging.jsonl is another");
    for (const std::string& name : temporaries_in(run_)) require(false, "left behind: " + name);
    require(!fs::exists(run_ / ".lockstep.lock"), "the lock is left behind");
  }

  const World& world_;
  Tally& tally_;
  std::mt19937_64 random_;
  const Training& training_;
  Clock::duration duration_;
  TempDir folder_;
  fs::path whole_, run_;
  Arguments command_;
  bool keeps_all_ = true, saves_ = true;
  std::set<std::string> seen_;
  std::vector<std::string> problems_;
};

TEST(Killed, ADisturbedRunLosesNothingAndEndsInTheSameBytes) {
  const World world;
  if (HasFailure()) return;
  const DrawRange runs = draw_range(kRuns);
  std::atomic<uint64_t> next = runs.first;
  Tally tally{};
  std::vector<std::thread> workers;
  for (int worker = 0; worker < kWorkers; ++worker)
    workers.emplace_back([&] {
      for (uint64_t number; (number = next++) < runs.last;)
        for (const std::string& problem : DisturbedRun(world, number, tally).go())
          ADD_FAILURE() << "LOCKSTEP_TEST_DRAW=" << number << ": " << problem;
    });
  for (std::thread& worker : workers) worker.join();
  // A disturbance that never meets a living run shows nothing.
  for (size_t kind = 0; kind < tally.size(); ++kind) {
    RecordProperty(fmt::format("disturbance_{}", kind), tally[kind]);
    if (runs.is_all) {
      EXPECT_GT(tally[kind], 0) << "disturbance " << kind;
    }
  }
}

}  // namespace
}  // namespace lockstep::testing
