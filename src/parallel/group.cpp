// SPDX-License-Identifier: Apache-2.0
#include "parallel/group.h"

#include "parallel/gather.h"
#include "parallel/local_group.h"

namespace lockstep::parallel {

void Group::barrier(const Call& call) {
  const std::byte own{};
  std::vector<std::byte> all(static_cast<size_t>(size()));
  all_gather({&own, 1}, all, call);
}

std::vector<std::string> Group::gather(const std::string& own, const Call& call) {
  std::vector<int64_t> lengths;
  const std::vector<std::byte> all =
      gather_bytes(*this, std::as_bytes(std::span(own)), lengths, call);
  std::vector<std::string> texts;
  const char* text = reinterpret_cast<const char*>(all.data());
  for (const int64_t length : lengths) {
    texts.emplace_back(text, static_cast<size_t>(length));
    text += length;
  }
  return texts;
}

Group& alone() {
  static const std::unique_ptr<Group> group = std::move(make_local_groups(1).front());
  return *group;
}

}  // namespace lockstep::parallel
