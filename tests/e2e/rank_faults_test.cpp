// Runs of several processes that something bad happens to: in each phase, to any rank. The others
// end in time and say where it was, nothing is left behind, and the run goes on to the bytes of one
// that nobody disturbed.
// SPDX-License-Identifier: Apache-2.0
//
// LOCKSTEP_TEST_DRAW=N does the Nth fault alone, LOCKSTEP_TEST_FAULTS=N the first N. Every draw
// chooses rank, step, moment, training and numbers of ranks anew; each row of the table below comes
// once in as many draws as it has rows.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <fstream>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "parallel/c10d_store.h"
#include "tests/e2e/program_files.h"
#include "tests/e2e/rank_programs.h"
#include "tests/e2e/same_runs.h"
#include "tests/e2e/training.h"
#include "tests/support/test_seed.h"
#include "tests/support/two_hosts.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;

enum class Fault {
  kKill,
  kStop,
  kTerminate,
  kStoreDead,
  kDiskFull,
  kOtherFlag,
  kOtherRows,
  kOtherProgram
};

struct Row {
  const char* phase;
  Fault fault;
};
/// Before "start" a rank joins the others; a message that is sent or awaited belongs to the phase
/// that sends it: gradients, gathered layers and updated weights to training.
constexpr Row kTable[] = {
    {"joining", Fault::kKill},         {"start", Fault::kKill},
    {"sampling", Fault::kKill},        {"rewarding", Fault::kKill},
    {"scoring", Fault::kKill},         {"training", Fault::kKill},
    {"evaluating", Fault::kKill},      {"saving", Fault::kKill},
    {"between", Fault::kKill},         {"joining", Fault::kStop},
    {"start", Fault::kStop},           {"sampling", Fault::kStop},
    {"rewarding", Fault::kStop},       {"scoring", Fault::kStop},
    {"training", Fault::kStop},        {"evaluating", Fault::kStop},
    {"saving", Fault::kStop},          {"joining", Fault::kTerminate},
    {"start", Fault::kTerminate},      {"sampling", Fault::kTerminate},
    {"rewarding", Fault::kTerminate},  {"scoring", Fault::kTerminate},
    {"training", Fault::kTerminate},   {"evaluating", Fault::kTerminate},
    {"saving", Fault::kTerminate},     {"start", Fault::kStoreDead},
    {"sampling", Fault::kStoreDead},   {"rewarding", Fault::kStoreDead},
    {"scoring", Fault::kStoreDead},    {"training", Fault::kStoreDead},
    {"evaluating", Fault::kStoreDead}, {"saving", Fault::kStoreDead},
    {"saving", Fault::kDiskFull},      {"joining", Fault::kOtherFlag},
    {"joining", Fault::kOtherRows},    {"joining", Fault::kOtherProgram},
};

/// What strikes a rank of the run, as tests/e2e/struck_program.cpp reads it; null: nothing does.
const char* strike_of(Fault fault) {
  switch (fault) {
    case Fault::kKill:
      return "kill";
    case Fault::kStop:
      return "stop";
    case Fault::kTerminate:
      return "terminate";
    case Fault::kStoreDead:
      return "pause";
    case Fault::kDiskFull:
      return "fill";
    default:
      return nullptr;
  }
}

/// After the first error is noticed, all have ended; a rank may be silent for so long.
constexpr milliseconds kEnd = 2000ms, kSilence = 10'000ms;

/// Most of a draw whose rank is stopped is waiting.
constexpr int kWorkers = 3;

const Training kTrainings[] = {
    {"full",
     "grpo",
     {"--tuner_type", "full", "--num_iterations", "2", "--gradient_accumulation_steps", "2",
      "--per_device_train_batch_size", "8"}},
    {"lora", "grpo", {"--beta", "0.1", "--per_device_train_batch_size", "8"}},
};

fs::path write_reward(const TempDir& folder) {
  return folder.write("reward.sh", "while IFS= read -r line; do echo $((${#line} % 7)); done\n");
}

