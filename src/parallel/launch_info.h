// Which rank of how many this process is, as flags or whoever started it say.
// SPDX-License-Identifier: Apache-2.0
//
// A launcher tells its processes through environment variables. Of several sets the inner one is
// meant: mpirun in a job of Slurm, and torchrun in a step of srun, start the processes.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "parallel/launch_options.h"

namespace lockstep::parallel {

/// Who said it.
enum class LaunchSource : int {
  /// Nobody: this process is alone.
  kAlone,
  /// --nnodes, --node_rank and --master_addr.
  kFlags,
  /// RANK, WORLD_SIZE and MASTER_ADDR: torchrun, and whoever speaks as it does.
  kTorchrun,
  /// mpirun of Open MPI.
  kOpenMpi,
  /// mpirun_rsh of MVAPICH.
  kMvapich,
  /// PMI_RANK and PMI_SIZE: Hydra's mpiexec (MPICH, Intel MPI), Cray's PALS.
  kPmi,
  /// srun.
  kSlurm,
};

/// What a process knows of its place before it has met the others.
///
/// Example, the second process on the second of two hosts, started by torchrun:
///   {.source = kTorchrun, .rank = 3, .size = 4, .local_rank = 1, .local_size = 2, .node = 1,
///    .num_nodes = 2, .master_address = "n01", .master_port = 29500, .run_id = "none", …}
struct LaunchInfo {
  LaunchSource source = LaunchSource::kAlone;
  /// This process among all, and how many there are.
  int64_t rank = 0, size = 1;
  /// This process among those of its host, and how many these are.
  int64_t local_rank = 0, local_size = 1;
  /// The host of this process among all hosts.
  int64_t node = 0, num_nodes = 1;
  /// Where the ranks meet: rank 0 listens there, or the launcher where `uses_agent_store`. A
  /// process that is alone may have none.
  std::string master_address;
  uint16_t master_port = 0;
  /// Names the run among those that may meet at the same address; "" where nobody names it.
  std::string run_id;
  /// How often the launcher has started this run anew. What was left in a store by an earlier
  /// attempt is of no use.
  int64_t restart_count = 0;
  /// The launcher listens at the address already, so that every rank is a client, rank 0 as well.
  bool uses_agent_store = false;
  /// Where the launcher wants to read why this process failed; "" where it does not.
  std::string error_file;
  /// The hosts by node, as far as the launcher names them; else empty.
  std::vector<std::string> hosts;

  bool is_alone() const { return size == 1; }
};

/// The value of an environment variable, unset where there is none.
using Environment = std::function<std::optional<std::string>(const std::string& name)>;

/// Reads the flags, or the first of these sets that is complete: torchrun's, Open MPI's, MVAPICH's,
/// PMI's, and that of a step of Slurm. A program in a script of sbatch is alone, though Slurm
/// counts the tasks of the job to it.
///
/// Throws ConfigError "bad-launch" for a value that is malformed or contradicts another, and
/// "unsupported-world-size" where a launcher started several processes and says not enough for them
/// to meet; each names the variable or the flag.
LaunchInfo read_launch_info(const Environment& environment, const LaunchOptions& options = {});

/// What a process may compute with.
struct ProcessorCount {
  /// Those that it may run on, and those of the host.
  int64_t usable = 1, online = 1;
};
/// How many threads each process of a host gets, so that together they have as many as there are
/// processors. mpirun and srun often bind processes to processors of their own, torchrun does not:
/// there all of them share what each of them may use.
int64_t fair_threads(const LaunchInfo& info,
                     const Environment& environment,
                     const ProcessorCount& processors);

/// One line for people: "rank 3 of 16 on host 1 of 2 (n01, n02); they meet at n01:29500; by RANK,
/// WORLD_SIZE and MASTER_ADDR (torchrun)".
std::string describe(const LaunchInfo& info);

}  // namespace lockstep::parallel
