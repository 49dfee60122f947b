// Random names that nobody can guess.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace lockstep::sync {

/// 128 bits from the system, as 32 hexadecimal digits. Throws IoError "no-random-bytes".
std::string random_secret();

/// Whether `text` has the form of a secret, or of a Digest: 32 hexadecimal digits in lower case.
bool is_hex_128(std::string_view text);

/// Compares in a time that does not tell where they differ.
bool equal_secrets(std::string_view a, std::string_view b);

}  // namespace lockstep::sync
