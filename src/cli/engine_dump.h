// What the dump of an engine's parameters says of itself, in the metadata of its safetensors file.
// SPDX-License-Identifier: Apache-2.0
//
// An engine may change a parameter after it has loaded it: vLLM packs experts in place, and gives
// linear layers a packed form of which the parameter is empty. Whoever makes the dump can see that
// (tools/parity/vllm_dump.py compares each parameter with what it was before), and names it.
#pragma once

#include <map>
#include <optional>
#include <string>

namespace lockstep::cli {

struct EngineDump {
  /// "vllm 0.32.0"
  std::string engine;
  /// By parameter: why its bytes are not what was loaded.
  std::map<std::string, std::string> not_comparable;
};

/// Reads the keys "engine" and "not_comparable" (a JSON object); unset for a file without the
/// first. Throws FormatError "bad-dump" at `where`.
std::optional<EngineDump> read_engine_dump(const std::map<std::string, std::string>& metadata,
                                           const std::string& where);

}  // namespace lockstep::cli
