// What somebody meant by a flag or a command that does not exist: by meaning first, by spelling
// second.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace lockstep::cli {

/// The member of `names` that another program calls `word` ("batch_size", "kl_coef"), or that is
/// the same but for case and dashes; "" when there is none.
std::string same_meaning(std::string_view word, std::span<const std::string> names);

/// The member of `names` that `word` most likely stands for; "" when none is near.
///
/// In order: one with a single wrong letter, one of the same meaning, the shortest that has all of
/// its words ("lr_warmup"), the shortest that begins with it ("mask_trunc"), and the one with the
/// fewest edits. Where several fit, the earlier in `names` goes first.
std::string suggest_name(std::string_view word, std::span<const std::string> names);

/// The member of `names` with the least edit distance to `word`; "" when none is near.
std::string nearest_name(std::string_view word, std::span<const std::string> names);

}  // namespace lockstep::cli
