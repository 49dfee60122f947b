// A sampler without a model, and a client without a network, for tests of the API.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/json.h"
#include "rollout/completion.h"
#include "rollout/engine_service.h"
#include "serve/http_server.h"

namespace lockstep::serve {

/// Samples what it is told to, token by token, as the real sampler tells of it.
class FakeEngine : public rollout::EngineService {
 public:
  /// What it samples for a request's sample: as text, of which each piece is a token or more.
  using Script = std::function<std::string(const rollout::Request&, int64_t sample)>;

  explicit FakeEngine(const text::Tokenizer& tokenizer) : tokenizer_(&tokenizer) {
    facts_ = {.max_model_len = 4096,
              .vocab_size = tokenizer.size(),
              .max_num_seqs = 8,
              .dtype = "float32"};
  }

  void submit(rollout::Request request, rollout::RequestHandler handler) override {
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(request);
      if (refuse_at && std::ssize(requests_) == *refuse_at) throw *refusal;
    }
    handler(
        rollout::PromptDone{.cached_tokens = cached_tokens, .logprobs = prompt_logprobs(request)});
    if (holds) {
      const std::lock_guard lock(mutex_);
      held_.emplace_back(std::move(request), std::move(handler));
      changed_.notify_all();
      return;
    }
    play(request, handler);
  }

  /// Samples take turns, as in a batch.
  void play(const rollout::Request& request, const rollout::RequestHandler& handler) {
    std::vector<Sample> samples;
    for (int64_t s = 0; s < request.num_samples; ++s)
      samples.emplace_back(tokenizer_->encode(script(request, s)), *tokenizer_, request);
    for (bool goes_on = true; goes_on;) {
      goes_on = false;
      for (int64_t s = 0; s < request.num_samples; ++s)
        goes_on |= step(request, s, samples[static_cast<size_t>(s)], handler);
    }
    handler(rollout::RequestDone{});
  }

  /// Waits until that many requests are held.
  void wait_for_held(size_t count) {
    std::unique_lock lock(mutex_);
    ASSERT_TRUE(
        changed_.wait_for(lock, std::chrono::seconds(60), [&] { return held_.size() >= count; }));
  }
  std::pair<rollout::Request, rollout::RequestHandler> take_held() {
    const std::lock_guard lock(mutex_);
    auto first = std::move(held_.front());
    held_.erase(held_.begin());
    return first;
  }

  bool abort_request(std::string_view id) override {
    const std::lock_guard lock(mutex_);
    aborted_.emplace_back(id);
    changed_.notify_all();
    return true;
  }
  std::vector<std::string> aborted() {
    const std::lock_guard lock(mutex_);
    return aborted_;
  }
  std::vector<rollout::Request> requests() {
    const std::lock_guard lock(mutex_);
    return requests_;
  }

  int64_t abort_all() override { return 0; }
  void pause(rollout::PauseMode, bool, std::function<void()> done) override { done(); }
  void resume() override {}
  bool is_paused() const override { return false; }
  void swap_weights(std::unique_ptr<rollout::StagedWeights>,
                    std::string,
                    std::function<void(std::exception_ptr)> done) override {
    done(nullptr);
  }
  std::string weight_version() const override { return version; }
  void set_weight_version(std::string value) override { version = std::move(value); }
  void reset_prefix_cache() override {}
  rollout::EngineStats stats() const override { return {}; }
  const rollout::EngineFacts& facts() const override { return facts_; }
  bool is_alive() const override { return true; }

  /// Log-probability of the token at a place.
  static float logprob(size_t at) { return -0.1F * static_cast<float>(at + 1); }

  Script script = [](const rollout::Request&, int64_t) { return "hello<|im_end|>"; };
  rollout::EngineFacts facts_;
  std::string version = "default";
  /// From this token on the version is another one.
  std::optional<std::pair<size_t, std::string>> next_version;
  int64_t cached_tokens = 0;
  /// Requests wait for play().
  bool holds = false;
  /// The request with this number, from 1, is refused.
  std::optional<int64_t> refuse_at;
  std::optional<RequestError> refusal;

 private:
  struct Sample {
    Sample(std::vector<int64_t> wanted, const text::Tokenizer& tokenizer, const rollout::Request& r)
        : ids(std::move(wanted)), finder(tokenizer, r.settings.stop_strings) {}
    std::vector<int64_t> ids;
    rollout::StopStringFinder finder;
    size_t at = 0;
    bool is_done = false;
  };

  std::vector<rollout::TokenLogprob> alternatives(int64_t id, float logprob, int64_t count) const {
    std::vector<rollout::TokenLogprob> top;
    for (int64_t k = 0; k < count; ++k)
      top.push_back({(id + k) % tokenizer_->size(), logprob - static_cast<float>(k), k + 1});
    return top;
  }

  std::vector<rollout::ScoredToken> prompt_logprobs(const rollout::Request& request) const {
    std::vector<rollout::ScoredToken> scored;
    if (!request.settings.prompt_logprobs) return scored;
    for (size_t i = 0; i < request.prompt.size(); ++i) {
      const int64_t id = request.prompt[i], count = i > 0 ? *request.settings.prompt_logprobs : 0;
      const float score = i > 0 ? logprob(i) : 0;
      scored.push_back({{id, score, count > 0 ? 1 : 0}, alternatives(id, score, count)});
    }
    return scored;
  }

