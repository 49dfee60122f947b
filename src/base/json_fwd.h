// Forward declaration of Json.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json_fwd.hpp>

namespace lockstep {
using Json = nlohmann::ordered_json;
}
