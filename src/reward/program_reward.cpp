// A reward that is a program.
// SPDX-License-Identifier: Apache-2.0
#include <mutex>

#include "base/check.h"
#include "base/json.h"
#include "reward/external_reward.h"
#include "reward/json_process.h"
#include "reward/reward_json.h"

namespace lockstep::reward {
namespace {

class ProgramReward final : public ExternalReward {
 public:
  ProgramReward(const ExternalSpec& spec, const ExternalOptions& options)
      : ExternalReward({spec.name, spec.name}, options),
        timeout_(options.timeout()),
        workers_({.name = "reward " + spec.name}, spec.target, options.reward_workers) {}

  std::vector<std::optional<double>> judge(std::span<const RewardInput> inputs,
                                           const RunState& run,
                                           PlacedNotes&) const override {
    const std::lock_guard lock(mutex_);
    std::vector<std::optional<double>> values(inputs.size());
    workers_.share(inputs.size(), [&](LineProcess& process, size_t index) {
      if (!failures_.is_over()) values[index] = ask(process, inputs[index], run);
    });
    workers_.log();
    failures_.report();
    return values;
  }

 private:
  std::optional<double> ask(LineProcess& process,
                            const RewardInput& input,
                            const RunState& run) const {
    try {
      return value_in(ask_json(process, dump_json(completion_json(input, run)), timeout_),
                      process.name());
    } catch (const PeerError& error) {
      failures_.add(1, input.where, error.what());
      return std::nullopt;
    }
  }

  std::chrono::milliseconds timeout_;
  /// Guards the processes.
  mutable std::mutex mutex_;
  mutable ProgramWorkers workers_;
};

}  // namespace

std::unique_ptr<RewardFunction> make_program_reward(const ExternalSpec& spec,
                                                    const ExternalOptions& options) {
  return std::make_unique<ProgramReward>(spec, options);
}

}  // namespace lockstep::reward
