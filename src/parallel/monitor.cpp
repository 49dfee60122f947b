// SPDX-License-Identifier: Apache-2.0
#include "parallel/monitor.h"

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/json.h"
#include "parallel/rank_record.h"

namespace lockstep::parallel {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::milliseconds;

// What the other ranks' monitors read: part of the protocol between the processes of one build.
constexpr const char* kFailure = "failure";
constexpr const char* kNumFailures = "failures";
constexpr const char* kNumTold = "told";
/// What a rank has met, before it is told to all.
std::string own_key(int64_t rank) { return fmt::format("failure of {}", rank); }
std::string beat_key(int64_t rank) { return fmt::format("beat/{}", rank); }

/// The exit code of a process whose peer has failed.
constexpr int kPeerFailed = 3;
/// How long a rank whose peer is gone waits for what that one says, and how long the rank that has
/// the store keeps it for the others.
constexpr auto kGrace = 500ms, kKeepStore = 600ms;
/// How long fail() and the destructor wait for the thread.
constexpr auto kLongest = 2000ms;
constexpr auto kLastWords = 1500ms;

std::string json_of(const RankFailure& failure) {
  return dump_json(Json{{"rank", failure.rank},
                        {"phase", failure.phase},
                        {"step", failure.step},
                        {"call", failure.call},
                        {"code", failure.code},
                        {"message", failure.message}});
}

RankFailure failure_of(const std::string& text) {
  const Json json = parse_json(text, "the store's failure");
  return {.rank = json.at("rank"),
          .phase = json.at("phase"),
          .step = json.at("step"),
          .call = json.at("call"),
          .code = json.at("code"),
          .message = json.at("message")};
}

/// The rank that a "rank-lost" names (parallel/mesh_group.cpp).
std::optional<int64_t> lost_rank(const RankFailure& failure) {
  constexpr std::string_view kBefore = "expected rank ";
  const size_t at = failure.message.find(kBefore);
  if (failure.code != "rank-lost" || at == std::string::npos) return std::nullopt;
  return std::strtoll(failure.message.c_str() + at + kBefore.size(), nullptr, 10);
}

/// A call as a failure names it.
std::string text_of(const RankProgress& progress) {
  if (!progress.last_call) return {};
  return (progress.last_call->is_done ? "after " : "in ") + progress.last_call->text();
}

/// A sign of life.
struct Beat {
  uint64_t count = 0;
  bool is_finished = false;
  std::string phase;
  int64_t step = 0;
  std::string call;

  std::string text() const {
    return dump_json(Json{{"count", count},
                          {"finished", is_finished},
                          {"phase", phase},
                          {"step", step},
                          {"call", call}});
  }
  static Beat of(const std::string& text) {
    const Json json = parse_json(text, "a rank's sign of life");
    return {.count = json.at("count"),
            .is_finished = json.at("finished"),
            .phase = json.at("phase"),
            .step = json.at("step"),
            .call = json.at("call")};
  }
};

}  // namespace

bool is_of_another_rank(std::string_view code) {
  return code == "rank-lost" || code == "rank-failed";
}

bool is_of_silent_rank(std::string_view code) {
  return code == "rank-silent" || code == "store-late" || code == "store-lost";
}

std::string RankFailure::place() const {
  std::string where = fmt::format("rank {}", rank);
  if (!phase.empty()) where += ", " + phase;
  if (!phase.empty() && step > 0) where += fmt::format(" of step {}", step);
  if (!call.empty()) where += ", " + call;
  return where;
}

std::string RankFailure::text() const { return place() + ": " + message; }

/// What the threads and the owner share.
class Monitor::Watch {
 public:
  Watch(std::unique_ptr<Store> store,
        const Place& place,
        const Recorder& recorder,
        MonitorOptions options)
      : place_(place),
        options_(std::move(options)),
        recorder_(&recorder),
        store_(std::move(store)),
        seen_(static_cast<size_t>(place.size)) {}

  const Place& place() const { return place_; }

