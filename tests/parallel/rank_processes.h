// Runs a test's function on ranks that are processes: this program, started again for each.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "parallel/group.h"
#include "parallel/store.h"
#include "tests/support/run_program.h"

namespace lockstep::parallel {

/// What a process that was started as a rank knows.
struct RankProcess {
  int64_t rank = 0, size = 1;
  /// Where the ranks meet.
  uint16_t store_port = 0;
  /// Whether the store is there already; else rank 0 listens.
  bool is_store_of_test = true;

  std::unique_ptr<Store> store() const;
  std::unique_ptr<Group> group() const;
};
/// Unset in the process that was started by hand.
std::optional<RankProcess> this_rank();

/// Who listens at the port where the ranks meet.
enum class Meeting { kOfTheTest, kOfTheRanks };

/// The processes of the ranks, each of which runs the current test from its beginning (with a
/// parameter, all tests that have the same), and the store where they meet. Those that still run
/// are killed at the end of the scope.
class RankProcesses {
 public:
  /// `starter` gives the words of a command that a rank is started by, such as nsenter's; empty:
  /// it is started as it is.
  using Starter = std::function<std::vector<std::string>(int64_t rank)>;
  explicit RankProcesses(int64_t size,
                         Meeting meeting = Meeting::kOfTheTest,
                         const Starter& starter = {});

  int64_t size() const { return std::ssize(programs_); }
  testing::RunningProgram& operator[](int64_t rank) {
    return *programs_[static_cast<size_t>(rank)];
  }
  /// The store, where it is the test's.
  Store& store() { return *store_; }
  /// Ends the store.
  void end_store() { store_.reset(); }
  /// Waits until a rank has ended, and returns how; fails the test and kills it when it has not
  /// within `deadline`.
  testing::ProgramResult wait(int64_t rank, std::chrono::milliseconds deadline);

 private:
  std::unique_ptr<Store> store_;
  std::vector<std::unique_ptr<testing::RunningProgram>> programs_;
};

/// Calls action(group) in a process for each rank: to be called once by a test, in its first lines.
/// The processes are started by the first of the tests that they run.
void run_on_processes(int64_t size, const std::function<void(Group&)>& action);

}  // namespace lockstep::parallel
