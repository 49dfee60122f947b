// lockstep new-model: makes a small random model with tokenizer and chat template, for trials and
// tests.
// SPDX-License-Identifier: Apache-2.0
#include "model/new_model.h"

#include "base/check.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/commands/model_command.h"
#include "io/safetensors.h"
#include "text/default_tokenizer.h"
#include "text/tokenizer.h"
#include "train/hf_checkpoint.h"  // set_dtype

namespace lockstep::cli {
namespace {

struct NewModelOptions {
  model::Family like = model::Family::kQwen3_5;
  model::ModelSize size = model::ModelSize::kTiny;
  std::optional<int64_t> vocab_size;
  std::string tokenizer, config, output_dir;
  bool nested = false, overwrite = false;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("like", like, "Family: qwen3, qwen3_moe, qwen3_5 or qwen3_5_moe.");
    visit("size", size, "tiny, 10m, 100m or 500m (docs/sizes.md).");
    visit("vocab_size", vocab_size, "Rows of the embedding; unset: the size's own.",
          Range::between(1, 1 << 24));
    visit("tokenizer", tokenizer,
          "Folder whose tokenizer and chat template are taken; unset: the ones that ship with the "
          "program.");
    visit("config", config, "A config.json of your own instead of family and size.");
    visit("nested", nested,
          "Vision-language form with a small vision tower and MTP tensors (qwen3_5 families).");
    visit("output_dir", output_dir, "Where the checkpoint goes.");
    visit("overwrite", overwrite, "Replaces an existing output.");
  }
};

namespace fs = std::filesystem;

void write_tokenizer(const NewModelOptions& options,
                     int64_t vocab_size,
                     const fs::path& directory) {
  if (options.tokenizer.empty()) {
    write_file(directory / "tokenizer.json",
               dump_json_pretty(text::default_tokenizer_json(vocab_size)));
    write_file(directory / "tokenizer_config.json",
               dump_json_pretty(text::default_tokenizer_config()));
    write_file(directory / "chat_template.jinja", text::default_chat_template());
    return;
  }
  const auto tokenizer = text::Tokenizer::from_directory(options.tokenizer);
  if (tokenizer.size() > vocab_size)
    fail<ConfigError>("bad-flag", "--vocab_size",
                      "expected at least the tokenizer's {} ids, got {}", tokenizer.size(),
                      vocab_size);
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab.json",
        "merges.txt", "special_tokens_map.json", "added_tokens.json"})
    if (fs::exists(fs::path(options.tokenizer) / name))
      fs::copy_file(fs::path(options.tokenizer) / name, directory / name);
  train::copy_named_templates(options.tokenizer, directory);
}

}  // namespace

void run_new_model(CommandContext& context, std::span<const std::string> arguments) {
  NewModelOptions options;
  FlagSet flags(
      "new-model",
      "Makes a random model with tokenizer and chat template that transformers loads too.");
  flags.add_group("new model", options);
  flags.require("output_dir");
  if (!begin_command(context, flags, arguments)) return;

  context.reads("--tokenizer", options.tokenizer);
  context.reads("--config", options.config);
  const bool replaces = check_output_directory(context, options.output_dir, options.overwrite);
  Json config;
  if (options.config.empty()) {
    config = model::new_model_config(
        {options.like, options.size, options.vocab_size.value_or(0),
         context.common.torch_dtype.value_or(model::WeightDtype::kFloat32), options.nested});
  } else {
    for (const char* name : {"like", "size", "vocab_size", "nested"})
      if (flags.is_set(name))
        fail<ConfigError>("bad-flag", flags.where_of(name),
                          "expected no such flag together with --config, which says it, got one");
    config = parse_json_file(options.config, "bad-config");
  }
  const model::ModelConfig parsed =
      model::parse_model_config(config, options.config.empty() ? "new model" : options.config);
  const model::WeightDtype dtype = context.common.torch_dtype.value_or(parsed.dtype);
  train::set_dtype(config, dtype);
  AtomicDirectory output(options.output_dir, replaces);
  write_tokenizer(options, parsed.vocab_size, output.staging());
  const auto tokenizer = text::Tokenizer::from_directory(output.staging());
  Json& text = config.contains("text_config") ? config["text_config"] : config;
  Json generation = Json::object();
  if (options.config.empty()) {
    const Json eos = tokenizer.eos_id() ? Json(*tokenizer.eos_id()) : Json();
    text["eos_token_id"] = eos;
    Json stops = Json::array();
    for (const auto& id : {tokenizer.eos_id(), tokenizer.pad_id()})
      if (id) stops.push_back(*id);
    generation["eos_token_id"] = stops;
    if (tokenizer.pad_id()) generation["pad_token_id"] = *tokenizer.pad_id();
  }
  context.phase.start();
  std::vector<io::NamedTensor> tensors;
  int64_t elements = 0;
  for (auto& tensor :
       model::new_model_tensors(config, dtype, static_cast<uint64_t>(context.common.seed))) {
    throw_if_interrupted();
    elements += tensor.value.numel();
    tensors.push_back({std::move(tensor.name), std::move(tensor.value)});
  }
  io::write_safetensors_checkpoint(output.staging(), tensors, 5'000'000'000);
  write_file(output.staging() / "config.json", dump_json_pretty(config));
  write_file(output.staging() / "generation_config.json", dump_json_pretty(generation));
  output.commit();
  log_info("{}: {} with {:.2f} M parameters", options.output_dir, enum_name(parsed.family),
           static_cast<double>(elements) / 1e6);
}

}  // namespace lockstep::cli
