// The page itself, as tools that know HTML edit it: src/report/page/. The build makes one text of
// it (embed_page.cmake).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

namespace lockstep::report {

/// What stands in the template where the data go.
inline constexpr const char* kDataMark = "{{data}}";

/// page.html with style.css and the scripts in it.
std::string_view page_template();

}  // namespace lockstep::report
