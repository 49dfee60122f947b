// SPDX-License-Identifier: Apache-2.0
#include "layout/row_program.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace lockstep::layout {
namespace {

/// A loop around a part: the dimension that the `each` runs over, and the rows of one step.
struct Loop {
  std::string_view dim;
  int64_t stride;
};

bool is_looped(std::span<const Loop> loops, std::string_view dim) {
  return std::any_of(loops.begin(), loops.end(), [&](const Loop& loop) { return loop.dim == dim; });
}

/// The region that the limits of a part leave of its tensor.
Region region_of(const LogicalTensor& tensor, const Rows& rows) {
  Region region = whole(tensor);
  for (const Rows::Limit& limit : rows.limits) {
    for (size_t d = 0; d < tensor.dims.size(); ++d) {
      if (tensor.dims[d].name != limit.dim) continue;
      LOCKSTEP_CHECK(limit.range.begin >= 0 && limit.range.begin < limit.range.end &&
                         limit.range.end <= tensor.dims[d].size,
                     "{}: [{}, {}) of {} {}s", tensor.id, limit.range.begin, limit.range.end,
                     tensor.dims[d].size, limit.dim);
      region.begin[d] = limit.range.begin;
      region.size[d] = limit.range.size();
    }
  }
  return region;
}

/// How often an `each` repeats: the size of its dimension, which is the same in every part below.
int64_t count_of(const LogicalTensors& logical, std::string_view dim, const Rows& rows) {
  if (rows.tensor < 0) {
    int64_t count = -1;
    for (const Rows& inner : rows.body) {
      const int64_t found = count_of(logical, dim, inner);
      LOCKSTEP_CHECK(count < 0 || count == found, "an each over {} has parts of {} and {}", dim,
                     count, found);
      count = found;
    }
    return count;
  }
  const LogicalTensor& tensor = logical[rows.tensor];
  const Region region = region_of(tensor, rows);
  for (int d = 0; d < tensor.num_row_dims; ++d)
    if (tensor.dims[static_cast<size_t>(d)].name == dim) return region.size[static_cast<size_t>(d)];
  LOCKSTEP_CHECK(false, "{} has no rows by {}", tensor.id, dim);
  return 0;
}

/// How many rows one turn of the loops around `rows` fills.
int64_t rows_of(const LogicalTensors& logical, const Rows& rows, std::vector<Loop>& loops) {
  if (rows.tensor >= 0) {
    const LogicalTensor& tensor = logical[rows.tensor];
    const Region region = region_of(tensor, rows);
    int64_t count = 1;
    for (int d = 0; d < tensor.num_row_dims; ++d)
      if (!is_looped(loops, tensor.dims[static_cast<size_t>(d)].name))
        count *= region.size[static_cast<size_t>(d)];
    return count;
  }
  loops.push_back({rows.dim, 0});
  int64_t turn = 0;
  for (const Rows& inner : rows.body) turn += rows_of(logical, inner, loops);
  loops.pop_back();
  return turn * count_of(logical, rows.dim, rows);
}

/// Visits every part with its first row and the loops around it.
template <class Visit>
int64_t for_each_part(const LogicalTensors& logical,
                      const Rows& rows,
                      int64_t row,
                      std::vector<Loop>& loops,
                      Visit&& visit) {
  if (rows.tensor >= 0) {
    visit(rows, row, loops);
    return row + rows_of(logical, rows, loops);
  }
  const int64_t behind = row + rows_of(logical, rows, loops);
  loops.push_back({rows.dim, 0});
  int64_t turn = 0;
  for (const Rows& inner : rows.body) turn += rows_of(logical, inner, loops);
  loops.back().stride = turn;
  for (const Rows& inner : rows.body) row = for_each_part(logical, inner, row, loops, visit);
  loops.pop_back();
  return behind;
}

}  // namespace

Range piece_of(int64_t size, int64_t index, int64_t count) {
  LOCKSTEP_CHECK(size % count == 0, "{} cut into {} pieces", size, count);
  return {index * (size / count), (index + 1) * (size / count)};
}

Rows Rows::limited(std::string_view limited_dim, Range range) const {
  Rows copy = *this;
  if (copy.tensor >= 0) copy.limits.push_back({limited_dim, range});
  for (Rows& inner : copy.body) inner = inner.limited(limited_dim, range);
  return copy;
}

