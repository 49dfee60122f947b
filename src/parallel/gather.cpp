// SPDX-License-Identifier: Apache-2.0
#include "parallel/gather.h"

#include <algorithm>

namespace lockstep::parallel {

std::vector<std::byte> gather_bytes(Group& group,
                                    std::span<const std::byte> own,
                                    std::vector<int64_t>& counts,
                                    const Call& call) {
  const int64_t length = std::ssize(own);
  counts.resize(static_cast<size_t>(group.size()));
  group.all_gather(std::as_bytes(std::span(&length, 1)), std::as_writable_bytes(std::span(counts)),
                   {call.name + ", lengths", call.deadline});
  // Transports gather lists of one length: the longest is that of all.
  const auto longest = static_cast<size_t>(*std::max_element(counts.begin(), counts.end()));
  std::vector<std::byte> padded(longest), all(longest * counts.size());
  std::copy(own.begin(), own.end(), padded.begin());
  group.all_gather(padded, all, call);
  auto end = all.begin();
  for (size_t rank = 0; rank < counts.size(); ++rank) {
    const auto part = all.begin() + static_cast<ptrdiff_t>(rank * longest);
    end = std::move(part, part + counts[rank], end);
  }
  all.erase(end, all.end());
  return all;
}

}  // namespace lockstep::parallel