/// What all draws share.
struct World {
  World() {
    new_model(folder, "dense", {"--like", "qwen3_5"});
    new_model(folder, "moe", {"--like", "qwen3_moe"});
    auto rows = sum_rows(12);
    for (const char* name : {"own", "other"}) {
      fs::create_directory(folder / name);
      write_rows(folder, fmt::format("{}/rows.jsonl", name), rows);
      std::swap(rows[3], rows[4]);
    }
    for (const Training& training : kTrainings)
      for (const char* model : {"dense", "moe"})
        run_well(command(training, model, whole(training, model), write_reward(folder)),
                 {.directory = folder / "own"});
  }

  fs::path whole(const Training& training, const std::string& model) const {
    return folder / fmt::format("{}-{}", training.name, model);
  }
  /// Rows are named as seen from a directory, so that a rank may have others by the same name.
  /// The reward is a program, which ends with its rank.
  Arguments command(const Training& training,
                    const std::string& model,
                    const fs::path& output,
                    const fs::path& reward) const {
    return Arguments{training.command,
                     "--model",
                     folder / model,
                     "--dataset",
                     "rows.jsonl",
                     "--split_dataset_ratio",
                     "0.2",
                     "--eval_strategy",
                     "steps",
                     "--eval_steps",
                     "2",
                     "--output_dir",
                     output,
                     "--log_completions",
                     "true",
                     "--resume_from_checkpoint",
                     "last",

                     "--quiet"} +
           short_run(4, 1) + short_completions() + training.flags +
           Arguments{"--reward_funcs", "soft_overlong", "x=program:sh " + reward.string()};
  }

  TempDir folder;
};

/// Processes whose command line names a folder.
std::vector<std::string> processes_of(const fs::path& folder) {
  std::vector<std::string> found;
  std::error_code gone;
  for (fs::directory_iterator entry("/proc", gone), end; !gone && entry != end;
       entry.increment(gone)) {
    std::ifstream file(entry->path() / "cmdline");
    const std::string line(std::istreambuf_iterator<char>(file), {});
    if (line.find(folder.string()) != std::string::npos)
      found.push_back(entry->path().filename().string());
  }
  return found;
}

/// One draw, from its start to the end of the run that goes on.
class Case {
 public:
  Case(const World& world, uint64_t number)
      : world_(world), random_(test_seed(number)), row_(kTable[number % std::size(kTable)]) {
    training_ = &kTrainings[draw(std::size(kTrainings))];
    model_ = draw(2) ? "dense" : "moe";
    size_ = draw(2) ? 2 : 4;
    again_ = int64_t{1} << draw(4);
    victim_ = draw(size_);
    // "joining" has no step, and few messages; the phases that compute have many.
    step_ = 1 + draw(3);
    event_ = draw(4) ? draw(12) : 0;
    // It has said that it is there. Before that only the launcher knows of its end.
    if (row_.phase == std::string("joining")) event_ = 2;
    constexpr const char* kShardings[] = {"none", "optimizer", "full"};
    sharding_ = kShardings[draw(3)];
    sharding_again_ = kShardings[draw(3)];
    if (row_.phase == std::string("joining") || row_.phase == std::string("start")) step_ = 0;
  }

  std::string text() const {
    return fmt::format(
        "{} in {} of step {}, message {}; {} of a {} model, rank {} of {}, "
        "sharding {}, then {} ranks",
        static_cast<int>(row_.fault), row_.phase, step_, event_, training_->name, model_, victim_,
        size_, sharding_, again_);
  }

  void go() {
    disturb();
    for (int i = 0; i < 1000 && !processes_of(folder_.path()).empty(); ++i)
      std::this_thread::sleep_for(2ms);
    EXPECT_THAT(processes_of(folder_.path()), ::testing::IsEmpty()) << "left behind";
    finish();
  }

 private:
  int64_t draw(int64_t below) {
    return static_cast<int64_t>(random_() % static_cast<uint64_t>(below));
  }
  Arguments command(const std::string& sharding) const {
    return world_.command(*training_, model_, run_, reward_) + Arguments{"--sharding", sharding};
  }

