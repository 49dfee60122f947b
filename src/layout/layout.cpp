// SPDX-License-Identifier: Apache-2.0
#include "layout/layout.h"

#include <algorithm>
#include <numeric>
#include <unordered_set>

#include <fmt/ranges.h>

#include "base/check.h"

namespace lockstep::layout {
namespace {

/// Half-open ranges of indices, sorted.
using Runs = std::vector<std::pair<int64_t, int64_t>>;

/// The indices that a box takes along an axis.
Runs runs_along(const Box& box, int num_dims, int axis) {
  // Pairs of stride and count.
  std::vector<std::pair<int64_t, int64_t>> steps;
  for (int d = 0; d < num_dims; ++d)
    if (box.steps[d].axis == axis && box.region.size[d] > 1)
      steps.emplace_back(box.steps[d].stride, box.region.size[d]);
  std::sort(steps.begin(), steps.end());
  // From the smallest stride upwards: as long as a stride continues the run, the run grows; after
  // that runs repeat.
  int64_t length = 1;
  size_t next = 0;
  for (; next < steps.size() && steps[next].first == length; ++next) length *= steps[next].second;
  Runs runs{{box.origin[axis], box.origin[axis] + length}};
  for (; next < steps.size(); ++next) {
    const size_t count = runs.size();
    for (int64_t i = 1; i < steps[next].second; ++i)
      for (size_t r = 0; r < count; ++r)
        runs.emplace_back(runs[r].first + i * steps[next].first,
                          runs[r].second + i * steps[next].first);
  }
  std::sort(runs.begin(), runs.end());
  return runs;
}

int64_t count_of(const Runs& runs) {
  return std::accumulate(runs.begin(), runs.end(), int64_t{0},
                         [](int64_t sum, const auto& run) { return sum + run.second - run.first; });
}

bool overlap(const Runs& a, const Runs& b) {
  for (size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    if (a[i].first < b[j].second && b[j].first < a[i].second) return true;
    (a[i].second <= b[j].second ? i : j) += 1;
  }
  return false;
}

bool overlaps_itself(const Runs& runs) {
  for (size_t i = 1; i < runs.size(); ++i)
    if (runs[i].first < runs[i - 1].second) return true;
  return false;
}

/// The elements that a box takes: a product of index sets, one for each axis.
using Footprint = std::vector<Runs>;

void prove_physical(const PhysicalTensor& tensor, const LogicalTensors& logical) {
  const int num_axes = static_cast<int>(tensor.shape.size());
  LOCKSTEP_CHECK(num_axes <= kMaxDims, "{} has {} axes", tensor.name, num_axes);
  std::vector<Footprint> prints;
  int64_t covered = 0;
  for (const Box& box : tensor.boxes) {
    const LogicalTensor& of = logical[box.tensor];
    LOCKSTEP_CHECK(of.type == tensor.type || tensor.has_own_type, "{}: {} is {}, {} is {}",
                   tensor.name, tensor.name, element_name(tensor.type), of.id,
                   element_name(of.type));
    LOCKSTEP_CHECK(can_store(of.type, tensor.type), "{}: no way to store {} of {} as {}",
                   tensor.name, element_name(of.type), of.id, element_name(tensor.type));
    LOCKSTEP_CHECK(of.type == tensor.type || !box.minus_one,
                   "{}: {} is stored both less one and in another type", tensor.name, of.id);
    Footprint print;
    int64_t volume = 1;
    for (int axis = 0; axis < num_axes; ++axis) {
      print.push_back(runs_along(box, static_cast<int>(of.dims.size()), axis));
      const Runs& runs = print.back();
      LOCKSTEP_CHECK(runs.front().first >= 0 && runs.back().second <= tensor.shape[axis],
                     "{}: a box of {} passes the end of axis {}", tensor.name, of.id, axis);
      LOCKSTEP_CHECK(!overlaps_itself(runs), "{}: a box of {} meets itself on axis {}", tensor.name,
                     of.id, axis);
      volume *= count_of(runs);
    }
    LOCKSTEP_CHECK(volume == box.region.numel(), "{}: a box of {} has {} elements in {} places",
                   tensor.name, of.id, box.region.numel(), volume);
    covered += volume;
    prints.push_back(std::move(print));
  }
  LOCKSTEP_CHECK(covered + tensor.padding == tensor.numel(),
                 "{}: boxes of {} elements and {} of padding in {}", tensor.name, covered,
                 tensor.padding, tensor.numel());
  // Sorted by their first index along axis 0: boxes that can overlap stand near one another.
  std::vector<size_t> order(prints.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return prints[a][0].front() < prints[b][0].front(); });
  for (size_t i = 0; i < order.size(); ++i) {
    const Footprint& a = prints[order[i]];
    for (size_t j = i + 1; j < order.size(); ++j) {
      const Footprint& b = prints[order[j]];
      if (b[0].front().first >= a[0].back().second) break;
      bool meets = true;
      for (int axis = 0; axis < num_axes && meets; ++axis) meets = overlap(a[axis], b[axis]);
      LOCKSTEP_CHECK(!meets, "{}: boxes of {} and {} overlap", tensor.name,
                     logical[tensor.boxes[order[i]].tensor].id,
                     logical[tensor.boxes[order[j]].tensor].id);
    }
  }
}

bool is_inside(const Region& region, const LogicalTensor& tensor) {
  for (size_t d = 0; d < kMaxDims; ++d) {
    const int64_t size = d < tensor.dims.size() ? tensor.dims[d].size : 1;
    if (region.begin[d] < 0 || region.size[d] < 1 || region.begin[d] + region.size[d] > size)
      return false;
  }
  return true;
}

/// Checks the owners' regions: they lie inside the tensor, are disjoint, and together are all of
/// it.
void prove_logical(const LogicalTensor& tensor, std::vector<Region>& regions) {
  std::sort(regions.begin(), regions.end(),
            [](const Region& a, const Region& b) { return a.begin < b.begin; });
  int64_t covered = 0;
  for (size_t i = 0; i < regions.size(); ++i) {
    covered += regions[i].numel();
    for (size_t j = i + 1;
         j < regions.size() && regions[j].begin[0] < regions[i].begin[0] + regions[i].size[0]; ++j)
      LOCKSTEP_CHECK(intersect(regions[i], regions[j]).numel() == 0,
                     "{} has elements with two owners", tensor.id);
  }
  LOCKSTEP_CHECK(covered == tensor.numel(), "{} of the {} elements of {} have an owner", covered,
                 tensor.numel(), tensor.id);
}

}  // namespace

