// SPDX-License-Identifier: Apache-2.0
//
// A tile of some rows and panels keeps its sums in registers over a block of the inputs; between
// blocks they rest in memory, unrounded, so the cut into blocks does not show in the result. While
// a block is multiplied, the next one is asked for: the panels come from main memory in a decode.
#include "ops/cpu/panel_product.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/cpu/panel_product.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "ops/cpu/bfloat16-inl.h"

#ifndef LOCKSTEP_UNROLL
#define LOCKSTEP_UNROLL _Pragma("GCC unroll 64")
#endif

HWY_BEFORE_NAMESPACE();
namespace lockstep::ops::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace {

// At most a panel's width of lanes: one panel is one vector of AVX-512, two of AVX2, four of NEON.
using Float = hn::CappedTag<float, kPanelOutputs>;
using Bits = hn::RebindToUnsigned<Float>;
using V = hn::Vec<Float>;

HWY_INLINE constexpr int64_t lanes() { return static_cast<int64_t>(hn::MaxLanes(Float())); }
/// Vectors of a panel.
constexpr int64_t kVectors = kPanelOutputs / lanes();
/// Inputs between two rests; even.
constexpr int64_t kInputBlock = kChainInputs;

/// Vectors that the processor has registers for.
#if HWY_TARGET <= HWY_AVX3
constexpr int64_t kRegisters = 32;
#else
constexpr int64_t kRegisters = 16;
#endif
/// Vectors that a tile's sums may take: three quarters of the registers, so that the inputs fit
/// beside them; half of them for bfloat16 weights that are widened, which takes room.
template <class T, class X>
constexpr int64_t kTileVectors = sizeof(T) == sizeof(X) ? kRegisters / 4 * 3 : kRegisters / 2;
/// Panels of a tile of many rows: at least two vectors wide, so that a broadcast input serves
/// several products. With 32 registers tiles of 6 x 4 ask the least of the caches.
constexpr int64_t kWidePanels = kVectors >= 2 ? 1 : panels_of_tile(kPanelProductRows);
/// Rows of such a tile.
template <class T, class X>
constexpr int64_t kTileRows = std::max<int64_t>(1, kTileVectors<T, X> / (kWidePanels * kVectors));
/// Rows of a tile of one panel, where the others leave some.
template <class T, class X>
constexpr int64_t kNarrowRows = std::clamp<int64_t>(kTileVectors<T, X> / kVectors, 1, 12);
/// Panels that `Rows` rows are multiplied with at once.
template <class T, class X, int64_t Rows>
constexpr int64_t kPanelsFor = std::clamp<int64_t>(kTileVectors<T, X> / kVectors / Rows, 1, 6);

/// One step of inputs of a panel and of a row of x: `kInputs` inputs in `kParts` multiplications,
/// `kVectors` vectors each. A transposed x has `kSide` inputs of a row side by side.
template <class T, class X>
struct Step;
template <>
struct Step<float, float> {
  static constexpr int64_t kInputs = 1, kParts = 1, kSide = 1;
  static HWY_INLINE V load(const float* panel, int64_t input, int64_t vector, int64_t) {
    return hn::LoadU(Float(), panel + input * kPanelOutputs + vector * lanes());
  }
  static HWY_INLINE V broadcast(const float* x, bool) { return hn::Set(Float(), *x); }
  static HWY_INLINE V multiply_add(V x, V w, V sum) { return hn::MulAdd(x, w, sum); }
};
template <>
struct Step<uint16_t, float> {
  static constexpr int64_t kInputs = 2, kParts = 2, kSide = 1;
  /// Lane o of the 32-bit word holds the even input below and the odd input above. Two shifts clear
  /// the lower half: a mask would take a register from the sums.
  static HWY_INLINE V load(const uint16_t* panel, int64_t input, int64_t vector, int64_t part) {
    const Bits d;
    const auto pair = hn::LoadU(d, reinterpret_cast<const uint32_t*>(panel) +
                                       (input / 2) * kPanelOutputs + vector * lanes());
    return hn::BitCast(Float(), hn::ShiftLeft<16>(part ? hn::ShiftRight<16>(pair) : pair));
  }
  static HWY_INLINE V broadcast(const float* x, bool) { return hn::Set(Float(), *x); }
  static HWY_INLINE V multiply_add(V x, V w, V sum) { return hn::MulAdd(x, w, sum); }
};
#if HWY_ARCH_X86 && HWY_TARGET == HWY_AVX3
/// Both inputs of a pair at once, by an instruction for it: this target has the registers, and
/// has_pair_products() tells whether the processor has the instruction.
template <>
struct Step<uint16_t, uint16_t> {
  static constexpr int64_t kInputs = 2, kParts = 1, kSide = 2;
  static HWY_INLINE V load(const uint16_t* panel, int64_t input, int64_t vector, int64_t) {
    return hn::LoadU(
        Float(), reinterpret_cast<const float*>(panel + input * kPanelOutputs) + vector * lanes());
  }
  /// `is_last`: there is no second input.
  static HWY_INLINE V broadcast(const uint16_t* x, bool is_last) {
    uint32_t pair = x[0];
    if (!is_last) std::memcpy(&pair, x, sizeof(pair));
    return hn::BitCast(Float(), hn::Set(Bits(), pair));
  }
  static HWY_INLINE V multiply_add(V x, V w, V sum) {
    // GCC knows the instruction only where all code may use it, which Highway's target may not.
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum.raw) : "v"(x.raw), "v"(w.raw));
    return sum;
  }
};
#endif

