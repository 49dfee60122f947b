// SPDX-License-Identifier: Apache-2.0
#include "reward/plugin_processes.h"

#include "base/check.h"
#include "base/log.h"
#include "reward/json_process.h"
#include "reward/process_log.h"
#include "reward/reward_json.h"  // shown_answer

namespace lockstep::reward {
namespace {

/// Plugins may import all of torch.
constexpr std::chrono::milliseconds kLoadTimeout{300'000};

}  // namespace

std::string error_in(const Json& answer) {
  const auto found = answer.find("error");
  return found != answer.end() && found->is_string() ? found->get<std::string>() : "";
}

PluginProcesses::PluginProcesses(const PluginOptions& options, Load load)
    : load_(std::move(load.request)) {
  const std::string& name = load.name;
  load_["op"] = "load";
  load_["plugins"] = options.external_plugins;
  for (int64_t i = 0; i < options.plugin_workers; ++i)
    workers_.push_back(std::make_unique<LineProcess>(
        LineProgram{.name = name,
                    .arguments = {options.plugin_python, "-u", options.host_script},
                    .variables = {{"PYTHONIOENCODING", "utf-8"}}}));
  try {
    loaded_ = this->load(*workers_[0]);
  } catch (const PeerError& error) {
    log();
    fail<ConfigError>("bad-plugin", load.flag, "{}", error.what());
  }
  log();
  const std::string swift = loaded_.at("swift"), problem = loaded_.at("problem");
  log_info("{}: Python {}, {}", name, loaded_.at("python").get<std::string>(),
           swift == "stub" ? "without ms-swift" : "ms-swift " + swift);
  if (!problem.empty())
    log_info("{}: ms-swift is installed, but cannot be used ({}); stand-ins serve", name, problem);
}

Json PluginProcesses::load(LineProcess& worker) {
  Json answer = ask_running(worker, load_, kLoadTimeout);
  if (const std::string error = error_in(answer); !error.empty())
    fail<PeerError>("program-failed", worker.name(), "{}", error);
  return answer;
}

Json PluginProcesses::ask_running(LineProcess& worker,
                                  const Json& request,
                                  std::chrono::milliseconds timeout) {
  Json answer = ask_json(worker, dump_json(request), timeout);
  // An empty line asks for nothing, and waits for the next one.
  while (answer.is_object() && answer.contains("progress")) answer = ask_json(worker, "", timeout);
  if (answer.is_object()) return answer;
  worker.stop();
  fail<PeerError>("program-failed", worker.name(), "expected an object of JSON, got {}",
                  shown_answer(dump_json(answer)));
}

Json PluginProcesses::ask(size_t worker, const Json& request, std::chrono::milliseconds timeout) {
  LineProcess& process = *workers_[worker];
  if (!process.is_running()) load(process);
  return ask_running(process, request, timeout);
}

void PluginProcesses::log() {
  for (const auto& worker : workers_) log_stderr(*worker);
}

}  // namespace lockstep::reward
