// Forward declaration of at::Tensor, for headers that only mention it in signatures.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace at {
class Tensor;
}
