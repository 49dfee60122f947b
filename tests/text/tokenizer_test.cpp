// The tokenizer against Hugging Face's ids (tests/data/tokenizer/golden.jsonl) and its parts
// against slower twins.
// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer.h"

#include <array>
#include <cstdlib>
#include <map>
#include <random>
#include <thread>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/json.h"
#include "base/regex.h"
#include "tests/support/expect_error.h"
#include "tests/support/json_lines.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"
#include "tests/support/test_seed.h"
#include "text/bpe.h"
#include "text/default_tokenizer.h"
#include "text/pretokenizer.h"
#include "text/tokenizer_file.h"
#include "text/unicode.h"

namespace lockstep::text {
namespace {

constexpr int64_t kGoldenVocabSize = 4096;

std::string utf8(char32_t c) {
  const auto byte = [](char32_t value) { return static_cast<char>(value); };
  if (c < 0x80) return {byte(c)};
  if (c < 0x800) return {byte(0xc0 | c >> 6), byte(0x80 | (c & 0x3f))};
  if (c < 0x10000)
    return {byte(0xe0 | c >> 12), byte(0x80 | (c >> 6 & 0x3f)), byte(0x80 | (c & 0x3f))};
  return {byte(0xf0 | c >> 18), byte(0x80 | (c >> 12 & 0x3f)), byte(0x80 | (c >> 6 & 0x3f)),
          byte(0x80 | (c & 0x3f))};
}

Json with_pattern(Json tokenizer, std::string_view pattern) {
  tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = pattern;
  return tokenizer;
}

Json added_token(int64_t id, const char* content, const Json& flags) {
  Json token = {{"id", id}, {"content", content}};
  token.update(flags);
  return token;
}

/// FLAG_TOKENS of tools/golden/tokenizer.py.
Json with_flag_tokens(Json tokenizer) {
  const Json raw = {{"normalized", false}}, normalized = {{"normalized", true}};
  Json left = raw, right = raw, both = raw;
  left["lstrip"] = right["rstrip"] = both["lstrip"] = both["rstrip"] = both["special"] = true;
  int64_t id = kGoldenVocabSize;
  for (const auto& [content, flags] : {std::pair("<left>", left),
                                       {"<right>", right},
                                       {"<both>", both},
                                       {"<the\u0301>", normalized},
                                       {"<thé><", normalized},
                                       {"éè", raw}})
    tokenizer["added_tokens"].push_back(added_token(id++, content, flags));
  return tokenizer;
}

Tokenizer make(const Json& tokenizer, const Json& config = nullptr) {
  return Tokenizer::from_json(tokenizer, config, "tokenizer.json");
}

std::vector<Json> golden_rows() {
  std::vector<Json> rows;
  for_each_json_line(testing::source_dir() / "tests/data/tokenizer/golden.jsonl",
                     [&](int64_t, Json&& row) { rows.push_back(std::move(row)); });
  return rows;
}

std::vector<int64_t> word_sizes(const Pretokenizer& pretokenizer, std::string_view text) {
  RegexScratch scratch;
  std::vector<int64_t> sizes;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = pretokenizer.word_end(text, begin, scratch);
    sizes.push_back(static_cast<int64_t>(end - begin));
    begin = end;
  }
  return sizes;
}

/// The words that PCRE2 finds, for patterns that have code of their own.
std::vector<int64_t> regex_word_sizes(const Regex& regex, std::string_view text) {
  RegexScratch scratch;
  std::vector<int64_t> sizes;
  for (size_t begin = 0; begin < text.size();) {
    const RegexMatch match = regex.find(text, begin, scratch);
    EXPECT_TRUE(match.found && match.begin == begin) << "the patterns leave no gaps";
    sizes.push_back(static_cast<int64_t>(match.end - begin));
    begin = match.end;
  }
  return sizes;
}

TEST(Tokenizer, EncodesAsHuggingFaceDoes) {
  const Json shipped = default_tokenizer_json(kGoldenVocabSize);
  const Tokenizer qwen3_5 = make(shipped);
  const Tokenizer qwen3 = make(with_pattern(shipped, kQwen3Pattern));
  const Tokenizer flags = make(with_flag_tokens(shipped));
  int64_t num_texts = 0, num_flags = 0;
  for (const Json& row : golden_rows()) {
    if (!row.contains("text")) continue;
    const auto text = row["text"].get<std::string>();
    SCOPED_TRACE(row.dump());
    const Json expected = row["qwen3_5"];
    EXPECT_EQ(Json(qwen3_5.encode(text)), expected);
    if (row.contains("flags")) {
      ++num_flags;
      EXPECT_EQ(Json(flags.encode(text)), row["flags"]);
    } else {
      EXPECT_EQ(Json(qwen3.encode(text)), row.contains("qwen3") ? row["qwen3"] : expected);
    }
    if (is_surely_nfc(text)) {
      EXPECT_EQ(qwen3_5.decode(qwen3_5.encode(text)), text);
    }
    ++num_texts;
    if (HasFailure()) break;  // one row says enough
  }
  EXPECT_GE(num_texts, 2500);
  EXPECT_GE(num_flags, 300);
}

TEST(Tokenizer, SplitsWordsAsHuggingFaceDoes) {
  const Pretokenizer qwen3_5(kQwen35Pattern, ""), qwen3(kQwen3Pattern, "");
  ASSERT_TRUE(qwen3_5.is_known() && qwen3.is_known());
  int64_t num_different = 0;
  for (const Json& row : golden_rows()) {
    if (!row.contains("words3_5")) continue;
    SCOPED_TRACE(row["text"].dump());
    const std::string text = to_nfc(row["text"].get<std::string>());
    num_different += row.contains("words3");
    ASSERT_EQ(Json(word_sizes(qwen3_5, text)), row["words3_5"]);
    ASSERT_EQ(Json(word_sizes(qwen3, text)), row.value("words3", row["words3_5"]));
  }
  EXPECT_GE(num_different, 500);
}

TEST(Tokenizer, DecodesAsHuggingFaceDoes) {
  const Tokenizer flags = make(with_flag_tokens(default_tokenizer_json(kGoldenVocabSize)));
  int64_t num_rows = 0;
  for (const Json& row : golden_rows()) {
    if (!row.contains("ids")) continue;
    SCOPED_TRACE(row.dump());
    const auto ids = row["ids"].get<std::vector<int64_t>>();
    ASSERT_EQ(flags.decode(ids), row["decoded"].get<std::string>());
    ASSERT_EQ(flags.decode(ids, /*skip_special=*/true), row["skipped"].get<std::string>());
    ++num_rows;
  }
  EXPECT_EQ(num_rows, 400);
}

TEST(Tokenizer, StreamsWholeCharactersThatAddUpToTheDecodedText) {
  const Tokenizer tokenizer = make(default_tokenizer_json(300));
  std::mt19937_64 random(testing::test_seed(5));
  for (int round = 0; round < 500; ++round) {
    std::vector<int64_t> ids = tokenizer.encode("añ한🙂");
    const auto num_odd = random() % 6;
    for (uint64_t i = 0; i < num_odd; ++i)  // bytes above 0x7f, mostly out of place
      ids.insert(ids.begin() + static_cast<ptrdiff_t>(random() % (ids.size() + 1)),
                 static_cast<int64_t>(128 + random() % 128));
    StreamDecoder stream(tokenizer);
    std::string all;
    for (const int64_t id : ids) {
      const std::string piece = stream.push(id);
      ASSERT_EQ(valid_prefix(piece), piece.size());
      all += piece;
    }
    ASSERT_EQ(all + stream.finish(), tokenizer.decode(ids));
  }
}

TEST(Tokenizer, StreamHoldsACharacterBackUntilItIsComplete) {
  const Tokenizer tokenizer = make(default_tokenizer_json(300));
  StreamDecoder stream(tokenizer);
  EXPECT_EQ(stream.push(0xf0), "");
  EXPECT_EQ(stream.push(0x9f), "");
  EXPECT_EQ(stream.push(0x99), "");
  EXPECT_EQ(stream.push(0x82), "🙂");
  EXPECT_EQ(stream.push(0xe2), "");
  EXPECT_EQ(stream.push('x'), "\ufffdx");
  EXPECT_EQ(stream.push(0xe2), "");
  EXPECT_EQ(stream.finish(), "\ufffd");
}

TEST(Tokenizer, SplitsDigitsOneByOne) {
  const Tokenizer tokenizer = make(default_tokenizer_json(kGoldenVocabSize));
  EXPECT_EQ(tokenizer.encode("1234").size(), 4u);
}

TEST(Tokenizer, ReplacesIllFormedBytesByMaximalSubparts) {
  std::string out;
  // Table 3-8 of the Unicode standard, section 3.9.
  append_lossy("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", false, out);
  EXPECT_EQ(out, "\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffdA");
  out.clear();
  append_lossy("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", false, out);
  EXPECT_EQ(out, "\ufffd\ufffd\ufffd\ufffdA");
  out.clear();
  append_lossy("\xed\xa0\x80\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", false, out);
  EXPECT_EQ(out, "\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd\ufffdA\ufffd\ufffdB");
}

TEST(Tokenizer, SaysWhichTokensEndAndPad) {
  const Tokenizer tokenizer = make(default_tokenizer_json(300), default_tokenizer_config());
  EXPECT_EQ(tokenizer.size(), 300);
  EXPECT_EQ(tokenizer.eos_id(), 293);
  EXPECT_EQ(tokenizer.pad_id(), 291);
  EXPECT_EQ(tokenizer.id_of("<|im_end|>"), 293);
  EXPECT_EQ(tokenizer.id_of("A"), 'A');
  EXPECT_EQ(tokenizer.id_of("no such token"), std::nullopt);
  EXPECT_EQ(tokenizer.bytes_of(299), "</think>");
  EXPECT_TRUE(tokenizer.is_special(293));
  EXPECT_FALSE(tokenizer.is_special(299));
  EXPECT_EQ(make(default_tokenizer_json(300)).eos_id(), std::nullopt);
}

TEST(Tokenizer, DecodesIdsOfNoTokenToNothing) {
  const Tokenizer tokenizer = make(default_tokenizer_json(300));
  EXPECT_EQ(tokenizer.decode(std::vector<int64_t>{'a', 300, 1000000, 'b'}), "ab");
  EXPECT_ERROR(tokenizer.decode(std::vector<int64_t>{-1}), FormatError, "bad-token-id", "got -1");
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const Tokenizer tokenizer = make(default_tokenizer_json(300));
  EXPECT_ERROR(tokenizer.encode("ab\xff"), FormatError, "bad-text", "offset 2");
  EXPECT_ERROR(tokenizer.encode("\xed\xa0\x80"), FormatError, "bad-text", "offset 0");
}

TEST(Tokenizer, EncodesTheSameFromManyThreads) {
  const Tokenizer tokenizer = make(default_tokenizer_json(kGoldenVocabSize));
  const std::string text = read_file(testing::source_dir() / "tests/data/gsm8k/test_200.jsonl");
  const auto expected = tokenizer.encode(text);
  std::vector<std::thread> threads;
  std::array<bool, 4> same{};
  for (size_t i = 0; i < same.size(); ++i)
    threads.emplace_back([&, i] {
      same[i] = tokenizer.encode(text) == expected && tokenizer.encode(text) == expected;
    });
  for (std::thread& thread : threads) thread.join();
  for (const bool is_same : same) EXPECT_TRUE(is_same);
}

TEST(Tokenizer, ReadsMergesAsStringsToo) {
  const Json lists = default_tokenizer_json(1000);
  Json strings = lists;
  for (Json& merge : strings["model"]["merges"])
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  const std::string text = "Natalia sold clips to 48 of her friends.";
  EXPECT_EQ(make(strings).encode(text), make(lists).encode(text));
  EXPECT_LT(make(lists).encode(text).size(), text.size());
}

TEST(Tokenizer, TakesTokensThatOnlyTheConfigHas) {
  const Json config = parse_json(R"({"added_tokens_decoder": {
      "299": {"content": "not looked at", "special": true},
      "310": {"content": "<new>", "special": true, "normalized": false}}})",
                                 "");
  const Tokenizer tokenizer = make(default_tokenizer_json(300), config);
  EXPECT_EQ(tokenizer.encode("a<new>b"), (std::vector<int64_t>{'a', 310, 'b'}));
  EXPECT_EQ(tokenizer.size(), 311);
  EXPECT_TRUE(tokenizer.is_special(310));
  EXPECT_EQ(tokenizer.bytes_of(299), "</think>");
  EXPECT_EQ(tokenizer.bytes_of(305), "");
}

