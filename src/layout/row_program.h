// Row programs: they say how a format stacks logical tensors into one physical tensor, in the words
// of a reader.
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

/// Piece number `index` of `count` equal pieces of [0, size). Throws InternalError unless `count`
/// divides `size`.
Range piece_of(int64_t size, int64_t index, int64_t count);

/// A row program: a part, which is a logical tensor or what `limits` leave of it, or an `each`,
/// which repeats its body for each index of a dimension.
struct Rows {
  struct Limit {
    std::string_view dim;
    Range range;
  };
  /// The logical tensor of a part; -1 for an `each`.
  int32_t tensor = -1;
  std::vector<Limit> limits;
  /// As in Box.
  bool is_copy = false;
  /// As in Box.
  bool minus_one = false;
  /// The dimension of an `each`, and what is repeated; empty for a part.
  std::string_view dim;
  std::vector<Rows> body;

  /// The same program, with every part that has dimension `limited_dim` limited to `range` of it.
  Rows limited(std::string_view limited_dim, Range range) const;
  /// The same program, with every part a further copy.
  Rows copied() const;
};

Rows part(int32_t tensor);
Rows each(std::string_view dim, std::vector<Rows> body);

/// Builds one physical tensor.
class Placement {
 public:
  /// Rows run along axis `row`, the dimensions behind the row dimensions along axis `column`, which
  /// a tensor of rows alone does not have.
  struct Axes {
    int row = 0;
    int column = 1;
  };
  Placement(const LogicalTensors& logical, std::string name, std::vector<int64_t> shape, Axes axes);

  /// Before anything is placed: the type in which the format stores the tensor, whatever that of
  /// its parts is.
  void store_as(ElementType type);
  /// Places `rows` one after the other from `origin` on; returns the row behind the last.
  /// Throws InternalError for a program that does not fit the tensors; FormatError
  /// "layout-conflict" where parts of one tensor are stored in different types, or the type of
  /// store_as() cannot hold a part's.
  int64_t place(std::span<const Rows> rows, Dims origin = {});

  /// The finished tensor, in which `padding` elements belong to no box.
  PhysicalTensor finish(int64_t padding = 0) &&;

 private:
  const LogicalTensors& logical_;
  Axes axes_;
  PhysicalTensor tensor_;
};

/// How many rows a program fills.
int64_t num_rows(const LogicalTensors& logical, std::span<const Rows> rows);
/// How many columns the parts of a program have; they agree.
int64_t num_columns(const LogicalTensors& logical, std::span<const Rows> rows);

}  // namespace lockstep::layout
