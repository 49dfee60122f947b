// The flags of rewards in other processes: programs, URLs, plugins.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "base/on_resume.h"
#include "base/options.h"

namespace lockstep::reward {

/// How rewards in other processes are asked, and what becomes of those that fail.
struct ExternalOptions {
  /// In seconds.
  double reward_timeout = 60;
  int64_t reward_retries = 2;
  int64_t reward_max_failures = 100;
  int64_t reward_workers = 1;
  int64_t reward_batch_size = 32;
  std::string reward_api_key;

  std::chrono::milliseconds timeout() const {
    return std::chrono::milliseconds(static_cast<int64_t>(1000 * reward_timeout));
  }

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    using enum OnResume;
    visit("reward_timeout", reward_timeout,
          "Seconds within which a reward in another process answers a call; later it is ended, and "
          "its completions go without a value.",
          Range::left_open(0, 366.0 * 24 * 3600), kSaid);
    visit("reward_retries", reward_retries,
          "How often a reward behind a URL is asked again that cannot be reached or is too busy.",
          Range::between(0, 100), kSaid);
    visit("reward_max_failures", reward_max_failures,
          "How many completions may go without a value because a reward failed, before the run "
          "ends; of several processes each counts its own.",
          Range::at_least(0), kSaid);
    visit("reward_workers", reward_workers,
          "Processes of each reward that is a program, and calls at once of one behind a URL.",
          Range::between(1, 256), kSaid);
    visit("reward_batch_size", reward_batch_size, "Completions in a call of a reward behind a URL.",
          Range::between(1, 1 << 20), kSaid);
    visit("reward_api_key", reward_api_key,
          "The key that rewards behind a URL are sent; unset: LOCKSTEP_REWARD_API_KEY of the "
          "environment.",
          kIgnored);
  }
};

}  // namespace lockstep::reward