Rows Rows::copied() const {
  Rows copy = *this;
  copy.is_copy = true;
  for (Rows& inner : copy.body) inner = inner.copied();
  return copy;
}

Rows part(int32_t tensor) { return {.tensor = tensor}; }
Rows each(std::string_view dim, std::vector<Rows> body) {
  return {.dim = dim, .body = std::move(body)};
}

Placement::Placement(const LogicalTensors& logical,
                     std::string name,
                     std::vector<int64_t> shape,
                     Axes axes)
    : logical_(logical), axes_(axes), tensor_{std::move(name), std::move(shape), {}, {}, 0} {}

void Placement::store_as(ElementType type) {
  tensor_.type = type;
  tensor_.has_own_type = true;
}

int64_t Placement::place(std::span<const Rows> rows, Dims origin) {
  int64_t row = origin[static_cast<size_t>(axes_.row)];
  std::vector<Loop> loops;
  for (const Rows& program : rows) {
    row = for_each_part(
        logical_, program, row, loops,
        [&](const Rows& placed, int64_t first, std::span<const Loop> around) {
          const LogicalTensor& tensor = logical_[placed.tensor];
          if (tensor_.boxes.empty() && !tensor_.has_own_type) tensor_.type = tensor.type;
          if (tensor_.has_own_type && !can_store(tensor.type, tensor_.type))
            fail<FormatError>("layout-conflict", tensor_.name,
                              "expected {}, which is stored as {} here, to be F32 or BF16, got {}",
                              tensor.id, element_name(tensor_.type), element_name(tensor.type));
          if (tensor_.type != tensor.type && !tensor_.has_own_type)
            fail<FormatError>("layout-conflict", tensor_.name,
                              "expected parts of one dtype, got {} in {} and {} in {}",
                              logical_[tensor_.boxes[0].tensor].id, element_name(tensor_.type),
                              tensor.id, element_name(tensor.type));
          if (placed.minus_one && tensor.type != ElementType::kF32 &&
              tensor.type != ElementType::kBF16)
            fail<FormatError>("layout-conflict", tensor_.name,
                              "expected F32 or BF16 where values are stored less one, got {}",
                              element_name(tensor.type));
          Box box{.tensor = placed.tensor,
                  .is_copy = placed.is_copy,
                  .minus_one = placed.minus_one,
                  .region = region_of(tensor, placed),
                  .steps = {},
                  .origin = origin};
          box.origin[static_cast<size_t>(axes_.row)] = first;
          // From the inner dimension outwards, rows and columns each for themselves.
          int64_t row_stride = 1, column_stride = 1;
          for (size_t d = tensor.dims.size(); d-- > 0;) {
            const bool is_row = static_cast<int>(d) < tensor.num_row_dims;
            int64_t& stride = is_row ? row_stride : column_stride;
            box.steps[d] = {is_row ? axes_.row : axes_.column, stride};
            const auto loop = std::find_if(around.begin(), around.end(), [&](const Loop& l) {
              return is_row && l.dim == tensor.dims[d].name;
            });
            if (loop == around.end())
              stride *= box.region.size[d];
            else
              box.steps[d].stride = loop->stride;
          }
          tensor_.boxes.push_back(std::move(box));
        });
  }
  return row;
}

PhysicalTensor Placement::finish(int64_t padding) && {
  tensor_.padding = padding;
  return std::move(tensor_);
}

int64_t num_rows(const LogicalTensors& logical, std::span<const Rows> rows) {
  int64_t count = 0;
  std::vector<Loop> loops;
  for (const Rows& program : rows) count += rows_of(logical, program, loops);
  return count;
}

int64_t num_columns(const LogicalTensors& logical, std::span<const Rows> rows) {
  int64_t columns = -1;
  std::vector<Loop> loops;
  for (const Rows& program : rows)
    for_each_part(
        logical, program, 0, loops, [&](const Rows& placed, int64_t, std::span<const Loop>) {
          const LogicalTensor& tensor = logical[placed.tensor];
          const Region region = region_of(tensor, placed);
          int64_t count = 1;
          for (size_t d = static_cast<size_t>(tensor.num_row_dims); d < tensor.dims.size(); ++d)
            count *= region.size[d];
          LOCKSTEP_CHECK(columns < 0 || columns == count,
                         "{} has {} columns, but other parts of the tensor have {}", tensor.id,
                         count, columns);
          columns = count;
        });
  return columns;
}

}  // namespace lockstep::layout
