// A tree walker: scopes, statements, expressions, macros.
// SPDX-License-Identifier: Apache-2.0
//
// Scopes follow Jinja's compiler: for, macro, with, set block, filter block and generation open
// one, if does not; a name is looked up where its macro was defined, at the time of the call.
#include "text/jinja/interpreter.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "text/jinja/builtins.h"
#include "text/jinja/loop.h"

namespace lockstep::text::jinja {

struct Scope {
  std::shared_ptr<Scope> parent;
  std::vector<std::pair<std::string_view, Value>> names;

  const Value* find(std::string_view name) const {
    for (const Scope* scope = this; scope != nullptr; scope = scope->parent.get()) {
      for (const auto& entry : scope->names) {
        if (entry.first == name) return &entry.second;
      }
    }
    return nullptr;
  }
  /// `name` must outlive the rendering: it is in the tree or in the variables.
  void set(std::string_view name, Value value) {
    for (auto& entry : names) {
      if (entry.first == name) {
        entry.second = std::move(value);
        return;
      }
    }
    names.emplace_back(name, std::move(value));
  }
};

/// What a Value of kind kMacro refers to.
struct Macro {
  const Statement& definition;
  std::shared_ptr<Scope> scope;
};

namespace {

/// How a block of statements ended.
enum class Flow : uint8_t { kNormal, kBreak, kContinue };

class Interpreter {
 public:
  explicit Interpreter(std::span<const Value> watched) : watched_(watched) {}

  Rendering run(const Block& block, const Value& variables) {
    auto globals = std::make_shared<Scope>();
    for (const auto& [name, value] : variables.dict().items) globals->set(name.bytes(), value);
    scope_ = std::make_shared<Scope>(Scope{std::move(globals), {}});
    try {
      execute(block);
    } catch (JinjaError& error) {
      if (error.line == 0) error.line = line_;
      throw;
    }
    Rendering result;
    result.parts = out_.take_parts();
    result.text = out_.take_text();
    return result;
  }

 private:
  /// Opens a scope below `parent` for the time of its life.
  class ScopeGuard {
   public:
    ScopeGuard(Interpreter& interpreter, std::shared_ptr<Scope> parent)
        : interpreter_(interpreter), outer_(std::move(interpreter.scope_)) {
      interpreter_.scope_ = std::make_shared<Scope>(Scope{std::move(parent), {}});
    }
    ~ScopeGuard() { interpreter_.scope_ = std::move(outer_); }
    ScopeGuard(const ScopeGuard&) = delete;
    ScopeGuard& operator=(const ScopeGuard&) = delete;

   private:
    Interpreter& interpreter_;
    std::shared_ptr<Scope> outer_;
  };

  /// Counts the depth of recursion.
  class DepthGuard {
   public:
    explicit DepthGuard(int& depth) : depth_(depth) {
      if (++depth_ > Budget::kMaxDepth) {
        --depth_;
        fail_template("expected at most {} levels of recursion, got more", Budget::kMaxDepth);
      }
    }
    ~DepthGuard() { --depth_; }
    DepthGuard(const DepthGuard&) = delete;
    DepthGuard& operator=(const DepthGuard&) = delete;

   private:
    int& depth_;
  };

  // --- statements

  Flow execute(const Block& block) {
    for (const auto& statement : block) {
      const Flow flow = execute(*statement);
      if (flow != Flow::kNormal) return flow;
    }
    return Flow::kNormal;
  }

  Flow execute(const Statement& statement) {
    const DepthGuard depth(depth_);
    budget_.step();
    line_ = statement.line;
    switch (statement.kind) {
      case StatementKind::kData:
        write(statement.text);
        break;
      case StatementKind::kOutput:
        write(evaluate(*statement.value));
        break;
      case StatementKind::kIf:
        return execute_if(statement);
      case StatementKind::kFor:
        execute_for(statement);
        break;
      case StatementKind::kSet:
        assign(*statement.target, evaluate(*statement.value));
        break;
      case StatementKind::kSetBlock:
        assign(*statement.target, capture(statement));
        break;
      case StatementKind::kFilterBlock:
        write(capture(statement));
        break;
      case StatementKind::kMacro:
        budget_.bytes(sizeof(Macro));
        macros_.push_back({statement, scope_});
        scope_->set(statement.signature.name, Value::reference(&macros_.back()));
        break;
      case StatementKind::kWith:
        return execute_with(statement);
      case StatementKind::kGeneration: {
        const ScopeGuard scope(*this, scope_);
        const size_t begin = out_.size();
        execute(statement.body);
        out_.add_generation(begin, item_);
        break;
      }
      case StatementKind::kBreak:
        return Flow::kBreak;
      case StatementKind::kContinue:
        return Flow::kContinue;
    }
    return Flow::kNormal;
  }

