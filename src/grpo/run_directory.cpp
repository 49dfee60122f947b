// SPDX-License-Identifier: Apache-2.0
#include "grpo/run_directory.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>

#include "base/check.h"
#include "base/log.h"
#include "grpo/metrics.h"
#include "report/report.h"  // kReportFile
#include "train/adapter_file.h"

namespace lockstep::grpo {
namespace {

namespace fs = std::filesystem;

/// Written first and removed last: a folder with files of a run but without this one is somebody
/// else's.
constexpr const char* kArgsFile = "args.json";
/// Links to checkpoints. Where a run ends with its best model, `last` points to `best`, by which a
/// resume knows that it is not the newest.
constexpr const char *kLast = "last", *kBest = "best";
constexpr const char* kSplitRows = "val_dataset.jsonl";
/// What the name of a checkpoint's merged model ends in.
constexpr std::string_view kMerged = "-merged";

/// The number N of "checkpoint-N"; unset for other names.
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

/// Whether it is the merged model of a checkpoint.
bool is_merged(const fs::path& path) {
  std::string name = path.filename().string();
  if (!name.ends_with(kMerged)) return false;
  name.resize(name.size() - kMerged.size());
  return checkpoint_step(name).has_value();
}

/// The number K of "vK-20260102-030405"; unset for other names.
std::optional<int64_t> version_number(const fs::path& path) {
  const std::string name = path.filename().string();
  if (name.size() < 2 || name[0] != 'v' || !std::isdigit(static_cast<unsigned char>(name[1])))
    return {};
  return std::strtoll(name.c_str() + 1, nullptr, 10);
}

bool is_checkpoint(const fs::path& path) {
  std::error_code ignored;
  return (fs::exists(path / "config.json", ignored) ||
          fs::exists(path / "adapter_config.json", ignored)) &&
         fs::exists(path / kTrainerState, ignored);
}

}  // namespace

std::string checkpoint_name(int64_t step) { return fmt::format("checkpoint-{}", step); }

bool is_run_file(const fs::path& name) {
  return name == kArgsFile || name == "logging.jsonl" || name == "completions.jsonl" ||
         name == kSplitRows || name == report::kReportFile || name == "runs" || name == kLast ||
         name == kBest || checkpoint_step(name) || is_merged(name);
}

std::optional<fs::path> newest_checkpoint(const fs::path& run) {
  const fs::path last = run / kLast;
  if (fs::is_symlink(last) && fs::read_symlink(last) != kBest && is_checkpoint(last))
    return fs::canonical(last);
  std::optional<fs::path> newest;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(run, ignored)) {
    const auto step = checkpoint_step(entry.path());
    if (step && is_checkpoint(entry.path()) && (!newest || *step > *checkpoint_step(*newest)))
      newest = fs::canonical(entry.path());
  }
  // A copy that follows links makes a folder of the link, and that may be all that was copied.
  if (!newest && is_checkpoint(last)) newest = fs::canonical(last);
  return newest;
}

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

namespace {

/// A new version's name, such as v0-20260102-030405, with the first number that is free.
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

/// Whether the save or the removal of a run's file leaves this name when the process is killed.
bool is_unfinished(const fs::path& name) { return is_run_file(name_of_temporary(name.string())); }

/// The entries of a folder whose names are such; none if there is no folder.
std::vector<fs::path> entries_of(const fs::path& folder, bool (*is_such)(const fs::path& name)) {
  std::vector<fs::path> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored))
    if (is_such(entry.path().filename())) found.push_back(entry.path());
  return found;
}

/// Whether the folder holds nothing but the leftovers of a run that was killed before it began.
bool is_bare(const fs::path& folder) {
  return fs::is_directory(folder) && entries_of(folder, [](const fs::path& name) {
                                       return !is_unfinished(name) &&
                                              name != DirectoryLock::kFileName;
                                     }).empty();
}

/// Whether a run of ours made the folder.
bool is_run(const fs::path& path) {
  std::error_code ignored;
  if (!fs::is_regular_file(path / kArgsFile, ignored)) return false;
  try {
    const Json args = parse_json_file(path / kArgsFile);
    return args.is_object() && args.contains("output_dir") && args.contains("tuner_type");
  } catch (const Error&) {
    // It is somebody else's file of that name.
    return false;
  }
}

