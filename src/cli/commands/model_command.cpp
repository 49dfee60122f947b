// SPDX-License-Identifier: Apache-2.0
#include "cli/commands/model_command.h"

#include "base/check.h"
#include "base/json.h"
#include "base/log.h"
#include "base/output_path.h"
#include "cli/row_file.h"

namespace lockstep::cli {

void check_output_directory(const CommandContext& context,
                            const std::string& directory,
                            bool overwrite) {
  namespace fs = std::filesystem;
  check_output_apart(directory, "--output_dir", context.inputs);
  check_output_path(directory, overwrite, "--output_dir");
  std::error_code ignored;
  const fs::path path = directory;
  if (!fs::exists(path, ignored) || fs::exists(path / "config.json", ignored)) return;
  if (fs::is_directory(path, ignored) && fs::is_empty(path, ignored)) return;
  fail<ConfigError>("output-exists", "--output_dir",
                    "expected a checkpoint to replace, got {}, which holds something else",
                    directory);
}

train::LoadedModel load_for_command(const CommandContext& context, const std::string& directory) {
  train::LoadedModel loaded = train::load_model(directory, context.common.torch_dtype);
  const auto& weights = *loaded.weights;
  int64_t elements = 0;
  for (const auto& parameter : weights.parameters()) elements += parameter.value.numel();
  const size_t carried = weights.carried().size();
  log_info("{}: {} with {} layers, {:.1f} M parameters in {}{}", directory,
           model::family_name(weights.config().family), weights.config().num_hidden_layers,
           static_cast<double>(elements) / 1e6,
           weights.dtype() == at::kFloat ? "float32" : "bfloat16",
           carried ? fmt::format("; {} other tensors are carried along unchanged", carried) : "");
  return loaded;
}

const text::ChatEncoder& RowEncoder::chat() {
  if (!chat_) chat_ = std::make_unique<text::ChatEncoder>(model_, enable_thinking_);
  return *chat_;
}

RowEncoder::Encoded RowEncoder::encode(const Json& row,
                                       const std::string& where,
                                       bool add_generation_prompt) {
  const bool has_ids = row.contains("input_ids"), has_messages = row.contains("messages");
  if (has_ids == has_messages)
    fail<FormatError>("bad-row", where, "expected input_ids or messages, got {}",
                      has_ids ? "both" : "neither");
  if (has_ids) {
    Encoded encoded{ids_of(row, "input_ids", vocab_size_, where), {}};
    if (encoded.ids.empty())
      fail<FormatError>("bad-row", where, "expected at least one id in input_ids, got none");
    return encoded;
  }
  const Json& messages = row["messages"];
  if (!messages.is_array() || messages.empty())
    fail<FormatError>("bad-row", where, "expected a list of at least one message in messages");
  const auto part = [&](const char* key, Json::value_t type) -> const Json* {
    const auto found = row.find(key);
    if (found == row.end() || found->is_null()) return nullptr;
    if (found->type() != type)
      fail<FormatError>("bad-row", where, "expected {} in {}, got {}",
                        type == Json::value_t::array ? "a list" : "an object", key,
                        found->type_name());
    return &*found;
  };
  const text::Conversation conversation{&messages, part("tools", Json::value_t::array),
                                        part("chat_template_kwargs", Json::value_t::object)};
  return at_row(where, [&] {
    Encoded encoded;
    if (add_generation_prompt) {
      auto prompt = chat().encode_prompt(conversation);
      encoded = {std::move(prompt.ids), std::move(prompt.response_prefix)};
    } else {
      encoded.ids = chat().encode(conversation);
    }
    for (const int64_t id : encoded.ids)
      if (id >= vocab_size_)
        fail<FormatError>("bad-row", where, "expected ids in [0, {}), got {} from the tokenizer",
                          vocab_size_, id);
    if (encoded.ids.empty())
      fail<FormatError>("bad-row", where, "expected at least one id, got an empty rendering");
    return encoded;
  });
}

}  // namespace lockstep::cli
