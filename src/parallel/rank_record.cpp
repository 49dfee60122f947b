// SPDX-License-Identifier: Apache-2.0
#include "parallel/rank_record.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <sstream>
#include <string_view>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/check.h"
#include "base/file.h"
#include "base/json.h"

namespace lockstep::parallel {
namespace {

Json json_of(const RecordedCall& call) {
  return {{"group", call.group}, {"sequence", call.sequence}, {"operation", call.operation},
          {"name", call.name},   {"bytes", call.bytes},       {"phase", call.phase},
          {"step", call.step},   {"begun", call.begun},       {"done", call.is_done}};
}

RecordedCall call_of(const Json& json) {
  return {.group = json.at("group"),
          .sequence = json.at("sequence"),
          .operation = json.at("operation"),
          .name = json.at("name"),
          .bytes = json.at("bytes"),
          .phase = json.at("phase"),
          .step = json.at("step"),
          .begun = json.at("begun"),
          .is_done = json.at("done")};
}

RankRecord read_record(const std::filesystem::path& file) {
  RankRecord record;
  std::istringstream lines(read_file(file));
  std::string line;
  for (int64_t number = 1; std::getline(lines, line); ++number) {
    const std::string where = fmt::format("{}:{}", file.string(), number);
    const Json json = parse_json(line, where, "bad-record");
    try {
      if (number > 1)
        record.calls.push_back(call_of(json));
      else
        record = {.rank = json.at("rank"),
                  .size = json.at("size"),
                  .phase = json.at("phase"),
                  .step = json.at("step"),
                  .written = json.at("written"),
                  .calls = {}};
    } catch (const Json::exception& error) {
      fail<FormatError>("bad-record", where, "expected a line of a rank's record, got: {}",
                        error.what());
    }
  }
  return record;
}

using Ranks = std::vector<int64_t>;

/// "rank 3", "ranks 0 1 2", the first eight of many.
std::string text_of(const Ranks& ranks) {
  constexpr size_t kMost = 8;
  return fmt::format("rank{} {}{}", ranks.size() == 1 ? "" : "s",
                     fmt::join(std::span(ranks).first(std::min(ranks.size(), kMost)), " "),
                     ranks.size() > kMost ? fmt::format(" … ({} in all)", ranks.size()) : "");
}

/// The calls of one group: by sequence, then by rank.
using GroupCalls = std::map<uint64_t, std::map<int64_t, const RecordedCall*>>;

struct Hang {
  const std::vector<RankRecord>& records;
  /// Ranks that have left no record.
  Ranks absent;

  /// What is wrong with a group; empty where nothing is.
  std::string fault_of(const GroupCalls& calls) const {
    for (const auto& [sequence, by_rank] : calls) {
      const std::string other = other_call_in(by_rank);
      if (!other.empty()) return other;
    }
    // A rank that has made no call of the group at all may be none of its members, but a rank that
    // the others wait for.
    std::map<int64_t, uint64_t> last;
    for (const auto& [sequence, by_rank] : calls)
      for (const auto& [rank, call] : by_rank) last[rank] = sequence;
    if (calls.begin()->second.begin()->second->group == "world")
      for (const RankRecord& record : records) last.try_emplace(record.rank, 0);
    const uint64_t least =
        std::ranges::min_element(last, {}, [](auto& entry) { return entry.second; })->second;
    // A rank without a record may have kept some of the others in a call that the rest has left.
    const auto common = calls.find(least);
    if (!absent.empty() && common != calls.end()) {
      const std::string text = unfinished_in(common->second);
      if (!text.empty()) return text;
    }
    const auto next = calls.upper_bound(least);
    return next == calls.end() ? unfinished_in(calls.rbegin()->second)
                               : missing_in(next->second, last);
  }

 private:
  static std::string other_call_in(const std::map<int64_t, const RecordedCall*>& by_rank) {
    std::map<std::string, Ranks> ranks;
    for (const auto& [rank, call] : by_rank) ranks[call->text()].push_back(rank);
    if (ranks.size() < 2) return {};
    // What rank 0, or the first that is known, has made is what was expected.
    const std::string first = by_rank.begin()->second->text();
    std::string text = fmt::format("{} made {}", text_of(ranks[first]), first);
    for (const auto& [what, who] : ranks)
      if (what != first) text += fmt::format(", where {} made {}", text_of(who), what);
    return text;
  }

