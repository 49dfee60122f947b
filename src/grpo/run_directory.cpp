// SPDX-License-Identifier: Apache-2.0
#include "grpo/run_directory.h"

#include <algorithm>
#include <chrono>
#include <ctime>

#include "base/check.h"
#include "base/log.h"

namespace lockstep::grpo {
namespace {

namespace fs = std::filesystem;

/// N of "checkpoint-N"; unset for other names.
std::optional<int64_t> checkpoint_step(const fs::path& path) {
  const std::string name = path.filename().string();
  constexpr std::string_view kPrefix = "checkpoint-";
  if (!name.starts_with(kPrefix) || name.size() == kPrefix.size() ||
      name.size() > kPrefix.size() + 12)
    return {};
  const std::string digits = name.substr(kPrefix.size());
  if (!std::all_of(digits.begin(), digits.end(), [](char c) { return c >= '0' && c <= '9'; }))
    return {};
  return std::stoll(digits);
}

/// v0-20260102-030405, the number being the first that is free.
fs::path versioned(const fs::path& base) {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm parts{};
  localtime_r(&now, &parts);
  char stamp[32];
  std::strftime(stamp, sizeof(stamp), "%Y%m%d-%H%M%S", &parts);
  int64_t version = 0;
  if (fs::is_directory(base))
    for (const auto& entry : fs::directory_iterator(base)) {
      const std::string name = entry.path().filename().string();
      if (name.size() > 1 && name[0] == 'v' && std::isdigit(static_cast<unsigned char>(name[1])))
        version = std::max<int64_t>(version, std::strtoll(name.c_str() + 1, nullptr, 10) + 1);
    }
  return base / fmt::format("v{}-{}", version, stamp);
}

/// What a run writes; anything else in the folder is not ours to delete.
void remove_run_files(const fs::path& path) {
  for (const auto& entry : fs::directory_iterator(path)) {
    const std::string name = entry.path().filename().string();
    const bool is_ours = name == "args.json" || name == "logging.jsonl" ||
                         name == "completions.jsonl" || name == "runs" || name == "last" ||
                         checkpoint_step(entry.path());
    if (is_ours) fs::remove_all(entry.path());
  }
}

void remove_unfinished_saves(const fs::path& path) {
  for (const auto& entry : fs::directory_iterator(path)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(".") && name.find(".tmp-") != std::string::npos)
      fs::remove_all(entry.path());
  }
}

}  // namespace

std::optional<ResumePoint> find_resume_point(const RunOptions& options) {
  if (options.resume_from_checkpoint.empty()) return {};
  fs::path directory = options.resume_from_checkpoint;
  if (options.resume_from_checkpoint == "last") {
    directory = fs::path(options.output_dir) / "last";
    if (!fs::exists(directory)) {
      log_info("resume: no checkpoint in {} yet, starting anew", options.output_dir);
      return {};
    }
    directory = fs::canonical(directory);
  }
  const fs::path state_file = directory / "trainer_state.json";
  if (!fs::exists(directory / "config.json") || !fs::exists(state_file))
    fail<ConfigError>(
        "bad-resume", "--resume_from_checkpoint",
        "expected a checkpoint directory with config.json and trainer_state.json, got {}",
        directory.string());
  const Json state = parse_json_file(state_file);
  if (!state.is_object() || !state.contains("global_step") ||
      !state["global_step"].is_number_integer())
    fail<FormatError>("bad-resume", state_file.string(), "expected a global_step, got none");
  ResumePoint point{directory, state["global_step"].get<int64_t>(),
                    state.value("lockstep", Json())};
  if (point.state.is_null())
    log_warning(
        "{} is another trainer's checkpoint: weights and step count are taken, nothing else",
        directory.string());
  return point;
}

