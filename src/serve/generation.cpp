// SPDX-License-Identifier: Apache-2.0
#include "serve/generation.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/digest.h"
#include "serve/error_answer.h"
#include "serve/json_text.h"

namespace lockstep::serve {
namespace {

LogprobText::Form form_of(const OpenAiRequest& request) {
  return request.is_chat ? LogprobText::Form::kChat : LogprobText::Form::kCompletion;
}

bool contains(const std::vector<int64_t>& ids, int64_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

Generation::Choice::Choice(int64_t number, const Generation& owner)
    : text(owner.input_.request, *owner.tokenizer_, owner.input_.dialect),
      logprobs(form_of(owner.input_.request),
               {.tokenizer = owner.tokenizer_, .as_ids = owner.input_.request.tokens_as_ids}) {
  whole.index = number;
}

Generation::Generation(GenerationInput input,
                       const text::Tokenizer& tokenizer,
                       rollout::EngineService& engine,
                       std::shared_ptr<HttpResponder> responder)
    : input_(std::move(input)),
      tokenizer_(&tokenizer),
      engine_(&engine),
      responder_(std::move(responder)),
      writer_(input_.head),
      prompts_(input_.prompts.size()) {
  const int64_t count = std::ssize(prompts_) * input_.request.num_samples;
  for (int64_t i = 0; i < count; ++i) choices_.push_back(std::make_unique<Choice>(i, *this));
}

Generation::Choice& Generation::choice_of(size_t prompt, int64_t sample) {
  LOCKSTEP_CHECK(sample >= 0 && sample < input_.request.num_samples, "sample {}", sample);
  return *choices_.at(prompt * static_cast<size_t>(input_.request.num_samples) +
                      static_cast<size_t>(sample));
}

void Generation::on_event(size_t prompt, GenerationEvent&& event) {
  if (is_complete_ || is_gone_) return;
  if (const auto* error = std::get_if<AnswerError>(&event)) return fail(*error);
  if (input_.request.is_stream && !is_streaming_) {
    // The request is at work: what goes wrong from here on is told inside of the stream.
    const auto* done = std::get_if<rollout::RequestDone>(&event);
    if (!done || done->status != rollout::RequestDone::Status::kFailed) {
      is_streaming_ = true;
      responder_->begin_stream(200, "text/event-stream");
    }
  }
  std::visit(
      [&](auto&& one) {
        if constexpr (!std::is_same_v<std::decay_t<decltype(one)>, AnswerError>)
          on(prompt, std::move(one));
      },
      std::move(event));
}

void Generation::on(size_t prompt, rollout::PromptDone&& event) {
  Prompt& state = prompts_.at(prompt);
  if (std::exchange(state.is_computed, true)) return;
  state.cached_tokens = event.cached_tokens;
  if (input_.request.settings.prompt_logprobs && !input_.request.is_stream &&
      !event.logprobs.empty())
    state.logprobs = prompt_logprobs_text(event.logprobs, *tokenizer_);
  if (!event.experts.is_empty())
    state.experts = std::make_shared<const rollout::RoutedExperts>(std::move(event.experts));
  begin_choices(prompt, event.logprobs);
}

/// What an answer says before the first token: its role, and the prompt if it is echoed.
void Generation::begin_choices(size_t prompt, const std::vector<rollout::ScoredToken>& logprobs) {
  const OpenAiRequest& request = input_.request;
  const GenerationPrompt& input = input_.prompts.at(prompt);
  for (int64_t sample = 0; sample < request.num_samples; ++sample) {
    Choice& choice = choice_of(prompt, sample);
    ChoiceState begin = new_state(choice);
    if (request.return_token_ids) begin.prompt_token_ids = input.ids;
    if (request.is_chat) {
      if (is_streaming_)
        writer_.append_role(unsent_, choice.whole.index, begin.prompt_token_ids,
                            usage_so_far(choice));
      choice.whole.prompt_token_ids = std::move(begin.prompt_token_ids);
      continue;
    }
    if (request.echo) {
      begin.delta.content = input.text;
      for (size_t i = 0; request.logprobs && i < logprobs.size(); ++i)
        i == 0 ? choice.logprobs.add_first(logprobs[i].token.id) : choice.logprobs.add(logprobs[i]);
      if (request.logprobs && is_streaming_) begin.logprobs = choice.logprobs.take();
    }
    if (request.echo || request.return_token_ids) add(choice, std::move(begin));
  }
}

void Generation::on(size_t prompt, TokenEvent&& event) {
  if (event.new_version) prompts_.at(prompt).version = std::move(event.new_version);
  if (!shows_tokens()) return;
  Choice& choice = choice_of(prompt, event.sample);
  if (choice.is_ended) return;
  const auto& version = prompts_[prompt].version;
  if (choice.versions.empty() || (version && choice.versions.back().version != *version))
    choice.versions.push_back({version ? *version : "", choice.num_tokens, choice.num_tokens});
  choice.versions.back().end = ++choice.num_tokens;
  if (event.token.processed) choice.processed_logprobs.push_back(*event.token.processed);
  const bool is_last =
      event.is_stop_token || choice.num_tokens == input_.prompts[prompt].settings.max_new_tokens;
  if (is_last)
    choice.held = std::move(event.token);
  else
    show_token(choice, event.token);
}

ChoiceState Generation::new_state(const Choice& choice) const {
  ChoiceState state;
  state.index = choice.whole.index;
  if (input_.request.return_token_ids) state.token_ids.emplace();
  return state;
}

void Generation::show_token(Choice& choice, const rollout::ScoredToken& token) {
  ChoiceState state = new_state(choice);
  if (state.token_ids) state.token_ids->push_back(token.token.id);
  if (input_.request.logprobs) {
    choice.logprobs.add(token);
    if (is_streaming_) state.logprobs = choice.logprobs.take();
  }
  state.delta = choice.text.push(token.token.id);
  add(choice, std::move(state));
}

/// Adds a piece to the whole answer, or to the stream.
void Generation::add(Choice& choice, ChoiceState&& state) {
  state.calls_before = choice.num_calls;
  for (const text::ToolCall& call : state.delta.calls)
    state.call_ids.push_back(call_id(choice, call, choice.num_calls++));
  if (is_streaming_) {
    // One event for each token, also where it adds no text: clients count and time them.
    writer_.append_event(unsent_, state, usage_so_far(choice));
    return;
  }
  ChoiceState& whole = choice.whole;
  whole.delta.reasoning += state.delta.reasoning;
  whole.delta.content += state.delta.content;
  std::move(state.delta.calls.begin(), state.delta.calls.end(),
            std::back_inserter(whole.delta.calls));
  std::move(state.call_ids.begin(), state.call_ids.end(), std::back_inserter(whole.call_ids));
  if (state.prompt_token_ids) whole.prompt_token_ids = std::move(state.prompt_token_ids);
  if (state.token_ids) {
    if (!whole.token_ids) whole.token_ids.emplace();
    whole.token_ids->insert(whole.token_ids->end(), state.token_ids->begin(),
                            state.token_ids->end());
  }
  if (state.end) whole.end = std::move(state.end);
  if (state.versions) whole.versions = std::move(state.versions);
  if (!state.processed_logprobs.empty())
    whole.processed_logprobs = std::move(state.processed_logprobs);
}

void Generation::on(size_t prompt, rollout::SampleDone&& event) {
  end_choice(prompt, choice_of(prompt, event.sample), std::move(event));
}

void Generation::end_choice(size_t prompt, Choice& choice, rollout::SampleDone&& done) {
  if (std::exchange(choice.is_ended, true)) return;
  ChoiceState state = new_state(choice);
  const auto held = std::exchange(choice.held, std::nullopt);
  if (held) {
    if (state.token_ids) state.token_ids->push_back(held->token.id);
    if (input_.request.logprobs) choice.logprobs.add(*held);
    if (!done.has_stop_token || input_.request.include_stop_string)
      state.delta = choice.text.push(held->token.id);
  }
  // The list of a stream's last event is left out where no token comes with it.
  if (input_.request.logprobs && (held || !is_streaming_)) state.logprobs = choice.logprobs.take();
  ChoiceDelta rest = choice.text.finish(done.stop_string);
  state.delta.reasoning += rest.reasoning;
  state.delta.content += rest.content;
  std::move(rest.calls.begin(), rest.calls.end(), std::back_inserter(state.delta.calls));
  if (input_.request.return_token_ids) {
    state.versions = std::move(choice.versions);
    state.processed_logprobs = std::move(choice.processed_logprobs);
  }
  state.end = end_of(done, held ? std::optional(held->token.id) : std::nullopt);
  const bool has_calls = choice.num_calls > 0 || !state.delta.calls.empty();
  if (has_calls && state.end->finish_reason == "stop" &&
      input_.request.tool_choice != ToolChoice::kNamed)
    state.end->finish_reason = "tool_calls";
  if (!is_streaming_) {
    choice.whole.logprobs = std::move(state.logprobs);
    choice.whole.prompt_logprobs = prompts_.at(prompt).logprobs;
    add_experts(prompt, choice, std::move(done.experts));
  }
  add(choice, std::move(state));
}

/// The prompt's stand with its first choice alone. A completion of one token has the experts of
/// none, and says so.
void Generation::add_experts(size_t prompt, Choice& choice, rollout::RoutedExperts&& experts) {
  const auto& of_prompt = prompts_.at(prompt).experts;
  if (!of_prompt) return;
  experts.layers = of_prompt->layers;
  experts.chosen = of_prompt->chosen;
  choice.whole.experts = std::make_shared<const rollout::RoutedExperts>(std::move(experts));
  if (choice.whole.index % input_.request.num_samples == 0) choice.whole.prompt_experts = of_prompt;
}

ChoiceEnd Generation::end_of(const rollout::SampleDone& done, std::optional<int64_t> last) const {
  ChoiceEnd end;
  // With no tokens wanted, the sampler's own reason means nothing.
  if (done.end == rollout::SampleEnd::kAborted)
    end.finish_reason = "abort";
  else
    end.finish_reason = done.end == rollout::SampleEnd::kStop && shows_tokens() ? "stop" : "length";
  if (end.finish_reason != "stop") return end;
  if (done.stop_string) {
    end.stop_reason = json_text(*done.stop_string);
  } else if (done.has_stop_token && last && !contains(input_.eos_ids, *last)) {
    end.stop_reason.clear();
    append_json_integer(end.stop_reason, *last);
  }
  return end;
}

/// A function of the request and its answer, so that the same request gets the same answer.
std::string Generation::call_id(const Choice& choice,
                                const text::ToolCall& call,
                                int64_t number) const {
  const auto n = static_cast<size_t>(input_.request.num_samples);
  const GenerationPrompt& prompt = input_.prompts.at(static_cast<size_t>(choice.whole.index) / n);
  const Digest of_prompt =
      digest_of(prompt.ids.data(), prompt.ids.size() * sizeof(prompt.ids.front()));
  const std::string what = fmt::format("{} {} {} {} {}", prompt.settings.seed, choice.whole.index,
                                       number, call.name, call.arguments);
  constexpr size_t kDigits = 24;
  return "call_" + digest_of(what, of_prompt).hex().substr(0, kDigits);
}

void Generation::on(size_t prompt, rollout::RequestDone&& event) {
  if (event.status == rollout::RequestDone::Status::kFailed)
    return fail({event.http_status, event.code, "", event.error});
  for (int64_t sample = 0; sample < input_.request.num_samples; ++sample)
    end_choice(prompt, choice_of(prompt, sample),
               {.sample = sample, .end = rollout::SampleEnd::kAborted});
  prompts_.at(prompt).is_done = true;
  if (std::all_of(prompts_.begin(), prompts_.end(), [](const Prompt& p) { return p.is_done; }))
    finish();
}

TokenUsage Generation::usage() const {
  TokenUsage usage;
  for (size_t p = 0; p < prompts_.size(); ++p) {
    usage.prompt_tokens += std::ssize(input_.prompts[p].ids);
    usage.cached_tokens += prompts_[p].cached_tokens;
  }
  for (const auto& choice : choices_) usage.completion_tokens += choice->num_tokens;
  return usage;
}

/// Of one choice, with its own prompt, as in vLLM.
std::optional<TokenUsage> Generation::usage_so_far(const Choice& choice) const {
  if (!input_.request.continuous_usage) return std::nullopt;
  const size_t prompt =
      static_cast<size_t>(choice.whole.index) / static_cast<size_t>(input_.request.num_samples);
  return TokenUsage{.prompt_tokens = std::ssize(input_.prompts.at(prompt).ids),
                    .completion_tokens = choice.num_tokens,
                    .cached_tokens = prompts_[prompt].cached_tokens};
}

void Generation::finish() {
  is_complete_ = true;
  if (is_streaming_) {
    if (input_.request.include_usage) writer_.append_usage(unsent_, usage());
    AnswerWriter::append_done(unsent_);
    flush();
    responder_->end_stream();
    return;
  }
  std::vector<ChoiceState> whole;
  whole.reserve(choices_.size());
  for (const auto& choice : choices_) {
    if (input_.request.is_rollout) {
      choice->whole.delta.content.insert(0, input_.response_prefix);
      // ms-swift knows "stop" and "length".
      if (choice->whole.end->finish_reason == "abort") choice->whole.end->finish_reason = "";
    }
    whole.push_back(std::move(choice->whole));
  }
  responder_->respond({.body = writer_.whole(whole, usage())});
}

void Generation::flush() {
  if (unsent_.empty() || is_gone_) return;
  responder_->write(std::exchange(unsent_, {}));
}

void Generation::fail(const AnswerError& error) {
  if (std::exchange(is_complete_, true)) return;
  cancel();
  HttpResponse answer = error_response(error.status, error.message, error.param, error.code);
  if (!is_streaming_) return responder_->respond(std::move(answer));
  AnswerWriter::append_error(unsent_, answer.body);
  AnswerWriter::append_done(unsent_);
  flush();
  responder_->end_stream();
}

void Generation::note_gone() {
  is_gone_ = true;
  cancel();
}

void Generation::cancel() {
  for (const GenerationPrompt& prompt : input_.prompts) engine_->abort_request(prompt.engine_id);
}

}  // namespace lockstep::serve
