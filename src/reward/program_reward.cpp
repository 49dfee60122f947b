// A reward that is a program.
// SPDX-License-Identifier: Apache-2.0
#include <mutex>

#include "base/check.h"
#include "base/json.h"
#include "base/line_process.h"
#include "reward/external_reward.h"
#include "reward/process_log.h"
#include "reward/reward_json.h"
#include "reward/share_out.h"

namespace lockstep::reward {
namespace {

class ProgramReward final : public ExternalReward {
 public:
  ProgramReward(const ExternalSpec& spec, const ExternalOptions& options)
      : ExternalReward({spec.name, spec.name}, options), timeout_(options.timeout()) {
    for (int64_t i = 0; i < options.reward_workers; ++i)
      workers_.push_back(std::make_unique<LineProcess>(
          LineProgram{.name = "reward " + spec.name, .arguments = {"/bin/sh", "-c", spec.target}}));
  }

  std::vector<std::optional<double>> judge(std::span<const RewardInput> inputs,
                                           const RunState& run,
                                           PlacedNotes&) const override {
    const std::lock_guard lock(mutex_);
    std::vector<std::optional<double>> values(inputs.size());
    share_out(inputs.size(), workers_.size(), [&](size_t worker, size_t index) {
      if (!failures_.is_over()) values[index] = ask(*workers_[worker], inputs[index], run);
    });
    for (const auto& worker : workers_) log_stderr(*worker);
    failures_.report();
    return values;
  }

 private:
  std::optional<double> ask(LineProcess& process,
                            const RewardInput& input,
                            const RunState& run) const {
    try {
      const std::string answer =
          process.ask(dump_json(completion_json(input, run)), timeout_, is_interrupted);
      return value_of(answer, process.name());
    } catch (const PeerError& error) {
      failures_.add(1, input.where, error.what());
      return std::nullopt;
    }
  }
  static std::optional<double> value_of(const std::string& answer, const std::string& from) {
    try {
      return value_in(parse_json(answer, from), from);
    } catch (const FormatError&) {
      fail<PeerError>("program-failed", from, "expected a line of JSON, got {}",
                      shown_answer(answer));
    }
  }

  std::chrono::milliseconds timeout_;
  /// Guards the processes.
  mutable std::mutex mutex_;
  std::vector<std::unique_ptr<LineProcess>> workers_;
};

}  // namespace

std::unique_ptr<RewardFunction> make_program_reward(const ExternalSpec& spec,
                                                    const ExternalOptions& options) {
  return std::make_unique<ProgramReward>(spec, options);
}

}  // namespace lockstep::reward
