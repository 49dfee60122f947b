// The expression half of the parser: Jinja's grammar by recursive descent.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/lexer.h"

namespace lockstep::text::jinja {

/// Parses expressions from a list of tokens; parser.cpp derives the statements from it.
class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

 protected:
  const Token& current() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  /// Returns the current token and moves behind it.
  Token take();
  bool take_name_if(std::string_view name);
  bool take_operator_if(std::string_view symbol);
  Token expect(TokenKind kind, std::string_view what);
  void expect_operator(std::string_view symbol);
  [[noreturn]] void fail_expected(std::string_view what) const;

  /// One expression or a tuple without brackets, as after "in" and "=".
  ExpressionPtr parse_tuple(bool with_conditional, std::string_view end_name = {});
  ExpressionPtr parse_expression() { return parse_conditional(); }
  /// The left side of a set, for or with.
  ExpressionPtr parse_target(bool with_namespace, std::string_view end_name = {});
  /// A chain of filters; `input` is null at the beginning of a filter or set block.
  ExpressionPtr parse_filters(ExpressionPtr input, bool starts_inside);

  /// Names that expressions have mentioned since the flags were cleared: a macro's extra arguments.
  bool mentions_varargs_ = false;
  bool mentions_kwargs_ = false;
  /// Counts nesting of everything recursive; throws JinjaError beyond a limit.
  class Nesting {
   public:
    explicit Nesting(ExpressionParser& parser, int levels = 1) : parser_(parser) {
      for (int i = 0; i < levels; ++i) deepen();
    }
    ~Nesting() { parser_.nesting_ -= levels_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;
    void deepen();

   private:
    ExpressionParser& parser_;
    int levels_ = 0;
  };

 private:
  ExpressionPtr parse_conditional();
  ExpressionPtr parse_or();
  ExpressionPtr parse_and();
  ExpressionPtr parse_not();
  ExpressionPtr parse_compare();
  ExpressionPtr parse_sum();
  ExpressionPtr parse_concat();
  ExpressionPtr parse_product();
  ExpressionPtr parse_power();
  ExpressionPtr parse_unary(bool with_filters);
  ExpressionPtr parse_primary();
  ExpressionPtr parse_name();
  ExpressionPtr parse_number();
  ExpressionPtr parse_list();
  ExpressionPtr parse_dict();
  ExpressionPtr parse_parenthesized();
  ExpressionPtr parse_postfix(ExpressionPtr object);
  ExpressionPtr parse_filter_tail(ExpressionPtr value);
  ExpressionPtr parse_subscript(ExpressionPtr object);
  ExpressionPtr parse_bracket(ExpressionPtr object, int line);
  ExpressionPtr parse_test(ExpressionPtr value);
  ExpressionPtr parse_call(ExpressionPtr callee);
  ArgumentExpressions parse_arguments();
  void parse_argument(ArgumentExpressions& arguments);
  ExpressionPtr parse_target_item(bool with_namespace);

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int nesting_ = 0;
};

}  // namespace lockstep::text::jinja
