// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <bit>
#include <cmath>
#include <ctime>
#include <limits>
#include <random>

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_seed.h"

namespace lockstep {
namespace {

using lockstep::testing::TempDir;

TEST(Json, KeepsTheOrderOfKeysAndTheKindOfNumbers) {
  const Json value =
      parse_json(R"({"z": 1, "a": -2, "m": [1.0, 18446744073709551615, true, null, "é"]})", "t");
  EXPECT_EQ(dump_json(value),
            "{\"z\":1,\"a\":-2,\"m\":[1.0,18446744073709551615,true,null,\"é\"]}");
  EXPECT_TRUE(value["z"].is_number_integer());
  EXPECT_TRUE(value["m"][0].is_number_float());
}

Json with_digits(std::string_view text) {
  return parse_json(text, "t", "t", {.keep_digits = true});
}

TEST(Json, KeepsDigitsThatADoubleRounds) {
  for (const char* text :
       {"987654321098765432109876543210", "-36893488147419103232", "0.1000000000000000055511151231",
        "1.00000000000000000001e-7", "123456789012345678.5", "1e-400", "0.30000000000000000001"}) {
    const Json value = with_digits(text);
    EXPECT_FALSE(value.is_number()) << text;
    EXPECT_EQ(number_text(value), text);
    EXPECT_EQ(dump_json(value), text);
    const std::string list = "[" + std::string(text) + ", {\"a\": " + text + "}]";
    EXPECT_EQ(dump_json(with_digits(list), /*spaced=*/true), list);
    Json rounded = with_digits(list);
    round_kept_digits(rounded);
    EXPECT_EQ(rounded, parse_json(list, "t"));
  }
  // One that is too large for a double.
  const std::string large = R"([1e400,-1.5E+999,{"1e400":"1e400 \"1e400\"","a":[1,-2,3.5]},1)" +
                            std::string(400, '0') + "]";
  EXPECT_EQ(dump_json(with_digits(large)), large);
  EXPECT_EQ(number_text(with_digits(large)[1]), "-1.5E+999");
  EXPECT_EQ(with_digits(large)[2]["a"], Json({1, -2, 3.5}));
  Json too_large = with_digits("[1e400]");
  EXPECT_ERROR(round_kept_digits(too_large), FormatError, "bad-json", "1e400");
  for (const char* text :
       {"[1e]", "[1e400e]", "[-]", "[1e400", "1e400 1e400", "[01e400]", "[.1e400]"})
    EXPECT_THROW(with_digits(text), FormatError) << text;
  EXPECT_ERROR(with_digits("[1e400, 2, x]"), FormatError, "t", "byte 11");
  // What a double holds stays a number, however it is written.
  for (const char* text : {"2e-05", "0.00002", "2.50", "1E+3", "0.1", "-0.0", "0e5", "1e22",
                           "18446744073709551615", "5e-324", "1.7976931348623157e308"}) {
    const Json value = with_digits(text);
    EXPECT_TRUE(value.is_number()) << text;
    EXPECT_EQ(value, parse_json(text, "t"));
    EXPECT_EQ(number_text(value), dump_json(value));
  }
  EXPECT_FALSE(number_text("2"));
  EXPECT_FALSE(number_text(nullptr));
}

TEST(Json, NamesPlaceAndByteOfEachFault) {
  const struct {
    std::string text;
    const char* words;
  } table[] = {
      {"", "file.json: expected JSON, got an error at byte 0: syntax error while parsing value"},
      {"   ", "byte 3"},
      {"{\"a\": }", "byte 6"},
      {"[1, 2", "byte 5"},
      {"[1, 2,]", "byte 6"},
      {"[1] 2", "byte 4"},
      {"{} {}", "byte 3"},
      {"{\"a\": 1, \"b\": 2, \"a\": 3}",
       "expected each key once, got a second \"a\" that ends at byte 19"},
      {"[{\"a\": 1}, {\"\": 1, \"\": 2}]", "got a second \"\" that ends at byte 20"},
      {"[NaN]", "byte 1"},
      {"[Infinity]", "byte 1"},
      {"[-Infinity]", "byte 2"},
      {"[1e999]", "number overflow"},
      {"[-1e999]", "number overflow"},
      {"[01]", "byte 2"},
      {"[1.]", "byte 3"},
      {"[+1]", "byte 1"},
      {"['a']", "byte 1"},
      {"{a: 1}", "byte 1"},
      {"// comment\n1", "byte 0"},
      {"[\"\x80\"]", "byte 2"},
      {"[\"\xC3\x28\"]", "byte 3"},
      {"[\"\xED\xA0\x80\"]", "byte 3"},      // a surrogate in UTF-8
      {"[\"\xF4\x90\x80\x80\"]", "byte 3"},  // above U+10FFFF
      {"[\"\\ud800\"]", "surrogate"},
      {"[\"a\nb\"]", "byte 3"},
      {std::string("[1\0]", 4), "byte 2"},
      {std::string("1\0", 2), "got a NUL at byte 1"},
      {"\xEF\xBB", "byte"},
  };
  for (const auto& row : table) {
    SCOPED_TRACE(row.text);
    EXPECT_ERROR(parse_json(row.text, "file.json"), FormatError, "bad-json", row.words);
  }
}

TEST(Json, MessagesArePrintableAndShort) {
  try {
    parse_json("[\"" + std::string(100000, 'x') + "\x01\"]", "t");
    FAIL() << "threw nothing";
  } catch (const FormatError& error) {
    EXPECT_LT(std::string(error.what()).size(), 260u);
    for (const char c : std::string(error.what())) EXPECT_TRUE(c >= 0x20 && c < 0x7f);
  }
}

