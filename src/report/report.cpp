// SPDX-License-Identifier: Apache-2.0
#include "report/report.h"

#include <algorithm>
#include <chrono>
#include <set>

#include "base/check.h"
#include "base/file.h"
#include "base/log.h"
#include "report/page_template.h"

namespace lockstep::report {
namespace {

namespace fs = std::filesystem;

/// How much of a run's time its report may take.
constexpr double kMostShare = 0.01;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// The last `count` parts of a path.
std::string last_parts(const fs::path& path, int count) {
  fs::path rest = path, name;
  for (int i = 0; i < count && rest.has_relative_path(); ++i) {
    name = name.empty() ? rest.filename() : rest.filename() / name;
    rest = rest.parent_path();
  }
  return name.empty() ? path.string() : name.string();
}

}  // namespace

std::vector<std::string> run_names(std::span<const fs::path> directories) {
  std::vector<fs::path> paths;
  for (const fs::path& directory : directories) {
    std::error_code ignored;
    fs::path path = fs::absolute(directory, ignored).lexically_normal();
    if (!path.has_filename()) path = path.parent_path();
    paths.push_back(std::move(path));
  }
  std::vector<std::string> names;
  constexpr int kMostParts = 8;
  for (int parts = 1; parts <= kMostParts; ++parts) {
    names.clear();
    for (const fs::path& path : paths) names.push_back(last_parts(path, parts));
    if (std::set(names.begin(), names.end()).size() == names.size()) break;
  }
  return names;
}

std::string page(std::string_view data) {
  // No "</script>" or "<!--" of a completion ends or opens anything: '<' stands in strings only,
  // where JSON knows another way to write it.
  std::string safe;
  safe.reserve(data.size() + data.size() / 16);
  for (const char c : data)
    if (c == '<')
      safe += "\\u003c";
    else
      safe += c;
  const std::string_view text = page_template();
  const size_t at = text.find(kDataMark);
  LOCKSTEP_CHECK(at != std::string_view::npos, "the page has no place for its data");
  std::string out(text.substr(0, at));
  out += safe;
  out += text.substr(at + std::string_view(kDataMark).size());
  return out;
}

std::string page_data(std::span<const RunReader> runs) {
  std::vector<fs::path> directories;
  for (const RunReader& run : runs) directories.push_back(run.directory());
  const auto names = run_names(directories);
  std::string out = "{\"version\":1,\"runs\":[";
  for (size_t i = 0; i < runs.size(); ++i) out += (i ? "," : "") + runs[i].json(names[i]);
  return out + "]}";
}

RunReport::RunReport(const fs::path& directory) : reader_(RunReader::growing(directory)) {}

void RunReport::update() {
  if (took_ > kMostShare * (now() - written_)) return;
  write();
}

void RunReport::write() {
  const double begun = now();
  try {
    reader_.read();
    write_file(reader_.directory() / kReportFile, page(page_data({&reader_, 1})));
  } catch (const std::exception& error) {
    log_warning("{} is not written: {}", kReportFile, error.what());
  }
  written_ = now();
  took_ = written_ - begun;
}

}  // namespace lockstep::report
