// The program, which does something bad to its own process at a chosen moment: it sees what the
// recorder and the messages of its ranks see, so that no test has to guess when a phase begins.
// SPDX-License-Identifier: Apache-2.0
//
// LOCKSTEP_TEST_STRIKE="PHASE STEP EVENT FAULT FILE": in the first PHASE from STEP on, EVENT
// messages after its beginning or at its end, FILE is written with the time of the steady clock and
// the process is killed, stopped, terminated, given no more room for files, or paused.
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <sstream>
#include <string>
#include <sys/resource.h>
#include <thread>
#include <unistd.h>
#include <utility>

#include "parallel/c10d_group.h"
#include "parallel/c10d_store.h"
#include "parallel/mesh.h"
#include "parallel/mesh_group.h"
#include "parallel/recorder.h"

namespace lockstep::testing {
namespace {

struct Strike {
  std::string phase;
  int64_t step = 0, event = 0;
  std::string fault;
  std::filesystem::path file;
};

std::optional<Strike> from_environment() {
  const char* const text = std::getenv("LOCKSTEP_TEST_STRIKE");
  if (!text) return std::nullopt;
  Strike strike;
  std::istringstream(text) >> strike.phase >> strike.step >> strike.event >> strike.fault >>
      strike.file;
  return strike;
}

/// The program may write its last words, and no file of a checkpoint.
constexpr rlim_t kRoom = 4096;

void strike_now(const Strike& strike) {
  const std::filesystem::path half = strike.file.string() + ".half";
  std::ofstream(half) << std::chrono::steady_clock::now().time_since_epoch().count();
  std::filesystem::rename(half, strike.file);
  if (strike.fault == "kill") ::kill(::getpid(), SIGKILL);
  if (strike.fault == "stop") ::kill(::getpid(), SIGSTOP);
  if (strike.fault == "terminate") ::kill(::getpid(), SIGTERM);
  // The test does the rest meanwhile.
  if (strike.fault == "pause") std::this_thread::sleep_for(std::chrono::milliseconds(500));
  if (strike.fault == "fill") {
    ::signal(SIGXFSZ, SIG_IGN);  // the write then fails with an error
    const struct rlimit limit = {kRoom, kRoom};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
}

/// Sees where the program is. Threads: the computing one.
class Striker {
 public:
  /// Another phase begins.
  void enter(const std::string& phase, int64_t step) {
    if (is_armed_) strike();
    arm(phase, step);
  }
  /// A message is sent; in "joining", the store is looked for, then the other ranks.
  void see_message() {
    if (is_armed_ && left_-- == 0) strike();
  }

 private:
  void arm(const std::string& phase, int64_t step) {
    if (!strike_ || phase.substr(0, phase.find(' ')) != strike_->phase || step < strike_->step)
      return;
    is_armed_ = true;
    left_ = strike_->event;
    see_message();
  }
  void strike() {
    is_armed_ = false;
    const Strike now = *std::exchange(strike_, std::nullopt);
    strike_now(now);
  }

  std::optional<Strike> strike_ = from_environment();
  bool is_armed_ = false;
  int64_t left_ = 0;
};

Striker& striker() {
  static Striker one;
  return one;
}

class SeenMesh : public parallel::Mesh {
 public:
  explicit SeenMesh(std::unique_ptr<Mesh> mesh) : mesh_(std::move(mesh)) {}
  int64_t rank() const override { return mesh_->rank(); }
  int64_t size() const override { return mesh_->size(); }
  std::unique_ptr<parallel::Transfer> send(std::span<const std::byte> bytes,
                                           int64_t to,
                                           uint32_t tag) override {
    striker().see_message();
    return mesh_->send(bytes, to, tag);
  }
  std::unique_ptr<parallel::Transfer> receive(std::span<std::byte> bytes,
                                              int64_t from,
                                              uint32_t tag) override {
    return mesh_->receive(bytes, from, tag);
  }

 private:
  std::unique_ptr<Mesh> mesh_;
};

}  // namespace
}  // namespace lockstep::testing

// The linker puts these in the place of what they are named after.
namespace lockstep::parallel {

using Milliseconds = std::chrono::milliseconds;

// Behind it: the body of what is put there, which calls real_NAME.
#define LOCKSTEP_STRIKE(symbol, result, name, parameters) \
  result real_##name parameters asm("__real_" symbol);    \
  result wrapped_##name parameters asm("__wrap_" symbol); \
  result wrapped_##name parameters

// A symbol stands on one line: CMakeLists.txt reads it.
// clang-format off
LOCKSTEP_STRIKE("_ZN8lockstep8parallel8Recorder5enterENSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEl",
                void, enter, (Recorder* recorder, std::string phase, int64_t step)) {
  testing::striker().enter(phase, step);
  real_enter(recorder, std::move(phase), step);
}

LOCKSTEP_STRIKE("_ZN8lockstep8parallel15make_mesh_groupESt10unique_ptrINS0_4MeshESt14default_deleteIS2_EENSt6chrono8durationIlSt5ratioILl1ELl1000EEEE",
                std::unique_ptr<Group>, mesh_group,
                (std::unique_ptr<Mesh> mesh, Milliseconds deadline)) {
  return real_mesh_group(std::make_unique<testing::SeenMesh>(std::move(mesh)), deadline);
}

LOCKSTEP_STRIKE("_ZN8lockstep8parallel15make_c10d_storeERKNS0_12StoreAddressENSt6chrono8durationIlSt5ratioILl1ELl1000EEEE",
                std::unique_ptr<Store>, c10d_store,
                (const StoreAddress& address, Milliseconds deadline)) {
  testing::striker().see_message();
  return real_c10d_store(address, deadline);
}

LOCKSTEP_STRIKE("_ZN8lockstep8parallel15make_c10d_groupESt10unique_ptrINS0_5StoreESt14default_deleteIS2_EERKNS0_9C10dPlaceE",
                std::unique_ptr<Group>, c10d_group,
                (std::unique_ptr<Store> store, const C10dPlace& place)) {
  testing::striker().see_message();
  return real_c10d_group(std::move(store), place);
}
// clang-format on

}  // namespace lockstep::parallel
