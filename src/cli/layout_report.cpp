// SPDX-License-Identifier: Apache-2.0
#include "cli/layout_report.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/json.h"

namespace lockstep::cli {
namespace {

using layout::Box;
using layout::Layout;
using layout::LogicalTensor;
using layout::PhysicalTensor;

/// Indices of an axis that belong together, and what they are made of.
struct Band {
  int64_t begin, end;
  int axis;
  std::string text;
};

/// The part of a logical tensor as text: "group 1, member 0-3". Dimensions that are whole are not
/// named.
std::string region_text(const LogicalTensor& tensor, const layout::Region& region) {
  std::string text;
  for (size_t d = 0; d < tensor.dims.size(); ++d) {
    const int64_t begin = region.begin[d], size = region.size[d];
    if (size == tensor.dims[d].size) continue;
    text += fmt::format("{} {} {}", text.empty() ? "" : ",", tensor.dims[d].name, begin);
    if (size > 1) text += fmt::format("-{}", begin + size - 1);
  }
  return text;
}

/// Appends the bands of a box along `axis`. Dimensions that do not continue the run inside them are
/// taken apart index by index.
void add_bands(const LogicalTensor& tensor, const Box& box, int axis, std::vector<Band>& bands) {
  int64_t run = 1;
  std::vector<size_t> apart;
  std::vector<size_t> dims;
  for (size_t d = 0; d < tensor.dims.size(); ++d)
    if (box.steps[d].axis == axis && box.region.size[d] > 1) dims.push_back(d);
  std::sort(dims.begin(), dims.end(),
            [&](size_t a, size_t b) { return box.steps[a].stride < box.steps[b].stride; });
  for (const size_t d : dims) {
    if (apart.empty() && box.steps[d].stride == run)
      run *= box.region.size[d];
    else
      apart.push_back(d);
  }
  std::vector<layout::Region> regions{box.region};
  std::vector<int64_t> begins{box.origin[static_cast<size_t>(axis)]};
  for (const size_t d : apart) {
    std::vector<layout::Region> finer;
    std::vector<int64_t> at;
    for (size_t i = 0; i < regions.size(); ++i)
      for (int64_t index = 0; index < box.region.size[d]; ++index) {
        finer.push_back(regions[i]);
        finer.back().begin[d] += index;
        finer.back().size[d] = 1;
        at.push_back(begins[i] + index * box.steps[d].stride);
      }
    regions = std::move(finer);
    begins = std::move(at);
  }
  for (size_t i = 0; i < regions.size(); ++i)
    bands.push_back(
        {begins[i], begins[i] + run, axis,
         fmt::format("{}{}{}{}", tensor.id, region_text(tensor, regions[i]),
                     box.minus_one ? "  less one" : "", box.is_copy ? "  (copy)" : "")});
}

/// How many bands of a tensor are printed; the pattern is clear by then.
constexpr size_t kMostBands = 16;
constexpr size_t kMostNames = 4;

/// "rounded from F32", "BF16 kept exactly"; empty where a tensor has the type of its parts.
std::string stored_text(const Layout& layout, const PhysicalTensor& tensor) {
  for (const Box& box : tensor.boxes) {
    const ElementType type = layout.logical()[box.tensor].type;
    if (type == tensor.type) continue;
    return tensor.type == ElementType::kBF16
               ? fmt::format("rounded from {}, to the nearest, ties to even", element_name(type))
               : fmt::format("{} in the checkpoint, stored exactly", element_name(type));
  }
  return "";
}

std::string tensor_text(const Layout& layout, const PhysicalTensor& tensor) {
  std::string text = fmt::format("  {}  {} [{}]\n", tensor.name, element_name(tensor.type),
                                 fmt::join(tensor.shape, ", "));
  std::vector<Band> bands;
  for (const Box& box : tensor.boxes) {
    const LogicalTensor& logical = layout.logical()[box.tensor];
    // Bands of rows say most; the boxes of a stacked tensor differ along its first axis and along
    // their rows.
    const int row_axis = box.steps[0].axis;
    const size_t first = bands.size();
    add_bands(logical, box, row_axis, bands);
    if (row_axis > 0 && tensor.shape.size() > 2 && tensor.shape[0] > 1)
      for (size_t i = first; i < bands.size(); ++i)
        bands[i].text = fmt::format("[{}]  {}", box.origin[0], bands[i].text);
  }
  // Sorted from top to bottom; the boxes of a stacked tensor already stand expert by expert.
  if (bands.empty() || bands[0].axis == 0)
    std::stable_sort(bands.begin(), bands.end(),
                     [](const Band& a, const Band& b) { return a.begin < b.begin; });
  if (const std::string stored = stored_text(layout, tensor); !stored.empty())
    text += "    " + stored + "\n";
  for (size_t i = 0; i < std::min(kMostBands, bands.size()); ++i) {
    const char* const axis = bands[i].axis == 0 ? "rows" : bands[i].axis == 1 ? "axis 1" : "axis 2";
    text += fmt::format("    {} {:>6} - {:<6}  {}\n", axis, bands[i].begin, bands[i].end - 1,
                        bands[i].text);
  }
  if (bands.size() > kMostBands) text += fmt::format("    … {} more\n", bands.size() - kMostBands);
  if (tensor.padding > 0) text += fmt::format("    {} elements of padding\n", tensor.padding);
  return text;
}

Json box_json(const LogicalTensor& tensor, const Box& box, size_t num_axes) {
  Json begin = Json::array(), size = Json::array(), steps = Json::array(), origin = Json::array();
  for (size_t d = 0; d < tensor.dims.size(); ++d) {
    begin.push_back(box.region.begin[d]);
    size.push_back(box.region.size[d]);
    steps.push_back({{"dim", tensor.dims[d].name},
                     {"axis", box.steps[d].axis},
                     {"stride", box.steps[d].stride}});
  }
  for (size_t axis = 0; axis < num_axes; ++axis) origin.push_back(box.origin[axis]);
  return {{"tensor", tensor.id},
          {"begin", begin},
          {"size", size},
          {"origin", origin},
          {"steps", steps},
          {"copy", box.is_copy},
          {"minus_one", box.minus_one},
          {"dtype", element_name(tensor.type)}};
}

int64_t total_bytes(const std::vector<layout::Traffic>& traffic, bool between_ranks) {
  int64_t sum = 0;
  for (const layout::Traffic& t : traffic)
    if (!between_ranks || t.from_rank != t.to_rank) sum += t.bytes;
  return sum;
}

}  // namespace

std::string layout_text(const Layout& layout,
                        int64_t first,
                        int64_t end,
                        const LoaderNames& loader_names) {
  std::string text;
  for (int64_t r = first; r < end; ++r) {
    text += fmt::format("{}, rank {} of {}\n", layout.name(), r, layout.num_ranks());
    for (size_t t = 0; t < layout.rank(r).size(); ++t) {
      text += tensor_text(layout, layout.rank(r)[t]);
      if (loader_names.empty()) continue;
      std::span<const std::string> names = loader_names[static_cast<size_t>(r)][t];
      const size_t more = names.size() - std::min(kMostNames, names.size());
      text += fmt::format("    loads {}{}\n", fmt::join(names.first(names.size() - more), ", "),
                          more ? fmt::format(" and {} more", more) : "");
    }
  }
  return text;
}

std::string layout_json(const Layout& layout,
                        int64_t first,
                        int64_t end,
                        const LoaderNames& loader_names) {
  Json ranks = Json::array();
  for (int64_t r = first; r < end; ++r) {
    Json tensors = Json::array();
    for (size_t t = 0; t < layout.rank(r).size(); ++t) {
      const PhysicalTensor& tensor = layout.rank(r)[t];
      Json boxes = Json::array();
      for (const Box& box : tensor.boxes)
        boxes.push_back(box_json(layout.logical()[box.tensor], box, tensor.shape.size()));
      tensors.push_back({{"name", tensor.name},
                         {"dtype", element_name(tensor.type)},
                         {"shape", tensor.shape},
                         {"padding", tensor.padding},
                         {"boxes", std::move(boxes)}});
      if (!loader_names.empty())
        tensors.back()["loader_names"] = loader_names[static_cast<size_t>(r)][t];
    }
    ranks.push_back({{"rank", r}, {"tensors", std::move(tensors)}});
  }
  return dump_json(Json{
      {"layout", layout.name()}, {"num_ranks", layout.num_ranks()}, {"ranks", std::move(ranks)}});
}

std::string plan_text(const layout::Plan& plan, const Layout& to) {
  const auto traffic = plan.traffic(to);
  std::string text = fmt::format("{} to {}\n{:>6} {:>6} {:>10} {:>10} {:>16}\n", plan.from, plan.to,
                                 "from", "to", "copies", "messages", "bytes");
  for (const layout::Traffic& t : traffic)
    text += fmt::format("{:>6} {:>6} {:>10} {:>10} {:>16}\n", t.from_rank, t.to_rank, t.copies,
                        t.messages, t.bytes);
  for (const std::string& line : type_changes_text(plan.type_changes, to.logical()))
    text += line + "\n";
  return text + fmt::format("{} bytes, {} of them between ranks; plan {}\n",
                            total_bytes(traffic, false), total_bytes(traffic, true),
                            plan.digest.hex());
}

std::string plan_json(const layout::Plan& plan, const Layout& to) {
  const auto traffic = plan.traffic(to);
  Json pairs = Json::array();
  for (const layout::Traffic& t : traffic)
    pairs.push_back({{"from_rank", t.from_rank},
                     {"to_rank", t.to_rank},
                     {"copies", t.copies},
                     {"messages", t.messages},
                     {"bytes", t.bytes}});
  Json changes = Json::array();
  for (const layout::TypeChange& change : plan.type_changes)
    changes.push_back({{"tensor", to.logical()[change.tensor].id},
                       {"from", element_name(change.from)},
                       {"to", element_name(change.to)},
                       {"values", to.logical()[change.tensor].numel()}});
  return dump_json(Json{{"from", plan.from},
                        {"to", plan.to},
                        {"bytes", total_bytes(traffic, false)},
                        {"bytes_between_ranks", total_bytes(traffic, true)},
                        {"digest", plan.digest.hex()},
                        {"type_changes", std::move(changes)},
                        {"traffic", std::move(pairs)}});
}

std::vector<std::string> type_changes_text(std::span<const layout::TypeChange> changes,
                                           const layout::LogicalTensors& logical) {
  struct Group {
    std::vector<std::string> ids;
    int64_t values = 0;
  };
  std::map<std::pair<ElementType, ElementType>, Group> groups;
  for (const layout::TypeChange& change : changes) {
    Group& group = groups[{change.from, change.to}];
    group.values += logical[change.tensor].numel();
    group.ids.push_back(logical[change.tensor].id);
  }
  std::vector<std::string> lines;
  for (const auto& [types, group] : groups) {
    const bool rounds = types.second == ElementType::kBF16;
    const size_t shown = std::min(kMostNames, group.ids.size()), more = group.ids.size() - shown;
    lines.push_back(fmt::format("{} {} tensors ({} values) from {} to {}, {}: {}{}",
                                rounds ? "rounds" : "widens", group.ids.size(), group.values,
                                element_name(types.first), element_name(types.second),
                                rounds ? "to the nearest, ties to even" : "exactly",
                                fmt::join(std::span(group.ids).first(shown), ", "),
                                more ? fmt::format(" and {} more", more) : ""));
  }
  return lines;
}

}  // namespace lockstep::cli