/// Gives a link that is a folder, as a copy makes it, the name of its checkpoint back.
void adopt_copied_link(const fs::path& link) {
  if (fs::is_symlink(link) || !is_checkpoint(link)) return;
  const Json state = parse_json_file(link / kTrainerState);
  const fs::path own = link.parent_path() / checkpoint_name(state.value("global_step", int64_t{0}));
  if (fs::exists(own))
    remove_whole(link);
  else
    fs::rename(link, own);
}

/// Throws FormatError unless LoopState::values is null or an object whose fields have the types
/// that they are read with; which of them are there is for who reads them.
void check_loop_state(const Json& values, const fs::path& file) {
  if (values.is_null()) return;
  const auto require = [&](bool fits, std::string_view what, const std::string& name,
                           const Json& value) {
    if (!fits)
      fail<FormatError>("bad-resume", file.string(), "expected {} in {}, got {}", what, name,
                        value.type_name());
  };
  require(values.is_object(), "an object", "lockstep", values);
  for (const auto& [name, value] : values.items()) {
    const std::string where = "lockstep." + name;
    if (name == "command") require(value.is_string(), "a string", where, value);
    if (name == "best" && !value.is_null()) {
      require(value.is_object(), "an object", where, value);
      const Json metric = value.value("metric", Json("")),
                 greater = value.value("greater_is_better", Json(true));
      require(metric.is_string(), "a string", where + ".metric", metric);
      require(greater.is_boolean(), "true or false", where + ".greater_is_better", greater);
    }
    if (name == "plan" || name == "metrics") require(value.is_object(), "an object", where, value);
    if (name == "has_optimizer" || name == "is_step_finished")
      require(value.is_boolean(), "true or false", where, value);
    if (name == "logging_bytes" || name == "completions_bytes")
      require(value.is_number_integer() && value >= 0, "a whole number", where, value);
    if (name != "metrics") continue;
    for (const auto& [metric, entry] : value.items())
      require(Metrics::is_state(entry), "[kind, value, weight]", where + "." + metric, entry);
  }
}

/// Removes what a run has written.
void remove_run(const fs::path& run) {
  for (const fs::path& old : entries_of(run, is_run_file))
    if (old.filename() != kArgsFile) remove_whole(old);
  remove_whole(run / kArgsFile);
}

/// Makes a log that has another name (a copy by hard links, a link to some other file) this run's
/// own: it is cut and appended to in place, which nobody else is to see.
void own_log(const fs::path& log) {
  std::error_code ignored;
  const bool is_shared = fs::is_symlink(log, ignored) || fs::hard_link_count(log, ignored) > 1;
  if (is_shared && fs::is_regular_file(log, ignored)) write_file(log, read_file(log));
}

}  // namespace

std::optional<ResumePoint> find_resume_point(const RunOptions& options) {
  if (options.resume_from_checkpoint.empty()) return {};
  fs::path directory = options.resume_from_checkpoint;
  if (options.resume_from_checkpoint == "last") {
    const fs::path output = options.output_dir;
    const auto newest = newest_checkpoint(options.add_version ? newest_version(output) : output);
    if (!newest) return {};
    directory = *newest;
  }
  const fs::path state_file = directory / kTrainerState;
  if (!is_checkpoint(directory))
    fail<ConfigError>(
        "bad-resume", "--resume_from_checkpoint",
        "expected a checkpoint directory with config.json or adapter_config.json, and "
        "trainer_state.json, got {}",
        directory.string());
  const Json state = parse_json_file(state_file);
  if (!state.is_object() || !state.contains("global_step") ||
      !state["global_step"].is_number_integer() || state["global_step"].get<int64_t>() < 0)
    fail<FormatError>("bad-resume", state_file.string(),
                      "expected a global_step of at least 0, got none");
  const fs::path run = fs::canonical(directory).parent_path(),
                 output = fs::weakly_canonical(options.output_dir);
  const Json own = state.value("lockstep", Json());
  check_loop_state(own, state_file);
  return ResumePoint{
      .directory = fs::canonical(directory),
      .global_step = state["global_step"].get<int64_t>(),
      .is_same_run = run == output || (options.add_version && run.parent_path() == output),
      .state = own};
}

