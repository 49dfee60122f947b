// The text form of a layout, FORMAT[:key=value,…], and the list of formats.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>

namespace lockstep::model {

/// A key of a format. A key without choices is a number of ranks, 1 or more. Left out it is 1, but
/// dp is what ep needs.
struct LayoutKey {
  std::string_view name;
  /// The first is the default.
  std::span<const std::string_view> choices;
  std::string_view help;
};
struct WeightFormatInfo {
  std::string_view name;
  std::string_view help;
  std::span<const LayoutKey> keys;
};
/// All formats, for `layout list`.
std::span<const WeightFormatInfo> known_weight_formats();

/// The most ranks that a key may say, and that a layout may have.
inline constexpr int64_t kMostRanks = 4096;

/// A parsed text; every key of its format has a value.
class LayoutSpec {
 public:
  /// Throws ConfigError "bad-layout" at `where`: unknown format or key (with those that are known),
  /// a key twice, a value that is none of its choices or no number from 1 to kMostRanks, more ranks
  /// in all.
  static LayoutSpec parse(std::string_view text, std::string_view where);

  const std::string& format() const { return format_; }
  /// The value of a key with choices.
  const std::string& choice(std::string_view key) const { return values_.find(key)->second; }
  /// The value of a key that is a number.
  int64_t number(std::string_view key) const;
  /// Whether the format has the key.
  bool has_key(std::string_view key) const { return values_.count(key) != 0; }
  /// Whether the key has its default value.
  bool is_default(std::string_view key) const;
  /// Whether the layout has dtypes of its own, whatever those of the checkpoint are.
  bool has_own_types() const { return has_key("version") && !is_default("version"); }
  /// Ranks of the layout, from 1 to kMostRanks.
  int64_t num_ranks() const;
  /// The text with those keys that differ from their defaults, in the format's order.
  std::string text() const;

 private:
  /// The value of a key that is left out; that of dp depends on other keys.
  std::string default_of(const LayoutKey& key) const;

  std::string format_;
  std::map<std::string, std::string, std::less<>> values_;
};

}  // namespace lockstep::model
