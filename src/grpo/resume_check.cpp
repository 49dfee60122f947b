// SPDX-License-Identifier: Apache-2.0
#include "grpo/resume_check.h"

#include <algorithm>

#include "base/check.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/log.h"
#include "text/row_files.h"

namespace lockstep::grpo {
namespace {

/// The first digits of a digest, which are enough to tell two apart.
std::string content_text(const Json& digest) {
  if (digest.is_string()) return digest.get<std::string>().substr(0, 8);
  std::string text;
  if (digest.is_structured())
    for (const Json& part : digest) text += (text.empty() ? "" : " ") + content_text(part);
  return text.empty() ? "none" : text;
}

std::string change_text(std::string_view name, const std::string& before, const std::string& now) {
  return fmt::format("{} {} before and {} now", name, before, now);
}

std::string file_digest(const std::filesystem::path& path) {
  const MappedFile file(path);
  return digest_of(file.bytes().data(), file.bytes().size()).hex();
}

Json digest_rows(const std::vector<std::string>& names) {
  Json digests = Json::array();
  for (const std::string& name : names) {
    const text::DatasetName file = text::parse_dataset_name(name);
    std::string digest = file_digest(file.path);
    if (file.num_samples >= 0) digest += fmt::format("#{}", file.num_samples);
    digests.push_back(std::move(digest));
  }
  return digests;
}

}  // namespace

ResumeChanges compare_args(const ResumeRules& rules, const Json& saved, const Json& now) {
  ResumeChanges changes;
  const Json none = Json::object();
  const Json &digests_before = saved.contains("digests") ? saved["digests"] : none,
             &digests_now = now.contains("digests") ? now["digests"] : none;
  for (const auto& [key, rule] : rules) {
    if (rule == OnResume::kIgnored || !saved.contains(key) || !now.contains(key)) continue;
    const std::string before = dump_json(saved[key]), after = dump_json(now[key]);
    if (rule == OnResume::kByContent && digests_before.contains(key) && digests_now.contains(key)) {
      const Json &content_before = digests_before[key], &content_now = digests_now[key];
      if (content_before != content_now) {
        changes.refused.push_back(
            change_text(key, fmt::format("{} (content {})", before, content_text(content_before)),
                        fmt::format("{} (content {})", after, content_text(content_now))));
        continue;
      }
    }
    if (saved[key] == now[key]) continue;
    (rule == OnResume::kRefused ? changes.refused : changes.said)
        .push_back(change_text(key, before, after));
  }
  return changes;
}

Json saved_args(const ResumePoint& resume) {
  try {
    Json args = parse_json_file(resume.directory / "args.json");
    if (args.is_object()) return args;
  } catch (const Error&) {
    // It is said below.
  }
  log_warning(
      "{}: expected the options it was trained with in args.json, got none: they are not "
      "compared",
      resume.directory.string());
  return Json::object();
}

bool compare_plans(const ResumePoint& resume,
                   const std::string& command,
                   const Json& plan,
                   ResumeChanges& changes) {
  const std::string saved = resume.state.value("command", "");
  if (saved != command)
    fail<ConfigError>("bad-resume", resume.directory.string(),
                      "expected a checkpoint of {}, got one of {} (hint: to train on from its "
                      "weights name it by --model)",
                      command, saved.empty() ? "another version" : saved);
  const Json before = resume.state.value("plan", Json::object());
  bool is_same = true;
  for (const auto& [name, value] : plan.items()) {
    const Json was = before.value(name, value);
    if (was == value) continue;
    is_same = false;
    const bool is_told =
        std::any_of(changes.refused.begin(), changes.refused.end(),
                    [&](const std::string& text) { return text.starts_with(name + " "); });
    if (!is_told) changes.refused.push_back(change_text(name, dump_json(was), dump_json(value)));
  }
  return is_same;
}

Json digest_data(const DataOptions& options, const std::string& system) {
  return {{"dataset", digest_rows(options.dataset)},
          {"val_dataset", digest_rows(options.val_dataset)},
          {"system", system.empty() ? Json() : Json(digest_of(system).hex())}};
}

}  // namespace lockstep::grpo