  /// The first sign of life: from here on the rank is missed. Before the first thread.
  void begin() {
    next_beat_ = Clock::now() + options_.beat;
    send_beat(false);
    last_cycle_ = Clock::now();
  }

  /// The first thread: everything that asks the store.
  void beat() {
    try {
      while (!is_cycle_the_last()) wait_for_next();
    } catch (const std::exception& error) {
      fail_of_store("store-lost", error.what());
    }
    const std::lock_guard lock(mutex_);
    is_over_ = true;
    changed_.notify_all();
  }

  /// The second thread: looks whether the first comes through.
  void guard() {
    std::unique_lock lock(mutex_);
    while (!is_over_ && !is_left_) {
      const Clock::time_point limit = last_cycle_ + options_.silence;
      if (changed_.wait_until(lock, limit, [&] { return is_over_ || is_left_; })) return;
      const auto now = Clock::now();
      if (last_cycle_ + options_.silence > now) continue;
      if (now > limit + 1s) {
        // This process was stopped itself.
        last_cycle_ = now;
        continue;
      }
      lock.unlock();
      fail_of_store("store-late", fmt::format("expected an answer of the store within {} ms, got "
                                              "none",
                                              options_.silence.count()));
      lock.lock();
      return;
    }
  }

  RankFailure fail(const std::string& code, const std::string& message) {
    const RankFailure own = failure_here(code, message);
    if (place_.size == 1) return own;
    std::unique_lock lock(mutex_);
    if (!own_failure_) {
      own_failure_ = own;
      publish_at_ = Clock::now() + (is_of_another_rank(code) ? kGrace : 0ms);
      kick();
    }
    lock.unlock();
    write_record();
    lock.lock();
    is_given_up_ |= !changed_.wait_for(lock, kLongest, [&] { return is_over_ || is_given_up_; });
    return told_ ? *told_ : own;
  }

  void finish() {
    std::unique_lock lock(mutex_);
    if (own_failure_) return;
    is_finished_ = true;
    kick();
    const auto is_over = [&] { return is_over_; };
    if (place_.rank == 0)
      changed_.wait(lock, is_over);
    else
      changed_.wait_for(lock, kLongest, is_over);
  }

  bool has_ended() {
    const std::lock_guard lock(mutex_);
    return is_finished_ || own_failure_;
  }

  /// Waits for the first thread's end, and takes care that none of them ends the process later;
  /// false where a store holds it up.
  bool leave() {
    std::unique_lock lock(mutex_);
    kick();
    changed_.wait_for(lock, kLongest, [&] { return is_over_ || is_given_up_; });
    is_left_ = true;
    changed_.notify_all();
    return is_over_;
  }

 private:
  // The first thread's.

  bool is_cycle_the_last() {
    if (look_for_failure()) return true;
    std::optional<RankFailure> own;
    bool is_finished = false, is_due = false;
    {
      const std::lock_guard lock(mutex_);
      own = own_failure_;
      is_due = Clock::now() >= publish_at_;
      is_finished = is_finished_;
    }
    if (own && !is_due && !is_noted_) {
      store_->set(own_key(place_.rank), json_of(*own));
      is_noted_ = true;
    }
    if (own && is_due) {
      publish(cause_of(*own));
      return true;
    }
    const auto now = Clock::now();
    if (now >= next_beat_ || is_finished != is_beat_of_finished_ || is_elsewhere()) {
      next_beat_ = now + options_.beat;
      is_beat_of_finished_ = is_finished;
      send_beat(is_finished);
    }
    if (place_.rank == 0 && (now >= next_look_ || is_finished) && look_for_silence(now))
      return true;
    const bool watches = place_.rank == 0 && !std::ranges::all_of(seen_, &Seen::is_finished);
    if (is_finished && !watches) return true;
    const std::lock_guard lock(mutex_);
    last_cycle_ = Clock::now();
    return false;
  }

