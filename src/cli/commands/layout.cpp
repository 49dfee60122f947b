// lockstep layout: list, show, convert, plan, verify (cli.md 4).
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/check.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/commands/model_command.h"
#include "cli/layout_files.h"
#include "cli/layout_text.h"
#include "cli/machine.h"
#include "cli/progress.h"
#include "layout/plan.h"
#include "train/hf_checkpoint.h"

namespace lockstep::cli {
namespace {

namespace fs = std::filesystem;
using layout::Layout;
using model::LayoutName;

struct LayoutOptions {
  std::string from, to, layout, input, output_dir, model;
  std::string max_shard_size = "5GB", bucket_size = "64MB";
  std::optional<int64_t> rank;
  bool json = false, overwrite = false;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("from", from, "convert, plan: the layout that there is.");
    visit("to", to, "convert, plan: the layout that is wanted.");
    visit("layout", layout, "verify: the layout of --input.");
    visit("input", input, "convert, verify: the folder to read.");
    visit("output_dir", output_dir, "convert: where the result goes.");
    visit("model", model,
          "A checkpoint: its config.json, and where it has weights their names and dtypes.");
    visit("rank", rank, "show: only this rank.", Range::at_least(0));
    visit("json", json, "list, show, plan: one JSON object.");
    visit("max_shard_size", max_shard_size, "convert: largest file of a checkpoint.");
    visit("bucket_size", bucket_size, "convert: memory of each of the two buckets.");
    visit("overwrite", overwrite, "convert: replaces an existing output.");
  }
};

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

void require(const std::string& value, const char* flag, const char* action) {
  if (value.empty())
    fail<ConfigError>("missing-flag", flag, "expected a value for layout {}, got none", action);
}

bool has_weights(const fs::path& directory) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error))
    if (entry.path().extension() == ".safetensors") return true;
  return false;
}

/// The model of --model, whose weights may be missing: shapes are enough.
LayoutModel model_of_flag(const std::string& directory) {
  const auto config = train::load_config(directory);
  if (!has_weights(directory)) {
    const auto form = model::published_form(config);
    return {logical_model(config, {}, model::published_types(config)), form};
  }
  const LayoutInput input(directory, 1);
  return read_layout_model(config, LayoutName::parse("checkpoint", "--model"), input, {});
}

void run_list(const LayoutOptions& options) {
  if (options.json) {
    Json formats = Json::array();
    for (const model::LayoutFormat& format : model::layout_formats()) {
      Json keys = Json::array();
      for (const model::LayoutKey& key : format.keys)
        keys.push_back(
            {{"name", key.name},
             {"choices", std::vector<std::string>(key.choices.begin(), key.choices.end())},
             {"help", key.help}});
      formats.push_back({{"name", format.name}, {"help", format.help}, {"keys", std::move(keys)}});
    }
    return print(dump_json(Json{{"formats", std::move(formats)}}) + "\n");
  }
  for (const model::LayoutFormat& format : model::layout_formats()) {
    print(fmt::format("{:<12} {}\n", format.name, format.help));
    for (const model::LayoutKey& key : format.keys)
      print(fmt::format(
          "  {:<10} {}{}\n", key.name,
          key.choices.empty() ? "1 or more: " : fmt::format("{}: ", fmt::join(key.choices, "|")),
          key.help));
  }
}

void run_show(const LayoutOptions& options, const std::string& name) {
  require(options.model, "--model", "show");
  const LayoutModel model = model_of_flag(options.model);
  const Layout layout = make_layout(model.logical, model.form, LayoutName::parse(name, name));
  if (options.rank && *options.rank >= layout.num_ranks())
    fail<ConfigError>("bad-flag", "--rank", "expected a rank below {}, got {}", layout.num_ranks(),
                      *options.rank);
  const int64_t first = options.rank.value_or(0),
                end = options.rank ? first + 1 : layout.num_ranks();
  print(options.json ? layout_json(layout, first, end) + "\n" : layout_text(layout, first, end));
}

void run_plan(const LayoutOptions& options) {
  require(options.from, "--from", "plan");
  require(options.to, "--to", "plan");
  require(options.model, "--model", "plan");
  const LayoutModel model = model_of_flag(options.model);
  const Layout from =
      make_layout(model.logical, model.form, LayoutName::parse(options.from, "--from"));
  const Layout to = make_layout(model.logical, model.form, LayoutName::parse(options.to, "--to"));
  const auto bucket = static_cast<int64_t>(io::parse_size(options.bucket_size, "--bucket_size"));
  const layout::Plan plan = make_plan(from, to, bucket);
  print(options.json ? plan_json(plan, from) + "\n" : plan_text(plan, from));
}

/// Everything that is no weight: configuration, tokenizer, template.
void copy_other_files(const fs::path& from, const fs::path& to) {
  for (const auto& entry : fs::directory_iterator(from)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_regular_file() || name.starts_with('.') || name.ends_with(".safetensors") ||
        name.ends_with(".safetensors.index.json"))
      continue;
    fs::copy_file(entry.path(), to / name);
  }
}