/// As transformers does. Where the two files disagree about the text of an id, the tokenizer's own
/// stays, and that is said.
TEST(Tokenizer, TheConfigSaysHowATokenIsFound) {
  const auto encode = [](const char* token) {
    return make(default_tokenizer_json(300),
                parse_json(fmt::format(R"({{"added_tokens_decoder": {{"299": {}}}}})", token), ""))
        .encode("a </think> b");
  };
  const auto plain = encode(R"({"content": "</think>"})");
  EXPECT_EQ(plain, make(default_tokenizer_json(300)).encode("a </think> b"));
  EXPECT_EQ(encode(R"({"content": "</think>", "lstrip": true, "rstrip": true})"),
            (std::vector<int64_t>{'a', 299, 'b'}));
  EXPECT_NE(plain, (std::vector<int64_t>{'a', 299, 'b'}));
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(encode(R"({"content": "<other>"})"), plain);
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              ::testing::HasSubstr("token 299 is </think>; added_tokens_decoder of "
                                   "tokenizer_config.json, which says <other>, is not followed"));
}

TEST(Tokenizer, TakesWholeWordsFirstWhenMergesAreIgnored) {
  Json tokenizer = default_tokenizer_json(300);
  tokenizer["model"]["vocab"]["zqx"] = 400;  // no merge makes it
  EXPECT_EQ(make(tokenizer).encode("zqx").size(), 3u);
  tokenizer["model"]["ignore_merges"] = true;
  EXPECT_EQ(make(tokenizer).encode("zqx"), std::vector<int64_t>{400});
}

