// SPDX-License-Identifier: Apache-2.0
#include "layout/chunk_digests.h"

#include <algorithm>
#include <utility>

#include "layout/copy_kernels.h"
#include "layout/run_parallel.h"
#include "layout/strided_copy.h"

namespace lockstep::layout {

std::vector<Region> digest_chunks(const LogicalTensor& tensor) {
  if (tensor.numel() == 0) return {};
  const Region all = whole(tensor);
  // Finds the dimension to cut: the outermost one whose single step fits.
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

ChunkDigests::ChunkDigests(const LogicalTensors& logical) {
  for (const LogicalTensor& tensor : logical) {
    first_.push_back(static_cast<int64_t>(regions_.size()));
    for (Region& region : digest_chunks(tensor)) regions_.push_back(region);
  }
  first_.push_back(static_cast<int64_t>(regions_.size()));
  digests_.resize(regions_.size());
  claimed_ = std::vector<std::atomic<bool>>(regions_.size());
}

std::vector<Digest> ChunkDigests::of_tensors() const {
  static_assert(sizeof(Digest) == 16);
  std::vector<Digest> digests;
  for (size_t tensor = 0; tensor + 1 < first_.size(); ++tensor) {
    const auto begin = static_cast<size_t>(first_[tensor]),
               end = static_cast<size_t>(first_[tensor + 1]);
    digests.push_back(digest_of(digests_.data() + begin, (end - begin) * sizeof(Digest)));
  }
  return digests;
}

void round_to_bfloat16(std::span<std::byte> bytes) {
  const auto count = static_cast<int64_t>(bytes.size() / sizeof(float));
  const Strides row{.num_dims = 1, .size = {count}, .from = {1}, .to = {1}};
  std::vector<std::byte> rounded(bytes.size() / 2);
  strided_copy_changed(row, {ElementType::kF32, ElementType::kBF16}, bytes.data(), rounded.data());
  strided_copy_changed(row, {ElementType::kBF16, ElementType::kF32}, rounded.data(), bytes.data());
}

Digest digest_gathered(const RegionReader& reader,
                       int32_t tensor,
                       const Region& chunk,
                       const OnPart& on_part) {
  // Parts stay in the second cache; they are whole blocks of a transpose.
  constexpr int64_t kPartBytes = 256 << 10, kSteps = 64;
  const LogicalTensor& logical = reader.logical()[tensor];
  size_t outer = 0;
  while (outer + 1 < logical.dims.size() && chunk.size[outer] == 1) ++outer;
  const int64_t steps = chunk.size[outer],
                step_bytes = chunk.numel() / steps * element_bytes(logical.type),
                length = std::max(kSteps, kPartBytes / step_bytes / kSteps * kSteps);
  thread_local std::vector<std::byte> scratch;
  DigestStream digest;
  for (int64_t begin = 0; begin < steps; begin += length) {
    Region part = chunk;
    part.begin[outer] += begin;
    part.size[outer] = std::min(length, steps - begin);
    reader.gather(tensor, part, scratch);
    digest.update(scratch.data(), scratch.size());
    if (on_part) on_part(part, scratch);
  }
  return digest.finish();
}

Digest digest_and_copy(std::span<const std::byte> bytes, std::byte* to) {
  // Each block is copied and digested while it is in the first cache.
  constexpr size_t kBlock = 2048, kLine = 64;
  DigestStream digest;
  // The first block ends where the target's cache lines do.
  size_t size = kBlock - reinterpret_cast<uintptr_t>(to) % kLine;
  for (size_t at = 0; at < bytes.size(); at += size, size = kBlock) {
    size = std::min(size, bytes.size() - at);
    stream_copy(bytes.data() + at, to + at, size);
    // Fetches the next block while stores drain and this one is digested.
    for (size_t next = at + size; next < std::min(at + size + kBlock, bytes.size()); next += kLine)
      __builtin_prefetch(bytes.data() + next);
    digest.update(bytes.data() + at, size);
  }
  stream_fence();
  return digest.finish();
}

std::vector<Digest> digest_tensors(const Layout& layout, ByteSource& source, int num_threads) {
  const RegionReader reader(layout, source);
  ChunkDigests chunks(layout.logical());
  std::vector<std::pair<int32_t, int64_t>> tasks;
  for (int32_t t = 0; t < layout.logical().size(); ++t)
    for (int64_t chunk = chunks.first(t); chunk < chunks.end(t); ++chunk)
      tasks.emplace_back(t, chunk);
  run_parallel(num_threads, tasks.size(), [&](size_t i) {
    const auto [tensor, chunk] = tasks[i];
    const auto bytes = reader.in_order(tensor, chunks.region(chunk));
    chunks.set(chunk, bytes.empty() ? digest_gathered(reader, tensor, chunks.region(chunk))
                                    : digest_of(bytes.data(), bytes.size()));
  });
  return chunks.of_tensors();
}

}  // namespace lockstep::layout
