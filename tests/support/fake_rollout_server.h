// A server with the routes of `lockstep rollout` that a trainer uses, whose tokens a test decides.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/json.h"
#include "net/rollout_protocol.h"
#include "tests/support/socket_server.h"

namespace lockstep::testing {

/// A completion as the wire has it.
struct FakeCompletion {
  std::vector<int64_t> ids;
  std::vector<float> logprobs;
  bool is_stopped = false;
};

/// Threads: everything public may be called from any thread.
class FakeRolloutServer {
 public:
  struct Script {
    net::SamplerInfo info;
    /// The completions of a request, under the weights of `label`.
    std::function<std::vector<FakeCompletion>(const Json& body, const std::string& label)> complete;
    /// What its weights say of a text: one for each id but the first.
    std::function<std::vector<float>(const std::vector<int64_t>& ids)> score =
        [](const std::vector<int64_t>& ids) { return std::vector<float>(ids.size() - 1, -1.0F); };
    /// Loads weights from a folder, or from shared memory as "shm:NAME:BYTES"; throws for those
    /// that are not as they should be.
    std::function<void(const std::string& path, const std::string& digest)> load =
        [](const std::string&, const std::string&) {};
    /// Called before each request; may answer it itself and return true.
    std::function<bool(SocketConnection&, const SocketRequest&)> intercept =
        [](SocketConnection&, const SocketRequest&) { return false; };
    /// The tensors of its weights that are not those of a baseline.
    std::function<std::vector<std::string>(const Json& baseline)> compare =
        [](const Json&) -> std::vector<std::string> { return {}; };
    /// Binds the adapter of a folder; how it tells of it.
    std::function<Json(const std::string& path)> bind = [](const std::string& path) -> Json {
      return {{"digest", "of " + path}, {"pairs", 3}};
    };
    std::string api_key;
    /// 0: any free one.
    int port = 0;
  };
  explicit FakeRolloutServer(Script script);

  std::string url() const { return server_->url(); }
  int port() const { return server_->port(); }
  void kill() { server_->kill(); }
  /// How many requests for completions were answered.
  int completed() const { return completed_; }
  /// The most that were in work at once.
  int most_at_once() const { return most_at_once_; }
  /// The labels that it was given, in order.
  std::vector<std::string> labels() const;
  /// Its adapters, as they tell of themselves, by name.
  std::map<std::string, Json> adapters() const;
  /// Lets an update begin that nobody ends.
  void leave_update_open() { is_updating_ = true; }

 private:
  void answer(SocketConnection& connection, const SocketRequest& request);
  Json route(const SocketRequest& request, const Json& body);
  Json adapter_route(const std::string& target, const Json& body);
  Json completions(const Json& body);
  Json scores(const Json& body);

  Script script_;
  mutable std::mutex mutex_;
  std::string label_ = "default";
  std::vector<std::string> labels_;
  std::map<std::string, Json> adapters_;
  bool is_updating_ = false, has_update_ = false;
  std::atomic<int> completed_{0}, in_work_{0}, most_at_once_{0};
  std::unique_ptr<SocketServer> server_;
};

}  // namespace lockstep::testing
