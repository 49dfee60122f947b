// Digests of tokenizer and templates: each file that counts changes one of them, and no other does.
// SPDX-License-Identifier: Apache-2.0
#include "text/identity.h"

#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"

namespace lockstep::text {
namespace {

using testing::TempDir;

TEST(Identity, EachFileChangesTheDigestThatItBelongsTo) {
  TempDir folder;
  folder.write("tokenizer.json", "{}");
  const auto both = [&] {
    return std::pair(tokenizer_digest(folder.path()), template_digest(folder.path()));
  };
  auto before = both();
  const auto expect_change = [&](bool of_tokenizer, bool of_template) {
    const auto now = both();
    EXPECT_EQ(now.first != before.first, of_tokenizer);
    EXPECT_EQ(now.second != before.second, of_template);
    before = now;
  };
  folder.write("README.md", "text");
  expect_change(false, false);
  folder.write("tokenizer.json", "{\"model\": 1}");
  expect_change(true, false);
  folder.write("chat_template.jinja", "{{ messages }}");
  expect_change(false, true);
  std::filesystem::create_directory(folder / "additional_chat_templates");
  expect_change(false, false);
  folder.write("additional_chat_templates/tool_use.jinja", "tools");
  expect_change(false, true);
  folder.write("tokenizer_config.json", "{\"eos_token\": \"a\", \"chat_template\": \"x\"}");
  expect_change(true, true);
  folder.write("tokenizer_config.json", "{\"eos_token\": \"a\", \"chat_template\": \"y\"}");
  expect_change(false, true);
  folder.write("tokenizer_config.json", "{\"eos_token\": \"b\", \"chat_template\": \"y\"}");
  expect_change(true, false);
}

}  // namespace
}  // namespace lockstep::text
