// Runs a plan: moves bytes from the tensors of one layout to those of another, and digests every
// logical tensor on the way.
// SPDX-License-Identifier: Apache-2.0
//
// Bytes come from a source and go to a sink; files are one kind of them (cli), memory another
// (tests, sync).
#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

#include "base/digest.h"
#include "layout/layout.h"
#include "layout/plan.h"

namespace lockstep::layout {

/// The tensors of all ranks of a layout, by the indices that they have there. Threads: read from
/// any.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  /// All bytes of a tensor; they stay until the source is destroyed.
  virtual std::span<const std::byte> tensor(int64_t rank, int64_t index) = 0;
  /// What was read so far will hardly be read again: its memory may go.
  virtual void release() {}
};

/// Where a plan's result goes. Pieces come in the plan's order, one at a time.
class ByteSink {
 public:
  virtual ~ByteSink() = default;
  /// The tensor's memory, if it has some to be filled in place: then write() is not called for it.
  /// It must be zero.
  virtual std::span<std::byte> memory(int64_t /*rank*/, int64_t /*index*/) { return {}; }
  /// Bytes of a tensor from byte `begin` on.
  virtual void write(int64_t rank,
                     int64_t index,
                     int64_t begin,
                     std::span<const std::byte> bytes) = 0;
};

/// Bytes of a source that are touched before it is told to release them.
inline constexpr int64_t kTouchedBytes = int64_t{32} << 20;

struct ExecuteOptions {
  /// Of each of the two buckets.
  int64_t bucket_bytes = int64_t{64} << 20;
  int num_threads = 1;
  /// In bytes of the target; of check_source() in chunks of copies. What it throws ends the work.
  std::function<void(int64_t done, int64_t total)> on_progress;
};

/// The parts of a logical tensor that are digested in one go: a cut that does not depend on the
/// layout. Each is as many steps of one dimension as fit into a megabyte, of the outermost one
/// whose single step does.
std::vector<Region> digest_chunks(const LogicalTensor& tensor);

/// Runs `plan` on a source that check_source() has passed; returns the digest of each logical
/// tensor by index: XXH3-128 over the XXH3-128s (low word first, little endian) of its chunks, each
/// in logical order. The same in every layout. Throws what source and sink throw.
std::vector<Digest> execute(const Layout& from,
                            const Layout& to,
                            const Plan& plan,
                            ByteSource& source,
                            ByteSink& sink,
                            const ExecuteOptions& options = {});

/// What has to hold before anything is written. Throws FormatError "layout-conflict" naming the
/// tensor: a change of value that cannot be undone; "digest-mismatch": a further copy that is not
/// its owner's bytes. Of `options`, threads and on_progress are used.
void check_source(const Layout& from,
                  const Plan& plan,
                  ByteSource& source,
                  const ExecuteOptions& options);

/// The digests alone.
std::vector<Digest> digest_tensors(const Layout& layout, ByteSource& source, int num_threads);

}  // namespace lockstep::layout
