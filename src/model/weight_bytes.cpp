// SPDX-License-Identifier: Apache-2.0
#include "model/weight_bytes.h"

#include <map>
#include <string>

#include "base/check.h"
#include "model/weight_formats/make_layout.h"

namespace lockstep::model {
namespace {

constexpr const char* kOwn = "lockstep";

std::map<std::string, size_t> indices_by_id(const ModelWeights& weights) {
  std::map<std::string, size_t> indices;
  for (size_t i = 0; i < weights.parameters().size(); ++i) indices[weights.parameters()[i].id] = i;
  return indices;
}

ElementType element_type(const Parameter& parameter) {
  const at::ScalarType type = parameter.value.scalar_type();
  LOCKSTEP_CHECK(type == at::kFloat || type == at::kBFloat16, "{} is {}", parameter.id,
                 c10::toString(type));
  return type == at::kFloat ? ElementType::kF32 : ElementType::kBF16;
}

/// A first layout says which parameter each logical tensor lies in, and that has its dtype.
LogicalModel logical_model_of(const ModelWeights& weights) {
  const LogicalModel draft = logical_model(weights.config(), {}, published_types(weights.config()));
  const layout::Layout layout = make_layout(draft, weights.form(), LayoutSpec::parse(kOwn, kOwn));
  const auto indices = indices_by_id(weights);
  std::map<std::string, ElementType> types;
  for (const layout::PhysicalTensor& storage : layout.rank(0)) {
    const auto found = indices.find(storage.name);
    LOCKSTEP_CHECK(found != indices.end(), "the weights have no parameter {}", storage.name);
    for (const layout::Box& box : storage.boxes)
      types[(*draft.tensors)[box.tensor].id] = element_type(weights.parameters()[found->second]);
  }
  return logical_model(weights.config(), {}, [&](const std::string& id) { return types.at(id); });
}

}  // namespace

WeightBytes::WeightBytes(const ModelWeights& weights)
    : form_(weights.form()), logical_(logical_model_of(weights)), layout_(layout_named(kOwn)) {
  const auto indices = indices_by_id(weights);
  for (const layout::PhysicalTensor& storage : layout_.rank(0)) {
    const at::Tensor values = weights.values(indices.at(storage.name));
    LOCKSTEP_CHECK(values.is_cpu() && values.is_contiguous() && values.sizes() == storage.shape,
                   "{} is not laid out as a tensor of {} elements in memory", storage.name,
                   storage.numel());
    values_.push_back(values);
  }
  LOCKSTEP_CHECK(indices.size() == values_.size(), "{} parameters for {} tensors", indices.size(),
                 values_.size());
}

layout::Layout WeightBytes::layout_named(const std::string& name) const {
  return make_layout(logical_, form_, LayoutSpec::parse(name, name));
}

std::span<const std::byte> WeightBytes::tensor(int64_t rank, int64_t index) {
  LOCKSTEP_CHECK(rank == 0, "rank {} of a model on one rank", rank);
  const at::Tensor& values = values_.at(static_cast<size_t>(index));
  return {static_cast<const std::byte*>(values.const_data_ptr()), values.nbytes()};
}

}  // namespace lockstep::model
