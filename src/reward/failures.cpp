// SPDX-License-Identifier: Apache-2.0
#include "reward/failures.h"

#include "base/check.h"
#include "base/log.h"

namespace lockstep::reward {

void Failures::add(int64_t count, std::string_view where, std::string_view why) {
  const std::lock_guard lock(mutex_);
  count_ += count;
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
    log_own_warning(fmt::format("{} has failed, and {}: {} ({}; more than {} end the run: {})",
                                words_.what, words_.consequence, first_, words_.counted, most_,
                                words_.flag));
  is_logged_ = true;
  if (count_ > most_)
    fail<PeerError>(words_.code, words_.where,
                    "expected at most {} {} ({}), got {}; the last one: {}", most_, words_.things,
                    words_.flag, count_, last_);
}

}  // namespace lockstep::reward
