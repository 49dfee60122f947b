// Safetensors files put together by hand for the tests.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace lockstep::testing {

/// `length` as the eight bytes that a file begins with.
inline std::string length_bytes(uint64_t length) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(length >> (8 * i));
  return bytes;
}

/// A file of that header and `data_size` bytes of data.
inline std::string safetensors_bytes(std::string_view header, size_t data_size) {
  return length_bytes(header.size()) + std::string(header) + std::string(data_size, '\1');
}

}  // namespace lockstep::testing