  /// Some ranks have begun the call, others not.
  std::string missing_in(const std::map<int64_t, const RecordedCall*>& by_rank,
                         const std::map<int64_t, uint64_t>& last) const {
    Ranks missing, waiting;
    for (const auto& [rank, sequence] : last)
      if (sequence < by_rank.begin()->second->sequence) missing.push_back(rank);
    for (const auto& [rank, call] : by_rank)
      if (!call->is_done) waiting.push_back(rank);
    std::string text =
        fmt::format("{} never entered {}", text_of(missing), by_rank.begin()->second->text());
    if (!waiting.empty())
      text +=
          fmt::format(", which {} wait{} for", text_of(waiting), waiting.size() == 1 ? "s" : "");
    return text;
  }

  /// All ranks that are known have begun the call.
  std::string unfinished_in(const std::map<int64_t, const RecordedCall*>& by_rank) const {
    Ranks waiting;
    for (const auto& [rank, call] : by_rank)
      if (!call->is_done) waiting.push_back(rank);
    if (waiting.empty()) return {};
    const std::string call = by_rank.begin()->second->text();
    if (absent.empty())
      return fmt::format("all ranks entered {}, which {} {} not finished", call, text_of(waiting),
                         waiting.size() == 1 ? "has" : "have");
    return fmt::format("{} may not have entered {}, which {} wait{} for", text_of(absent), call,
                       text_of(waiting), waiting.size() == 1 ? "s" : "");
  }
};

/// Where a rank stood.
std::string place_of(const RankRecord& record) {
  std::string text = fmt::format("rank {}", record.rank);
  if (!record.phase.empty()) text += ", " + record.phase;
  if (!record.phase.empty() && record.step > 0) text += fmt::format(" of step {}", record.step);
  if (record.calls.empty()) return text + ": no call";
  const RecordedCall& last = record.calls.back();
  return text + fmt::format(": {} {}, begun {:.1f} s before the end", last.is_done ? "after" : "in",
                            last.text(), std::max(0.0, record.written - last.begun));
}

}  // namespace

void write_rank_record(const std::filesystem::path& folder,
                       int64_t rank,
                       int64_t size,
                       const Recorder& recorder) {
  using Seconds = std::chrono::duration<double>;
  const RankProgress progress = recorder.progress();
  std::string text = dump_json(
      Json{{"rank", rank},
           {"size", size},
           {"phase", progress.phase},
           {"step", progress.step},
           {"written", Seconds(std::chrono::system_clock::now().time_since_epoch()).count()}});
  for (const RecordedCall& call : recorder.calls()) text += "\n" + dump_json(json_of(call));
  std::filesystem::create_directories(folder);
  write_file(folder / fmt::format("rank-{}.jsonl", rank), text + "\n");
}

std::vector<RankRecord> read_rank_records(const std::filesystem::path& folder) {
  std::vector<RankRecord> records;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(folder, none)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("rank-") && name.ends_with(".jsonl"))
      records.push_back(read_record(entry.path()));
  }
  if (records.empty())
    fail<FormatError>("bad-record", folder.string(),
                      "expected the files rank-N.jsonl of a run that has ended early, got none");
  std::ranges::sort(records, {}, &RankRecord::rank);
  return records;
}

std::string explain_hang(const std::vector<RankRecord>& records) {
  std::map<std::string, GroupCalls> groups;
  Hang hang{records, {}};
  std::set<int64_t> known;
  int64_t size = 0;
  for (const RankRecord& record : records) {
    known.insert(record.rank);
    size = std::max(size, record.size);
    for (const RecordedCall& call : record.calls)
      groups[call.group][call.sequence][record.rank] = &call;
  }
  for (int64_t rank = 0; rank < size; ++rank)
    if (!known.contains(rank)) hang.absent.push_back(rank);

  std::string text;
  for (const auto& [group, calls] : groups) {
    const std::string fault = hang.fault_of(calls);
    if (!fault.empty()) text += fault + "\n";
  }
  if (text.empty()) text = "no call was under way\n";
  if (!hang.absent.empty())
    text += fmt::format(
        "{} left no record: killed, stopped, or on a host whose files are not "
        "here\n",
        text_of(hang.absent));
  for (const RankRecord& record : records) text += place_of(record) + "\n";
  return text;
}

}  // namespace lockstep::parallel
