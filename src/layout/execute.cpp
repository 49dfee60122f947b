// SPDX-License-Identifier: Apache-2.0
//
//   for each bucket of pieces:
//     fill (all threads, task by task)  →  write (one thread, while the next bucket is filled)
//
// A task is what a copy and a digest chunk share. The first task that touches a chunk digests all
// of it, just before its bytes are copied, so that they come from main memory once.
#include "layout/execute.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <future>
#include <memory>
#include <mutex>
#include <new>
#include <thread>

#include "base/check.h"
#include "layout/copy_kernels.h"
#include "layout/strided_copy.h"

namespace lockstep::layout {
namespace {

constexpr int64_t kChunkBytes = int64_t{1} << 20;

/// Runs work(i) for 0 <= i < count on `num_threads` threads; the first exception of any comes out.
template <class Work>
void run_parallel(int num_threads, size_t count, const Work& work) {
  std::atomic<size_t> next{0};
  std::exception_ptr error;
  std::mutex guard;
  const auto loop = [&] {
    try {
      for (size_t i = next++; i < count; i = next++) work(i);
    } catch (...) {
      const std::lock_guard lock(guard);
      if (!error) error = std::current_exception();
      next = count;
    }
  };
  std::vector<std::jthread> threads;
  for (int t = 1; t < num_threads && static_cast<size_t>(t) < count; ++t)
    threads.emplace_back(loop);
  loop();
  threads.clear();
  if (error) std::rethrow_exception(error);
}

/// The chunks of all tensors and what is known of them.
class ChunkTable {
 public:
  explicit ChunkTable(const LogicalTensors& logical) {
    for (const LogicalTensor& tensor : logical) {
      first_.push_back(static_cast<int64_t>(regions_.size()));
      for (Region& region : digest_chunks(tensor)) regions_.push_back(region);
    }
    first_.push_back(static_cast<int64_t>(regions_.size()));
    digests_.resize(regions_.size());
    claimed_ = std::vector<std::atomic<bool>>(regions_.size());
  }
  int64_t first(int32_t tensor) const { return first_[static_cast<size_t>(tensor)]; }
  int64_t end(int32_t tensor) const { return first_[static_cast<size_t>(tensor) + 1]; }
  const Region& region(int64_t chunk) const { return regions_[static_cast<size_t>(chunk)]; }
  /// True for the first caller.
  bool claim(int64_t chunk) { return !claimed_[static_cast<size_t>(chunk)].exchange(true); }
  void set(int64_t chunk, const Digest& digest) { digests_[static_cast<size_t>(chunk)] = digest; }

  Digest tensor_digest(int32_t tensor) const {
    static_assert(sizeof(Digest) == 16);
    const auto begin = static_cast<size_t>(first(tensor));
    return digest_of(digests_.data() + begin,
                     (static_cast<size_t>(end(tensor)) - begin) * sizeof(Digest));
  }

 private:
  std::vector<int64_t> first_;
  std::vector<Region> regions_;
  std::vector<Digest> digests_;
  std::vector<std::atomic<bool>> claimed_;
};

/// A region of a logical tensor as a tensor of its own: one axis a dimension.
struct Plain {
  Plain(const LogicalTensor& logical, int32_t index, const Region& region)
      : tensor{"", {}, logical.type, {}, 0}, box{.tensor = index, .region = region, .steps = {}} {
    for (size_t d = 0; d < logical.dims.size(); ++d) {
      tensor.shape.push_back(region.size[d]);
      box.steps[d] = {static_cast<int>(d), 1};
    }
  }
  PhysicalTensor tensor;
  Box box;
};

/// Reads regions of logical tensors out of a layout.
class Reader {
 public:
  Reader(const Layout& layout, ByteSource& source)
      : layout_(layout), source_(source), owners_(static_cast<size_t>(layout.logical().size())) {
    for (int64_t r = 0; r < layout.num_ranks(); ++r)
      for (size_t t = 0; t < layout.rank(r).size(); ++t)
        for (const Box& box : layout.rank(r)[t].boxes)
          if (!box.is_copy)
            owners_[static_cast<size_t>(box.tensor)].push_back({r, static_cast<int64_t>(t), &box});
  }

  /// Copies out of a tensor of the source: `change` is added to its values. False where they would
  /// not come back.
  bool copy(const Strides& strides,
            ElementType type,
            int change,
            int64_t rank,
            int64_t index,
            std::byte* to,
            Destination destination = Destination::kMemory) const {
    const std::byte* const from = source_.tensor(rank, index).data();
    if (change != 0) return strided_copy_changed(strides, type, change, from, to);
    strided_copy(strides, element_bytes(type), from, to, destination);
    return true;
  }

