// SPDX-License-Identifier: Apache-2.0
#include <c10/core/ScalarType.h>

#include "base/check.h"
#include "fuzz/fuzz_targets.h"
#include "io/safetensors.h"

namespace lockstep::fuzz {

int fuzz_safetensors(std::span<const uint8_t> bytes) {
  io::SafetensorsHeader header;
  try {
    header = io::parse_safetensors(std::as_bytes(bytes), "fuzz");
  } catch (const FormatError&) {
    return 0;
  }
  // An accepted file is covered by its tensors, each of the size of its shape.
  size_t covered = header.entries.empty() ? bytes.size() : header.entries.front().begin;
  for (const io::TensorEntry& entry : header.entries) {
    LOCKSTEP_CHECK(entry.begin == covered && entry.end >= entry.begin, "{} is misplaced",
                   entry.name);
    size_t size = c10::elementSize(entry.dtype);
    for (const int64_t dimension : entry.shape) size *= static_cast<size_t>(dimension);
    LOCKSTEP_CHECK(entry.end - entry.begin == size, "{} has another size", entry.name);
    covered = entry.end;
  }
  LOCKSTEP_CHECK(covered == bytes.size(), "bytes are left over");
  return 1;
}

}  // namespace lockstep::fuzz
