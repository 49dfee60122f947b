// SPDX-License-Identifier: Apache-2.0
#include "text/chat_encoder.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/json.h"

namespace lockstep::text {
namespace {

/// Calls `visit` for the arguments of each tool call that are a string.
template <class Messages, class Visit>
void for_each_argument_text(Messages& messages, const Visit& visit) {
  if (!messages.is_array()) return;
  for (auto& message : messages) {
    if (!message.is_object() || !message.contains("tool_calls")) continue;
    auto& calls = message["tool_calls"];
    if (!calls.is_array()) continue;
    for (auto& call : calls) {
      if (!call.is_object()) continue;
      auto& owner =
          call.contains("function") && call["function"].is_object() ? call["function"] : call;
      if (owner.contains("arguments") && owner["arguments"].is_string()) visit(owner["arguments"]);
    }
  }
}

/// Reads the arguments of a call, which OpenAI's API gives as a string of JSON; an empty one is a
/// call without arguments. What is not an object stays as it is.
void parse_argument_text(Json& arguments) {
  const auto& text = arguments.get_ref<const std::string&>();
  if (text.empty()) {
    arguments = Json::object();
    return;
  }
  try {
    Json parsed = parse_json(text, "arguments", "bad-row");
    if (parsed.is_object()) arguments = std::move(parsed);
  } catch (const FormatError&) {
    // The template gets the string and says what it makes of it, as with ms-swift.
  }
}

/// Whether the template writes arguments that are a string of JSON as they stand. This is tried
/// with a small conversation.
bool writes_argument_text(const ChatTemplate& chat_template, const Json* tools) {
  static const std::string kArguments = R"({"a": 1})";
  static const Json kConversation = parse_json(
      R"([{"role": "user", "content": "q"},
          {"role": "assistant", "content": "",
           "tool_calls": [{"id": "call00001", "type": "function",
                           "function": {"name": "f", "arguments": "{\"a\": 1}"}}]}])",
      "probe", "bad-row");
  try {
    const std::string text = chat_template.render({.messages = &kConversation, .tools = tools});
    return text.find(kArguments) != text.npos;
  } catch (const FormatError& error) {
    if (error.code() != "bad-row") throw;
    return false;
  }
}

/// What stands at the end of a rendering with a generation prompt in place of what ends the one
/// without it: nothing in most templates, a token that ends the text in some. "" where they differ
/// further in front.
std::string text_instead_of_end(std::string_view without, std::string_view with) {
  constexpr size_t kLongestEnd = 64;
  size_t shared = 0;
  while (shared < std::min(without.size(), with.size()) && without[shared] == with[shared])
    ++shared;
  // Two special tokens may begin alike: the prompt begins with the whole of its own.
  const size_t open = with.substr(0, shared).find_last_of("<[");
  if (open != with.npos && with.substr(open, shared - open).find_first_of(">] \n") == with.npos)
    shared = open;
  return without.size() - shared > kLongestEnd ? "" : std::string(with.substr(shared));
}

/// What stands behind the header of the turn that a prompt asks for.
std::string response_prefix_of(const std::string& prompt) {
  const size_t header = prompt.rfind(kAssistantHeader);
  if (header == std::string::npos) return "";
  std::string prefix = prompt.substr(header + kAssistantHeader.size());
  // A header inside the last user message is not the generation prompt's.
  return prefix.find(kEndOfTurn) == std::string::npos ? prefix : "";
}

}  // namespace

ChatEncoder::ChatEncoder(const std::filesystem::path& model, std::optional<bool> enable_thinking)
    : tokenizer_(Tokenizer::from_directory(model)),
      template_(ChatTemplate::from_directory(model)),
      enable_thinking_(enable_thinking) {}

ChatEncoder::ChatEncoder(Tokenizer tokenizer,
                         ChatTemplate chat_template,
                         std::optional<bool> enable_thinking)
    : tokenizer_(std::move(tokenizer)),
      template_(std::move(chat_template)),
      enable_thinking_(enable_thinking) {}