  void write(const std::string& text) {
    budget_.bytes(text.size());
    out_.append(text);
  }

  void write(const Value& value) {
    if (!value.is_string()) return write(to_string(value, budget_));
    budget_.bytes(value.bytes().size());
    out_.append(value.text());
  }

  /// Which of the watched mappings `value` is.
  int64_t watched_item(const Value& value) const {
    if (!value.is_dict()) return kNoItem;
    const auto found = std::find_if(watched_.begin(), watched_.end(),
                                    [&](const Value& item) { return item.is_same_object(value); });
    return found == watched_.end() ? kNoItem : found - watched_.begin();
  }

  Flow execute_if(const Statement& statement) {
    for (const auto& [condition, body] : statement.branches) {
      if (is_true(evaluate(*condition))) return execute(body);
    }
    return execute(statement.otherwise);
  }

  void execute_for(const Statement& statement) {
    std::vector<Value> items = elements_of(evaluate(*statement.value), budget_);
    LoopWalk::Filter filter;
    if (statement.condition) {
      filter = [this, &statement, outer = scope_](const Value& item) {
        budget_.step();
        const ScopeGuard scope(*this, outer);
        assign(*statement.target, item);
        return is_true(evaluate(*statement.condition));
      };
    }
    budget_.bytes(sizeof(Loop));
    loops_.push_back({LoopWalk(std::move(items), std::move(filter))});
    Loop& loop = loops_.back();
    // As in Jinja's compiled code: a pass that break or continue cuts short does not count.
    bool has_run = false;
    while (std::optional<Value> item = loop.walk.next()) {
      budget_.step();
      const ScopeGuard scope(*this, scope_);
      scope_->set("loop", Value::reference(&loop));
      const int64_t watched = watched_item(*item);
      assign(*statement.target, std::move(*item));
      const Flow flow = execute_at(watched, statement.body);
      if (flow == Flow::kBreak) break;
      has_run = has_run || flow == Flow::kNormal;
    }
    loop.walk.release();
    if (has_run) return;
    const ScopeGuard scope(*this, scope_);
    execute(statement.otherwise);
  }

  /// One pass of a loop: what it writes belongs to the watched item at which the loop stands.
  Flow execute_at(int64_t item, const Block& body) {
    if (item == kNoItem) return execute(body);
    const int64_t outer_item = std::exchange(item_, item), outer_part = out_.switch_item(item);
    const Flow flow = execute(body);
    out_.switch_item(outer_part);
    item_ = outer_item;
    return flow;
  }

  Flow execute_with(const Statement& statement) {
    // The values are those of the outer scope: all are evaluated before the first name is set.
    std::vector<Value> values;
    for (const auto& binding : statement.bindings) values.push_back(evaluate(*binding.second));
    const ScopeGuard scope(*this, scope_);
    for (size_t i = 0; i < values.size(); ++i)
      assign(*statement.bindings[i].first, std::move(values[i]));
    return execute(statement.body);
  }

  /// The text of a block, through its filters if there are any.
  Value capture(const Statement& statement) {
    Value text;
    {
      const ScopeGuard scope(*this, scope_);
      text = captured(statement.body);
    }
    return statement.value ? apply_filters(*statement.value, text) : text;
  }

  Value captured(const Block& body) {
    Output outer = std::exchange(out_, {});
    execute(body);
    return std::exchange(out_, std::move(outer)).take_value();
  }

