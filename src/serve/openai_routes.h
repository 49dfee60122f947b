// The routes of OpenAI's API, and those that vLLM has beside them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "rollout/engine_service.h"
#include "serve/answer_thread.h"
#include "serve/http_server.h"
#include "serve/served_model.h"

namespace lockstep::serve {

/// Answers /v1/models, /v1/completions, /v1/chat/completions, /v1/chat/completions/render,
/// /v1/load_lora_adapter, /v1/unload_lora_adapter, /tokenize, /detokenize and ms-swift's /infer.
///
/// Requests are read and encoded on one thread of its own, answers are written on another one, and
/// adapters are loaded on a third: the sampler and the server's threads only hand over. Threads:
/// any may call anything. When it dies, requests that are still in work get no answer; the sampler
/// may still tell of them.
class OpenAiApi {
 public:
  /// As ServedModel; the engine must outlive it.
  OpenAiApi(OpenAiOptions options,
            const text::Tokenizer& tokenizer,
            const text::ChatEncoder* chat,
            rollout::EngineService& engine);

  /// Answers a request, now or later, if its path is one of these; else returns false and leaves
  /// both arguments as they are. Throws RequestError 405 "bad-method" for another method.
  bool handle(HttpRequest& request, const std::shared_ptr<HttpResponder>& responder);

 private:
  using Answer = HttpResponse (OpenAiApi::*)(const std::string& body) const;

  HttpResponse models() const;
  HttpResponse model(const std::string& name) const;
  HttpResponse tokenize(const std::string& body) const;
  HttpResponse detokenize(const std::string& body) const;
  HttpResponse render(const std::string& body) const;
  HttpResponse change_adapters(const HttpRequest& request);
  void complete(const HttpRequest& request, const std::shared_ptr<HttpResponder>& responder);
  void infer(const std::string& body, const std::shared_ptr<HttpResponder>& responder);
  void start(GenerationInput input, const std::shared_ptr<HttpResponder>& responder);
  void submit(const std::shared_ptr<Generation>& generation);
  std::string model_card(const std::string& name, const ServedAdapter* adapter) const;

  ServedModel model_;
  rollout::EngineService* engine_;
  int64_t created_;
  /// The sampler's handlers own it, too: they may come later than our end.
  std::shared_ptr<AnswerThread> answers_;
  TaskThread tasks_, loads_;
};

}  // namespace lockstep::serve