void run_convert(CommandContext& context, const LayoutOptions& options) {
  require(options.from, "--from", "convert");
  require(options.to, "--to", "convert");
  require(options.input, "--input", "convert");
  require(options.output_dir, "--output_dir", "convert");
  const LayoutName from_name = LayoutName::parse(options.from, "--from"),
                   to_name = LayoutName::parse(options.to, "--to");
  const size_t shard_bytes = io::parse_size(options.max_shard_size, "--max_shard_size");
  const auto bucket = static_cast<int64_t>(io::parse_size(options.bucket_size, "--bucket_size"));
  check_output_directory(options.output_dir, options.overwrite);

  const std::string configured = options.model.empty() ? options.input : options.model;
  const auto config = train::load_config(configured);
  LayoutInput input(options.input, num_ranks_of(config, from_name));
  // A checkpoint that is made anew is spelled, and ordered, as the model's own.
  std::optional<model::CheckpointForm> form;
  std::vector<std::string> names = input.names();
  if (!options.model.empty() && has_weights(options.model)) {
    form = model_of_flag(options.model).form;
    names = LayoutInput(options.model, 1).names();
  }
  const LayoutModel model = read_layout_model(config, from_name, input, form);
  const Layout from = make_layout(model.logical, model.form, from_name);
  const Layout to = make_layout(model.logical, form.value_or(model.form), to_name);
  input.bind(from);
  const layout::Plan plan = make_plan(from, to, bucket);
  const int num_threads =
      static_cast<int>(context.common.threads.value_or(processor().num_usable));
  check_source(from, plan, input, num_threads);

  AtomicDirectory output(options.output_dir, /*replace=*/true);
  context.phase.start();
  LayoutOutput sink(output.staging(), to, shard_bytes, names);
  Progress progress({.label = "convert", .unit = "MB", .show = context.show_progress()});
  constexpr int64_t kMega = 1'000'000;
  bool has_begun = false;
  execute(from, to, plan, input, sink,
          {.bucket_bytes = bucket,
           .num_threads = num_threads,
           .on_progress = [&](int64_t done, int64_t total) {
             throw_if_interrupted();
             if (!std::exchange(has_begun, true)) progress.begin(total / kMega, 0);
             progress.update(done / kMega);
           }});
  progress.finish();
  sink.finish();
  copy_other_files(configured, output.staging());
  output.commit();
  log_info("{}: written as {}", options.output_dir, to.name());
}

/// Problems of names and shapes, then of values: each physical tensor that holds a logical one with another digest.
std::vector<LayoutProblem> verify(const LayoutOptions& options, int num_threads) {
  const LayoutName name = LayoutName::parse(options.layout, "--layout");
  const auto config = train::load_config(options.model);
  LayoutInput checkpoint(options.model, 1);
  const LayoutName checkpoint_name = LayoutName::parse("checkpoint", "--model");
  const LayoutModel model = read_layout_model(config, checkpoint_name, checkpoint, {});
  const Layout truth = make_layout(model.logical, model.form, checkpoint_name);
  checkpoint.bind(truth);
  const Layout layout = make_layout(model.logical, model.form, name);
  LayoutInput input(options.input, layout.num_ranks());
  auto problems = input.problems(layout);
  if (!problems.empty()) return problems;
  input.bind(layout);
  return differing_tensors(truth, checkpoint, layout, input, num_threads);
}

void run_verify(CommandContext& context, const LayoutOptions& options) {
  require(options.layout, "--layout", "verify");
  require(options.input, "--input", "verify");
  require(options.model, "--model", "verify");
  const auto problems =
      verify(options, static_cast<int>(context.common.threads.value_or(processor().num_usable)));
  context.phase.start();
  for (const LayoutProblem& problem : problems)
    print(fmt::format("{}: {}: {}\n", problem.code, problem.where, problem.message));
  if (!problems.empty())
    fail<Error>("digest-mismatch", options.input,
                "expected the weights of {}, got {} tensors that differ", options.model,
                problems.size());
  print("the same weights\n");
}

}  // namespace

void run_layout(CommandContext& context, std::span<const std::string> arguments) {
  LayoutOptions options;
  FlagSet flags("layout", "Describes, plans, converts and verifies weight layouts.");
  flags.add_group("layout", options);
  const auto is_flag = [](const std::string& word) { return word.starts_with("-"); };
  std::string action, name;
  if (!arguments.empty() && !is_flag(arguments[0])) {
    action = arguments[0];
    arguments = arguments.subspan(1);
  }
  if (action == "show" && !arguments.empty() && !is_flag(arguments[0])) {
    name = arguments[0];
    arguments = arguments.subspan(1);
  }
  if (!begin_command(context, flags, arguments)) return;
  if (action == "list") return run_list(options);
  if (action == "show" && !name.empty()) return run_show(options, name);
  if (action == "convert") return run_convert(context, options);
  if (action == "plan") return run_plan(options);
  if (action == "verify") return run_verify(context, options);
  if (action == "show")
    fail<ConfigError>("missing-argument", "layout show",
                      "expected a layout, got none (see lockstep layout list)");
  fail<ConfigError>("unknown-command", "layout",
                    "expected list, show, convert, plan or verify, got {}",
                    action.empty() ? "nothing" : action);
}

}  // namespace lockstep::cli