/// Memory that is needed soon: one piece for each panel. A tile asks for `step` bytes of each at
/// every step of inputs.
struct Ahead {
  const char* data;
  /// Bytes from a panel's piece to the next.
  int64_t stride;
  int64_t step;
};

/// A block of inputs of a group of panels, and where the sums of its rows rest between blocks.
template <class T, class X, class Y, bool kTransposed>
struct Block {
  /// [rows, *] or transposed, from the block's first input on.
  const X* x;
  int64_t x_stride;
  HWY_INLINE const X* row(int64_t i) const {
    return x + i * (kTransposed ? Step<T, X>::kSide : x_stride);
  }
  /// From the block's first input on.
  const T* panels;
  int64_t panel_stride;
  int64_t inputs;
  /// The sums hold nothing yet.
  bool is_first;
  /// PanelProduct::adds_chains
  bool adds_chains;
  /// [rows][panels * 16]
  float* sums;
  /// Where the sums go after the last block, [rows][panels * 16 of y_stride]; null: they rest.
  Y* y;
  int64_t y_stride;
  Ahead ahead;
};

/// `Rows` rows of a block from `row` on, and all of its `Panels` panels.
// long: what shares the registers of a tile stands together.
template <int64_t Panels, int64_t Rows, class T, class X, class Y, bool kTransposed>
HWY_INLINE void run_tile(const Block<T, X, Y, kTransposed>& block, int64_t row, Ahead ahead) {
  using S = Step<T, X>;
  constexpr int64_t kWide = Panels * kVectors;
  const Float d;
  const X* const x = block.row(row);
  float* const sums = block.sums + row * Panels * kPanelOutputs;
  V total[Rows * kWide];
  LOCKSTEP_UNROLL
  for (int64_t i = 0; i < Rows * kWide; ++i)
    total[i] = block.is_first || block.adds_chains ? hn::Zero(d) : hn::LoadU(d, sums + i * lanes());
  const auto weight = [&](int64_t input, int64_t part, int64_t v) HWY_ATTR {
    return S::load(block.panels + v / kVectors * block.panel_stride, input, v % kVectors, part);
  };
  const auto broadcast = [&](int64_t input, int64_t i, bool is_last) HWY_ATTR {
    return S::broadcast(
        x + (kTransposed ? input * block.x_stride + i * S::kSide : i * block.x_stride + input),
        is_last);
  };
  // What there is less of stays in registers, inputs or weights; the others come one by one.
  const auto add = [&](int64_t input, auto parts, bool is_last) HWY_ATTR {
    if constexpr (kWide <= Rows) {
      for (int64_t part = 0; part < parts; ++part) {
        V w[kWide];
        LOCKSTEP_UNROLL
        for (int64_t v = 0; v < kWide; ++v) w[v] = weight(input, part, v);
        LOCKSTEP_UNROLL
        for (int64_t i = 0; i < Rows; ++i) {
          const V value = broadcast(input + part, i, is_last);
          LOCKSTEP_UNROLL
          for (int64_t v = 0; v < kWide; ++v)
            total[i * kWide + v] = S::multiply_add(value, w[v], total[i * kWide + v]);
        }
      }
    } else {
      V values[Rows][parts];
      for (int64_t part = 0; part < parts; ++part)
        for (int64_t i = 0; i < Rows; ++i) values[i][part] = broadcast(input + part, i, is_last);
      LOCKSTEP_UNROLL
      for (int64_t v = 0; v < kWide; ++v)
        for (int64_t part = 0; part < parts; ++part) {
          const V w = weight(input, part, v);
          for (int64_t i = 0; i < Rows; ++i)
            total[i * kWide + v] = S::multiply_add(values[i][part], w, total[i * kWide + v]);
        }
    }
  };
  int64_t input = 0;
  for (; input + S::kInputs <= block.inputs; input += S::kInputs) {
    // Where few rows make it hurry through three panels and more, the processor asks for them by
    // itself, and better.
    if constexpr (Panels < 3 || Rows > 3)
      for (int64_t i = 0; i < Panels; ++i) __builtin_prefetch(ahead.data + i * ahead.stride, 0, 2);
    ahead.data += ahead.step;
    add(input, std::integral_constant<int64_t, S::kParts>(), false);
  }
  // The odd last input of a bfloat16 weight.
  if (input < block.inputs) add(input, std::integral_constant<int64_t, 1>(), true);
  if (block.adds_chains && !block.is_first) {
    LOCKSTEP_UNROLL
    for (int64_t i = 0; i < Rows * kWide; ++i)
      total[i] = hn::Add(hn::LoadU(d, sums + i * lanes()), total[i]);
  }
  if (block.y) {
    Y* const y = block.y + row * block.y_stride;
    LOCKSTEP_UNROLL
    for (int64_t i = 0; i < Rows * kWide; ++i)
      store_float(d, total[i], y + i / kWide * block.y_stride + i % kWide * lanes());
    return;
  }
  LOCKSTEP_UNROLL
  for (int64_t i = 0; i < Rows * kWide; ++i) hn::StoreU(total[i], d, sums + i * lanes());
}

