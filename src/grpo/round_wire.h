// What a rank has sampled and judged of a round, as bytes for the other ranks of the run.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "grpo/rewarded_groups.h"

namespace lockstep::grpo {

/// The bytes of a part: all of it but the prompts, which every rank has, and what layers read while
/// it was sampled, which stays where it is. Numbers keep their bits, those that are no numbers too.
std::string bytes_of_part(const JudgedGroups& part);

/// What bytes_of_part() was given, by another process of this very program. `prompts` are those of
/// the part. Throws FormatError "bad-part".
JudgedGroups read_part(std::string_view bytes, std::vector<const Prompt*> prompts);

}  // namespace lockstep::grpo
