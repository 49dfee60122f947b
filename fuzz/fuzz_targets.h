// The fuzz targets: each takes any bytes, and aborts the run by an exception if an invariant
// breaks.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace lockstep::fuzz {

/// Reads bytes as JSON. Returns 1 if they were accepted, 0 if refused with a FormatError; anything
/// else escapes.
int fuzz_json(std::span<const uint8_t> bytes);

/// Reads bytes as a safetensors file. Returns as fuzz_json does.
int fuzz_safetensors(std::span<const uint8_t> bytes);

/// Reads bytes as a layout's name, and builds that layout of small models: what is accepted must be
/// proved or a conflict. Returns 1 if the name was accepted, 0 if refused with a ConfigError.
int fuzz_layout_spec(std::span<const uint8_t> bytes);

/// Reads bytes as the second of two rank files of a small model at fsdp2:world=2, whose first is as
/// it should be, and converts. Returns as fuzz_json does.
int fuzz_rank_file(std::span<const uint8_t> bytes);
/// The bytes that fuzz_rank_file accepts: where mutations begin.
std::string rank_file_seed();

/// Reads bytes as a block of weights, all digests verified. Returns as fuzz_json does.
int fuzz_weight_image(std::span<const uint8_t> bytes);
/// Reads bytes as the delta of a small step and applies it: what is accepted has the digests that
/// it names. Returns as fuzz_json does.
int fuzz_weight_delta(std::span<const uint8_t> bytes);
/// Reads bytes as the line in which a receiver asks for weights. Returns as fuzz_json does.
int fuzz_range_request(std::span<const uint8_t> bytes);
/// Bytes that the first two accept: where mutations begin.
std::string weight_image_seed();
std::string weight_delta_seed();

/// Reads bytes as the body of /v1/completions, of /v1/chat/completions, and of /tokenize or
/// /detokenize. Returns 1 if they were accepted, 0 if refused with a RequestError 400.
int fuzz_completion_request(std::span<const uint8_t> bytes);
int fuzz_chat_request(std::span<const uint8_t> bytes);
int fuzz_tokenize_request(std::span<const uint8_t> bytes);

}  // namespace lockstep::fuzz