  /// Tells the next token of a sample; false when it has ended.
  bool step(const rollout::Request& request,
            int64_t number,
            Sample& sample,
            const rollout::RequestHandler& handler) const {
    if (sample.is_done) return false;
    const rollout::RequestSettings& settings = request.settings;
    const size_t at = sample.at++;
    const int64_t id = sample.ids.at(at);
    const float score = logprob(at);
    const bool is_new = next_version && at >= next_version->first;
    const std::string now = is_new ? next_version->second : version;
    rollout::SampleDone done{.sample = number};
    const auto& stop_ids = settings.stop_ids;
    done.has_stop_token =
        !settings.ignore_eos && std::find(stop_ids.begin(), stop_ids.end(), id) != stop_ids.end();
    handler(rollout::SampleToken{.sample = number,
                                 .token = {{id, score, settings.top_logprobs > 0 ? 1 : 0},
                                           alternatives(id, score, settings.top_logprobs)},
                                 .is_stop_token = done.has_stop_token,
                                 .weight_version = &now});
    done.stop_string = sample.finder.push(id);
    if (done.has_stop_token || done.stop_string)
      done.end = rollout::SampleEnd::kStop;
    else if (static_cast<int64_t>(sample.at) < settings.max_new_tokens)
      return true;
    sample.is_done = true;
    handler(rollout::RequestEvent(done));
    return false;
  }

  const text::Tokenizer* tokenizer_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<rollout::Request> requests_;
  std::vector<std::string> aborted_;
  std::vector<std::pair<rollout::Request, rollout::RequestHandler>> held_;
};

/// What a client has got.
struct FakeAnswer {
  int status = 0;
  std::string body, content_type;
  std::map<std::string, std::string> headers;
  bool is_stream = false, is_complete = false;
  int64_t writes = 0;

  Json json() const { return parse_json(body, "answer"); }
  /// The events of a stream, without the last one, which must be [DONE].
  std::vector<Json> events() const {
    std::vector<Json> list;
    std::string_view rest = body;
    bool is_done = false;
    while (!rest.empty()) {
      EXPECT_TRUE(rest.starts_with("data: ")) << rest;
      const size_t end = rest.find("\n\n");
      if (end == rest.npos) {
        ADD_FAILURE() << "half an event: " << rest;
        break;
      }
      const std::string_view data = rest.substr(6, end - 6);
      EXPECT_FALSE(is_done) << "behind [DONE]: " << data;
      is_done = data == "[DONE]";
      if (!is_done) list.push_back(parse_json(data, "event"));
      rest.remove_prefix(end + 2);
    }
    EXPECT_TRUE(is_done) << body;
    return list;
  }
};

/// Keeps what it is given. It checks that the calls come in the order that HttpResponder demands.
class FakeResponder : public HttpResponder {
 public:
  void set_header(std::string name, std::string value) override {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(answer_.is_complete || answer_.is_stream) << "too late: " << name;
    answer_.headers[name] = std::move(value);
  }
  void respond(HttpResponse response) override {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(answer_.is_complete || answer_.is_stream) << "a second answer: " << response.body;
    answer_.status = response.status;
    answer_.body = std::move(response.body);
    answer_.content_type = response.content_type;
    for (auto& [name, value] : response.headers) answer_.headers[name] = value;
    end();
  }
  void begin_stream(int status, std::string_view content_type) override {
    const std::lock_guard lock(mutex_);
    EXPECT_FALSE(answer_.is_complete || answer_.is_stream) << "a second stream";
    answer_.status = status;
    answer_.content_type = content_type;
    answer_.is_stream = true;
  }
  void write(std::string piece) override {
    const std::lock_guard lock(mutex_);
    EXPECT_TRUE(answer_.is_stream && !answer_.is_complete) << piece;
    answer_.body += piece;
    ++answer_.writes;
    changed_.notify_all();
  }
  void end_stream() override {
    const std::lock_guard lock(mutex_);
    EXPECT_TRUE(answer_.is_stream && !answer_.is_complete);
    end();
  }
  void on_gone(std::function<void()> gone) override {
    const std::lock_guard lock(mutex_);
    gone_ = std::move(gone);
    changed_.notify_all();
  }
  int64_t unsent_bytes() const override { return 0; }

  /// The client leaves.
  void leave() {
    std::function<void()> gone;
    {
      const std::lock_guard lock(mutex_);
      gone = std::exchange(gone_, {});
    }
    if (gone) gone();
  }
  /// What has come when `is_enough`, or at the end.
  FakeAnswer wait(const std::function<bool(const FakeAnswer&)>& is_enough = {}) {
    std::unique_lock lock(mutex_);
    const bool came = changed_.wait_for(lock, std::chrono::seconds(60), [&] {
      return answer_.is_complete || (is_enough && is_enough(answer_));
    });
    EXPECT_TRUE(came) << "no answer: " << answer_.body;
    return answer_;
  }

 private:
  void end() {
    answer_.is_complete = true;
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  FakeAnswer answer_;
  std::function<void()> gone_;
};

}  // namespace lockstep::serve
