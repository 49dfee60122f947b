// The program as several ranks of a run.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/e2e/program_files.h"
#include "tests/support/loopback_listener.h"

namespace lockstep::testing {

/// What a rank has besides the others' arguments and world.
struct OwnOfRank {
  int64_t rank = -1;
  Arguments arguments = {};
  ProgramWorld world = {};
};

/// The ranks of a run as torchrun starts them, on this machine.
class Ranks {
 public:
  /// `all`: the world of all ranks but one that has its own. `agent`: the port of a store that
  /// outlives the ranks, as torchrun has one; 0: the first rank's.
  Ranks(const Arguments& arguments,
        int64_t size,
        const OwnOfRank& own = {},
        const ProgramWorld& all = {},
        uint16_t agent = 0) {
    // A port that was free a moment ago.
    const uint16_t port = agent ? agent : LoopbackListener().port();
    for (int64_t rank = 0; rank < size; ++rank) {
      const bool is_own = rank == own.rank;
      ProgramWorld world = is_own ? own.world : all;
      const std::string number = std::to_string(rank), count = std::to_string(size);
      if (size > 1)
        world.variables.insert(world.variables.end(), {{"RANK", number},
                                                       {"WORLD_SIZE", count},
                                                       {"LOCAL_RANK", number},
                                                       {"LOCAL_WORLD_SIZE", count},
                                                       {"MASTER_ADDR", "127.0.0.1"},
                                                       {"MASTER_PORT", std::to_string(port)}});
      if (agent) world.variables.emplace_back("TORCHELASTIC_USE_AGENT_STORE", "True");
      programs_.push_back(
          std::make_unique<RunningProgram>(is_own ? arguments + own.arguments : arguments, world));
    }
  }

  RunningProgram& at(size_t rank) { return *programs_[rank]; }
  std::vector<ProgramResult> wait() {
    std::vector<ProgramResult> results;
    for (const auto& program : programs_) results.push_back(program->wait());
    return results;
  }

 private:
  std::vector<std::unique_ptr<RunningProgram>> programs_;
};

}  // namespace lockstep::testing
