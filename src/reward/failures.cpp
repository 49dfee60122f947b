// SPDX-License-Identifier: Apache-2.0
#include "reward/failures.h"

#include "base/check.h"
#include "base/log.h"

namespace lockstep::reward {

void Failures::add(int64_t completions, std::string_view where, std::string_view why) {
  const std::lock_guard lock(mutex_);
  count_ += completions;
  last_ = fmt::format("{}: {}", where, why);
  if (first_.empty()) first_ = last_;
}

bool Failures::is_over() const {
  const std::lock_guard lock(mutex_);
  return count_ > most_;
}

int64_t Failures::count() const {
  const std::lock_guard lock(mutex_);
  return count_;
}

void Failures::report() {
  const std::lock_guard lock(mutex_);
  if (count_ == 0) return;
  if (!is_logged_)
    log_warning(
        "the reward {} has failed, and the completion goes without its value: {} (further failures "
        "are counted in rewards/{}/failures; more than {} end the run: --reward_max_failures)",
        name_, first_, name_, most_);
  is_logged_ = true;
  if (count_ > most_)
    fail<PeerError>("reward-failed", "reward " + name_,
                    "expected at most {} completions that it fails at (--reward_max_failures), got "
                    "{}; the last one: {}",
                    most_, count_, last_);
}

}  // namespace lockstep::reward
