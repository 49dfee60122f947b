// SPDX-License-Identifier: Apache-2.0
//
//   for each bucket of pieces:
//     fill (all threads, task by task)  →  write (one thread, while the next bucket is filled)
#include "layout/execute.h"

#include <algorithm>
#include <cstring>
#include <future>
#include <memory>
#include <new>
#include <utility>

#include "base/check.h"
#include "layout/chunk_digests.h"
#include "layout/region_reader.h"
#include "layout/run_parallel.h"
#include "layout/strided_copy.h"

namespace lockstep::layout {
namespace {

/// The part of a logical tensor that a copy and a digest chunk share.
struct Task {
  const Copy* copy;
  int64_t chunk;
  /// Where the copy's piece begins.
  std::byte* to;
};

/// Copies what tasks ask for to the target. It knows nothing of digests.
class Mover {
 public:
  Mover(const Layout& from, const Layout& to, const RegionReader& reader)
      : from_(from), to_(to), reader_(reader) {}

  /// Copies `shared`, the task's part of its chunk, from the source.
  void move(const Task& task, const Region& shared) const {
    const Copy& copy = *task.copy;
    const PhysicalTensor& from = from_.rank(copy.from_rank)[static_cast<size_t>(copy.from_tensor)];
    reader_.copy(
        strides_between(logical(copy), shared, &from.boxes[static_cast<size_t>(copy.from_box)],
                        &from, &copy.to, &target(copy)),
        {from.type, target(copy).type, copy.value_change}, copy.from_rank, copy.from_tensor,
        task.to);
  }

  /// Whether the target stores the values of the logical tensor unchanged.
  bool keeps_values(const Copy& copy) const {
    return copy.value_change == 0 && !copy.to.minus_one && target(copy).type == logical(copy).type;
  }

  /// Copies what `part` has of `shared` from `bytes`, the values of `part` in logical order.
  void move_part(const Task& task,
                 const Region& shared,
                 const Region& part,
                 std::span<const std::byte> bytes) const {
    const Copy& copy = *task.copy;
    const Region wanted = intersect(part, shared);
    if (wanted.numel() == 0) return;
    const RegionTensor source(logical(copy), copy.tensor, part);
    strided_copy(strides_between(logical(copy), wanted, &source.box, &source.tensor, &copy.to,
                                 &target(copy)),
                 element_bytes(logical(copy).type), bytes.data(), task.to);
  }

  /// Where a whole chunk goes if the target holds it side by side in logical order; else null.
  std::byte* target_in_order(const Task& task, const Region& chunk, const Region& shared) const {
    const Copy& copy = *task.copy;
    if (!keeps_values(copy) || shared != chunk) return nullptr;
    const Strides strides =
        strides_between(logical(copy), chunk, nullptr, nullptr, &copy.to, &target(copy));
    if (strides.num_dims > 0 && strides.run() != chunk.numel()) return nullptr;
    return task.to + strides.to_offset * element_bytes(logical(copy).type);
  }

 private:
  const LogicalTensor& logical(const Copy& copy) const { return from_.logical()[copy.tensor]; }
  const PhysicalTensor& target(const Copy& copy) const {
    return to_.rank(copy.to_rank)[static_cast<size_t>(copy.to_tensor)];
  }

  const Layout& from_;
  const Layout& to_;
  const RegionReader& reader_;
};

/// The digests of all chunks on both sides of a plan.
struct ExecutedChunks {
  explicit ExecutedChunks(const LogicalTensors& logical) : source(logical), target(logical) {}
  /// For a chunk that is not rounded.
  void set(int64_t chunk, const Digest& digest) {
    source.set(chunk, digest);
    target.set(chunk, digest);
  }
  ChunkDigests source, target;
};

/// Runs tasks: the first one that touches a chunk digests all of it and moves its own part on the
/// way, so that bytes come from main memory once. Threads: any.
class Worker {
 public:
  Worker(const Layout& from,
         const Layout& to,
         const Plan& plan,
         ByteSource& source,
         ExecutedChunks& chunks)
      : reader_(from, source),
        mover_(from, to, reader_),
        chunks_(chunks),
        is_rounded_(static_cast<size_t>(from.logical().size())) {
    for (const TypeChange& change : plan.type_changes)
      is_rounded_[static_cast<size_t>(change.tensor)] =
          change.to == ElementType::kBF16 &&
          from.logical()[change.tensor].type == ElementType::kF32;
  }

