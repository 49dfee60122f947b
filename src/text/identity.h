// Digests of a checkpoint's tokenizer and chat templates: two programs compare them before one of
// them samples for the other.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "base/digest.h"

namespace lockstep::text {

/// The digest of tokenizer.json and of what else tokenizer_config.json says. Throws IoError and
/// FormatError "bad-tokenizer".
Digest tokenizer_digest(const std::filesystem::path& model);

/// The digest of all chat templates that the folder holds, wherever they stand in it; that of
/// nothing where it has none.
Digest template_digest(const std::filesystem::path& model);

}  // namespace lockstep::text
