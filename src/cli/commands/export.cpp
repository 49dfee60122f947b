// lockstep export: writes a checkpoint again, unchanged or in another precision.
// SPDX-License-Identifier: Apache-2.0
#include "base/file.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/commands/model_command.h"
#include "cli/flag_classes.h"

namespace lockstep::cli {
namespace {

struct ExportOptions {
  std::string model, output_dir, max_shard_size = "5GB";
  bool overwrite = false;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("model", model, "Checkpoint directory.");
    visit("output_dir", output_dir, "Where the checkpoint goes.");
    visit("max_shard_size", max_shard_size, "Largest safetensors file.");
    visit("overwrite", overwrite, "Replaces an existing output.");
  }
};

}  // namespace

void run_export(CommandContext& context, std::span<const std::string> arguments) {
  ExportOptions options;
  FlagSet flags("export",
                "Writes a checkpoint anew: byte for byte, or in another precision or sharding.");
  flags.add_group("export", options);
  flags.use_classes(model_flag_classes());
  flags.require("model");
  flags.require("output_dir");
  if (!begin_command(context, flags, arguments)) return;

  const size_t shard_bytes = io::parse_size(options.max_shard_size, "--max_shard_size");
  context.reads("--model", options.model);
  const bool replaces = check_output_directory(context, options.output_dir, options.overwrite);
  const auto checkpoint = train::open_checkpoint(options.model);
  AtomicDirectory output(options.output_dir, replaces);
  context.phase.start();
  train::write_checkpoint(checkpoint, output.staging(),
                          {.max_shard_bytes = shard_bytes, .dtype = context.common.torch_dtype});
  for (const auto& entry : std::filesystem::directory_iterator(options.model))
    if (const std::string name = entry.path().filename().string();
        entry.is_directory() && !name.starts_with('.') && name != train::kStateFolder)
      log_warning("{}: the folder is not part of the checkpoint and is not copied",
                  entry.path().string());
  output.commit();
  log_info("{}: written", options.output_dir);
}

}  // namespace lockstep::cli
