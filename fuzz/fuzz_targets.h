// The fuzz targets: each takes any bytes, and aborts the run by an exception if an invariant breaks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

namespace lockstep::fuzz {

/// Reads bytes as JSON. Returns 1 if they were accepted, 0 if refused with a FormatError; anything else escapes.
int fuzz_json(std::span<const uint8_t> bytes);

/// Reads bytes as a safetensors file. Returns as fuzz_json does.
int fuzz_safetensors(std::span<const uint8_t> bytes);

}  // namespace lockstep::fuzz