  void wait_for_next() {
    std::unique_lock lock(mutex_);
    auto until = Clock::now() + options_.poll;
    if (own_failure_) until = std::min(until, std::max(publish_at_, Clock::now() + 10ms));
    // The last one to end well is not waited for longer than needed.
    if (is_finished_) until = std::min(until, Clock::now() + 50ms);
    changed_.wait_until(lock, until, [&] { return is_kicked_; });
    is_kicked_ = false;
  }

  /// Whether the rank has gone on to another phase than it has said; the others say of one that
  /// falls silent where it was.
  bool is_elsewhere() const {
    const RankProgress progress = recorder_->progress();
    return progress.phase != told_phase_ || progress.step != told_step_;
  }

  void send_beat(bool is_finished) {
    const RankProgress progress = recorder_->progress();
    told_phase_ = progress.phase;
    told_step_ = progress.step;
    store_->set(beat_key(place_.rank), Beat{.count = ++num_beats_,
                                            .is_finished = is_finished,
                                            .phase = progress.phase,
                                            .step = progress.step,
                                            .call = text_of(progress)}
                                           .text());
    seen_[static_cast<size_t>(place_.rank)].is_finished = is_finished;
  }

  /// True when another rank has failed and this one goes on only to say so.
  bool look_for_failure() {
    if (!store_->has(kFailure)) return false;
    tell(failure_of(store_->get(kFailure, options_.silence)));
    return true;
  }

  /// A rank that has lost another one gives up its messages with all, which lose it in turn: what
  /// was first is at the end of that chain.
  RankFailure cause_of(const RankFailure& failure) {
    RankFailure cause = failure;
    for (int64_t link = 0; link < place_.size; ++link) {
      const std::optional<int64_t> lost = lost_rank(cause);
      if (!lost || !store_->has(own_key(*lost))) break;
      cause = failure_of(store_->get(own_key(*lost), options_.silence));
    }
    return cause;
  }

  /// Tells all ranks of a failure, unless another one was first.
  void publish(const RankFailure& failure) {
    if (store_->add(kNumFailures, 1) == 1) store_->set(kFailure, json_of(failure));
    tell(failure_of(store_->get(kFailure, options_.silence)));
  }

  /// Makes the failure known here, and ends the process unless its owner has failed as well.
  void tell(const RankFailure& failure) {
    store_->add(kNumTold, 1);
    const auto end = Clock::now() + kKeepStore;
    while (has_store() && store_->add(kNumTold, 0) < place_.size && Clock::now() < end)
      std::this_thread::sleep_for(20ms);
    end_unless_failed(failure);
  }

  bool has_store() const { return place_.is_store_of_rank_0 && place_.rank == 0; }

  /// True when a rank has been silent for too long.
  bool look_for_silence(Clock::time_point now) {
    // What this process slept is no silence of the others.
    const auto elapsed = std::min<Clock::duration>(now - last_look_, 2 * options_.beat);
    next_look_ = now + options_.beat;
    last_look_ = now;
    for (int64_t rank = 1; rank < place_.size; ++rank) {
      Seen& seen = seen_[static_cast<size_t>(rank)];
      // One that has not come yet is waited for by those who join.
      if (seen.is_finished || !store_->has(beat_key(rank))) continue;
      seen.silent += elapsed;
      const Beat beat = Beat::of(store_->get(beat_key(rank), options_.silence));
      if (beat.count != seen.beat.count) seen.silent = {};
      seen.beat = beat;
      seen.is_finished = beat.is_finished;
      if (seen.silent <= options_.silence) continue;
      publish({.rank = rank,
               .phase = seen.beat.phase,
               .step = seen.beat.step,
               .call = seen.beat.call,
               .code = "rank-silent",
               .message = fmt::format("expected a sign of life within {} ms, got none",
                                      options_.silence.count())});
      return true;
    }
    return false;
  }

  // Any thread's.

  RankFailure failure_here(const std::string& code, const std::string& message) const {
    const RankProgress progress = recorder_->progress();
    return {.rank = place_.rank,
            .phase = progress.phase,
            .step = progress.step,
            .call = text_of(progress),
            .code = code,
            .message = message};
  }

