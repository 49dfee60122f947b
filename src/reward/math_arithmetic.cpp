// SPDX-License-Identifier: Apache-2.0
#include "reward/math_arithmetic.h"

#include <algorithm>

#include "reward/exact_value.h"
#include "reward/matrix.h"

namespace lockstep::reward {
namespace {

bool is_matrix(const MathPtr& value) { return value->kind == MathKind::kMatrix; }

/// A pair is written like an open interval.
bool is_vector(const MathPtr& value) {
  if (value->kind == MathKind::kTuple) return true;
  return value->kind == MathKind::kInterval && value->is_left_open && value->is_right_open &&
         sign_of_infinity(*value->children[0]) == 0 && sign_of_infinity(*value->children[1]) == 0;
}

bool is_set(const MathPtr& value) {
  return value->kind == MathKind::kSet || value->kind == MathKind::kUnion ||
         value->kind == MathKind::kInterval || value->kind == MathKind::kDifference;
}

/// An interval's neighbour in kind: (1, 2) + (3, 4) is a pair again.
MathPtr vector_of(std::vector<MathPtr> items) {
  if (items.size() == 2) return make_interval(items[0], items[1], true, true);
  return make_math(MathKind::kTuple, std::move(items));
}

class Arithmetic {
 public:
  explicit Arithmetic(WorkBudget& work) : work_(work) {}

  MathPtr fold(const MathPtr& value) {
    work_.spend(16);
    if (value->children.empty()) return value;
    if (value->is_function("sum") || value->is_function("prod")) return repeated(*value);
    auto result = std::make_shared<Math>(*value);
    for (MathPtr& child : result->children) child = fold(child);
    const bool has_alternatives =
        std::any_of(result->children.begin(), result->children.end(), is_alternatives);
    if (has_alternatives && value->kind != MathKind::kAlternatives) return spread(*result);
    if (has_alternatives) return flattened(*result);
    return combined(result);
  }

 private:
  static bool is_alternatives(const MathPtr& value) {
    return value->kind == MathKind::kAlternatives;
  }

  static MathPtr flattened(const Math& value) {
    std::vector<MathPtr> items;
    for (const MathPtr& child : value.children) {
      if (is_alternatives(child))
        items.insert(items.end(), child->children.begin(), child->children.end());
      else
        items.push_back(child);
    }
    return make_math(value.kind, std::move(items));
  }

  /// One value for each choice of signs.
  MathPtr spread(const Math& value) {
    if (value.kind == MathKind::kSet) return flattened(value);
    if (value.kind == MathKind::kRelation) {
      auto relation = std::make_shared<Math>(value);
      for (MathPtr& child : relation->children) {
        if (is_alternatives(child)) child = make_math(MathKind::kSet, child->children);
      }
      return relation;
    }
    constexpr size_t kMostChoices = 16;
    std::vector<std::shared_ptr<Math>> choices = {std::make_shared<Math>(value)};
    for (size_t i = 0; i < value.children.size(); ++i) {
      if (!is_alternatives(value.children[i])) continue;
      std::vector<std::shared_ptr<Math>> more;
      for (const auto& choice : choices) {
        for (const MathPtr& part : value.children[i]->children) {
          work_.spend(16);
          more.push_back(std::make_shared<Math>(*choice));
          more.back()->children[i] = part;
        }
      }
      if (more.size() > kMostChoices) throw TooMuchWork{};
      choices = std::move(more);
    }
    std::vector<MathPtr> values;
    for (const auto& choice : choices) values.push_back(combined(choice));
    return make_math(MathKind::kAlternatives, std::move(values));
  }

  MathPtr combined(const std::shared_ptr<Math>& value) {
    switch (value->kind) {
      case MathKind::kAdd:
        return sum(value);
      case MathKind::kMultiply:
        return product(value);
      case MathKind::kPower:
        return power(value);
      case MathKind::kFunction:
        return function(value);
      default:
        return value;
    }
  }

  MathPtr sum(const MathPtr& value) {
    const auto& terms = value->children;
    if (std::all_of(terms.begin(), terms.end(), is_matrix)) return add_matrices(terms, work_);
    if (std::all_of(terms.begin(), terms.end(), is_vector)) {
      std::vector<MathPtr> items = terms[0]->children;
      for (size_t i = 1; i < terms.size(); ++i) {
        if (terms[i]->children.size() != items.size()) return value;
        for (size_t j = 0; j < items.size(); ++j)
          items[j] =
              simplified(make_math(MathKind::kAdd, {items[j], terms[i]->children[j]}), work_);
      }
      return vector_of(std::move(items));
    }
    return set_difference(value);
  }

  /// A - B of sets.
  static MathPtr set_difference(const MathPtr& value) {
    if (value->children.size() != 2 || !is_set(value->children[0])) return value;
    const Math& second = *value->children[1];
    const bool is_negative = second.kind == MathKind::kMultiply && second.children.size() == 2 &&
                             second.children[0]->is_number() && *second.children[0]->number == -1;
    if (!is_negative || !is_set(second.children[1])) return value;
    return make_math(MathKind::kDifference, {value->children[0], second.children[1]});
  }

