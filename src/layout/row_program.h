// Row programs: how a format stacks logical tensors into one physical tensor, written down as the
// reader would say it.
// SPDX-License-Identifier: Apache-2.0
//
//   each("group", {each("member", {part(q), part(gate)}), part(k), part(v)})
//
// is "for each key-value group: for each of its query heads the query's rows, then the gate's; then
// the key's and the value's". Dimensions that no `each` names run inside their part, in their own
// order.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "layout/layout.h"

namespace lockstep::layout {

/// Indices [begin, end) of a dimension.
struct Range {
  int64_t begin = 0, end = 0;
  int64_t size() const { return end - begin; }
};

/// The piece number `index` of `count` equal ones. Throws InternalError unless `count` divides
/// `size`.
Range piece_of(int64_t size, int64_t index, int64_t count);

/// A logical tensor, or the part of it that `ranges` leave.
struct Rows {
  struct Limit {
    std::string_view dim;
    Range range;
  };
  /// Of a part.
  int32_t tensor = -1;
  /// Of a part.
  std::vector<Limit> limits;
  /// Of a part, as in Box.
  bool is_copy = false;
  /// Of a part, as in Box.
  bool minus_one = false;
  /// Of an `each`.
  std::string_view dim;
  /// Of an `each`.
  std::vector<Rows> body;

  /// The same with every part in it limited to `range` of `dim`, where the part has that dimension.
  Rows limited(std::string_view limited_dim, Range range) const;
  /// The same with every part in it a further copy.
  Rows copied() const;
};

Rows part(int32_t tensor);
Rows each(std::string_view dim, std::vector<Rows> body);

/// Builds one physical tensor.
class Placement {
 public:
  /// Rows run along `row_axis`, the dimensions behind the row dimensions along `column_axis`; a
  /// tensor of rows alone has none.
  struct Axes {
    int row = 0;
    int column = 1;
  };
  Placement(const LogicalTensors& logical, std::string name, std::vector<int64_t> shape, Axes axes);

  /// Places `rows` one after the other from `origin` on; returns the row behind the last.
  /// Throws InternalError for a program that does not fit the tensors; FormatError
  /// "layout-conflict" where parts of one tensor are stored in different types.
  int64_t place(std::span<const Rows> rows, Dims origin = {});

  /// The finished tensor, `padding` elements of which no box covers.
  PhysicalTensor finish(int64_t padding = 0) &&;

 private:
  const LogicalTensors& logical_;
  Axes axes_;
  PhysicalTensor tensor_;
};

/// Rows that a program fills.
int64_t num_rows(const LogicalTensors& logical, std::span<const Rows> rows);
/// Columns of the parts of a program, which agree.
int64_t num_columns(const LogicalTensors& logical, std::span<const Rows> rows);

}  // namespace lockstep::layout
