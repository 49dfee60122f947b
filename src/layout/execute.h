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

/// Runs `plan` on a source that check_source() has passed; returns the digest of each logical
/// tensor by index, which is the same in every layout (chunk_digests.h). Throws what source and
/// sink throw.
std::vector<Digest> execute(const Layout& from,
                            const Layout& to,
                            const Plan& plan,
                            ByteSource& source,
                            ByteSink& sink,
                            const ExecuteOptions& options = {});

}  // namespace lockstep::layout
