// Runs the runs of a command: one, or those of several adapters, an optimizer step of each in turn.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/log.h"
#include "base/log_scope.h"
#include "grpo/training_run.h"

namespace lockstep::grpo {

/// Calls action() with the adapter's name in front of log lines, and says whose an error is.
template <class Action>
void for_adapter(const std::string& name, Action&& action) {
  try {
    const LogScope scope(name);
    action();
  } catch (const InterruptedError&) {
    throw;
  } catch (const std::exception&) {
    if (!name.empty()) log_line(LogLevel::kError, fmt::format("the adapter {} cannot go on", name));
    throw;
  }
}

/// Trains prepared runs until all have made their steps. What one of them computes does not depend
/// on the others; they share the model, and the memory that a turn takes.
///
/// After a signal the step that has begun is finished, every run is saved, and InterruptedError is
/// thrown; an evaluation that the signal cut short is left to the resumed run. An error of one run
/// ends all: the others are saved, and it is thrown on.
void train_in_turns(std::span<TrainingRun* const> runs);

/// Makes a Run of each spec, over what they share, and trains them in turns. Run::prepare()
/// prepares its TrainingRun and returns it.
template <class Run, class Spec, class Shared>
void make_and_train(std::span<const Spec> specs, Shared& shared) {
  std::vector<std::unique_ptr<Run>> runs;
  std::vector<TrainingRun*> training;
  for (const Spec& spec : specs)
    for_adapter(spec.context.name, [&] {
      runs.push_back(std::make_unique<Run>(spec, shared));
      training.push_back(&runs.back()->prepare());
    });
  train_in_turns(training);
}

}  // namespace lockstep::grpo
