// Makes visible what reads memory that nobody wrote.
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace lockstep::testing {

/// While it lives, libtorch fills every tensor that it makes without values with NaN (and integers
/// with their largest value).
class NanInUninitializedMemory {
 public:
  NanInUninitializedMemory();
  ~NanInUninitializedMemory();
  NanInUninitializedMemory(const NanInUninitializedMemory&) = delete;
  NanInUninitializedMemory& operator=(const NanInUninitializedMemory&) = delete;
};

}  // namespace lockstep::testing