  void disturb() {
    ProgramWorld all{.program = LOCKSTEP_STRUCK_PROGRAM, .directory = world_.folder / "own"};
    OwnOfRank own{.rank = victim_, .world = all};
    if (const char* const fault = strike_of(row_.fault))
      own.world.variables = {
          {"LOCKSTEP_TEST_STRIKE",
           fmt::format("{} {} {} {} {}", row_.phase, step_, event_, fault, struck_.string())}};
    if (row_.fault == Fault::kOtherFlag) own.arguments = {"--temperature", "0.8"};
    if (row_.fault == Fault::kOtherRows) own.world.directory = world_.folder / "other";
    if (row_.fault == Fault::kOtherProgram) own.world.program = program_path();
    if (row_.fault == Fault::kStoreDead) listen();
    const auto begun = Clock::now();
    Ranks ranks(command(sharding_), size_, own, all, port_);
    if (!strike_of(row_.fault)) return expect_differing(ranks, begun);
    RunningProgram& struck = ranks.at(static_cast<size_t>(victim_));
    ASSERT_TRUE(wait_until(struck, [&] { return fs::exists(struck_); })) << "never came there";
    const Clock::time_point at{std::chrono::nanoseconds(std::stoll(slurp(struck_)))};
    store_.reset();
    expect_end(ranks, at);
  }

  /// The store of a launcher.
  void listen() {
    port_ = LoopbackListener().port();
    store_ =
        parallel::make_c10d_store({.host = "127.0.0.1", .port = port_, .is_server = true}, 20s);
  }

  /// Waits for all ranks but the one that is stopped, and says what they said.
  std::string wait_for_all(Ranks& ranks, Clock::time_point at, milliseconds longest) {
    std::string said;
    for (int64_t rank = 0; rank < size_; ++rank) {
      RunningProgram& program = ranks.at(static_cast<size_t>(rank));
      if (rank == victim_ && row_.fault == Fault::kStop) continue;
      while (program.is_running() && Clock::now() < at + 2 * longest + 30s)
        std::this_thread::sleep_for(2ms);
      const auto took = std::chrono::duration_cast<milliseconds>(Clock::now() - at);
      EXPECT_LT(took, longest) << "rank " << rank;
      if (program.is_running()) {
        ADD_FAILURE() << "rank " << rank << " hangs: " << program.err();
        program.send(SIGKILL);
      }
      const ProgramResult result = program.wait();
      exit_codes_.push_back(result.exit_code);
      said += result.err;
    }
    return said;
  }

  void expect_differing(Ranks& ranks, Clock::time_point begun) {
    // They start, read and compare.
    const std::string said = wait_for_all(ranks, begun, 20s);
    EXPECT_THAT(said, HasSubstr("error[rank-differs]"));
    EXPECT_THAT(said, HasSubstr(fmt::format("rank {}", victim_)));
    for (const int code : exit_codes_) EXPECT_EQ(code, 2);
    EXPECT_FALSE(fs::exists(run_));
  }

  void expect_end(Ranks& ranks, Clock::time_point at) {
    const std::string said = wait_for_all(ranks, at, longest());
    if (row_.fault == Fault::kTerminate) return expect_saved(said);
    // Those that are told of it, and those that see it.
    int64_t ended_by_others = 0;
    for (const int code : exit_codes_) ended_by_others += code == 3;
    EXPECT_EQ(ended_by_others, size_ - (row_.fault != Fault::kStoreDead)) << said;
    // Of a rank 0 that is gone with the store the others say where they were themselves.
    EXPECT_THAT(said, ContainsRegex("lockstep: error.[a-z-]+.: rank [0-9]"
                                    "(, [a-z]+|:.* answer of the store.*; seen by rank [0-9], )"));
    if (row_.fault != Fault::kStoreDead) {
      EXPECT_THAT(said, HasSubstr(fmt::format("rank {}", victim_)));
    }
    if (step_ > 0 && row_.fault != Fault::kStop) {
      EXPECT_THAT(said, HasSubstr(" of step "));
    }
    if (row_.fault == Fault::kDiskFull) {
      EXPECT_THAT(said, HasSubstr("File too large"));
      EXPECT_THAT(said, HasSubstr(fmt::format("rank {}, saving of step ", victim_)));
    }
    // The rank that has seen it says it, and one for all where that is another. Without a store
    // nobody knows what others have said.
    EXPECT_LE(std::count(said.begin(), said.end(), '\n'),
              row_.fault == Fault::kStoreDead ? size_ : 2)
        << said;
    const ProgramResult explained = run_program({"doctor", "--hang", run_.string() + ".ranks"});
    EXPECT_EQ(explained.exit_code, 0) << explained.err;
    EXPECT_THAT(explained.out, HasSubstr("rank "));
  }