namespace {

constexpr const char* kOutputFlag = "--output_dir";

/// What --overwrite removes must be a run's: others' folders have a runs/ and checkpoints too.
void check_replaced(const fs::path& path) {
  std::error_code ignored;
  if (fs::exists(path, ignored) && !fs::is_directory(path, ignored))
    fail<ConfigError>("output-exists", kOutputFlag, "expected a folder, got the file {}",
                      path.string());
  const auto replaced = entries_of(path, is_run_file);
  if (replaced.empty() || is_run(path)) return;
  fail<ConfigError>("output-exists", kOutputFlag,
                    "expected a run directory to replace, got {}, which holds {} but no args.json "
                    "of a run (hint: another path, or remove it yourself)",
                    path.string(), replaced.front().filename().string());
}

/// A run that starts anew removes what was there: not weights that only lack what a resume needs.
void check_holds_no_checkpoint(const fs::path& run) {
  const auto found =
      entries_of(run, [](const fs::path& name) { return checkpoint_step(name).has_value(); });
  if (found.empty()) return;
  fail<ConfigError>("bad-resume", "--resume_from_checkpoint",
                    "expected a checkpoint with config.json and {} in {}, got {} without (hint: "
                    "--overwrite true starts anew and removes it)",
                    kTrainerState, run.string(), found.front().filename().string());
}

/// A claim, checked, without its lock.
RunClaim find_claim(const RunOptions& options, std::span<const InputPath> inputs) {
  RunClaim claim{.path = {}, .resume = find_resume_point(options), .lock = nullptr};
  const bool goes_on = claim.resume && claim.resume->is_same_run;
  claim.path = options.output_dir;
  if (goes_on)
    claim.path = claim.resume->directory.parent_path();
  else if (options.add_version)
    claim.path = versioned(options.output_dir);
  check_output_apart(claim.path, kOutputFlag, inputs);
  if (goes_on) return claim;
  if (claim.resume) {
    const InputPath checkpoint{"--resume_from_checkpoint", claim.resume->directory};
    check_output_apart(claim.path, kOutputFlag, {&checkpoint, 1});
  }
  // A run that was stopped before its first checkpoint has written its options and logs.
  const bool starts_anew =
      options.resume_from_checkpoint == "last" && !claim.resume && is_run(claim.path);
  if (starts_anew && !options.overwrite) check_holds_no_checkpoint(claim.path);
  check_output_path(claim.path, options.overwrite || starts_anew || is_bare(claim.path),
                    kOutputFlag);
  check_replaced(claim.path);
  return claim;
}

}  // namespace

RunClaim claim_run(const RunOptions& options, std::span<const InputPath> inputs) {
  // To say that somebody writes there helps more than to say that the folder is not empty.
  if (!options.add_version) DirectoryLock::check_free(options.output_dir, kOutputFlag);
  RunClaim claim = find_claim(options, inputs);
  while (fs::is_directory(claim.path)) {
    const auto lock = std::make_shared<DirectoryLock>(claim.path, kOutputFlag);
    // Another process may have written there since the folder was looked at.
    claim = find_claim(options, inputs);
    if (claim.path != lock->directory()) continue;
    claim.lock = lock;
    break;
  }
  if (options.resume_from_checkpoint == "last" && !claim.resume)
    log_info("resume: no checkpoint in {} yet, the run starts from the beginning",
             options.output_dir);
  if (claim.resume && claim.resume->state.is_null())
    log_warning(
        "{} is another trainer's checkpoint: weights and step count are taken, nothing else",
        claim.resume->directory.string());
  return claim;
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
    fail<FormatError>("bad-resume", (resume.directory / kTrainerState).string(),
                      "expected a number of at least 0 in lockstep.{}, got none", name);
  return found->get<int64_t>();
}

