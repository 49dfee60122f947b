// SPDX-License-Identifier: Apache-2.0
#include "report/json_parts.h"

#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/json.h"
#include "tests/support/test_seed.h"

namespace lockstep::report {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(JsonParts, AnObjectComesApartIntoItsMembers) {
  const auto members =
      members_of(R"( {"a": [1, "],}", {"b": 2}] , "q\"\u00e9": "x\\\"y", "n":null,"f":-1e3} )");
  ASSERT_TRUE(members);
  ASSERT_EQ(members->size(), 4u);
  EXPECT_EQ((*members)[0].name, "a");
  EXPECT_EQ((*members)[0].value, R"([1, "],}", {"b": 2}])");
  EXPECT_EQ((*members)[1].name, "q\"é");
  EXPECT_EQ(text_of((*members)[1].value), "x\\\"y");
  EXPECT_EQ((*members)[2].value, "null");
  EXPECT_EQ((*members)[3].value, "-1e3");
}

TEST(JsonParts, AListComesApartIntoItsItems) {
  EXPECT_THAT(items_of(R"([ "a,b" , [1, 2], {"k": "]"}, 3.5,null ])"),
              ElementsAre("\"a,b\"", "[1, 2]", "{\"k\": \"]\"}", "3.5", "null"));
  EXPECT_THAT(items_of("[]"), IsEmpty());
  EXPECT_THAT(items_of("\"text\""), IsEmpty());
  EXPECT_EQ(count_items("[[1,2],[],3]"), 3u);
}

TEST(JsonParts, WhatIsNoObjectHasNoMembers) {
  for (const char* text : {"", " ", "[1]", "{", "{\"a\"", "{\"a\":", "{\"a\": [1, 2", "{\"a\": \"x",
                           "{\"a\" 1}", "nothing", "{\"a\": 1"})
    EXPECT_FALSE(members_of(text)) << text;
}

/// A random value, nested at most `depth` deep, with what could mislead a scanner in its texts.
Json random_value(std::mt19937_64& random, int depth) {
  static const std::string kTexts[] = {"",  "a", "\"", "\\",    "]",   "}",
                                       ",", ":", "{[", "é\n\t", "</x>"};
  switch (random() % (depth > 0 ? 6 : 4)) {
    case 0:
      return static_cast<int64_t>(random() % 1000) - 500;
    case 1:
      return nullptr;
    case 2:
      return kTexts[random() % std::size(kTexts)] + kTexts[random() % std::size(kTexts)];
    case 3:
      return 0.125 * static_cast<double>(random() % 100);
    case 4: {
      Json list = Json::array();
      for (size_t i = random() % 4; i > 0; --i) list.push_back(random_value(random, depth - 1));
      return list;
    }
    default: {
      Json object = Json::object();
      for (size_t i = random() % 4; i > 0; --i)
        object[kTexts[random() % std::size(kTexts)] + std::to_string(i)] =
            random_value(random, depth - 1);
      return object;
    }
  }
}

TEST(JsonParts, ThePartsAreThoseOfAParser) {
  std::mt19937_64 random(testing::test_seed(1));
  for (int i = 0; i < 500; ++i) {
    const Json value = random_value(random, 4);
    const std::string text = dump_json(value, /*spaced=*/random() % 2 == 0);
    const auto members = members_of(text);
    ASSERT_EQ(members.has_value(), value.is_object()) << text;
    if (members) {
      ASSERT_EQ(members->size(), value.size()) << text;
      size_t at = 0;
      for (const auto& [name, part] : value.items()) {
        EXPECT_EQ((*members)[at].name, name);
        EXPECT_EQ(parse_json((*members)[at].value, "part"), part) << text;
        ++at;
      }
    }
    if (!value.is_array()) continue;
    const auto items = items_of(text);
    ASSERT_EQ(items.size(), value.size()) << text;
    EXPECT_EQ(count_items(text), value.size());
    for (size_t k = 0; k < items.size(); ++k) EXPECT_EQ(parse_json(items[k], "item"), value[k]);
  }
}

/// Whatever stands in a log, reading it ends.
TEST(JsonParts, CutAndGarbledTextsEnd) {
  std::mt19937_64 random(testing::test_seed(1));
  for (int i = 0; i < 300; ++i) {
    std::string text = dump_json(Json{{"a", random_value(random, 3)}, {"b", {1, "x"}}});
    text.resize(random() % (text.size() + 1));
    if (!text.empty()) text[random() % text.size()] = "\"{[]}:,\\ x"[random() % 10];
    try {
      if (const auto members = members_of(text))
        for (const Member& member : *members) items_of(member.value);
      items_of(text);
    } catch (const Error&) {
      // A name that is no JSON string.
    }
  }
}

}  // namespace
}  // namespace lockstep::report
