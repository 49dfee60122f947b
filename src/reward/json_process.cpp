// SPDX-License-Identifier: Apache-2.0
#include "reward/json_process.h"

#include "base/check.h"
#include "reward/external_reward.h"  // is_interrupted
#include "reward/process_log.h"
#include "reward/reward_json.h"  // shown_answer
#include "reward/share_out.h"

namespace lockstep::reward {

Json ask_json(LineProcess& process,
              std::string_view line,
              std::chrono::milliseconds timeout,
              const JsonLimits& limits) {
  const std::string answer = process.ask(line, timeout, is_interrupted);
  try {
    return parse_json(answer, process.name(), "bad-json", limits);
  } catch (const FormatError&) {
    // The answer itself says more.
  }
  process.stop();
  fail<PeerError>("program-failed", process.name(), "expected a line of JSON, got {}",
                  shown_answer(answer));
}

ProgramWorkers::ProgramWorkers(LineProgram program,
                               const std::string& command,
                               int64_t num_workers) {
  program.arguments = {"/bin/sh", "-c", command};
  for (int64_t i = 0; i < num_workers; ++i)
    workers_.push_back(std::make_unique<LineProcess>(program));
}

void ProgramWorkers::share(size_t count, const std::function<void(LineProcess&, size_t)>& work) {
  share_out(count, workers_.size(),
            [&](size_t worker, size_t index) { work(*workers_[worker], index); });
}

void ProgramWorkers::log() {
  for (const auto& worker : workers_) log_stderr(*worker);
}

}  // namespace lockstep::reward
