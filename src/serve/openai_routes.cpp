// SPDX-License-Identifier: Apache-2.0
#include "serve/openai_routes.h"

#include <chrono>
#include <map>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "serve/error_answer.h"
#include "serve/json_text.h"
#include "serve/request_fields.h"
#include "serve/swift_infer.h"
#include "text/tokenizer_file.h"  // byte_level_char

namespace lockstep::serve {
namespace {

constexpr std::string_view kModels = "/v1/models", kLoadAdapter = "/v1/load_lora_adapter",
                           kUnloadAdapter = "/v1/unload_lora_adapter";

/// Calls `action`; what it throws about the request is told to the client.
template <class Action>
void answer_errors(const std::shared_ptr<HttpResponder>& responder, const Action& action) {
  try {
    action();
  } catch (const std::exception& error) {
    respond_error(*responder, error);
  }
}

/// The folder of a request to load an adapter, or what a trainer offers in its place.
OfferedWeights offered_adapter(const Json& body) {
  const RequestFields fields(body);
  if (fields.find("update_info")) {
    if (fields.find("lora_path"))
      throw RequestError(400, "bad-request", "lora_path",
                         "expected none beside update_info, got one");
    return read_update_info(body);
  }
  OfferedWeights offered;
  offered.folder = fields.text("lora_path").value_or("");
  return offered;
}

/// A token as its tokenizer.json writes it: bytes by the characters of the byte-level alphabet.
std::string byte_level_text(const text::Tokenizer& tokenizer, int64_t id) {
  const std::string_view bytes = tokenizer.bytes_of(id);
  if (tokenizer.is_special(id)) return std::string(bytes);
  std::string text;
  for (const char byte : bytes) text += text::byte_level_char(static_cast<unsigned char>(byte));
  return text;
}

/// Hands the sampler's events on. It lives on the sampler's thread.
class EventForwarder {
 public:
  EventForwarder(std::shared_ptr<AnswerThread> answers,
                 std::shared_ptr<Generation> generation,
                 size_t prompt)
      : answers_(std::move(answers)), generation_(std::move(generation)), prompt_(prompt) {}

  void operator()(rollout::RequestEvent&& event) {
    if (auto* token = std::get_if<rollout::SampleToken>(&event)) {
      TokenEvent copy{.sample = token->sample,
                      .token = std::move(token->token),
                      .is_stop_token = token->is_stop_token};
      // The version's text is copied when it changes, not with each token.
      if (token->weight_version && (!version_ || *version_ != *token->weight_version))
        copy.new_version = version_ = std::make_shared<const std::string>(*token->weight_version);
      answers_->post(generation_, prompt_, std::move(copy));
      return;
    }
    std::visit(
        [&](auto&& one) {
          if constexpr (!std::is_same_v<std::decay_t<decltype(one)>, rollout::SampleToken>)
            answers_->post(generation_, prompt_, std::move(one));
        },
        std::move(event));
  }