  /// The bytes of a region that lie in logical order in one tensor of the source; empty if they do
  /// not.
  std::span<const std::byte> in_order(int32_t tensor, const Region& region) const {
    const LogicalTensor& logical = layout_.logical()[tensor];
    const int64_t width = element_bytes(logical.type);
    for (const Owner& owner : owners_[static_cast<size_t>(tensor)]) {
      if (intersect(owner.box->region, region) != region || owner.box->minus_one) continue;
      const PhysicalTensor& physical = tensor_of(owner);
      const Strides strides =
          strides_between(logical, region, owner.box, &physical, nullptr, nullptr);
      if (strides.num_dims > 0 && strides.run() != region.numel()) return {};
      return source_.tensor(owner.rank, owner.index)
          .subspan(static_cast<size_t>(strides.from_offset * width),
                   static_cast<size_t>(region.numel() * width));
    }
    return {};
  }

  /// The region in logical order, from wherever its parts lie.
  void gather(int32_t tensor, const Region& region, std::vector<std::byte>& to) const {
    const LogicalTensor& logical = layout_.logical()[tensor];
    to.resize(static_cast<size_t>(region.numel() * element_bytes(logical.type)));
    const Plain plain(logical, tensor, region);
    for (const Owner& owner : owners_[static_cast<size_t>(tensor)]) {
      const Region shared = intersect(owner.box->region, region);
      if (shared.numel() == 0) continue;
      copy(
          strides_between(logical, shared, owner.box, &tensor_of(owner), &plain.box, &plain.tensor),
          logical.type, owner.box->minus_one, owner.rank, owner.index, to.data(),
          Destination::kCache);
    }
  }

 private:
  struct Owner {
    int64_t rank, index;
    const Box* box;
  };
  const PhysicalTensor& tensor_of(const Owner& owner) const {
    return layout_.rank(owner.rank)[static_cast<size_t>(owner.index)];
  }

  const Layout& layout_;
  ByteSource& source_;
  /// By logical tensor.
  std::vector<std::vector<Owner>> owners_;
};

struct Task {
  const Copy* copy;
  int64_t chunk;
  /// Where the copy's piece begins.
  std::byte* to;
};

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
        reader_(from, source),
        chunks_(from.logical()) {
    for (const Piece& piece : plan.pieces) total_ += piece.size;
    for (size_t first = 0; first < plan.pieces.size();) {
      const auto [last, bytes] = bucket_from(first);
      capacity_ = std::max(capacity_, bytes);
      first = last;
    }
  }

  std::vector<Digest> run() {
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
    std::vector<Digest> digests;
    for (int32_t i = 0; i < from_.logical().size(); ++i)
      digests.push_back(chunks_.tensor_digest(i));
    return digests;
  }

 private:
  static constexpr size_t kLine = 64;
  struct FreeLines {
    void operator()(std::byte* memory) const {
      ::operator delete (memory, std::align_val_t{kLine});
    }
  };
  using Bucket = std::unique_ptr<std::byte, FreeLines>;

  /// Bytes of a piece in a bucket: each begins at a cache line.
  static int64_t aligned(int64_t bytes) {
    constexpr auto line = static_cast<int64_t>(kLine);
    return (bytes + line - 1) / line * line;
  }

