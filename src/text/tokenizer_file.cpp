// Reads the parts of tokenizer.json one after another: model, normalizer, pre_tokenizer, decoder,
// added tokens.
// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer_file.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <unordered_map>

#include "base/check.h"
#include "base/json.h"
#include "base/log.h"
#include "text/pretokenizer.h"
#include "text/unicode.h"

namespace lockstep::text {
namespace {

constexpr int64_t kMaxId = std::numeric_limits<int32_t>::max() - 1;
// The ids of a tokenizer are dense except for a few holes. The limit keeps one odd id from asking
// for gigabytes.
constexpr int64_t kMaxHole = 1 << 20;

/// The member of that name, or null if it is missing, null or in no object.
const Json* member(const Json& object, const char* name) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string shown(const Json* value) {
  if (!value) return "nothing";
  std::string text = dump_json(*value);
  constexpr size_t kLongest = 80;
  if (text.size() > kLongest) text = text.substr(0, valid_prefix(text.substr(0, kLongest))) + "…";
  return text;
}

class Reader {
 public:
  Reader(const Json& tokenizer, const Json& config, std::string_view where)
      : tokenizer_(tokenizer), config_(config), where_(where) {}

  TokenizerFile read() {
    if (!tokenizer_.is_object()) refuse("an object", &tokenizer_);
    read_model();
    read_normalizer();
    read_pre_tokenizer();
    read_decoder();
    read_post_processor();
    read_added_tokens();
    read_config_tokens();
    place_added_tokens();
    file_.eos_token = named_token("eos_token");
    file_.pad_token = named_token("pad_token");
    return std::move(file_);
  }

 private:
  [[noreturn]] void refuse(std::string_view expected, const Json* got) const {
    fail<FormatError>("bad-tokenizer", where_, "expected {}, got {}", expected, shown(got));
  }

  std::string type_of(const Json& part, std::string_view field) const {
    const Json* type = member(part, "type");
    if (!type || !type->is_string()) refuse(fmt::format("a string {}.type", field), type);
    return type->get<std::string>();
  }

  bool flag(const Json& part, const char* name, bool standard = false) const {
    const Json* value = member(part, name);
    if (!value) return standard;
    if (!value->is_boolean()) refuse(fmt::format("{} true or false", name), value);
    return value->get<bool>();
  }

  void read_model() {
    const Json* model = member(tokenizer_, "model");
    if (!model) refuse("an object model", model);
    if (const Json* type = member(*model, "type"); type && *type != "BPE")
      refuse("model.type \"BPE\" (byte-level BPE is what is supported)", type);
    if (const Json* dropout = member(*model, "dropout");
        dropout && !(dropout->is_number() && dropout->get<double>() == 0.0))
      refuse("model.dropout null or 0", dropout);
    for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (const Json* affix = member(*model, name); affix && *affix != "")
        refuse(fmt::format("model.{} null or empty", name), affix);
    }
    if (flag(*model, "byte_fallback"))
      refuse("model.byte_fallback false", member(*model, "byte_fallback"));
    file_.ignores_merges = flag(*model, "ignore_merges");
    read_vocab(member(*model, "vocab"));
    read_merges(member(*model, "merges"));
  }

  void read_vocab(const Json* vocab) {
    if (!vocab || !vocab->is_object()) refuse("an object model.vocab", vocab);
    const auto& entries = *vocab->get_ptr<const Json::object_t*>();
    id_of_.reserve(entries.size());
    for (const auto& [token, id] : entries) {
      const int64_t number = checked_id(id, token);
      if (!id_of_.emplace(token, static_cast<int32_t>(number)).second)
        fail<FormatError>("bad-tokenizer", where_,
                          "expected each token once in model.vocab, got {} twice",
                          shown(&vocab->at(token)));
      file_.vocab_size = std::max(file_.vocab_size, number + 1);
    }
    grow(file_.vocab_size, static_cast<int64_t>(entries.size()));
    std::vector<bool> is_taken(static_cast<size_t>(file_.vocab_size));
    for (const auto& [token, id] : id_of_) {
      const auto at = static_cast<size_t>(id);
      if (is_taken[at])
        fail<FormatError>("bad-tokenizer", where_,
                          "expected each id once in model.vocab, got {} twice", id);
      is_taken[at] = true;
      file_.bytes[at] = byte_level_decode(token);
    }
    for (int byte = 0; byte < 256; ++byte) {
      const auto found = id_of_.find(byte_level_char(static_cast<unsigned char>(byte)));
      if (found == id_of_.end())
        fail<FormatError>("bad-tokenizer", where_,
                          "expected a token for each of the 256 bytes in model.vocab, got none for "
                          "byte {} (only byte-level BPE is supported)",
                          byte);
      file_.byte_ids[static_cast<size_t>(byte)] = found->second;
    }
  }

  int64_t checked_id(const Json& id, std::string_view token) const {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > kMaxId)
      refuse(fmt::format("an id of 0 to {} for token \"{}\"", kMaxId, token), &id);
    return id.get<int64_t>();
  }