  void run(const Task& task) const {
    const Region& chunk = chunks_.source.region(task.chunk);
    const Region shared = intersect(chunk, task.copy->region);
    if (chunks_.source.claim(task.chunk) && digest(task, chunk, shared)) return;
    mover_.move(task, shared);
  }

 private:
  /// Digests a chunk. Returns whether the task's part was copied on the way.
  bool digest(const Task& task, const Region& chunk, const Region& shared) const {
    const int32_t tensor = task.copy->tensor;
    if (is_rounded_[static_cast<size_t>(tensor)]) {
      digest_rounded(task, chunk);
      return false;
    }
    const auto bytes = reader_.in_order(tensor, chunk);
    if (bytes.empty()) {
      const bool moves = mover_.keeps_values(*task.copy);
      const OnPart move = [&](const Region& part, std::span<const std::byte> values) {
        mover_.move_part(task, shared, part, values);
      };
      chunks_.set(task.chunk, digest_gathered(reader_, tensor, chunk, moves ? move : OnPart()));
      return moves;
    }
    std::byte* const to = mover_.target_in_order(task, chunk, shared);
    chunks_.set(task.chunk,
                to ? digest_and_copy(bytes, to) : digest_of(bytes.data(), bytes.size()));
    return to != nullptr;
  }

  /// Digests the values of a chunk before and after they are rounded.
  void digest_rounded(const Task& task, const Region& chunk) const {
    DigestStream target;
    thread_local std::vector<std::byte> rounded;
    const OnPart round = [&](const Region&, std::span<const std::byte> values) {
      rounded.assign(values.begin(), values.end());
      round_to_bfloat16(rounded);
      target.update(rounded.data(), rounded.size());
    };
    chunks_.source.set(task.chunk, digest_gathered(reader_, task.copy->tensor, chunk, round));
    chunks_.target.set(task.chunk, target.finish());
  }

  const RegionReader reader_;
  const Mover mover_;
  ExecutedChunks& chunks_;
  /// By logical tensor.
  std::vector<bool> is_rounded_;
};

/// Cuts a plan into buckets and tasks, and writes one bucket while the next one is filled.
class Executor {
 public:
  Executor(const Layout& from,
           const Layout& to,
           const Plan& plan,
           ByteSource& source,
           ByteSink& sink,
           const ExecuteOptions& options)
      : from_(from),
        to_(to),
        plan_(plan),
        source_(source),
        sink_(sink),
        options_(options),
        chunks_(from.logical()),
        worker_(from, to, plan, source, chunks_) {
    check_type_changes(from, to, plan);
    for (const Piece& piece : plan.pieces) total_ += piece.size;
    for (size_t first = 0; first < plan.pieces.size();) {
      const auto [last, bytes] = bucket_from(first);
      capacity_ = std::max(capacity_, bytes);
      first = last;
    }
  }

  ExecutedDigests run() {
    Bucket buckets[2];
    std::future<void> writing;
    size_t turn = 0;
    for (size_t first = 0, last = 0; first < plan_.pieces.size(); first = last, turn ^= 1) {
      Bucket& bucket = buckets[turn];
      last = fill(first, bucket);
      if (writing.valid()) writing.get();
      writing = std::async(std::launch::async,
                           [this, first, last, &bucket] { write(first, last, bucket); });
    }
    if (writing.valid()) writing.get();
    return {chunks_.source.of_tensors(), chunks_.target.of_tensors()};
  }

 private:
  static constexpr size_t kLine = 64;
  struct FreeLines {
    void operator()(std::byte* memory) const {
      ::operator delete (memory, std::align_val_t{kLine});
    }
  };
  using Bucket = std::unique_ptr<std::byte, FreeLines>;

  /// The bytes that a piece takes in a bucket, where each piece begins at a cache line.
  static int64_t aligned(int64_t bytes) {
    constexpr auto line = static_cast<int64_t>(kLine);
    return (bytes + line - 1) / line * line;
  }

