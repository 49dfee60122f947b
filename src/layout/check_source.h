// What has to hold of a source before anything is written.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "layout/byte_io.h"
#include "layout/execute.h"
#include "layout/layout.h"
#include "layout/plan.h"

namespace lockstep::layout {

/// Checks that `plan` can run on `source`, and that the copies of a tensor agree.
///
/// Throws FormatError "layout-conflict" naming the tensor for a change of value that cannot be
/// undone (one added, or a source that stores in F32 what the logical tensor cannot hold in BF16; a
/// target that rounds is no error: the plan declares it), "digest-mismatch" for a further copy that
/// does not have its owner's bytes. Of `options`, num_threads and on_progress are used; progress is
/// counted in chunks of further copies.
void check_source(const Layout& from,
                  const Plan& plan,
                  ByteSource& source,
                  const ExecuteOptions& options);

}  // namespace lockstep::layout