  Value apply_filters(const Expression& filter, const Value& text) {
    const Expression* inner = filter.operands[0].get();
    const Value input = inner ? apply_filters(*inner, text) : text;
    return apply_filter(filter.name, input, evaluate_arguments(filter.arguments), budget_);
  }

  void assign(const Expression& target, Value value) {
    switch (target.kind) {
      case ExpressionKind::kName:
        scope_->set(target.name, std::move(value));
        return;
      case ExpressionKind::kNamespaceAttribute:
        assign_attribute(target, std::move(value));
        return;
      default:
        break;
    }
    std::vector<Value> parts = elements_of(value, budget_);
    if (parts.size() != target.operands.size())
      fail_row("expected {} values to unpack, got {}", target.operands.size(), parts.size());
    for (size_t i = 0; i < parts.size(); ++i) assign(*target.operands[i], std::move(parts[i]));
  }

  void assign_attribute(const Expression& target, Value value) {
    const std::string& owner = target.constant.bytes();
    const Value* found = scope_->find(owner);
    if (found == nullptr || !found->is(Value::Kind::kNamespace))
      fail_row("expected {} to be a namespace, so that its attribute can be set", owner);
    set_attribute(*found->space(), target.name, std::move(value));
  }

  static void set_attribute(Namespace& space, const std::string& name, Value value) {
    if (name.starts_with('_'))
      fail_row("expected attributes of a namespace without leading underscore, got {}", name);
    for (auto& attribute : space.attributes) {
      if (attribute.first == name) {
        attribute.second = std::move(value);
        return;
      }
    }
    space.attributes.emplace_back(name, std::move(value));
  }

  // --- expressions

  Value evaluate(const Expression& expression) {
    const DepthGuard depth(depth_);
    budget_.step();
    line_ = expression.line;
    const auto& operands = expression.operands;
    switch (expression.kind) {
      case ExpressionKind::kConstant:
        return expression.constant;
      case ExpressionKind::kName:
        return look_up(expression.name);
      case ExpressionKind::kTuple:
        return Value::sequence(SequenceKind::kTuple, evaluate_all(operands));
      case ExpressionKind::kList:
        return Value::sequence(SequenceKind::kList, evaluate_all(operands));
      case ExpressionKind::kDict:
        return evaluate_dict(expression);
      case ExpressionKind::kNot:
        return Value::boolean(!is_true(evaluate(*operands[0])));
      case ExpressionKind::kAnd: {
        Value left = evaluate(*operands[0]);
        return is_true(left) ? evaluate(*operands[1]) : left;
      }
      case ExpressionKind::kOr: {
        Value left = evaluate(*operands[0]);
        return is_true(left) ? left : evaluate(*operands[1]);
      }
      case ExpressionKind::kConditional:
        return evaluate_conditional(expression);
      case ExpressionKind::kConcat:
        return evaluate_concat(expression);
      case ExpressionKind::kCompare:
        return evaluate_compare(expression);
      case ExpressionKind::kCall:
        return evaluate_call(expression);
      case ExpressionKind::kTest:
        return Value::boolean(evaluate_test(expression));
      default:
        return evaluate_access(expression);
    }
  }

  /// The rest of evaluate(): operators on and parts of values.
  Value evaluate_access(const Expression& expression) {
    Value first = evaluate(*expression.operands[0]);
    const auto operand = [&](size_t i) {
      const Expression* part = expression.operands[i].get();
      return part ? evaluate(*part) : Value::none();
    };
    switch (expression.kind) {
      case ExpressionKind::kNegate:
        return negate(first);
      case ExpressionKind::kPlus:
        if (!first.is_number()) fail_row("expected a number behind +, got '{}'", type_name(first));
        return first.is_integral() ? Value::integer(first.as_int()) : first;
      case ExpressionKind::kBinary: {
        const Value second = operand(1);
        line_ = expression.line;
        return apply_operator(expression.operators[0], first, second, budget_);
      }
      case ExpressionKind::kAttribute:
        return get_attribute(first, expression.name);
      case ExpressionKind::kItem:
        return get_item(first, operand(1));
      case ExpressionKind::kSlice:
        return get_slice(first, {operand(1), operand(2), operand(3)}, budget_);
      case ExpressionKind::kFilter:
        return apply_filter(expression.name, first, evaluate_arguments(expression.arguments),
                            budget_);
      default:
        fail_template("expected an expression, got the target of an assignment");
    }
  }

