// lockstep sft and lockstep grpo: turn flags into a training run.
// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>

#include "base/json.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/flag_classes.h"
#include "cli/progress.h"
#include "grpo/grpo.h"
#include "grpo/sft.h"
#include "text/row_files.h"

namespace lockstep::cli {
namespace {

/// A progress line of what a run does at the moment.
ProgressState progress_of(const grpo::RunStatus& status) {
  ProgressState state{.label = "step", .done = status.step, .total = status.max_steps};
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

/// What both loops get besides their options.
grpo::RunContext run_context(CommandContext& context,
                             const FlagSet& flags,
                             const grpo::RunClaim& claimed,
                             Progress& progress) {
  grpo::RunContext run;
  run.claim = claimed;
  run.seed = context.common.seed;
  run.exact = context.common.exact;
  run.torch_dtype = context.common.torch_dtype;
  run.args = flags.to_json();
  // A key is nobody's business who may read the run directory.
  if (run.args.contains("rollout_api_key") && run.args["rollout_api_key"] != "")
    run.args["rollout_api_key"] = "(hidden)";
  run.args["notices"] = context.notices;
  run.resume_rules = flags.resume_rules();
  run.on_start = [&] { context.phase.start(); };
  run.on_status = [&progress](const grpo::RunStatus& status) {
    progress.update(progress_of(status));
  };
  run.on_log = [](const std::vector<grpo::LogField>& fields) {
    log_info("{}", grpo::fitted_line(fields, terminal_width()));
  };
  return run;
}

/// Claims the run directory before the model and the data are read.
grpo::RunClaim claim(CommandContext& context, const grpo::TrainingOptions& training) {
  context.reads("--model", training.model.model);
  if (!training.tuner.adapters.empty()) context.reads("--adapters", training.tuner.adapters);
  for (const std::string& name : training.data.dataset)
    context.reads("--dataset", text::dataset_path(name));
  for (const std::string& name : training.data.val_dataset)
    context.reads("--val_dataset", text::dataset_path(name));
  if (grpo::is_system_file(training.model.system)) context.reads("--system", training.model.system);
  return grpo::claim_run(training.run, context.inputs);
}

/// --model_type and the like may be given, but not contradict config.json.
void check_family(const CommandContext& context, const std::string& model) {
  check_declared_family(context.accepted, enum_name(train::load_config(model).family));
}

template <class Options>
void add_groups(FlagSet& flags, Options& options) {
  options.for_each_group([&](const char* name, auto& group) { flags.add_group(name, group); });
}

}  // namespace

void run_sft(CommandContext& context, std::span<const std::string> arguments) {
  grpo::TrainingOptions training;
  grpo::SftOptions options;
  FlagSet flags("sft", "Trains a model on the assistant's turns of conversations.");
  add_groups(flags, training);
  flags.add_group("sft", options);
  flags.use_classes(sft_flag_classes());
  flags.require("model");
  flags.require("dataset");
  if (!begin_command(context, flags, arguments)) return;
  const auto claimed = claim(context, training);
  check_family(context, training.model.model);
  Progress progress({.label = "step", .show = context.show_progress()});
  grpo::run_sft(training, options, run_context(context, flags, claimed, progress));
}

void run_grpo(CommandContext& context, std::span<const std::string> arguments) {
  grpo::GrpoRunOptions options;
  FlagSet flags("grpo", "Trains a model by group relative policy optimisation.");
  add_groups(flags, options);
  flags.use_classes(grpo_flag_classes());
  flags.require("model");
  flags.require("dataset");
  flags.require("reward_funcs");
  if (!begin_command(context, flags, arguments)) return;
  if (options.rollout.rollout_api_key.empty())
    if (const char* const key = std::getenv("LOCKSTEP_API_KEY"))
      options.rollout.rollout_api_key = key;
  context.reads("--ref_model", options.grpo.ref_model);
  if (!options.grpo.ref_adapters.empty())
    context.reads("--ref_adapters", options.grpo.ref_adapters);
  const auto claimed = claim(context, options.training);
  check_family(context, options.training.model.model);
  Progress progress({.label = "step", .show = context.show_progress()});
  grpo::run_grpo(options, run_context(context, flags, claimed, progress));
}

}  // namespace lockstep::cli