  void grow(int64_t size, int64_t num_tokens) {
    if (size > num_tokens + kMaxHole)
      fail<FormatError>("bad-tokenizer", where_,
                        "expected ids without large holes, got id {} with {} tokens", size - 1,
                        num_tokens);
    if (static_cast<size_t>(size) > file_.bytes.size())
      file_.bytes.resize(static_cast<size_t>(size));
  }

  void read_merges(const Json* merges) {
    if (!merges || !merges->is_array()) refuse("an array model.merges", merges);
    file_.merges.reserve(merges->size());
    std::string merged;
    for (size_t i = 0; i < merges->size(); ++i) {
      const Json& entry = (*merges)[i];
      const auto [left, right] = halves(entry, i);
      merged.assign(left).append(right);
      const int32_t left_id = merge_id(left, i);
      const int32_t right_id = merge_id(right, i);
      file_.merges.push_back({left_id, right_id, merge_id(merged, i)});
    }
  }

  /// "a b" or ["a", "b"].
  std::pair<std::string_view, std::string_view> halves(const Json& entry, size_t index) const {
    if (entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string())
      return {entry[0].get_ref<const std::string&>(), entry[1].get_ref<const std::string&>()};
    if (entry.is_string()) {
      const std::string_view text = entry.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space != text.npos && text.find(' ', space + 1) == text.npos)
        return {text.substr(0, space), text.substr(space + 1)};
    }
    refuse(fmt::format("model.merges[{}] \"a b\" or [\"a\", \"b\"]", index), &entry);
  }

  int32_t merge_id(std::string_view token, size_t index) const {
    const auto found = id_of_.find(token);
    if (found == id_of_.end())
      fail<FormatError>(
          "bad-tokenizer", where_,
          "expected the tokens of model.merges[{}] in model.vocab, got none for \"{}\"", index,
          token);
    return found->second;
  }

  /// The parts of a Sequence, or the part itself.
  std::vector<const Json*> parts_of(const char* name, const char* list) const {
    std::vector<const Json*> parts;
    const Json* part = member(tokenizer_, name);
    if (!part) return parts;
    if (type_of(*part, name) != "Sequence") return {part};
    const Json* entries = member(*part, list);
    if (!entries || !entries->is_array())
      refuse(fmt::format("an array {}.{}", name, list), entries);
    for (const Json& entry : *entries) parts.push_back(&entry);
    return parts;
  }

  void read_normalizer() {
    for (const Json* part : parts_of("normalizer", "normalizers")) {
      if (type_of(*part, "normalizer") != "NFC") refuse("normalizer NFC or none", part);
      file_.normalizes = true;
    }
  }

  void read_pre_tokenizer() {
    const auto parts = parts_of("pre_tokenizer", "pretokenizers");
    bool is_byte_level = false;
    for (const Json* part : parts) {
      const std::string type = type_of(*part, "pre_tokenizer");
      if (type == "Split" && file_.pattern.empty() && !is_byte_level) {
        read_split(*part);
      } else if (type == "ByteLevel" && !is_byte_level) {
        is_byte_level = true;
        if (flag(*part, "add_prefix_space", true))
          refuse("add_prefix_space false in pre_tokenizer", part);
        if (flag(*part, "use_regex", true)) {
          if (!file_.pattern.empty()) refuse("one split pattern in pre_tokenizer", part);
          file_.pattern = kGpt2Pattern;
        }
      } else {
        refuse("pre_tokenizer Split and ByteLevel, or ByteLevel alone", part);
      }
    }
    if (!is_byte_level) refuse("a ByteLevel pre_tokenizer", member(tokenizer_, "pre_tokenizer"));
  }

  void read_split(const Json& part) {
    const Json* pattern = member(part, "pattern");
    const Json* regex = pattern ? member(*pattern, "Regex") : nullptr;
    if (!regex || !regex->is_string() || regex->get_ref<const std::string&>().empty())
      refuse("pattern {\"Regex\": …} in pre_tokenizer", pattern);
    if (const Json* behavior = member(part, "behavior"); !behavior || *behavior != "Isolated")
      refuse("behavior \"Isolated\" in pre_tokenizer", behavior);
    if (flag(part, "invert")) refuse("invert false in pre_tokenizer", &part);
    file_.pattern = regex->get<std::string>();
  }

  void read_decoder() const {
    const Json* decoder = member(tokenizer_, "decoder");
    if (!decoder || type_of(*decoder, "decoder") != "ByteLevel")
      refuse("decoder ByteLevel", decoder);
  }

  void read_post_processor() const {
    for (const Json* part : parts_of("post_processor", "processors")) {
      if (type_of(*part, "post_processor") != "ByteLevel")
        refuse("post_processor ByteLevel or none (one that adds tokens is not supported)", part);
    }
  }

  void read_added_tokens() {
    const Json* tokens = member(tokenizer_, "added_tokens");
    if (!tokens) return;
    if (!tokens->is_array()) refuse("an array added_tokens", tokens);
    for (const Json& token : *tokens) {
      const Json* id = member(token, "id");
      if (!id) refuse("an id in each of added_tokens", &token);
      add_token(token, checked_id(*id, shown(&token)));
    }
  }

  /// added_tokens_decoder of tokenizer_config.json: {"248070": {"content": …}, …}.
  void read_config_tokens() {
    const Json* tokens = member(config_, "added_tokens_decoder");
    if (!tokens) return;
    if (!tokens->is_object())
      refuse("an object added_tokens_decoder in tokenizer_config.json", tokens);
    for (const auto& [key, token] : tokens->items()) {
      int64_t id = -1;
      const auto parsed = std::from_chars(key.data(), key.data() + key.size(), id);
      if (parsed.ec != std::errc() || parsed.ptr != key.data() + key.size() || id < 0 ||
          id > kMaxId)
        fail<FormatError>(
            "bad-tokenizer", where_,
            "expected ids as keys of added_tokens_decoder in tokenizer_config.json, got \"{}\"",
            key);
      const auto known = std::find_if(file_.added.begin(), file_.added.end(),
                                      [id](const AddedToken& t) { return t.id == id; });
      if (known == file_.added.end()) {
        add_token(token, id);
        continue;
      }
      // How a token is found is for tokenizer_config.json to say, as in transformers.
      AddedToken said = added_token(token, id);
      if (said.content == known->content)
        *known = std::move(said);
      else
        log_warning(
            "{}: token {} is {}; added_tokens_decoder of tokenizer_config.json, which says {}, is "
            "not followed",
            where_, id, known->content, said.content);
    }
  }

  AddedToken added_token(const Json& token, int64_t id) const {
    const Json* content = member(token, "content");
    if (!content || !content->is_string()) refuse("a string content in each added token", &token);
    AddedToken added{.id = id, .content = content->get<std::string>()};
    added.is_special = flag(token, "special");
    added.is_normalized = flag(token, "normalized", !added.is_special);
    added.strips_left = flag(token, "lstrip");
    added.strips_right = flag(token, "rstrip");
    if (flag(token, "single_word")) refuse("single_word false in each added token", &token);
    return added;
  }

  void add_token(const Json& token, int64_t id) {
    AddedToken added = added_token(token, id);
    for (const AddedToken& other : file_.added) {
      if (other.id == id || other.content == added.content)
        refuse("each id and each content once among the added tokens", &token);
    }
    file_.added.push_back(std::move(added));
  }

  void place_added_tokens() {
    int64_t size = file_.vocab_size;
    for (const AddedToken& token : file_.added) size = std::max(size, token.id + 1);
    grow(size, static_cast<int64_t>(id_of_.size() + file_.added.size()));
    for (const AddedToken& token : file_.added) {
      std::string& bytes = file_.bytes[static_cast<size_t>(token.id)];
      // tokenizers, too, sends an added token's text through the byte-level alphabet when it
      // decodes.
      std::string text = byte_level_decode(token.content);
      if (!bytes.empty() && bytes != text)
        fail<FormatError>(
            "bad-tokenizer", where_,
            "expected id {} for one token, got \"{}\" in added tokens and another in model.vocab",
            token.id, token.content);
      bytes = std::move(text);
    }
  }

  /// A token of tokenizer_config.json: a string, or an object with `content`.
  std::optional<std::string> named_token(const char* name) const {
    const Json* token = member(config_, name);
    if (!token) return std::nullopt;
    const Json* content = token->is_object() ? member(*token, "content") : token;
    if (!content || !content->is_string())
      refuse(fmt::format("a string {} in tokenizer_config.json", name), token);
    return content->get<std::string>();
  }

  const Json& tokenizer_;
  const Json& config_;
  std::string_view where_;
  TokenizerFile file_;
  std::unordered_map<std::string_view, int32_t> id_of_;
};

