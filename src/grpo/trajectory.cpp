// SPDX-License-Identifier: Apache-2.0
#include "grpo/trajectory.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "grpo/router_replay.h"

namespace lockstep::grpo {

GrowingTrajectory::GrowingTrajectory(const Prompt& prompt,
                                     const text::ChatEncoder& encoder,
                                     std::string id)
    : prompt_(&prompt), encoder_(&encoder) {
  told_.id = std::move(id);
  told_.row = prompt.row;
  told_.tools = prompt.tools;
  told_.messages = prompt.messages;
}

text::Conversation GrowingTrajectory::conversation_of(const Json& messages) const {
  const Json& variables = prompt_->row->chat_template_kwargs;
  return {.messages = &messages,
          .tools = told_.tools.is_null() ? nullptr : &told_.tools,
          .variables = variables.is_null() ? nullptr : &variables};
}

void GrowingTrajectory::begin() {
  const bool is_own = told_.messages == prompt_->messages && told_.tools == prompt_->tools;
  const text::EncodedPrompt encoded =
      is_own ? prompt_->encoded : text::at_row(prompt_->row->where, [&] {
        return encoder_->encode_prompt(conversation_of(told_.messages));
      });
  sample_.ids = encoded.ids;
  sample_.mask.assign(sample_.ids.size(), 0);
  prompt_tokens_ = std::ssize(sample_.ids);
  prompt_messages_ = told_.messages.size();
  prompt_text_ = encoded.text;
  before_ = encoded.response_prefix;
}

int64_t GrowingTrajectory::room_behind(int64_t tokens, const TurnLimits& limits) const {
  int64_t most = limits.max_completion_length;
  if (limits.scope == agent::LengthScope::kTotal) most -= tokens - prompt_tokens_;
  return std::min(most, limits.context - tokens);
}

int64_t GrowingTrajectory::room(const TurnLimits& limits) const {
  return room_behind(std::ssize(sample_.ids), limits);
}

void GrowingTrajectory::append_turn(rollout::Completion&& completion) {
  const auto append = [](auto& to, const auto& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  append(sample_.ids, completion.token_ids);
  sample_.mask.resize(sample_.ids.size(), 1);
  // Those of the turns before are told again, since they are part of this one's prompt.
  sample_.routed = routed_of(completion);
  append(logprobs_, completion.logprobs);
  append(processed_, completion.processed_logprobs);
  is_cut_ = completion.finish_reason == rollout::FinishReason::kLength;
  ended_by_.reset();
  if (completion.has_stop_token) ended_by_ = completion.token_ids.back();

  ++told_.num_turns;
  told_.text = before_ + rollout::completion_text(completion, encoder_->tokenizer(),
                                                  rollout::StopString::kKept);
  told_.token_ids = std::move(completion.token_ids);
  told_.finish_reason = finish_reason();
  if (is_continued_)
    told_.messages.back()["content"] = told_.text;
  else
    told_.messages.push_back({{"role", "assistant"}, {"content", told_.text}});
}

/// The tokens of a turn that goes on: how many of those sampled last stay, and what follows them.
GrowingTrajectory::Change GrowingTrajectory::change_of(agent::Continuation&& continuation) const {
  const text::Tokenizer& tokenizer = encoder_->tokenizer();
  const std::span<const int64_t> sampled(told_.token_ids);
  Change change;
  if (!continuation.ids.empty()) {
    if (continuation.kept > sampled.size())
      fail<PeerError>("bad-turn", prompt_->row->where,
                      "expected at most the {} sampled tokens of a turn that goes on, got {}",
                      sampled.size(), continuation.kept);
    change.kept = continuation.kept;
    change.ids = std::move(continuation.ids);
    change.text =
        before_ + tokenizer.decode(sampled.first(change.kept)) + tokenizer.decode(change.ids);
    return change;
  }
  if (!continuation.text.starts_with(before_))
    fail<PeerError>("bad-turn", prompt_->row->where,
                    "expected a turn that goes on to begin as it began, with {:?}, got {:?}",
                    before_, continuation.text.substr(0, before_.size()));
  change.text = std::move(continuation.text);
  const std::string_view wanted = std::string_view(change.text).substr(before_.size());
  // Token by token, since one may hold a part of a character only.
  std::string kept_text;
  std::string so_far;
  for (size_t i = 0; i < sampled.size(); ++i) {
    so_far += tokenizer.bytes_of(sampled[i]);
    if (!wanted.starts_with(so_far)) break;
    change.kept = i + 1;
    kept_text = so_far;
  }
  change.ids = tokenizer.encode(wanted.substr(kept_text.size()));
  return change;
}

void GrowingTrajectory::append_masked(const std::vector<int64_t>& ids) {
  sample_.ids.insert(sample_.ids.end(), ids.begin(), ids.end());
  sample_.mask.resize(sample_.ids.size(), 0);
}

bool GrowingTrajectory::append(agent::FollowUp&& follow_up, const TurnLimits& limits) {
  if (follow_up.is_over()) return false;
  if (follow_up.continuation) {
    Change change = change_of(std::move(*follow_up.continuation));
    const size_t dropped = told_.token_ids.size() - change.kept;
    const int64_t tokens = std::ssize(sample_.ids) - static_cast<int64_t>(dropped);
    is_cut_ = room_behind(tokens + std::ssize(change.ids), limits) < 1;
    if (is_cut_) return false;
    sample_.ids.resize(static_cast<size_t>(tokens));
    sample_.mask.resize(static_cast<size_t>(tokens));
    logprobs_.resize(logprobs_.size() - dropped);
    if (!processed_.empty()) processed_.resize(processed_.size() - dropped);
    append_masked(change.ids);
    before_ = told_.text = std::move(change.text);
    told_.messages.back()["content"] = before_;
    is_continued_ = true;
    return true;
  }
  const text::EncodedPrompt between = text::at_row(prompt_->row->where, [&] {
    return encoder_->encode_follow_up(conversation_of(follow_up.messages), ended_by_);
  });
  if (room_behind(std::ssize(sample_.ids) + std::ssize(between.ids), limits) < 1) {
    is_cut_ = true;
    return false;
  }
  append_masked(between.ids);
  for (Json& message : follow_up.messages) told_.messages.push_back(std::move(message));
  before_ = between.response_prefix;
  is_continued_ = false;
  return true;
}

std::string GrowingTrajectory::text() const {
  auto ids = completion_ids();
  if (ended_by_ && !ids.empty() && ids.back() == *ended_by_) ids = ids.first(ids.size() - 1);
  return encoder_->tokenizer().decode(ids);
}

Experience GrowingTrajectory::take_experience(int64_t weight_version) {
  Experience experience;
  experience.sample = std::move(sample_);
  experience.sampler_logprobs = std::move(logprobs_);
  experience.processed_logprobs = std::move(processed_);
  experience.is_truncated = is_cut_;
  experience.weight_version = weight_version;
  return experience;
}

TurnRecord GrowingTrajectory::record() const {
  TurnRecord record;
  const auto messages = told_.messages.begin() + static_cast<int64_t>(prompt_messages_);
  record.prompt_messages = Json(Json::array_t(told_.messages.begin(), messages));
  record.prompt = prompt_text_;
  record.messages = Json(Json::array_t(messages, told_.messages.end()));
  record.last_text = told_.text;
  for (size_t t = static_cast<size_t>(prompt_tokens_); t < sample_.ids.size(); ++t) {
    if (!sample_.mask[t]) continue;
    if (!sample_.mask[t - 1]) record.turn_ids.emplace_back();
    record.turn_ids.back().push_back(sample_.ids[t]);
  }
  record.infos = told_.infos;
  record.infos["num_turns"] = told_.num_turns;
  record.reward = told_.reward;
  record.num_turns = told_.num_turns;
  record.num_tool_calls = told_.num_tool_calls;
  record.num_tool_failures = told_.num_tool_failures;
  return record;
}

}  // namespace lockstep::grpo
