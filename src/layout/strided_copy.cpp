// SPDX-License-Identifier: Apache-2.0
#include "layout/strided_copy.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "layout/copy_kernels.h"

namespace lockstep::layout {
namespace {

/// Calls act(from element, to element) for each index of the outer `num_dims` dimensions.
template <class Act>
void for_each_index(
    const Strides& s, int num_dims, int64_t from, int64_t to, const Act& act, int d = 0) {
  if (d == num_dims) {
    act(from, to);
    return;
  }
  const auto dim = static_cast<size_t>(d);
  for (int64_t i = 0; i < s.size[dim]; ++i)
    for_each_index(s, num_dims, from + i * s.from[dim], to + i * s.to[dim], act, d + 1);
}

/// Loads without alignment: sources are mapped files, whose tensors may begin at any byte.
template <class T>
T load(const T* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}
template <class T>
void store(T* to, T value) {
  std::memcpy(to, &value, sizeof(T));
}

template <class T>
void transpose_any(const Transposition<T>& m, Destination destination) {
  if constexpr (sizeof(T) == 2 || sizeof(T) == 4) {
    transpose(m, destination);
  } else {
    for (int64_t column = 0; column < m.columns; ++column)
      for (int64_t row = 0; row < m.rows; ++row)
        store(m.to + column * m.to_stride + row, load(m.from + row * m.from_stride + column));
  }
}

template <class T>
void copy(const Strides& s, const T* from, T* to, Destination destination) {
  if (s.num_dims == 0) {
    store(to + s.to_offset, load(from + s.from_offset));
    return;
  }
  const auto last = static_cast<size_t>(s.num_dims - 1);
  if (s.run() > 1) {
    const size_t bytes = static_cast<size_t>(s.run()) * sizeof(T);
    for_each_index(s, s.num_dims - 1, s.from_offset, s.to_offset, [&](int64_t f, int64_t t) {
      if (destination == Destination::kCache)
        std::memcpy(to + t, from + f, bytes);
      else
        stream_copy(reinterpret_cast<const std::byte*>(from + f),
                    reinterpret_cast<std::byte*>(to + t), bytes);
    });
    return;
  }
  // Finds the dimension along which one side runs while the other runs along the last.
  for (int d = 0; d + 1 < s.num_dims; ++d) {
    const auto dim = static_cast<size_t>(d);
    const bool target_runs = s.to[dim] == 1 && s.from[last] == 1;
    const bool source_runs = s.from[dim] == 1 && s.to[last] == 1;
    if (!target_runs && !source_runs) continue;
    Strides outer;
    for (int o = 0; o + 1 < s.num_dims; ++o) {
      if (o == d) continue;
      const auto next = static_cast<size_t>(outer.num_dims++), old = static_cast<size_t>(o);
      outer.size[next] = s.size[old];
      outer.from[next] = s.from[old];
      outer.to[next] = s.to[old];
    }
    for_each_index(outer, outer.num_dims, s.from_offset, s.to_offset, [&](int64_t f, int64_t t) {
      if (target_runs)
        transpose_any<T>({from + f, s.from[dim], s.size[dim], s.size[last], to + t, s.to[last]},
                         destination);
      else
        transpose_any<T>({from + f, s.from[last], s.size[last], s.size[dim], to + t, s.to[dim]},
                         destination);
    });
    return;
  }
  for_each_index(s, s.num_dims, s.from_offset, s.to_offset,
                 [&](int64_t f, int64_t t) { store(to + t, load(from + f)); });
}

struct Float32 {
  using Bits = uint32_t;
  static float value(Bits bits) { return std::bit_cast<float>(bits); }
  static Bits rounded(float value) { return std::bit_cast<Bits>(value); }
};
/// Rounds to the nearest bfloat16, ties to the even one, as libtorch does. A NaN stays one: what
/// would carry into its sign, or leave it without a fraction, is cut off.
struct BFloat16 {
  using Bits = uint16_t;
  static float value(Bits bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
  static Bits rounded(float value) {
    constexpr uint32_t kMagnitude = 0x7FFF'FFFF, kInfinity = 0x7F80'0000, kQuiet = 0x40;
    const auto wide = std::bit_cast<uint32_t>(value);
    const uint32_t upper = wide >> 16;
    if ((wide & kMagnitude) > kInfinity)
      return static_cast<Bits>(upper & 0x7F ? upper : upper | kQuiet);
    return static_cast<Bits>((wide + 0x7FFF + (upper & 1)) >> 16);
  }
};

template <class From, class To>
bool copy_changed(const Strides& s, float added, const std::byte* from, std::byte* to) {
  using Source = typename From::Bits;
  using Target = typename To::Bits;
  bool comes_back = true;
  const auto* const source = reinterpret_cast<const Source*>(from);
  auto* const target = reinterpret_cast<Target*>(to);
  const auto last = static_cast<size_t>(std::max(0, s.num_dims - 1));
  const int64_t count = s.num_dims > 0 ? s.size[last] : 1;
  for_each_index(
      s, std::max(0, s.num_dims - 1), s.from_offset, s.to_offset, [&](int64_t f, int64_t t) {
        for (int64_t i = 0; i < count; ++i) {
          const Source bits = load(source + f + i * s.from[last]);
          const float value = From::value(bits);
          // 0 is not added: it would make 0 of -0.
          const Target changed = To::rounded(added == 0 ? value : value + added);
          const float back = To::value(changed);
          comes_back = comes_back && From::rounded(added == 0 ? back : back - added) == bits;
          store(target + t + i * s.to[last], changed);
        }
      });
  return comes_back;
}

}  // namespace

void strided_copy(const Strides& strides,
                  int64_t width,
                  const std::byte* from,
                  std::byte* to,
                  Destination destination) {
  const auto copy_as = [&](auto element) {
    using T = decltype(element);
    copy(strides, reinterpret_cast<const T*>(from), reinterpret_cast<T*>(to), destination);
  };
  switch (width) {
    case 1:
      copy_as(uint8_t{});
      break;
    case 2:
      copy_as(uint16_t{});
      break;
    case 4:
      copy_as(uint32_t{});
      break;
    case 8:
      copy_as(uint64_t{});
      break;
    default:
      LOCKSTEP_CHECK(false, "an element of {} bytes", width);
  }
  if (destination == Destination::kMemory) stream_fence();
}

bool strided_copy_changed(const Strides& strides,
                          const ValueChange& change,
                          const std::byte* from,
                          std::byte* to) {
  const auto is_known = [](ElementType type) {
    return type == ElementType::kF32 || type == ElementType::kBF16;
  };
  LOCKSTEP_CHECK(is_known(change.from) && is_known(change.to), "a change of value from {} to {}",
                 element_name(change.from), element_name(change.to));
  const auto added = static_cast<float>(change.added);
  if (change.from == ElementType::kBF16)
    return change.to == ElementType::kBF16
               ? copy_changed<BFloat16, BFloat16>(strides, added, from, to)
               : copy_changed<BFloat16, Float32>(strides, added, from, to);
  return change.to == ElementType::kBF16 ? copy_changed<Float32, BFloat16>(strides, added, from, to)
                                         : copy_changed<Float32, Float32>(strides, added, from, to);
}

}  // namespace lockstep::layout
