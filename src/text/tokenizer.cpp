// Encodes by added tokens, NFC, words and merges; and decodes.
// SPDX-License-Identifier: Apache-2.0
#include "text/tokenizer.h"

#include <limits>
#include <mutex>
#include <utility>

#include "base/check.h"
#include "base/json.h"
#include "base/log.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/pretokenizer.h"
#include "text/tokenizer_file.h"
#include "text/unicode.h"

namespace lockstep::text {
namespace {

struct Scratch {
  BpeScratch bpe;
  RegexScratch regex;
};

}  // namespace

struct Tokenizer::Impl {
  // Both are indexed by id.
  std::vector<std::string> bytes;
  std::vector<bool> is_special;
  std::vector<AddedToken> added;
  AddedTokenMatcher raw_matcher, normalized_matcher;
  bool normalizes = false;
  Pretokenizer pretokenizer;
  Bpe bpe;
  std::optional<int64_t> eos_id, pad_id;
  // Scratch that no call uses now: a call takes one and gives it back, so each thread finds a warm
  // word cache.
  mutable std::mutex mutex;
  mutable std::vector<std::unique_ptr<Scratch>> spare;

  Impl(TokenizerFile&& file, std::string_view where);
  std::optional<int64_t> find_token(std::string_view token) const;
  std::unique_ptr<Scratch> take_scratch() const;
  void give_back(std::unique_ptr<Scratch> scratch) const;
  void encode_segment(std::string_view text, Scratch& scratch, std::vector<int64_t>& ids) const;
  void encode_normalized(std::string_view text, Scratch& scratch, std::vector<int64_t>& ids) const;
  void encode_words(std::string_view text, Scratch& scratch, std::vector<int64_t>& ids) const;
};

namespace {

AddedTokenMatcher matcher_of(const TokenizerFile& file, bool normalized) {
  std::vector<AddedToken> chosen;
  for (const AddedToken& token : file.added) {
    if (token.is_normalized != normalized) continue;
    chosen.push_back(token);
    if (normalized && file.normalizes) chosen.back().content = to_nfc(token.content);
  }
  return AddedTokenMatcher(std::move(chosen));
}

/// Calls `on_token(id)` and `on_text(piece)` for what `matcher` finds in `text` and what stands
/// between.
template <class OnToken, class OnText>
void split_added(const AddedTokenMatcher& matcher,
                 std::string_view text,
                 const OnToken& on_token,
                 const OnText& on_text) {
  size_t at = 0;
  while (at < text.size()) {
    const AddedTokenMatcher::Match match = matcher.find(text, at);
    if (match.begin > at) on_text(text.substr(at, match.begin - at));
    if (!match.token) return;
    on_token(match.token->id);
    at = match.end;
  }
}

}  // namespace

Tokenizer::Impl::Impl(TokenizerFile&& file, std::string_view where)
    : bytes(std::move(file.bytes)),
      is_special(bytes.size()),
      added(file.added),
      raw_matcher(matcher_of(file, false)),
      normalized_matcher(matcher_of(file, true)),
      normalizes(file.normalizes),
      pretokenizer(file.pattern, where),
      bpe(file.byte_ids, file.merges) {
  for (const AddedToken& token : added)
    is_special[static_cast<size_t>(token.id)] = token.is_special;
  if (file.ignores_merges) {
    std::unordered_map<std::string, int32_t> words;
    for (int64_t id = 0; id < file.vocab_size; ++id)
      words.emplace(bytes[static_cast<size_t>(id)], static_cast<int32_t>(id));
    bpe.set_whole_words(std::move(words));
  }
  const auto known_id = [&](const std::optional<std::string>& token, std::string_view name) {
    std::optional<int64_t> id;
    if (!token) return id;
    id = find_token(*token);
    if (!id)
      fail<FormatError>("bad-tokenizer", where,
                        "expected {} of tokenizer_config.json in the vocabulary, got \"{}\"", name,
                        *token);
    return id;
  };
  eos_id = known_id(file.eos_token, "eos_token");
  pad_id = known_id(file.pad_token, "pad_token");
  if (!pretokenizer.is_known() && !file.pattern.empty())
    log_warning("{}: the split pattern is none of Qwen's and goes to PCRE2 as it stands: {}", where,
                file.pattern);
}

std::optional<int64_t> Tokenizer::Impl::find_token(std::string_view token) const {
  if (token.empty()) return std::nullopt;
  for (const AddedToken& candidate : added) {
    if (candidate.content == token) return candidate.id;
  }
  for (size_t id = 0; id < bytes.size(); ++id) {
    if (bytes[id] == token) return static_cast<int64_t>(id);
  }
  return std::nullopt;
}

std::unique_ptr<Scratch> Tokenizer::Impl::take_scratch() const {
  {
    const std::lock_guard lock(mutex);
    if (!spare.empty()) {
      auto scratch = std::move(spare.back());
      spare.pop_back();
      return scratch;
    }
  }
  return std::make_unique<Scratch>();
}

void Tokenizer::Impl::give_back(std::unique_ptr<Scratch> scratch) const {
  const std::lock_guard lock(mutex);
  spare.push_back(std::move(scratch));
}

void Tokenizer::Impl::encode_segment(std::string_view text,
                                     Scratch& scratch,
                                     std::vector<int64_t>& ids) const {
  if (!normalizes || is_surely_nfc(text)) {
    encode_normalized(text, scratch, ids);
  } else {
    encode_normalized(to_nfc(text), scratch, ids);
  }
}

void Tokenizer::Impl::encode_normalized(std::string_view text,
                                        Scratch& scratch,
                                        std::vector<int64_t>& ids) const {
  split_added(
      normalized_matcher, text, [&](int64_t id) { ids.push_back(id); },
      [&](std::string_view piece) { encode_words(piece, scratch, ids); });
}

void Tokenizer::Impl::encode_words(std::string_view text,
                                   Scratch& scratch,
                                   std::vector<int64_t>& ids) const {
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = pretokenizer.word_end(text, begin, scratch.regex);
    bpe.encode(text.substr(begin, end - begin), scratch.bpe, ids);
    begin = end;
  }
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::from_directory(const std::filesystem::path& directory) {
  const auto path = directory / "tokenizer.json";
  const auto config_path = directory / "tokenizer_config.json";
  const Json tokenizer = parse_json_file(path, "bad-tokenizer");
  Json config;
  if (std::filesystem::exists(config_path)) config = parse_json_file(config_path, "bad-tokenizer");
  return from_json(tokenizer, config, path.string());
}

Tokenizer Tokenizer::from_json(const Json& tokenizer,
                               const Json& tokenizer_config,
                               std::string_view where) {
  return Tokenizer(
      std::make_unique<Impl>(read_tokenizer(tokenizer, tokenizer_config, where), where));
}

std::vector<int64_t> Tokenizer::encode(std::string_view text) const {
  if (const size_t valid = is_ascii(text) ? text.size() : valid_prefix(text); valid < text.size())
    fail<FormatError>("bad-text", "tokenizer", "expected UTF-8, got an invalid byte at offset {}",
                      valid);
  std::vector<int64_t> ids;
  ids.reserve(text.size() / 3);
  auto scratch = impl_->take_scratch();
  split_added(
      impl_->raw_matcher, text, [&](int64_t id) { ids.push_back(id); },
      [&](std::string_view piece) { impl_->encode_segment(piece, *scratch, ids); });
  impl_->give_back(std::move(scratch));
  return ids;
}

std::string Tokenizer::decode(std::span<const int64_t> ids, bool skip_special) const {
  std::string raw;
  for (const int64_t id : ids) {
    if (skip_special && is_special(id)) continue;
    raw += bytes_of(id);
  }
  std::string text;
  text.reserve(raw.size());
  append_lossy(raw, /*more_follows=*/false, text);
  return text;
}

std::string_view Tokenizer::bytes_of(int64_t id) const {
  if (id < 0 || id > std::numeric_limits<int32_t>::max())
    fail<FormatError>("bad-token-id", "tokenizer", "expected a token id of 0 to {}, got {}",
                      std::numeric_limits<int32_t>::max(), id);
  return id < size() ? std::string_view(impl_->bytes[static_cast<size_t>(id)]) : std::string_view();
}

std::optional<int64_t> Tokenizer::id_of(std::string_view token) const {
  return impl_->find_token(token);
}
std::optional<int64_t> Tokenizer::eos_id() const { return impl_->eos_id; }
std::optional<int64_t> Tokenizer::pad_id() const { return impl_->pad_id; }
int64_t Tokenizer::size() const { return static_cast<int64_t>(impl_->bytes.size()); }
bool Tokenizer::is_special(int64_t id) const {
  return id >= 0 && id < size() && impl_->is_special[static_cast<size_t>(id)];
}

std::string StreamDecoder::push(int64_t id) {
  pending_ += tokenizer_->bytes_of(id);
  std::string text;
  pending_.erase(0, append_lossy(pending_, /*more_follows=*/true, text));
  return text;
}

std::string StreamDecoder::finish() {
  std::string text;
  append_lossy(pending_, /*more_follows=*/false, text);
  pending_.clear();
  return text;
}

}  // namespace lockstep::text