  /// All stop at the same step, which is saved once they compute.
  void expect_saved(const std::string& said) {
    const bool all = exit_codes_ == std::vector<int>(exit_codes_.size(), 128 + SIGTERM);
    const bool one = exit_codes_[static_cast<size_t>(victim_)] == 128 + SIGTERM &&
                     std::count(exit_codes_.begin(), exit_codes_.end(), 3) == size_ - 1;
    // The last save is followed by nothing that would be stopped.
    const bool is_through = exit_codes_ == std::vector<int>(exit_codes_.size(), 0);
    EXPECT_TRUE(all || (step_ == 0 && one) || (row_.phase == std::string("saving") && is_through))
        << ::testing::PrintToString(exit_codes_) << said;
    if (!is_through) {
      EXPECT_THAT(said, HasSubstr("SIGTERM"));
    }
  }

  milliseconds longest() const {
    switch (row_.fault) {
      case Fault::kKill:
        return row_.phase == std::string("joining") ? kSilence + kEnd : kEnd;
      case Fault::kStop:
        return kSilence + kEnd + 1s;
      // The step is finished and saved.
      case Fault::kTerminate:
        return 20s;
      default:
        return kEnd;
    }
  }

  void finish() {
    const ProgramWorld world{.directory = world_.folder / "own"};
    for (const ProgramResult& result : Ranks(command(sharding_again_), again_, {}, world).wait()) {
      EXPECT_EQ(result.exit_code, 0) << result.err;
      EXPECT_EQ(result.err, "");
    }
    expect_same_runs(run_, world_.whole(*training_, model_));
  }

  const World& world_;
  std::mt19937_64 random_;
  const Row row_;
  const Training* training_ = nullptr;
  std::string model_, sharding_, sharding_again_;
  int64_t size_ = 2, again_ = 1, victim_ = 0, step_ = 0, event_ = 0;
  uint16_t port_ = 0;
  std::unique_ptr<parallel::Store> store_;
  TempDir folder_;
  fs::path run_ = folder_ / "run", struck_ = folder_ / "struck", reward_ = write_reward(folder_);
  std::vector<int> exit_codes_;
};

/// Two ranks on each of two hosts, as torchrun starts them.
std::vector<std::unique_ptr<RunningProgram>> start_on(
    const TwoHosts& hosts,
    const Arguments& arguments,
    const std::vector<std::pair<std::string, std::string>>& variables,
    const fs::path& directory) {
  std::vector<std::unique_ptr<RunningProgram>> ranks;
  for (int64_t rank = 0; rank < 4; ++rank) {
    const Arguments words = hosts.words(rank / 2) +
                            Arguments{"--wd=" + directory.string(), LOCKSTEP_STRUCK_PROGRAM} +
                            arguments;
    ProgramWorld world{.program = words.front()};
    world.variables = {{"RANK", std::to_string(rank)},
                       {"WORLD_SIZE", "4"},
                       {"LOCAL_RANK", std::to_string(rank % 2)},
                       {"LOCAL_WORLD_SIZE", "2"},
                       {"GROUP_RANK", std::to_string(rank / 2)},
                       {"GROUP_WORLD_SIZE", "2"},
                       {"MASTER_ADDR", "n01"},
                       {"MASTER_PORT", "29511"}};
    if (rank == 0)
      world.variables.insert(world.variables.end(), variables.begin(), variables.end());
    ranks.push_back(
        std::make_unique<RunningProgram>(Arguments(words.begin() + 1, words.end()), world));
  }
  return ranks;
}

