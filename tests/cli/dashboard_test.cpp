// SPDX-License-Identifier: Apache-2.0
#include "cli/dashboard.h"

#include <arpa/inet.h>
#include <fstream>
#include <netinet/in.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "net/http_client.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep::cli {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr auto kTimeout = 20s;

class DashboardTest : public ::testing::Test {
 protected:
  void log(const std::string& text) {
    std::ofstream(run_ / "logging.jsonl", std::ios::app) << text;
  }
  static std::string step_line(int step) {
    return fmt::format("{{\"reward\": {}, \"global_step/max_steps\": \"{}/9\"}}\n", 0.25 * step,
                       step);
  }
  Json changes(const std::string& known) {
    return client_.get_json("/changes.json?known=" + known, kTimeout)["runs"][0];
  }
  /// The first bytes of the answer to a request that is sent as it stands.
  std::string raw(const std::string& request) {
    const int peer = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(dashboard_.port());
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(peer, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(::send(peer, request.data(), request.size(), 0), std::ssize(request));
    char answer[64] = {};
    const ssize_t count = ::recv(peer, answer, sizeof(answer), MSG_WAITALL);
    ::close(peer);
    return {answer, static_cast<size_t>(std::max<ssize_t>(0, count))};
  }

  testing::TempDir folder_;
  std::filesystem::path run_ = folder_.path();
  Dashboard dashboard_{"127.0.0.1", 0, {run_}};
  net::HttpClient client_{dashboard_.address(), ""};
};

TEST_F(DashboardTest, ThePageAndItsDataAreServed) {
  const net::HttpAnswer page = client_.get("/", kTimeout);
  EXPECT_EQ(page.status, 200);
  EXPECT_THAT(page.body, HasSubstr("{\"live\":true}"));
  // The run has not begun.
  EXPECT_EQ(client_.get_json("/data.json", kTimeout)["runs"][0]["curves"]["rows"], 0);
  log(step_line(1));
  const Json run = client_.get_json("/data.json", kTimeout)["runs"][0];
  EXPECT_EQ(run["curves"]["columns"]["reward"]["mean"], Json::array({0.25}));
  EXPECT_EQ(run["status"]["max_steps"], 9);
}

TEST_F(DashboardTest, ChangesAreTheRowsThatAreNew) {
  log(step_line(1) + step_line(2));
  folder_.write("args.json", "{\"beta\": 0.5}");
  Json run = changes("");
  EXPECT_EQ(run["curves"]["first"], 0);
  EXPECT_EQ(run["settings"]["beta"], "0.5");
  const std::string generation = std::to_string(run["curves"]["generation"].get<int64_t>());
  log(step_line(3));
  run = changes(generation + ".2.-1");
  EXPECT_EQ(run["curves"]["first"], 2);
  EXPECT_EQ(run["curves"]["steps"], Json::array({3}));
  EXPECT_FALSE(run.contains("settings"));
  // A resumed run has cut its log back: what the page has is void.
  folder_.write("logging.jsonl", step_line(1));
  EXPECT_EQ(changes(generation + ".3.-1")["curves"]["first"], 0);
  // What nobody has said in earnest.
  for (const char* known : {"x", "1", "1.2", "-5.-7.9", "99999999999999999999.1.1", ",,,"})
    EXPECT_EQ(changes(known)["curves"]["rows"], 1) << known;
}

TEST_F(DashboardTest, CompletionsComeWhenTheyAreNew) {
  log(step_line(1));
  folder_.write("completions.jsonl",
                "{\"step\": [\"1\"], \"prompt\": [\"p\"], \"completion\": [\"c\"]}\n");
  const Json run = changes("");
  EXPECT_EQ(run["samples"]["prompts"][0]["prompt"], "p");
  const std::string known = fmt::format("{}.1.{}", run["curves"]["generation"].get<int64_t>(),
                                        run["shown_version"].get<int64_t>());
  EXPECT_FALSE(changes(known).contains("samples"));
}

TEST_F(DashboardTest, OnlyItsOwnPathsMethodsAndNamesAreAnswered) {
  EXPECT_EQ(client_.get("/args.json", kTimeout).status, 404);
  EXPECT_EQ(client_.post("/", "{}", kTimeout).status, 405);
  // DNS rebinding: somebody's page whose name means this machine.
  EXPECT_THAT(raw("GET /data.json HTTP/1.1\r\nHost: evil.example:80\r\n\r\n"),
              StartsWith("HTTP/1.1 403"));
  for (const char* host : {"localhost", "127.0.0.1:5", "[::1]:80", "192.168.1.2"})
    EXPECT_THAT(raw(fmt::format("GET /data.json HTTP/1.1\r\nHost: {}\r\n\r\n", host)),
                StartsWith("HTTP/1.1 200"))
        << host;
}

TEST_F(DashboardTest, ABusyPortIsAnError) {
  EXPECT_ERROR(Dashboard("127.0.0.1", dashboard_.port(), {run_}), IoError, "address-in-use",
               "expected a free port");
}

TEST_F(DashboardTest, TheEndWaitsForAPageThatIsLookedAtAndForNoOther) {
  const auto seconds = [](const auto& act) {
    const auto begun = std::chrono::steady_clock::now();
    act();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  };
  // Nobody has asked.
  EXPECT_LT(seconds([&] { dashboard_.let_watchers_see_the_end(20s); }), 2);
  Dashboard watched("127.0.0.1", 0, {run_});
  const net::HttpClient client(watched.address(), "");
  client.get_json("/changes.json", kTimeout);
  std::thread page([&] {
    std::this_thread::sleep_for(300ms);
    client.get_json("/changes.json", kTimeout);
  });
  const double waited = seconds([&] { watched.let_watchers_see_the_end(20s); });
  page.join();
  EXPECT_GT(waited, 0.1);
  EXPECT_LT(waited, 10);
  // A page that asks no more is waited for no longer than is said.
  Dashboard left("127.0.0.1", 0, {run_});
  net::HttpClient(left.address(), "").get_json("/changes.json", kTimeout);
  EXPECT_LT(seconds([&] { left.let_watchers_see_the_end(200ms); }), 10);
}

}  // namespace
}  // namespace lockstep::cli
