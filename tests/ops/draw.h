// Random shapes and values from one seed.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <initializer_list>
#include <random>

#include "tensor/aten.h"

namespace lockstep::testing {

class Draw {
 public:
  explicit Draw(uint64_t seed) : engine_(seed) {}
  int64_t pick(std::initializer_list<int64_t> choices) {
    return choices.begin()[engine_() % choices.size()];
  }
  at::Tensor normal(at::IntArrayRef sizes) {
    const at::Tensor out = at::empty(sizes, at::kFloat);
    std::normal_distribution<float> distribution;
    float* data = out.mutable_data_ptr<float>();
    for (int64_t i = 0; i < out.numel(); ++i) data[i] = distribution(engine_);
    return out;
  }

  std::mt19937_64& engine() { return engine_; }

 private:
  std::mt19937_64 engine_;
};

}  // namespace lockstep::testing