  Value look_up(std::string_view name) {
    if (const Value* found = scope_->find(name)) return *found;
    if (name == "namespace") return Value::function("namespace");
    return find_global(name);
  }

  std::vector<Value> evaluate_all(const std::vector<ExpressionPtr>& expressions) {
    std::vector<Value> values;
    values.reserve(expressions.size());
    for (const ExpressionPtr& expression : expressions) values.push_back(evaluate(*expression));
    budget_.bytes(values.size() * sizeof(Value));
    return values;
  }

  Value evaluate_dict(const Expression& expression) {
    std::vector<std::pair<Value, Value>> items;
    for (size_t i = 0; i < expression.operands.size(); i += 2) {
      Value key = evaluate(*expression.operands[i]);
      set_item(items, std::move(key), evaluate(*expression.operands[i + 1]));
    }
    return Value::dict(std::move(items));
  }

  Value evaluate_conditional(const Expression& expression) {
    if (is_true(evaluate(*expression.operands[0]))) return evaluate(*expression.operands[1]);
    if (expression.operands[2]) return evaluate(*expression.operands[2]);
    return Value::undefined("the inline if-expression evaluated to false and has no else");
  }

  Value evaluate_concat(const Expression& expression) {
    std::string out;
    for (const ExpressionPtr& operand : expression.operands) {
      const std::string part = to_string(evaluate(*operand), budget_);
      budget_.bytes(part.size());
      out += part;
    }
    return Value::string(std::move(out));
  }

  Value evaluate_compare(const Expression& expression) {
    Value left = evaluate(*expression.operands[0]);
    for (size_t i = 0; i < expression.operators.size(); ++i) {
      Value right = evaluate(*expression.operands[i + 1]);
      line_ = expression.line;
      if (!holds(expression.operators[i], left, right)) return Value::boolean(false);
      left = std::move(right);
    }
    return Value::boolean(true);
  }

  bool holds(Operator symbol, const Value& left, const Value& right) {
    switch (symbol) {
      case Operator::kEqual:
        return are_equal(left, right, budget_);
      case Operator::kNotEqual:
        return !are_equal(left, right, budget_);
      case Operator::kIn:
        return contains(right, left, budget_);
      case Operator::kNotIn:
        return !contains(right, left, budget_);
      default:
        break;
    }
    const int order = compare(left, right, budget_);
    switch (symbol) {
      case Operator::kLess:
        return order < 0;
      case Operator::kLessEqual:
        return order <= 0;
      case Operator::kGreater:
        return order > 0;
      default:
        return order >= 0;
    }
  }

  bool evaluate_test(const Expression& expression) {
    const Value value = evaluate(*expression.operands[0]);
    const CallArguments arguments = evaluate_arguments(expression.arguments);
    line_ = expression.line;
    return apply_test(expression.name, value, arguments, budget_);
  }

  CallArguments evaluate_arguments(const ArgumentExpressions& expressions) {
    CallArguments arguments;
    arguments.positional = evaluate_all(expressions.positional);
    for (const auto& [name, value] : expressions.keyword)
      arguments.keyword.emplace_back(name, evaluate(*value));
    if (expressions.star) {
      for (Value& value : elements_of(evaluate(*expressions.star), budget_))
        arguments.positional.push_back(std::move(value));
    }
    if (expressions.double_star) {
      const Value mapping = evaluate(*expressions.double_star);
      if (!mapping.is_dict())
        fail_row("expected a mapping behind **, got '{}'", type_name(mapping));
      for (const auto& [name, value] : mapping.dict().items) {
        if (!name.is_string()) fail_row("expected names as keys of a mapping behind **");
        arguments.keyword.emplace_back(name.bytes(), value);
      }
    }
    return arguments;
  }

