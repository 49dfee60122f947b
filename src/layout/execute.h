// Runs a plan: moves bytes from the tensors of one layout to those of another, and digests every
// logical tensor on the way.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/digest.h"
#include "layout/byte_io.h"
#include "layout/layout.h"
#include "layout/plan.h"

namespace lockstep::layout {

struct ExecuteOptions {
  /// How many bytes of the target each of the two buckets holds.
  int64_t bucket_bytes = int64_t{64} << 20;
  int num_threads = 1;
  /// Is told how many bytes of the target are done. What it throws ends the work.
  std::function<void(int64_t done, int64_t total)> on_progress;
};

/// The digest of each logical tensor, by index (chunk_digests.h).
struct ExecutedDigests {
  /// Of what the source holds, and of what the target holds then. They are the same, but for
  /// tensors that the plan rounds.
  std::vector<Digest> source, target;
};

/// Runs `plan` on a source that check_source() has passed. Throws InternalError naming a tensor
/// whose type the layouts change and the plan does not; what source and sink throw.
ExecutedDigests execute(const Layout& from,
                        const Layout& to,
                        const Plan& plan,
                        ByteSource& source,
                        ByteSink& sink,
                        const ExecuteOptions& options = {});

}  // namespace lockstep::layout
