// Reads what launchers say of a process.
// SPDX-License-Identifier: Apache-2.0
#include "parallel/launch_info.h"

#include <algorithm>
#include <charconv>
#include <initializer_list>
#include <span>
#include <tuple>
#include <utility>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/digest.h"
#include "parallel/slurm_lists.h"

namespace lockstep::parallel {
namespace {

constexpr int64_t kMostRanks = static_cast<int64_t>(LaunchOptions::kMostRanks);
/// torchrun's and accelerate's own.
constexpr uint16_t kStandardPort = 29500;
/// Ports of jobs lie in [20000, 40000).
constexpr int64_t kFirstJobPort = 20000, kNumJobPorts = 20000;

/// Variables by name, without blanks around their values; an empty one is as good as none.
class Variables {
 public:
  explicit Variables(const Environment& environment) : environment_(environment) {}

  std::string text(const std::string& name) const {
    const std::string value = environment_(name).value_or("");
    const size_t begin = value.find_first_not_of(" \t\n");
    if (begin == std::string::npos) return "";
    return value.substr(begin, value.find_last_not_of(" \t\n") + 1 - begin);
  }
  bool has(const std::string& name) const { return !text(name).empty(); }
  bool has_all(const std::initializer_list<const char*>& names) const {
    return std::all_of(names.begin(), names.end(), [&](const char* name) { return has(name); });
  }
  /// A whole number of [low, high]. Throws ConfigError "bad-launch".
  int64_t number(const std::string& name, int64_t low, int64_t high) const {
    const std::string value = text(name);
    int64_t number = 0;
    const auto [rest, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (value.empty() || error != std::errc() || rest != value.data() + value.size() ||
        number < low || number > high)
      fail<ConfigError>("bad-launch", name, "expected a whole number from {} to {}, got {}", low,
                        high, value.empty() ? "nothing" : value.substr(0, 100));
    return number;
  }
  int64_t number_or(const std::string& name, int64_t low, int64_t high, int64_t otherwise) const {
    return has(name) ? number(name, low, high) : otherwise;
  }
  /// A count and a number below it, as in RANK and WORLD_SIZE.
  std::pair<int64_t, int64_t> rank_and_size(const std::string& rank,
                                            const std::string& size) const {
    const int64_t of = number(size, 1, kMostRanks);
    return {number(rank, 0, of - 1), of};
  }

 private:
  const Environment& environment_;
};

uint16_t port_of(const Variables& variables, uint16_t otherwise) {
  return static_cast<uint16_t>(variables.number_or("MASTER_PORT", 1, 65535, otherwise));
}

/// The same port for all ranks of a job, and mostly another one for another job on these hosts.
uint16_t job_port(int64_t job) { return static_cast<uint16_t>(kFirstJobPort + job % kNumJobPorts); }
uint16_t job_port(const std::string& job) {
  return job_port(static_cast<int64_t>(digest_of(job).low >> 1));
}

LaunchInfo read_torchrun(const Variables& variables) {
  LaunchInfo info{.source = LaunchSource::kTorchrun};
  std::tie(info.rank, info.size) = variables.rank_and_size("RANK", "WORLD_SIZE");
  // DeepSpeed's launcher calls the second LOCAL_SIZE. Where nobody says it, there are as many
  // processes on this host as their numbers show.
  info.local_rank = variables.number_or("LOCAL_RANK", 0, info.size - 1, 0);
  const char* const local_size =
      variables.has("LOCAL_WORLD_SIZE") ? "LOCAL_WORLD_SIZE" : "LOCAL_SIZE";
  info.local_size =
      variables.number_or(local_size, info.local_rank + 1, info.size, info.local_rank + 1);
  if (variables.has_all({"GROUP_RANK", "GROUP_WORLD_SIZE"})) {
    std::tie(info.node, info.num_nodes) = variables.rank_and_size("GROUP_RANK", "GROUP_WORLD_SIZE");
  } else {
    info.node = info.rank / info.local_size;
    info.num_nodes = std::max(info.node + 1, (info.size + info.local_size - 1) / info.local_size);
  }
  info.master_address = variables.text("MASTER_ADDR");
  info.master_port = port_of(variables, kStandardPort);
  info.run_id = variables.text("TORCHELASTIC_RUN_ID");
  info.restart_count = variables.number_or("TORCHELASTIC_RESTART_COUNT", 0, INT32_MAX, 0);
  info.uses_agent_store = variables.text("TORCHELASTIC_USE_AGENT_STORE") == "True";
  info.error_file = variables.text("TORCHELASTIC_ERROR_FILE");
  return info;
}

/// The address that MPI's launchers do not tell: MASTER_ADDR where the user passes it on, this host
/// where there is no other, else the first host of the job of Slurm in which mpirun was called.
void find_meeting_point(const Variables& variables, const char* rank_variable, LaunchInfo& info) {
  for (const char* list : {"SLURM_JOB_NODELIST", "SLURM_NODELIST"})
    if (info.hosts.empty() && variables.has(list))
      info.hosts = expand_node_list(list, variables.text(list));
  // Hosts of the job that mpirun left out, or that it counts otherwise, are none of the run.
  const bool are_all = static_cast<int64_t>(info.hosts.size()) == info.num_nodes;
  const std::string first = info.hosts.empty() ? "" : info.hosts.front();
  if (!are_all) info.hosts.clear();
  info.master_address = variables.text("MASTER_ADDR");
  if (!info.master_address.empty()) return;
  if (info.local_size == info.size) {
    info.master_address = "127.0.0.1";
  } else if (!first.empty()) {
    info.master_address = first;
  } else {
    fail<ConfigError>("unsupported-world-size", "MASTER_ADDR",
                      "expected the host of rank 0, where {} ranks on several hosts meet, got "
                      "nothing, and {} comes without it (hint: mpirun -x MASTER_ADDR=HOST with "
                      "Open MPI, mpiexec -genv MASTER_ADDR HOST with others)",
                      info.size, rank_variable);
  }
}

/// The node of a rank where only its place on its host is told: ranks that fill one host after the
/// other.
void count_nodes(LaunchInfo& info) {
  info.num_nodes = (info.size + info.local_size - 1) / info.local_size;
  info.node =
      std::clamp<int64_t>((info.rank - info.local_rank) / info.local_size, 0, info.num_nodes - 1);
}

LaunchInfo read_open_mpi(const Variables& variables) {
  LaunchInfo info{.source = LaunchSource::kOpenMpi};
  std::tie(info.rank, info.size) =
      variables.rank_and_size("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE");
  std::tie(info.local_rank, info.local_size) =
      variables.rank_and_size("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE");
  count_nodes(info);
  info.run_id = variables.text("PMIX_NAMESPACE");
  find_meeting_point(variables, "OMPI_COMM_WORLD_RANK", info);
  info.master_port =
      port_of(variables, info.run_id.empty() ? kStandardPort : job_port(info.run_id));
  return info;
}

LaunchInfo read_mvapich(const Variables& variables) {
  LaunchInfo info{.source = LaunchSource::kMvapich};
  std::tie(info.rank, info.size) =
      variables.rank_and_size("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE");
  std::tie(info.local_rank, info.local_size) =
      variables.rank_and_size("MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE");
  count_nodes(info);
  find_meeting_point(variables, "MV2_COMM_WORLD_RANK", info);
  info.master_port = port_of(variables, kStandardPort);
  return info;
}

LaunchInfo read_pmi(const Variables& variables) {
  LaunchInfo info{.source = LaunchSource::kPmi};
  std::tie(info.rank, info.size) = variables.rank_and_size("PMI_RANK", "PMI_SIZE");
  // Hydra's names, then PALS's. Where neither is there, the ranks may be anywhere.
  if (variables.has_all({"MPI_LOCALRANKID", "MPI_LOCALNRANKS"}))
    std::tie(info.local_rank, info.local_size) =
        variables.rank_and_size("MPI_LOCALRANKID", "MPI_LOCALNRANKS");
  else if (variables.has_all({"PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"}))
    std::tie(info.local_rank, info.local_size) =
        variables.rank_and_size("PMI_LOCAL_RANK", "PMI_LOCAL_SIZE");
  count_nodes(info);
  info.run_id = variables.text("PMI_JOBID");
  find_meeting_point(variables, "PMI_RANK", info);
  info.master_port = port_of(variables, kStandardPort);
  return info;
}

/// Whether this process is a task of a step. A script of sbatch has SLURM_PROCID and SLURM_NTASKS
/// as tasks have them, but no SLURM_STEP_ID; those of a step are there as well when the script was
/// submitted from one, and then count other tasks than Slurm itself does on this host.
bool is_slurm_task(const Variables& variables) {
  const std::string step = variables.text("SLURM_STEP_ID");
  uint32_t number = 0;
  const auto [rest, error] = std::from_chars(step.data(), step.data() + step.size(), number);
  // The last ones are no steps but the script, an interactive shell and the like.
  constexpr uint32_t kFirstSpecial = 0xfffffff0;
  if (step.empty() || error != std::errc() || rest != step.data() + step.size() ||
      number >= kFirstSpecial)
    return false;
  if (!variables.has_all({"SLURM_PROCID", "SLURM_STEP_NUM_TASKS"})) return false;
  if (!variables.has_all({"SLURM_GTIDS", "SLURM_NODEID", "SLURM_STEP_TASKS_PER_NODE"})) return true;
  const std::string tasks = variables.text("SLURM_GTIDS");
  const std::vector<int64_t> counts =
      expand_task_counts("SLURM_STEP_TASKS_PER_NODE", variables.text("SLURM_STEP_TASKS_PER_NODE"));
  const int64_t node = variables.number("SLURM_NODEID", 0, kMostRanks);
  return node < static_cast<int64_t>(counts.size()) &&
         std::count(tasks.begin(), tasks.end(), ',') + 1 == counts[static_cast<size_t>(node)];
}

LaunchInfo read_slurm(const Variables& variables) {
  LaunchInfo info{.source = LaunchSource::kSlurm};
  std::tie(info.rank, info.size) = variables.rank_and_size("SLURM_PROCID", "SLURM_STEP_NUM_TASKS");
  info.hosts = expand_node_list("SLURM_STEP_NODELIST", variables.text("SLURM_STEP_NODELIST"));
  info.num_nodes = static_cast<int64_t>(info.hosts.size());
  info.node = variables.number("SLURM_NODEID", 0, info.num_nodes - 1);
  const std::vector<int64_t> counts =
      expand_task_counts("SLURM_STEP_TASKS_PER_NODE", variables.text("SLURM_STEP_TASKS_PER_NODE"));
  if (counts.size() != info.hosts.size())
    fail<ConfigError>("bad-launch", "SLURM_STEP_TASKS_PER_NODE",
                      "expected counts for {} hosts, as in SLURM_STEP_NODELIST, got {}",
                      info.hosts.size(), counts.size());
  info.local_size = counts[static_cast<size_t>(info.node)];
  info.local_rank = variables.number("SLURM_LOCALID", 0, info.local_size - 1);
  const int64_t job = variables.number("SLURM_JOB_ID", 0, UINT32_MAX);
  info.run_id = fmt::format("{}.{}", job, variables.text("SLURM_STEP_ID"));
  info.restart_count = variables.number_or("SLURM_RESTART_COUNT", 0, INT32_MAX, 0);
  info.master_address = variables.text("MASTER_ADDR");
  if (info.master_address.empty()) {
    if (info.rank == 0 && info.node != 0)
      fail<ConfigError>("unsupported-world-size", "MASTER_ADDR",
                        "expected the host of rank 0, which is not the first of "
                        "SLURM_STEP_NODELIST in this step, got nothing (hint: export "
                        "MASTER_ADDR={} before srun)",
                        info.hosts[static_cast<size_t>(info.node)]);
    info.master_address = info.hosts.front();
  }
  info.master_port = port_of(variables, job_port(job));
  return info;
}

LaunchInfo read_launcher(const Variables& variables) {
  if (variables.has_all({"RANK", "WORLD_SIZE", "MASTER_ADDR"})) return read_torchrun(variables);
  if (variables.has_all({"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"}))
    return read_open_mpi(variables);
  if (variables.has_all({"MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"}))
    return read_mvapich(variables);
  const bool is_task = is_slurm_task(variables);
  // srun --mpi=pmi2 says the same twice, and more of it in its own variables.
  const bool is_pmi_of_slurm = is_task && !variables.has("MPI_LOCALRANKID") &&
                               variables.text("PMI_RANK") == variables.text("SLURM_PROCID") &&
                               variables.text("PMI_SIZE") == variables.text("SLURM_STEP_NUM_TASKS");
  if (variables.has_all({"PMI_RANK", "PMI_SIZE"}) && !is_pmi_of_slurm) return read_pmi(variables);
  return is_task ? read_slurm(variables) : LaunchInfo{};
}

/// How launchers count whose ranks cannot meet here, or which did not say enough; a process that
/// believed itself alone would be one of several runs, each writing over the others.
void refuse_unknown_launchers(const Variables& variables) {
  const auto refuse = [](const char* variable, const std::string& value, const std::string& hint) {
    fail<ConfigError>("unsupported-world-size", variable,
                      "expected a launcher that says where the ranks meet, got {} alone, for which "
                      "each process would be a run of its own (hint: {}; unset it where that is "
                      "meant)",
                      value, hint);
  };
  constexpr std::pair<const char*, const char*> kCounts[] = {
      {"WORLD_SIZE", "RANK and MASTER_ADDR belong to it; torchrun --no-python sets all of them"},
      {"NPROC_PER_NODE", "one command is one process: torchrun --no-python --nproc_per_node N"},
      {"NNODES", "one command is one process: --nnodes with --node_rank, or torchrun --no-python"},
      {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK belongs to it"},
      {"PMI_SIZE", "PMI_RANK belongs to it"},
      {"MPI_LOCALNRANKS", "PMI_RANK and PMI_SIZE belong to it"},
      {"MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK belongs to it"},
      {"HOROVOD_SIZE", "torchrun --no-python, mpirun or srun in place of horovodrun"},
      {"JSM_NAMESPACE_SIZE", "torchrun --no-python or mpirun in place of jsrun"},
      {"FLUX_JOB_SIZE", "torchrun --no-python or mpirun in place of flux run"}};
  for (const auto& [variable, hint] : kCounts)
    if (const std::string value = variables.text(variable); !value.empty() && value != "1")
      refuse(variable, value, hint);
  // PRRTE's prun, and whatever else speaks PMIx, tells a process its own number alone: above 0 it
  // has company.
  if (const std::string value = variables.text("PMIX_RANK"); !value.empty() && value != "0")
    refuse("PMIX_RANK", value, "torchrun --no-python, mpirun or srun");
}

/// Ranks that no launcher started: one on each host, as the flags say.
LaunchInfo read_flags(const LaunchOptions& options) {
  const auto need = [&](bool is_there, const char* flag, const char* what) {
    if (!is_there)
      fail<ConfigError>("bad-flag", flag, "expected {} with --nnodes {}, got nothing", what,
                        *options.nnodes);
  };
  need(options.node_rank.has_value(), "--node_rank", "the number of this host");
  need(!options.master_addr.empty(), "--master_addr", "the name of host 0");
  if (*options.node_rank >= *options.nnodes)
    fail<ConfigError>("bad-flag", "--node_rank", "expected a number below --nnodes {}, got {}",
                      *options.nnodes, *options.node_rank);
  return {.source = LaunchSource::kFlags,
          .rank = *options.node_rank,
          .size = *options.nnodes,
          .node = *options.node_rank,
          .num_nodes = *options.nnodes,
          .master_address = options.master_addr,
          .master_port = static_cast<uint16_t>(options.master_port.value_or(kStandardPort))};
}

std::string_view source_name(LaunchSource source) {
  switch (source) {
    case LaunchSource::kAlone:
      return "no launcher";
    case LaunchSource::kFlags:
      return "--nnodes and --node_rank";
    case LaunchSource::kTorchrun:
      return "RANK, WORLD_SIZE and MASTER_ADDR (torchrun)";
    case LaunchSource::kOpenMpi:
      return "OMPI_COMM_WORLD_RANK and _SIZE (Open MPI)";
    case LaunchSource::kMvapich:
      return "MV2_COMM_WORLD_RANK and _SIZE (MVAPICH)";
    case LaunchSource::kPmi:
      return "PMI_RANK and PMI_SIZE (Hydra, PALS)";
    case LaunchSource::kSlurm:
      return "SLURM_PROCID and SLURM_STEP_NUM_TASKS (srun)";
  }
  return "";
}

/// Lays the flags over what a launcher said: they may move the meeting point, not the ranks.
void apply_flags(const LaunchOptions& options, LaunchInfo& info) {
  const auto agree = [&](const char* flag, std::optional<int64_t> said, int64_t told) {
    if (said && *said != told)
      fail<ConfigError>("bad-flag", flag, "expected {}, by {}, got {}", told,
                        source_name(info.source), *said);
  };
  // MPI's launchers do not number the hosts.
  if (info.source == LaunchSource::kAlone || info.source == LaunchSource::kTorchrun ||
      info.source == LaunchSource::kSlurm) {
    agree("--nnodes", options.nnodes, info.num_nodes);
    agree("--node_rank", options.node_rank, info.node);
  }
  if (info.is_alone()) return;
  if (info.uses_agent_store) {
    agree("--master_port", options.master_port, info.master_port);
    if (!options.master_addr.empty() && options.master_addr != info.master_address)
      fail<ConfigError>("bad-flag", "--master_addr",
                        "expected {}, where torchrun listens itself, got {}", info.master_address,
                        options.master_addr);
    return;
  }
  if (!options.master_addr.empty()) info.master_address = options.master_addr;
  if (options.master_port) info.master_port = static_cast<uint16_t>(*options.master_port);
}

}  // namespace

LaunchInfo read_launch_info(const Environment& environment, const LaunchOptions& options) {
  const Variables variables(environment);
  LaunchInfo info = read_launcher(variables);
  if (info.is_alone() && options.nnodes.value_or(1) > 1) return read_flags(options);
  if (info.is_alone()) refuse_unknown_launchers(variables);
  apply_flags(options, info);
  return info;
}

int64_t fair_threads(const LaunchInfo& info,
                     const Environment& environment,
                     const ProcessorCount& processors) {
  const bool may_be_bound =
      info.source == LaunchSource::kOpenMpi || info.source == LaunchSource::kMvapich ||
      info.source == LaunchSource::kPmi || info.source == LaunchSource::kSlurm;
  // A job of Slurm may have a part of the host's processors alone.
  const int64_t shared =
      may_be_bound
          ? Variables(environment).number_or("SLURM_CPUS_ON_NODE", 1, kMostRanks, processors.online)
          : processors.usable;
  return std::max<int64_t>(1, std::min(processors.usable, shared / info.local_size));
}

std::string describe(const LaunchInfo& info) {
  if (info.is_alone()) return fmt::format("one process, by {}", source_name(info.source));
  // A list of hundreds of hosts hides the rest of the line.
  constexpr size_t kMostNamed = 8;
  std::string hosts;
  if (!info.hosts.empty()) {
    const std::span named = std::span(info.hosts).first(std::min(kMostNamed, info.hosts.size()));
    hosts = fmt::format(" ({}{})", fmt::join(named, ", "),
                        named.size() < info.hosts.size() ? ", …" : "");
  }
  return fmt::format("rank {} of {} on host {} of {}{}; they meet at {}:{}; by {}", info.rank,
                     info.size, info.node, info.num_nodes, hosts, info.master_address,
                     info.master_port, source_name(info.source));
}

}  // namespace lockstep::parallel