RunDirectory::RunDirectory(const RunOptions& options, const Json& args, const RunClaim& claim)
    : options_(options),
      args_(args),
      path_(claim.path),
      lock_(claim.lock),
      shard_bytes_(io::parse_size(options.max_shard_size, "--max_shard_size")) {
  const auto& resume = claim.resume;
  const bool goes_on = resume && resume->is_same_run;
  if (!lock_) make();
  // Another command may be writing a checkpoint into this folder: it holds a lock on it.
  for (const fs::path& unfinished : entries_of(path_, is_unfinished))
    remove_if_abandoned(unfinished);
  if (goes_on) {
    own_log(path_ / "logging.jsonl");
    own_log(path_ / "completions.jsonl");
  } else {
    remove_run(path_);
  }
  write_file(path_ / kArgsFile, dump_json_pretty(args_));
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
  remove_folder_.action = remove_files_.action = {};
  if (!goes_on) return;
  if (events_) events_->restart_at(resume->global_step + 1);
  for (const char* name : {kLast, kBest}) adopt_copied_link(path_ / name);
  // The logs are cut back to this checkpoint: so is what --resume_from_checkpoint last would find.
  const fs::path name = resume->directory.filename();
  link(kLast,
       name == kLast || name == kBest ? checkpoint_name(resume->global_step) : name.string());
  for (const auto& entry : fs::directory_iterator(path_))
    if (const auto step = checkpoint_step(entry.path()); step && *step > resume->global_step)
      log_warning("{} holds steps that this run makes again; it is replaced when they are saved",
                  entry.path().string());
}

namespace {

/// Removes a folder and those of its parents that are not there now, as far as they are empty.
std::function<void()> removal_of_new(const fs::path& folder) {
  const fs::path path = fs::absolute(folder).lexically_normal();
  fs::path first = path;
  std::error_code ignored;
  while (first.has_relative_path() && !fs::exists(first.parent_path(), ignored))
    first = first.parent_path();
  return [path, first] {
    std::error_code failed;
    for (fs::path made = path; fs::remove(made, failed) && made != first;)
      made = made.parent_path();
  };
}

}  // namespace

/// Makes the folder and takes its lock. Another run may do so at the same time.
void RunDirectory::make() {
  const auto check = [](const fs::path& path, const std::error_code& error) {
    if (error)
      fail<IoError>("unwritable-output", path.string(), "expected to make the folder, got {}",
                    error.message());
  };
  remove_folder_.action = removal_of_new(path_);
  std::error_code error;
  if (options_.add_version) {
    fs::create_directories(options_.output_dir, error);
    check(options_.output_dir, error);
    while (!fs::create_directory(path_, error) && !error) {
      path_ = versioned(options_.output_dir);
      remove_folder_.action = removal_of_new(path_);
    }
  } else {
    fs::create_directories(path_, error);
  }
  check(path_, error);
  lock_ = std::make_shared<DirectoryLock>(path_, kOutputFlag);
  if (!entries_of(path_, is_run_file).empty())
    fail<ConfigError>("output-exists", kOutputFlag,
                      "expected a path that is not there yet, got {}, where a run has just begun",
                      path_.string());
  remove_files_.action = [path = path_] {
    std::error_code ignored;
    for (const fs::path& file : entries_of(path, is_run_file)) fs::remove_all(file, ignored);
  };
}

std::string event_tag(const std::string& name) {
  return name.starts_with("eval_") ? "eval/" + name.substr(5) : "train/" + name;
}

void RunDirectory::log(const Json& line, int64_t step) {
  Json written = line;
  // JSON has no number for them, and null would not tell one from another.
  for (auto& [name, value] : written.items())
    if (value.is_number_float() && !std::isfinite(value.get<double>()))
      value = fmt::format("{}", value.get<double>());
  logging_->append(dump_json(written, /*spaced=*/true));
  if (!events_) return;
  for (const auto& [name, value] : line.items())
    if (value.is_number()) events_->add_scalar(event_tag(name), value.get<double>(), step);
  events_->flush();
}

void RunDirectory::log_completions(const Json& line) {
  completions_->append(dump_json(line, /*spaced=*/true));
}

fs::path optimizer_file(const fs::path& checkpoint) {
  return checkpoint / train::kStateFolder / kOptimizerFile;
}