  /// The pieces of a bucket that begins with `first`: the one behind its last, and their bytes.
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
        // Once and in full: a buffer that grew would be there twice while it does.
        if (!bucket)
          bucket.reset(static_cast<std::byte*>(
              ::operator new (static_cast<size_t>(capacity_), std::align_val_t{kLine})));
        add_tasks(piece, bucket.get() + used);
        used += aligned(piece.size);
      } else {
        add_tasks(piece, memory.data() + piece.begin);
      }
    }
    // In batches: what a mapped source has touched is let go in time, also where a bucket takes a
    // few columns of many rows.
    for (size_t begin = 0, end = 0; begin < tasks_.size(); begin = end) {
      for (int64_t touched = 0; end < tasks_.size() && touched < kTouchedBytes; ++end)
        touched += chunks_.region(tasks_[end].chunk).numel() *
                   element_bytes(from_.logical()[tasks_[end].copy->tensor].type);
      run_parallel(options_.num_threads, end - begin, [&](size_t i) { run(tasks_[begin + i]); });
      source_.release();
    }
    return last;
  }

  void add_tasks(const Piece& piece, std::byte* to) {
    int64_t covered = 0;
    for (size_t c = piece.first_copy; c < piece.first_copy + piece.num_copies; ++c) {
      const Copy& copy = plan_.copies[c];
      covered += copy.region.numel() * element_bytes(from_.logical()[copy.tensor].type);
      for (int64_t chunk = chunks_.first(copy.tensor); chunk < chunks_.end(copy.tensor); ++chunk)
        if (intersect(chunks_.region(chunk), copy.region).numel() > 0)
          tasks_.push_back({&copy, chunk, to});
    }
    // The padding; memory of the sink's own is zero.
    if (covered < piece.size && sink_.memory(piece.rank, piece.tensor).empty())
      std::memset(to, 0, static_cast<size_t>(piece.size));
  }

  void run(const Task& task) {
    const Copy& copy = *task.copy;
    const LogicalTensor& logical = from_.logical()[copy.tensor];
    const Region& chunk = chunks_.region(task.chunk);
    const Region shared = intersect(chunk, copy.region);
    const PhysicalTensor& to = to_.rank(copy.to_rank)[static_cast<size_t>(copy.to_tensor)];
    if (chunks_.claim(task.chunk)) {
      const auto bytes = reader_.in_order(copy.tensor, chunk);
      if (bytes.empty()) {
        if (gather_and_copy(copy, chunk, shared, task)) return;
      } else if (digest_and_copy(bytes, copy, chunk, shared, task)) {
        return;
      } else {
        chunks_.set(task.chunk, digest_of(bytes.data(), bytes.size()));
      }
    }
    const PhysicalTensor& from = from_.rank(copy.from_rank)[static_cast<size_t>(copy.from_tensor)];
    reader_.copy(strides_between(logical, shared, &from.boxes[static_cast<size_t>(copy.from_box)],
                                 &from, &copy.to, &to),
                 logical.type, copy.value_change, copy.from_rank, copy.from_tensor, task.to);
  }

  /// Digests a chunk that has to be gathered, part by part while it is in the second cache, and
  /// copies what the task asks for. False where values change: then nothing is copied.
  bool gather_and_copy(const Copy& copy,
                       const Region& chunk,
                       const Region& shared,
                       const Task& task) {
    constexpr int64_t kPartBytes = 256 << 10, kSteps = 64;  // whole blocks of a transpose
    const LogicalTensor& logical = from_.logical()[copy.tensor];
    const PhysicalTensor& to = to_.rank(copy.to_rank)[static_cast<size_t>(copy.to_tensor)];
    const bool copies = copy.value_change == 0 && !copy.to.minus_one;
    size_t outer = 0;
    while (outer + 1 < logical.dims.size() && chunk.size[outer] == 1) ++outer;
    const int64_t width = element_bytes(logical.type), steps = chunk.size[outer],
                  step_bytes = chunk.numel() / steps * width,
                  length = std::max(kSteps, kPartBytes / step_bytes / kSteps * kSteps);
    thread_local std::vector<std::byte> scratch;
    DigestStream digest;
    for (int64_t begin = 0; begin < steps; begin += length) {
      Region part = chunk;
      part.begin[outer] += begin;
      part.size[outer] = std::min(length, steps - begin);
      reader_.gather(copy.tensor, part, scratch);
      digest.update(scratch.data(), scratch.size());
      const Region wanted = intersect(part, shared);
      if (!copies || wanted.numel() == 0) continue;
      const Plain plain(logical, copy.tensor, part);
      strided_copy(strides_between(logical, wanted, &plain.box, &plain.tensor, &copy.to, &to),
                   width, scratch.data(), task.to);
    }
    chunks_.set(task.chunk, digest.finish());
    return copies;
  }

  /// Where a whole chunk goes to one place in its order, bytes are copied while they are in the
  /// first cache. False, with nothing done, where not.
  bool digest_and_copy(std::span<const std::byte> bytes,
                       const Copy& copy,
                       const Region& chunk,
                       const Region& shared,
                       const Task& task) {
    constexpr size_t kBlock = 2048;
    if (copy.value_change != 0 || shared != chunk) return false;
    const LogicalTensor& logical = from_.logical()[copy.tensor];
    const PhysicalTensor& to = to_.rank(copy.to_rank)[static_cast<size_t>(copy.to_tensor)];
    const Strides strides = strides_between(logical, chunk, nullptr, nullptr, &copy.to, &to);
    if (strides.num_dims > 0 && strides.run() != chunk.numel()) return false;
    std::byte* const target = task.to + strides.to_offset * element_bytes(logical.type);
    DigestStream digest;
    // The first block ends where the target's cache lines do.
    size_t size = kBlock - reinterpret_cast<uintptr_t>(target) % kLine;
    for (size_t at = 0; at < bytes.size(); at += size, size = kBlock) {
      size = std::min(size, bytes.size() - at);
      stream_copy(bytes.data() + at, target + at, size);
      // While stores drain and this block is digested, the next one comes.
      for (size_t next = at + size; next < std::min(at + size + kBlock, bytes.size());
           next += kLine)
        __builtin_prefetch(bytes.data() + next);
      digest.update(bytes.data() + at, size);
    }
    stream_fence();
    chunks_.set(task.chunk, digest.finish());
    return true;
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
  Reader reader_;
  ChunkTable chunks_;
  std::vector<Task> tasks_;
  /// Bytes.
  int64_t done_ = 0, total_ = 0, capacity_ = 0;
};

}  // namespace