RenderedChat ChatEncoder::render(const Conversation& conversation,
                                 const Json& messages,
                                 bool add_generation_prompt) const {
  Json variables = Json::object();
  if (enable_thinking_) variables["enable_thinking"] = *enable_thinking_;
  // What the row says wins over the flag.
  if (conversation.variables && conversation.variables->is_object())
    for (const auto& [key, value] : conversation.variables->items()) variables[key] = value;
  const bool has_tools =
      conversation.tools && conversation.tools->is_array() && !conversation.tools->empty();
  ChatInputs inputs{.messages = &messages,
                    .tools = has_tools ? conversation.tools : nullptr,
                    .add_generation_prompt = add_generation_prompt,
                    .variables = &variables};
  bool has_argument_text = false;
  for_each_argument_text(messages, [&](const Json&) { has_argument_text = true; });
  if (!has_argument_text || writes_argument_text(template_, inputs.tools))
    return template_.render_parts(inputs);
  Json parsed = messages;
  for_each_argument_text(parsed, parse_argument_text);
  inputs.messages = &parsed;
  return template_.render_parts(inputs);
}

/// The rendering up to the end of the last message's content.
///
/// Source: transformers 5.23, utils/chat_template_utils.py (continue_final_message): a mark behind
/// the content shows where it ends, and whether the template trims it.
std::string ChatEncoder::render_open(const Conversation& conversation) const {
  static const std::string kMark = "[the message goes on here] ";
  Json messages = *conversation.messages;
  Json& content = messages.back()["content"];
  if (!content.is_string())
    fail<FormatError>("bad-row", "messages", "expected text in the last message, to go on with it");
  const std::string before = content;
  content = before + kMark;
  std::string text = render(conversation, messages, false).text;
  const std::string_view bare = std::string_view(kMark).substr(0, kMark.size() - 1);
  const size_t at = text.rfind(bare);
  if (at == std::string::npos)
    fail<FormatError>("bad-row", "messages",
                      "expected a chat template that writes the last message's content, to go on "
                      "with it, got one that does not");
  const bool is_trimmed = text.compare(at, kMark.size(), kMark) != 0;
  text.resize(at);
  if (is_trimmed) text.resize(text.find_last_not_of(" \t\r\n") + 1);
  return text;
}

EncodedPrompt ChatEncoder::encode_prompt(const Conversation& conversation,
                                         const PromptForm& form) const {
  EncodedPrompt prompt;
  if (form.end == PromptEnd::kContinued)
    prompt.text = render_open(conversation);
  else
    prompt.text = render(conversation, *conversation.messages,
                         /*add_generation_prompt=*/form.end == PromptEnd::kGenerationPrompt)
                      .text;
  prompt.text += form.opening;
  prompt.response_prefix = response_prefix_of(prompt.text);
  prompt.ids = tokenizer_.encode(prompt.text);
  return prompt;
}

EncodedPrompt ChatEncoder::encode_follow_up(const Conversation& conversation,
                                            std::optional<int64_t> ended_by) const {
  static const std::string kMark = "[the turn that is answered]";
  Json messages = Json::array(
      {{{"role", "user"}, {"content", "question"}}, {{"role", "assistant"}, {"content", kMark}}});
  for (const Json& message : *conversation.messages) messages.push_back(message);
  const std::string whole = render(conversation, messages, /*add_generation_prompt=*/true).text;
  const size_t at = whole.find(kMark);
  if (at == std::string::npos)
    fail<FormatError>(
        "bad-row", "messages",
        "expected a chat template that writes an earlier turn of the assistant, to go "
        "on behind it, got one that does not");
  EncodedPrompt between;
  between.text = whole.substr(at + kMark.size());
  if (ended_by)
    if (const std::string end(tokenizer_.bytes_of(*ended_by)); between.text.starts_with(end))
      between.text.erase(0, end.size());
  between.response_prefix = response_prefix_of(between.text);
  between.ids = tokenizer_.encode(between.text);
  return between;
}

std::vector<int64_t> ChatEncoder::encode(const Conversation& conversation) const {
  return tokenizer_.encode(render(conversation, *conversation.messages, false).text);
}

/// The renderings of `messages` without and with a generation prompt; empty where the template
/// refuses them. `rendered` is the first one, where it is known.
std::pair<std::string, std::string> ChatEncoder::render_both(const Conversation& conversation,
                                                             const Json& messages,
                                                             const std::string* rendered) const {
  try {
    return {rendered ? *rendered : render(conversation, messages, false).text,
            render(conversation, messages, true).text};
  } catch (const FormatError& error) {
    if (error.code() != "bad-row") throw;
    return {};
  }
}

