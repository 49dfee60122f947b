// SPDX-License-Identifier: Apache-2.0
#include "grpo/turns.h"

#include <algorithm>
#include <exception>
#include <filesystem>

#include <fmt/ranges.h>

#include "base/interrupt.h"

namespace lockstep::grpo {
namespace {

using Runs = std::vector<TrainingRun*>;

/// Saves the runs. Where that fails for one, the others are saved all the same, and the first error
/// is thrown.
std::vector<std::string> save_all(const Runs& runs) {
  std::vector<std::string> checkpoints;
  std::exception_ptr error;
  for (TrainingRun* run : runs) {
    try {
      for_adapter(run->name(), [&] {
        if (const auto saved = run->stop(); !saved.empty()) checkpoints.push_back(saved.string());
      });
    } catch (...) {
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
  return checkpoints;
}

/// Ends the command after a signal.
[[noreturn]] void stop(const Runs& runs) {
  const std::vector<std::string> checkpoints = save_all(runs);
  std::vector<std::string> steps;
  for (const TrainingRun* run : runs)
    steps.push_back(fmt::format("{}{}step {} of {}", run->name(), run->name().empty() ? "" : ": ",
                                run->global_step(), run->max_steps()));
  std::string saved = "nothing is saved";
  if (!checkpoints.empty())
    saved = fmt::format(
        "{} {} saved{}", fmt::join(checkpoints, ", "), checkpoints.size() == 1 ? "is" : "are",
        runs.front()->can_be_resumed() ? " (hint: --resume_from_checkpoint last goes on)"
                                       : ", which cannot be resumed");
  fail<InterruptedError>("interrupted", fmt::format("{}", fmt::join(steps, "; ")),
                         "expected to go on, got {}; {}", interrupt_name(), saved);
}

/// Takes those that are over out of the list and finishes them; after a signal, of which all ranks
/// knew when `last` had its turn, stops the others.
void end_some(Runs& runs, const TrainingRun& last) {
  const bool is_interrupted = last.is_interrupted();
  const auto over = std::stable_partition(runs.begin(), runs.end(),
                                          [](const TrainingRun* run) { return !run->is_over(); });
  const Runs done(over, runs.end());
  runs.erase(over, runs.end());
  for (TrainingRun* run : done) for_adapter(run->name(), [&] { run->finish(); });
  if (is_interrupted && !runs.empty()) stop(runs);
}

/// An adapter that cannot go on costs the others no step, if this process is the whole run: where
/// it is one of several ranks the others may not know of the error, and wait elsewhere.
void take_turn(TrainingRun& run, const Runs& runs) {
  try {
    for_adapter(run.name(), [&] { run.turn(); });
  } catch (const InterruptedError&) {
    for (TrainingRun* one : runs) one->write_report();
    throw;
  } catch (const std::exception&) {
    run.write_report();
    if (!run.is_alone()) throw;
    Runs others = runs;
    std::erase(others, &run);
    try {
      save_all(others);
    } catch (const std::exception& error) {
      log_warning("the other adapters are not all saved: {}", error.what());
    }
    throw;
  }
}

}  // namespace

void train_in_turns(std::span<TrainingRun* const> all) {
  TrainingRun::plan_memory(all);
  for (TrainingRun* run : all) for_adapter(run->name(), [&] { run->open(); });
  if (all.back()->is_interrupted()) throw_if_interrupted();
  if (log_level() <= LogLevel::kInfo)
    announce_interrupt(all.front()->saves_on_interrupt()
                           ? "\nlockstep: the run ends when this step is done and saved; a second "
                             "signal ends it at once\n"
                           : "\nlockstep: the run ends without saving\n");
  for (TrainingRun* run : all) for_adapter(run->name(), [&] { run->start(); });
  Runs runs(all.begin(), all.end());
  end_some(runs, *all.back());
  while (!runs.empty()) {
    const Runs round = runs;
    for (TrainingRun* run : round) {
      take_turn(*run, runs);
      end_some(runs, *run);
    }
  }
  announce_interrupt(nullptr);
}

}  // namespace lockstep::grpo