TEST(Tokenizer, SplitsByAnUnknownPattern) {
  const Json tokenizer = with_pattern(default_tokenizer_json(300), "[a-m]+|[n-z]+");
  const Tokenizer split = make(tokenizer);
  EXPECT_EQ(split.decode(split.encode("abz - é\n")), "abz - é\n");
  const Pretokenizer words("[a-m]+|[n-z]+|(?=!)", "");
  EXPECT_FALSE(words.is_known());
  EXPECT_EQ(word_sizes(words, "abz -é!!zz"), (std::vector<int64_t>{2, 1, 4, 1, 1, 2}));
}

TEST(Tokenizer, LoadsADirectory) {
  const lockstep::testing::TempDir directory;
  write_file(directory / "tokenizer.json", dump_json_pretty(default_tokenizer_json(300)));
  EXPECT_EQ(Tokenizer::from_directory(directory.path()).eos_id(), std::nullopt);
  write_file(directory / "tokenizer_config.json", dump_json_pretty(default_tokenizer_config()));
  EXPECT_EQ(Tokenizer::from_directory(directory.path()).eos_id(), 293);
  write_file(directory / "tokenizer.json", "{");
  EXPECT_ERROR(Tokenizer::from_directory(directory.path()), FormatError, "bad-tokenizer",
               "tokenizer.json");
  EXPECT_THROW(Tokenizer::from_directory(directory / "missing"), IoError);
}

