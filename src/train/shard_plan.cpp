// SPDX-License-Identifier: Apache-2.0
#include "train/shard_plan.h"

#include <algorithm>

#include "base/check.h"

namespace lockstep::train {

using parallel::ElementRange;

namespace {

int64_t num_elements(const model::Parameter& parameter) {
  int64_t count = 1;
  for (const int64_t size : parameter.shape) count *= size;
  return count;
}

/// The number of elements that lie before `index` of `parts` equal parts in whole experts.
int64_t first_of_part(const ShardItem& item, int64_t index, int64_t parts) {
  const int64_t experts = std::max<int64_t>(1, item.num_experts);
  return item.elements / experts * (experts / parts * index);
}

}  // namespace

ShardItem shard_item(const model::Parameter& parameter, int64_t num_experts) {
  return {.id = parameter.id,
          .elements = num_elements(parameter),
          .num_experts = parameter.is_expert ? num_experts : 0};
}

ShardPlan::ShardPlan(std::vector<ShardItem> items, const ShardDegrees& degrees)
    : items_(std::move(items)), degrees_(degrees) {
  const int64_t parts = degrees_.expert_parallel;
  LOCKSTEP_CHECK(degrees_.ranks >= 1 && parts >= 1, "{} ranks, {} parts of experts", degrees_.ranks,
                 parts);
  if (degrees_.ranks % parts != 0)
    fail<ConfigError>("bad-degree", "--expert_parallel_size",
                      "expected a divisor of the {} ranks, got {}", degrees_.ranks, parts);
  for (const ShardItem& item : items_) {
    LOCKSTEP_CHECK(item.num_experts == 0 || item.elements % item.num_experts == 0,
                   "{}: {} elements of {} experts", item.id, item.elements, item.num_experts);
    if (item.num_experts % parts != 0)
      fail<ConfigError>("bad-degree", "--expert_parallel_size",
                        "expected a divisor of the {} experts of {}, got {}", item.num_experts,
                        item.id, parts);
  }
}

int64_t ShardPlan::num_parts(size_t item) const {
  return items_[item].num_experts > 0 ? degrees_.expert_parallel : 1;
}

ElementRange ShardPlan::held(size_t item, int64_t rank) const {
  const int64_t parts = num_parts(item), part = part_of(item, rank);
  return {first_of_part(items_[item], part, parts), first_of_part(items_[item], part + 1, parts)};
}

ElementRange ShardPlan::owned(size_t item, int64_t rank) const {
  const int64_t parts = num_parts(item);
  const ElementRange all = held(item, rank);
  const ElementRange own = parallel::range_of_rank(
      all.count(), rank / parts, degrees_.ranks / parts,
      items_[item].num_experts ? items_[item].elements / items_[item].num_experts : 0);
  return {all.first + own.first, all.first + own.last};
}

std::vector<int64_t> ShardPlan::peers(size_t item, int64_t rank) const {
  std::vector<int64_t> ranks;
  for (int64_t peer = part_of(item, rank); peer < degrees_.ranks; peer += num_parts(item))
    ranks.push_back(peer);
  return ranks;
}

int64_t ShardPlan::owner(size_t item, int64_t element) const {
  LOCKSTEP_CHECK(0 <= element && element < items_[item].elements, "{}: element {} of {}",
                 items_[item].id, element, items_[item].elements);
  const int64_t parts = num_parts(item), part = element / first_of_part(items_[item], 1, parts);
  // What peers own ascends with them.
  int64_t low = 0, high = degrees_.ranks / parts - 1;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (element < owned(item, part + middle * parts).last)
      high = middle;
    else
      low = middle + 1;
  }
  return part + low * parts;
}

Digest ShardPlan::digest() const {
  Digest digest = digest_of(
      fmt::format("{} {} {}", degrees_.ranks, degrees_.expert_parallel, parallel::kBlockElements));
  for (const ShardItem& item : items_)
    digest = digest_of(fmt::format("{} {} {}", item.id, item.elements, item.num_experts), digest);
  return digest;
}

std::vector<TensorRange> checkpoint_ranges(const model::Parameter& parameter,
                                           const ElementRange& range) {
  std::vector<TensorRange> ranges;
  // Pieces ascend; the first that ends behind the range's begin is the first that has a part of it.
  auto piece = std::partition_point(
      parameter.pieces.begin(), parameter.pieces.end(),
      [&](const auto& each) { return each.offset + each.numel() <= range.first; });
  for (; piece != parameter.pieces.end() && piece->offset < range.last; ++piece) {
    const ElementRange own{std::max(range.first, piece->offset) - piece->offset,
                           std::min(range.last, piece->offset + piece->numel()) - piece->offset};
    if (own.count() > 0)
      ranges.push_back({.name = piece->name,
                        .piece = static_cast<size_t>(piece - parameter.pieces.begin()),
                        .elements = own});
  }
  return ranges;
}

}  // namespace lockstep::train
