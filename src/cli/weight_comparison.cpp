// SPDX-License-Identifier: Apache-2.0
#include "cli/weight_comparison.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace lockstep::cli {
namespace {

using layout::Dims;
using layout::Layout;
using layout::PhysicalTensor;

/// The bits of an element.
uint64_t bits_at(std::span<const std::byte> bytes, size_t begin, size_t width) {
  uint64_t bits = 0;
  std::memcpy(&bits, bytes.data() + begin, width);
  return bits;
}

std::string value_text(ElementType type, uint64_t bits) {
  if (type == ElementType::kBF16) bits <<= 16;
  if (type == ElementType::kBF16 || type == ElementType::kF32)
    return fmt::format("{}", std::bit_cast<float>(static_cast<uint32_t>(bits)));
  return fmt::format("the bits {:x}", bits);
}

/// Compares what a conversion would write with what the folder has.
class CompareSink : public layout::ByteSink {
 public:
  /// The first element of a tensor that differs.
  struct Difference {
    int64_t element = 0;
    uint64_t expected = 0, found = 0;
  };

  CompareSink(const Layout& layout, WeightFolderReader& input) : layout_(layout), input_(input) {}
  void write(int64_t rank,
             int64_t index,
             int64_t begin,
             std::span<const std::byte> bytes) override {
    const auto there = input_.tensor(rank, index);
    if (there.empty()) return;
    const auto here = there.subspan(static_cast<size_t>(begin), bytes.size());
    if (std::memcmp(bytes.data(), here.data(), bytes.size()) != 0)
      add(rank, index, begin, bytes, here);
    touched_ += static_cast<int64_t>(bytes.size());
    if (touched_ < layout::kTouchedBytes) return;
    input_.release();
    touched_ = 0;
  }

  /// By rank and tensor.
  std::map<std::pair<int64_t, int64_t>, Difference> differing;

 private:
  void add(int64_t rank,
           int64_t index,
           int64_t begin,
           std::span<const std::byte> expected,
           std::span<const std::byte> found) {
    const auto width =
        static_cast<size_t>(element_bytes(layout_.rank(rank)[static_cast<size_t>(index)].type));
    const auto at = std::mismatch(expected.begin(), expected.end(), found.begin()).first;
    const size_t first = static_cast<size_t>(at - expected.begin()) / width;
    // Pieces come in the order of their bytes: the first difference is there already.
    differing.emplace(
        std::pair(rank, index),
        Difference{begin / static_cast<int64_t>(width) + static_cast<int64_t>(first),
                   bits_at(expected, first * width, width), bits_at(found, first * width, width)});
  }

  const Layout& layout_;
  WeightFolderReader& input_;
  int64_t touched_ = 0;
};

/// The ids of the first few logical tensors in a physical one.
std::string parts_text(const Layout& layout, const PhysicalTensor& tensor) {
  constexpr size_t kMost = 4;
  std::vector<std::string> ids;
  for (const layout::Box& box : tensor.boxes) {
    const std::string& id = layout.logical()[box.tensor].id;
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
    if (ids.size() > kMost) {
      ids.back() = "…";
      break;
    }
  }
  return fmt::format("{}", fmt::join(ids, ", "));
}

/// "[3, 17] (layers.0.experts.1.gate out 3, in 17)"
std::string element_text(const Layout& layout, const PhysicalTensor& tensor, int64_t element) {
  Dims at{};
  for (size_t axis = tensor.shape.size(); axis-- > 0; element /= tensor.shape[axis])
    at[axis] = element % tensor.shape[axis];
  const std::string place =
      fmt::format("[{}]", fmt::join(std::span(at).first(tensor.shape.size()), ", "));
  const auto found = element_at(tensor, at);
  if (!found) return place + " (padding)";
  const layout::LogicalTensor& logical = layout.logical()[found->tensor];
  std::string index;
  for (size_t d = 0; d < logical.dims.size(); ++d)
    index += fmt::format("{} {} {}", d ? "," : "", logical.dims[d].name, found->index[d]);
  return fmt::format("{} ({}{})", place, logical.id, index);
}

}  // namespace

Comparison compare_tensors(const Layout& truth,
                           WeightFolderReader& truth_input,
                           const Layout& layout,
                           WeightFolderReader& input,
                           const layout::ExecuteOptions& options) {
  CompareSink sink(layout, input);
  const layout::Plan plan = make_plan(truth, layout, options.bucket_bytes);
  Comparison found;
  found.digests = execute(truth, layout, plan, truth_input, sink, options).target;
  found.type_changes = plan.type_changes;
  for (const auto& [place, difference] : sink.differing) {
    const auto [rank, index] = place;
    const PhysicalTensor& tensor = layout.rank(rank)[static_cast<size_t>(index)];
    found.problems.push_back(
        {"digest-mismatch", input.where(rank) + ": " + tensor.name,
         fmt::format("expected {} as {} lays them out, got other bytes from element {} on: {} in "
                     "place of {}",
                     parts_text(layout, tensor), layout.name(),
                     element_text(layout, tensor, difference.element),
                     value_text(tensor.type, difference.found),
                     value_text(tensor.type, difference.expected))});
  }
  return found;
}

}  // namespace lockstep::cli