TEST(Tokenizer, RefusesWhatItWouldTokenizeOtherwise) {
  struct Case {
    const char* pointer;
    Json value;
    const char* words;
  };
  const std::vector<Case> cases = {
      {"/model/type", "WordPiece", "model.type \"BPE\""},
      {"/model/dropout", 0.1, "model.dropout"},
      {"/model/end_of_word_suffix", "</w>", "end_of_word_suffix"},
      {"/model/byte_fallback", true, "byte_fallback"},
      {"/model/vocab", Json::array(), "model.vocab"},
      {"/model/vocab/A", "x", "an id of 0 to"},
      {"/model/vocab/A", 66, "each id once"},
      {"/model/vocab/A", 2000000000, "large holes"},
      {"/model/merges", nullptr, "model.merges"},
      {"/model/merges/0", "a", "model.merges[0]"},
      {"/model/merges/0", "a b c", "model.merges[0]"},
      {"/model/merges/3", Json::array({"a", "☃"}), "model.merges[3]"},
      {"/normalizer", {{"type", "NFKC"}}, "normalizer NFC"},
      {"/pre_tokenizer", nullptr, "ByteLevel"},
      {"/pre_tokenizer/pretokenizers/0/type", "Digits", "Split and ByteLevel"},
      {"/pre_tokenizer/pretokenizers/0/behavior", "Removed", "Isolated"},
      {"/pre_tokenizer/pretokenizers/0/invert", true, "invert false"},
      {"/pre_tokenizer/pretokenizers/0/pattern", {{"String", " "}}, "pattern"},
      {"/pre_tokenizer/pretokenizers/0/pattern/Regex", "(", "PCRE2"},
      {"/pre_tokenizer/pretokenizers/1/add_prefix_space", true, "add_prefix_space"},
      {"/pre_tokenizer/pretokenizers/1/use_regex", true, "one split pattern"},
      {"/post_processor/type", "TemplateProcessing", "post_processor"},
      {"/decoder/type", "Metaspace", "decoder ByteLevel"},
      {"/added_tokens/0/single_word", true, "single_word false"},
      {"/added_tokens/0/special", 1, "special true or false"},
      {"/added_tokens/0/id", -1, "an id of 0 to"},
      {"/added_tokens/0/id", 65, "expected id 65 for one token"},
      {"/added_tokens/1/id", 291, "once among the added tokens"},
      {"/added_tokens/1/content", 5, "content"},
  };
  for (const Case& bad : cases) {
    Json tokenizer = default_tokenizer_json(300);
    tokenizer[Json::json_pointer(bad.pointer)] = bad.value;
    SCOPED_TRACE(std::string(bad.pointer) + " " + bad.value.dump());
    EXPECT_ERROR(make(tokenizer), FormatError, "bad-tokenizer", bad.words);
  }
  Json no_byte = default_tokenizer_json(300);
  no_byte["model"]["vocab"].erase("!");
  EXPECT_ERROR(make(no_byte), FormatError, "bad-tokenizer", "none for byte 33");
  EXPECT_ERROR(make(Json::array()), FormatError, "bad-tokenizer", "an object");
}

