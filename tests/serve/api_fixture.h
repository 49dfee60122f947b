// The API with a fake sampler behind it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "serve/openai_routes.h"
#include "tests/serve/fake_engine.h"
#include "tests/text/chat_models.h"

namespace lockstep::serve {

using text::chat_model;
using text::json;

/// An API of one model with a chat template of tests/data/chat_templates, or the one that ships.
struct ServedApi {
  explicit ServedApi(const std::string& chat_template = "")
      : chat(chat_model(chat_template)), engine(chat.tokenizer()) {
    options.model_names = {"tiny", "also-tiny"};
    options.model_root = "models/tiny";
    options.eos_ids = {*chat.tokenizer().eos_id(), *chat.tokenizer().pad_id()};
  }

  /// Starts a request; made on the first one, so that options can be set before.
  std::shared_ptr<FakeResponder> start(HttpRequest request) {
    if (!api) api = std::make_unique<OpenAiApi>(options, chat.tokenizer(), &chat, engine);
    auto responder = std::make_shared<FakeResponder>();
    EXPECT_TRUE(api->handle(request, responder));
    return responder;
  }
  std::shared_ptr<FakeResponder> start(const std::string& path, std::string body) {
    return start(HttpRequest{.method = "POST", .path = path, .body = std::move(body)});
  }
  FakeAnswer post(const std::string& path, std::string body) {
    return start(path, std::move(body))->wait();
  }
  FakeAnswer get(const std::string& path) {
    return start(HttpRequest{.method = "GET", .path = path})->wait();
  }
  /// A completion, or a chat with one question; `fields` are further members.
  FakeAnswer complete(const std::string& fields) {
    return post("/v1/completions", "{" + fields + "}");
  }
  FakeAnswer ask(const std::string& fields = "") {
    return post("/v1/chat/completions", R"({"messages": [{"role": "user", "content": "hi"}])" +
                                            (fields.empty() ? "" : ", " + fields) + "}");
  }
  const text::Tokenizer& tokenizer() const { return chat.tokenizer(); }

  text::ChatEncoder chat;
  FakeEngine engine;
  OpenAiOptions options;
  std::unique_ptr<OpenAiApi> api;
};

/// Has the sampler answer with a text.
inline FakeEngine::Script says(std::string text) {
  return [text = std::move(text)](const rollout::Request&, int64_t) { return text; };
}

}  // namespace lockstep::serve