/// As run_tile, for 1 <= count <= Rows rows.
template <int64_t Panels, int64_t Rows, class T, class X, class Y, bool kTransposed>
HWY_INLINE void run_rows(const Block<T, X, Y, kTransposed>& block,
                         int64_t row,
                         int64_t count,
                         const Ahead& ahead) {
  if constexpr (Rows > 1) {
    if (count < Rows) return run_rows<Panels, Rows - 1>(block, row, count, ahead);
  }
  run_tile<Panels, Rows>(block, row, ahead);
}

/// All rows of a block, in tiles of at most `Rows` rows.
template <int64_t Panels, int64_t Rows, class T, class X, class Y, bool kTransposed>
HWY_INLINE void run_block(const Block<T, X, Y, kTransposed>& block, int64_t rows) {
  // Tiles as equal as can be: 32 rows are 6, 6, 5, 5, 5 and 5, not five times 6 and 2.
  const int64_t tiles = (rows + Rows - 1) / Rows;
  // Each tile asks for its share: all at once would fill the processor's queue of misses.
  Ahead ahead = block.ahead;
  ahead.step = (ahead.step + tiles - 1) / tiles;
  for (int64_t tile = 0, row = 0; tile < tiles; ++tile) {
    const int64_t height = (rows - row + tiles - tile - 1) / (tiles - tile);
    run_rows<Panels, Rows>(block, row, height, ahead);
    row += height;
    ahead.data += block.inputs / Step<T, X>::kInputs * ahead.step;
  }
}

/// `inputs` inputs of a bfloat16 panel as float32; one more, a zero, where they are odd.
void widen(const uint16_t* panel, int64_t inputs, float* to) {
  for (int64_t input = 0; input < inputs; input += 2, to += 2 * kPanelOutputs)
    for (int64_t v = 0; v < kVectors; ++v) {
      hn::StoreU(Step<uint16_t, float>::load(panel, input, v, 0), Float(), to + v * lanes());
      hn::StoreU(Step<uint16_t, float>::load(panel, input, v, 1), Float(),
                 to + kPanelOutputs + v * lanes());
    }
}

