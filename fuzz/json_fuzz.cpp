// SPDX-License-Identifier: Apache-2.0
#include <string_view>

#include "base/check.h"
#include "base/json.h"
#include "fuzz/fuzz_targets.h"

namespace lockstep::fuzz {

int fuzz_json(std::span<const uint8_t> bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  Json value;
  try {
    value = parse_json(text, "fuzz", "bad-json", {.max_depth = 32, .max_bytes = 1 << 20});
  } catch (const FormatError&) {
    return 0;
  }
  LOCKSTEP_CHECK(parse_json(dump_json(value), "dumped") == value, "dump and parse differ");
  LOCKSTEP_CHECK(parse_json(dump_json(value, /*spaced=*/true), "spaced") == value,
                 "spaced dump and parse differ");
  const JsonLimits keeping{.keep_digits = true};
  Json kept = parse_json(text, "kept", "bad-json", keeping);
  LOCKSTEP_CHECK(parse_json(dump_json(kept), "dumped", "bad-json", keeping) == kept,
                 "dump and parse differ where digits are kept");
  round_kept_digits(kept);
  LOCKSTEP_CHECK(kept == value, "rounded digits differ");
  return 1;
}

}  // namespace lockstep::fuzz