 private:
  std::shared_ptr<AnswerThread> answers_;
  std::shared_ptr<Generation> generation_;
  size_t prompt_;
  std::shared_ptr<const std::string> version_;
};

}  // namespace

OpenAiApi::OpenAiApi(OpenAiOptions options,
                     const text::Tokenizer& tokenizer,
                     const text::ChatEncoder* chat,
                     rollout::EngineService& engine)
    : model_(std::move(options), tokenizer, chat, engine),
      engine_(&engine),
      created_(std::chrono::duration_cast<std::chrono::seconds>(
                   std::chrono::system_clock::now().time_since_epoch())
                   .count()),
      answers_(std::make_shared<AnswerThread>()) {}

bool OpenAiApi::handle(HttpRequest& request, const std::shared_ptr<HttpResponder>& responder) {
  const std::string& path = request.path;
  if (path == kModels || path.starts_with(std::string(kModels) + "/")) {
    if (request.method != "GET") refuse_method(request, *responder, "GET");
    answer_errors(responder, [&] {
      responder->respond(path == kModels ? models() : model(path.substr(kModels.size() + 1)));
    });
    return true;
  }
  if (path == kLoadAdapter || path == kUnloadAdapter) {
    if (request.method != "POST") refuse_method(request, *responder, "POST");
    loads_.post([this, responder, request = std::move(request)] {
      answer_errors(responder, [&] { responder->respond(change_adapters(request)); });
    });
    return true;
  }
  const Answer answer = path == "/tokenize"                     ? &OpenAiApi::tokenize
                        : path == "/detokenize"                 ? &OpenAiApi::detokenize
                        : path == "/v1/chat/completions/render" ? &OpenAiApi::render
                                                                : nullptr;
  const bool infers = path == "/infer" || path == "/infer/";
  const bool completes = path == "/v1/completions" || path == "/v1/chat/completions";
  if (!answer && !infers && !completes) return false;
  if (request.method != "POST") refuse_method(request, *responder, "POST");
  tasks_.post([this, answer, infers, responder, request = std::move(request)] {
    answer_errors(responder, [&] {
      if (answer)
        responder->respond((this->*answer)(request.body));
      else if (infers)
        infer(request.body, responder);
      else
        complete(request, responder);
    });
  });
  return true;
}

/// An adapter's parent is the model; null: the model itself.
std::string OpenAiApi::model_card(const std::string& name, const ServedAdapter* adapter) const {
  const OpenAiOptions& options = model_.options();
  std::string card = "{\"id\":" + json_text(name) + ",\"object\":\"model\",\"created\":";
  append_json_integer(card, created_);
  card += ",\"owned_by\":\"lockstep\",\"root\":" +
          json_text(adapter ? adapter->path : options.model_root) +
          ",\"parent\":" + (adapter ? json_text(options.model_names.front()) : "null") +
          ",\"max_model_len\":";
  append_json_integer(card, model_.facts().max_model_len);
  if (!adapter) return card + "}";
  card += ",\"lockstep\":{\"digest\":" + json_text(adapter->loaded.digest) + ",\"pairs\":";
  append_json_integer(card, adapter->loaded.num_pairs);
  return card + "}}";
}

HttpResponse OpenAiApi::models() const {
  // One model is one entry, whatever else it may be called: clients ask for the only one there is.
  std::string cards = model_card(model_.options().model_names.front(), nullptr);
  for (const ServedAdapter& one : model_.adapters().list())
    cards += "," + model_card(one.name, &one);
  return {.body = "{\"object\":\"list\",\"data\":[" + cards + "]}"};
}

HttpResponse OpenAiApi::model(const std::string& name) const {
  const std::optional<ServedAdapter> adapter = model_.adapter_of(name);
  return {.body = model_card(name, adapter ? &*adapter : nullptr)};
}

/// Loads or unloads an adapter. Source: vLLM, entrypoints/openai/models/serving.py.
HttpResponse OpenAiApi::change_adapters(const HttpRequest& request) {
  const Json body = parse_body(request.body);
  const RequestFields fields(body);
  const std::string name = fields.text("lora_name").value_or("");
  const bool loads = request.path == kLoadAdapter;
  if (loads)
    model_.adapters().load(name, offered_adapter(body),
                           fields.boolean("load_inplace").value_or(false));
  else
    model_.adapters().unload(name);
  return {.body = fmt::format("Success: LoRA adapter '{}' {} successfully.", name,
                              loads ? "added" : "removed"),
          .content_type = "text/plain; charset=utf-8"};
}

HttpResponse OpenAiApi::tokenize(const std::string& body) const {
  const TokenizeRequest request = parse_tokenize_request(body);
  model_.adapter_of(request.model);
  const auto* chat = std::get_if<ChatInput>(&request.input);
  const std::vector<int64_t> ids =
      chat ? model_.render(*chat).ids
           : model_.encode(std::get<std::string>(request.input), "prompt");
  std::string out = "{\"count\":";
  append_json_integer(out, std::ssize(ids));
  out += ",\"max_model_len\":";
  append_json_integer(out, model_.facts().max_model_len);
  out += ",\"tokens\":";
  append_json_ids(out, ids);
  out += ",\"token_strs\":";
  if (request.return_token_strs) {
    std::string texts;
    for (const int64_t id : ids) {
      texts += texts.empty() ? '[' : ',';
      append_json_text(texts, byte_level_text(model_.tokenizer(), id));
    }
    out += texts.empty() ? "[]" : texts + ']';
  } else {
    out += "null";
  }
  return {.body = out + "}"};
}

HttpResponse OpenAiApi::detokenize(const std::string& body) const {
  const DetokenizeRequest request = parse_detokenize_request(body, model_.bounds());
  model_.adapter_of(request.model);
  return {.body = "{\"prompt\":" + json_text(model_.tokenizer().decode(request.tokens)) + "}"};
}

/// The prompt that a chat request would be answered to.
HttpResponse OpenAiApi::render(const std::string& body) const {
  const GenerationInput input = model_.prepare(parse_chat_request(body, model_.bounds()));
  std::string out = "{\"request_id\":" + json_text(input.head.id) + ",\"token_ids\":";
  append_json_ids(out, input.prompts.at(0).ids);
  return {.body = out + ",\"features\":null,\"prompt\":" + json_text(input.prompts[0].text) + "}"};
}

void OpenAiApi::complete(const HttpRequest& request,
                         const std::shared_ptr<HttpResponder>& responder) {
  OpenAiRequest wanted = request.path == "/v1/completions"
                             ? parse_completion_request(request.body, model_.bounds())
                             : parse_chat_request(request.body, model_.bounds());
  if (const auto id = request.headers.find("x-request-id"); id != request.headers.end()) {
    check_request_id(id->second, "X-Request-Id");
    wanted.request_id = id->second;
  }
  GenerationInput input = model_.prepare(std::move(wanted));
  responder->set_header("X-Request-Id", input.request.request_id);
  start(std::move(input), responder);
}

void OpenAiApi::infer(const std::string& body, const std::shared_ptr<HttpResponder>& responder) {
  std::vector<GenerationInput> inputs;
  std::map<std::vector<int64_t>, uint64_t> seen;
  for (OpenAiRequest& request : parse_rollout_requests(body, model_.bounds())) {
    GenerationInput& input = inputs.emplace_back(model_.prepare(std::move(request)));
    // A trainer repeats a prompt for each completion that it wants: they are to differ.
    input.request.occurrence = seen[input.prompts.at(0).ids]++;
  }
  const auto responders = rollout_responders(inputs.size(), responder);
  for (size_t i = 0; i < inputs.size(); ++i) start(std::move(inputs[i]), responders[i]);
}

/// Has the sampler work on a request.
void OpenAiApi::start(GenerationInput input, const std::shared_ptr<HttpResponder>& responder) {
  const auto generation =
      std::make_shared<Generation>(std::move(input), model_.tokenizer(), *engine_, responder);
  // The responder belongs to the generation, so it must not own it.
  responder->on_gone([weak = std::weak_ptr(generation)] {
    if (const auto left = weak.lock()) left->note_gone();
  });
  submit(generation);
}

void OpenAiApi::submit(const std::shared_ptr<Generation>& generation) {
  const GenerationInput& input = generation->input();
  std::optional<std::chrono::steady_clock::time_point> deadline;
  if (const auto timeout = model_.options().request_timeout)
    deadline = std::chrono::steady_clock::now() + *timeout;
  for (size_t p = 0; p < input.prompts.size() && !generation->is_gone(); ++p) {
    const GenerationPrompt& prompt = input.prompts[p];
    try {
      engine_->submit({.id = prompt.engine_id,
                       .prompt = prompt.ids,
                       .num_samples = input.request.num_samples,
                       .settings = prompt.settings,
                       .occurrence = input.request.occurrence,
                       .draw = input.request.draw,
                       .adapter = input.adapter,
                       .weight_version = input.request.weight_version,
                       .deadline = deadline},
                      EventForwarder(answers_, generation, p));
    } catch (const RequestError& error) {
      // Others of its prompts may be at work and have told something already.
      answers_->post(generation, p,
                     AnswerError{error.status(), error.code(), error.where(), error.what()});
      return;
    } catch (const std::exception& error) {
      log_warning("request {}: {}", prompt.engine_id, error.what());
      answers_->post(generation, p, AnswerError{500, "internal", "", "it could not be sampled"});
      return;
    }
  }
  // A client that left before all was submitted could not end all of it.
  if (generation->is_gone()) generation->cancel();
}

}  // namespace lockstep::serve
