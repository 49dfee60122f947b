// SPDX-License-Identifier: Apache-2.0
#include "tests/support/run_program.h"

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <stdexcept>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "tests/support/source_dir.h"

extern char** environ;

namespace lockstep::testing {
namespace {

/// Pointers to the strings and a null, as exec wants them.
std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> list;
  for (auto& text : strings) list.push_back(text.data());
  list.push_back(nullptr);
  return list;
}

std::vector<std::string> environment_with(const ProgramWorld& world) {
  std::vector<std::string> list;
  for (char** entry = environ; *entry; ++entry) {
    bool is_replaced = false;
    for (const auto& [name, value] : world.variables)
      is_replaced |= std::strncmp(*entry, (name + "=").c_str(), name.size() + 1) == 0;
    if (!is_replaced) list.emplace_back(*entry);
  }
  for (const auto& [name, value] : world.variables) list.push_back(name + "=" + value);
  return list;
}

/// Between fork and exec: system calls only.
void redirect(const char* path, int flags, int descriptor) {
  const int opened = ::open(path, flags, 0600);
  if (opened < 0 || ::dup2(opened, descriptor) < 0) ::_exit(126);
  ::close(opened);
}

void limit_files(uint64_t bytes) {
  ::signal(SIGXFSZ, SIG_IGN);  // the write then fails with an error
  const struct rlimit limit = {bytes, bytes};
  if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) ::_exit(126);
}

}  // namespace

std::string program_path() {
  const char* other = std::getenv("LOCKSTEP_TEST_PROGRAM");
  return other ? other : built_program();
}

std::string shell_word(const std::string& text) {
  std::string word = "'";
  for (const char c : text) word += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return word + "'";
}

RunningProgram::RunningProgram(const std::vector<std::string>& arguments,
                               const ProgramWorld& world) {
  std::vector<std::string> words = {world.program.empty() ? program_path() : world.program},
                           environment = environment_with(world);
  words.insert(words.end(), arguments.begin(), arguments.end());
  const auto argv = pointers(words), envp = pointers(environment);
  const std::string in = world.input.string(), out = (folder_ / "out").string(),
                    err = (folder_ / "err").string(), directory = world.directory.string();
  process_ = ::fork();
  if (process_ < 0) throw std::runtime_error("fork failed");
  if (process_ > 0) return;
  redirect(in.c_str(), O_RDONLY, 0);
  redirect(out.c_str(), O_WRONLY | O_CREAT, 1);
  redirect(err.c_str(), O_WRONLY | O_CREAT, 2);
  if (!directory.empty() && ::chdir(directory.c_str()) != 0) ::_exit(126);
  if (world.file_limit) limit_files(*world.file_limit);
  ::execve(argv[0], argv.data(), envp.data());
  ::_exit(127);
}

RunningProgram::~RunningProgram() {
  if (is_running()) {
    send(SIGKILL);
    wait();
  }
}

bool RunningProgram::collect(int options) {
  int status = 0;
  rusage usage{};
  if (::wait4(process_, &status, options, &usage) != process_) return false;
  status_ = status;
  peak_bytes_ = int64_t{1024} * usage.ru_maxrss;
  return true;
}

bool RunningProgram::is_running() { return !status_ && !collect(WNOHANG); }

void RunningProgram::send(int signal) {
  if (!status_) ::kill(process_, signal);
}

ProgramResult RunningProgram::wait() {
  while (!status_) collect(0);
  ProgramResult result;
  result.peak_bytes = peak_bytes_;
  result.exit_code = WIFEXITED(*status_) ? WEXITSTATUS(*status_) : 128 + WTERMSIG(*status_);
  result.out = slurp(folder_ / "out");
  result.err = slurp(folder_ / "err");
  return result;
}

ProgramResult run_program(const std::vector<std::string>& arguments, const ProgramWorld& world) {
  return RunningProgram(arguments, world).wait();
}

bool wait_until(RunningProgram& program, const std::function<bool()>& is_so) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (std::chrono::steady_clock::now() < deadline) {
    if (is_so()) return true;
    if (!program.is_running()) return is_so();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return false;
}

}  // namespace lockstep::testing
