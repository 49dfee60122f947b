// SPDX-License-Identifier: Apache-2.0
#include "reward/matrix.h"

#include <algorithm>
#include <string>

namespace lockstep::reward {
namespace {

struct Shape {
  size_t rows = 0, columns = 0;
  bool operator==(const Shape&) const = default;
};

Shape shape_of(const Math& matrix) {
  const size_t rows = std::stoul(matrix.name);
  return {rows, matrix.children.size() / rows};
}

MathPtr make_matrix(std::vector<MathPtr> items, size_t num_rows) {
  return make_math(MathKind::kMatrix, std::move(items), std::to_string(num_rows));
}

MathPtr multiply(const MathPtr& left, const MathPtr& right, WorkBudget& work) {
  const Shape a = shape_of(*left), b = shape_of(*right);
  if (a.columns != b.rows) return nullptr;
  std::vector<MathPtr> items;
  for (size_t row = 0; row < a.rows; ++row) {
    for (size_t column = 0; column < b.columns; ++column) {
      std::vector<MathPtr> terms;
      for (size_t k = 0; k < a.columns; ++k) {
        terms.push_back(make_math(MathKind::kMultiply, {left->children[row * a.columns + k],
                                                        right->children[k * b.columns + column]}));
      }
      items.push_back(simplified(make_math(MathKind::kAdd, std::move(terms)), work));
    }
  }
  return make_matrix(std::move(items), a.rows);
}

MathPtr identity(size_t size) {
  std::vector<MathPtr> items(size * size, make_integer(0));
  for (size_t i = 0; i < size; ++i) items[i * (size + 1)] = make_integer(1);
  return make_matrix(std::move(items), size);
}

/// Gauss and Jordan's elimination; the entries are [row][column], the inverse on the right side.
bool eliminate(std::vector<std::vector<Rational>>& rows, WorkBudget& work) {
  const size_t size = rows.size();
  for (size_t pivot = 0; pivot < size; ++pivot) {
    const auto found = std::find_if(rows.begin() + static_cast<ptrdiff_t>(pivot), rows.end(),
                                    [&](const auto& row) { return row[pivot] != 0; });
    if (found == rows.end()) return false;
    std::swap(rows[pivot], *found);
    const Rational scale = rows[pivot][pivot];
    for (Rational& entry : rows[pivot]) entry /= scale;
    for (size_t row = 0; row < size; ++row) {
      const Rational factor = rows[row][pivot];
      if (row == pivot || factor == 0) continue;
      for (size_t column = 0; column < 2 * size; ++column) {
        work.spend(32 + static_cast<int64_t>(mpz_sizeinbase(factor.get_num_mpz_t(), 2)));
        rows[row][column] -= factor * rows[pivot][column];
      }
    }
  }
  return true;
}

MathPtr inverse(const MathPtr& matrix, WorkBudget& work) {
  const size_t size = shape_of(*matrix).rows;
  std::vector<std::vector<Rational>> rows(size, std::vector<Rational>(2 * size));
  for (size_t i = 0; i < size * size; ++i) {
    const std::optional<Rational> entry = exact_value(*matrix->children[i], work);
    if (!entry) return nullptr;
    rows[i / size][i % size] = *entry;
    if (i / size == i % size) rows[i / size][size + i % size] = 1;
  }
  if (!eliminate(rows, work)) throw UndefinedValue{};
  std::vector<MathPtr> items;
  for (const auto& row : rows) {
    for (size_t column = size; column < 2 * size; ++column)
      items.push_back(make_number(row[column]));
  }
  return make_matrix(std::move(items), size);
}

/// Laplace's expansion along the first of `rows`.
MathPtr minor_of(const Math& matrix,
                 size_t first_row,
                 const std::vector<size_t>& columns,
                 WorkBudget& work) {
  const size_t width = shape_of(matrix).columns;
  if (columns.size() == 1) return matrix.children[first_row * width + columns[0]];
  std::vector<MathPtr> terms;
  for (size_t i = 0; i < columns.size(); ++i) {
    std::vector<size_t> others = columns;
    others.erase(others.begin() + static_cast<ptrdiff_t>(i));
    const MathPtr term =
        make_math(MathKind::kMultiply, {matrix.children[first_row * width + columns[i]],
                                        minor_of(matrix, first_row + 1, others, work)});
    terms.push_back(i % 2 == 0 ? term : negate(term));
  }
  return simplified(make_math(MathKind::kAdd, std::move(terms)), work);
}

}  // namespace

MathPtr add_matrices(std::span<const MathPtr> terms, WorkBudget& work) {
  std::vector<MathPtr> items = terms[0]->children;
  for (const MathPtr& term : terms.subspan(1)) {
    if (shape_of(*term) != shape_of(*terms[0])) throw UndefinedValue{};
    for (size_t i = 0; i < items.size(); ++i)
      items[i] = simplified(make_math(MathKind::kAdd, {items[i], term->children[i]}), work);
  }
  return make_matrix(std::move(items), shape_of(*terms[0]).rows);
}

MathPtr multiply_matrices(std::span<const MathPtr> factors, WorkBudget& work) {
  MathPtr result = factors[0];
  for (const MathPtr& factor : factors.subspan(1)) {
    if (result) result = multiply(result, factor, work);
  }
  return result;
}

MathPtr transpose(const MathPtr& matrix) {
  const Shape shape = shape_of(*matrix);
  std::vector<MathPtr> items;
  for (size_t column = 0; column < shape.columns; ++column) {
    for (size_t row = 0; row < shape.rows; ++row)
      items.push_back(matrix->children[row * shape.columns + column]);
  }
  return make_matrix(std::move(items), shape.columns);
}

MathPtr matrix_power(const MathPtr& matrix, const Rational& exponent, WorkBudget& work) {
  const Shape shape = shape_of(*matrix);
  constexpr int kHighest = 1'000'000;
  const bool is_known = exponent.get_den() == 1 && exponent >= -1 && exponent <= kHighest;
  if (shape.rows != shape.columns || !is_known) return nullptr;
  if (exponent < 0) return inverse(matrix, work);
  MathPtr result = identity(shape.rows), square = matrix;
  for (unsigned long count = exponent.get_num().get_ui(); count > 0; count >>= 1) {
    if (count & 1) result = multiply(result, square, work);
    if (count > 1) square = multiply(square, square, work);
  }
  return result;
}

MathPtr determinant(const MathPtr& matrix, WorkBudget& work) {
  const Shape shape = shape_of(*matrix);
  constexpr size_t kLargest = 6;
  if (shape.rows != shape.columns || shape.rows > kLargest) return nullptr;
  std::vector<size_t> columns(shape.columns);
  for (size_t i = 0; i < columns.size(); ++i) columns[i] = i;
  return minor_of(*matrix, 0, columns, work);
}

}  // namespace lockstep::reward
