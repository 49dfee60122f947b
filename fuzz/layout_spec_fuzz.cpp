// SPDX-License-Identifier: Apache-2.0
#include <string_view>

#include "base/check.h"
#include "fuzz/fuzz_targets.h"
#include "model/weight_formats/make_layout.h"
#include "tests/model/sized_model.h"

namespace lockstep::fuzz {
namespace {

/// A layout of `name`, if it fits the model. Many ranks prove nothing more.
void build(const model::LogicalModel& model, const model::LayoutSpec& name) {
  constexpr int64_t kMostRanks = 64;
  if (name.num_ranks() > kMostRanks) return;
  try {
    const auto layout = make_layout(model, published_form(model.config), name);
    LOCKSTEP_CHECK(layout.num_ranks() == name.num_ranks(), "{} has {} ranks", name.text(),
                   layout.num_ranks());
  } catch (const ConfigError& error) {
    LOCKSTEP_CHECK(error.code() == "layout-conflict", "{}", error.what());
  }
}

}  // namespace

int fuzz_layout_spec(std::span<const uint8_t> bytes) {
  static const model::LogicalModel dense =
      testing::model_of({.family = model::Family::kQwen3, .layers = 2});
  static const model::LogicalModel mixture =
      testing::model_of({.family = model::Family::kQwen3_5Moe, .layers = 4, .experts = 8});
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  std::optional<model::LayoutSpec> name;
  try {
    name = model::LayoutSpec::parse(text, "fuzz");
  } catch (const ConfigError&) {
    return 0;
  }
  const auto again = model::LayoutSpec::parse(name->text(), "text");
  LOCKSTEP_CHECK(again.text() == name->text() && again.num_ranks() == name->num_ranks(),
                 "{} is not its own name", name->text());
  build(dense, *name);
  build(mixture, *name);
  return 1;
}

}  // namespace lockstep::fuzz
