// SPDX-License-Identifier: Apache-2.0
#include "net/number_block.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <string_view>
#include <type_traits>

#include <fmt/ranges.h>

#include "base/json.h"

namespace lockstep::net {
namespace {

static_assert(std::endian::native == std::endian::little, "blocks are the machine's own bytes");

constexpr std::string_view kDigits =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::string base64(const unsigned char* bytes, size_t size) {
  std::string text;
  text.reserve((size + 2) / 3 * 4);
  for (size_t i = 0; i < size; i += 3) {
    const size_t count = std::min<size_t>(3, size - i);
    uint32_t bits = 0;
    for (size_t k = 0; k < 3; ++k) bits = bits << 8 | (k < count ? bytes[i + k] : 0U);
    for (size_t k = 0; k < 4; ++k) text += k <= count ? kDigits[bits >> (18 - 6 * k) & 63] : '=';
  }
  return text;
}

/// The value of each character; -1: it is no digit.
constexpr std::array<int8_t, 256> make_values() {
  std::array<int8_t, 256> values{};
  values.fill(-1);
  for (size_t i = 0; i < kDigits.size(); ++i)
    values[static_cast<unsigned char>(kDigits[i])] = static_cast<int8_t>(i);
  return values;
}

/// Writes exactly `size` bytes; false if the text has others.
bool read_base64(std::string_view text, unsigned char* bytes, size_t size) {
  static constexpr std::array<int8_t, 256> kValues = make_values();
  if (text.size() != (size + 2) / 3 * 4) return false;
  for (size_t i = 0, at = 0; i < size; i += 3, at += 4) {
    const size_t count = std::min<size_t>(3, size - i);
    uint32_t bits = 0;
    for (size_t k = 0; k < 4; ++k) {
      const int value = kValues[static_cast<unsigned char>(text[at + k])];
      if (k > count ? text[at + k] != '=' : value < 0) return false;
      bits = bits << 6 | static_cast<uint32_t>(std::max(value, 0));
    }
    for (size_t k = 0; k < count; ++k)
      bytes[i + k] = static_cast<unsigned char>(bits >> (16 - 8 * k) & 255);
  }
  return true;
}

template <class T>
constexpr std::string_view kType = std::is_same_v<T, float> ? "<f4" : "<i4";

/// More numbers than any answer has.
constexpr int64_t kMostNumbers = int64_t{1} << 40;

}  // namespace

template <class T>
std::string number_block_text(std::span<const int64_t> shape, std::span<const T> values) {
  return fmt::format(
      R"({{"dtype":"{}","shape":[{}],"data":"{}"}})", kType<T>, fmt::join(shape, ","),
      base64(reinterpret_cast<const unsigned char*>(values.data()), values.size_bytes()));
}

template <class T>
std::optional<NumberBlock<T>> read_number_block(const Json& block) {
  if (!block.is_object() || block.value("dtype", Json()) != kType<T>) return {};
  const Json shape = block.value("shape", Json()), data = block.value("data", Json());
  if (!shape.is_array() || !data.is_string()) return {};
  NumberBlock<T> made;
  int64_t count = 1;
  for (const Json& size : shape) {
    if (!size.is_number_integer() || size < 0 || size > kMostNumbers) return {};
    made.shape.push_back(size.get<int64_t>());
    count *= made.shape.back();
    if (count > kMostNumbers) return {};
  }
  const std::string& text = data.get_ref<const std::string&>();
  // A shape alone takes no memory.
  if (static_cast<size_t>(count) > text.size()) return {};
  made.values.resize(static_cast<size_t>(count));
  if (!read_base64(text, reinterpret_cast<unsigned char*>(made.values.data()),
                   made.values.size() * sizeof(T)))
    return {};
  return made;
}

template std::string number_block_text(std::span<const int64_t>, std::span<const int32_t>);
template std::string number_block_text(std::span<const int64_t>, std::span<const float>);
template std::optional<NumberBlock<int32_t>> read_number_block(const Json&);
template std::optional<NumberBlock<float>> read_number_block(const Json&);

}  // namespace lockstep::net
