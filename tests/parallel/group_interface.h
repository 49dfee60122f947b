// What every group of ranks does, for each way in which ranks may run.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <ostream>
#include <string>

#include <gtest/gtest.h>

#include "parallel/group.h"

namespace lockstep::parallel {

/// Runs a function on every rank of a group of `size`; what one throws fails the test.
using RunRanks = void (*)(int64_t size, const std::function<void(Group&)>& action);

struct GroupKind {
  std::string name;
  RunRanks run;
  int64_t size;
  /// Whether it is part of a group, whose calls errors name.
  bool is_part = false;
};
inline std::ostream& operator<<(std::ostream& out, const GroupKind& kind) {
  return out << kind.name << kind.size;
}

/// Its tests stand in group_interface.cpp.
class Groups : public testing::TestWithParam<GroupKind> {
 protected:
  void run(const std::function<void(Group&)>& action) { GetParam().run(GetParam().size, action); }
};

inline std::string name_of_kind(const testing::TestParamInfo<GroupKind>& info) {
  return info.param.name + std::to_string(info.param.size);
}

}  // namespace lockstep::parallel
