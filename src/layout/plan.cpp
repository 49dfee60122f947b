// SPDX-License-Identifier: Apache-2.0
#include "layout/plan.h"

#include <algorithm>
#include <map>
#include <utility>

#include "base/check.h"

namespace lockstep::layout {
namespace {

/// A box, and where it stands in a layout.
struct Held {
  int32_t rank, tensor, box;
  const Box* at;
};
/// All holders of one region, the owner among them.
struct Holders {
  Region region;
  std::vector<Held> held;
};

/// For each logical tensor its regions and who has them.
std::vector<std::vector<Holders>> holders_of(const Layout& layout) {
  std::vector<std::vector<Holders>> all(static_cast<size_t>(layout.logical().size()));
  const auto visit = [&](auto&& act) {
    for (int64_t r = 0; r < layout.num_ranks(); ++r) {
      const RankTensors& tensors = layout.rank(r);
      for (size_t t = 0; t < tensors.size(); ++t)
        for (size_t b = 0; b < tensors[t].boxes.size(); ++b)
          act(Held{static_cast<int32_t>(r), static_cast<int32_t>(t), static_cast<int32_t>(b),
                   &tensors[t].boxes[b]});
    }
  };
  visit([&](const Held& held) {
    if (!held.at->is_copy)
      all[static_cast<size_t>(held.at->tensor)].push_back({held.at->region, {held}});
  });
  // A copy of exactly an owner's region can be sent instead of the owner's. Other copies only
  // receive.
  visit([&](const Held& held) {
    if (!held.at->is_copy) return;
    for (Holders& holders : all[static_cast<size_t>(held.at->tensor)])
      if (holders.region == held.at->region) holders.held.push_back(held);
  });
  return all;
}

const Held& sender(const Holders& holders, int32_t to_rank) {
  for (const Held& held : holders.held)
    if (held.rank == to_rank) return held;
  return holders.held[static_cast<size_t>(to_rank) % holders.held.size()];
}

/// Cuts a tensor into contiguous pieces: visit(first element, piece as a tensor).
template <class Visit>
void for_each_piece(const PhysicalTensor& tensor, int64_t first, int64_t max_bytes, Visit&& visit) {
  if (tensor.shape.empty()) return visit(first, tensor);
  int axis = 0;
  while (axis + 1 < static_cast<int>(tensor.shape.size()) &&
         tensor.shape[static_cast<size_t>(axis)] == 1)
    ++axis;
  const int64_t length = tensor.shape[static_cast<size_t>(axis)];
  if (tensor.bytes() <= max_bytes || length <= 1) {
    visit(first, tensor);
    return;
  }
  const int64_t stride = tensor.axis_stride(axis);
  const int64_t step = std::max<int64_t>(1, max_bytes / (stride * element_bytes(tensor.type)));
  for (int64_t begin = 0; begin < length; begin += step)
    for_each_piece(cut(tensor, axis, begin, std::min(length, begin + step)), first + begin * stride,
                   max_bytes, visit);
}

/// Adds what `box` says of `region`: the offset of its first element, and the steps of its
/// dimensions.
void place(const Box& box,
           const PhysicalTensor& tensor,
           const LogicalTensor& logical,
           const Region& region,
           int64_t& offset,
           Dims& steps) {
  for (size_t axis = 0; axis < tensor.shape.size(); ++axis)
    offset += box.origin[axis] * tensor.axis_stride(static_cast<int>(axis));
  for (size_t d = 0; d < logical.dims.size(); ++d) {
    steps[d] = box.steps[d].stride * tensor.axis_stride(box.steps[d].axis);
    offset += (region.begin[d] - box.region.begin[d]) * steps[d];
  }
}

void place_plain(const LogicalTensor& logical, const Region& region, Dims& steps) {
  int64_t stride = 1;
  for (size_t d = logical.dims.size(); d-- > 0;) {
    steps[d] = stride;
    stride *= region.size[d];
  }
}

/// The digest of both layouts, of the plan's copies and of its pieces.
Digest digest_of_plan(const Layout& from, const Layout& to, const Plan& plan) {
  DigestStream stream;
  const auto add = [&](const auto&... numbers) {
    const int64_t all[] = {static_cast<int64_t>(numbers)...};
    stream.update(all, sizeof(all));
  };
  const auto add_text = [&](const std::string& text) {
    add(text.size());
    stream.update(text.data(), text.size());
  };
  const auto add_region = [&](const Region& region) {
    stream.update(region.begin.data(), sizeof(Dims));
    stream.update(region.size.data(), sizeof(Dims));
  };
  const auto add_box = [&](const Box& box) {
    add_region(box.region);
    stream.update(box.origin.data(), sizeof(Dims));
    for (const Step& step : box.steps) add(step.axis, step.stride);
  };
  add_text(from.name());
  add_text(to.name());
  for (const LogicalTensor& tensor : from.logical()) {
    add_text(tensor.id);
    add(tensor.type);
    for (const LogicalDim& dim : tensor.dims) add(dim.size);
  }
  for (const Copy& copy : plan.copies) {
    const PhysicalTensor& source = from.rank(copy.from_rank)[static_cast<size_t>(copy.from_tensor)];
    add(copy.tensor, copy.from_rank, copy.from_tensor, copy.to_rank, copy.to_tensor,
        copy.value_change);
    add_region(copy.region);
    add_box(source.boxes[static_cast<size_t>(copy.from_box)]);
    add_box(copy.to);
  }
  for (const TypeChange& change : plan.type_changes) add(change.tensor, change.from, change.to);
  for (const Piece& piece : plan.pieces)
    add(piece.rank, piece.tensor, piece.begin, piece.size, piece.num_copies);
  return stream.finish();
}

}  // namespace

int64_t Strides::numel() const {
  int64_t count = 1;
  for (int d = 0; d < num_dims; ++d) count *= size[static_cast<size_t>(d)];
  return count;
}

int64_t Strides::run() const {
  const auto last = static_cast<size_t>(std::max(0, num_dims - 1));
  return num_dims > 0 && from[last] == 1 && to[last] == 1 ? size[last] : 1;
}

Strides strides_between(const LogicalTensor& tensor,
                        const Region& region,
                        const Box* from,
                        const PhysicalTensor* from_tensor,
                        const Box* to,
                        const PhysicalTensor* to_tensor) {
  Strides all;
  Dims from_steps{}, to_steps{};
  if (from)
    place(*from, *from_tensor, tensor, region, all.from_offset, from_steps);
  else
    place_plain(tensor, region, from_steps);
  if (to)
    place(*to, *to_tensor, tensor, region, all.to_offset, to_steps);
  else
    place_plain(tensor, region, to_steps);
  for (size_t d = 0; d < tensor.dims.size(); ++d) {
    if (region.size[d] == 1) continue;
    const auto last = static_cast<size_t>(all.num_dims - 1);
    if (all.num_dims > 0 && all.from[last] == region.size[d] * from_steps[d] &&
        all.to[last] == region.size[d] * to_steps[d]) {
      all.size[last] *= region.size[d];
      all.from[last] = from_steps[d];
      all.to[last] = to_steps[d];
      continue;
    }
    const auto next = static_cast<size_t>(all.num_dims++);
    all.size[next] = region.size[d];
    all.from[next] = from_steps[d];
    all.to[next] = to_steps[d];
  }
  return all;
}

Plan make_plan(const Layout& from, const Layout& to, int64_t max_piece_bytes) {
  LOCKSTEP_CHECK(from.logical_ptr() == to.logical_ptr(), "{} and {} are of different models",
                 from.name(), to.name());
  Plan plan{.from = from.name(), .to = to.name()};
  for (int32_t t = 0; t < from.logical().size(); ++t)
    if (from.stored_type(t) != to.stored_type(t))
      plan.type_changes.push_back({t, from.stored_type(t), to.stored_type(t)});
  const auto holders = holders_of(from);
  for (int64_t r = 0; r < to.num_ranks(); ++r) {
    const RankTensors& tensors = to.rank(r);
    for (size_t t = 0; t < tensors.size(); ++t) {
      for_each_piece(
          tensors[t], 0, max_piece_bytes, [&](int64_t first, const PhysicalTensor& part) {
            Piece piece{.rank = static_cast<int32_t>(r),
                        .tensor = static_cast<int32_t>(t),
                        .begin = first * element_bytes(part.type),
                        .size = part.bytes(),
                        .first_copy = plan.copies.size()};
            if (part.numel() == 0) return;
            for (const Box& box : part.boxes) {
              for (const Holders& source : holders[static_cast<size_t>(box.tensor)]) {
                const Region shared = intersect(source.region, box.region);
                if (shared.numel() == 0) continue;
                const Held& held = sender(source, piece.rank);
                plan.copies.push_back({.tensor = box.tensor,
                                       .from_rank = held.rank,
                                       .from_tensor = held.tensor,
                                       .from_box = held.box,
                                       .to_rank = piece.rank,
                                       .to_tensor = piece.tensor,
                                       .value_change = static_cast<int>(held.at->minus_one) -
                                                       static_cast<int>(box.minus_one),
                                       .region = shared,
                                       .to = box});
              }
            }
            piece.num_copies = plan.copies.size() - piece.first_copy;
            plan.pieces.push_back(piece);
          });
    }
  }
  plan.digest = digest_of_plan(from, to, plan);
  return plan;
}

void check_type_changes(const Layout& from, const Layout& to, const Plan& plan) {
  for (int32_t t = 0; t < from.logical().size(); ++t) {
    const TypeChange change{t, from.stored_type(t), to.stored_type(t)};
    LOCKSTEP_CHECK(change.from == change.to ||
                       std::count(plan.type_changes.begin(), plan.type_changes.end(), change),
                   "{}: {} becomes {}, which the plan does not declare", from.logical()[t].id,
                   element_name(change.from), element_name(change.to));
  }
}

std::vector<Traffic> Plan::traffic(const Layout& to_layout) const {
  std::map<std::pair<int32_t, int32_t>, Traffic> by_pair;
  std::map<std::pair<int32_t, int32_t>, int32_t> last_tensor;
  for (const Copy& copy : copies) {
    const std::pair pair(copy.from_rank, copy.to_rank);
    Traffic& traffic = by_pair[pair];
    traffic.from_rank = copy.from_rank;
    traffic.to_rank = copy.to_rank;
    ++traffic.copies;
    traffic.bytes += copy.region.numel() * element_bytes(to_layout.stored_type(copy.tensor));
    const auto [last, is_new] = last_tensor.emplace(pair, copy.to_tensor);
    if (is_new || last->second != copy.to_tensor) ++traffic.messages;
    last->second = copy.to_tensor;
  }
  std::vector<Traffic> all;
  for (const auto& [pair, traffic] : by_pair) all.push_back(traffic);
  return all;
}

}  // namespace lockstep::layout