  Value evaluate_call(const Expression& expression) {
    const Value callee = evaluate(*expression.operands[0]);
    CallArguments arguments = evaluate_arguments(expression.arguments);
    line_ = expression.line;
    switch (callee.kind()) {
      case Value::Kind::kMacro:
        return call_macro(*callee.macro(), arguments);
      case Value::Kind::kFunction:
        if (callee.function().self.is_undefined() && callee.function().name == "namespace")
          return make_namespace(arguments);
        return call_function(callee.function(), arguments, budget_);
      case Value::Kind::kUndefined:
        fail_row("{}", callee.undefined_hint());
      case Value::Kind::kLoop:
        fail_template("expected a loop without recursion");
      default:
        fail_row("expected something to call, got '{}'", type_name(callee));
    }
  }

  Value make_namespace(const CallArguments& arguments) {
    // As dict() does it: a mapping, then names.
    const Value items = call_function({"dict", {}}, arguments, budget_);
    budget_.bytes(sizeof(Namespace));
    Namespace& space = namespaces_.emplace_back();
    for (const auto& [name, value] : items.dict().items) {
      if (!name.is_string()) fail_row("expected names for namespace()");
      set_attribute(space, name.bytes(), value);
    }
    return Value::reference(&space);
  }

  Value call_macro(const Macro& macro, CallArguments& arguments) {
    const Signature& signature = macro.definition.signature;
    const ScopeGuard scope(*this, macro.scope);
    bind_macro_arguments(signature, arguments);
    return captured(macro.definition.body);
  }

  void bind_macro_arguments(const Signature& signature, CallArguments& arguments) {
    const size_t num_parameters = signature.parameters.size();
    const size_t num_required = num_parameters - signature.defaults.size();
    auto& keyword = arguments.keyword;
    for (size_t i = 0; i < num_parameters; ++i) {
      const std::string& name = signature.parameters[i];
      if (i < arguments.positional.size()) {
        scope_->set(name, arguments.positional[i]);
        continue;
      }
      const auto found = std::find_if(keyword.begin(), keyword.end(),
                                      [&](const auto& entry) { return entry.first == name; });
      if (found != keyword.end()) {
        scope_->set(name, std::move(found->second));
        keyword.erase(found);
      } else if (i >= num_required) {
        scope_->set(name, evaluate(*signature.defaults[i - num_required]));
      } else {
        scope_->set(name, Value::undefined(fmt::format("parameter '{}' was not provided", name)));
      }
    }
    bind_surplus_arguments(signature, arguments);
  }

  void bind_surplus_arguments(const Signature& signature, const CallArguments& arguments) {
    const size_t num_parameters = signature.parameters.size();
    if (signature.takes_kwargs) {
      std::vector<std::pair<Value, Value>> items;
      for (const auto& [name, value] : arguments.keyword)
        set_item(items, Value::string(name), value);
      scope_->set("kwargs", Value::dict(std::move(items)));
    } else if (!arguments.keyword.empty()) {
      fail_row("expected no argument {} of the macro {}", arguments.keyword.front().first,
               signature.name);
    }
    if (signature.takes_varargs) {
      const size_t num_own = std::min(num_parameters, arguments.positional.size());
      scope_->set("varargs",
                  Value::sequence(SequenceKind::kTuple, {arguments.positional.begin() +
                                                             static_cast<std::ptrdiff_t>(num_own),
                                                         arguments.positional.end()}));
    } else if (arguments.positional.size() > num_parameters) {
      fail_row("expected at most {} arguments of the macro {}, got {}", num_parameters,
               signature.name, arguments.positional.size());
    }
  }

  std::span<const Value> watched_;
  Budget budget_;
  Output out_;
  /// The watched item at which the innermost loop over such stands.
  int64_t item_ = kNoItem;
  std::shared_ptr<Scope> scope_;
  int depth_ = 0;
  int line_ = 0;
  // What values refer to without owning it; addresses stay valid until the end.
  std::deque<Macro> macros_;
  std::deque<Loop> loops_;
  std::deque<Namespace> namespaces_;
};

}  // namespace

Rendering render(const Template& source, const Value& variables, std::span<const Value> watched) {
  return Interpreter(watched).run(source.block, variables);
}

}  // namespace lockstep::text::jinja
