// SPDX-License-Identifier: Apache-2.0
#include "reward/real_set.h"

#include <algorithm>

#include "reward/real_value.h"

namespace lockstep::reward {
namespace {

/// Thrown for what is no such set. It never leaves real_set_of.
struct NoRealSet {};

constexpr size_t kMostCuts = 1000;

class SetBuilder {
 public:
  explicit SetBuilder(WorkBudget& work) : work_(work) {}

  RealSet set_of(const Math& value) {
    switch (value.kind) {
      case MathKind::kInterval:
        return interval(value.children[0], value.is_left_open, value.children[1],
                        value.is_right_open);
      case MathKind::kSet:
        return list(value.children);
      case MathKind::kUnion: {
        RealSet result;
        for (const MathPtr& part : value.children) result = unite(result, set_of(*part));
        return result;
      }
      case MathKind::kIntersection: {
        RealSet outside;
        for (const MathPtr& part : value.children)
          outside = unite(outside, complement(set_of(*part)));
        return complement(outside);
      }
      case MathKind::kDifference:
        return complement(
            unite(complement(set_of(*value.children[0])), set_of(*value.children[1])));
      case MathKind::kRelation:
        return solutions(value);
      default:
        throw NoRealSet{};
    }
  }

  bool is_before(const Cut& left, const Cut& right) { return compare(left, right) < 0; }
  bool is_same(const Cut& left, const Cut& right) { return compare(left, right) == 0; }

 private:
  static Cut left_end() { return {negate(make_math(MathKind::kInfinity)), true}; }
  static Cut right_end() { return {make_math(MathKind::kInfinity), false}; }
  static RealSet line() { return {left_end(), right_end()}; }

  int compare_numbers(const Math& left, const Math& right) {
    const int a = sign_of_infinity(left), b = sign_of_infinity(right);
    if (a != 0 || b != 0) return a - b;
    switch (compare_values(left, right, work_)) {
      case Comparison::kLess:
        return -1;
      case Comparison::kEqual:
        return 0;
      case Comparison::kGreater:
        return 1;
      default:
        throw NoRealSet{};
    }
  }

  int compare(const Cut& left, const Cut& right) {
    const int order = compare_numbers(*left.value, *right.value);
    if (order != 0) return order;
    // The ends of the line are one place each.
    const bool is_end = sign_of_infinity(*left.value) != 0;
    return is_end ? 0 : static_cast<int>(left.is_after) - static_cast<int>(right.is_after);
  }

  RealSet interval(const MathPtr& low, bool is_left_open, const MathPtr& high, bool is_right_open) {
    if (has_symbols(*low) || has_symbols(*high)) throw NoRealSet{};
    const Cut begin{low, is_left_open}, end{high, !is_right_open};
    // (2, 1) is a pair.
    if (!is_before(begin, end)) throw NoRealSet{};
    return {begin, end};
  }

  static bool is_scalar(const MathPtr& item) {
    return item->kind == MathKind::kNumber || item->kind == MathKind::kPi ||
           item->kind == MathKind::kEuler || item->kind == MathKind::kAdd ||
           item->kind == MathKind::kMultiply || item->kind == MathKind::kPower ||
           item->kind == MathKind::kFunction || item->kind == MathKind::kPercent;
  }

  RealSet element(const MathPtr& item) {
    return is_scalar(item) ? interval(item, false, item, false) : set_of(*item);
  }

  /// Numbers, or intervals that are listed in place of their union.
  RealSet list(const std::vector<MathPtr>& items) {
    const auto num_scalars = std::count_if(items.begin(), items.end(), is_scalar);
    if (num_scalars != 0 && num_scalars != static_cast<ptrdiff_t>(items.size())) throw NoRealSet{};
    RealSet result;
    for (const MathPtr& item : items) result = unite(result, element(item));
    return result;
  }