  /// For a bucket whose first piece is `first`: the index behind its last piece, and its bytes.
  std::pair<size_t, int64_t> bucket_from(size_t first) const {
    size_t last = first;
    int64_t bytes = 0;
    for (; last < plan_.pieces.size(); ++last) {
      const int64_t size = aligned(plan_.pieces[last].size);
      if (last > first && bytes + size > options_.bucket_bytes) break;
      bytes += size;
    }
    return {last, bytes};
  }

  /// Fills a bucket with pieces from `first` on; returns the piece behind its last.
  size_t fill(size_t first, Bucket& bucket) {
    const size_t last = bucket_from(first).first;
    tasks_.clear();
    int64_t used = 0;
    for (size_t i = first; i < last; ++i) {
      const Piece& piece = plan_.pieces[i];
      const std::span<std::byte> memory = sink_.memory(piece.rank, piece.tensor);
      if (memory.empty()) {
        // Allocated once and in full: a buffer that grows exists twice while it does.
        if (!bucket)
          bucket.reset(static_cast<std::byte*>(
              ::operator new (static_cast<size_t>(capacity_), std::align_val_t{kLine})));
        add_tasks(piece, bucket.get() + used);
        used += aligned(piece.size);
      } else {
        add_tasks(piece, memory.data() + piece.begin);
      }
    }
    // Runs tasks in batches, so that memory of a mapped source is released in time even if a bucket
    // takes a few columns of many rows.
    for (size_t begin = 0, end = 0; begin < tasks_.size(); begin = end) {
      for (int64_t touched = 0; end < tasks_.size() && touched < kTouchedBytes; ++end)
        touched += chunks_.source.region(tasks_[end].chunk).numel() *
                   element_bytes(from_.logical()[tasks_[end].copy->tensor].type);
      run_parallel(options_.num_threads, end - begin,
                   [&](size_t i) { worker_.run(tasks_[begin + i]); });
      source_.release();
    }
    return last;
  }

  void add_tasks(const Piece& piece, std::byte* to) {
    int64_t covered = 0;
    for (size_t c = piece.first_copy; c < piece.first_copy + piece.num_copies; ++c) {
      const Copy& copy = plan_.copies[c];
      covered += copy.region.numel() * element_bytes(to_.stored_type(copy.tensor));
      const ChunkDigests& chunks = chunks_.source;
      for (int64_t chunk = chunks.first(copy.tensor); chunk < chunks.end(copy.tensor); ++chunk)
        if (intersect(chunks.region(chunk), copy.region).numel() > 0)
          tasks_.push_back({&copy, chunk, to});
    }
    // Makes the padding zero; the sink's own memory is zero already.
    if (covered < piece.size && sink_.memory(piece.rank, piece.tensor).empty())
      std::memset(to, 0, static_cast<size_t>(piece.size));
  }

  void write(size_t first, size_t last, const Bucket& bucket) {
    int64_t used = 0;
    for (size_t i = first; i < last; ++i) {
      const Piece& piece = plan_.pieces[i];
      if (sink_.memory(piece.rank, piece.tensor).empty()) {
        sink_.write(piece.rank, piece.tensor, piece.begin,
                    {bucket.get() + used, static_cast<size_t>(piece.size)});
        used += aligned(piece.size);
      }
      done_ += piece.size;
    }
    if (options_.on_progress) options_.on_progress(done_, total_);
  }

  const Layout& from_;
  const Layout& to_;
  const Plan& plan_;
  ByteSource& source_;
  ByteSink& sink_;
  const ExecuteOptions& options_;
  ExecutedChunks chunks_;
  const Worker worker_;
  std::vector<Task> tasks_;
  /// In bytes.
  int64_t done_ = 0, total_ = 0, capacity_ = 0;
};

}  // namespace

ExecutedDigests execute(const Layout& from,
                        const Layout& to,
                        const Plan& plan,
                        ByteSource& source,
                        ByteSink& sink,
                        const ExecuteOptions& options) {
  return Executor(from, to, plan, source, sink, options).run();
}

}  // namespace lockstep::layout
