// A data set of a test's own rows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"
#include "text/dataset.h"

namespace lockstep::text {

class DatasetTest : public ::testing::Test {
 protected:
  Dataset load(std::string_view text,
               DatasetOptions options = {},
               std::string_view name = "rows.jsonl") {
    options.dataset = {directory_.write(name, text).string()};
    return load_dataset(options);
  }
  /// The only row of a file.
  Row row(std::string_view text,
          const DatasetOptions& options = {},
          std::string_view name = "rows.jsonl") {
    Dataset dataset = load(text, options, name);
    EXPECT_EQ(dataset.rows.size(), 1u);
    return dataset.rows.at(0);
  }
  Json messages(std::string_view text, const DatasetOptions& options = {}) {
    return row(text, options).messages;
  }

  lockstep::testing::TempDir directory_;
};

inline Json json(std::string_view text) { return parse_json(text, "test"); }

inline const Json kHiHo =
    json(R"([{"role":"user","content":"hi"},{"role":"assistant","content":"ho"}])");

}  // namespace lockstep::text
