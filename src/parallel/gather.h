// Lists of plain values of all ranks, one behind another.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "parallel/group.h"

namespace lockstep::parallel {

/// The bytes of all ranks, in the order of ranks, and in `counts` how many each has. They may
/// differ in length.
std::vector<std::byte> gather_bytes(Group& group,
                                    std::span<const std::byte> own,
                                    std::vector<int64_t>& counts,
                                    const Call& call);

/// The elements of all ranks' lists, in the order of ranks. Lists may differ in length.
template <class T>
std::vector<T> gather_list(Group& group, std::vector<T> own, const Call& call) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (group.size() == 1) return own;
  std::vector<int64_t> counts;
  const std::vector<std::byte> bytes =
      gather_bytes(group, std::as_bytes(std::span(own)), counts, call);
  std::vector<T> all(bytes.size() / sizeof(T));
  if (!all.empty()) std::memcpy(all.data(), bytes.data(), bytes.size());
  return all;
}

}  // namespace lockstep::parallel
