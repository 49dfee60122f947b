// SPDX-License-Identifier: Apache-2.0
#include "parallel/mesh_group.h"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <numeric>
#include <string>
#include <string_view>
#include <thread>
#include <type_traits>
#include <utility>

#include <fmt/ranges.h>

#include "base/check.h"

namespace lockstep::parallel {
namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::milliseconds;
using Parts = std::vector<std::span<const std::byte>>;
using Places = std::vector<std::span<std::byte>>;

/// What a rank says to another at the beginning of a call.
struct Greeting {
  /// Longer texts of calls are told, and compared, by their beginnings.
  static constexpr size_t kTextBytes = 256;
  /// So many bytes or fewer come with the greeting, which saves a round: the rows of the few tokens
  /// of a sampler's step do. Each rank has room for so many from each other.
  static constexpr int64_t kFewBytes = 65536;

  /// What its rank sends to the other, and expects of it.
  int64_t sends = 0, expects = 0;
  /// The call, as errors show it.
  uint64_t text_bytes = 0;
  std::array<char, kTextBytes> text{};
  std::array<std::byte, kFewBytes> few{};

  std::string_view text_view() const { return {text.data(), std::min(text_bytes, kTextBytes)}; }
  /// What of it is sent.
  std::span<const std::byte> bytes() const {
    const size_t unused = few.size() - (sends <= kFewBytes ? static_cast<size_t>(sends) : 0);
    return std::as_bytes(std::span(this, 1)).first(sizeof(Greeting) - unused);
  }
  std::span<std::byte> room() { return std::as_writable_bytes(std::span(this, 1)); }
};
static_assert(std::is_trivially_copyable_v<Greeting>);

void copy_bytes(std::span<const std::byte> from, std::span<std::byte> to) {
  if (!from.empty()) std::memcpy(to.data(), from.data(), from.size());
}

/// A call that a rank has begun.
class Job {
 public:
  Job(std::string what,
      const std::string& call,
      Milliseconds time,
      uint64_t number,
      Parts parts,
      Places places)
      : operation(std::move(what)),
        name(call),
        deadline(time),
        end(Clock::now() + time),
        sequence(number),
        sent(std::move(parts)),
        received(std::move(places)) {}

  // What it does, by rank: "all-gather".
  const std::string operation, name;
  const Milliseconds deadline;
  const Clock::time_point end;
  const uint64_t sequence;
  const Parts sent;
  const Places received;

  /// "all-gather "gradients of layer 3"", which all ranks say alike.
  std::string text() const { return fmt::format("{} \"{}\"", operation, name); }
  /// Throws the PeerError of ranks that have not come, or of one that is gone.
  [[noreturn]] void fail_as_late(const std::vector<int64_t>& ranks, int64_t here) const {
    fail<PeerError>("rank-late", name, "expected rank{} {} in {} #{} within {} ms on rank {}",
                    ranks.size() > 1 ? "s" : "", fmt::join(ranks, " "), operation, sequence,
                    deadline.count(), here);
  }
  [[noreturn]] void fail_as_lost(int64_t rank, int64_t here, std::string_view why) const {
    fail<PeerError>("rank-lost", name, "expected rank {} in {} #{} on rank {}, got: {}", rank,
                    operation, sequence, here, why);
  }

  /// Waits for a transfer of this call; false where the call is cancelled.
  bool wait_for(Transfer& transfer) {
    {
      const std::lock_guard lock(mutex_);
      if (cancelled_) return false;
      current_ = &transfer;
    }
    const auto left = std::chrono::ceil<Milliseconds>(end - Clock::now());
    bool is_done = false;
    std::exception_ptr error;
    try {
      is_done = transfer.wait(std::max(left, Milliseconds(1)));
    } catch (...) {
      error = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    current_ = nullptr;
    if (error) std::rethrow_exception(error);
    return is_done && !cancelled_;
  }
  void finish(std::exception_ptr error) {
    const std::lock_guard lock(mutex_);
    error_ = std::move(error);
    is_done_ = true;
    changed_.notify_all();
  }
  void cancel() {
    const std::lock_guard lock(mutex_);
    cancelled_ = true;
    if (current_) current_->cancel();
  }
  void join() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return is_done_; });
  }
  void join_or_throw() {
    join();
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool is_done_ = false, cancelled_ = false;
  Transfer* current_ = nullptr;
  std::exception_ptr error_;
};

