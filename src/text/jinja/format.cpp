// Python's two ways to format text: "%d items" % 3 and "{} items".format(3).
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/jinja/builtins.h"
#include "text/jinja/string.h"

namespace lockstep::text::jinja {
namespace {

/// One %-conversion: flags, width and precision.
struct Conversion {
  bool is_left = false, has_plus = false, has_space = false, has_zeros = false, has_hash = false;
  int64_t width = 0;
  int64_t precision = -1;
  char type = 's';
};

class PercentFormatter {
 public:
  PercentFormatter(const Text& text, const Value& arguments, Budget& budget)
      : text_(text), budget_(budget) {
    if (arguments.is_sequence(SequenceKind::kTuple)) {
      arguments_ = arguments.sequence().items;
    } else {
      arguments_ = {arguments};
      mapping_ = arguments.is_dict() ? &arguments.dict() : nullptr;
    }
  }

  std::string format() {
    const std::string& text = text_.bytes;
    while (at_ < text.size()) {
      const char c = text[at_++];
      if (c != '%') {
        out_ += c;
      } else if (at_ < text.size() && text[at_] == '%') {
        out_ += text[at_++];
      } else {
        const Value argument = read_key_or_next();
        out_ += convert(read_conversion(), argument);
      }
    }
    if (mapping_ == nullptr && next_ < arguments_.size())
      fail_row("expected a place for each value in a format, got {} values more",
               arguments_.size() - next_);
    return std::move(out_);
  }

 private:
  Value read_key_or_next() {
    const std::string& text = text_.bytes;
    if (at_ < text.size() && text[at_] == '(') {
      const size_t end = text.find(')', at_);
      if (end == text.npos || mapping_ == nullptr)
        fail_row("expected a mapping for %(name)s in a format");
      const Value* found = mapping_->find(std::string_view(text).substr(at_ + 1, end - at_ - 1));
      if (found == nullptr) fail_row("expected each name of a format in its mapping");
      at_ = end + 1;
      return *found;
    }
    if (next_ >= arguments_.size()) fail_row("expected a value for each place of a format");
    return arguments_[next_++];
  }

  int64_t read_digits() {
    const std::string& text = text_.bytes;
    int64_t result = 0;
    while (at_ < text.size() && text[at_] >= '0' && text[at_] <= '9') {
      result = std::min<int64_t>(result * 10 + (text[at_] - '0'), int64_t{1} << 30);
      ++at_;
    }
    return result;
  }

  Conversion read_conversion() {
    const std::string& text = text_.bytes;
    Conversion result;
    for (; at_ < text.size(); ++at_) {
      const char c = text[at_];
      if (c == '-') {
        result.is_left = true;
      } else if (c == '+') {
        result.has_plus = true;
      } else if (c == ' ') {
        result.has_space = true;
      } else if (c == '0') {
        result.has_zeros = true;
      } else if (c == '#') {
        result.has_hash = true;
      } else {
        break;
      }
    }
    result.width = read_digits();
    if (at_ < text.size() && text[at_] == '.') {
      ++at_;
      result.precision = read_digits();
    }
    if (at_ >= text.size()) fail_row("expected a conversion behind \"%\" in a format");
    result.type = text[at_++];
    budget_.bytes(static_cast<uint64_t>(result.width) +
                  static_cast<uint64_t>(std::max<int64_t>(result.precision, 0)));
    return result;
  }

  std::string convert(const Conversion& conversion, const Value& value) {
    switch (conversion.type) {
      case 's':
      case 'r': {
        std::string text =
            conversion.type == 'r' ? to_repr(value, budget_) : to_string(value, budget_);
        if (conversion.type == 's' && text_.is_markup && !value.is_markup())
          text = escape_html(text);
        if (conversion.precision >= 0) text.resize(byte_offset(text, conversion.precision));
        return pad(conversion, "", text);
      }
      case 'd':
      case 'i':
      case 'u':
        return convert_integer(conversion, value);
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
        return convert_float(conversion, value);
      default:
        fail_template("expected a conversion s, r, d, e, f or g in a format, got %{}",
                      conversion.type);
    }
  }

