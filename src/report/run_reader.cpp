// SPDX-License-Identifier: Apache-2.0
#include "report/run_reader.h"

#include <algorithm>
#include <optional>

#include "base/check.h"
#include "base/file.h"

namespace lockstep::report {
namespace {

namespace fs = std::filesystem;

constexpr const char *kLogging = "logging.jsonl", *kCompletions = "completions.jsonl",
                     *kArgs = "args.json", *kTrainerState = "trainer_state.json";
/// Longer settings are cut: a page shows them in a line.
constexpr size_t kMostSettingBytes = 400;

struct Steps {
  int64_t done = 0, all = 0;
};

/// The step of a logged line: "global_step/max_steps" of ms-swift and ours, or the number that
/// transformers writes.
std::optional<Steps> steps_of(const Json& line) {
  if (const auto found = line.find("global_step/max_steps");
      found != line.end() && found->is_string()) {
    const std::string text = found->get<std::string>();
    const size_t slash = text.find('/');
    if (slash != std::string::npos)
      return Steps{std::strtoll(text.c_str(), nullptr, 10),
                   std::strtoll(text.c_str() + slash + 1, nullptr, 10)};
  }
  for (const char* name : {"step", "global_step", "iteration"})
    if (const auto found = line.find(name); found != line.end() && found->is_number())
      return Steps{found->get<int64_t>(), 0};
  return {};
}

bool is_summary(const Json& line) {
  return line.contains("train_runtime") || line.contains("last_model_checkpoint") ||
         line.contains("log_history");
}

bool is_evaluation(const Json& line) {
  return std::any_of(line.items().begin(), line.items().end(),
                     [](const auto& item) { return item.key().starts_with("eval_"); });
}

/// Whether a setting is nobody's business who looks at a picture of the run.
bool is_secret(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  for (const char* word : {"api_key", "apikey", "secret", "password", "hub_token", "auth_token"})
    if (name.find(word) != std::string::npos) return true;
  return false;
}

/// The settings, as texts of bounded length.
Json settings_of(const Json& args) {
  Json settings = Json::object();
  for (const auto& [name, value] : args.items()) {
    // The notices of the start are no settings.
    if (name == "notices") continue;
    std::string text = value.is_string() ? value.get<std::string>() : dump_json(value, true);
    if (is_secret(name) && !text.empty() && text != "null" && text != "(hidden)") text = "(hidden)";
    if (text.size() > kMostSettingBytes) {
      size_t end = kMostSettingBytes;
      while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
      text = text.substr(0, end) + "…";
    }
    settings[name] = std::move(text);
  }
  return settings;
}

/// trainer_state.json of a folder, or of its newest checkpoint.
std::optional<fs::path> trainer_state_in(const fs::path& directory) {
  std::error_code ignored;
  if (fs::is_regular_file(directory / kTrainerState, ignored)) return directory / kTrainerState;
  std::optional<fs::path> newest;
  int64_t newest_step = -1;
  for (const auto& entry : fs::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("checkpoint-")) continue;
    const int64_t step = std::strtoll(name.c_str() + 11, nullptr, 10);
    if (step <= newest_step || !fs::is_regular_file(entry.path() / kTrainerState, ignored))
      continue;
    newest_step = step;
    newest = entry.path() / kTrainerState;
  }
  return newest;
}

}  // namespace

RunReader::RunReader(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_regular_file(path, ignored)) {
    set_directory(path.has_parent_path() ? path.parent_path() : fs::path("."));
    logging_ = GrowingFile(path);
    return;
  }
  set_directory(path);
  const bool has_log = fs::is_regular_file(path / kLogging, ignored);
  if (!has_log && !trainer_state_in(path))
    fail<ConfigError>("missing-run", path.string(),
                      "expected a run directory with {} or {}, got {}", kLogging, kTrainerState,
                      fs::exists(path, ignored) ? "none of them" : "no such folder");
  has_history_ = !has_log;
}

RunReader RunReader::growing(const fs::path& directory) {
  RunReader reader;
  reader.set_directory(directory);
  return reader;
}

void RunReader::set_directory(const fs::path& directory) {
  directory_ = directory;
  logging_ = GrowingFile(directory / kLogging);
  completions_ = GrowingFile(directory / kCompletions);
}

std::vector<fs::path> RunReader::files() const {
  std::vector<fs::path> files{logging_.path(), completions_.path(), directory_ / kArgs};
  if (has_history_)
    if (const auto state = trainer_state_in(directory_)) files.push_back(*state);
  return files;
}

void RunReader::restart() {
  curves_.clear();
  evaluations_.clear();
  summary_ = Json();
  last_ = Json::object();
  step_ = max_steps_ = bad_lines_ = 0;
  has_args_ = false;
}

void RunReader::restart_completions() {
  lengths_.clear();
  samples_.clear();
  ++completions_version_;
}

