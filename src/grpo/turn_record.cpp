// SPDX-License-Identifier: Apache-2.0
#include "grpo/turn_record.h"

namespace lockstep::grpo {

Json json_of(const std::vector<TurnRecord>& records) {
  Json list = Json::array();
  for (const TurnRecord& record : records)
    list.push_back({{"prompt_messages", record.prompt_messages},
                    {"prompt", record.prompt},
                    {"messages", record.messages},
                    {"last_text", record.last_text},
                    {"turn_ids", record.turn_ids},
                    {"infos", record.infos},
                    {"reward", record.reward ? Json(*record.reward) : Json()},
                    {"num_turns", record.num_turns},
                    {"num_tool_calls", record.num_tool_calls},
                    {"num_tool_failures", record.num_tool_failures}});
  return list;
}

std::vector<TurnRecord> read_turn_records(const Json& list) {
  std::vector<TurnRecord> records;
  for (const Json& one : list) {
    TurnRecord& record = records.emplace_back();
    record.prompt_messages = one.at("prompt_messages");
    record.prompt = one.at("prompt");
    record.messages = one.at("messages");
    record.last_text = one.at("last_text");
    record.turn_ids = one.at("turn_ids").get<std::vector<std::vector<int64_t>>>();
    record.infos = one.at("infos");
    if (!one.at("reward").is_null()) record.reward = one.at("reward").get<double>();
    record.num_turns = one.at("num_turns");
    record.num_tool_calls = one.at("num_tool_calls");
    record.num_tool_failures = one.at("num_tool_failures");
  }
  return records;
}

void add_turn_metrics(const std::vector<TurnRecord>& records,
                      const std::string& prefix,
                      Metrics& metrics) {
  if (records.empty()) return;
  int64_t calls = 0, failures = 0;
  const auto count = static_cast<double>(records.size());
  for (const TurnRecord& record : records) {
    metrics.add(prefix + "num_turns", static_cast<double>(record.num_turns), 1 / count);
    calls += record.num_tool_calls;
    failures += record.num_tool_failures;
  }
  metrics.add(prefix + "tools/call_frequency", static_cast<double>(calls) / count);
  metrics.add(prefix + "tools/failure_frequency",
              calls ? static_cast<double>(failures) / static_cast<double>(calls) : 0);
}

}  // namespace lockstep::grpo
