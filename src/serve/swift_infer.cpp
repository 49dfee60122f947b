// SPDX-License-Identifier: Apache-2.0
#include "serve/swift_infer.h"

#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "base/check.h"
#include "serve/request_fields.h"

namespace lockstep::serve {
namespace {

/// The fields of a chat request that ms-swift's request_config has under the same name.
constexpr const char* kSampling[] = {"max_tokens",
                                     "temperature",
                                     "top_k",
                                     "top_p",
                                     "min_p",
                                     "repetition_penalty",
                                     "stop",
                                     "seed",
                                     "logprobs",
                                     "prompt_logprobs",
                                     "n",
                                     "presence_penalty",
                                     "frequency_penalty"};

/// What of a chat request does not depend on the chat.
Json chat_fields(const Json& body) {
  Json chat = {{"return_token_ids", true}, {"tool_choice", "none"}};
  const RequestFields request(body);
  if (const auto adapter = request.object("adapter_request"))
    if (const Json* name = adapter->find("name")) chat["model"] = *name;
  const auto config = request.object("request_config");
  if (!config) return chat;
  config->integer("n", 1, 1);
  config->integer("num_beams", 1, 1);
  if (config->boolean("stream").value_or(false))
    refuse_feature(config->field("stream"), "all answers come at once");
  config->refuse_set({"structured_outputs_regex"}, "answers are not held to a grammar");
  for (const char* name : kSampling)
    if (const Json* value = config->find(name)) chat[name] = *value;
  // It says nothing without log-probabilities, and may be set all the same.
  if (const Json* top = config->find("top_logprobs"); top && chat.value("logprobs", Json()) == true)
    chat["top_logprobs"] = *top;
  return chat;
}

OpenAiRequest parse_one(const Json& item,
                        Json chat,
                        const std::string& place,
                        const RequestBounds& bounds) {
  const RequestFields fields(item, place);
  for (const char* name : {"images", "audios", "videos"})
    if (const Json* list = fields.find(name); list && !list->empty())
      refuse_feature(fields.field(name), "only text is read");
  for (const char* name : {"messages", "tools", "chat_template_kwargs"})
    if (const Json* value = fields.find(name)) chat[name] = *value;
  // A row without tools may have an empty list of them.
  if (chat.contains("tools") && chat["tools"].is_array() && chat["tools"].empty())
    chat.erase("tools");
  try {
    OpenAiRequest request = read_chat_request(chat, bounds);
    request.is_rollout = true;
    return request;
  } catch (const RequestError& error) {
    throw RequestError(error.status(), error.code(), place + "." + error.where(), error.what());
  }
}

/// Gathers the answers of one call.
class RolloutAnswers {
 public:
  RolloutAnswers(size_t count, std::shared_ptr<HttpResponder> responder)
      : responder_(std::move(responder)), bodies_(count), gone_(count), missing_(count) {}

  void put(size_t index, HttpResponse&& response) {
    std::unique_lock lock(mutex_);
    if (is_complete_) return;
    if (response.status != 200) {
      is_complete_ = true;
      lock.unlock();
      leave();
      responder_->respond(std::move(response));
      return;
    }
    bodies_[index] = std::move(response.body);
    if (--missing_ > 0) return;
    is_complete_ = true;
    lock.unlock();
    responder_->respond({.body = list()});
  }

  /// Calls `gone` at once if the requests have been ended already: the others of a call are started
  /// one after another, and the first may have failed meanwhile.
  void set_gone(size_t index, std::function<void()> gone) {
    {
      const std::lock_guard lock(mutex_);
      if (!has_left_) {
        gone_[index] = std::move(gone);
        return;
      }
    }
    gone();
  }
  /// Ends all requests.
  void leave() {
    std::vector<std::function<void()>> all;
    {
      const std::lock_guard lock(mutex_);
      has_left_ = true;
      all.swap(gone_);
      gone_.resize(all.size());
    }
    for (const auto& gone : all)
      if (gone) gone();
  }

 private:
  std::string list() const {
    std::string out;
    for (const std::string& body : bodies_) {
      out += out.empty() ? "[{\"response\":" : ",{\"response\":";
      out += body;
      out +=
          ",\"messages\":null,\"response_token_ids\":[],\"response_loss_mask\":[],"
          "\"rollout_infos\":{},\"rollout_logprobs\":[]}";
    }
    return out.empty() ? "[]" : out + "]";
  }

  std::mutex mutex_;
  std::shared_ptr<HttpResponder> responder_;
  std::vector<std::string> bodies_;
  std::vector<std::function<void()>> gone_;
  size_t missing_;
  bool is_complete_ = false, has_left_ = false;
};

/// Where one of the answers goes.
class RolloutResponder final : public HttpResponder {
 public:
  RolloutResponder(std::shared_ptr<RolloutAnswers> answers, size_t index)
      : answers_(std::move(answers)), index_(index) {}
  void respond(HttpResponse response) override { answers_->put(index_, std::move(response)); }
  void on_gone(std::function<void()> gone) override { answers_->set_gone(index_, std::move(gone)); }
  int64_t unsent_bytes() const override { return 0; }
  // A rollout is no stream.
  void begin_stream(int, std::string_view) override { no_stream(); }
  void write(std::string) override { no_stream(); }
  void end_stream() override { no_stream(); }

 private:
  [[noreturn]] static void no_stream() {
    throw InternalError("internal", "/infer", "an answer was streamed");
  }

  std::shared_ptr<RolloutAnswers> answers_;
  size_t index_;
};

}  // namespace

std::vector<OpenAiRequest> parse_rollout_requests(std::string_view body,
                                                  const RequestBounds& bounds) {
  const Json json = parse_body(body);
  const RequestFields fields(json);
  const Json* items = fields.find("infer_requests");
  if (!items || !items->is_array())
    refuse_field("infer_requests", "a list of requests", items ? *items : Json());
  const Json chat = chat_fields(json);
  std::vector<OpenAiRequest> requests;
  for (size_t i = 0; i < items->size(); ++i)
    requests.push_back(parse_one((*items)[i], chat, fmt::format("infer_requests[{}]", i), bounds));
  return requests;
}

std::vector<std::shared_ptr<HttpResponder>> rollout_responders(
    size_t count, const std::shared_ptr<HttpResponder>& responder) {
  if (count == 0) responder->respond({.body = "[]"});
  const auto answers = std::make_shared<RolloutAnswers>(count, responder);
  responder->on_gone([weak = std::weak_ptr(answers)] {
    if (const auto left = weak.lock()) left->leave();
  });
  std::vector<std::shared_ptr<HttpResponder>> responders;
  for (size_t i = 0; i < count; ++i)
    responders.push_back(std::make_shared<RolloutResponder>(answers, i));
  return responders;
}

}  // namespace lockstep::serve
