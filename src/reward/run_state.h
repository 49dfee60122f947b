// How far a run is, for rewards that change on the way.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace lockstep::reward {

/// As transformers' TrainerState names it. Outside of a training all is 0.
struct RunState {
  /// How many optimizer steps are done, and how many there are.
  int64_t global_step = 0, max_steps = 0;
  /// Passes over the rows that are done, and how many there are.
  double epoch = 0, num_train_epochs = 0;
};

}  // namespace lockstep::reward
