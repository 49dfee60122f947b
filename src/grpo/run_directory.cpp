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

/// K of "vK-20260102-030405"; unset for other names.
std::optional<int64_t> version_number(const fs::path& path) {
  const std::string name = path.filename().string();
  if (name.size() < 2 || name[0] != 'v' || !std::isdigit(static_cast<unsigned char>(name[1])))
    return {};
  return std::strtoll(name.c_str() + 1, nullptr, 10);
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
    for (const auto& entry : fs::directory_iterator(base))
      if (const auto number = version_number(entry.path()))
        version = std::max(version, *number + 1);
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

/// Whether the folder is one that a run of ours began.
bool is_run(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_regular_file(path / "args.json", ignored)) return false;
  try {
    const Json args = parse_json_file(path / "args.json");
    return args.is_object() && args.contains("output_dir") && args.contains("tuner_type");
  } catch (const Error&) {
    return false;  // somebody else's file of that name
  }
}

bool is_checkpoint(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path / "config.json", ignored) &&
         fs::exists(path / "trainer_state.json", ignored);
}

/// `last`, or the newest checkpoint where the link is gone or points nowhere (copied folders lose
/// links).
std::optional<fs::path> newest_checkpoint(const fs::path& run) {
  if (is_checkpoint(run / "last")) return fs::canonical(run / "last");
  std::optional<fs::path> newest;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(run, ignored)) {
    const auto step = checkpoint_step(entry.path());
    if (step && is_checkpoint(entry.path()) && (!newest || *step > *checkpoint_step(*newest)))
      newest = fs::canonical(entry.path());
  }
  return newest;
}

/// The folder of the newest version that has a checkpoint, else `base`.
fs::path newest_version(const fs::path& base) {
  std::optional<fs::path> newest;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(base, ignored)) {
    const auto number = version_number(entry.path());
    if (number && newest_checkpoint(entry.path()) &&
        (!newest || *number > *version_number(*newest)))
      newest = entry.path();
  }
  return newest.value_or(base);
}

}  // namespace

std::optional<ResumePoint> find_resume_point(const RunOptions& options) {
  if (options.resume_from_checkpoint.empty()) return {};
  fs::path directory = options.resume_from_checkpoint;
  if (options.resume_from_checkpoint == "last") {
    const fs::path output = options.output_dir;
    const auto newest = newest_checkpoint(options.add_version ? newest_version(output) : output);
    if (!newest) {
      log_info("resume: no checkpoint in {} yet, starting anew", options.output_dir);
      return {};
    }
    directory = *newest;
  }
  const fs::path state_file = directory / "trainer_state.json";
  if (!is_checkpoint(directory))
    fail<ConfigError>(
        "bad-resume", "--resume_from_checkpoint",
        "expected a checkpoint directory with config.json and trainer_state.json, got {}",
        directory.string());
  const Json state = parse_json_file(state_file);
  if (!state.is_object() || !state.contains("global_step") ||
      !state["global_step"].is_number_integer() || state["global_step"].get<int64_t>() < 0)
    fail<FormatError>("bad-resume", state_file.string(),
                      "expected a global_step of at least 0, got none");
  const fs::path run = fs::canonical(directory).parent_path(),
                 output = fs::weakly_canonical(options.output_dir);
  ResumePoint point{
      .directory = fs::canonical(directory),
      .global_step = state["global_step"].get<int64_t>(),
      .is_same_run = run == output || (options.add_version && run.parent_path() == output),
      .state = state.value("lockstep", Json())};
  if (point.state.is_null())
    log_warning(
        "{} is another trainer's checkpoint: weights and step count are taken, nothing else",
        directory.string());
  return point;
}

fs::path run_path(const RunOptions& options, const std::optional<ResumePoint>& resume) {
  if (resume && resume->is_same_run) return resume->directory.parent_path();
  const fs::path output = options.output_dir;
  const fs::path path = options.add_version ? versioned(output) : output;
  // A run that was stopped before its first checkpoint has written its options and logs.
  const bool starts_anew = options.resume_from_checkpoint == "last" && !resume && is_run(path);
  check_output_path(path, options.overwrite || starts_anew, "--output_dir");
  return path;
}

fs::path state_file(const ResumePoint& resume, const char* name) {
  const fs::path inside = resume.directory / train::kStateFolder / name;
  std::error_code ignored;
  const bool is_older =
      !fs::exists(inside, ignored) && fs::exists(resume.directory / name, ignored);
  return is_older ? resume.directory / name : inside;
}

int64_t state_number(const ResumePoint& resume, const char* name) {
  const auto found = resume.state.find(name);
  if (found == resume.state.end() || !found->is_number_integer() || found->get<int64_t>() < 0)
    fail<FormatError>("bad-resume", (resume.directory / "trainer_state.json").string(),
                      "expected a number of at least 0 in lockstep.{}, got none", name);
  return found->get<int64_t>();
}

