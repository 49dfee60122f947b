// Texts of values: Python's str() and repr(), and json.dumps.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/jinja/string.h"
#include "text/jinja/value.h"

namespace lockstep::text::jinja {
namespace {

class ReprWriter {
 public:
  explicit ReprWriter(Budget& budget) : budget_(budget) {}

  std::string write(const Value& value) {
    visit(value, 0);
    return std::move(out_);
  }

 private:
  void visit(const Value& value, int depth) {
    budget_.step();
    // Only a namespace that holds itself gets here.
    if (depth > Budget::kMaxDepth) fail_row("expected nested values to print, got a cycle");
    switch (value.kind()) {
      case Value::Kind::kUndefined:
        out_ += "Undefined";
        break;
      case Value::Kind::kNone:
        out_ += "None";
        break;
      case Value::Kind::kBool:
        out_ += value.as_bool() ? "True" : "False";
        break;
      case Value::Kind::kInt:
        out_ += integer_digits(value.as_int());
        break;
      case Value::Kind::kFloat:
        out_ += float_repr(value.as_double());
        break;
      case Value::Kind::kString:
        visit_text(value.text());
        break;
      case Value::Kind::kSequence:
        visit_sequence(value.sequence(), depth);
        break;
      case Value::Kind::kDict:
        visit_dict(value.dict(), depth);
        break;
      case Value::Kind::kNamespace:
        visit_namespace(*value.space(), depth);
        break;
      default:
        fail_template("expected a value to print, got a '{}'", type_name(value));
    }
  }

  void visit_text(const Text& text) {
    budget_.bytes(text.bytes.size());
    out_ += text.is_markup ? "Markup(" + quote_repr(text.bytes) + ")" : quote_repr(text.bytes);
  }

  void visit_sequence(const Sequence& sequence, int depth) {
    const bool is_tuple = sequence.kind == SequenceKind::kTuple;
    if (!is_tuple && sequence.kind != SequenceKind::kList)
      fail_template("expected a list to print, got an iterator (add the filter list)");
    out_ += is_tuple ? '(' : '[';
    for (size_t i = 0; i < sequence.items.size(); ++i) {
      if (i > 0) out_ += ", ";
      visit(sequence.items[i], depth + 1);
    }
    if (is_tuple && sequence.items.size() == 1) out_ += ',';
    out_ += is_tuple ? ')' : ']';
  }

  void visit_dict(const Dict& dict, int depth) {
    out_ += '{';
    for (size_t i = 0; i < dict.items.size(); ++i) {
      if (i > 0) out_ += ", ";
      visit(dict.items[i].first, depth + 1);
      out_ += ": ";
      visit(dict.items[i].second, depth + 1);
    }
    out_ += '}';
  }

  void visit_namespace(const Namespace& space, int depth) {
    out_ += "<Namespace {";
    for (size_t i = 0; i < space.attributes.size(); ++i) {
      if (i > 0) out_ += ", ";
      out_ += quote_repr(space.attributes[i].first) + ": ";
      visit(space.attributes[i].second, depth + 1);
    }
    out_ += "}>";
  }

  Budget& budget_;
  std::string out_;
};

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, Budget& budget) : style_(style), budget_(budget) {}

  std::string write(const Value& value) {
    visit(value);
    return std::move(out_);
  }

 private:
  void visit(const Value& value) {
    budget_.step();
    switch (value.kind()) {
      case Value::Kind::kNone:
        out_ += "null";
        break;
      case Value::Kind::kBool:
        out_ += value.as_bool() ? "true" : "false";
        break;
      case Value::Kind::kInt:
        out_ += integer_digits(value.as_int());
        break;
      case Value::Kind::kFloat:
        out_ += json_float(value.as_double());
        break;
      case Value::Kind::kString:
        visit_text(value.bytes());
        break;
      case Value::Kind::kDict:
        visit_dict(value.dict());
        break;
      case Value::Kind::kSequence:
        if (value.is_sequence(SequenceKind::kList) || value.is_sequence(SequenceKind::kTuple)) {
          visit_list(value.sequence().items);
          break;
        }
        [[fallthrough]];
      default:
        fail_row("expected a value that JSON can hold, got '{}'", type_name(value));
    }
  }

