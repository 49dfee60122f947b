// SPDX-License-Identifier: Apache-2.0
#include "parallel/group.h"

#include <numeric>

#include "parallel/local_group.h"

namespace lockstep::parallel {

void Group::barrier(const Call& call) {
  const std::byte own{};
  std::vector<std::byte> all(static_cast<size_t>(size()));
  all_gather({&own, 1}, all, call);
}

std::vector<std::string> Group::gather(const std::string& own, const Call& call) {
  const auto ranks = static_cast<size_t>(size());
  const auto length = static_cast<int64_t>(own.size());
  std::vector<int64_t> lengths(ranks);
  all_gather(std::as_bytes(std::span(&length, 1)), std::as_writable_bytes(std::span(lengths)),
             {call.name + ", lengths", call.deadline});
  // Every rank sends its text to every rank.
  std::string sent;
  sent.reserve(own.size() * ranks);
  for (size_t i = 0; i < ranks; ++i) sent += own;
  std::string received(std::accumulate(lengths.begin(), lengths.end(), size_t{0}), '\0');
  all_to_all(std::as_bytes(std::span(sent)), std::vector(ranks, length),
             std::as_writable_bytes(std::span(received)), lengths, call);
  std::vector<std::string> texts;
  size_t first = 0;
  for (const int64_t count : lengths) {
    texts.push_back(received.substr(first, static_cast<size_t>(count)));
    first += static_cast<size_t>(count);
  }
  return texts;
}

Group& alone() {
  static const std::unique_ptr<Group> group = std::move(make_local_groups(1).front());
  return *group;
}

}  // namespace lockstep::parallel
