// CRC-32C, the checksum of TFRecord files.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>

namespace lockstep::io {

/// CRC-32C (Castagnoli) of `bytes`. Source: RFC 3720, appendix B.4.
uint32_t crc32c(std::string_view bytes);

/// The checksum as TFRecord files hold it: rotated and with an offset, so that the checksum of data
/// that holds checksums is not a weak one.
///
/// Source: tensorflow/core/lib/hash/crc32c.h, Mask.
uint32_t masked_crc32c(std::string_view bytes);

}  // namespace lockstep::io