class JobPending : public Pending {
 public:
  // The group's thread and the caller's let go of it in any order.
  explicit JobPending(std::shared_ptr<Job> job) : job_(std::move(job)) {}
  ~JobPending() override {
    if (is_waited_for_) return;
    job_->cancel();
    job_->join();
  }
  void wait() override {
    is_waited_for_ = true;
    job_->join_or_throw();
  }

 private:
  std::shared_ptr<Job> job_;
  bool is_waited_for_ = false;
};

/// The messages of one round of a call.
class Round {
 public:
  Round(Mesh& mesh, Job& job, uint32_t tag) : mesh_(mesh), job_(job), tag_(tag) {}

  void receive(std::span<std::byte> bytes, int64_t from) {
    add(received_, from, [&] { return mesh_.receive(bytes, from, tag_); });
  }
  void send(std::span<const std::byte> bytes, int64_t to) {
    add(sent_, to, [&] { return mesh_.send(bytes, to, tag_); });
  }
  void wait() {
    for (auto* transfers : {&received_, &sent_})
      for (size_t i = 0; i < transfers->size(); ++i) try {
          if (!job_.wait_for(*(*transfers)[i].transfer))
            fail<PeerError>("rank-lost", job_.name, "{} #{} was given up on rank {}",
                            job_.operation, job_.sequence, mesh_.rank());
        } catch (const Error&) {
          throw;
        } catch (const std::exception& error) {
          fail_at(*transfers, i, error.what());
        }
  }

 private:
  struct Message {
    int64_t rank;
    std::unique_ptr<Transfer> transfer;
  };

  template <class Make>
  void add(std::vector<Message>& transfers, int64_t rank, Make&& make) {
    try {
      transfers.push_back({rank, make()});
    } catch (const std::exception& error) {
      job_.fail_as_lost(rank, mesh_.rank(), error.what());
    }
  }
  [[noreturn]] void fail_at(std::vector<Message>& transfers, size_t first, const char* why) {
    if (Clock::now() < job_.end) job_.fail_as_lost(transfers[first].rank, mesh_.rank(), why);
    // Others may be missing as well: those whose messages have come are done at once.
    std::vector<int64_t> missing{transfers[first].rank};
    for (size_t i = first + 1; i < transfers.size(); ++i) try {
        if (!transfers[i].transfer->wait(Milliseconds(1))) missing.push_back(transfers[i].rank);
      } catch (const std::exception&) {
        missing.push_back(transfers[i].rank);
      }
    job_.fail_as_late(missing, mesh_.rank());
  }

  Mesh& mesh_;
  Job& job_;
  uint32_t tag_;
  std::vector<Message> received_, sent_;
};

class MeshGroup : public Group {
 public:
  MeshGroup(std::unique_ptr<Mesh> mesh, Milliseconds call_deadline)
      : call_deadline_(call_deadline),
        mesh_(std::move(mesh)),
        rank_(mesh_->rank()),
        size_(mesh_->size()),
        said_(static_cast<size_t>(size_)),
        heard_(said_.size()),
        thread_([this] { run(); }) {}

  ~MeshGroup() override {
    {
      const std::lock_guard lock(mutex_);
      is_stopping_ = true;
      for (const auto& job : jobs_) job->cancel();
      changed_.notify_all();
    }
    thread_.join();
  }

  int64_t rank() const override { return rank_; }
  int64_t size() const override { return size_; }

