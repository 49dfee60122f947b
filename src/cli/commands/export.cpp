// lockstep export: writes a checkpoint again, unchanged, in another precision or with an adapter
// merged into it; or an adapter again, in another form.
// SPDX-License-Identifier: Apache-2.0
#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/commands/model_command.h"
#include "cli/flag_classes.h"
#include "train/adapter_file.h"

namespace lockstep::cli {
namespace {

struct ExportOptions {
  std::string model, adapters, output_dir, max_shard_size = "5GB";
  bool merge_lora = false;
  std::optional<train::AdapterFormat> adapter_format;
  bool overwrite = false;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("model", model, "Checkpoint directory.");
    visit("adapters", adapters, "Directory of an adapter of the model; it is written alone.");
    visit("merge_lora", merge_lora, "Writes the model with the adapter merged into it.");
    visit("adapter_format", adapter_format,
          "How an adapter is written: peft, or per-expert, which differs for routed experts; "
          "unset: peft.");
    visit("output_dir", output_dir, "Where the checkpoint goes, or the adapter.");
    visit("max_shard_size", max_shard_size, "Largest safetensors file.");
    visit("overwrite", overwrite, "Replaces an existing output.");
  }
};

/// Throws ConfigError "bad-flag" for flags that do not go together.
void check_flags(const ExportOptions& options, const FlagSet& flags) {
  const auto refuse = [&](const char* flag, const char* expected, const char* got) {
    if (flags.is_set(flag))
      fail<ConfigError>("bad-flag", flags.where_of(flag), "expected {}, got {}", expected, got);
  };
  if (options.adapters.empty()) {
    if (options.merge_lora)
      refuse("merge_lora", "--adapters with it", "no adapter that could be merged");
    refuse("adapter_format", "--adapters with it", "no adapter that could be written");
  } else if (options.merge_lora) {
    refuse("adapter_format", "none with --merge_lora true, which writes no adapter", "one");
  } else {
    constexpr const char* kExpected =
        "none where an adapter is written, which has one float32 file";
    refuse("torch_dtype", kExpected, "one (to merge it: --merge_lora true)");
    refuse("max_shard_size", kExpected, "one (to merge it: --merge_lora true)");
  }
}

void say_folders_left_out(const std::string& model) {
  for (const auto& entry : std::filesystem::directory_iterator(model))
    if (const std::string name = entry.path().filename().string();
        entry.is_directory() && !name.starts_with('.') && name != train::kStateFolder)
      log_warning("{}: the folder is not part of the checkpoint and is not copied",
                  entry.path().string());
}

}  // namespace

void run_export(CommandContext& context, std::span<const std::string> arguments) {
  ExportOptions options;
  FlagSet flags("export",
                "Writes a checkpoint anew: byte for byte, in another precision or sharding, or "
                "with an adapter merged into it. Or writes an adapter anew, in another form.");
  flags.add_group("export", options);
  flags.use_classes(model_flag_classes());
  flags.require("model");
  flags.require("output_dir");
  if (!begin_command(context, flags, arguments)) return;

  check_flags(options, flags);
  const size_t shard_bytes = io::parse_size(options.max_shard_size, "--max_shard_size");
  context.reads("--model", options.model);
  context.reads("--adapters", options.adapters);
  const bool replaces = check_output_directory(context, options.output_dir, options.overwrite);
  const auto checkpoint = train::open_checkpoint(options.model);
  const auto parameters = train::checkpoint_parameters(checkpoint);
  const auto adapter = load_adapter_for_command(options.adapters, parameters);
  if (adapter) {
    train::check_base_copies(*adapter, *checkpoint.source);
    train::warn_of_other_base(options.adapters, options.model);
  }
  AtomicDirectory output(options.output_dir, replaces);
  context.phase.start();
  if (adapter && !options.merge_lora) {
    train::write_adapter(*adapter, model::adapter_targets(parameters), options.model,
                         output.staging(),
                         options.adapter_format.value_or(train::AdapterFormat::kPeft));
  } else {
    train::write_checkpoint(checkpoint, output.staging(),
                            {.max_shard_bytes = shard_bytes,
                             .dtype = context.common.torch_dtype,
                             .merged = adapter.get()});
    say_folders_left_out(options.model);
  }
  output.commit();
  log_info("{}: written", options.output_dir);
}

}  // namespace lockstep::cli
