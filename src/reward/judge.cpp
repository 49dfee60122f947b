// SPDX-License-Identifier: Apache-2.0
#include "reward/judge.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "reward/external_reward.h"
#include "reward/pattern.h"
#include "reward/retrying_client.h"
#include "reward/reward_json.h"
#include "reward/share_out.h"
#include "text/jinja/string.h"

namespace lockstep::reward {
namespace {

// ms-swift's words, so that a judge says here what it says there.
constexpr std::string_view kSystem =
    "\nBased on the dialogue history, analyze in detail whether the model's response is accurate, "
    "complete, and relevant.\nAssign a reward score between 0 and 1, where 0 indicates completely "
    "incorrect and 1 indicates fully correct.\nBefore finishing your response, please assign a "
    "reward using the following format:\n\nReward: {reward}\n\nFor example:\nReward: 0.85\n";

std::string system_of(const std::string& said) {
  if (said.empty()) return std::string(kSystem);
  std::error_code ignored;
  return std::filesystem::is_regular_file(said, ignored) ? read_file(said) : said;
}

/// The server's base with the version in it: "http://HOST:PORT" is completed to ".../v1".
std::string base_of(std::string url) {
  while (url.ends_with('/')) url.pop_back();
  const bool has_path = url.find('/', url.find("://") + 3) != url.npos;
  return has_path ? url : url + "/v1";
}

std::string text_of(const Json& content) {
  if (content.is_string()) return content.get<std::string>();
  return content.is_null() || content.empty() ? "" : dump_json(content);
}

class Judge final : public ExternalReward {
 public:
  Judge(const std::string& name,
        std::string model,
        RetryingClient client,
        const JudgeOptions& options,
        const ExternalOptions& external)
      : ExternalReward({name, name}, external),
        client_(std::move(client)),
        workers_(static_cast<size_t>(options.judge_workers)) {
    request_ = {{"model", std::move(model)}, {"messages", Json()}, {"n", options.judge_choices}};
    if (options.judge_temperature) request_["temperature"] = *options.judge_temperature;
    if (options.judge_max_tokens) request_["max_tokens"] = *options.judge_max_tokens;
    system_ = system_of(options.judge_system);
  }

  std::vector<std::optional<double>> judge(std::span<const RewardInput> inputs,
                                           const RunState&,
                                           PlacedNotes&) const override {
    std::vector<std::optional<double>> values(inputs.size());
    share_out(inputs.size(), workers_, [&](size_t, size_t index) {
      if (failures_.is_over()) return;
      try {
        values[index] = ask(inputs[index]);
      } catch (const PeerError& error) {
        failures_.add(1, inputs[index].where, error.what());
      }
    });
    failures_.report();
    return values;
  }

 private:
  double ask(const RewardInput& input) const {
    Json messages = input.messages && input.messages->is_array() ? *input.messages : Json::array();
    for (Json& message : completion_messages(input)) messages.push_back(std::move(message));
    Json request = request_;
    request["messages"] = {{{"role", "system"}, {"content", system_}},
                           {{"role", "user"}, {"content", query_of(messages)}}};
    const Json answer = client_.post("/chat/completions", dump_json(request));
    const Json choices = answer.is_object() ? answer.value("choices", Json()) : Json();
    if (!choices.is_array() || choices.empty())
      fail<PeerError>("peer-refused", client_.url("/chat/completions"), "expected choices, got {}",
                      shown_answer(dump_json(answer)));
    double sum = 0, count = 0;
    for (const Json& choice : choices) {
      const Json message = choice.is_object() ? choice.value("message", Json()) : Json();
      const Json content = message.is_object() ? message.value("content", Json()) : Json();
      const auto number = reward_in(content.is_string() ? content.get<std::string>() : "");
      sum += number.value_or(0);
      count += number.has_value();
    }
    return count > 0 ? sum / count : 0;
  }

  RetryingClient client_;
  size_t workers_;
  Json request_;
  std::string system_;
};

/// The first model that a server has.
std::string model_at(const RetryingClient& client) {
  const Json answer = client.get("/models");
  const Json data = answer.is_object() ? answer.value("data", Json()) : Json();
  const Json first = data.is_array() && !data.empty() ? data[0] : Json();
  const Json id = first.is_object() ? first.value("id", Json()) : Json();
  if (!id.is_string())
    fail<PeerError>("peer-refused", client.url("/models"), "expected a list of models, got {}",
                    shown_answer(dump_json(answer)));
  return id.get<std::string>();
}

}  // namespace

void JudgeOptions::validate() const {
  for (const std::string& text : reward_model) {
    const auto spec = external_spec(text);
    if (spec && spec->kind != ExternalSpec::Kind::kUrl)
      fail<ConfigError>("bad-flag", "--reward_model",
                        "expected [NAME=]http://HOST:PORT/v1 or a checkpoint's folder, got {}",
                        text);
  }
  if (!reward_model_plugin.empty() && reward_model_plugin.size() != reward_model.size())
    fail<ConfigError>("bad-flag", "--reward_model_plugin",
                      "expected {}, one a reward model, got {}", reward_model.size(),
                      reward_model_plugin.size());
  for (size_t i = 0; i < reward_model_plugin.size(); ++i) {
    const std::string wanted = external_spec(reward_model[i]) ? "genrm" : "default";
    if (reward_model_plugin[i] != wanted)
      fail<ConfigError>("bad-flag", "--reward_model_plugin",
                        "expected {} for {}, got {} (a judge is asked at a URL: serve it, and give "
                        "http://HOST:PORT/v1; other plugins are rewards of --reward_funcs)",
                        wanted, reward_model[i], reward_model_plugin[i]);
  }
}

std::optional<double> reward_in(std::string_view text) {
  static const Pattern pattern(
      R"(Reward:\s*([+-]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?)(?![0-9A-Za-z_]|\.\d))");
  const auto matches = pattern.find_all(text);
  if (matches.empty()) return std::nullopt;
  const double number = std::strtod(std::string(matches[0].groups[1]).c_str(), nullptr);
  return std::isfinite(number) ? std::optional(number) : std::nullopt;
}

std::string query_of(const Json& messages) {
  std::string query;
  for (const Json& message : messages) {
    const std::string content = text_of(message.value("content", Json()));
    if (content.empty()) continue;
    if (!query.empty()) query += '\n';
    query += text::jinja::capitalize(message.value("role", "")) + ": " + content;
  }
  return query;
}

std::unique_ptr<RewardFunction> make_judge(std::string_view text,
                                           const JudgeOptions& options,
                                           const ExternalOptions& external) {
  const bool has_name = !text.starts_with("http");
  const ExternalSpec spec = *external_spec(text);
  RetryingClient client(base_of(spec.target), external);
  const std::string model = options.judge_model.empty() ? model_at(client) : options.judge_model;
  const std::string name = has_name ? spec.name : model.substr(model.rfind('/') + 1);
  return std::make_unique<Judge>(name, model, std::move(client), options, external);
}

}  // namespace lockstep::reward
