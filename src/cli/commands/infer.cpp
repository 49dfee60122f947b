// lockstep infer: completes a file of prompts, or chats in the terminal.
// SPDX-License-Identifier: Apache-2.0
#include <iostream>
#include <unistd.h>

#include "base/check.h"
#include "base/interrupt.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/commands/model_command.h"
#include "cli/flag_classes.h"
#include "cli/progress.h"
#include "cli/row_file.h"
#include "grpo/group_sampler.h"  // stop_ids_of
#include "grpo/log_line.h"       // shown_text
#include "rollout/engine.h"
#include "rollout/sampling_options.h"
#include "text/row_files.h"

namespace lockstep::cli {
namespace {

struct InferOptions {
  std::string model, adapters, dataset, result_path, system;
  bool overwrite = false, ignore_eos = false;
  std::optional<bool> enable_thinking;
  int64_t max_new_tokens = 512, num_return_sequences = 1;
  double temperature = 1.0;
  rollout::SamplingOptions sampling;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("model", model, "Checkpoint directory.");
    visit("adapters", adapters, "Directory of an adapter in PEFT's form.");
    visit("dataset", dataset,
          "JSON lines with messages or input_ids; unset: a chat in the terminal.");
    visit("result_path", result_path, "Where the rows go; unset: stdout.");
    visit("overwrite", overwrite, "Replaces an existing output.");
    visit("system", system, "System prompt of the chat.");
    visit("enable_thinking", enable_thinking,
          "Handed to the chat template; unset: the template decides.");
    visit("max_new_tokens", max_new_tokens, "How many tokens a completion has at most.",
          Range::at_least(1));
    visit("num_return_sequences", num_return_sequences, "Completions for each row.",
          Range::between(1, 1 << 20));
    visit("temperature", temperature, "Divides the logits; 0: always the most likely token.",
          Range::at_least(0));
    sampling.for_each_field(visit);
    visit("ignore_eos", ignore_eos, "Continues after end tokens.");
  }
};

Json response(const rollout::Completion& completion, const text::Tokenizer* tokenizer) {
  Json logprobs = Json::array();
  for (const float value : completion.logprobs) logprobs.push_back(shortest_double(value));
  const auto text = [&] {
    return rollout::completion_text(completion, *tokenizer, rollout::StopString::kCut);
  };
  return {{"text", tokenizer ? Json(text()) : Json()},
          {"token_ids", completion.token_ids},
          {"logprobs", std::move(logprobs)},
          {"finish_reason", rollout::finish_reason_name(completion.finish_reason)}};
}

/// The tokenizer; null if the checkpoint has none, since rows of ids need no text.
std::unique_ptr<text::Tokenizer> find_tokenizer(const std::filesystem::path& model) {
  if (!std::filesystem::exists(model / "tokenizer.json")) return nullptr;
  return std::make_unique<text::Tokenizer>(text::Tokenizer::from_directory(model));
}

/// Completes every row of the file.
void run_batch(CommandContext& context,
               const InferOptions& options,
               const rollout::EngineOptions& engine_options) {
  context.reads("--model", options.model);
  if (!options.adapters.empty()) context.reads("--adapters", options.adapters);
  context.reads("--dataset", options.dataset);
  RowWriter writer(options.result_path, options.overwrite, "--result_path", context.inputs);
  const auto loaded = load_for_command(context, options.model, options.adapters);
  const auto& config = loaded.weights->config();
  const auto tokenizer = find_tokenizer(options.model);
  text::RowEncoder encoder(options.model, config.vocab_size, options.enable_thinking);
  std::vector<Json> rows;
  std::vector<std::string> places;
  std::vector<rollout::GenerationRequest> requests;
  std::map<std::vector<int64_t>, uint64_t> seen;
  text::for_each_row(options.dataset, [&](const std::string& where, Json&& row) {
    auto ids = encode_row(encoder, row, where, /*add_generation_prompt=*/true);
    const uint64_t occurrence = seen[ids]++;
    requests.push_back({std::move(ids), options.num_return_sequences, occurrence, 0});
    rows.push_back(std::move(row));
    places.push_back(where);
  });

  rollout::GenerationSettings settings{.sampling = options.sampling.parameters(options.temperature),
                                       .max_new_tokens = options.max_new_tokens,
                                       .stop_strings = options.sampling.stop_words,
                                       .tokenizer = tokenizer.get(),
                                       .ignore_eos = options.ignore_eos,
                                       .seed = static_cast<uint64_t>(context.common.seed),
                                       .exact = context.common.exact};
  if (!options.sampling.stop_words.empty() && !tokenizer)
    fail<ConfigError>("bad-flag", "--stop_words", "expected a tokenizer.json in {}, got none",
                      options.model);
  settings.stop_ids = grpo::stop_ids_of(options.model, config, tokenizer.get());
  rollout::Engine engine(*loaded.weights, engine_options, loaded.adapter.get());
  for (size_t i = 0; i < requests.size(); ++i)
    engine.check_room(std::ssize(requests[i].prompt), settings.max_new_tokens, places[i]);
  context.phase.start();
  const auto total = static_cast<int64_t>(requests.size()) * options.num_return_sequences;
  Progress progress({.label = "infer",
                     .unit = "completions",
                     .total = total,
                     .most_tokens = total * settings.max_new_tokens,
                     .show = context.show_progress()});
  const auto completions = engine.generate(requests, settings, [&](int64_t tokens, int64_t done) {
    throw_if_interrupted();
    progress.update(done, tokens);
  });
  progress.finish();
  for (size_t i = 0; i < rows.size(); ++i) {
    Json list = Json::array();
    for (const auto& completion : completions[i])
      list.push_back(response(completion, tokenizer.get()));
    rows[i]["responses"] = std::move(list);
    writer.write(rows[i]);
  }
  writer.commit();
}

/// Writes a part of an answer. A model may say what would move a terminal's cursor.
void say(const std::string& part) {
  static const bool is_terminal = ::isatty(STDOUT_FILENO) == 1;
  std::cout << (is_terminal ? grpo::shown_text(part, "", part.size()) : part) << std::flush;
}

/// Reads questions line by line and answers each with the conversation so far.
void run_chat(CommandContext& context,
              const InferOptions& options,
              const rollout::EngineOptions& engine_options) {
  const auto loaded = load_for_command(context, options.model, options.adapters);
  const text::ChatEncoder encoder(options.model, options.enable_thinking);
  rollout::Engine engine(*loaded.weights, engine_options, loaded.adapter.get());
  rollout::GenerationSettings settings{
      .sampling = options.sampling.parameters(options.temperature),
      .max_new_tokens = options.max_new_tokens,
      .stop_ids = grpo::stop_ids_of(options.model, loaded.weights->config(), &encoder.tokenizer()),
      .stop_strings = options.sampling.stop_words,
      .tokenizer = &encoder.tokenizer(),
      .ignore_eos = options.ignore_eos,
      .seed = static_cast<uint64_t>(context.common.seed),
      .exact = context.common.exact};
  context.phase.start();
  log_info("chat: a line is a question; /new starts over, /quit or end of input ends");
  const auto fresh = [&] {
    Json messages = Json::array();
    if (!options.system.empty())
      messages.push_back({{"role", "system"}, {"content", options.system}});
    return messages;
  };
  Json messages = fresh();
  for (std::string line; std::cerr << "> " << std::flush, std::getline(std::cin, line);) {
    throw_if_interrupted();
    if (line == "/quit") break;
    if (line == "/new") messages = fresh();
    if (line.empty() || line == "/new") continue;
    messages.push_back({{"role", "user"}, {"content", line}});
    std::string text;
    try {
      const auto prompt = encoder.encode_prompt({&messages});
      engine.check_room(std::ssize(prompt.ids), settings.max_new_tokens, "the conversation");
      rollout::CompletionStream stream(encoder.tokenizer(), options.sampling.stop_words);
      settings.on_token = [&](int64_t, const rollout::Completion& so_far) {
        say(stream.push(so_far));
      };
      say(prompt.response_prefix);
      const auto answer = engine.generate(
          std::vector<rollout::GenerationRequest>{{prompt.ids, 1, 0, messages.size()}}, settings,
          [](int64_t, int64_t) { throw_if_interrupted(); });
      say(stream.finish(answer[0][0]) + "\n");
      text = prompt.response_prefix +
             rollout::completion_text(answer[0][0], encoder.tokenizer(), rollout::StopString::kCut);
    } catch (const InterruptedError&) {
      throw;
    } catch (const Error& error) {
      // A line that cannot be answered (too long, not UTF-8) is removed again, and the chat goes
      // on.
      log_warning("{}", error.what());
      messages.erase(messages.size() - 1);
      continue;
    }
    messages.push_back({{"role", "assistant"}, {"content", text}});
  }
  // A signal ends the wait for a line in the same way as the end of the input.
  throw_if_interrupted();
}

/// Refuses flags that would have no effect.
void check_flags(const InferOptions& options, const FlagSet& flags) {
  const bool is_chat = options.dataset.empty();
  for (const char* name : {"result_path", "num_return_sequences"})
    if (is_chat && flags.is_set(name))
      fail<ConfigError>("bad-flag", flags.where_of(name), "expected --dataset with it, got a chat");
  if (!is_chat && flags.is_set("system"))
    fail<ConfigError>("bad-flag", flags.where_of("system"),
                      "expected system prompts in the rows, got the flag together with --dataset");
  for (const std::string& word : options.sampling.stop_words)
    if (word.empty())
      fail<ConfigError>("bad-flag", flags.where_of("stop_words"),
                        "expected strings with text, got an empty one");
  constexpr Range kFactor = Range::logit_factor();
  if (options.temperature != 0 && !kFactor.contains(options.temperature))
    fail<ConfigError>("bad-flag", flags.where_of("temperature"),
                      "expected 0 (the most likely token) or a number in [{}, {}], got {}",
                      kFactor.low, kFactor.high, options.temperature);
}

}  // namespace

void run_infer(CommandContext& context, std::span<const std::string> arguments) {
  InferOptions options;
  rollout::EngineOptions engine;
  FlagSet flags("infer", "Completes the rows of a file, or chats in the terminal.");
  flags.add_group("infer", options);
  flags.add_group("sampler", engine);
  flags.use_classes(model_flag_classes());
  flags.require("model");
  if (!begin_command(context, flags, arguments)) return;
  check_flags(options, flags);
  if (options.dataset.empty())
    run_chat(context, options, engine);
  else
    run_batch(context, options, engine);
}

}  // namespace lockstep::cli
