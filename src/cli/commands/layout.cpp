// lockstep layout: list, show, convert, plan, verify (docs/layouts.md).
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <iterator>
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
#include "cli/layout_report.h"
#include "cli/machine.h"
#include "cli/progress.h"
#include "cli/weight_comparison.h"
#include "cli/weight_folder.h"
#include "layout/check_source.h"
#include "layout/plan.h"
#include "model/weight_formats/loader_names.h"
#include "train/hf_checkpoint.h"

namespace lockstep::cli {
namespace {

namespace fs = std::filesystem;
using layout::Layout;
using model::CheckpointOrigin;
using model::digest_list;
using model::digest_of_weights;
using model::LayoutManifest;
using model::LayoutSpec;

struct LayoutOptions {
  std::string from, to, layout, input, output_dir, model;
  std::string bucket_size = "64MB";
  std::optional<std::string> max_shard_size;
  std::optional<int64_t> rank;
  std::optional<model::LoaderExperts> loader_names;
  bool json = false, overwrite = false, partial = false;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("from", from, "convert, plan: the layout of the input.");
    visit("to", to, "convert, plan: the layout of the output.");
    visit("layout", layout, "verify: the layout of --input.");
    visit("input", input,
          "convert, verify: the folder to read, or a file with the parameters of an engine "
          "(tools/parity/vllm_dump.py).");
    visit("output_dir", output_dir, "convert: where the result goes.");
    visit("model", model,
          "A checkpoint: its config.json, and the names and dtypes of its weights, if it has any.");
    visit("rank", rank, "show: only this rank.", Range::at_least(0));
    visit(
        "loader_names", loader_names,
        "show: the names by which vLLM's loader takes each tensor, experts one by one or grouped.");
    visit(
        "partial", partial,
        "verify: accepts that an engine has changed parameters after it loaded them, so that they "
        "cannot be compared; they are listed all the same.");
    visit("json", json, "list, show, plan: one JSON object.");
    visit("max_shard_size", max_shard_size,
          "convert: largest file of a checkpoint; unset: the files as they were before, else 5GB.");
    visit("bucket_size", bucket_size, "convert, plan, verify: memory of each of the two buckets.");
    visit("overwrite", overwrite, "convert: replaces an existing output.");
  }
};

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

void require(const std::string& value, const char* flag, const char* action) {
  if (value.empty())
    fail<ConfigError>("missing-flag", flag, "expected a value for layout {}, got none", action);
}

int num_threads(const CommandContext& context) {
  return static_cast<int>(context.common.threads.value_or(processor().num_usable));
}

bool has_weights(const fs::path& directory) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error))
    if (entry.path().extension() == ".safetensors") return true;
  return false;
}

/// A checkpoint with weights, checked by name, shape and dtype.
struct OpenCheckpoint {
  explicit OpenCheckpoint(const std::string& directory)
      : input(directory, 1),
        model(read_folder_model(train::load_config(directory), name(), input)),
        layout(make_layout(model.logical, model.form, name())) {
    input.bind(layout);
  }
  CheckpointOrigin origin() const {
    CheckpointOrigin origin{model.form, input.order()};
    for (const layout::LogicalTensor& tensor : *model.logical.tensors)
      origin.types[tensor.id] = tensor.type;
    return origin;
  }

  WeightFolderReader input;
  WeightFolderModel model;
  Layout layout;

 private:
  static LayoutSpec name() { return LayoutSpec::parse("checkpoint", "--model"); }
};

/// The model of --model. Its weights may be missing, since shapes are enough.
WeightFolderModel model_of_flag(const std::string& directory) {
  if (has_weights(directory)) return OpenCheckpoint(directory).model;
  const auto config = train::load_config(directory);
  return {logical_model(config, {}, model::published_types(config)), model::published_form(config)};
}

int64_t bucket_bytes(const LayoutOptions& options) {
  // A plan has an entry for each bucket, so buckets must not be tiny.
  constexpr size_t kLeast = 1'000'000;
  const size_t bytes = io::parse_size(options.bucket_size, "--bucket_size");
  if (bytes < kLeast)
    fail<ConfigError>("bad-flag", "--bucket_size", "expected 1MB or more, got {}",
                      options.bucket_size);
  return static_cast<int64_t>(bytes);
}