  std::unique_ptr<Pending> begin_all_to_all(std::span<const std::byte> send,
                                            std::span<const int64_t> send_counts,
                                            std::span<std::byte> receive,
                                            std::span<const int64_t> receive_counts,
                                            const Call& call) override {
    return begin("all-to-all", call, cut(send, send_counts, call),
                 cut(receive, receive_counts, call));
  }

  std::unique_ptr<Pending> begin_all_gather(std::span<const std::byte> own,
                                            std::span<std::byte> all,
                                            const Call& call) override {
    const auto ranks = static_cast<size_t>(size_);
    return begin("all-gather", call, Parts(ranks, own),
                 cut(all, std::vector(ranks, std::ssize(own)), call));
  }

  std::unique_ptr<Pending> begin_broadcast(std::span<std::byte> bytes,
                                           int64_t root,
                                           const Call& call) override {
    LOCKSTEP_CHECK(root >= 0 && root < size_, "{}: rank {} of {}", call.name, root, size_);
    Parts sent(static_cast<size_t>(size_));
    Places received(sent.size());
    const auto from = static_cast<size_t>(root);
    if (rank_ == root) {
      sent.assign(sent.size(), bytes);
      sent[from] = {};
    } else {
      received[from] = bytes;
    }
    return begin(fmt::format("broadcast of rank {}", root), call, std::move(sent),
                 std::move(received));
  }

 private:
  /// The bytes by rank, `counts` of them behind one another.
  template <class Byte>
  std::vector<std::span<Byte>> cut(std::span<Byte> bytes,
                                   std::span<const int64_t> counts,
                                   const Call& call) const {
    LOCKSTEP_CHECK(std::ssize(counts) == size_, "{}: {} counts for {} ranks", call.name,
                   counts.size(), size_);
    int64_t sum = 0;
    for (const int64_t count : counts) {
      LOCKSTEP_CHECK(count >= 0, "{}: a count of {}", call.name, count);
      sum += count;
    }
    LOCKSTEP_CHECK(sum == std::ssize(bytes), "{}: the counts are not those of {} bytes", call.name,
                   bytes.size());
    std::vector<std::span<Byte>> parts;
    for (const int64_t count : counts) {
      parts.push_back(bytes.first(static_cast<size_t>(count)));
      bytes = bytes.subspan(static_cast<size_t>(count));
    }
    return parts;
  }

  std::unique_ptr<Pending> begin(std::string operation,
                                 const Call& call,
                                 Parts sent,
                                 Places received) {
    const auto job = std::make_shared<Job>(std::move(operation), call.name,
                                           call.deadline.value_or(call_deadline_), ++num_calls_,
                                           std::move(sent), std::move(received));
    const std::lock_guard lock(mutex_);
    jobs_.push_back(job);
    changed_.notify_all();
    return std::make_unique<JobPending>(job);
  }

