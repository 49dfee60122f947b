// Runs that real launchers start: torchrun, Open MPI's mpirun, Hydra's mpiexec, srun. Those that
// are not installed are skipped.
// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <memory>
#include <pwd.h>
#include <sstream>
#include <unistd.h>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"
#include "tests/e2e/same_runs.h"
#include "tests/e2e/training.h"
#include "tests/support/loopback_listener.h"
#include "tests/support/source_dir.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

/// Where the shell would find a program, or an administrator's; "" if nowhere.
std::string find_program(const std::string& name) {
  const std::string path = std::getenv("PATH") ? std::getenv("PATH") : "";
  std::istringstream folders(path + ":/usr/sbin");
  for (std::string folder; std::getline(folders, folder, ':');)
    if (const fs::path file = fs::path(folder) / name; fs::exists(file)) return file.string();
  return "";
}

/// torchrun of the Python that tools/setup.sh makes.
std::string torchrun() {
  const fs::path path = source_dir() / ".deps/python/bin/torchrun";
  return fs::exists(path) ? path.string() : "";
}

class Launchers : public ::testing::Test {
 protected:
  Launchers() {
    model_ = new_model(folder, "model", {"--like", "qwen3_5"});
    rows_ = write_rows(folder, "rows.jsonl", sum_rows(12));
  }

  Arguments command(const std::string& output, const std::string& name = "grpo") const {
    const Arguments all = Arguments{name,
                                    "--model",
                                    model_,
                                    "--dataset",
                                    rows_,
                                    "--output_dir",
                                    (folder / output).string(),
                                    "--tuner_type",
                                    "full",
                                    "--per_device_train_batch_size",
                                    name == "grpo" ? "16" : "4"} +
                          short_run(4, 2);
    if (name != "grpo") return all;
    return all + short_completions() + Arguments{"--log_completions", "true"};
  }
  /// The bytes of all that is trained, and of what was sampled.
  std::map<std::string, std::string> trained(const std::string& output) const {
    std::map<std::string, std::string> files;
    for (const auto& [name, bytes] : tree_of(folder / output))
      if ((name.ends_with(".safetensors") && !name.starts_with("last")) ||
          name == "completions.jsonl")
        files[name] = bytes;
    return files;
  }
  /// Starts ranks by a launcher, which `program` is, and compares their run with that of one
  /// process.
  void expect_same_run(const std::string& program,
                       const Arguments& launcher,
                       const std::string& said,
                       const std::vector<std::pair<std::string, std::string>>& variables = {}) {
    if (program.empty()) GTEST_SKIP() << "the launcher is not installed";
    for (const char* name : {"grpo", "sft"}) {
      SCOPED_TRACE(name);
      const std::string alone = fmt::format("{}-alone", name), together = name;
      run_well(command(alone, name) + Arguments{"--quiet"});
      const ProgramResult result =
          run_program(launcher + Arguments{built_program()} + command(together, name),
                      {.program = program, .variables = variables});
      ASSERT_EQ(result.exit_code, 0) << result.err;
      EXPECT_THAT(result.out + result.err, HasSubstr(said));
      EXPECT_EQ(trained(together).size(), 5u) << "two checkpoints, and completions";
      EXPECT_EQ(trained(together), trained(alone));
      EXPECT_EQ(logged(folder / together), logged(folder / alone));
      EXPECT_FALSE(fs::exists(folder / (together + ".ranks"))) << "only a failure is recorded";
    }
  }

  TempDir folder;

 private:
  std::string model_, rows_;
};

TEST_F(Launchers, Torchrun) {
  expect_same_run(torchrun(), {"--standalone", "--nproc_per_node", "2", "--no-python"},
                  "by RANK, WORLD_SIZE and MASTER_ADDR (torchrun); 1 threads each");
}

TEST_F(Launchers, OpenMpi) {
  expect_same_run(find_program("mpirun.openmpi"),
                  {"--allow-run-as-root", "--oversubscribe", "-np", "4"},
                  "by OMPI_COMM_WORLD_RANK and _SIZE (Open MPI)");
}

TEST_F(Launchers, Hydra) {
  expect_same_run(find_program("mpiexec.hydra"), {"-genv", "MASTER_PORT", "29517", "-np", "2"},
                  "by PMI_RANK and PMI_SIZE (Hydra, PALS)");
}

/// Slurm on this machine alone, with this user's daemons on ports of their own.
class OwnSlurm {
 public:
  /// Throws where a daemon ends at once.
  OwnSlurm(const std::string& controller, const std::string& daemon) {
    char host[256] = {};
    ::gethostname(host, sizeof(host) - 1);
    const std::string name = host, root = folder_.path().string();
    for (const char* made : {"state", "spool"}) fs::create_directory(folder_ / made);
    // Two ports that were free a moment ago.
    const LoopbackListener first, second;
    folder_.write("slurm.conf",
                  fmt::format("ClusterName=test\nSlurmctldHost={0}(127.0.0.1)\nSlurmUser={4}\n"
                              "SlurmdUser={4}\nAuthType=auth/none\nCredType=cred/none\n"
                              "SlurmctldPort={2}\nSlurmdPort={3}\nStateSaveLocation={1}/state\n"
                              "SlurmdSpoolDir={1}/spool\nSlurmctldPidFile={1}/controller.pid\n"
                              "SlurmdPidFile={1}/daemon.pid\nProctrackType=proctrack/linuxproc\n"
                              "TaskPlugin=task/none\nSwitchType=switch/none\nMpiDefault=none\n"
                              "SelectType=select/linear\nSchedulerType=sched/builtin\n"
                              "ReturnToService=2\nNodeName={0} NodeAddr=127.0.0.1 State=UNKNOWN\n"
                              "PartitionName=all Nodes={0} Default=YES State=UP\n",
                              name, root, first.port(), second.port(), user()));
    first.close();
    second.close();
    controller_ = std::make_unique<RunningProgram>(Arguments{"-D"}, world(controller));
    daemon_ = std::make_unique<RunningProgram>(Arguments{"-D", "-N", name}, world(daemon));
  }
  /// Whether a job could start.
  bool is_idle(const std::string& info) {
    return wait_until(*daemon_, [&] {
      return run_program({"--noheader", "--format=%t"}, world(info)).out.starts_with("idle");
    });
  }
  std::vector<std::pair<std::string, std::string>> variables() const {
    return {{"SLURM_CONF", (folder_ / "slurm.conf").string()}};
  }
  std::string said() const { return controller_->err() + daemon_->err(); }