/// Printable bytes stand for themselves; the others are U+0100 and up, in order.
struct ByteAlphabet {
  std::array<std::string, 256> chars;
  // Indexed by code point; -1 for none.
  std::array<int16_t, 0x180> bytes;

  ByteAlphabet() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool is_printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
      const char32_t c = is_printable ? static_cast<char32_t>(byte) : next++;
      bytes[c] = static_cast<int16_t>(byte);
      std::string& text = chars[static_cast<size_t>(byte)];
      if (c < 0x80) {
        text = static_cast<char>(c);
      } else {
        text = {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 0x3f))};
      }
    }
  }
};

const ByteAlphabet& alphabet() {
  static const ByteAlphabet instance;
  return instance;
}

}  // namespace

const std::string& byte_level_char(unsigned char byte) { return alphabet().chars[byte]; }

std::string byte_level_decode(std::string_view token) {
  std::string bytes;
  for (size_t at = 0; at < token.size();) {
    const DecodedChar c = decode_char(token, at);
    const int16_t byte =
        c.code_point < alphabet().bytes.size() ? alphabet().bytes[c.code_point] : int16_t{-1};
    if (byte < 0) return std::string(token);
    bytes += static_cast<char>(byte);
    at += c.size;
  }
  return bytes;
}

TokenizerFile read_tokenizer(const Json& tokenizer, const Json& config, std::string_view where) {
  return Reader(tokenizer, config, where).read();
}

}  // namespace lockstep::text