fs::path RunDirectory::begin_save(const train::LoadedModel& model,
                                  std::span<const io::TensorPart> optimizer,
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

  saving_.reset();
  saving_ = std::make_unique<AtomicDirectory>(path_ / checkpoint_name(step), /*replace=*/true);
  saving_step_ = step;
  const fs::path& staging = saving_->staging();
  if (model.adapter)
    train::write_adapter(*model.adapter, model::adapter_targets(*model.weights),
                         model.directory.string(), staging);
  else
    train::lay_out_checkpoint(model, staging, shard_bytes_);
  write_file(staging / kTrainerState, dump_json_pretty(state));
  write_file(staging / kArgsFile, dump_json_pretty(args_));
  const fs::path own = staging / train::kStateFolder;
  if (!options_.save_only_model || !loop_state.buffer.empty()) fs::create_directory(own);
  if (!loop_state.buffer.empty()) io::write_safetensors(own / kBufferFile, loop_state.buffer);
  if (!options_.save_only_model && !loop_state.reference.empty())
    io::write_safetensors(own / kReferenceFile, loop_state.reference);
  if (!options_.save_only_model) io::lay_out_safetensors(optimizer_file(staging), optimizer);
  return staging;
}

fs::path RunDirectory::finish_save() {
  saving_->commit();
  saving_.reset();
  const fs::path directory = path_ / checkpoint_name(saving_step_);
  link(kLast, directory.filename().string());
  link_best();
  prune(saving_step_);
  return directory;
}

fs::path RunDirectory::save_merged(const train::LoadedModel& base, model::WeightDtype dtype) const {
  const fs::path last = fs::canonical(path_ / kLast);
  const auto adapter = train::load_adapter(last, train::checkpoint_parameters(base));
  fs::path directory = last;
  directory += kMerged;
  AtomicDirectory output(directory, /*replace=*/true);
  train::write_checkpoint(
      base, output.staging(),
      {.max_shard_bytes = shard_bytes_, .dtype = dtype, .merged = adapter.get()});
  output.commit();
  return directory;
}

void RunDirectory::keep_split_rows(const std::string& lines) const {
  write_file(path_ / kSplitRows, lines);
}

fs::path RunDirectory::checkpoint(int64_t step) const { return path_ / checkpoint_name(step); }

void RunDirectory::choose_best(std::optional<int64_t> step) {
  best_step_ = step;
  link_best();
}

void RunDirectory::end_with_best() const { link(kLast, kBest); }

void RunDirectory::link_best() const {
  if (!best_step_) {
    std::error_code ignored;
    if (fs::is_symlink(path_ / kBest)) fs::remove(path_ / kBest, ignored);
  } else if (is_checkpoint(checkpoint(*best_step_))) {
    link(kBest, checkpoint_name(*best_step_));
  }
}

/// Makes a new link and renames it over the old one, so that a link never points nowhere.
void RunDirectory::link(const char* link, const std::string& name) const {
  const fs::path path = path_ / link, fresh = path_ / fmt::format(".{}.tmp-0", link);
  std::error_code error;
  fs::remove(fresh, error);
  fs::create_directory_symlink(name, fresh, error);
  if (!error) fs::rename(fresh, path, error);
  if (error)
    fail<IoError>("unwritable-output", path.string(), "expected to write a link, got {}",
                  error.message());
}

/// Deletes the oldest checkpoints over the limit, but neither the newest nor the best.
void RunDirectory::prune(int64_t newest) const {
  if (!options_.save_total_limit) return;
  std::vector<int64_t> steps;
  for (const auto& entry : fs::directory_iterator(path_))
    if (const auto step = checkpoint_step(entry.path());
        step && *step <= newest && *step != best_step_)
      steps.push_back(*step);
  std::sort(steps.begin(), steps.end());
  // Besides the best, which counts.
  const int64_t kept = std::max<int64_t>(best_step_ == newest ? 0 : 1,
                                         *options_.save_total_limit - (best_step_ ? 1 : 0));
  while (static_cast<int64_t>(steps.size()) > kept) {
    remove_whole(path_ / checkpoint_name(steps.front()));
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