  static std::string json_float(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
    return float_repr(value);
  }

  void visit_text(const std::string& text) {
    budget_.bytes(text.size());
    out_ += quote_json(text, style_.ensure_ascii);
  }

  void break_line() {
    if (!style_.indent) return;
    budget_.bytes(style_.indent->size() * static_cast<size_t>(level_) + 1);
    out_ += '\n';
    for (int i = 0; i < level_; ++i) out_ += *style_.indent;
  }

  void visit_list(const std::vector<Value>& items) {
    if (items.empty()) {
      out_ += "[]";
      return;
    }
    out_ += '[';
    ++level_;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      break_line();
      visit(items[i]);
    }
    --level_;
    break_line();
    out_ += ']';
  }

  static std::string key_text(const Value& key) {
    switch (key.kind()) {
      case Value::Kind::kString:
        return key.bytes();
      case Value::Kind::kNone:
        return "null";
      case Value::Kind::kBool:
        return key.as_bool() ? "true" : "false";
      case Value::Kind::kInt:
        return integer_digits(key.as_int());
      default:
        return json_float(key.as_double());
    }
  }

  void visit_dict(const Dict& dict) {
    if (dict.items.empty()) {
      out_ += "{}";
      return;
    }
    std::vector<const std::pair<Value, Value>*> items;
    for (const auto& item : dict.items) items.push_back(&item);
    if (style_.sort_keys) {
      std::stable_sort(items.begin(), items.end(), [&](const auto* left, const auto* right) {
        return compare(left->first, right->first, budget_) < 0;
      });
    }
    out_ += '{';
    ++level_;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      break_line();
      visit_text(key_text(items[i]->first));
      out_ += style_.key_separator;
      visit(items[i]->second);
    }
    --level_;
    break_line();
    out_ += '}';
  }

  const JsonStyle& style_;
  Budget& budget_;
  std::string out_;
  int level_ = 0;
};

}  // namespace

std::string integer_digits(Int value) { return fmt::format("{}", value); }

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  // Shortest digits as d.ddde±XX, laid out as Python does: with an exponent below 1e-4 and from
  // 1e16 on.
  char buffer[40];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  const std::string_view text(buffer, static_cast<size_t>(end - buffer));
  const size_t e = text.find('e');
  const int exponent = std::stoi(std::string(text.substr(e + 1)));
  if (exponent < -4 || exponent >= 16) {
    return fmt::format("{}e{}{:02}", text.substr(0, e), exponent < 0 ? '-' : '+',
                       std::abs(exponent));
  }
  const bool is_negative = text[0] == '-';
  std::string digits;
  for (const char c : text.substr(0, e)) {
    if (c >= '0' && c <= '9') digits += c;
  }
  std::string out;
  if (exponent < 0) {
    out = "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  } else {
    const auto whole = static_cast<size_t>(exponent) + 1;
    if (digits.size() < whole) digits.append(whole - digits.size(), '0');
    out = digits.substr(0, whole) + "." + (digits.size() > whole ? digits.substr(whole) : "0");
  }
  return is_negative ? "-" + out : out;
}

std::string to_repr(const Value& value, Budget& budget) { return ReprWriter(budget).write(value); }

std::string to_string(const Value& value, Budget& budget) {
  if (value.is_undefined()) return "";
  if (value.is_string()) return value.bytes();
  return to_repr(value, budget);
}

std::string to_json(const Value& value, const JsonStyle& style, Budget& budget) {
  return JsonWriter(style, budget).write(value);
}

}  // namespace lockstep::text::jinja
