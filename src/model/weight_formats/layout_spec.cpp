// SPDX-License-Identifier: Apache-2.0
#include "model/weight_formats/layout_spec.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <set>
#include <vector>

#include <fmt/ranges.h>

#include "base/check.h"

namespace lockstep::model {
namespace {

using std::string_view;

constexpr string_view kExperts[] = {"published", "grouped", "separate"};
constexpr string_view kPrefix[] = {"published", "flat", "nested"};
constexpr string_view kGate[] = {"head", "group"};
constexpr string_view kGdn[] = {"fused", "decoupled", "part", "hf"};
constexpr string_view kOutNorm[] = {"plain", "centred"};
constexpr string_view kState[] = {"preprocessed", "processed"};
constexpr string_view kVersion[] = {"older", "0.32"};
constexpr string_view kDtype[] = {"bfloat16", "float32"};

constexpr LayoutKey kTensorParallel{"tp", {}, "tensor-parallel ranks"};
constexpr LayoutKey kCheckpointKeys[] = {
    {"experts", kExperts, "one tensor for all experts of a layer, or three for each"},
    {"prefix", kPrefix, "names begin with model. or with model.language_model."},
};
constexpr LayoutKey kMegatronKeys[] = {
    kTensorParallel,
    {"pp", {}, "pipeline stages"},
    {"ep", {}, "expert-parallel ranks"},
    {"etp", {}, "tensor-parallel ranks of an expert"},
    {"gate", kGate,
     "output gates next to their query head (mcore-bridge), or behind the queries of a group "
     "(Megatron-core, Megatron-Bridge, slime)"},
    {"gdn", kGdn,
     "projections of the delta rule by key head in one tensor or two (mcore-bridge), by part and "
     "rank (Megatron-core), or replicated as published (slime)"},
    {"out_norm", kOutNorm,
     "the delta rule's norm as published (mcore-bridge) or less one (Megatron-Bridge)"},
};
constexpr LayoutKey kFsdpKeys[] = {{"world", {}, "ranks"}};
constexpr LayoutKey kVllmKeys[] = {
    kTensorParallel,
    {"ep", {}, "1, or all tp x dp ranks share out whole experts"},
    {"dp", {}, "data-parallel ranks; left out, ep / tp"},
    {"version", kVersion,
     "0.32: names and dtypes of the parameters of a vLLM 0.32 that runs "
     "(mlp.experts.routed_experts.w13_weight, A_log in float32); older: mlp.experts.w13_weight, "
     "and "
     "the dtypes of the checkpoint"},
    {"dtype", kDtype,
     "with version=0.32: the engine's --dtype, in which it keeps all but A_log; its auto is "
     "bfloat16"},
};
constexpr LayoutKey kAscendKeys[] = {
    kVllmKeys[0],
    kVllmKeys[1],
    kVllmKeys[2],
    {"state", kState, "before the post-load step, or after it: experts transposed"},
};
constexpr LayoutKey kLockstepKeys[] = {kTensorParallel, {"ep", {}, "expert-parallel ranks"}};

constexpr WeightFormatInfo kFormats[] = {
    {"checkpoint", "a Hugging Face checkpoint as published", kCheckpointKeys},
    {"hf-runtime", "the parameters of transformers 5", {}},
    {"megatron", "Megatron-core's model-parallel ranks", kMegatronKeys},
    {"fsdp2", "torch's FSDP2 shards of transformers' parameters", kFsdpKeys},
    {"vllm", "vLLM's parameters", kVllmKeys},
    {"vllm-ascend", "vLLM-Ascend's parameters", kAscendKeys},
    {"qwen3-next", "checkpoint names with Qwen3-Next's interleaved projections", kCheckpointKeys},
    {"lockstep", "Lockstep's own storages by tensor and expert parallelism", kLockstepKeys},
};

template <class Table>
std::vector<string_view> names_of(const Table& table) {
  std::vector<string_view> names;
  for (const auto& entry : table) names.push_back(entry.name);
  return names;
}

void check_value(const LayoutKey& key, const std::string& value, string_view where) {
  if (!key.choices.empty()) {
    if (std::find(key.choices.begin(), key.choices.end(), value) == key.choices.end())
      fail<ConfigError>("bad-layout", where, "expected {} to be one of {}, got {}", key.name,
                        fmt::join(key.choices, ", "), value);
    return;
  }
  int64_t number = 0;
  const auto parsed = std::from_chars(value.data(), value.data() + value.size(), number);
  if (parsed.ec != std::errc() || parsed.ptr != value.data() + value.size() || number < 1 ||
      number > kMostRanks)
    fail<ConfigError>("bad-layout", where, "expected {} to be a number from 1 to {}, got {}",
                      key.name, kMostRanks, value);
}

const WeightFormatInfo& format_of(string_view name, string_view where) {
  for (const WeightFormatInfo& format : kFormats)
    if (format.name == name) return format;
  fail<ConfigError>("bad-layout", where, "expected a format of {}, got {}",
                    fmt::join(names_of(kFormats), ", "), name);
}

}  // namespace

std::span<const WeightFormatInfo> known_weight_formats() { return kFormats; }

LayoutSpec LayoutSpec::parse(string_view text, string_view where) {
  LayoutSpec name;
  const size_t colon = text.find(':');
  name.format_ = std::string(text.substr(0, colon));
  const WeightFormatInfo& format = format_of(name.format_, where);
  std::set<std::string> given;
  // A pair of key and value follows each colon or comma.
  for (size_t separator = colon; separator != string_view::npos;) {
    const size_t begin = separator + 1;
    separator = text.find(',', begin);
    const string_view pair = text.substr(begin, separator - begin);
    const size_t equals = pair.find('=');
    if (equals == string_view::npos)
      fail<ConfigError>("bad-layout", where, "expected key=value, got \"{}\"", pair);
    const std::string key(pair.substr(0, equals)), value(pair.substr(equals + 1));
    const auto known = std::find_if(format.keys.begin(), format.keys.end(),
                                    [&](const LayoutKey& k) { return k.name == key; });
    if (known == format.keys.end()) {
      const auto keys = names_of(format.keys);
      fail<ConfigError>("bad-layout", where, "expected a key of {} ({}), got {}", format.name,
                        keys.empty() ? "it has none" : fmt::format("{}", fmt::join(keys, ", ")),
                        key);
    }
    if (!given.insert(key).second)
      fail<ConfigError>("bad-layout", where, "expected {} once, got it twice", key);
    check_value(*known, value, where);
    name.values_[key] = value;
  }
  for (const LayoutKey& key : format.keys) name.values_.emplace(key.name, name.default_of(key));
  if (name.num_ranks() > kMostRanks)
    fail<ConfigError>("bad-layout", where, "expected at most {} ranks, got {}", kMostRanks,
                      name.num_ranks());
  return name;
}

int64_t LayoutSpec::number(string_view key) const { return std::stoll(values_.find(key)->second); }

int64_t LayoutSpec::num_ranks() const {
  if (has_key("world")) return number("world");
  if (!has_key("tp")) return 1;
  const int64_t tp = number("tp"), ep = number("ep");
  if (format_ == "megatron") return std::lcm(tp, ep * number("etp")) * number("pp");
  if (format_ == "lockstep") return std::lcm(tp, ep);
  return tp * number("dp");
}

std::string LayoutSpec::default_of(const LayoutKey& key) const {
  if (!key.choices.empty()) return std::string(key.choices.front());
  if (key.name != "dp") return "1";
  return fmt::format("{}", std::max<int64_t>(1, number("ep") / number("tp")));
}

bool LayoutSpec::is_default(string_view key) const {
  const auto& keys = format_of(format_, format_).keys;
  const auto known =
      std::find_if(keys.begin(), keys.end(), [&](const LayoutKey& k) { return k.name == key; });
  return values_.find(key)->second == default_of(*known);
}

std::string LayoutSpec::text() const {
  std::string text = format_;
  for (const LayoutKey& key : format_of(format_, format_).keys)
    if (!is_default(key.name))
      text += fmt::format("{}{}={}", text == format_ ? ':' : ',', key.name,
                          values_.find(key.name)->second);
  return text;
}

}  // namespace lockstep::model
