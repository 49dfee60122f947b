// Where the checkout and the built program lie. The paths are compiled into one file alone, so that
// ccache's objects of one checkout serve another.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string>

namespace lockstep::testing {

/// The root of the checkout.
std::filesystem::path source_dir();

/// The program of this build.
std::string built_program();

}  // namespace lockstep::testing
