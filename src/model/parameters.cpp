// The list of a model's parameters: the tensors of Lockstep's own layout on one rank. A
// checkpoint's tensors are found in them by the logical tensors that both are made of.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include <fmt/format.h>

#include "base/check.h"
#include "layout/plan.h"
#include "model/weight_formats/make_layout.h"
#include "model/weights.h"

namespace lockstep::model {
namespace {

using layout::Box;
using layout::Layout;
using layout::PhysicalTensor;
using layout::RankTensors;

/// Where a logical tensor lies in the storages.
struct Place {
  size_t parameter = 0;
  const Box* box = nullptr;
};

std::vector<Place> places_in(const RankTensors& storages, int64_t num_logical) {
  std::vector<Place> places(static_cast<size_t>(num_logical));
  for (size_t i = 0; i < storages.size(); ++i) {
    for (const Box& box : storages[i].boxes) {
      Place& place = places[static_cast<size_t>(box.tensor)];
      LOCKSTEP_CHECK(!place.box, "{}: its logical tensor {} lies in two places", storages[i].name,
                     box.tensor);
      place = {i, &box};
    }
  }
  return places;
}

/// By how many elements a box of a checkpoint's tensor moves on its way into the storage. Its
/// elements keep their distances; else the tensor would not be a contiguous piece.
int64_t shift_of(const layout::LogicalTensor& logical,
                 const Box& from,
                 const PhysicalTensor& tensor,
                 const Box& to,
                 const PhysicalTensor& storage) {
  const auto strides = strides_between(logical, from.region, &from, &tensor, &to, &storage);
  LOCKSTEP_CHECK(strides.from == strides.to, "{} is no contiguous piece of {}", tensor.name,
                 storage.name);
  return strides.to_offset - strides.from_offset;
}

Layout layout_of(const LogicalModel& model, const CheckpointForm& form, const char* name) {
  return make_layout(model, form, LayoutSpec::parse(name, name));
}

}  // namespace

int64_t CheckpointPiece::numel() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

at::Tensor CheckpointPiece::view(const at::Tensor& storage) const {
  return storage.view({-1}).narrow(0, offset, numel()).view(shape);
}

bool Parameter::is_trained() const {
  return std::any_of(pieces.begin(), pieces.end(), [](const auto& p) { return p.is_trained; });
}

bool Parameter::is_trained_whole() const {
  return std::all_of(pieces.begin(), pieces.end(), [](const auto& p) { return p.is_trained; });
}

CheckpointForm detect_form(const ModelConfig& config, const TensorSource& source) {
  return detect_form(
      config, [&](const std::string& name) { return source.contains(name); }, source.where());
}

std::vector<Parameter> describe_parameters(const ModelConfig& config, const CheckpointForm& form) {
  const LogicalModel model = logical_model(config, {}, published_types(config));
  const Layout own = layout_of(model, form, "lockstep"),
               checkpoint = layout_of(model, form, "checkpoint");
  const RankTensors& storages = own.rank(0);
  const auto places = places_in(storages, model.tensors->size());
  std::vector<Parameter> parameters;
  for (const PhysicalTensor& storage : storages) {
    const auto logical = static_cast<size_t>(storage.boxes[0].tensor);
    const TensorRole role = model.roles[logical];
    parameters.push_back({.id = storage.name,
                          .shape = storage.shape,
                          .pieces = {},
                          .is_matrix = storage.shape.size() >= 2,
                          .is_norm = role == TensorRole::kNorm,
                          .is_expert = role == TensorRole::kRoutedExpert,
                          .layer = model.layer_of[logical],
                          .value = {}});
  }
  for (const PhysicalTensor& tensor : checkpoint.rank(0)) {
    const size_t parameter = places[static_cast<size_t>(tensor.boxes[0].tensor)].parameter;
    const auto shift = [&](const Box& box) {
      const Place& place = places[static_cast<size_t>(box.tensor)];
      LOCKSTEP_CHECK(place.parameter == parameter, "{} is cut apart", tensor.name);
      return shift_of((*model.tensors)[box.tensor], box, tensor, *place.box, storages[parameter]);
    };
    const int64_t offset = shift(tensor.boxes[0]);
    for (const Box& box : tensor.boxes)
      LOCKSTEP_CHECK(shift(box) == offset, "{} is no contiguous piece of {}", tensor.name,
                     storages[parameter].name);
    parameters[parameter].pieces.push_back({tensor.name, tensor.shape, offset});
  }
  for (Parameter& parameter : parameters)
    std::sort(
        parameter.pieces.begin(), parameter.pieces.end(),
        [](const CheckpointPiece& a, const CheckpointPiece& b) { return a.offset < b.offset; });
  return parameters;
}

}  // namespace lockstep::model