TEST(Json, HoldsItsLimits) {
  const JsonLimits limits{.max_depth = 3, .max_bytes = 20};
  EXPECT_NO_THROW(parse_json("[{\"a\":[1]}]", "t", "bad-json", limits));
  EXPECT_ERROR(parse_json("[{\"a\":[[1]]}]", "t", "bad-json", limits), FormatError, "bad-json",
               "expected at most 3 levels of nesting, got more at byte 7");
  EXPECT_ERROR(parse_json(std::string(21, ' '), "t", "bad-row", limits), FormatError, "bad-row",
               "expected at most 20 bytes of JSON, got 21");
  EXPECT_NO_THROW(parse_json(std::string(256, '[') + std::string(256, ']'), "t"));
  EXPECT_ERROR(parse_json(std::string(1000000, '['), "t"), FormatError, "bad-json",
               "at most 256 levels");
}

TEST(Json, FindsDuplicatesInSmallAndLargeObjects) {
  for (const int count : {1, 2, 15, 16, 17, 18, 100}) {
    for (int twice : {0, count / 2, count - 1}) {
      std::string text = "{";
      for (int i = 0; i < count; ++i) text += "\"k" + std::to_string(i) + "\": [{}], ";
      const std::string whole = text.substr(0, text.size() - 2) + "}";
      EXPECT_EQ(parse_json(whole, "t").size(), static_cast<size_t>(count));
      text += "\"k" + std::to_string(twice) + "\": 1}";
      EXPECT_ERROR(parse_json(text, "t"), FormatError, "bad-json",
                   "second \"k" + std::to_string(twice) + "\"");
    }
  }
}

TEST(Json, ParsesALargeVocabularyInLinearTime) {
  std::string text = "{\"vocab\": {";
  constexpr int kEntries = 250000;
  for (int i = 0; i < kEntries; ++i)
    text += (i ? ", \"tok\u0120" : "\"tok\u0120") + std::to_string(i) + "\": " + std::to_string(i);
  text += "}}";
  const std::clock_t start = std::clock();  // of the processor: a busy machine does not count
  const Json value = parse_json(text, "tokenizer.json");
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  EXPECT_EQ(value["vocab"].size(), static_cast<size_t>(kEntries));
  // 0.2 s where this was written; a quadratic search of the keys takes minutes.
  EXPECT_LT(seconds, 10.0);
}

TEST(Json, DumpIsWhatParseReads) {
  std::mt19937_64 generator(testing::test_seed(5));
  const std::function<Json(int)> any = [&](int depth) -> Json {
    switch (generator() % (depth > 3 ? 5 : 7)) {
      case 0:
        return nullptr;
      case 1:
        return generator() % 2 == 0;
      case 2:
        return static_cast<int64_t>(generator());
      case 3:
        return std::ldexp(static_cast<double>(generator()),
                          static_cast<int>(generator() % 200) - 100);
      case 4:
        return "s\"\\\n\t\u00e9\U0001F600" + std::to_string(generator());
      case 5: {
        Json list = Json::array();
        for (auto n = generator() % 4; n > 0; --n) list.push_back(any(depth + 1));
        return list;
      }
      default: {
        Json object = Json::object();
        for (auto n = generator() % 4; n > 0; --n) object["k" + std::to_string(n)] = any(depth + 1);
        return object;
      }
    }
  };
  for (int i = 0; i < 200; ++i) {
    const Json value = any(0);
    EXPECT_EQ(parse_json(dump_json(value), "t"), value);
    EXPECT_EQ(parse_json(dump_json(value, /*spaced=*/true), "t"), value);
    EXPECT_EQ(parse_json(dump_json_pretty(value), "t"), value);
  }
}

TEST(Json, SpacedDumpIsPythons) {
  const Json value = parse_json(R"({"a":[1,2,{}],"b":{"c":"x, y: z"},"d":[],"e":0.1})", "t");
  EXPECT_EQ(dump_json(value, /*spaced=*/true),
            R"({"a": [1, 2, {}], "b": {"c": "x, y: z"}, "d": [], "e": 0.1})");
}

TEST(Json, DumpNeverThrowsForBytesThatAreNotUtf8) {
  EXPECT_EQ(dump_json(Json("a\xff")), "\"a\xEF\xBF\xBD\"");
}

TEST(Json, ShortestDoubleReadsBackToTheSameFloat) {
  EXPECT_EQ(shortest_double(0.1f), 0.1);
  EXPECT_EQ(dump_json(Json(shortest_double(1e-6f))), "1e-06");
  EXPECT_TRUE(std::isinf(shortest_double(std::numeric_limits<float>::infinity())));
  EXPECT_TRUE(std::isnan(shortest_double(std::nanf(""))));
  std::mt19937_64 generator(testing::test_seed(1));
  for (int i = 0; i < 10000; ++i) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(generator()));
    if (!std::isfinite(value)) continue;
    EXPECT_EQ(static_cast<float>(shortest_double(value)), value);
  }
}

TEST(JsonFile, NamesItsPath) {
  TempDir dir;
  EXPECT_EQ(parse_json_file(dir.write("a.json", " {} \n")), Json::object());
  EXPECT_ERROR(parse_json_file(dir.write("b.json", "{"), "bad-config"), FormatError, "bad-config",
               (dir / "b.json").string() + ": expected JSON, got an error at byte 1");
}

}  // namespace
}  // namespace lockstep