bool RunReader::read() {
  bool is_changed = false;
  if (has_history_) {
    if (step_ == 0) read_trainer_state();
    is_changed = true;
  } else {
    logging_.read(
        [&] {
          restart();
          is_changed = true;
        },
        [&](std::string_view line, int64_t) {
          take_line(line);
          is_changed = true;
        });
  }
  const int64_t version = completions_version_;
  completions_.read([&] { restart_completions(); },
                    [&](std::string_view line, int64_t offset) { take_completions(line, offset); });
  if (!has_args_) read_args();
  return is_changed || version != completions_version_;
}

void RunReader::read_args() {
  std::error_code ignored;
  if (!fs::is_regular_file(directory_ / kArgs, ignored)) return;
  try {
    Json args = parse_json_file(directory_ / kArgs);
    if (!args.is_object()) return;
    args_ = std::move(args);
    has_args_ = true;
  } catch (const FormatError&) {
    // Somebody else's file of that name, or one that is being written.
  }
}

void RunReader::read_trainer_state() {
  const auto file = trainer_state_in(directory_);
  if (!file) return;
  const Json state = parse_json_file(*file);
  if (!state.is_object()) return;
  max_steps_ = state.value("max_steps", int64_t{0});
  for (const Json& line : state.value("log_history", Json::array())) take_logged(line);
}

void RunReader::take_line(std::string_view text) {
  if (text.empty()) return;
  try {
    take_logged(parse_json(text, kLogging));
  } catch (const FormatError&) {
    ++bad_lines_;
  }
}

void RunReader::take_logged(const Json& line) {
  if (!line.is_object()) {
    ++bad_lines_;
    return;
  }
  const auto steps = steps_of(line);
  if (is_summary(line)) {
    summary_ = line;
    summary_.erase("log_history");
    if (const auto found = line.find("max_steps"); found != line.end() && found->is_number())
      max_steps_ = found->get<int64_t>();
    return;
  }
  if (!steps) {
    ++bad_lines_;
    return;
  }
  // A run that goes on after its end is no longer at its end.
  summary_ = Json();
  step_ = steps->done;
  if (steps->all > 0) max_steps_ = steps->all;
  if (is_evaluation(line)) {
    evaluations_.add(steps->done, line, "eval_");
    return;
  }
  Json numbers = line;
  for (const char* name : {"step", "global_step", "iteration"}) numbers.erase(name);
  curves_.add(steps->done, numbers);
  last_ = line;
}

void RunReader::take_completions(std::string_view text, int64_t offset) {
  const auto members = members_of(text);
  if (!members) {
    bad_lines_ += !text.empty();
    return;
  }
  const auto column = [&](const char* name) -> const Member* {
    for (const Member& member : *members)
      if (member.name == name) return &member;
    return nullptr;
  };
  const Member* const steps = column("step");
  if (!steps) {
    ++bad_lines_;
    return;
  }
  const auto items = items_of(steps->value);
  const int64_t step =
      std::strtoll(text_of(items.empty() ? steps->value : items.front()).c_str(), nullptr, 10);
  std::vector<int64_t> lengths;
  if (const Member* const ids = column("token_ids")) {
    for (const std::string_view item : items_of(ids->value))
      lengths.push_back(static_cast<int64_t>(count_items(item)));
  } else if (const Member* const texts = column("completion")) {
    // The quotation marks aside.
    counts_characters_ = true;
    for (const std::string_view item : items_of(texts->value))
      lengths.push_back(std::max<int64_t>(0, std::ssize(item) - 2));
  }
  lengths_.add(step, lengths);
  samples_.add(*members, step, offset, std::ssize(text));
  ++completions_version_;
}

std::string RunReader::status_json() const {
  Json status{{"step", step_}, {"max_steps", max_steps_}, {"bad_lines", bad_lines_}};
  for (const char* name : {"elapsed_time", "remaining_time"})
    if (last_.contains(name) && last_[name].is_string()) status[name] = last_[name];
  return dump_json(status);
}

std::string RunReader::changes_json(int64_t generation, int64_t row) const {
  const bool is_same = generation == curves_.generation();
  const size_t first = is_same ? static_cast<size_t>(std::max<int64_t>(0, row)) : 0;
  return "\"status\":" + status_json() + ",\"summary\":" + dump_json(summary_) +
         ",\"curves\":" + curves_.json(first) + ",\"evaluations\":" + evaluations_.json() +
         fmt::format(",\"completions_version\":{}", completions_version_);
}

std::string RunReader::settings_json() const { return dump_json(settings_of(args_)); }

std::string RunReader::completions_json() const {
  return fmt::format("\"length_unit\":\"{}\",\"lengths\":",
                     counts_characters_ ? "characters" : "tokens") +
         lengths_.json() + ",\"samples\":" + samples_.json(completions_.path());
}

std::string RunReader::json(const std::string& name) const {
  std::error_code ignored;
  const std::string path = fs::absolute(directory_, ignored).lexically_normal().string();
  return "{\"name\":" + dump_json(name) + ",\"path\":" + dump_json(path) +
         ",\"settings\":" + settings_json() + "," + changes_json(-1, 0) + "," + completions_json() +
         "}";
}

}  // namespace lockstep::report
