// The first rank that fails ends all, and says why.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "parallel/recorder.h"
#include "parallel/store.h"

namespace lockstep::parallel {

/// Why a run of several ranks ends: the first thing that went wrong on any of them.
struct RankFailure {
  /// The rank that has failed, what it did then, and in which step.
  int64_t rank = 0;
  std::string phase;
  int64_t step = 0;
  /// The call of a group that it was in, or its last one; "" where it has made none.
  std::string call;
  /// An error's stable code and text.
  std::string code, message;

  /// "rank 3, training of step 12, after all-gather #811 "…"".
  std::string place() const;
  /// One line: its place, a colon and its message.
  std::string text() const;
};

/// Whether an error of this code says that another rank has failed, which knows why.
bool is_of_another_rank(std::string_view code);
/// Whether a failure of this code was seen by others, since its rank says nothing any more.
bool is_of_silent_rank(std::string_view code);

struct MonitorOptions {
  /// How often a rank says that it lives.
  std::chrono::milliseconds beat{1000};
  /// How often it looks whether another one has failed.
  std::chrono::milliseconds poll{250};
  /// How long a rank, or the store, may be silent before the run is ended.
  std::chrono::milliseconds silence{10'000};
  /// Where each rank writes its last calls when the run ends by a failure (parallel/rank_record.h);
  /// "": nowhere.
  std::filesystem::path record_folder = {};
  /// Called when another rank has failed, on a thread of the monitor, right before this process
  /// ends with status 3: what is left to be said and written. It has a second and a half. Empty:
  /// the failure's text goes to stderr.
  std::function<void(const RankFailure&)> last_words;
};

/// A rank's side of the agreement that the first failure ends all ranks.
///
///   watching ─fail()▶ failed            another rank's failure is seen while watching: the process
///   watching ─finish()▶ finished        ends, with status 3
///
/// A thread says about once a second that the rank lives, with its phase, step and calls, sooner in
/// another phase, and looks four times a second whether another rank has failed. It ends the
/// process then, since a thread that waits for a group cannot be woken. Rank 0's looks also whether
/// any rank has fallen silent. Another thread looks whether the first comes through: a store that
/// is stopped holds it up. Both sleep in between. With one rank there are none.
///
/// Threads: any for fail(), the owner's for the rest.
class Monitor {
 public:
  /// Where it stands.
  struct Place {
    int64_t rank = 0, size = 1;
    /// Whether the store ends with rank 0's process; else it is a launcher's, which outlives all.
    bool is_store_of_rank_0 = false;
  };

  /// `store` holds the keys of this attempt of the run; the recorder outlives the monitor. From its
  /// return on rank 0 misses this rank when it falls silent. Throws what the store does.
  Monitor(std::unique_ptr<Store> store,
          const Place& place,
          const Recorder& recorder,
          MonitorOptions options = {});
  /// A monitor that has neither failed nor finished tells the others that this rank has ended
  /// early.
  ~Monitor();
  Monitor(const Monitor&) = delete;
  Monitor& operator=(const Monitor&) = delete;

  /// Tells all ranks that this one has failed, and returns the failure that they are told: this
  /// one, or an earlier one of another rank. It returns within two seconds. A rank whose error is
  /// another one's (is_of_another_rank) waits for what that one has to say first.
  RankFailure fail(const std::string& code, const std::string& message) noexcept;

  /// Says that this rank has ended well, and returns; on rank 0, which watches the others and may
  /// have their store, when all have ended well. A failure of another one ends the process.
  void finish() noexcept;

 private:
  class Watch;
  // Shared with its threads: one that a store holds up is left behind.
  std::shared_ptr<Watch> watch_;
  std::thread beat_, guard_;
};

}  // namespace lockstep::parallel