/// What y holds, as sums to go on from.
template <class T, class Y, class X>
void load_sums(const PanelProduct<T, Y, X>& p, int64_t first, int64_t width, float* sums) {
  const Float d;
  const hn::CappedTag<float, 1> one;
  const int64_t columns = std::min(width, p.outputs - first);
  for (int64_t row = 0; row < p.rows; ++row) {
    const Y* const y = p.y + row * p.y_stride + first;
    float* const to = sums + row * width;
    int64_t i = 0;
    for (; i + lanes() <= columns; i += lanes()) hn::StoreU(load_float(d, y + i), d, to + i);
    for (; i < columns; ++i) hn::StoreU(load_float(one, y + i), one, to + i);
    std::fill_n(to + columns, width - columns, 0.0F);
  }
}

/// Writes the sums of all rows to y, rounded or cut off at its last column.
template <class T, class Y, class X>
void store_sums(const PanelProduct<T, Y, X>& p, const float* sums, int64_t first, int64_t width) {
  const Float d;
  const hn::CappedTag<float, 1> one;
  const int64_t columns = std::min(width, p.outputs - first);
  for (int64_t row = 0; row < p.rows; ++row) {
    Y* const y = p.y + row * p.y_stride + first;
    const float* const from = sums + row * width;
    int64_t i = 0;
    for (; i + lanes() <= columns; i += lanes()) store_float(d, hn::LoadU(d, from + i), y + i);
    for (; i < columns; ++i) store_float(one, hn::LoadU(one, from + i), y + i);
  }
}

/// `Panels` panels for all rows, in tiles of at most `Rows` rows.
template <int64_t Panels, int64_t Rows, bool kTransposed, class T, class Y, class X>
void multiply_group(const PanelProduct<T, Y, X>& p, int64_t panel) {
  constexpr int64_t kWidth = Panels * kPanelOutputs, kBlockElements = kInputBlock * kPanelOutputs;
  HWY_ALIGN float sums[kPanelProductRows * kWidth];
  const int64_t stride = panel_elements(p.inputs, p.panels), first = panel * kPanelOutputs;
  if (p.adds) load_sums(p, first, kWidth, sums);
  // The last panel may be wider than y.
  Y* const y = first + kWidth <= p.outputs ? p.y + first : nullptr;
  for (int64_t begin = 0; begin < p.inputs; begin += kInputBlock) {
    const int64_t inputs = std::min(kInputBlock, p.inputs - begin);
    const T* const panels = p.panels + panel * stride + begin * kPanelOutputs;
    const X* const x = p.x + (kTransposed ? begin * p.x_stride : begin);
    const bool is_first = begin == 0 && !p.adds, is_last = begin + inputs == p.inputs;
    const T* const next =
        is_last ? p.panels + (panel + Panels) * stride : panels + inputs * kPanelOutputs;
    constexpr int64_t kInputBytes = kPanelOutputs * static_cast<int64_t>(sizeof(T));
    // From behind the last panel too: that does no harm.
    Ahead ahead{reinterpret_cast<const char*>(next), stride * static_cast<int64_t>(sizeof(T)),
                kInputBytes};
    Y* const to = is_last ? y : nullptr;
    if constexpr (sizeof(T) != sizeof(X) && Panels == kWidePanels) {
      // Several tiles read the same block: it is widened once for all of them.
      if (p.rows > Rows) {
        HWY_ALIGN float wide[Panels * kBlockElements];
        for (int64_t i = 0; i < Panels; ++i)
          widen(panels + i * stride, inputs, wide + i * kBlockElements);
        run_block<Panels, kTileRows<float, float>>(
            Block<float, float, Y, kTransposed>{x, p.x_stride, wide, kBlockElements, inputs,
                                                is_first, p.adds_chains, sums, to, p.y_stride,
                                                ahead},
            p.rows);
        continue;
      }
    }
    ahead.step *= Step<T, X>::kInputs;
    run_block<Panels, Rows>(
        Block<T, X, Y, kTransposed>{x, p.x_stride, panels, stride, inputs, is_first, p.adds_chains,
                                    sums, to, p.y_stride, ahead},
        p.rows);
  }
  if (!y) store_sums(p, sums, first, kWidth);
}