  /// The thread: makes the calls in their order.
  void run() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [&] { return is_stopping_ || !jobs_.empty(); });
      if (jobs_.empty()) return;
      // It stays in the queue while it runs, so that the destructor can cancel it.
      const std::shared_ptr<Job> job = jobs_.front();
      lock.unlock();
      job->finish(error_of(*job));
      lock.lock();
      jobs_.pop_front();
    }
  }

  std::exception_ptr error_of(Job& job) {
    try {
      if (!mesh_)
        fail<PeerError>("rank-lost", job.name, "expected {} ranks, got a group that has ended: {}",
                        size_, failure_);
      make(job);
      return nullptr;
    } catch (const InternalError&) {
      return std::current_exception();
    } catch (const std::exception& error) {
      if (mesh_) failure_ = error.what();
      // The others' waits for this rank end with its connections.
      mesh_.reset();
      return std::current_exception();
    }
  }

  void make(Job& job) {
    greet(job);
    const std::string fault = fault_of(job);
    if (!fault.empty()) fail<InternalError>("rank-call", job.name, "{}", fault);
    Round round(*mesh_, job, tag_of(job, 1));
    for (size_t r = 0; r < said_.size(); ++r)
      if (!is_here(r) && heard_[r].sends > Greeting::kFewBytes)
        round.receive(job.received[r], static_cast<int64_t>(r));
    for (size_t r = 0; r < said_.size(); ++r)
      if (!is_here(r) && said_[r].sends > Greeting::kFewBytes)
        round.send(job.sent[r], static_cast<int64_t>(r));
    for (size_t r = 0; r < said_.size(); ++r) {
      if (is_here(r))
        copy_bytes(job.sent[r], job.received[r]);
      else if (heard_[r].sends <= Greeting::kFewBytes)
        copy_bytes(std::span(heard_[r].few).first(job.received[r].size()), job.received[r]);
    }
    round.wait();
  }

  /// Tells each rank of this call, and hears of theirs.
  void greet(Job& job) {
    const std::string text = job.text();
    Round round(*mesh_, job, tag_of(job, 0));
    for (size_t r = 0; r < said_.size(); ++r) {
      Greeting& said = said_[r];
      said.sends = std::ssize(job.sent[r]);
      said.expects = std::ssize(job.received[r]);
      said.text_bytes = std::min(text.size(), Greeting::kTextBytes);
      std::copy_n(text.data(), said.text_bytes, said.text.data());
      if (said.sends <= Greeting::kFewBytes) copy_bytes(job.sent[r], said.few);
      if (is_here(r)) continue;
      round.receive(heard_[r].room(), static_cast<int64_t>(r));
    }
    heard_[static_cast<size_t>(rank_)] = said_[static_cast<size_t>(rank_)];
    for (size_t r = 0; r < said_.size(); ++r)
      if (!is_here(r)) round.send(said_[r].bytes(), static_cast<int64_t>(r));
    round.wait();
  }

  /// Why the ranks' calls do not fit together, as far as this rank sees; empty if they do.
  std::string fault_of(const Job& job) const {
    const std::string_view first = heard_[0].text_view();
    for (size_t r = 0; r < heard_.size(); ++r)
      if (heard_[r].text_view() != first)
        return fmt::format("expected {} as on rank 0, got {} on rank {}", first,
                           heard_[r].text_view(), r);
    for (size_t r = 0; r < heard_.size(); ++r) {
      const int64_t expected = std::ssize(job.received[r]), sent = std::ssize(job.sent[r]);
      if (heard_[r].sends != expected)
        return fmt::format("expected {} bytes of rank {} on rank {}, got {}", expected, r, rank_,
                           heard_[r].sends);
      if (heard_[r].expects != sent)
        return fmt::format("expected {} bytes of rank {} on rank {}, got {}", heard_[r].expects,
                           rank_, r, sent);
    }
    return {};
  }

  bool is_here(size_t rank) const { return static_cast<int64_t>(rank) == rank_; }
  /// The tag of a round of a call. Those in use at once are of a few calls that follow one another.
  static uint32_t tag_of(const Job& job, uint32_t round) {
    constexpr uint64_t kTags = uint64_t{1} << 31;
    return static_cast<uint32_t>((2 * job.sequence + round) % kTags);
  }

  const Milliseconds call_deadline_;
  // The thread's, as are what was said and heard in the call that it makes.
  std::unique_ptr<Mesh> mesh_;
  const int64_t rank_, size_;
  std::vector<Greeting> said_, heard_;
  std::string failure_;

  // The caller's.
  uint64_t num_calls_ = 0;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Job>> jobs_;
  bool is_stopping_ = false;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<Group> make_mesh_group(std::unique_ptr<Mesh> mesh, Milliseconds call_deadline) {
  return std::make_unique<MeshGroup>(std::move(mesh), call_deadline);
}

}  // namespace lockstep::parallel
