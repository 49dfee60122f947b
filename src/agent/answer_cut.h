// Answers of tools and environments as long as a model may read them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "text/tokenizer.h"

namespace lockstep::agent {

/// The text if it has at most `most` tokens; otherwise its first ones up to a whole character, and
/// a mark that says how many are left out.
std::string cut_to_tokens(const std::string& text, int64_t most, const text::Tokenizer& tokenizer);

}  // namespace lockstep::agent
