// SPDX-License-Identifier: Apache-2.0
#include "layout/region_reader.h"

namespace lockstep::layout {

RegionTensor::RegionTensor(const LogicalTensor& logical, int32_t index, const Region& region)
    : tensor{"", {}, logical.type, {}, 0}, box{.tensor = index, .region = region, .steps = {}} {
  for (size_t d = 0; d < logical.dims.size(); ++d) {
    tensor.shape.push_back(region.size[d]);
    box.steps[d] = {static_cast<int>(d), 1};
  }
}

RegionReader::RegionReader(const Layout& layout, ByteSource& source)
    : layout_(layout), source_(source), owners_(static_cast<size_t>(layout.logical().size())) {
  for (int64_t r = 0; r < layout.num_ranks(); ++r)
    for (size_t t = 0; t < layout.rank(r).size(); ++t)
      for (const Box& box : layout.rank(r)[t].boxes)
        if (!box.is_copy)
          owners_[static_cast<size_t>(box.tensor)].push_back({r, static_cast<int64_t>(t), &box});
}

bool RegionReader::copy(const Strides& strides,
                        const ValueChange& change,
                        int64_t rank,
                        int64_t index,
                        std::byte* to,
                        Destination destination) const {
  const std::byte* const from = source_.tensor(rank, index).data();
  if (!change.is_none()) return strided_copy_changed(strides, change, from, to);
  strided_copy(strides, element_bytes(change.from), from, to, destination);
  return true;
}

std::span<const std::byte> RegionReader::in_order(int32_t tensor, const Region& region) const {
  const LogicalTensor& logical = layout_.logical()[tensor];
  if (layout_.stored_type(tensor) != logical.type) return {};
  const int64_t width = element_bytes(logical.type);
  for (const Owner& owner : owners_[static_cast<size_t>(tensor)]) {
    if (intersect(owner.box->region, region) != region || owner.box->minus_one) continue;
    const PhysicalTensor& physical = tensor_of(owner);
    const Strides strides =
        strides_between(logical, region, owner.box, &physical, nullptr, nullptr);
    if (strides.num_dims > 0 && strides.run() != region.numel()) return {};
    return source_.tensor(owner.rank, owner.index)
        .subspan(static_cast<size_t>(strides.from_offset * width),
                 static_cast<size_t>(region.numel() * width));
  }
  return {};
}

void RegionReader::gather(int32_t tensor, const Region& region, std::vector<std::byte>& to) const {
  const LogicalTensor& logical = layout_.logical()[tensor];
  to.resize(static_cast<size_t>(region.numel() * element_bytes(logical.type)));
  const RegionTensor target(logical, tensor, region);
  for (const Owner& owner : owners_[static_cast<size_t>(tensor)]) {
    const Region shared = intersect(owner.box->region, region);
    if (shared.numel() == 0) continue;
    copy(
        strides_between(logical, shared, owner.box, &tensor_of(owner), &target.box, &target.tensor),
        {layout_.stored_type(tensor), logical.type, owner.box->minus_one}, owner.rank, owner.index,
        to.data(), Destination::kCache);
  }
}

const PhysicalTensor& RegionReader::tensor_of(const Owner& owner) const {
  return layout_.rank(owner.rank)[static_cast<size_t>(owner.index)];
}

}  // namespace lockstep::layout