 private:
  static std::string user() {
    const passwd* const entry = ::getpwuid(::geteuid());
    return entry ? entry->pw_name : "root";
  }
  ProgramWorld world(const std::string& program) const {
    return {.program = program, .variables = variables()};
  }

  TempDir folder_;
  std::unique_ptr<RunningProgram> controller_, daemon_;
};

TEST_F(Launchers, Srun) {
  const std::string info = find_program("sinfo"), controller = find_program("slurmctld"),
                    daemon = find_program("slurmd");
  if (info.empty()) GTEST_SKIP() << "Slurm is not installed";
  const Arguments launcher{"--ntasks", "4", "--overcommit"};
  const std::string said = "by SLURM_PROCID and SLURM_STEP_NUM_TASKS (srun)";
  if (!run_program({"--noheader"}, {.program = info}).out.empty())
    return expect_same_run(find_program("srun"), launcher, said);
  if (controller.empty() || daemon.empty() || ::geteuid() != 0)
    GTEST_SKIP() << "no Slurm runs on this machine, and none can be started: slurmctld and slurmd "
                    "are wanted, and to be root";
  OwnSlurm slurm(controller, daemon);
  ASSERT_TRUE(slurm.is_idle(info)) << slurm.said();
  expect_same_run(find_program("srun"), launcher, said, slurm.variables());
}

TEST_F(Launchers, TorchrunShowsTheCause) {
  if (torchrun().empty()) GTEST_SKIP() << "torchrun is not installed";
  std::string line;
  for (const std::string& word : Arguments{built_program()} + command("odd"))
    line += shell_word(word) + " ";
  const ProgramResult result =
      run_program({"--standalone", "--nproc_per_node", "2", "--no-python", "bash", "-c",
                   "exec " + line + "--weight_decay 0.$RANK"},
                  {.program = torchrun()});
  EXPECT_NE(result.exit_code, 0);
  EXPECT_THAT(result.err, HasSubstr("traceback : lockstep: error[rank-differs]: "));
  EXPECT_THAT(result.err, HasSubstr("--weight_decay: 0.0 on rank 0 ("));
  EXPECT_THAT(result.err, HasSubstr("0.1 on rank 1 ("));
  EXPECT_FALSE(fs::exists(folder / "odd"));
}

// Rank 1 is killed when the first checkpoint is there. All are started anew, and go on from it.
TEST_F(Launchers, ARunThatTorchrunStartsAnewGoesOn) {
  if (torchrun().empty()) GTEST_SKIP() << "torchrun is not installed";
  const Arguments longer{"--max_steps", "60", "--num_train_epochs", "100", "--save_steps", "20"};
  run_well(command("alone") + longer + Arguments{"--quiet"});
  std::string line;
  for (const std::string& word : Arguments{built_program()} + command("together") + longer)
    line += shell_word(word) + " ";
  const std::string saved = shell_word((folder / "together" / "checkpoint-20").string());
  const std::string script =
      "if [ $RANK = 0 ] || [ $TORCHELASTIC_RESTART_COUNT != 0 ]; then exec " + line + "; fi; " +
      line + "& for i in $(seq 2000); do [ -e " + saved +
      " ] && break; sleep 0.01; done; kill -9 $!; exit 1";
  const ProgramResult result =
      run_program({"--standalone", "--nproc_per_node", "2", "--max-restarts", "1", "--no-python",
                   "bash", "-c", script},
                  {.program = torchrun()});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, HasSubstr("restart 1: the run goes on from its last checkpoint"));
  EXPECT_EQ(trained("together"), trained("alone"));
  EXPECT_EQ(logged(folder / "together"), logged(folder / "alone"));
}

TEST_F(Launchers, AnErrorIsWrittenForTheLauncher) {
  const fs::path file = folder / "error.json";
  const ProgramResult result =
      run_program(command("out") + Arguments{"--model", (folder / "none").string()},
                  {.variables = {{"RANK", "0"},
                                 {"WORLD_SIZE", "1"},
                                 {"MASTER_ADDR", "localhost"},
                                 {"TORCHELASTIC_ERROR_FILE", file.string()}}});
  EXPECT_EQ(result.exit_code, 2);
  const Json told = parse_json_file(file).at("message");
  EXPECT_EQ(told.at("message").get<std::string>() + "\n", result.err);
  EXPECT_GT(std::stoll(told.at("extraInfo").at("timestamp").get<std::string>()), 1'700'000'000);
}

}  // namespace
}  // namespace lockstep::testing
