// SPDX-License-Identifier: Apache-2.0
#include "model/weight_formats/loader_names.h"

#include <unordered_set>

#include "model/weight_formats/make_layout.h"

namespace lockstep::model {

std::span<const EnumName<LoaderExperts>> enum_names(LoaderExperts) {
  static constexpr EnumName<LoaderExperts> kNames[] = {{LoaderExperts::kSeparate, "separate"},
                                                       {LoaderExperts::kGrouped, "grouped"}};
  return kNames;
}

std::vector<std::vector<std::vector<std::string>>> loader_names(const LogicalModel& model,
                                                                const layout::Layout& engine,
                                                                LoaderExperts experts) {
  const bool grouped = experts == LoaderExperts::kGrouped;
  const CheckpointForm form{.prefix = published_form(model.config).prefix,
                            .experts_grouped = grouped,
                            .mtp_experts_grouped = grouped};
  const layout::Layout load = make_layout(model, form, LayoutSpec::parse("checkpoint", "loader"));
  std::vector<const std::string*> name_of(static_cast<size_t>(model.tensors->size()));
  for (const layout::PhysicalTensor& tensor : load.rank(0))
    for (const layout::Box& box : tensor.boxes)
      name_of[static_cast<size_t>(box.tensor)] = &tensor.name;
  std::vector<std::vector<std::vector<std::string>>> all;
  for (int64_t r = 0; r < engine.num_ranks(); ++r) {
    all.emplace_back();
    for (const layout::PhysicalTensor& tensor : engine.rank(r)) {
      std::vector<std::string>& names = all.back().emplace_back();
      std::unordered_set<const std::string*> known;
      for (const layout::Box& box : tensor.boxes) {
        const std::string* const name = name_of[static_cast<size_t>(box.tensor)];
        if (known.insert(name).second) names.push_back(*name);
      }
    }
  }
  return all;
}

}  // namespace lockstep::model