  void fail_of_store(const char* code, const std::string& message) {
    RankFailure failure = failure_here(code, message);
    // What rank 0 did is not known here.
    if (place_.is_store_of_rank_0)
      failure = {.rank = 0,
                 .code = code,
                 .message = fmt::format("{} (this rank has the store); seen by {}", message,
                                        failure.place())};
    {
      const std::lock_guard lock(mutex_);
      if (own_failure_) {
        // Where this rank has only missed another one, that may have ended for the same reason.
        // What its owner waits for will not come.
        const bool misses = own_failure_->code == "rank-lost" || own_failure_->code == "rank-late";
        if (misses && !told_) told_ = failure;
        is_given_up_ = true;
        changed_.notify_all();
        return;
      }
      if (is_finished_ && place_.rank != 0) return;
    }
    end_unless_failed(failure);
  }

  /// Ends the process, unless its owner has failed and says so itself.
  void end_unless_failed(const RankFailure& failure) {
    {
      const std::lock_guard lock(mutex_);
      if (is_left_ || told_) return;
      told_ = failure;
      if (own_failure_) return;
    }
    // Whatever becomes of the last words, the others' waits for this rank end.
    std::thread([] {
      std::this_thread::sleep_for(kLastWords);
      ::_exit(kPeerFailed);
    }).detach();
    write_record();
    try {
      if (options_.last_words)
        options_.last_words(failure);
      else
        fmt::print(stderr, "lockstep: error[{}]: {}\n", failure.code, failure.text());
    } catch (const std::exception&) {
      // The process ends in any case.
    }
    ::_exit(kPeerFailed);
  }

  void write_record() const {
    if (options_.record_folder.empty()) return;
    try {
      write_rank_record(options_.record_folder, place_.rank, place_.size, *recorder_);
    } catch (const std::exception&) {
      // The run ends for another reason, which the user is told.
    }
  }

  /// With the lock: the first thread looks at once.
  void kick() {
    is_kicked_ = true;
    changed_.notify_all();
  }

  const Place place_;
  const MonitorOptions options_;
  const Recorder* const recorder_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_kicked_ = false, is_finished_ = false;
  // The first thread has ended; the owner is gone; the store does not answer.
  bool is_over_ = false, is_left_ = false, is_given_up_ = false;
  std::optional<RankFailure> own_failure_, told_;
  Clock::time_point publish_at_, last_cycle_ = Clock::now();

  // The first thread's.
  struct Seen {
    Beat beat;
    Clock::duration silent{};
    bool is_finished = false;
  };
  std::unique_ptr<Store> store_;
  std::vector<Seen> seen_;
  uint64_t num_beats_ = 0;
  std::string told_phase_;
  int64_t told_step_ = 0;
  bool is_beat_of_finished_ = false, is_noted_ = false;
  Clock::time_point next_beat_{}, next_look_{}, last_look_ = Clock::now();
};

Monitor::Monitor(std::unique_ptr<Store> store,
                 const Place& place,
                 const Recorder& recorder,
                 MonitorOptions options)
    : watch_(std::make_shared<Watch>(std::move(store), place, recorder, std::move(options))) {
  if (place.size == 1) return;
  watch_->begin();
  beat_ = std::thread([watch = watch_] { watch->beat(); });
  guard_ = std::thread([watch = watch_] { watch->guard(); });
}

Monitor::~Monitor() {
  if (watch_->place().size == 1) return;
  if (!watch_->has_ended()) fail("rank-ended", "expected a whole run, got an early end");
  if (watch_->leave())
    beat_.join();
  else
    beat_.detach();
  guard_.join();
}

RankFailure Monitor::fail(const std::string& code, const std::string& message) noexcept {
  return watch_->fail(code, message);
}

void Monitor::finish() noexcept {
  if (watch_->place().size > 1) watch_->finish();
}

}  // namespace lockstep::parallel
