// Two network namespaces as two hosts, with a link between them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "tests/support/run_program.h"
#include "tests/support/temp_dir.h"

namespace lockstep::testing {

/// Two hosts, n01 and n02, as far as the network goes. Each knows itself as 127.0.1.1, as Debian's
/// hosts do, and the other one by its address.
class TwoHosts {
 public:
  TwoHosts() : first_(holder()), second_(holder()) {
    for (auto* host : {&first_, &second_}) {
      const std::string files = fmt::format("/proc/{}/ns/net", host->process());
      is_there_ = is_there_ && wait_until(*host, [&] {
                    return std::filesystem::read_symlink(files) !=
                           std::filesystem::read_symlink("/proc/self/ns/net");
                  });
    }
    is_there_ = is_there_ && is_done("ip link add va netns {} type veth peer name vb netns {}",
                                     first_.process(), second_.process());
    is_there_ = is_there_ && set_up(first_, "va", "192.168.97.1", "n01", "192.168.97.2 n02");
    is_there_ = is_there_ && set_up(second_, "vb", "192.168.97.2", "n02", "192.168.97.1 n01");
  }

  /// Whether this machine allows them.
  bool is_there() const { return is_there_; }
  /// What a command on one of them, 0 or 1, begins with.
  std::vector<std::string> words(int64_t host) const {
    const std::string process = std::to_string(pid(host == 0 ? first_ : second_));
    return {"/usr/bin/nsenter", "-t", process, "-n", "-m"};
  }
  /// Cuts the link between them, or mends it.
  void set_link(bool is_up) const {
    EXPECT_TRUE(is_done("nsenter -t {} -n ip link set va {}", pid(first_), is_up ? "up" : "down"));
  }

 private:
  static RunningProgram holder() {
    ProgramWorld world;
    world.program = "/usr/bin/unshare";
    return RunningProgram({"-n", "-m", "sleep", "600"}, world);
  }
  template <class... Args>
  static bool is_done(fmt::format_string<Args...> command, Args&&... args) {
    const std::string text = fmt::format(command, std::forward<Args>(args)...) + " 2>/dev/null";
    return std::system(text.c_str()) == 0;
  }
  static pid_t pid(const RunningProgram& host) { return host.process(); }
  bool set_up(const RunningProgram& host,
              const std::string& link,
              const std::string& address,
              const std::string& name,
              const std::string& other) {
    const auto file =
        folder_.write(name, fmt::format("127.0.0.1 localhost\n127.0.1.1 {}\n{}\n", name, other));
    return is_done(
        "nsenter -t {0} -n -m sh -c 'ip addr add {1}/24 dev {2} && ip link set {2} up && "
        "ip link set lo up && mount --bind {3} /etc/hosts'",
        pid(host), address, link, file.string());
  }

  TempDir folder_;
  RunningProgram first_, second_;
  bool is_there_ = true;
};

}  // namespace lockstep::testing