std::vector<Region> digest_chunks(const LogicalTensor& tensor) {
  if (tensor.numel() == 0) return {};
  const Region all = whole(tensor);
  // The dimension to cut: what lies inside one step of it fits.
  int64_t inner = tensor.bytes();
  size_t cut = 0;
  for (; cut + 1 < tensor.dims.size(); ++cut) {
    inner /= std::max<int64_t>(1, all.size[cut]);
    if (inner <= kChunkBytes) break;
  }
  if (cut + 1 == tensor.dims.size()) inner = element_bytes(tensor.type);
  const int64_t step = std::max<int64_t>(1, kChunkBytes / std::max<int64_t>(1, inner));
  std::vector<Region> chunks{all};
  for (size_t d = 0; d <= cut && d < tensor.dims.size(); ++d) {
    const int64_t length = d < cut ? 1 : step;
    std::vector<Region> finer;
    for (const Region& chunk : chunks)
      for (int64_t begin = 0; begin < all.size[d]; begin += length) {
        finer.push_back(chunk);
        finer.back().begin[d] = begin;
        finer.back().size[d] = std::min(length, all.size[d] - begin);
      }
    chunks = std::move(finer);
  }
  return chunks;
}

std::vector<Digest> execute(const Layout& from,
                            const Layout& to,
                            const Plan& plan,
                            ByteSource& source,
                            ByteSink& sink,
                            const ExecuteOptions& options) {
  return Executor(from, to, plan, source, sink, options).run();
}

namespace {

void check_value_changes(const Layout& from, const Plan& plan, const Reader& reader) {
  std::vector<std::byte> scratch;
  for (const Copy& copy : plan.copies) {
    if (copy.value_change == 0) continue;
    const LogicalTensor& logical = from.logical()[copy.tensor];
    const PhysicalTensor& tensor = from.rank(copy.from_rank)[static_cast<size_t>(copy.from_tensor)];
    scratch.resize(static_cast<size_t>(logical.bytes()));
    const Strides strides =
        strides_between(logical, copy.region, &tensor.boxes[static_cast<size_t>(copy.from_box)],
                        &tensor, nullptr, nullptr);
    if (!reader.copy(strides, logical.type, copy.value_change, copy.from_rank, copy.from_tensor,
                     scratch.data()))
      fail<FormatError>("layout-conflict", tensor.name,
                        "expected values that keep their bytes when one is taken off and put back, "
                        "got others in {} (use out_norm=plain)",
                        logical.id);
  }
}

/// A further copy, chunk by chunk.
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
  const Reader reader(from, source);
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
                logical.type, task.box->minus_one, task.rank, task.index, copied.data());
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

std::vector<Digest> digest_tensors(const Layout& layout, ByteSource& source, int num_threads) {
  const Reader reader(layout, source);
  ChunkTable chunks(layout.logical());
  std::vector<std::pair<int32_t, int64_t>> tasks;
  for (int32_t t = 0; t < layout.logical().size(); ++t)
    for (int64_t chunk = chunks.first(t); chunk < chunks.end(t); ++chunk)
      tasks.emplace_back(t, chunk);
  run_parallel(num_threads, tasks.size(), [&](size_t i) {
    const auto [tensor, chunk] = tasks[i];
    auto bytes = reader.in_order(tensor, chunks.region(chunk));
    thread_local std::vector<std::byte> scratch;
    if (bytes.empty()) {
      reader.gather(tensor, chunks.region(chunk), scratch);
      bytes = scratch;
    }
    chunks.set(chunk, digest_of(bytes.data(), bytes.size()));
  });
  std::vector<Digest> digests;
  for (int32_t t = 0; t < layout.logical().size(); ++t) digests.push_back(chunks.tensor_digest(t));
  return digests;
}

}  // namespace lockstep::layout