TEST(Tokenizer, RefusesAConfigThatNamesNoToken) {
  const Json tokenizer = default_tokenizer_json(300);
  EXPECT_ERROR(make(tokenizer, {{"eos_token", "</s>"}}), FormatError, "bad-tokenizer", "\"</s>\"");
  EXPECT_ERROR(make(tokenizer, {{"pad_token", 5}}), FormatError, "bad-tokenizer", "pad_token");
  EXPECT_ERROR(make(tokenizer, {{"added_tokens_decoder", {{"x", {{"content", "y"}}}}}}),
               FormatError, "bad-tokenizer", "added_tokens_decoder");
  EXPECT_EQ(make(tokenizer, {{"eos_token", {{"content", "<|im_end|>"}}}}).eos_id(), 293);
}

TEST(DefaultTokenizer, FitsAnyVocabularySize) {
  for (const int64_t size : {min_default_vocab_size(), int64_t{300}, int64_t{2048}, int64_t{8192}})
    EXPECT_EQ(make(default_tokenizer_json(size)).size(), size);
  const Tokenizer all = make(default_tokenizer_json(1000000));
  EXPECT_GT(all.size(), 8192);
  EXPECT_EQ(all.id_of("</think>"), all.size() - 1);
  EXPECT_ERROR(default_tokenizer_json(min_default_vocab_size() - 1), ConfigError, "bad-config",
               "at least 265");
}

TEST(Pretokenizer, EqualsPcre2OnRandomText) {
  std::mt19937_64 random(testing::test_seed(7));
  // The borders of each alternative, dense; U+180E is left out: it is white space to PCRE2 only.
  const std::vector<std::string> pieces = {
      "a",      "L",      "s", "ſ",  "re",     "LL",     "'",   "’",      "1",
      "٣",      "½",      " ", "  ", "\t",     "\n",     "\r",  "\u00a0", "\u0085",
      "\u2028", "\u3000", ".", "!?", "\u0301", "\u093e", "한",  "é",      "你",
      "🙂",   "\u200d", "_", "'d", "'VE",    "\u20dd", "\x01"};
  for (const std::string_view pattern : {kQwen35Pattern, kQwen3Pattern}) {
    const Pretokenizer by_hand(pattern, "");
    const Regex regex(pattern, "");
    for (int round = 0; round < 20000; ++round) {
      std::string text;
      for (auto left = 1 + random() % 10; left > 0; --left)
        text += pieces[random() % pieces.size()];
      ASSERT_EQ(word_sizes(by_hand, text), regex_word_sizes(regex, text)) << Json(text).dump();
    }
  }
}

