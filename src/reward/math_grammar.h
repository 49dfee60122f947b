// The parser of written mathematics, for math_parser.cpp and math_commands.cpp alone.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "reward/math_tokens.h"
#include "reward/math_value.h"

namespace lockstep::reward {

/// Recursive descent with the precedences of latex2sympy: lists, relations, set operations, sums,
/// products, factors side by side, powers. Every method throws NotUnderstood.
///
/// math_parser.cpp has what stands between operators, math_commands.cpp what a command or a bracket
/// begins. `text` must outlive it.
class MathGrammar {
 public:
  explicit MathGrammar(std::string_view text) : text_(text), tokens_(tokenize_math(text)) {}

  /// The whole text.
  MathPtr parse();

 private:
  /// Ends a formula that nests too deeply for the stack.
  class Depth {
   public:
    explicit Depth(MathGrammar& grammar);
    ~Depth() { --grammar_.depth_; }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;

   private:
    MathGrammar& grammar_;
  };

  const Token& current() const { return tokens_[at_]; }
  const Token& next() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  bool is_symbol(std::string_view text) const;
  bool is_command(std::string_view name) const;
  Token take();
  bool take_symbol(std::string_view text);
  bool take_command(std::string_view name);
  /// Whether a sign such as != or /= begins here with `text`.
  bool begins_sign(std::string_view text) const;
  void expect_symbol(std::string_view text);

  MathPtr parse_list();
  bool take_separator();
  MathPtr parse_relation();
  std::optional<std::string> take_relation_sign();
  std::optional<std::string> take_written_sign();
  bool begins_modulus() const;
  /// Behind a congruence: \pmod{5}, (mod 5).
  MathPtr take_modulus();
  MathPtr parse_set_operations();
  MathPtr parse_intersection();
  MathPtr parse_sum();
  MathPtr parse_product();
  MathPtr parse_signed();
  MathPtr parse_juxtaposed();
  bool starts_factor() const;
  MathPtr mixed_number(const MathPtr& whole);
  MathPtr parse_postfix();
  bool take_factorial(MathPtr& value);
  bool take_degree();
  MathPtr parse_group();
  MathPtr parse_group_or_one();
  MathPtr parse_primary();
  MathPtr parse_number();
  MathPtr parse_letter();
  MathPtr parse_subscript(const std::string& name);
  void skip_parentheses();
  std::string raw_group();

  MathPtr parse_command();
  MathPtr parse_text_command(const std::string& name);
  MathPtr parse_fraction();
  MathPtr parse_root();
  MathPtr parse_surd();
  MathPtr parse_enclosed(std::string_view closing, std::string name);
  MathPtr parse_function_or_symbol(const std::string& name);
  MathPtr parse_function(const std::string& name);
  MathPtr parse_argument();
  MathPtr parse_list_function(const std::string& name);
  MathPtr parse_repeated(const std::string& name);
  MathPtr parse_number_set(const std::string& letter);
  MathPtr parse_set();
  MathPtr parse_set_conditions(MathPtr element);
  MathPtr parse_vector();
  MathPtr parse_environment();
  MathPtr parse_rows(const std::string& kind);
  MathPtr parse_matrix(const std::string& kind);
  bool take_row_end();
  MathPtr parse_bars();
  MathPtr parse_bracket();

  std::string_view text_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  /// Within |…| or behind the name of a set's elements: these signs close or separate there.
  bool bar_closes_ = false, colon_separates_ = false;
};

}  // namespace lockstep::reward