  RealSet unite(const RealSet& left, const RealSet& right) {
    if (left.size() + right.size() > kMostCuts) throw TooMuchWork{};
    std::vector<std::pair<Cut, Cut>> parts;
    for (const RealSet* set : {&left, &right}) {
      for (size_t i = 0; i + 1 < set->size(); i += 2) parts.emplace_back((*set)[i], (*set)[i + 1]);
    }
    std::sort(parts.begin(), parts.end(),
              [&](const auto& a, const auto& b) { return is_before(a.first, b.first); });
    RealSet result;
    for (const auto& [begin, end] : parts) {
      if (!result.empty() && !is_before(result.back(), begin)) {
        if (is_before(result.back(), end)) result.back() = end;
      } else {
        result.push_back(begin);
        result.push_back(end);
      }
    }
    return result;
  }

  RealSet complement(const RealSet& set) {
    if (set.empty()) return line();
    RealSet result = set;
    if (is_same(result.front(), left_end()))
      result.erase(result.begin());
    else
      result.insert(result.begin(), left_end());
    if (is_same(result.back(), right_end()))
      result.pop_back();
    else
      result.push_back(right_end());
    return result;
  }

  /// x, or |x|.
  static bool is_name(const Math& side) {
    return side.kind == MathKind::kSymbol ||
           (side.is_function("abs") && side.children[0]->kind == MathKind::kSymbol);
  }

  /// The numbers that satisfy a chain of inequalities in one name, x \in A or x \notin A.
  RealSet solutions(const Math& relation) {
    RealSet outside;
    for (size_t i = 0; i < relation.operators.size(); ++i) {
      const bool name_is_left = is_name(*relation.children[i]);
      const MathPtr& name = relation.children[name_is_left ? i : i + 1];
      const MathPtr& other = relation.children[name_is_left ? i + 1 : i];
      if (!is_name(*name) || has_symbols(*other)) throw NoRealSet{};
      const bool is_absolute = name->kind != MathKind::kSymbol;
      const std::string& letter = is_absolute ? name->children[0]->name : name->name;
      if (name_ && *name_ != letter) throw NoRealSet{};
      name_ = letter;
      const std::string& written = relation.operators[i];
      const std::string sign = name_is_left ? written : flipped(written);
      outside = unite(outside, complement(is_absolute ? absolute_solution(sign, other)
                                                      : solution(sign, other)));
    }
    return complement(outside);
  }

  /// |x| < 2 is x < 2 and x > -2; |x| > 2 is x > 2 or x < -2.
  RealSet absolute_solution(const std::string& sign, const MathPtr& bound) {
    const RealSet right = solution(sign, bound), left = solution(flipped(sign), negate(bound));
    if (sign[0] == '>') return unite(right, left);
    if (sign[0] == '<') return complement(unite(complement(right), complement(left)));
    throw NoRealSet{};
  }

  RealSet solution(const std::string& sign, const MathPtr& bound) {
    if (sign == "<" || sign == "<=") return {left_end(), Cut{bound, sign == "<="}};
    if (sign == ">" || sign == ">=") return {Cut{bound, sign == ">"}, right_end()};
    if (sign == "=") return element(bound);
    if (sign == "!=" || sign == "notin") return complement(element(bound));
    throw NoRealSet{};
  }

  WorkBudget& work_;
  std::optional<std::string> name_;
};

}  // namespace

std::optional<RealSet> real_set_of(const Math& value, WorkBudget& work) {
  try {
    return SetBuilder(work).set_of(value);
  } catch (const NoRealSet&) {
    return std::nullopt;
  }
}

bool is_same_set(const RealSet& left, const RealSet& right, WorkBudget& work) {
  SetBuilder builder(work);
  try {
    return left.size() == right.size() &&
           std::equal(left.begin(), left.end(), right.begin(),
                      [&](const Cut& a, const Cut& b) { return builder.is_same(a, b); });
  } catch (const NoRealSet&) {
    return false;
  }
}

bool is_whole_line(const RealSet& set) {
  return set.size() == 2 && sign_of_infinity(*set[0].value) < 0 &&
         sign_of_infinity(*set[1].value) > 0;
}

std::string flipped(const std::string& sign) {
  if (sign[0] == '<') return ">" + sign.substr(1);
  if (sign[0] == '>') return "<" + sign.substr(1);
  return sign;
}

}  // namespace lockstep::reward
