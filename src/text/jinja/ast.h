// The syntax tree of a Jinja template.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

namespace lockstep::text::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

enum class ExpressionKind : uint8_t {
  /// constant
  kConstant,
  /// name
  kName,
  /// operands
  kTuple,
  /// operands
  kList,
  /// operands: key, value, key, value, …
  kDict,
  /// operands: one
  kNot,
  /// operands: two
  kAnd,
  /// operands: two
  kOr,
  /// operands: one
  kNegate,
  /// operands: one
  kPlus,
  /// operands: two; operators: one
  kBinary,
  /// operands: two or more
  kConcat,
  /// operands: one more than operators
  kCompare,
  /// operands: condition, value, other value or null
  kConditional,
  /// operands: object; name
  kAttribute,
  /// operands: object, key
  kItem,
  /// operands: object, start, stop, step; the last three may be null
  kSlice,
  /// operands: callee; arguments
  kCall,
  /// operands: input (null inside a filter block); name; arguments
  kFilter,
  /// operands: value; name; arguments
  kTest,
  /// target of a set only: constant is the namespace's name; name
  kNamespaceAttribute,
};

enum class Operator : uint8_t {
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kPower,
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn,
};

struct ArgumentExpressions {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> keyword;
  /// *list
  ExpressionPtr star;
  /// **mapping
  ExpressionPtr double_star;
};

struct Expression {
  ExpressionKind kind = ExpressionKind::kConstant;
  int line = 0;
  std::string name;
  Value constant;
  std::vector<ExpressionPtr> operands;
  std::vector<Operator> operators;
  ArgumentExpressions arguments;
};

struct Statement;
using Block = std::vector<std::unique_ptr<Statement>>;

/// A template.
struct Template {
  Block block;
  /// Whether it has {% generation %} blocks.
  bool has_generation = false;
};

enum class StatementKind : uint8_t {
  /// text
  kData,
  /// value
  kOutput,
  /// branches, otherwise
  kIf,
  /// target, value, condition or null, body, otherwise
  kFor,
  /// target, value
  kSet,
  /// target, value: filters or null, body
  kSetBlock,
  /// signature, body
  kMacro,
  /// bindings, body
  kWith,
  /// value: filters, body
  kFilterBlock,
  /// body, in a scope of its own: {% generation %} marks what the assistant wrote
  kGeneration,
  kBreak,
  kContinue,
};

/// {% macro name(parameters) %}.
struct Signature {
  std::string name;
  std::vector<std::string> parameters;
  /// The default values of the last parameters.
  std::vector<ExpressionPtr> defaults;
  /// Whether the body uses varargs.
  bool takes_varargs = false;
  /// Whether the body uses kwargs.
  bool takes_kwargs = false;
};

struct Statement {
  StatementKind kind = StatementKind::kData;
  int line = 0;
  std::string text;
  ExpressionPtr target;
  ExpressionPtr value;
  ExpressionPtr condition;
  Block body;
  Block otherwise;
  /// For an if.
  std::vector<std::pair<ExpressionPtr, Block>> branches;
  /// For a with.
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> bindings;
  /// For a macro.
  Signature signature;
};

}  // namespace lockstep::text::jinja
