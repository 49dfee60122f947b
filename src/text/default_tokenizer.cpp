// Puts the learnt merges into the form of a tokenizer.json.
// SPDX-License-Identifier: Apache-2.0
#include "text/default_tokenizer.h"

#include <algorithm>
#include <array>
#include <string>

#include "base/check.h"
#include "base/json.h"
#include "text/pretokenizer.h"
#include "text/tokenizer_file.h"

// The linker's symbols for the bytes of the two files; CMake passes the folder.
#define LOCKSTEP_EMBED(name, file)                                              \
  __asm__(".pushsection .rodata\n" #name "_begin: .incbin \"" file "\"\n" #name \
          "_end: .byte 0\n.popsection\n");                                      \
  extern "C" const char name##_begin[] __attribute__((visibility("hidden")));   \
  extern "C" const char name##_end[] __attribute__((visibility("hidden")))

LOCKSTEP_EMBED(lockstep_merges, LOCKSTEP_ASSETS "/tokenizer_merges.txt");
LOCKSTEP_EMBED(lockstep_chat_template, LOCKSTEP_ASSETS "/chat_template.jinja");

namespace lockstep::text {
namespace {

struct Special {
  std::string_view content;
  bool is_special;
};
// Their order is part of the checkpoints that new-model writes.
constexpr std::array<Special, 9> kAdded = {{{"<|endoftext|>", true},
                                            {"<|im_start|>", true},
                                            {"<|im_end|>", true},
                                            {"<tool_call>", false},
                                            {"</tool_call>", false},
                                            {"<tool_response>", false},
                                            {"</tool_response>", false},
                                            {"<think>", false},
                                            {"</think>", false}}};
constexpr int64_t kNumBytes = 256;

Json byte_level(const char* type) {
  return {
      {"type", type}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}};
}

/// Appends without the search for the key that Json's own insertion makes.
void append(Json& object, std::string key, Json value) {
  auto& members = *object.get_ptr<Json::object_t*>();
  static_cast<Json::object_t::Container&>(members).emplace_back(std::move(key), std::move(value));
}

Json model_of(int64_t num_merges) {
  Json vocab = Json::object();
  Json merges = Json::array();
  for (int64_t byte = 0; byte < kNumBytes; ++byte)
    append(vocab, byte_level_char(static_cast<unsigned char>(byte)), byte);
  std::string_view rest(lockstep_merges_begin,
                        static_cast<size_t>(lockstep_merges_end - lockstep_merges_begin));
  for (int64_t rank = 0; rank < num_merges && !rest.empty(); ++rank) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(line.size() + 1);
    const std::string left(line.substr(0, line.find(' ')));
    const std::string right(line.substr(left.size() + 1));
    append(vocab, left + right, kNumBytes + rank);
    merges.push_back({left, right});
  }
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", nullptr},
          {"continuing_subword_prefix", ""},
          {"end_of_word_suffix", ""},
          {"fuse_unk", false},
          {"byte_fallback", false},
          {"ignore_merges", false},
          {"vocab", std::move(vocab)},
          {"merges", std::move(merges)}};
}

}  // namespace

int64_t min_default_vocab_size() { return kNumBytes + static_cast<int64_t>(kAdded.size()); }

Json default_tokenizer_json(int64_t vocab_size) {
  if (vocab_size < min_default_vocab_size())
    fail<ConfigError>("bad-config", "--vocab_size",
                      "expected at least {} for the default tokenizer, got {}",
                      min_default_vocab_size(), vocab_size);
  Json model = model_of(vocab_size - min_default_vocab_size());
  auto id = static_cast<int64_t>(model["vocab"].size());
  Json added = Json::array();
  for (const Special& token : kAdded) {
    added.push_back({{"id", id++},
                     {"content", token.content},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", token.is_special}});
  }
  const Json split = {{"type", "Split"},
                      {"pattern", {{"Regex", kQwen35Pattern}}},
                      {"behavior", "Isolated"},
                      {"invert", false}};
  return {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", std::move(added)},
      {"normalizer", {{"type", "NFC"}}},
      {"pre_tokenizer",
       {{"type", "Sequence"}, {"pretokenizers", Json::array({split, byte_level("ByteLevel")})}}},
      {"post_processor", byte_level("ByteLevel")},
      {"decoder", byte_level("ByteLevel")},
      {"model", std::move(model)}};
}

Json default_tokenizer_config() {
  return {{"add_prefix_space", false},
          {"bos_token", nullptr},
          {"clean_up_tokenization_spaces", false},
          {"eos_token", "<|im_end|>"},
          {"pad_token", "<|endoftext|>"},
          {"tokenizer_class", "PreTrainedTokenizerFast"},
          {"unk_token", nullptr}};
}

std::string_view default_chat_template() {
  return {lockstep_chat_template_begin,
          static_cast<size_t>(lockstep_chat_template_end - lockstep_chat_template_begin)};
}

}  // namespace lockstep::text