TEST(Pretokenizer, ClassesEqualPcre2WhereItKnowsTheCharacter) {
  const Regex unassigned(R"(\A\p{Cn})", "");
  const std::map<CharClass, std::string> patterns = {{CharClass::kLetter, R"(\A\p{L})"},
                                                     {CharClass::kMark, R"(\A\p{M})"},
                                                     {CharClass::kNumber, R"(\A\p{N})"},
                                                     {CharClass::kSpace, R"(\A\s)"}};
  std::map<CharClass, std::unique_ptr<Regex>> regexes;
  for (const auto& [kind, pattern] : patterns) regexes[kind] = std::make_unique<Regex>(pattern, "");
  RegexScratch scratch;
  int64_t num_known = 0;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if ((c >= 0xd800 && c < 0xe000) || c == 0x180e) continue;
    const std::string text = utf8(c);
    ASSERT_EQ(decode_char(text, 0).code_point, c);
    if (unassigned.find(text, 0, scratch).found) continue;
    ++num_known;
    for (const auto& [kind, regex] : regexes)
      ASSERT_EQ(class_of(c) == kind, regex->find(text, 0, scratch).found)
          << "U+" << std::hex << static_cast<uint32_t>(c);
  }
  EXPECT_GT(num_known, 250000);
}

TEST(Unicode, WhatIsSurelyNfcIsNfc) {
  std::vector<std::string> inert;
  for (char32_t c = 1; c < 0x110000; ++c) {
    if (c >= 0xd800 && c < 0xe000) continue;
    std::string text = utf8(c);
    if (!is_surely_nfc(text)) continue;
    ASSERT_EQ(to_nfc(text), text) << "U+" << std::hex << static_cast<uint32_t>(c);
    inert.push_back(std::move(text));
  }
  EXPECT_GT(inert.size(), 30000u);
  std::mt19937_64 random(testing::test_seed(11));
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (int i = 0; i < 50; ++i) text += inert[random() % inert.size()];
    ASSERT_EQ(to_nfc(text), text);
  }
}

/// Merges one pair at a time over the whole word, as the definition says.
std::vector<int64_t> naive_bpe(std::string_view word, const std::vector<Merge>& merges) {
  std::map<std::pair<int64_t, int64_t>, std::pair<size_t, int64_t>> ranks;
  for (size_t rank = 0; rank < merges.size(); ++rank)
    ranks[{merges[rank].left, merges[rank].right}] = {rank, merges[rank].merged};
  std::vector<int64_t> ids;
  for (const char c : word) ids.push_back(static_cast<unsigned char>(c));
  while (true) {
    auto best = ranks.end();
    size_t best_at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto found = ranks.find({ids[i], ids[i + 1]});
      if (found == ranks.end() ||
          (best != ranks.end() && found->second.first >= best->second.first))
        continue;
      best = found;
      best_at = i;
    }
    if (best == ranks.end()) return ids;
    ids[best_at] = best->second.second;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(best_at) + 1);
  }
}

TEST(Bpe, EqualsTheDefinitionForShortAndLongWords) {
  std::mt19937_64 random(testing::test_seed(3));
  std::array<int32_t, 256> byte_ids{};
  for (int32_t i = 0; i < 256; ++i) byte_ids[static_cast<size_t>(i)] = i;
  for (int table = 0; table < 20; ++table) {
    // Few letters and many merges of merges: ties, stale pairs and overlaps are frequent.
    std::vector<Merge> merges;
    const auto any = [&](size_t i) {
      return i < 3 ? static_cast<int32_t>('a' + i) : 253 + static_cast<int32_t>(i);
    };
    for (int32_t i = 0; i < 60; ++i) {
      const size_t known = 3 + merges.size();
      merges.push_back({any(random() % known), any(random() % known), 256 + i});
    }
    const Bpe bpe(byte_ids, merges);
    BpeScratch scratch;
    for (int round = 0; round < 200; ++round) {
      std::string word;
      for (auto size = 1 + random() % 120; size > 0; --size)
        word += static_cast<char>('a' + random() % 4);
      std::vector<int64_t> ids, again;
      bpe.encode(word, scratch, ids);
      bpe.encode(word, scratch, again);  // from the cache, if short
      ASSERT_EQ(ids, naive_bpe(word, merges)) << word;
      ASSERT_EQ(again, ids);
    }
  }
}

TEST(Bpe, EncodesAVeryLongWordInTime) {
  const Tokenizer tokenizer = make(default_tokenizer_json(kGoldenVocabSize));
  std::string word;
  for (int i = 0; i < 400000; ++i) word += static_cast<char>('a' + i % 1009 * 7919 % 26);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(word)),
            word);  // by scanning it would take an hour
}

}  // namespace
}  // namespace lockstep::text
