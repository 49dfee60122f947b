// lockstep sft and lockstep grpo: turn flags into a training run.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdlib>
#include <utility>

#include <fmt/ranges.h>

#include "agent/served_turns.h"
#include "base/check.h"
#include "base/json.h"
#include "base/log.h"
#include "base/log_scope.h"
#include "cli/commands.h"
#include "cli/dashboard.h"
#include "cli/flag_classes.h"
#include "cli/live_view.h"
#include "cli/progress.h"
#include "cli/ranks.h"
#include "cli/reward_flags.h"
#include "grpo/grpo.h"
#include "grpo/run_data.h"
#include "grpo/sft.h"
#include "net/http_client.h"
#include "text/row_files.h"

namespace lockstep::cli {
namespace {

/// A progress line of what a run does at the moment.
ProgressState progress_of(const std::string& adapter, const grpo::RunStatus& status) {
  ProgressState state{.label = adapter.empty() ? "step" : adapter + ": step",
                      .done = status.step,
                      .total = status.max_steps};
  state.seconds_left = status.seconds_left;
  if (status.is_resting) return state;
  state.detail = phase_doing(status.phase);
  if (status.total > 0) state.detail += fmt::format(" {}/{}", status.done, status.total);
  const auto tokens = static_cast<double>(status.tokens);
  if (tokens > 0 && status.seconds > 0) state.rate = rate_text(tokens / status.seconds, "tokens");
  if (status.seconds_left || tokens <= 0) return state;
  // Until the first step is done, only the end of this phase can be foreseen.
  const double left = static_cast<double>(status.total_tokens) - tokens;
  state.seconds_left = left * status.seconds / tokens;
  if (status.phase == grpo::Phase::kRollout) state.before_left = "at most ";
  state.after_left = fmt::format(" for {}", phase_doing(status.phase));
  return state;
}

grpo::TrainingOptions& training_of(grpo::SftRunSpec& run) { return run.training; }
grpo::TrainingOptions& training_of(grpo::GrpoRunSpec& run) { return run.options.training; }

/// The options of a run for args.json. Those of one of several adapters are what trains it alone.
Json args_of(const CommandContext& context,
             const FlagSet& flags,
             const grpo::NamedAdapter* adapter,
             const grpo::TrainingOptions& training) {
  Json args = flags.to_json();
  // A key is nobody's business who may read the run directory.
  for (const char* key : {"rollout_api_key", "reward_api_key"})
    if (args.contains(key) && args[key] != "") args[key] = "(hidden)";
  args["notices"] = context.notices;
  if (!adapter) return args;
  args["notices"].push_back(fmt::format("one of the adapters of --train_adapter {}",
                                        fmt::join(training.adapter_set.train_adapter, " ")));
  args["train_adapter"] = args["train_adapter_seed"] = Json::array();
  args["dataset"] = training.data.dataset;
  args["output_dir"] = training.run.output_dir;
  if (adapter->seed) args["seed"] = *adapter->seed;
  return args;
}

/// What a loop gets besides its options. The run directory is claimed before the model and the data
/// are read.
grpo::RunContext run_context(CommandContext& context,
                             const FlagSet& flags,
                             const grpo::NamedAdapter* adapter,
                             const grpo::TrainingOptions& training) {
  grpo::RunContext run;
  run.ranks = &context.ranks();
  run.claim = grpo::claim_together(training.run, context.inputs, *run.ranks);
  run.seed = context.common.seed;
  if (adapter) {
    run.name = adapter->name;
    run.seed = adapter->seed.value_or(run.seed);
  }
  run.exact = context.common.exact;
  run.torch_dtype = context.common.torch_dtype;
  run.args = args_of(context, flags, adapter, training);
  run.resume_rules = flags.resume_rules();
  run.on_start = [&] { context.phase.start(); };
  run.on_log = [](const std::vector<grpo::LogField>& fields) {
    // The name of one of several adapters stands before it.
    const int width = terminal_width(), before = static_cast<int>(log_scope().size());
    log_info("{}", grpo::fitted_line(fields, width ? std::max(1, width - before) : 0));
  };
  return run;
}

/// Says what the command reads, so that no run directory destroys it.
void tell_inputs(CommandContext& context,
                 const grpo::TrainingOptions& training,
                 const std::vector<grpo::NamedAdapter>& adapters) {
  const auto reads_rows = [&](const char* flag, const std::vector<std::string>& names) {
    for (const std::string& name : names) context.reads(flag, text::dataset_path(name));
  };
  context.reads("--model", training.model.model);
  context.reads("--adapters", training.tuner.adapters);
  reads_rows("--dataset", training.data.dataset);
  for (const grpo::NamedAdapter& adapter : adapters) reads_rows("--train_adapter", adapter.dataset);
  reads_rows("--val_dataset", training.data.val_dataset);
  if (grpo::is_system_file(training.model.system)) context.reads("--system", training.model.system);
}

/// A run that the launcher has started anew goes on from what it has saved. Without a checkpoint it
/// begins again, as with --resume_from_checkpoint last.
void go_on_after_restart(const CommandContext& context, grpo::RunOptions& options) {
  if (context.launch.restart_count == 0) return;
  // One that was given names where the first attempt began.
  if (!options.resume_from_checkpoint.empty() && !grpo::newest_checkpoint(options.output_dir))
    return;
  options.resume_from_checkpoint = "last";
  log_info("restart {}: the run goes on from its last checkpoint", context.launch.restart_count);
}

/// The runs of a command: the one that its flags say, or one of each adapter of --train_adapter.
template <class Run>
std::vector<Run> claim_runs(CommandContext& context, const FlagSet& flags, Run said) {
  go_on_after_restart(context, training_of(said).run);
  const grpo::TrainingOptions training = training_of(said);
  const std::vector<grpo::NamedAdapter> adapters = grpo::named_adapters(training);
  tell_inputs(context, training, adapters);
  std::vector<Run> runs;
  if (adapters.empty()) {
    said.context = run_context(context, flags, nullptr, training);
    runs.push_back(std::move(said));
  }
  for (const grpo::NamedAdapter& adapter : adapters) {
    Run& run = runs.emplace_back(said);
    training_of(run) = grpo::options_of(adapter, training);
    run.context = run_context(context, flags, &adapter, training_of(run));
  }
  // --model_type and the like may be given, but not contradict config.json.
  check_declared_family(context.accepted,
                        enum_name(train::load_config(training.model.model).family));
  return runs;
}

Progress::Options run_progress(const CommandContext& context,
                               const FollowOptions& following,
                               const LiveView& view) {
  return {.label = "step",
          .show = context.show_progress(),
          .kind = following.progress,
          .above = [&view](int width) { return view.rows(width); }};
}

/// Shows on one line what the runs do, and above it how they learn. Other ranks are told of it when
/// this one fails.
template <class Run>
void show(const CommandContext& context,
          std::vector<Run>& runs,
          Progress& progress,
          LiveView& view) {
  for (Run& run : runs) {
    const std::string name = run.context.name;
    parallel::Recorder& recorder = *context.peers.recorder;
    run.context.on_status = [&progress, &recorder, name](const grpo::RunStatus& status) {
      // What follows a step is still of it.
      const bool is_after =
          status.phase == grpo::Phase::kEval || status.phase == grpo::Phase::kSave;
      recorder.enter(status.is_resting ? "between phases" : phase_doing(status.phase),
                     status.step + (status.is_resting || is_after ? 0 : 1));
      progress.update(progress_of(name, status));
    };
    run.context.on_line = [&view, name](const Json& line) { view.take_line(name, line); };
    run.context.on_sample = [&view](const grpo::ShownSample& sample) { view.take_sample(sample); };
  }
}

/// The server of --dashboard, if that is asked for. A busy port ends the command here, before
/// anything is computed.
template <class Run>
std::unique_ptr<Dashboard> open_dashboard(const FollowOptions& options,
                                          const std::vector<Run>& runs) {
  if (!options.dashboard || !runs.front().context.ranks->is_first()) return nullptr;
  std::vector<std::filesystem::path> directories;
  for (const Run& run : runs) directories.push_back(run.context.claim.path);
  auto dashboard = std::make_unique<Dashboard>(
      options.dashboard_host, static_cast<uint16_t>(*options.dashboard), directories);
  log_info("dashboard: {}", dashboard->address());
  return dashboard;
}

/// How long the end of a run waits for a page that is looked at to see it.
constexpr std::chrono::seconds kLastLook{3};

template <class Options>
void add_groups(FlagSet& flags, Options& options) {
  options.for_each_group([&](const char* name, auto& group) { flags.add_group(name, group); });
}

}  // namespace

void run_sft(CommandContext& context, std::span<const std::string> arguments) {
  grpo::SftRunSpec said;
  grpo::SftOptions options;
  FollowOptions following;
  FlagSet flags("sft", "Trains a model on the assistant's turns of conversations.");
  add_groups(flags, said.training);
  flags.add_group("sft", options);
  flags.add_group("following a run", following);
  add_launch_flags(context, flags);
  flags.use_classes(sft_flag_classes());
  flags.require("model");
  flags.require("dataset", "train_adapter");
  if (!begin_command(context, flags, arguments)) return;
  join_ranks(context, flags);
  auto runs = claim_runs(context, flags, said);
  const auto dashboard = open_dashboard(following, runs);
  LiveView view;
  Progress progress(run_progress(context, following, view));
  show(context, runs, progress, view);
  grpo::run_sft(options, runs);
  if (dashboard) dashboard->let_watchers_see_the_end(kLastLook);
}

namespace {

/// Where servers sample and this run's flags say nothing of turns, those that the first server was
/// started with say it, as with ms-swift, whose servers make the turns.
void take_turns_of_server(grpo::GrpoRunOptions& options) {
  const grpo::RolloutOptions& rollout = options.rollout;
  if (!rollout.is_served() || rollout.rollout_server.empty() || options.agent.is_on() ||
      rollout.rollout_engine == grpo::RolloutEngine::kVllm)
    return;
  constexpr double kLongestStart = 240;
  const std::string& url = rollout.rollout_server.front();
  const auto turns = agent::ask_for_turns(
      url, rollout.rollout_api_key,
      std::chrono::milliseconds(
          static_cast<int64_t>(1000 * std::min(rollout.rollout_timeout, kLongestStart))));
  if (!turns) return;
  // What it names is run here.
  if (!net::is_this_machine(url))
    fail<ConfigError>("bad-flag", "--multi_turn_scheduler",
                      "expected the flags of turns with a server of another machine, which may not "
                      "say what runs on this one, got none; it was started with {}",
                      dump_json(agent::json_of(*turns), /*spaced=*/true));
  options.agent.multi_turn_scheduler = turns->multi_turn_scheduler;
  options.agent.gym_env = turns->gym_env;
  options.agent.use_gym_env = turns->use_gym_env;
  if (!options.agent.max_turns) options.agent.max_turns = turns->max_turns;
  auto& plugins = options.reward.plugins.external_plugins;
  if (plugins.empty()) plugins = turns->external_plugins;
  log_info("turns: as {} says: {}", url, dump_json(agent::json_of(*turns), /*spaced=*/true));
}

}  // namespace

void run_grpo(CommandContext& context, std::span<const std::string> arguments) {
  grpo::GrpoRunSpec said;
  grpo::GrpoRunOptions& options = said.options;
  FollowOptions following;
  FlagSet flags("grpo", "Trains a model by group relative policy optimisation.");
  add_groups(flags, options);
  flags.add_group("following a run", following);
  add_launch_flags(context, flags);
  flags.use_classes(grpo_flag_classes());
  flags.require("model");
  flags.require("dataset", "train_adapter");
  if (!begin_command(context, flags, arguments)) return;
  join_ranks(context, flags);
  if (options.rollout.rollout_api_key.empty())
    if (const char* const key = std::getenv("LOCKSTEP_API_KEY"))
      options.rollout.rollout_api_key = key;
  take_turns_of_server(options);
  complete_reward_options(options.reward);
  options.reward.has_environment = options.agent.has_environment();
  options.reward.validate();
  for (const std::string& file : options.reward.plugins.external_plugins)
    context.reads("--external_plugins", file);
  context.reads("--ref_model", options.grpo.ref_model);
  context.reads("--ref_adapters", options.grpo.ref_adapters);
  context.reads("--tool_schemas", options.agent.tool_schemas);
  auto runs = claim_runs(context, flags, said);
  const auto dashboard = open_dashboard(following, runs);
  LiveView view;
  Progress progress(run_progress(context, following, view));
  show(context, runs, progress, view);
  grpo::run_grpo(runs);
  if (dashboard) dashboard->let_watchers_see_the_end(kLastLook);
}

}  // namespace lockstep::cli