void run_list(const LayoutOptions& options) {
  if (options.json) {
    Json formats = Json::array();
    for (const model::WeightFormatInfo& format : model::known_weight_formats()) {
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
  for (const model::WeightFormatInfo& format : model::known_weight_formats()) {
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
  const WeightFolderModel model = model_of_flag(options.model);
  const Layout layout = make_layout(model.logical, model.form, LayoutSpec::parse(name, name));
  if (options.rank && *options.rank >= layout.num_ranks())
    fail<ConfigError>("bad-flag", "--rank", "expected a rank below {}, got {}", layout.num_ranks(),
                      *options.rank);
  const int64_t first = options.rank.value_or(0),
                end = options.rank ? first + 1 : layout.num_ranks();
  LoaderNames names;
  if (options.loader_names) {
    if (!name.starts_with("vllm"))
      fail<ConfigError>("bad-flag", "--loader_names",
                        "expected a layout of vllm or vllm-ascend, whose loaders have other names "
                        "for tensors than their parameters, got {}",
                        name);
    names = model::loader_names(model.logical, layout, *options.loader_names);
  }
  print(options.json ? layout_json(layout, first, end, names) + "\n"
                     : layout_text(layout, first, end, names));
}

void run_plan(const LayoutOptions& options) {
  require(options.from, "--from", "plan");
  require(options.to, "--to", "plan");
  require(options.model, "--model", "plan");
  const WeightFolderModel model = model_of_flag(options.model);
  const Layout from =
      make_layout(model.logical, model.form, LayoutSpec::parse(options.from, "--from"));
  const Layout to = make_layout(model.logical, model.form, LayoutSpec::parse(options.to, "--to"));
  const layout::Plan plan = make_plan(from, to, bucket_bytes(options));
  print(options.json ? plan_json(plan, to) + "\n" : plan_text(plan, to));
}

/// The manifest of --input. Throws ConfigError "layout-conflict" if it names another layout than
/// --from.
std::optional<LayoutManifest> manifest_of_input(const std::string& input, const LayoutSpec& from) {
  auto manifest = read_manifest(input);
  if (!manifest) return manifest;
  const LayoutSpec written = LayoutSpec::parse(manifest->layout, input);
  // The tensors of a checkpoint say what its keys are.
  const bool is_same =
      from.has_key("prefix") ? written.format() == from.format() : written.text() == from.text();
  if (!is_same)
    fail<ConfigError>("layout-conflict", "--from", "expected {}, as {} was written, got {}",
                      written.text(), input, from.text());
  return manifest;
}

/// The checkpoint whose names and files the output gets: that of --model, else the input itself if
/// it is one, else the one that the input came from, else the published form.
CheckpointOrigin origin_of(const LayoutOptions& options,
                           const model::ModelConfig& config,
                           const LayoutSpec& from,
                           const LayoutSpec& to,
                           const WeightFolderReader& input,
                           const std::optional<LayoutManifest>& manifest) {
  if (!options.model.empty() && has_weights(options.model))
    return OpenCheckpoint(options.model).origin();
  // A checkpoint of another form goes back to the one that it was made of only if --from names its
  // form.
  const bool is_own =
      from.format() == "checkpoint" && (from.text() == "checkpoint" || to.text() != "checkpoint");
  if (manifest && !is_own) return manifest->origin;
  if (from.has_key("prefix")) return {read_folder_model(config, from, input).form, input.order()};
  return {model::published_form(config), {}};
}

/// The origin with the dtypes that a folder of `layout` does not show, since the layout has its
/// own.
CheckpointOrigin with_types_for(const Layout& layout, CheckpointOrigin origin) {
  origin.types.clear();
  for (int32_t t = 0; t < layout.logical().size(); ++t)
    if (layout.stored_type(t) != layout.logical()[t].type)
      origin.types[layout.logical()[t].id] = layout.logical()[t].type;
  return origin;
}

/// Executes with a progress bar, and stops after a signal.
template <class Work>
auto with_progress(CommandContext& context, const char* label, int64_t bucket, const Work& work) {
  Progress progress({.label = label, .unit = "MB", .show = context.show_progress()});
  constexpr int64_t kMega = 1'000'000;
  bool has_begun = false;
  auto result = work(layout::ExecuteOptions{.bucket_bytes = bucket,
                                            .num_threads = num_threads(context),
                                            .on_progress = [&](int64_t done, int64_t total) {
                                              throw_if_interrupted();
                                              if (!std::exchange(has_begun, true))
                                                progress.begin(total / kMega);
                                              progress.update(done / kMega);
                                            }});
  progress.finish();
  return result;
}

void run_convert(CommandContext& context, const LayoutOptions& options) {
  require(options.from, "--from", "convert");
  require(options.to, "--to", "convert");
  require(options.input, "--input", "convert");
  require(options.output_dir, "--output_dir", "convert");
  const LayoutSpec from_name = LayoutSpec::parse(options.from, "--from"),
                   to_name = LayoutSpec::parse(options.to, "--to");
  std::optional<size_t> shard_bytes;
  if (options.max_shard_size)
    shard_bytes = io::parse_size(*options.max_shard_size, "--max_shard_size");
  const int64_t bucket = bucket_bytes(options);
  context.reads("--input", options.input);
  context.reads("--model", options.model);
  const bool replaces = check_output_directory(context, options.output_dir, options.overwrite);

  const std::string configured = options.model.empty() ? options.input : options.model;
  const auto config = train::load_config(configured);
  const train::CompanionFiles companions(configured);
  const auto manifest = manifest_of_input(options.input, from_name);
  WeightFolderReader input(options.input, from_name.num_ranks());
  const CheckpointOrigin origin = origin_of(options, config, from_name, to_name, input, manifest);
  const WeightFolderModel model =
      read_folder_model(config, from_name, input, manifest ? &manifest->origin : &origin);
  if (manifest) check_tensors(*manifest, *model.logical.tensors, options.input);
  const Layout from = make_layout(model.logical, model.form, from_name),
               to = make_layout(model.logical, origin.form, to_name);
  input.bind(from);
  const layout::Plan plan = make_plan(from, to, bucket);
  for (const std::string& line : type_changes_text(plan.type_changes, from.logical()))
    log_info("{} to {}: {}", from.name(), to.name(), line);
  check_source(from, plan, input,
               {.num_threads = num_threads(context),
                .on_progress = [](int64_t, int64_t) { throw_if_interrupted(); }});

  AtomicDirectory output(options.output_dir, replaces);
  context.phase.start();
  WeightFolderWriter sink(output.staging(), to, shard_bytes, origin.tensors);
  const auto digests =
      with_progress(context, "convert", bucket, [&](const layout::ExecuteOptions& execute_options) {
        return execute(from, to, plan, input, sink, execute_options);
      });
  sink.finish();
  if (manifest)
    check_digests(*manifest, digest_list(from.logical(), digests.source), options.input);
  companions.write(output.staging());
  write_file(output.staging() / "config.json", companions.config());
  // A plain checkpoint stays what other programs write.
  if (to.name() != "checkpoint")
    write_manifest(output.staging(), LayoutManifest{to.name(), with_types_for(to, origin),
                                                    digest_list(to.logical(), digests.target)});
  output.commit();
  log_info("{}: written as {}, weights {}", options.output_dir, to.name(),
           digest_of_weights(to.logical(), digests.target).hex());
}

/// What was found of --input.
struct Verdict {
  std::vector<WeightFolderProblem> problems;
  /// What the layout changes in the values of the checkpoint, as text.
  std::vector<std::string> changes;
  /// How many tensors the layout has, how many of them were compared, and how many an engine does
  /// not have as parameters.
  int64_t num_tensors = 0, num_compared = 0, num_not_held = 0;
  Digest weights;
};

constexpr const char* kNotComparable = "not-comparable";

/// The tensors of a rank that no engine computes with: formats carry them along.
std::set<std::string> carried_names(const model::LogicalModel& model,
                                    const layout::RankTensors& tensors) {
  std::set<std::string> names;
  const auto is_carried = [&](const layout::Box& box) {
    return (*model.tensors)[box.tensor].id.starts_with("mtp.") ||
           std::count(model.carried.begin(), model.carried.end(), box.tensor) != 0;
  };
  for (const layout::PhysicalTensor& tensor : tensors)
    if (std::all_of(tensor.boxes.begin(), tensor.boxes.end(), is_carried) && tensor.padding == 0)
      names.insert(tensor.name);
  return names;
}

/// Finds what is wrong with names, shapes and values.
Verdict verify(CommandContext& context, const LayoutOptions& options) {
  const LayoutSpec name = LayoutSpec::parse(options.layout, "--layout");
  OpenCheckpoint checkpoint(options.model);
  const Layout layout = make_layout(checkpoint.model.logical, checkpoint.model.form, name);
  if (!fs::is_directory(options.input) &&
      !(layout.num_ranks() == 1 && fs::is_regular_file(options.input)))
    fail<ConfigError>("missing-model", options.input, "expected a folder{}, got {}",
                      layout.num_ranks() == 1 ? " or a file" : "",
                      fs::exists(options.input) ? "a file" : "none");
  Verdict verdict;
  const auto add = [&](std::vector<WeightFolderProblem> more) {
    std::move(more.begin(), more.end(), std::back_inserter(verdict.problems));
  };
  WeightFolderReader input(options.input, layout.num_ranks(), &verdict.problems);
  std::set<std::string> optional;
  for (int64_t r = 0; r < layout.num_ranks(); ++r) {
    const layout::RankTensors& tensors = layout.rank(r);
    verdict.num_tensors += static_cast<int64_t>(tensors.size());
    if (!input.is_dump()) continue;
    for (const std::string& carried : carried_names(checkpoint.model.logical, tensors))
      if (input.rank(r).count(carried) == 0) optional.insert(carried);
  }
  verdict.num_not_held = static_cast<int64_t>(optional.size());
  add(input.problems(layout, optional));
  input.bind_what_fits(layout);
  verdict.num_compared = input.num_bound();
  auto found = with_progress(
      context, "verify", bucket_bytes(options), [&](const layout::ExecuteOptions& execute_options) {
        return compare_tensors(checkpoint.layout, checkpoint.input, layout, input, execute_options);
      });
  add(std::move(found.problems));
  verdict.changes = type_changes_text(found.type_changes, layout.logical());
  verdict.weights = digest_of_weights(layout.logical(), found.digests);
  return verdict;
}

void run_verify(CommandContext& context, const LayoutOptions& options) {
  require(options.layout, "--layout", "verify");
  require(options.input, "--input", "verify");
  require(options.model, "--model", "verify");
  const Verdict verdict = verify(context, options);
  context.phase.start();
  int64_t num_set_aside = 0;
  for (const WeightFolderProblem& problem : verdict.problems) {
    print(fmt::format("{}: {}: {}\n", problem.code, problem.where, problem.message));
    num_set_aside += problem.code == kNotComparable;
  }
  const auto num_problems = static_cast<int64_t>(verdict.problems.size()) - num_set_aside;
  if (num_problems > 0)
    fail<Error>("digest-mismatch", options.input, "expected the weights of {}, got {} problems",
                options.model, num_problems);
  if (verdict.num_compared == 0 || (num_set_aside > 0 && !options.partial))
    fail<Error>(kNotComparable, options.input,
                "expected {} tensors to compare, got {}: the others are not what was loaded "
                "(--partial true accepts that)",
                verdict.num_tensors - verdict.num_not_held, verdict.num_compared);
  for (const std::string& line : verdict.changes) print("the layout " + line + "\n");
  if (verdict.num_compared == verdict.num_tensors)
    return print(fmt::format("the same weights, {}\n", verdict.weights.hex()));
  print(
      fmt::format("the same weights in {} of {} tensors; {} cannot be compared, {} are none that "
                  "an engine computes with\n",
                  verdict.num_compared, verdict.num_tensors, num_set_aside, verdict.num_not_held));
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
