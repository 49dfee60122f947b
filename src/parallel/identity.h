// Whether all ranks of a run are the same program with the same flags over the same files. A rank
// that is not would train something else, and nothing of its numbers would show it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "parallel/group.h"

namespace lockstep::parallel {

/// Something that all ranks have alike, as values by name.
///
/// Example: {"flags", {{"--beta", "0.04"}, {"--seed", "42"}}}
struct IdentityPart {
  std::string name;
  std::vector<std::pair<std::string, std::string>> values;
  /// Ranks that differ in it compute the same but for the last bits.
  bool is_rounding = false;
};

/// What a rank is.
struct Identity {
  std::string host;
  int64_t process = 0;
  std::vector<IdentityPart> parts;
};

/// A value that is not the same on all ranks.
struct IdentityDifference {
  /// Its name, or that of its part where it has none: "--beta".
  std::string name;
  /// Who has what, the most frequent first: "0.04 on ranks 0, 1 and 3; 0.1 on rank 2 (n02, process
  /// 71)".
  std::string values;
  bool is_rounding = false;
};

/// The identities of this process: its host's name and its number, without parts.
Identity this_process();

/// How the ranks of a group differ, in the order of the parts and values of the first that has
/// them. What a rank does not have counts as "nothing".
std::vector<IdentityDifference> compare_identities(std::span<const Identity> ranks);

/// Compares this rank with all others; they call it together. What crosses is a few hundred bytes a
/// rank, and the values themselves only where some differ.
///
/// Throws ConfigError "rank-differs" on every rank where any differs; where it is in rounding
/// alone, the first rank logs a warning unless `exact`.
void check_identity(Group& group, const Identity& own, bool exact);

}  // namespace lockstep::parallel