  MathPtr product(const MathPtr& value) {
    std::vector<MathPtr> scalars, matrices, vectors;
    for (const MathPtr& factor : value->children) {
      auto& kind = is_matrix(factor) ? matrices : is_vector(factor) ? vectors : scalars;
      if (&kind == &scalars && is_set(factor)) return value;
      kind.push_back(factor);
    }
    if (matrices.empty() && vectors.empty()) return value;
    if (!matrices.empty() && !vectors.empty()) return value;
    const MathPtr scale = scalars.empty() ? nullptr : make_math(MathKind::kMultiply, scalars);
    if (!matrices.empty()) {
      const MathPtr result = multiply_matrices(matrices, work_);
      if (!result) return value;
      return scale ? scaled(result, scale) : result;
    }
    if (vectors.size() == 1) return scale ? vector_of(scaled(vectors[0], scale)->children) : value;
    return vectors.size() == 2 ? scalar_product(vectors[0], vectors[1], scale, value) : value;
  }

  MathPtr scaled(const MathPtr& value, const MathPtr& scale) {
    auto result = std::make_shared<Math>(*value);
    for (MathPtr& item : result->children)
      item = simplified(make_math(MathKind::kMultiply, {scale, item}), work_);
    return result;
  }

  MathPtr scalar_product(const MathPtr& left,
                         const MathPtr& right,
                         const MathPtr& scale,
                         const MathPtr& otherwise) {
    if (left->children.size() != right->children.size()) return otherwise;
    std::vector<MathPtr> terms;
    for (size_t i = 0; i < left->children.size(); ++i)
      terms.push_back(make_math(MathKind::kMultiply, {left->children[i], right->children[i]}));
    const MathPtr result = make_math(MathKind::kAdd, std::move(terms));
    return scale ? make_math(MathKind::kMultiply, {scale, result}) : result;
  }

  MathPtr power(const MathPtr& value) {
    const MathPtr& base = value->children[0];
    const MathPtr& exponent = value->children[1];
    if (!is_matrix(base)) return value;
    const bool is_transpose =
        exponent->kind == MathKind::kSymbol && (exponent->name == "t" || exponent->name == "top");
    if (is_transpose) return transpose(base);
    const std::optional<Rational> count = exact_value(*exponent, work_);
    const MathPtr result = count ? matrix_power(base, *count, work_) : nullptr;
    return result ? result : value;
  }

  MathPtr function(const MathPtr& value) {
    const MathPtr& inside = value->children[0];
    if (is_matrix(inside) && (value->name == "det" || value->name == "abs")) {
      const MathPtr result = determinant(inside, work_);
      return result ? result : value;
    }
    if (is_vector(inside) && value->name == "abs") {
      const MathPtr square = scalar_product(inside, inside, nullptr, value);
      return make_math(MathKind::kPower, {square, make_number(Rational(1, 2))});
    }
    return value;
  }

  MathPtr substituted(const MathPtr& value, const std::string& name, const MathPtr& with) {
    work_.spend(16);
    if (value->kind == MathKind::kSymbol) return value->name == name ? with : value;
    if (value->children.empty()) return value;
    auto result = std::make_shared<Math>(*value);
    for (MathPtr& child : result->children) child = substituted(child, name, with);
    return result;
  }

  /// \sum and \prod with whole bounds.
  MathPtr repeated(const Math& value) {
    constexpr int64_t kMostTerms = 10'000;
    const std::optional<Rational> first = exact_value(*value.children[2], work_),
                                  last = exact_value(*value.children[3], work_);
    const bool is_sum = value.name == "sum";
    const bool is_known = first && last && first->get_den() == 1 && last->get_den() == 1 &&
                          *last - *first < kMostTerms;
    if (!is_known) return std::make_shared<const Math>(value);
    MathPtr result = make_integer(is_sum ? 0 : 1);
    std::vector<MathPtr> terms;
    for (Rational k = *first; k <= *last; k += 1) {
      const MathPtr term = simplified(
          fold(substituted(value.children[0], value.children[1]->name, make_number(k))), work_);
      if (!term->is_number()) {
        terms.push_back(term);
        continue;
      }
      result = simplified(make_math(is_sum ? MathKind::kAdd : MathKind::kMultiply, {result, term}),
                          work_);
    }
    if (terms.empty()) return result;
    terms.push_back(result);
    return combined(std::make_shared<Math>(
        *make_math(is_sum ? MathKind::kAdd : MathKind::kMultiply, std::move(terms))));
  }

  WorkBudget& work_;
};

}  // namespace

MathPtr do_arithmetic(const MathPtr& value, WorkBudget& work) {
  const MathPtr result = Arithmetic(work).fold(value);
  if (result->kind != MathKind::kAlternatives) return result;
  return make_math(MathKind::kSet, result->children);
}

}  // namespace lockstep::reward