GenerationPrompt ChatEncoder::generation_prompts(const Conversation& conversation,
                                                 const std::string& rendered) const {
  std::vector<std::string> texts;
  const auto add = [&](const auto& both) {
    if (both.second.starts_with(both.first)) texts.push_back(both.second.substr(both.first.size()));
  };
  const Json& messages = *conversation.messages;
  add(render_both(conversation, messages, &rendered));
  // Many templates append nothing, or something else, behind a turn of the assistant or a tool.
  static const Json kQuestion = parse_json(R"([{"role": "user", "content": "q"}])", "question");
  const auto question = render_both(conversation, kQuestion, nullptr);
  add(question);
  texts.push_back(text_instead_of_end(question.first, question.second));
  if (std::all_of(texts.begin(), texts.end(), [](const auto& text) { return text.empty(); })) {
    // It refuses a question alone: how the conversation begins, then.
    size_t count = messages.size();
    while (count > 0 && messages[count - 1].value("role", Json()) == "assistant") --count;
    const Json begin(
        Json::array_t(messages.begin(), messages.begin() + static_cast<int64_t>(count)));
    if (count > 0) add(render_both(conversation, begin, nullptr));
  }
  return GenerationPrompt(texts);
}

std::vector<TrainedSpan> ChatEncoder::trained_spans(const Conversation& conversation,
                                                    const RenderedChat& chat,
                                                    const std::vector<float>& weights) const {
  const Json& messages = *conversation.messages;
  if (std::all_of(weights.begin(), weights.end(), [](float weight) { return weight == 0; }))
    return {};
  if (chat.marks_generations) return marked_spans(chat, messages, weights);
  const GenerationPrompt prompt = generation_prompts(conversation, chat.text);
  const auto end_id = tokenizer_.eos_id();
  const TurnFinder finder(messages, weights, prompt, end_id ? tokenizer_.bytes_of(*end_id) : "");
  if (auto spans = finder.by_loop(chat)) return *spans;
  const RenderedChat anchored = render(conversation, finder.anchored_messages(), false);
  if (auto spans = finder.by_anchors(chat.text, anchored.text)) return *spans;
  fail<FormatError>(
      "bad-row", "messages",
      "expected a chat template that shows which text it writes for which turn of the assistant "
      "(by "
      "a loop over the messages, or by writing their content unchanged), got one that does not "
      "(hint: put {{% generation %}} and {{% endgeneration %}} around what the assistant writes in "
      "the checkpoint's chat_template.jinja, or train on rows of input_ids and completion_mask)");
}

EncodedDialogue ChatEncoder::encode_dialogue(const Conversation& conversation,
                                             LossTurns turns) const {
  const Json& messages = *conversation.messages;
  if (std::none_of(messages.begin(), messages.end(), [](const Json& message) {
        return message.value("role", Json()) == "assistant";
      }))
    fail<FormatError>("bad-row", "messages", "expected an assistant turn to learn from, got none");
  const std::vector<float> weights = message_weights(messages, turns);
  const RenderedChat chat = render(conversation, messages, false);
  EncodedDialogue dialogue;
  bool is_weighted = false;
  const auto append = [&](size_t begin, size_t end, float weight) {
    if (begin == end) return;
    const auto ids = tokenizer_.encode(std::string_view(chat.text).substr(begin, end - begin));
    dialogue.ids.insert(dialogue.ids.end(), ids.begin(), ids.end());
    dialogue.mask.resize(dialogue.ids.size(), weight != 0);
    dialogue.weights.resize(dialogue.ids.size(), weight);
    is_weighted |= weight != 0 && weight != 1;
  };
  size_t done = 0;
  for (const TrainedSpan& span : trained_spans(conversation, chat, weights)) {
    append(done, span.begin, 0);
    append(span.begin, span.end, span.weight);
    done = span.end;
  }
  append(done, chat.text.size(), 0);
  if (!is_weighted) dialogue.weights.clear();
  return dialogue;
}

}  // namespace lockstep::text
