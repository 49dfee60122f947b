// The syntax tree of a Jinja template.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "text/jinja_value.h"

namespace lockstep::text::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

enum class ExpressionKind : uint8_t {
  kConstant,            ///< constant
  kName,                ///< name
  kTuple,               ///< operands
  kList,                ///< operands
  kDict,                ///< operands: key, value, key, value, …
  kNot,                 ///< operands: one
  kAnd,                 ///< operands: two
  kOr,                  ///< operands: two
  kNegate,              ///< operands: one
  kPlus,                ///< operands: one
  kBinary,              ///< operands: two; operators: one
  kConcat,              ///< operands: two or more
  kCompare,             ///< operands: one more than operators
  kConditional,         ///< operands: condition, value, other value or null
  kAttribute,           ///< operands: object; name
  kItem,                ///< operands: object, key
  kSlice,               ///< operands: object, start, stop, step; the last three may be null
  kCall,                ///< operands: callee; arguments
  kFilter,              ///< operands: input (null inside a filter block); name; arguments
  kTest,                ///< operands: value; name; arguments
  kNamespaceAttribute,  ///< target of a set only: constant is the namespace's name; name
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
  ExpressionPtr star;         ///< *list
  ExpressionPtr double_star;  ///< **mapping
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

enum class StatementKind : uint8_t {
  kData,         ///< text
  kOutput,       ///< value
  kIf,           ///< branches, otherwise
  kFor,          ///< target, value, condition or null, body, otherwise
  kSet,          ///< target, value
  kSetBlock,     ///< target, value: filters or null, body
  kMacro,        ///< signature, body
  kWith,         ///< bindings, body
  kFilterBlock,  ///< value: filters, body
  kScope,        ///< body, in a scope of its own: {% generation %}
  kBreak,
  kContinue,
};

/// {% macro name(parameters) %}.
struct Signature {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExpressionPtr> defaults;  ///< Of the last parameters.
  bool takes_varargs = false;           ///< The body names varargs.
  bool takes_kwargs = false;            ///< The body names kwargs.
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
  std::vector<std::pair<ExpressionPtr, Block>> branches;          ///< Of an if.
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> bindings;  ///< Of a with.
  Signature signature;                                            ///< Of a macro.
};

}  // namespace lockstep::text::jinja
