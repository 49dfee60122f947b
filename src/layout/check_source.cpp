// SPDX-License-Identifier: Apache-2.0
#include "layout/check_source.h"

#include <algorithm>

#include "base/check.h"
#include "layout/chunk_digests.h"
#include "layout/region_reader.h"
#include "layout/run_parallel.h"

namespace lockstep::layout {
namespace {

void check_value_changes(const Layout& from, const Plan& plan, const RegionReader& reader) {
  std::vector<std::byte> scratch;
  for (const Copy& copy : plan.copies) {
    const LogicalTensor& logical = from.logical()[copy.tensor];
    const PhysicalTensor& tensor = from.rank(copy.from_rank)[static_cast<size_t>(copy.from_tensor)];
    const bool narrows = element_bytes(tensor.type) > element_bytes(logical.type);
    if (copy.value_change == 0 && !narrows) continue;
    scratch.resize(static_cast<size_t>(logical.bytes()));
    const Strides strides =
        strides_between(logical, copy.region, &tensor.boxes[static_cast<size_t>(copy.from_box)],
                        &tensor, nullptr, nullptr);
    if (reader.copy(strides, {tensor.type, logical.type, copy.value_change}, copy.from_rank,
                    copy.from_tensor, scratch.data()))
      continue;
    if (narrows)
      fail<FormatError>("layout-conflict", tensor.name,
                        "expected values that {} can hold, as the checkpoint has {}, got others",
                        element_name(logical.type), logical.id);
    fail<FormatError>("layout-conflict", tensor.name,
                      "expected values that keep their bytes when one is taken off and put back, "
                      "got others in {} (use out_norm=plain)",
                      logical.id);
  }
}

/// The part of a further copy that lies in one chunk.
struct CopyTask {
  int64_t rank, index;
  const Box* box;
  Region region;
};

}  // namespace

void check_source(const Layout& from,
                  const Plan& plan,
                  ByteSource& source,
                  const ExecuteOptions& options) {
  const RegionReader reader(from, source);
  check_value_changes(from, plan, reader);
  std::vector<CopyTask> tasks;
  for (int64_t r = 0; r < from.num_ranks(); ++r)
    for (size_t t = 0; t < from.rank(r).size(); ++t)
      for (const Box& box : from.rank(r)[t].boxes) {
        if (!box.is_copy) continue;
        for (const Region& chunk : digest_chunks(from.logical()[box.tensor])) {
          const Region shared = intersect(chunk, box.region);
          if (shared.numel() > 0) tasks.push_back({r, static_cast<int64_t>(t), &box, shared});
        }
      }
  const auto check = [&](const CopyTask& task) {
    const LogicalTensor& logical = from.logical()[task.box->tensor];
    const PhysicalTensor& tensor = from.rank(task.rank)[static_cast<size_t>(task.index)];
    thread_local std::vector<std::byte> owned, copied;
    reader.gather(task.box->tensor, task.region, owned);
    copied.resize(owned.size());
    reader.copy(strides_between(logical, task.region, task.box, &tensor, nullptr, nullptr),
                {tensor.type, logical.type, task.box->minus_one}, task.rank, task.index,
                copied.data());
    if (owned != copied)
      fail<FormatError>("digest-mismatch", tensor.name,
                        "expected rank {} to have the same {} as the rank that owns it, got other "
                        "bytes",
                        task.rank, logical.id);
  };
  constexpr size_t kBatch = kTouchedBytes / kChunkBytes;
  for (size_t begin = 0; begin < tasks.size(); begin += kBatch) {
    run_parallel(options.num_threads, std::min(kBatch, tasks.size() - begin),
                 [&](size_t i) { check(tasks[begin + i]); });
    source.release();
    if (options.on_progress)
      options.on_progress(static_cast<int64_t>(begin), static_cast<int64_t>(tasks.size()));
  }
}

}  // namespace lockstep::layout
