// SPDX-License-Identifier: Apache-2.0
// The wide header of libtorch's context, for this file alone.
#define LOCKSTEP_WIDE_TORCH
#include "tests/support/uninitialized_memory.h"

#include <ATen/Context.h>

namespace lockstep::testing {

NanInUninitializedMemory::NanInUninitializedMemory() {
  // It fills only where algorithms must be deterministic; an operator that is not only warns.
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
  at::globalContext().setDeterministicFillUninitializedMemory(true);
}

NanInUninitializedMemory::~NanInUninitializedMemory() {
  at::globalContext().setDeterministicAlgorithms(false, /*warn_only=*/false);
}

}  // namespace lockstep::testing
