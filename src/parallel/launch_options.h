// What flags say of a run of several processes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/on_resume.h"
#include "base/options.h"

namespace lockstep::parallel {

/// Launchers say all of it but the time. The flags start one process a host by hand:
///   lockstep grpo … --nnodes 2 --node_rank 1 --master_addr n01
struct LaunchOptions {
  /// How many hosts take part, each with one process; unset: as the launcher says.
  std::optional<int64_t> nnodes;
  /// The number of this host, from 0; host 0 is `master_addr`.
  std::optional<int64_t> node_rank;
  /// Where rank 0 listens; "": as the launcher says.
  std::string master_addr;
  /// Unset: as the launcher says, else 29500.
  std::optional<int64_t> master_port;
  /// Seconds that a rank waits for the others in one call before the run ends.
  double ddp_timeout = 1800;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("nnodes", nnodes,
          "Hosts that take part, one process each, started by hand; unset: a launcher says it.",
          Range::between(1, kMostRanks), OnResume::kIgnored);
    visit("node_rank", node_rank, "Number of this host, from 0, with --nnodes.",
          Range::between(0, kMostRanks - 1), OnResume::kIgnored);
    visit("master_addr", master_addr, "Host on which rank 0 listens; unset: as the launcher says.",
          OnResume::kIgnored);
    visit("master_port", master_port, "Its port; unset: as the launcher says, or 29500.",
          Range::between(1, 65535), OnResume::kIgnored);
    visit("ddp_timeout", ddp_timeout,
          "Seconds that a rank waits for the others in one call before the run ends.",
          Range::above(0), OnResume::kIgnored);
  }

  static constexpr double kMostRanks = 1 << 20;
};

}  // namespace lockstep::parallel
