// Panels written and read back, without arithmetic: plain C++, as fast as memory.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cstring>

#include "ops/cpu/panel_product.h"

namespace lockstep::ops::cpu {

void pack_panel(const WeightView<float>& weight, int64_t panel, float* to) {
  const int64_t first = panel * kPanelOutputs,
                count = std::min(kPanelOutputs, weight.outputs - first);
  const float* from = weight.data + first * weight.output_stride;
  for (int64_t i = 0; i < weight.inputs; ++i) {
    const float* input = from + i * weight.input_stride;
    for (int64_t o = 0; o < kPanelOutputs; ++o)
      to[i * kPanelOutputs + o] = o < count ? input[o * weight.output_stride] : 0.0F;
  }
}

void pack_panel(const WeightView<uint16_t>& weight, int64_t panel, uint16_t* to) {
  const int64_t first = panel * kPanelOutputs,
                count = std::min(kPanelOutputs, weight.outputs - first);
  const uint16_t* from = weight.data + first * weight.output_stride;
  for (int64_t i = 0; i < weight.inputs + weight.inputs % 2; ++i) {
    const uint16_t* input = from + i * weight.input_stride;
    uint16_t* pair = to + i / 2 * 2 * kPanelOutputs + i % 2;
    for (int64_t o = 0; o < kPanelOutputs; ++o)
      pair[2 * o] = o < count && i < weight.inputs ? input[o * weight.output_stride] : uint16_t{0};
  }
}

namespace {

/// Where a panel has the element of an input and of one of its outputs.
template <class T>
constexpr int64_t place(int64_t input, int64_t output) {
  if constexpr (sizeof(T) == sizeof(float)) return input * kPanelOutputs + output;
  return input / 2 * 2 * kPanelOutputs + 2 * output + input % 2;
}

/// A square of a panel, kPanelOutputs each way, of which `inputs` and `outputs` are there.
template <class T>
void transpose_part(const T* from, int64_t inputs, int64_t outputs, T* to) {
  const int64_t filled = sizeof(T) == sizeof(float) ? outputs : outputs + outputs % 2;
  for (int64_t o = 0; o < filled; ++o)
    for (int64_t i = 0; i < kPanelOutputs; ++i)
      to[place<T>(o, i)] = o < outputs && i < inputs ? from[place<T>(i, o)] : T{0};
}

void transpose_square(const float* from, float* to) {
  for (int64_t o = 0; o < kPanelOutputs; ++o)
    for (int64_t i = 0; i < kPanelOutputs; ++i)
      to[o * kPanelOutputs + i] = from[i * kPanelOutputs + o];
}

/// Two inputs of two outputs lie side by side in both panels: only the middle ones change places.
void transpose_square(const uint16_t* from, uint16_t* to) {
  for (int64_t o = 0; o < kPanelOutputs; o += 2)
    for (int64_t i = 0; i < kPanelOutputs; i += 2) {
      uint64_t four = 0;
      std::memcpy(&four, from + place<uint16_t>(i, o), sizeof(four));
      four = (four & 0xFFFF00000000FFFFULL) | (four & 0xFFFF0000ULL) << 16 |
             (four >> 16 & 0xFFFF0000ULL);
      std::memcpy(to + place<uint16_t>(o, i), &four, sizeof(four));
    }
}

template <class T>
void transpose_to_panel(const T* panels, int64_t outputs, int64_t inputs, int64_t panel, T* to) {
  const int64_t first = panel * kPanelOutputs, width = std::min(kPanelOutputs, inputs - first);
  for (int64_t o = 0; o < outputs; o += kPanelOutputs) {
    const T* const from =
        panels + o / kPanelOutputs * panel_elements(inputs, panels) + place<T>(first, 0);
    const int64_t height = std::min(kPanelOutputs, outputs - o);
    if (width == kPanelOutputs && height == kPanelOutputs)
      transpose_square(from, to + place<T>(o, 0));
    else
      transpose_part(from, width, height, to + place<T>(o, 0));
  }
}

template <class T>
void unpack(const T* panels, int64_t inputs, int64_t row, T* to) {
  const T* const panel = panels + row / kPanelOutputs * panel_elements(inputs, panels);
  for (int64_t i = 0; i < inputs; ++i) to[i] = panel[place<T>(i, row % kPanelOutputs)];
}

float widened(uint16_t value) { return std::bit_cast<float>(static_cast<uint32_t>(value) << 16); }

}  // namespace

void transpose_panels(
    const float* panels, int64_t outputs, int64_t inputs, int64_t panel, float* to) {
  transpose_to_panel(panels, outputs, inputs, panel, to);
}
void transpose_panels(
    const uint16_t* panels, int64_t outputs, int64_t inputs, int64_t panel, uint16_t* to) {
  transpose_to_panel(panels, outputs, inputs, panel, to);
}

void unpack_row(const float* panels, int64_t inputs, int64_t row, float* to) {
  unpack(panels, inputs, row, to);
}
void unpack_row(const uint16_t* panels, int64_t inputs, int64_t row, uint16_t* to) {
  unpack(panels, inputs, row, to);
}

void transpose_to_rows(
    const uint16_t* from, int64_t stride, int64_t rows, int64_t inputs, float* to) {
  constexpr int64_t kSide = 16;  // squares of a line of the cache each way
  for (int64_t row = 0; row < rows; row += kSide)
    for (int64_t input = 0; input < inputs; input += kSide) {
      const int64_t height = std::min(kSide, rows - row), width = std::min(kSide, inputs - input);
      float square[kSide][kSide];
      for (int64_t i = 0; i < width; ++i)
        for (int64_t r = 0; r < height; ++r)
          square[i][r] = widened(from[(input + i) * stride + row + r]);
      for (int64_t r = 0; r < height; ++r)
        for (int64_t i = 0; i < width; ++i) to[(row + r) * inputs + input + i] = square[i][r];
    }
}

}  // namespace lockstep::ops::cpu