bool can_store(ElementType logical, ElementType stored) {
  const auto is_float = [](ElementType type) {
    return type == ElementType::kF32 || type == ElementType::kBF16;
  };
  return logical == stored || (is_float(logical) && is_float(stored));
}

int64_t Region::numel() const {
  int64_t count = 1;
  for (const int64_t extent : size) count *= extent;
  return count;
}

Region whole(const LogicalTensor& tensor) {
  Region region;
  for (size_t d = 0; d < tensor.dims.size(); ++d) region.size[d] = tensor.dims[d].size;
  return region;
}

Region intersect(const Region& a, const Region& b) {
  Region shared;
  for (size_t d = 0; d < kMaxDims; ++d) {
    shared.begin[d] = std::max(a.begin[d], b.begin[d]);
    shared.size[d] = std::max<int64_t>(
        0, std::min(a.begin[d] + a.size[d], b.begin[d] + b.size[d]) - shared.begin[d]);
  }
  return shared;
}

int64_t PhysicalTensor::numel() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

int64_t PhysicalTensor::axis_stride(int axis) const {
  int64_t stride = 1;
  for (size_t i = static_cast<size_t>(axis) + 1; i < shape.size(); ++i) stride *= shape[i];
  return stride;
}

Layout::Layout(std::string name, LogicalTensorsPtr logical, std::vector<RankTensors> ranks)
    : name_(std::move(name)), logical_(std::move(logical)), ranks_(std::move(ranks)) {
  std::vector<std::vector<Region>> owners(static_cast<size_t>(logical_->size()));
  std::vector<bool> is_stored(owners.size());
  for (const LogicalTensor& tensor : *logical_) stored_.push_back(tensor.type);
  for (const RankTensors& rank : ranks_) {
    std::unordered_set<std::string_view> names;
    for (const PhysicalTensor& tensor : rank) {
      LOCKSTEP_CHECK(names.insert(tensor.name).second, "{} stands twice on a rank", tensor.name);
      prove_physical(tensor, *logical_);
      for (const Box& box : tensor.boxes) {
        LOCKSTEP_CHECK(is_inside(box.region, (*logical_)[box.tensor]), "{}: a box lies outside {}",
                       tensor.name, (*logical_)[box.tensor].id);
        const auto index = static_cast<size_t>(box.tensor);
        LOCKSTEP_CHECK(!is_stored[index] || stored_[index] == tensor.type,
                       "{} is stored as {} here and as {} in {}", (*logical_)[box.tensor].id,
                       element_name(stored_[index]), element_name(tensor.type), tensor.name);
        stored_[index] = tensor.type;
        is_stored[index] = true;
        if (!box.is_copy) owners[static_cast<size_t>(box.tensor)].push_back(box.region);
      }
    }
  }
  for (int64_t i = 0; i < logical_->size(); ++i)
    prove_logical((*logical_)[i], owners[static_cast<size_t>(i)]);
}