RunDirectory::RunDirectory(const RunOptions& options,
                           const Json& args,
                           const std::optional<ResumePoint>& resume)
    : options_(options),
      args_(args),
      path_(options.output_dir),
      shard_bytes_(io::parse_size(options.max_shard_size, "--max_shard_size")) {
  if (options.add_version) path_ = versioned(path_);
  const bool is_same_run = !options.resume_from_checkpoint.empty();
  check_output_path(path_, options.overwrite || is_same_run, "--output_dir");
  std::error_code error;
  fs::create_directories(path_, error);
  if (error)
    fail<IoError>("unwritable-output", path_.string(), "expected to make the folder, got {}",
                  error.message());
  remove_unfinished_saves(path_);
  if (!resume) remove_run_files(path_);
  write_file(path_ / "args.json", dump_json_pretty(args_));
  logging_ = std::make_unique<LineFile>(path_ / "logging.jsonl");
  completions_ = std::make_unique<LineFile>(path_ / "completions.jsonl");
  if (resume && resume->state.is_object()) {
    logging_->truncate(
        std::min(logging_->size(), resume->state.value("logging_bytes", int64_t{0})));
    completions_->truncate(
        std::min(completions_->size(), resume->state.value("completions_bytes", int64_t{0})));
  }
  const auto& reports = options.report_to;
  if (std::find(reports.begin(), reports.end(), "tensorboard") != reports.end())
    events_ = std::make_unique<io::EventFile>(path_ / "runs");
}

void RunDirectory::log(const Json& line, int64_t step) {
  logging_->append(dump_json(line, /*spaced=*/true));
  if (!events_) return;
  for (const auto& [name, value] : line.items())
    if (value.is_number())
      events_->add_scalar(name.find('/') == std::string::npos ? "train/" + name : name,
                          value.get<double>(), step);
  events_->flush();
}

void RunDirectory::log_completions(const Json& line) {
  completions_->append(dump_json(line, /*spaced=*/true));
}

fs::path RunDirectory::save(const train::LoadedModel& model,
                            const train::AdamW& optimizer,
                            int64_t step,
                            const Json& trainer_state,
                            const Json& loop_state) {
  logging_->sync();
  completions_->sync();
  Json state = trainer_state;
  state["global_step"] = step;
  state["lockstep"] = loop_state;
  state["lockstep"]["logging_bytes"] = logging_->size();
  state["lockstep"]["completions_bytes"] = completions_->size();
  state["lockstep"]["has_optimizer"] = !options_.save_only_model;

  const fs::path directory = path_ / fmt::format("checkpoint-{}", step);
  AtomicDirectory output(directory, /*replace=*/true);
  train::write_checkpoint(model, output.staging(), {.max_shard_bytes = shard_bytes_});
  write_file(output.staging() / "trainer_state.json", dump_json_pretty(state));
  write_file(output.staging() / "args.json", dump_json_pretty(args_));
  if (!options_.save_only_model)
    io::write_safetensors(output.staging() / "optimizer.safetensors", optimizer.state());
  output.commit();

  // A new link beside the old one, renamed over it: `last` never points nowhere.
  const fs::path fresh = path_ / fmt::format(".last.tmp-{}", step);
  std::error_code error;
  fs::remove(fresh, error);
  fs::create_directory_symlink(directory.filename(), fresh, error);
  if (!error) fs::rename(fresh, path_ / "last", error);
  if (error)
    fail<IoError>("unwritable-output", (path_ / "last").string(),
                  "expected to write a link, got {}", error.message());
  prune(step);
  return directory;
}

void RunDirectory::prune(int64_t newest) const {
  if (!options_.save_total_limit) return;
  std::vector<int64_t> steps;
  for (const auto& entry : fs::directory_iterator(path_))
    if (const auto step = checkpoint_step(entry.path()); step && *step <= newest)
      steps.push_back(*step);
  std::sort(steps.begin(), steps.end());
  while (static_cast<int64_t>(steps.size()) > *options_.save_total_limit) {
    fs::remove_all(path_ / fmt::format("checkpoint-{}", steps.front()));
    steps.erase(steps.begin());
  }
}

void load_optimizer(const ResumePoint& resume, train::AdamW& optimizer) {
  if (!resume.state.is_object()) return;
  if (!resume.state.value("has_optimizer", false))
    fail<ConfigError>(
        "bad-resume", resume.directory.string(),
        "expected the optimizer's state, got a checkpoint saved with --save_only_model");
  optimizer.load_state(io::SafetensorsFile(resume.directory / "optimizer.safetensors"),
                       resume.global_step);
}

}  // namespace lockstep::grpo