template <bool kTransposed, class T, class Y, class X>
void multiply_all(const PanelProduct<T, Y, X>& p, int64_t first, int64_t last) {
  constexpr int64_t kRows = kTileRows<T, X>;
  int64_t panel = first;
  // Few rows wait for memory and for the chain: more panels at once give more chains, and more
  // streams from memory, of which a core reads several almost twice as fast as one.
  const auto by = [&](auto rows) HWY_ATTR {
    constexpr int64_t kPanels = kPanelsFor<T, X, rows>;
    if constexpr (kPanels > kWidePanels && !kTransposed)
      for (; panel + kPanels <= last; panel += kPanels)
        multiply_group<kPanels, rows, kTransposed>(p, panel);
  };
  if (p.rows == 1) by(std::integral_constant<int64_t, 1>());
  if (p.rows == 2) by(std::integral_constant<int64_t, 2>());
  if (p.rows == 3) by(std::integral_constant<int64_t, 3>());
  for (; panel + kWidePanels <= last; panel += kWidePanels)
    multiply_group<kWidePanels, kRows, kTransposed>(p, panel);
  if constexpr (kWidePanels > 1)
    for (; panel < last; ++panel) multiply_group<1, kNarrowRows<T, X>, kTransposed>(p, panel);
}

template <class T, class Y, class X>
void multiply(const PanelProduct<T, Y, X>& p, int64_t first, int64_t last) {
  p.is_transposed ? multiply_all<true>(p, first, last) : multiply_all<false>(p, first, last);
}

/// visit(panel, its outputs, first input, last input) over all panels for a few inputs, then for
/// the next few: each panel gets some lines behind one another, and few are read side by side.
template <class Visit>
void for_each_piece(int64_t outputs, int64_t first, int64_t last, Visit&& visit) {
  constexpr int64_t kLines = 8;
  for (int64_t line = first; line < last; line += kLines)
    for (int64_t panel = 0; panel < num_panels(outputs); ++panel)
      visit(panel, std::min(kPanelOutputs, outputs - panel * kPanelOutputs), line,
            std::min(last, line + kLines));
}

/// Pairs of the elements of two lines; without a second line, of those of one and zeros.
void interleave(const uint16_t* even, const uint16_t* odd, int64_t count, uint16_t* to) {
  const Bits d;
  const hn::Rebind<uint16_t, Bits> half;
  int64_t i = 0;
  if (odd)
    for (; i + lanes() <= count; i += lanes()) {
      const auto low = hn::PromoteTo(d, hn::LoadU(half, even + i)),
                 high = hn::PromoteTo(d, hn::LoadU(half, odd + i));
      hn::StoreU(hn::Or(low, hn::ShiftLeft<16>(high)), d, reinterpret_cast<uint32_t*>(to) + i);
    }
  for (; i < count; ++i) {
    to[2 * i] = even[i];
    to[2 * i + 1] = odd ? odd[i] : uint16_t{0};
  }
}

void pack_lines_f32(const WeightView<float>& weight, int64_t first, int64_t last, float* panels) {
  const int64_t stride = panel_elements(weight.inputs, weight.data);
  for_each_piece(weight.outputs, first, last,
                 [&](int64_t panel, int64_t count, int64_t begin, int64_t end) {
                   const float* const lines = weight.data + panel * kPanelOutputs;
                   float* const to = panels + panel * stride;
                   for (int64_t i = begin; i < end; ++i) {
                     std::copy_n(lines + i * weight.input_stride, count, to + i * kPanelOutputs);
                     std::fill_n(to + i * kPanelOutputs + count, kPanelOutputs - count, 0.0F);
                   }
                 });
}

void pack_lines_bf16(const WeightView<uint16_t>& weight,
                     int64_t first,
                     int64_t last,
                     uint16_t* panels) {
  const int64_t stride = panel_elements(weight.inputs, weight.data);
  for_each_piece(
      weight.outputs, first, last, [&](int64_t panel, int64_t count, int64_t begin, int64_t end) {
        const uint16_t* const lines = weight.data + panel * kPanelOutputs;
        for (int64_t i = begin; i < end; i += 2) {
          const uint16_t* const even = lines + i * weight.input_stride;
          uint16_t* const to = panels + panel * stride + i * kPanelOutputs;
          interleave(even, i + 1 < weight.inputs ? even + weight.input_stride : nullptr, count, to);
          std::fill_n(to + 2 * count, 2 * (kPanelOutputs - count), uint16_t{0});
        }
      });
}