namespace {

/// The dimensions of a box that run along an axis, widest stride first.
std::vector<int> dims_along(const Box& box, int axis) {
  std::vector<int> dims;
  for (int d = 0; d < kMaxDims; ++d)
    if (box.steps[d].axis == axis && box.region.size[d] > 1) dims.push_back(d);
  std::sort(dims.begin(), dims.end(),
            [&](int a, int b) { return box.steps[a].stride > box.steps[b].stride; });
  return dims;
}

/// The index in its logical tensor of the element of `box` at `at`; unset if the box does not hold
/// it.
std::optional<Dims> index_in(const Box& box, const PhysicalTensor& tensor, const Dims& at) {
  Dims index = box.region.begin;
  for (int axis = 0; axis < static_cast<int>(tensor.shape.size()); ++axis) {
    int64_t rest = at[static_cast<size_t>(axis)] - box.origin[static_cast<size_t>(axis)];
    if (rest < 0) return {};
    for (const int d : dims_along(box, axis)) {
      const int64_t steps = rest / box.steps[d].stride;
      if (steps >= box.region.size[d]) return {};
      index[static_cast<size_t>(d)] += steps;
      rest %= box.steps[d].stride;
    }
    if (rest != 0) return {};
  }
  return index;
}

/// Appends the parts of `box` whose index along `axis` lies in [begin, end). `dims` from `next` on
/// are still whole.
void clip(const Box& box,
          int axis,
          std::span<const int> dims,
          int64_t begin,
          int64_t end,
          std::vector<Box>& to) {
  int64_t last = box.origin[axis];
  for (const int d : dims) last += (box.region.size[d] - 1) * box.steps[d].stride;
  if (box.origin[axis] >= end || last < begin) return;
  if (box.origin[axis] >= begin && last < end) {
    to.push_back(box);
    return;
  }
  const int outer = dims.front();
  const int64_t stride = box.steps[outer].stride;
  int64_t inner = 0;
  for (const int d : dims.subspan(1)) inner += (box.region.size[d] - 1) * box.steps[d].stride;
  const auto part = [&](int64_t from, int64_t count) {
    Box piece = box;
    piece.region.begin[outer] += from;
    piece.region.size[outer] = count;
    piece.origin[axis] += from * stride;
    return piece;
  };
  // Neighbours that lie inside as a whole stay together; one that the border cuts is cut further by
  // itself.
  int64_t first_whole = -1;
  const auto flush = [&](int64_t until) {
    if (first_whole >= 0) to.push_back(part(first_whole, until - first_whole));
    first_whole = -1;
  };
  for (int64_t i = 0; i < box.region.size[outer]; ++i) {
    const int64_t low = box.origin[axis] + i * stride;
    if (low >= begin && low + inner < end) {
      if (first_whole < 0) first_whole = i;
      continue;
    }
    flush(i);
    clip(part(i, 1), axis, dims.subspan(1), begin, end, to);
  }
  flush(box.region.size[outer]);
}

}  // namespace

std::optional<Element> element_at(const PhysicalTensor& tensor, const Dims& at) {
  for (const Box& box : tensor.boxes)
    if (const auto index = index_in(box, tensor, at)) return Element{box.tensor, *index};
  return {};
}

PhysicalTensor cut(const PhysicalTensor& tensor, int axis, int64_t begin, int64_t end) {
  PhysicalTensor piece{tensor.name, tensor.shape, tensor.type, {}, 0, tensor.has_own_type};
  piece.shape[static_cast<size_t>(axis)] = end - begin;
  int64_t covered = 0;
  for (const Box& box : tensor.boxes)
    clip(box, axis, dims_along(box, axis), begin, end, piece.boxes);
  for (Box& box : piece.boxes) {
    box.origin[axis] -= begin;
    covered += box.region.numel();
  }
  // A whole without padding is cut into parts without: if a cut lost an element, the proof finds
  // it.
  if (tensor.padding > 0) piece.padding = piece.numel() - covered;
  return piece;
}

}  // namespace lockstep::layout
