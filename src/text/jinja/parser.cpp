// The statements of Jinja that chat templates use, and transformers' {% generation %}.
// SPDX-License-Identifier: Apache-2.0
#include "text/jinja/parser.h"

#include <utility>

#include "text/jinja/expression_parser.h"

namespace lockstep::text::jinja {
namespace {

using StatementPtr = std::unique_ptr<Statement>;

StatementPtr make(StatementKind kind, int line) {
  auto result = std::make_unique<Statement>();
  result->kind = kind;
  result->line = line;
  return result;
}

class StatementParser : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Template parse() {
    Template result;
    result.block = parse_block({});
    result.has_generation = has_generation_;
    return result;
  }

 private:
  using EndNames = std::vector<std::string_view>;

  /// Statements up to one of `ends`, which stays the current token; up to the end if there is none.
  Block parse_block(const EndNames& ends) {
    const Nesting nesting(*this);
    Block block;
    for (;;) {
      const int line = current().line;
      switch (current().kind) {
        case TokenKind::kEnd:
          if (!ends.empty()) fail_expected(fmt::format("{{% {} %}}", ends.back()));
          return block;
        case TokenKind::kData:
          block.push_back(make(StatementKind::kData, line));
          block.back()->text = take().text;
          break;
        case TokenKind::kVariableBegin:
          take();
          block.push_back(make(StatementKind::kOutput, line));
          block.back()->value = parse_tuple(/*with_conditional=*/true);
          expect(TokenKind::kVariableEnd, "\"}}\"");
          break;
        default:
          expect(TokenKind::kBlockBegin, "a tag");
          for (const std::string_view end : ends) {
            if (current().is_name(end)) return block;
          }
          block.push_back(parse_statement());
          expect(TokenKind::kBlockEnd, "\"%}\"");
      }
    }
  }

  /// A body behind the current tag.
  Block parse_body(const EndNames& ends) {
    take_operator_if(":");
    expect(TokenKind::kBlockEnd, "\"%}\"");
    return parse_block(ends);
  }

  /// A body whose text is taken as a value: no loop's break or continue reaches out of it.
  Block parse_captured(std::string_view end) {
    const int outer_loops = std::exchange(loops_, 0);
    Block body = parse_body({end});
    loops_ = outer_loops;
    take();
    return body;
  }

  StatementPtr parse_statement() {
    const Token tag = expect(TokenKind::kName, "a statement");
    if (tag.text == "if") return parse_if(tag.line);
    if (tag.text == "for") return parse_for(tag.line);
    if (tag.text == "set") return parse_set(tag.line);
    if (tag.text == "macro") return parse_macro(tag.line);
    if (tag.text == "with") return parse_with(tag.line);
    if (tag.text == "filter") return parse_filter_block(tag.line);
    if (tag.text == "generation") {
      has_generation_ = true;
      StatementPtr result = make(StatementKind::kGeneration, tag.line);
      result->body = parse_captured("endgeneration");
      return result;
    }
    if (tag.text == "break" || tag.text == "continue") {
      if (loops_ == 0)
        throw JinjaError{"bad-template", "expected " + tag.text + " inside of a loop", tag.line};
      return make(tag.text == "break" ? StatementKind::kBreak : StatementKind::kContinue, tag.line);
    }
    throw JinjaError{
        "bad-template",
        fmt::format("expected a statement of chat templates, got {{% {} %}}", tag.text), tag.line};
  }

  StatementPtr parse_if(int line) {
    StatementPtr result = make(StatementKind::kIf, line);
    for (;;) {
      ExpressionPtr condition = parse_tuple(/*with_conditional=*/false);
      Block body = parse_body({"elif", "else", "endif"});
      result->branches.emplace_back(std::move(condition), std::move(body));
      const Token tag = take();
      if (tag.text == "elif") continue;
      if (tag.text == "else") {
        result->otherwise = parse_body({"endif"});
        take();
      }
      return result;
    }
  }

  StatementPtr parse_for(int line) {
    StatementPtr result = make(StatementKind::kFor, line);
    result->target = parse_target(/*with_namespace=*/false, "in");
    if (!take_name_if("in")) fail_expected("in");
    result->value = parse_tuple(/*with_conditional=*/false, "recursive");
    if (take_name_if("if")) result->condition = parse_expression();
    if (current().is_name("recursive")) fail_expected("a loop without recursion");
    ++loops_;
    result->body = parse_body({"endfor", "else"});
    --loops_;
    if (take().text == "else") {
      result->otherwise = parse_body({"endfor"});
      take();
    }
    return result;
  }

  StatementPtr parse_set(int line) {
    StatementPtr result = make(StatementKind::kSet, line);
    result->target = parse_target(/*with_namespace=*/true);
    if (take_operator_if("=")) {
      result->value = parse_tuple(/*with_conditional=*/true);
      return result;
    }
    result->kind = StatementKind::kSetBlock;
    result->value = parse_filters(nullptr, /*starts_inside=*/false);
    result->body = parse_captured("endset");
    return result;
  }

  StatementPtr parse_macro(int line) {
    StatementPtr result = make(StatementKind::kMacro, line);
    Signature& signature = result->signature;
    signature.name = expect(TokenKind::kName, "a macro's name").text;
    const bool outer_varargs = std::exchange(mentions_varargs_, false);
    const bool outer_kwargs = std::exchange(mentions_kwargs_, false);
    const int outer_loops = std::exchange(loops_, 0);
    expect_operator("(");
    while (!current().is_operator(")")) {
      if (!signature.parameters.empty()) expect_operator(",");
      signature.parameters.push_back(expect(TokenKind::kName, "a parameter's name").text);
      if (take_operator_if("=")) {
        signature.defaults.push_back(parse_expression());
      } else if (!signature.defaults.empty()) {
        fail_expected("a default for each parameter behind one with a default");
      }
    }
    expect_operator(")");
    result->body = parse_body({"endmacro"});
    take();
    signature.takes_varargs = std::exchange(mentions_varargs_, outer_varargs);
    signature.takes_kwargs = std::exchange(mentions_kwargs_, outer_kwargs);
    loops_ = outer_loops;
    return result;
  }

  StatementPtr parse_with(int line) {
    StatementPtr result = make(StatementKind::kWith, line);
    while (current().kind != TokenKind::kBlockEnd) {
      if (!result->bindings.empty()) expect_operator(",");
      ExpressionPtr target = parse_target(/*with_namespace=*/false);
      expect_operator("=");
      result->bindings.emplace_back(std::move(target), parse_expression());
    }
    result->body = parse_body({"endwith"});
    take();
    return result;
  }

  StatementPtr parse_filter_block(int line) {
    StatementPtr result = make(StatementKind::kFilterBlock, line);
    result->value = parse_filters(nullptr, /*starts_inside=*/true);
    result->body = parse_captured("endfilter");
    return result;
  }

  /// Around the current statement, within its macro.
  int loops_ = 0;
  bool has_generation_ = false;
};

}  // namespace

Template parse_template(std::string_view source) {
  return StatementParser(tokenize_template(source)).parse();
}

}  // namespace lockstep::text::jinja
