// Makes the layouts of a model: one for each format and its degrees of parallelism.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "layout/layout.h"
#include "model/logical_model.h"
#include "model/weight_formats/layout_spec.h"

namespace lockstep::model {

/// The layout of `model` that `name` says. `published` is the form of a checkpoint whose keys say
/// "published".
///
/// Throws ConfigError "layout-conflict" at the layout's name: degrees that do not divide what they
/// cut, ranks that do not fit together, a format for other families; FormatError "layout-conflict"
/// where tensors that a format merges differ in dtype.
layout::Layout make_layout(const LogicalModel& model,
                           const CheckpointForm& published,
                           const LayoutSpec& name);

/// The name in the checkpoint of a tensor that no format takes apart, if it is published with a
/// "model." that the format leaves out.
std::string published_carried_name(const LayoutSpec& layout, const std::string& physical_name);

}  // namespace lockstep::model
