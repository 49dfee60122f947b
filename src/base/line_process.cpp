// SPDX-License-Identifier: Apache-2.0
#include "base/line_process.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "base/check.h"

namespace lockstep {
namespace {

using std::chrono::milliseconds;

/// How often a waiting call looks whether it is cancelled, and whether the program has ended.
constexpr milliseconds kCancelInterval{100};
/// How much of stderr is kept.
constexpr size_t kKeptStderr = size_t{64} << 10;

/// The process groups that run, for the signal handler; 0: a free place.
std::array<std::atomic<pid_t>, 256> groups{};
static_assert(std::atomic<pid_t>::is_always_lock_free, "a signal handler may only touch such");

void remember(pid_t group) {
  for (auto& place : groups) {
    pid_t none = 0;
    if (place.compare_exchange_strong(none, group)) return;
  }
}

void forget(pid_t group) {
  for (auto& place : groups) {
    pid_t found = group;
    if (place.compare_exchange_strong(found, 0)) return;
  }
}

/// A pipe whose ends no other program gets.
struct PipeEnds {
  std::array<int, 2> ends{-1, -1};
  PipeEnds() {
    if (::pipe2(ends.data(), O_CLOEXEC) != 0)
      fail<IoError>("no-pipe", "this process", "expected a pipe, got {}", std::strerror(errno));
  }
  ~PipeEnds() {
    for (const int end : ends)
      if (end >= 0) ::close(end);
  }
  PipeEnds(const PipeEnds&) = delete;
  PipeEnds& operator=(const PipeEnds&) = delete;
  /// Gives our end away, which does not block from now on.
  int take(size_t end) {
    ::fcntl(ends[end], F_SETFL, ::fcntl(ends[end], F_GETFL) | O_NONBLOCK);
    return std::exchange(ends[end], -1);
  }
};

/// What posix_spawn is told, freed at the end of the scope.
struct SpawnSettings {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  SpawnSettings() {
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    // A group of its own, and signals as a program expects them at its start.
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setflags(
        &attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  ~SpawnSettings() {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;
};

/// A write to a pipe that nobody reads is an error of that write here, and no signal, whatever the
/// rest of the process does about SIGPIPE.
class NoBrokenPipe {
 public:
  NoBrokenPipe() {
    sigemptyset(&broken_pipe_);
    sigaddset(&broken_pipe_, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &broken_pipe_, &before_);
  }
  ~NoBrokenPipe() {
    const int error = errno;
    const timespec now{};
    while (sigtimedwait(&broken_pipe_, nullptr, &now) > 0) continue;
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
    errno = error;
  }
  NoBrokenPipe(const NoBrokenPipe&) = delete;
  NoBrokenPipe& operator=(const NoBrokenPipe&) = delete;

 private:
  sigset_t broken_pipe_{}, before_{};
};

/// This process's environment with these variables.
std::vector<std::string> environment_with(
    const std::vector<std::pair<std::string, std::string>>& variables) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry; ++entry) {
    const std::string_view text = *entry;
    const bool is_replaced = std::any_of(variables.begin(), variables.end(), [&](const auto& one) {
      return text.starts_with(one.first + "=");
    });
    if (!is_replaced) all.emplace_back(text);
  }
  for (const auto& [name, value] : variables) all.push_back(name + "=" + value);
  return all;
}

std::vector<char*> pointers_to(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

/// "exit code 1", "signal 9".
std::string end_text(int status) {
  if (WIFSIGNALED(status)) return fmt::format("signal {}", WTERMSIG(status));
  return fmt::format("exit code {}", WEXITSTATUS(status));
}

}  // namespace

void end_line_processes() noexcept {
  for (auto& place : groups)
    if (const pid_t group = place.load(); group > 0) ::kill(-group, SIGKILL);
}

void LineProcess::Pipe::close() noexcept {
  if (descriptor >= 0) ::close(descriptor);
  descriptor = -1;
}

LineProcess::LineProcess(LineProgram program) : program_(std::move(program)) {
  LOCKSTEP_CHECK(!program_.arguments.empty(), "{} names no program", program_.name);
}

LineProcess::~LineProcess() { stop(); }

void LineProcess::start() {
  if (is_running()) return;
  PipeEnds in, out, err;
  SpawnSettings settings;
  posix_spawn_file_actions_adddup2(&settings.actions, in.ends[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&settings.actions, out.ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&settings.actions, err.ends[1], STDERR_FILENO);
  // Files and sockets of this process are none of its business.
  posix_spawn_file_actions_addclosefrom_np(&settings.actions, STDERR_FILENO + 1);
  auto arguments = program_.arguments;
  auto environment = environment_with(program_.variables);
  pid_t process = 0;
  const int error =
      ::posix_spawnp(&process, arguments[0].c_str(), &settings.actions, &settings.attributes,
                     pointers_to(arguments).data(), pointers_to(environment).data());
  if (error)
    fail<PeerError>("program-failed", program_.name, "expected to start {}, got {}", arguments[0],
                    std::strerror(error));
  process_ = process;
  remember(process);
  in_.descriptor = in.take(1);
  out_.descriptor = out.take(0);
  err_.descriptor = err.take(0);
  answer_.clear();
}

/// Waits until a pipe can be used, and no longer than `timeout_ms`.
void LineProcess::wait_for_events(bool writes, int timeout_ms) {
  std::array<pollfd, 3> pipes{{{out_.descriptor, POLLIN, 0},
                               {err_.descriptor, POLLIN, 0},
                               {writes ? in_.descriptor : -1, POLLOUT, 0}}};
  // A signal wakes it, too, which does no harm.
  ::poll(pipes.data(), pipes.size(), timeout_ms);
  is_writable_ = pipes[2].revents != 0;
}

/// Appends what there is; false at the end of the pipe, which it closes.
bool LineProcess::read_some(Pipe& pipe, std::string& into) {
  std::array<char, 1 << 16> buffer;
  while (pipe.descriptor >= 0) {
    const ssize_t count = ::read(pipe.descriptor, buffer.data(), buffer.size());
    if (count > 0) {
      into.append(buffer.data(), static_cast<size_t>(count));
      if (into.size() > program_.longest_line) return true;
    } else if (count < 0 && errno == EINTR) {
      continue;
    } else if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      return true;
    } else {
      pipe.close();
    }
  }
  return false;
}

void LineProcess::write_some(std::string_view& rest) {
  const NoBrokenPipe guard;
  const ssize_t count = ::write(in_.descriptor, rest.data(), rest.size());
  if (count > 0) rest.remove_prefix(static_cast<size_t>(count));
  // Without a reader the program has ended or will never answer; its stdout says which.
  if (count < 0 && errno == EPIPE) rest = {};
}

/// Throws where it has written a line that nobody has asked for.
void LineProcess::expect_silence() {
  constexpr size_t kShown = 200;
  if (!program_.one_line_each) return;
  read_some(out_, answer_);
  if (answer_.empty()) return;
  const std::string got = answer_.substr(0, std::min(answer_.find('\n'), kShown));
  stop();
  fail<PeerError>("program-failed", program_.name,
                  "expected one line for each that it is asked, got another one: {} (what is no "
                  "answer belongs on stderr)",
                  got);
}

std::string LineProcess::ask(std::string_view line,
                             milliseconds timeout,
                             const std::function<bool()>& cancelled) {
  start();
  expect_silence();
  const auto deadline = Clock::now() + timeout;
  const std::string message = std::string(line) + "\n";
  std::string_view rest = message;
  while (true) {
    wait_for_events(!rest.empty(), static_cast<int>(kCancelInterval.count()));
    if (!rest.empty() && is_writable_) write_some(rest);
    const bool is_open = read_some(out_, answer_);
    read_some(err_, stderr_);
    if (stderr_.size() > kKeptStderr) stderr_.erase(0, stderr_.size() - kKeptStderr);
    const size_t end = answer_.find('\n');
    if (end != answer_.npos && end <= program_.longest_line) {
      std::string answer = answer_.substr(0, end);
      answer_.erase(0, end + 1);
      return answer;
    }
    if (answer_.size() > program_.longest_line) {
      stop();
      fail<PeerError>("program-failed", program_.name,
                      "expected an answer of one line of at most {} bytes, got more",
                      program_.longest_line);
    }
    if (!is_open) fail_as_ended();
    if (cancelled && cancelled()) {
      stop();
      fail<InterruptedError>("interrupted", program_.name,
                             "expected an answer, got a cancellation");
    }
    if (Clock::now() >= deadline) {
      stop();
      fail<PeerError>("deadline", program_.name, "expected an answer within {:.4g} s, got none{}",
                      static_cast<double>(timeout.count()) / 1000, last_words());
    }
  }
}

/// Its stdout has ended, and so has it, or it is no more use.
void LineProcess::fail_as_ended() {
  const auto deadline = Clock::now() + program_.grace;
  int status = reap(false);
  while (status < 0 && Clock::now() < deadline) {
    std::this_thread::sleep_for(milliseconds(5));
    status = reap(false);
  }
  read_some(err_, stderr_);
  const std::string words = last_words();
  stop();
  fail<PeerError>("program-failed", program_.name, "expected an answer, got {}{}",
                  status < 0 ? "the end of its stdout" : end_text(status), words);
}

/// The end of its stderr, for errors.
std::string LineProcess::last_words() const {
  constexpr size_t kMost = 300;
  std::string text = stderr_;
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  if (text.empty()) return "";
  const size_t line = text.rfind('\n');
  if (line != text.npos) text.erase(0, line + 1);
  if (text.size() > kMost) text.erase(0, text.size() - kMost);
  return " (the end of its stderr: " + text + ")";
}

/// Takes the status of the program if it has ended; -1 where it has not.
int LineProcess::reap(bool block) noexcept {
  if (process_ <= 0) return -1;
  int status = 0;
  pid_t ended = 0;
  do ended = ::waitpid(process_, &status, block ? 0 : WNOHANG);
  while (ended < 0 && errno == EINTR);
  if (ended == 0) return -1;
  // What it has started may still run.
  ::kill(-process_, SIGKILL);
  forget(process_);
  process_ = 0;
  return status;
}

void LineProcess::stop() noexcept {
  in_.close();
  const auto deadline = Clock::now() + program_.grace;
  while (is_running() && reap(false) < 0) {
    if (Clock::now() >= deadline) {
      ::kill(-process_, SIGKILL);
      reap(true);
      break;
    }
    std::this_thread::sleep_for(milliseconds(5));
  }
  out_.close();
  err_.close();
  answer_.clear();
}

std::string LineProcess::take_stderr() {
  if (err_.descriptor >= 0) read_some(err_, stderr_);
  return std::exchange(stderr_, "");
}

}  // namespace lockstep
