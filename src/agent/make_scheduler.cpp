// SPDX-License-Identifier: Apache-2.0
#include "agent/make_scheduler.h"

#include "base/check.h"

namespace lockstep::agent {

std::unique_ptr<TurnScheduler> make_scheduler(const AgentOptions& options,
                                              const SchedulerContext&) {
  if (!options.is_on()) return nullptr;
  fail<ConfigError>("not-there-yet", "--tools", "expected none of the tools, got some");
}

}  // namespace lockstep::agent
