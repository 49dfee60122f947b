// What launchers say of a process: recorded environments of real ones, drawn layouts, bad values.
// SPDX-License-Identifier: Apache-2.0
#include "parallel/launch_info.h"

#include <fstream>
#include <map>
#include <random>
#include <set>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/source_dir.h"
#include "tests/support/test_seed.h"

namespace lockstep::parallel {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Values = std::map<std::string, std::string>;

LaunchInfo read(const Values& values, const LaunchOptions& options = {}) {
  return read_launch_info(
      [&](const std::string& name) -> std::optional<std::string> {
        const auto at = values.find(name);
        return at == values.end() ? std::nullopt : std::optional(at->second);
      },
      options);
}

/// The variables that a launcher gave to a process, as the first line of the file says.
Values recorded(const std::string& name) {
  std::ifstream file(lockstep::testing::source_dir() / "tests/data/launch" / (name + ".env"));
  EXPECT_TRUE(file) << name;
  Values values;
  std::string line;
  while (std::getline(file, line))
    if (const size_t equals = line.find('='); line[0] != '#' && equals != std::string::npos)
      values[line.substr(0, equals)] = line.substr(equals + 1);
  return values;
}

void expect_place(const LaunchInfo& info, LaunchSource source, int64_t rank, int64_t size) {
  EXPECT_EQ(info.source, source);
  EXPECT_EQ(info.rank, rank);
  EXPECT_EQ(info.size, size);
  EXPECT_EQ(info.local_rank, rank);
  EXPECT_EQ(info.local_size, size);
  EXPECT_EQ(info.node, 0);
  EXPECT_EQ(info.num_nodes, 1);
}

TEST(LaunchInfo, WithoutALauncherThereIsOneProcess) {
  expect_place(read({}), LaunchSource::kAlone, 0, 1);
  // What is empty is as good as unset.
  expect_place(read({{"RANK", ""}, {"WORLD_SIZE", " "}, {"MASTER_ADDR", ""}}), LaunchSource::kAlone,
               0, 1);
}

TEST(LaunchInfo, Torchrun) {
  const LaunchInfo info = read(recorded("torchrun"));
  expect_place(info, LaunchSource::kTorchrun, 1, 2);
  EXPECT_EQ(info.master_address, "localhost");
  EXPECT_EQ(info.master_port, 40225);
  EXPECT_EQ(info.run_id, "b02d4f0f-01bf-48eb-87e8-141f388a7d5d");
  EXPECT_EQ(info.restart_count, 0);
  EXPECT_TRUE(info.uses_agent_store);
  EXPECT_EQ(info.error_file, "attempt_0/1/error.json");
  Values again = recorded("torchrun");
  again["TORCHELASTIC_RESTART_COUNT"] = "2";
  again["TORCHELASTIC_USE_AGENT_STORE"] = "False";
  EXPECT_EQ(read(again).restart_count, 2);
  EXPECT_FALSE(read(again).uses_agent_store);
}

TEST(LaunchInfo, TorchrunOnTwoHosts) {
  const LaunchInfo info = read({{"RANK", "13"},
                                {"WORLD_SIZE", "16"},
                                {"LOCAL_RANK", "5"},
                                {"LOCAL_WORLD_SIZE", "8"},
                                {"GROUP_RANK", "1"},
                                {"GROUP_WORLD_SIZE", "2"},
                                {"MASTER_ADDR", "n01"},
                                {"MASTER_PORT", "29400"}});
  EXPECT_EQ(info.rank, 13);
  EXPECT_EQ(info.local_rank, 5);
  EXPECT_EQ(info.local_size, 8);
  EXPECT_EQ(info.node, 1);
  EXPECT_EQ(info.num_nodes, 2);
  EXPECT_EQ(describe(info),
            "rank 13 of 16 on host 1 of 2; they meet at n01:29400; by RANK, "
            "WORLD_SIZE and MASTER_ADDR (torchrun)");
}

TEST(LaunchInfo, ThreeVariablesAreEnough) {
  const LaunchInfo info = read({{"RANK", "2"}, {"WORLD_SIZE", "3"}, {"MASTER_ADDR", "n01"}});
  EXPECT_EQ(info.rank, 2);
  EXPECT_EQ(info.size, 3);
  EXPECT_EQ(info.local_size, 1);
  EXPECT_EQ(info.node, 2);
  EXPECT_EQ(info.num_nodes, 3);
  EXPECT_EQ(info.master_port, 29500);
  EXPECT_FALSE(info.uses_agent_store);
}

TEST(LaunchInfo, OpenMpi) {
  const LaunchInfo info = read(recorded("open_mpi"));
  expect_place(info, LaunchSource::kOpenMpi, 1, 2);
  EXPECT_EQ(info.master_address, "127.0.0.1");
  EXPECT_GE(info.master_port, 20000);
  EXPECT_LT(info.master_port, 40000);
  EXPECT_EQ(info.run_id, "64225281");
  // All ranks of a job find the same port; another job finds another one.
  Values other = recorded("open_mpi");
  other["OMPI_COMM_WORLD_RANK"] = "0";
  EXPECT_EQ(read(other).master_port, info.master_port);
  other["PMIX_NAMESPACE"] = "64290817";
  EXPECT_NE(read(other).master_port, info.master_port);
  other["MASTER_PORT"] = "1234";
  EXPECT_EQ(read(other).master_port, 1234);
}

TEST(LaunchInfo, OpenMpiOnSeveralHostsNeedsAMeetingPoint) {
  Values values = recorded("open_mpi");
  values["OMPI_COMM_WORLD_SIZE"] = "4";
  EXPECT_ERROR(read(values), ConfigError, "unsupported-world-size",
               "MASTER_ADDR: expected the host of rank 0, where 4 ranks on several hosts meet");
  values["MASTER_ADDR"] = "n07";
  EXPECT_EQ(read(values).master_address, "n07");
  EXPECT_EQ(read(values).num_nodes, 2);
  // In a job of Slurm it is the job's first host.
  values.erase("MASTER_ADDR");
  values["SLURM_JOB_NODELIST"] = "n[03-04]";
  EXPECT_EQ(read(values).master_address, "n03");
  EXPECT_THAT(read(values).hosts, ElementsAre("n03", "n04"));
}

TEST(LaunchInfo, Hydra) {
  const LaunchInfo info = read(recorded("hydra"));
  expect_place(info, LaunchSource::kPmi, 1, 2);
  EXPECT_EQ(info.master_address, "127.0.0.1");
  EXPECT_EQ(info.master_port, 29500);
}

TEST(LaunchInfo, Mvapich) {
  const LaunchInfo info = read({{"MV2_COMM_WORLD_RANK", "3"},
                                {"MV2_COMM_WORLD_SIZE", "4"},
                                {"MV2_COMM_WORLD_LOCAL_RANK", "1"},
                                {"MV2_COMM_WORLD_LOCAL_SIZE", "2"},
                                {"MASTER_ADDR", "n01"}});
  EXPECT_EQ(info.source, LaunchSource::kMvapich);
  EXPECT_EQ(info.node, 1);
  EXPECT_EQ(info.local_rank, 1);
}

TEST(LaunchInfo, AStepOfSlurm) {
  const LaunchInfo info = read(recorded("srun"));
  expect_place(info, LaunchSource::kSlurm, 2, 3);
  EXPECT_EQ(info.master_address, "n01");
  EXPECT_EQ(info.master_port, 20001) << "job 1";
  EXPECT_EQ(info.run_id, "1.0");
  EXPECT_THAT(info.hosts, ElementsAre("n01"));
  // A job that Slurm put back into its queue.
  Values again = recorded("srun");
  again["SLURM_RESTART_COUNT"] = "1";
  again["SLURM_JOB_ID"] = "1234567";
  EXPECT_EQ(read(again).restart_count, 1);
  EXPECT_EQ(read(again).master_port, 20000 + 1234567 % 20000);
}

// Slurm counts the tasks of the job to the script as well, which is one process.
TEST(LaunchInfo, AScriptOfSlurmIsAlone) {
  Values values = recorded("sbatch");
  EXPECT_EQ(values["SLURM_NTASKS"], "3");
  expect_place(read(values), LaunchSource::kAlone, 0, 1);
  // What Slurm numbers the script with is no step.
  for (const char* step : {"batch", "4294967291", "-5"}) {
    values["SLURM_STEP_ID"] = step;
    values["SLURM_STEP_NUM_TASKS"] = "3";
    expect_place(read(values), LaunchSource::kAlone, 0, 1);
  }
}

TEST(LaunchInfo, AScriptThatWasSubmittedFromAStepIsAlone) {
  const Values values = recorded("sbatch_from_step");
  EXPECT_EQ(values.at("SLURM_STEP_ID"), "0");
  EXPECT_EQ(values.at("SLURM_STEP_NUM_TASKS"), "2");
  expect_place(read(values), LaunchSource::kAlone, 0, 1);
}

TEST(LaunchInfo, OfTwoLaunchersTheInnerOneIsMeant) {
  expect_place(read(recorded("torchrun_in_srun")), LaunchSource::kTorchrun, 1, 2);
  expect_place(read(recorded("open_mpi_in_sbatch")), LaunchSource::kOpenMpi, 1, 2);
  expect_place(read(recorded("hydra_in_sbatch")), LaunchSource::kPmi, 1, 2);
  // srun with PMI is one launcher that speaks twice.
  expect_place(read(recorded("srun_pmi2")), LaunchSource::kSlurm, 1, 2);
  Values all = recorded("torchrun");
  for (const char* other : {"open_mpi", "hydra", "srun"}) all.merge(recorded(other));
  EXPECT_EQ(read(all).source, LaunchSource::kTorchrun);
  all.erase("MASTER_ADDR");
  EXPECT_EQ(read(all).source, LaunchSource::kOpenMpi);
  all.erase("OMPI_COMM_WORLD_RANK");
  EXPECT_EQ(read(all).source, LaunchSource::kPmi);
  all.erase("PMI_RANK");
  EXPECT_EQ(read(all).source, LaunchSource::kSlurm);
}

TEST(LaunchInfo, SeveralProcessesThatCannotMeetAreRefused) {
  for (const char* variable : {"WORLD_SIZE", "NPROC_PER_NODE", "NNODES", "OMPI_COMM_WORLD_SIZE",
                               "PMI_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_SIZE", "HOROVOD_SIZE",
                               "JSM_NAMESPACE_SIZE", "FLUX_JOB_SIZE"}) {
    EXPECT_ERROR(read({{variable, "2"}}), ConfigError, "unsupported-world-size", variable);
    EXPECT_ERROR(read({{variable, "many"}}), ConfigError, "unsupported-world-size", "got many");
    EXPECT_TRUE(read({{variable, " 1 "}}).is_alone()) << variable;
  }
  EXPECT_ERROR(read({{"PMIX_RANK", "1"}}), ConfigError, "unsupported-world-size", "PMIX_RANK");
  EXPECT_TRUE(read({{"PMIX_RANK", "0"}}).is_alone());
  // One rank of torchrun in each of four processes of mpirun would be four runs.
  EXPECT_ERROR(read({{"RANK", "0"},
                     {"WORLD_SIZE", "1"},
                     {"MASTER_ADDR", "n01"},
                     {"OMPI_COMM_WORLD_SIZE", "4"}}),
               ConfigError, "unsupported-world-size", "OMPI_COMM_WORLD_SIZE");
}

TEST(LaunchInfo, FlagsStartOneProcessAHost) {
  const LaunchInfo info = read({}, {.nnodes = 3, .node_rank = 2, .master_addr = "n01"});
  EXPECT_EQ(info.source, LaunchSource::kFlags);
  EXPECT_EQ(info.rank, 2);
  EXPECT_EQ(info.size, 3);
  EXPECT_EQ(info.local_size, 1);
  EXPECT_EQ(info.master_address, "n01");
  EXPECT_EQ(info.master_port, 29500);
  EXPECT_ERROR(read({}, {.nnodes = 3, .master_addr = "n01"}), ConfigError, "bad-flag",
               "--node_rank: expected the number of this host");
  EXPECT_ERROR(read({}, {.nnodes = 3, .node_rank = 0}), ConfigError, "bad-flag",
               "--master_addr: expected the name of host 0");
  EXPECT_ERROR(read({}, {.nnodes = 3, .node_rank = 3, .master_addr = "n01"}), ConfigError,
               "bad-flag", "--node_rank: expected a number below --nnodes 3, got 3");
  EXPECT_ERROR(read({}, {.node_rank = 1}), ConfigError, "bad-flag", "--node_rank: expected 0");
}

TEST(LaunchInfo, FlagsMoveTheMeetingPointButNotTheRanks) {
  Values values = recorded("torchrun");
  EXPECT_ERROR(read(values, {.nnodes = 2}), ConfigError, "bad-flag", "--nnodes: expected 1");
  EXPECT_EQ(read(values, {.nnodes = 1, .node_rank = 0}).size, 2);
  // torchrun itself listens there.
  EXPECT_ERROR(read(values, {.master_port = 1}), ConfigError, "bad-flag",
               "--master_port: expected 40225");
  EXPECT_ERROR(read(values, {.master_addr = "n09"}), ConfigError, "bad-flag",
               "--master_addr: expected localhost");
  values["TORCHELASTIC_USE_AGENT_STORE"] = "False";
  const LaunchInfo moved = read(values, {.master_addr = "n09", .master_port = 1});
  EXPECT_EQ(moved.master_address, "n09");
  EXPECT_EQ(moved.master_port, 1);
  EXPECT_EQ(moved.rank, 1);
  EXPECT_EQ(read(recorded("srun"), {.master_port = 7}).master_port, 7);
}

TEST(LaunchInfo, MalformedValuesAreNamed) {
  Values values = recorded("torchrun");
  values["RANK"] = "one";
  EXPECT_ERROR(read(values), ConfigError, "bad-launch",
               "RANK: expected a whole number from 0 to 1, got one");
  values["RANK"] = "2";
  EXPECT_ERROR(read(values), ConfigError, "bad-launch",
               "RANK: expected a whole number from 0 to 1, got 2");
  values = recorded("torchrun");
  values["MASTER_PORT"] = "70000";
  EXPECT_ERROR(read(values), ConfigError, "bad-launch",
               "MASTER_PORT: expected a whole number from 1 to 65535, got 70000");
  values = recorded("srun");
  values["SLURM_STEP_NODELIST"] = "n[1-";
  EXPECT_ERROR(read(values), ConfigError, "bad-launch", "SLURM_STEP_NODELIST: expected a list");
  values["SLURM_STEP_NODELIST"] = "n[1-2]";
  EXPECT_ERROR(read(values), ConfigError, "bad-launch",
               "SLURM_STEP_TASKS_PER_NODE: expected counts for 2 hosts");
  values.erase("SLURM_STEP_NODELIST");
  EXPECT_ERROR(read(values), ConfigError, "bad-launch", "SLURM_STEP_NODELIST: expected a list");
}

// Whatever stands in the variables, there is a sound place or one error that names a variable.
TEST(LaunchInfo, DrawnValuesAreReadOrRefused) {
  std::mt19937_64 random(lockstep::testing::test_seed(3));
  const std::vector<std::string> junk{
      "",  " ",   "-1",     "1",     "7",   "1e3", "99999999999999999999",
      "x", "0x1", "n[1-2]", "2(x2)", "1 2", "True"};
  int refused = 0, sound = 0;
  for (int draw = 0; draw < 5000; ++draw) {
    const std::vector<std::string> names{"torchrun", "open_mpi",  "hydra",
                                         "srun",     "srun_pmi2", "torchrun_in_srun"};
    Values values = recorded(names[random() % names.size()]);
    for (size_t changes = 1 + random() % 2; changes > 0; --changes)
      std::next(values.begin(), static_cast<int64_t>(random() % values.size()))->second =
          junk[random() % junk.size()];
    try {
      const LaunchInfo info = read(values);
      ++sound;
      EXPECT_TRUE(0 <= info.rank && info.rank < info.size);
      EXPECT_TRUE(0 <= info.local_rank && info.local_rank < info.local_size);
      EXPECT_TRUE(0 <= info.node && info.node < info.num_nodes);
      EXPECT_TRUE(info.is_alone() || !info.master_address.empty());
      EXPECT_TRUE(info.is_alone() || info.master_port > 0);
    } catch (const ConfigError& error) {
      ++refused;
      EXPECT_TRUE(values.contains(error.where()) || error.where() == "MASTER_ADDR") << error.what();
      EXPECT_THAT(error.what(), HasSubstr("expected"));
    }
  }
  EXPECT_GT(refused, 300);
  EXPECT_GT(sound, 300);
}

TEST(LaunchInfo, TheProcessesOfAHostShareItsProcessors) {
  const auto threads = [](LaunchSource source, int64_t local_size, ProcessorCount processors,
                          const Values& values = {}) {
    return fair_threads(
        {.source = source, .size = local_size, .local_size = local_size},
        [&](const std::string& name) -> std::optional<std::string> {
          const auto at = values.find(name);
          return at == values.end() ? std::nullopt : std::optional(at->second);
        },
        processors);
  };
  EXPECT_EQ(threads(LaunchSource::kAlone, 1, {.usable = 6, .online = 8}), 6);
  EXPECT_EQ(threads(LaunchSource::kTorchrun, 4, {.usable = 16, .online = 16}), 4);
  // The processes of a container have its processors, however many the host has.
  EXPECT_EQ(threads(LaunchSource::kTorchrun, 4, {.usable = 16, .online = 64}), 4);
  EXPECT_EQ(threads(LaunchSource::kTorchrun, 4, {.usable = 2, .online = 64}), 1);
  // mpirun has bound each process to a core, or two of them to a socket.
  EXPECT_EQ(threads(LaunchSource::kOpenMpi, 2, {.usable = 1, .online = 64}), 1);
  EXPECT_EQ(threads(LaunchSource::kOpenMpi, 4, {.usable = 32, .online = 64}), 16);
  // srun --cpus-per-task 4 with 4 tasks, bound and not.
  const Values job{{"SLURM_CPUS_ON_NODE", "16"}};
  EXPECT_EQ(threads(LaunchSource::kSlurm, 4, {.usable = 4, .online = 64}, job), 4);
  EXPECT_EQ(threads(LaunchSource::kSlurm, 4, {.usable = 16, .online = 64}, job), 4);
}

/// The variables of one task of a step that srun started over `tasks` of each host.
Values slurm_task(const std::vector<int64_t>& tasks, int64_t node, int64_t local, int64_t rank) {
  std::string counts, list, own;
  int64_t size = 0;
  for (size_t host = 0; host < tasks.size(); ++host) {
    counts += (host ? "," : "") + std::to_string(tasks[host]);
    list += (host ? "," : "") + std::string("n") + std::to_string(host);
    size += tasks[host];
  }
  for (int64_t i = 0; i < tasks[static_cast<size_t>(node)]; ++i) own += i ? ",0" : "0";
  return {{"SLURM_STEP_ID", "3"},
          {"SLURM_JOB_ID", "77"},
          {"SLURM_PROCID", std::to_string(rank)},
          {"SLURM_LOCALID", std::to_string(local)},
          {"SLURM_NODEID", std::to_string(node)},
          {"SLURM_STEP_NUM_TASKS", std::to_string(size)},
          {"SLURM_STEP_TASKS_PER_NODE", counts},
          {"SLURM_STEP_NODELIST", list},
          {"SLURM_GTIDS", own}};
}

TEST(LaunchInfo, TheTasksOfADrawnStepAgree) {
  std::mt19937_64 random(lockstep::testing::test_seed(4));
  for (int draw = 0; draw < 50; ++draw) {
    std::vector<int64_t> tasks(1 + random() % 6);
    for (int64_t& count : tasks) count = static_cast<int64_t>(1 + random() % 9);
    std::set<std::string> meeting_points;
    int64_t rank = 0;
    for (size_t node = 0; node < tasks.size(); ++node)
      for (int64_t local = 0; local < tasks[node]; ++local, ++rank) {
        const LaunchInfo info = read(slurm_task(tasks, static_cast<int64_t>(node), local, rank));
        if (info.is_alone()) continue;
        EXPECT_EQ(info.rank, rank);
        EXPECT_EQ(info.node, static_cast<int64_t>(node));
        EXPECT_EQ(info.local_rank, local);
        EXPECT_EQ(info.local_size, tasks[node]);
        meeting_points.insert(fmt::format("{} {} {} {}", info.size, info.master_address,
                                          info.master_port, info.run_id));
      }
    if (rank > 1) {
      EXPECT_THAT(meeting_points, ElementsAre(fmt::format("{} n0 20077 77.3", rank)));
    } else {
      EXPECT_THAT(meeting_points, IsEmpty());
    }
  }
}

}  // namespace
}  // namespace lockstep::parallel