void multiply_f32(const PanelProduct<float>& p, int64_t first, int64_t last) {
  multiply(p, first, last);
}
void multiply_bf16(const PanelProduct<uint16_t>& p, int64_t first, int64_t last) {
  multiply(p, first, last);
}
void multiply_bf16_to_f32(const PanelProduct<uint16_t, float>& p, int64_t first, int64_t last) {
  multiply(p, first, last);
}
void multiply_f32_to_bf16(const PanelProduct<float, uint16_t>& p, int64_t first, int64_t last) {
  multiply(p, first, last);
}

}  // namespace

#if HWY_ARCH_X86 && HWY_TARGET == HWY_AVX3
// Without Highway's table, which has a kernel for each target.
void multiply_pairs(const PanelProduct<uint16_t, uint16_t, uint16_t>& p,
                    int64_t first,
                    int64_t last) {
  multiply(p, first, last);
}
void multiply_pairs(const PanelProduct<uint16_t, float, uint16_t>& p, int64_t first, int64_t last) {
  multiply(p, first, last);
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace lockstep::ops::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lockstep::ops::cpu {

HWY_EXPORT(multiply_f32);
HWY_EXPORT(multiply_bf16);
HWY_EXPORT(multiply_bf16_to_f32);
HWY_EXPORT(multiply_f32_to_bf16);
HWY_EXPORT(interleave);
HWY_EXPORT(pack_lines_f32);
HWY_EXPORT(pack_lines_bf16);

void panel_product(const PanelProduct<float>& product, int64_t first, int64_t last) {
  HWY_DYNAMIC_DISPATCH(multiply_f32)(product, first, last);
}
void panel_product(const PanelProduct<uint16_t>& product, int64_t first, int64_t last) {
  HWY_DYNAMIC_DISPATCH(multiply_bf16)(product, first, last);
}

void panel_product(const PanelProduct<uint16_t, float>& product, int64_t first, int64_t last) {
  HWY_DYNAMIC_DISPATCH(multiply_bf16_to_f32)(product, first, last);
}

void panel_product(const PanelProduct<float, uint16_t>& product, int64_t first, int64_t last) {
  HWY_DYNAMIC_DISPATCH(multiply_f32_to_bf16)(product, first, last);
}

#if HWY_ARCH_X86 && (HWY_TARGETS & HWY_AVX3)
bool has_pair_products() {
  static const bool has_instruction = __builtin_cpu_supports("avx512bf16");
  return has_instruction && (hwy::SupportedTargets() & HWY_AVX3) != 0;
}
void panel_product(const PanelProduct<uint16_t, uint16_t, uint16_t>& product,
                   int64_t first,
                   int64_t last) {
  N_AVX3::multiply_pairs(product, first, last);
}
void panel_product(const PanelProduct<uint16_t, float, uint16_t>& product,
                   int64_t first,
                   int64_t last) {
  N_AVX3::multiply_pairs(product, first, last);
}
#else
bool has_pair_products() { return false; }
void panel_product(const PanelProduct<uint16_t, uint16_t, uint16_t>&, int64_t, int64_t) {}
void panel_product(const PanelProduct<uint16_t, float, uint16_t>&, int64_t, int64_t) {}
#endif

void pack_lines(const WeightView<float>& weight, int64_t first, int64_t last, float* panels) {
  HWY_DYNAMIC_DISPATCH(pack_lines_f32)(weight, first, last, panels);
}
void pack_lines(const WeightView<uint16_t>& weight, int64_t first, int64_t last, uint16_t* panels) {
  HWY_DYNAMIC_DISPATCH(pack_lines_bf16)(weight, first, last, panels);
}
void interleave_lines(const uint16_t* even, const uint16_t* odd, int64_t count, uint16_t* to) {
  HWY_DYNAMIC_DISPATCH(interleave)(even, odd, count, to);
}

}  // namespace lockstep::ops::cpu
#endif  // HWY_ONCE
