// SPDX-License-Identifier: Apache-2.0
#include "base/op_timer.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <string_view>

namespace lockstep {
namespace {

struct Table {
  std::mutex mutex;
  std::map<std::string_view, OpTime> times;
};
Table& table() {
  static Table made;
  return made;
}

thread_local bool is_inside = false;

}  // namespace

std::atomic<bool> OpTimer::is_on = false;

void OpTimer::begin(const char* name) {
  if (is_inside) return;
  is_inside = true;
  name_ = name;
  begun_ = std::chrono::steady_clock::now();
}

void OpTimer::end() {
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begun_;
  is_inside = false;
  const std::lock_guard lock(table().mutex);
  OpTime& time = table().times[name_];
  time.seconds += spent.count();
  ++time.calls;
}

void OpTimer::start() {
  table().times.clear();
  is_on = true;
}

std::vector<OpTime> OpTimer::stop() {
  is_on = false;
  std::vector<OpTime> times;
  for (auto& [name, time] : table().times) {
    times.push_back(time);
    times.back().name = name;
  }
  std::sort(times.begin(), times.end(),
            [](const OpTime& a, const OpTime& b) { return a.seconds > b.seconds; });
  return times;
}

}  // namespace lockstep