  static std::string_view sign_of(const Conversion& conversion, bool is_negative) {
    if (is_negative) return "-";
    return conversion.has_plus ? "+" : conversion.has_space ? " " : "";
  }

  static std::string pad(const Conversion& conversion,
                         std::string_view sign,
                         const std::string& digits,
                         bool may_zero = false) {
    const int64_t used = count_code_points(digits) + static_cast<int64_t>(sign.size());
    const auto missing = static_cast<size_t>(std::max<int64_t>(conversion.width - used, 0));
    if (conversion.is_left) return std::string(sign) + digits + std::string(missing, ' ');
    if (may_zero && conversion.has_zeros)
      return std::string(sign) + std::string(missing, '0') + digits;
    return std::string(missing, ' ') + std::string(sign) + digits;
  }

  std::string convert_integer(const Conversion& conversion, const Value& value) {
    if (!value.is_number() || !std::isfinite(value.as_double()))
      fail_row("expected a number for %d, got '{}'", type_name(value));
    const Int number = value.is_integral() ? value.as_int() : static_cast<Int>(value.as_double());
    std::string digits = integer_digits(number);
    if (number < 0) digits.erase(0, 1);
    if (conversion.precision > static_cast<int64_t>(digits.size()))
      digits.insert(0, static_cast<size_t>(conversion.precision) - digits.size(), '0');
    return pad(conversion, sign_of(conversion, number < 0), digits, /*may_zero=*/true);
  }

  std::string convert_float(const Conversion& conversion, const Value& value) {
    if (!value.is_number()) fail_row("expected a number for %f, got '{}'", type_name(value));
    const double number = value.as_double();
    const int precision = conversion.precision < 0
                              ? 6
                              : static_cast<int>(std::min<int64_t>(conversion.precision, 400));
    const char format[] = {'%', '.', '*', conversion.type, '\0'};
    char buffer[800];
    const int written = std::snprintf(buffer, sizeof(buffer), format, precision, std::fabs(number));
    return pad(conversion, sign_of(conversion, std::signbit(number)),
               std::string(buffer, static_cast<size_t>(written)), /*may_zero=*/true);
  }

  const Text& text_;
  Budget& budget_;
  std::vector<Value> arguments_;
  const Dict* mapping_ = nullptr;
  size_t at_ = 0, next_ = 0;
  std::string out_;
};

Value format_field(std::string_view field, const CallArguments& arguments, size_t& automatic) {
  if (field.find_first_of(".[!:") != field.npos)
    fail_template("expected plain fields in format(), got {{{}}}", field);
  size_t index = 0;
  if (field.empty()) {
    index = automatic++;
  } else if (field.find_first_not_of("0123456789") == field.npos) {
    if (std::from_chars(field.data(), field.data() + field.size(), index).ec != std::errc())
      index = arguments.positional.size();
  } else {
    for (const auto& [name, value] : arguments.keyword) {
      if (name == field) return value;
    }
    fail_row("expected an argument {} of format()", field);
  }
  if (index >= arguments.positional.size())
    fail_row("expected an argument {} of format(), got {}", index, arguments.positional.size());
  return arguments.positional[index];
}

}  // namespace

std::string format_percent(const Text& text, const Value& arguments, Budget& budget) {
  budget.bytes(text.bytes.size());
  return PercentFormatter(text, arguments, budget).format();
}

std::string format_braces(std::string_view text, const CallArguments& arguments, Budget& budget) {
  std::string out;
  size_t automatic = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    const bool is_double = at + 1 < text.size() && text[at + 1] == c;
    if ((c == '{' || c == '}') && is_double) {
      out += c;
      ++at;
    } else if (c == '{') {
      const size_t end = text.find('}', at);
      if (end == text.npos) fail_row("expected \"}}\" in a format");
      const Value value = format_field(text.substr(at + 1, end - at - 1), arguments, automatic);
      out += to_string(value, budget);
      budget.bytes(out.size());
      at = end;
    } else if (c == '}') {
      fail_row("expected \"{{\" before \"}}\" in a format");
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace lockstep::text::jinja