TEST(RankFaults, ALinkBetweenHostsThatIsCutEndsBoth) {
  const TwoHosts hosts;
  if (!hosts.is_there()) GTEST_SKIP() << "this machine allows no network namespaces";
  const World world;
  constexpr const char* kPhases[] = {"training", "sampling", "saving"};
  const char* const phase = kPhases[base_seed() % std::size(kPhases)];
  SCOPED_TRACE(phase);
  const TempDir folder;
  const fs::path reward = write_reward(folder), struck = folder / "struck";
  const Arguments command = world.command(kTrainings[0], "dense", folder / "run", reward) +
                            Arguments{"--sharding", "full"};
  auto ranks =
      start_on(hosts, command,
               {{"LOCKSTEP_TEST_STRIKE", fmt::format("{} 2 1 pause {}", phase, struck.string())}},
               world.folder / "own");
  ASSERT_TRUE(wait_until(*ranks[0], [&] { return fs::exists(struck); })) << ranks[0]->err();
  hosts.set_link(false);
  const auto cut = Clock::now();
  for (size_t rank = 0; rank < 4; ++rank) {
    const ProgramResult result = ranks[rank]->wait();
    EXPECT_EQ(result.exit_code, 3) << rank << result.err;
    // Each host misses the other, and says it once.
    if (rank % 2 == 0) {
      EXPECT_THAT(result.err, HasSubstr(rank == 0 ? "error[rank-silent]: rank "
                                                  : "error[store-late]: rank 0: expected"));
    } else {
      EXPECT_EQ(result.err, "");
    }
  }
  EXPECT_LT(Clock::now() - cut, kSilence + kEnd + 1s);
  hosts.set_link(true);
  for (const auto& rank : start_on(hosts, command, {}, world.folder / "own")) {
    const ProgramResult result = rank->wait();
    EXPECT_EQ(result.exit_code, 0) << result.err;
  }
  expect_same_runs(folder / "run", world.whole(kTrainings[0], "dense"));
}

/// The other rank does not come; a launcher that is asked to end signals who waits.
TEST(RankFaults, ASignalEndsARankThatWaitsForTheOthers) {
  const TempDir folder;
  for (const int64_t missing : {0, 1}) {
    SCOPED_TRACE(fmt::format("rank {} is missing", missing));
    const ProgramWorld nothing{.program = "/bin/true"};
    Ranks ranks({"grpo", "--model", "m", "--dataset", "d", "--reward_funcs", "accuracy",
                 "--log_level", "debug", "--output_dir", (folder / "run").string()},
                2, {.rank = missing, .world = nothing});
    RunningProgram& waits = ranks.at(static_cast<size_t>(1 - missing));
    ASSERT_TRUE(
        wait_until(waits, [&] { return waits.err().find("of 2 on host") != std::string::npos; }));
    std::this_thread::sleep_for(300ms);
    waits.send(SIGTERM);
    const auto begun = Clock::now();
    EXPECT_EQ(waits.wait().exit_code, 128 + SIGTERM);
    EXPECT_LT(Clock::now() - begun, 5s);
  }
}

TEST(RankFaults, EndAllRanksInTimeAndTheRunGoesOn) {
  const World world;
  if (HasFailure()) return;
  const char* const more = std::getenv("LOCKSTEP_TEST_FAULTS");
  const DrawRange draws = draw_range(more ? std::strtoull(more, nullptr, 10) : std::size(kTable));
  std::atomic<uint64_t> next = draws.first;
  std::vector<std::thread> workers;
  for (int worker = 0; worker < kWorkers; ++worker)
    workers.emplace_back([&] {
      for (uint64_t number; (number = next++) < draws.last;) {
        Case one(world, number);
        SCOPED_TRACE(fmt::format("LOCKSTEP_TEST_DRAW={}: {}", number, one.text()));
        one.go();
      }
    });
  for (std::thread& worker : workers) worker.join();
}

}  // namespace
}  // namespace lockstep::testing