void check_plan(const ResumePoint& resume, const std::string& command, const Json& plan) {
  if (!resume.state.is_object()) return;
  const std::string saved = resume.state.value("command", "");
  if (saved != command)
    fail<ConfigError>("bad-resume", resume.directory.string(),
                      "expected a checkpoint of {}, got one of {} (hint: to train on from its "
                      "weights name it by --model)",
                      command, saved.empty() ? "another version" : saved);
  const Json before = resume.state.value("plan", Json::object());
  for (const auto& [name, value] : plan.items())
    if (before.value(name, Json()) != value)
      fail<ConfigError>("bad-resume", resume.directory.string(),
                        "expected {} {} as when it was saved, got {}", name,
                        dump_json(before.value(name, Json())), dump_json(value));
}

RunDirectory::RunDirectory(const RunOptions& options,
                           const Json& args,
                           const std::optional<ResumePoint>& resume)
    : options_(options),
      args_(args),
      path_(run_path(options, resume)),
      shard_bytes_(io::parse_size(options.max_shard_size, "--max_shard_size")) {
  const bool goes_on = resume && resume->is_same_run;
  std::error_code error;
  fs::create_directories(path_, error);
  if (error)
    fail<IoError>("unwritable-output", path_.string(), "expected to make the folder, got {}",
                  error.message());
  remove_unfinished_saves(path_);
  if (!goes_on) remove_run_files(path_);
  write_file(path_ / "args.json", dump_json_pretty(args_));
  logging_ = std::make_unique<LineFile>(path_ / "logging.jsonl");
  completions_ = std::make_unique<LineFile>(path_ / "completions.jsonl");
  if (goes_on && resume->state.is_object()) {
    logging_->truncate(
        std::min(logging_->size(), resume->state.value("logging_bytes", int64_t{0})));
    completions_->truncate(
        std::min(completions_->size(), resume->state.value("completions_bytes", int64_t{0})));
  }
  const auto& reports = options.report_to;
  if (std::find(reports.begin(), reports.end(), "tensorboard") != reports.end())
    events_ = std::make_unique<io::EventFile>(path_ / "runs");
  if (!goes_on) return;
  if (events_) events_->restart_at(resume->global_step + 1);
  // The logs are cut back to this checkpoint: so is what --resume_from_checkpoint last would find.
  link_last(resume->directory, resume->global_step);
  for (const auto& entry : fs::directory_iterator(path_))
    if (const auto step = checkpoint_step(entry.path()); step && *step > resume->global_step)
      log_warning("{} is of steps that this run does anew; it is replaced when they are saved",
                  entry.path().string());
}

std::string event_tag(const std::string& name) {
  return name.starts_with("eval_") ? "eval/" + name.substr(5) : "train/" + name;
}

void RunDirectory::log(const Json& line, int64_t step) {
  logging_->append(dump_json(line, /*spaced=*/true));
  if (!events_) return;
  for (const auto& [name, value] : line.items())
    if (value.is_number()) events_->add_scalar(event_tag(name), value.get<double>(), step);
  events_->flush();
}

void RunDirectory::log_completions(const Json& line) {
  completions_->append(dump_json(line, /*spaced=*/true));
}

fs::path RunDirectory::save(const train::LoadedModel& model,
                            const train::AdamW& optimizer,
                            int64_t step,
                            const Json& trainer_state,
                            const LoopState& loop_state) {
  logging_->sync();
  completions_->sync();
  Json state = trainer_state;
  state["global_step"] = step;
  state["lockstep"] = loop_state.values;
  state["lockstep"]["logging_bytes"] = logging_->size();
  state["lockstep"]["completions_bytes"] = completions_->size();
  state["lockstep"]["has_optimizer"] = !options_.save_only_model;

  const fs::path directory = path_ / fmt::format("checkpoint-{}", step);
  AtomicDirectory output(directory, /*replace=*/true);
  train::write_checkpoint(model, output.staging(), {.max_shard_bytes = shard_bytes_});
  write_file(output.staging() / "trainer_state.json", dump_json_pretty(state));
  write_file(output.staging() / "args.json", dump_json_pretty(args_));
  const fs::path own = output.staging() / train::kStateFolder;
  if (!options_.save_only_model || !loop_state.buffer.empty()) fs::create_directory(own);
  if (!options_.save_only_model) io::write_safetensors(own / kOptimizerFile, optimizer.state());
  if (!loop_state.buffer.empty()) io::write_safetensors(own / kBufferFile, loop_state.buffer);
  output.commit();
  link_last(directory, step);
  prune(step);
  return directory;
}

/// A new link beside the old one, renamed over it: `last` never points nowhere.
void RunDirectory::link_last(const fs::path& directory, int64_t step) const {
  const fs::path fresh = path_ / fmt::format(".last.tmp-{}", step);
  std::error_code error;
  fs::remove(fresh, error);
  fs::create_directory_symlink(directory.filename(), fresh, error);
  if (!error) fs::rename(fresh, path_ / "last", error);
  if (error)
    fail<IoError>("unwritable-output", (path_ / "last").string(),
                  "expected to write a link, got {}", error.message());
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
  optimizer.load_state(io::SafetensorsFile(state_file(resume, kOptimizerFile)), resume.global_step);
}

}  // namespace lockstep::grpo
