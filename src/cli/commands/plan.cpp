// lockstep plan: what each of many ranks would have in memory and move over the network. It reads
// config.json alone and starts nothing.
// SPDX-License-Identifier: Apache-2.0
#include "train/plan.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

#include <fmt/ranges.h>

#include "base/check.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/flag_classes.h"
#include "grpo/tuner.h"
#include "parallel/slurm_lists.h"
#include "train/hf_checkpoint.h"
#include "train/rank_costs.h"

namespace lockstep::cli {
namespace {

using train::CostedParameter;
using train::RankBytes;
using train::Sharding;
using train::ShardPlan;

constexpr double kMostRanks = 4096;

struct PlanOptions {
  std::string model, hosts = "1";
  int64_t ranks = 1, expert_parallel_size = 1, sequence_parallel_size = 1;
  std::optional<Sharding> sharding;
  std::optional<int64_t> rank;
  bool json = false;
  // As lockstep grpo has them.
  grpo::TunerOptions tuner;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("model", model, "Directory with the model's config.json; no weights are read.");
    visit("ranks", ranks, "Processes that train together.", Range::between(1, kMostRanks));
    visit("hosts", hosts, "How many hosts they are on, or their names as Slurm lists them.");
    visit("sharding", sharding,
          "What ranks share out: none, optimizer (its states and gradients) or full (weights "
          "too); unset: all three beside one another.");
    visit("expert_parallel_size", expert_parallel_size,
          "Over how many ranks the experts of a layer are cut, and never gathered.",
          Range::between(1, kMostRanks));
    visit("sequence_parallel_size", sequence_parallel_size,
          "How many ranks share a sequence, by its heads.", Range::between(1, kMostRanks));
    visit("tuner_type", tuner.tuner_type, "lora trains adapters; full trains all weights.");
    visit("target_modules", tuner.target_modules,
          "Layers that are adapted, or all-linear (see lockstep grpo).");
    visit("target_parameters", tuner.target_parameters, "Experts' parameters that are adapted.");
    visit("exclude_modules", tuner.exclude_modules, "Layers that are not adapted.");
    visit("lora_experts", tuner.lora_experts, "all-linear adapts the routed experts as well.");
    visit("lora_rank", tuner.lora_rank, "Rank of the adapters.", Range::between(1, 65536));
    visit("rank_pattern", tuner.rank_pattern, "Ranks of some layers.");
    visit("rank", rank, "A rank whose elements of each parameter are listed.",
          Range::between(0, kMostRanks - 1));
    visit("json", json, "Prints one JSON object.");
  }
};

/// What is planned.
struct Planned {
  model::ModelConfig config;
  model::WeightDtype dtype;
  train::ParallelDegrees degrees;
  int64_t num_hosts = 1;
  std::vector<std::string> hosts;
  std::vector<model::Parameter> parameters;
  std::vector<CostedParameter> costed;
  std::optional<size_t> num_adapted;
  ShardPlan plan;
};

/// The number of hosts, and their names where they are said.
std::pair<int64_t, std::vector<std::string>> read_hosts(const std::string& text) {
  int64_t count = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error == std::errc() && rest == text.data() + text.size()) {
    if (count < 1)
      fail<ConfigError>("bad-flag", "--hosts", "expected at least 1 host, got {}", count);
    return {count, {}};
  }
  std::vector<std::string> names = parallel::expand_node_list("--hosts", text);
  return {std::ssize(names), std::move(names)};
}

Planned make_plan(const PlanOptions& options, std::optional<model::WeightDtype> dtype) {
  model::ModelConfig config = train::load_config(options.model);
  const train::ParallelDegrees degrees{options.ranks, options.expert_parallel_size,
                                       options.sequence_parallel_size};
  check_degrees(config, degrees);
  auto [num_hosts, hosts] = read_hosts(options.hosts);
  if (options.ranks % num_hosts != 0)
    fail<ConfigError>("bad-degree", "--hosts", "expected a divisor of the {} ranks, got {}",
                      options.ranks, num_hosts);
  if (options.rank && *options.rank >= options.ranks)
    fail<ConfigError>("bad-flag", "--rank", "expected a number below --ranks {}, got {}",
                      options.ranks, *options.rank);
  auto parameters = model::describe_parameters(config, model::published_form(config));
  std::optional<std::vector<train::AdaptedTarget>> adapter;
  if (options.tuner.tuner_type == grpo::TunerType::kLora) {
    const model::AdapterConfig said = grpo::adapter_config(options.tuner);
    adapter.emplace();
    for (model::AdapterTarget& target :
         grpo::adapted_targets(model::adapter_targets(parameters), options.tuner))
      adapter->push_back({target, said.rank_of(target.path)});
  }
  const model::WeightDtype used = dtype.value_or(config.dtype);
  auto costed = train::costed_parameters(config, parameters, used, adapter);
  std::vector<train::ShardItem> items;
  for (const CostedParameter& parameter : costed) items.push_back(parameter.item);
  ShardPlan plan(std::move(items),
                 {.ranks = degrees.ranks, .expert_parallel = degrees.expert_parallel});
  return {.config = std::move(config),
          .dtype = used,
          .degrees = degrees,
          .num_hosts = num_hosts,
          .hosts = std::move(hosts),
          .parameters = std::move(parameters),
          .costed = std::move(costed),
          .num_adapted = adapter ? std::optional(adapter->size()) : std::nullopt,
          .plan = std::move(plan)};
}

/// The costs of the rank that has most, and of the one that receives most.
struct Worst {
  RankBytes memory, network;
};
Worst worst_rank(const Planned& planned, Sharding sharding) {
  const train::RankCosts costs(planned.costed, planned.plan, sharding,
                               planned.degrees.ranks / planned.num_hosts);
  Worst worst;
  for (int64_t rank = 0; rank < planned.degrees.ranks; ++rank) {
    const RankBytes bytes = costs.of(rank);
    if (bytes.memory() > worst.memory.memory()) worst.memory = bytes;
    if (bytes.step() > worst.network.step()) worst.network = bytes;
  }
  return worst;
}

/// Elements of all parameters, and of the trained ones.
std::pair<int64_t, int64_t> count_elements(const Planned& planned) {
  int64_t all = 0, trained = 0;
  for (const CostedParameter& parameter : planned.costed) {
    all += parameter.item.elements;
    if (parameter.is_trained) trained += parameter.item.elements;
  }
  return {all, trained};
}

/// An amount of bytes as text, in decimal units: "1.55 GB".
std::string bytes_text(double bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  size_t unit = 0;
  // Where rounding would show 1000 of a unit, the next one is meant.
  for (; bytes >= 999.5 && unit + 1 < std::size(kUnits); ++unit) bytes /= 1000;
  if (bytes == 0) return "0";
  return fmt::format("{:.{}f} {}", bytes,
                     unit == 0 || bytes >= 100 ? 0
                     : bytes >= 10             ? 1
                                               : 2,
                     kUnits[unit]);
}
std::string bytes_text(int64_t bytes) { return bytes_text(static_cast<double>(bytes)); }

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

std::vector<Sharding> levels_of(const PlanOptions& options) {
  if (options.sharding) return {*options.sharding};
  return {Sharding::kNone, Sharding::kOptimizer, Sharding::kFull};
}

void print_subject(const PlanOptions& options, const Planned& planned) {
  const auto [all, trained] = count_elements(planned);
  const model::ModelConfig& config = planned.config;
  const auto billions = [](int64_t count) {
    return count < 1'000'000'000 ? fmt::format("{:.1f} million", double(count) / 1e6)
                                 : fmt::format("{:.2f} billion", double(count) / 1e9);
  };
  print(fmt::format("model        {}: {}, {} layers{}, {} parameters in {}\n", options.model,
                    enum_name(config.family), config.num_hidden_layers,
                    config.num_experts ? fmt::format(" of {} experts", config.num_experts) : "",
                    billions(all - (planned.num_adapted ? trained : 0)), enum_name(planned.dtype)));
  print(fmt::format("trained      {}\n",
                    planned.num_adapted ? fmt::format("adapters beside {} matrices, {} parameters",
                                                      *planned.num_adapted, billions(trained))
                                        : std::string("all weights")));
  std::string names;
  if (!planned.hosts.empty())
    names = fmt::format(
        " ({}{})",
        fmt::join(std::span(planned.hosts).first(std::min<size_t>(8, planned.hosts.size())), ", "),
        planned.hosts.size() > 8 ? ", …" : "");
  std::string shared;
  if (planned.degrees.expert_parallel > 1)
    shared += fmt::format("; {} share the experts of a layer", planned.degrees.expert_parallel);
  if (planned.degrees.sequence_parallel > 1)
    shared += fmt::format("; {} share a sequence", planned.degrees.sequence_parallel);
  print(fmt::format("ranks        {} on {} {}{}{}\n", planned.degrees.ranks, planned.num_hosts,
                    planned.num_hosts == 1 ? "host" : "hosts", names, shared));
}

/// A row of the table: a name, and a number of each rank that is shown.
struct Row {
  const char* name;
  std::function<int64_t(const Worst&)> value;
};

void print_rows(const std::string& title,
                const std::vector<Row>& rows,
                const std::vector<Sharding>& levels,
                const std::vector<Worst>& worst) {
  constexpr int kNameWidth = 44, kWidth = 12;
  std::string line = fmt::format("\n{:<{}}", title, kNameWidth);
  for (const Sharding level : levels) line += fmt::format("{:>{}}", enum_name(level), kWidth);
  print(line + "\n");
  for (const Row& row : rows) {
    line = fmt::format("{:<{}}", row.name, kNameWidth);
    for (const Worst& each : worst)
      line += fmt::format("{:>{}}", bytes_text(row.value(each)), kWidth);
    print(line + "\n");
  }
}

void print_costs(const Planned& planned, const std::vector<Sharding>& levels) {
  std::vector<Worst> worst;
  for (const Sharding level : levels) worst.push_back(worst_rank(planned, level));
  print_rows("memory of a rank, by --sharding",
             {{"weights", [](const Worst& w) { return w.memory.weights; }},
              {"float32 masters", [](const Worst& w) { return w.memory.masters; }},
              {"moments", [](const Worst& w) { return w.memory.moments; }},
              {"summed gradients", [](const Worst& w) { return w.memory.gradients; }},
              {"a gathered layer, and as much in transit",
               [](const Worst& w) { return w.memory.gathered_units; }},
              {"gradients of one whole layer, or the head",
               [](const Worst& w) { return w.memory.unit_gradients; }},
              {"in all", [](const Worst& w) { return w.memory.memory(); }}},
             levels, worst);
  print_rows(
      "received by a rank",
      {{"weights, in each pass through the model",
        [](const Worst& w) { return w.network.gather_pass; }},
       {"gradients, once a step", [](const Worst& w) { return w.network.exchange; }},
       {"what others have updated", [](const Worst& w) { return w.network.update; }},
       {"a step of one forward and one backward", [](const Worst& w) { return w.network.step(); }},
       {"  of it from other hosts", [](const Worst& w) { return w.network.step_from_hosts; }}},
      levels, worst);
}

void print_notes(const Planned& planned) {
  const train::TokenBytes token = token_bytes(planned.config, planned.dtype, planned.degrees);
  print("\n");
  if (token.expert_rows > 0)
    print(
        fmt::format("Each token's rows go to experts on other ranks and back: {} in a forward "
                    "pass, as many in a backward.\n",
                    bytes_text(token.expert_rows)));
  if (token.heads > 0)
    print(
        fmt::format("Each token's heads change ranks: {} in a forward pass, as many in a "
                    "backward.\n",
                    bytes_text(token.heads)));
  print(
      "Numbers are those of the rank that has most. Activations, caches and packed weights come "
      "on\n"
      "top; each scoring of completions is one more pass. While a rank samples its layers are "
      "whole");
  print(planned.degrees.expert_parallel > 1 ? ",\nbut for the experts of others.\n" : ".\n");
  if (train::kNumSlots % planned.degrees.data_parallel() != 0)
    print(
        fmt::format("grpo and sft sum gradients in {} slots, which 1, 2, 4 or 8 ranks with "
                    "sequences of their own share: this run would need more.\n",
                    train::kNumSlots));
}

Json ranges_json(const Planned& planned, int64_t rank) {
  Json list = Json::array();
  for (size_t i = 0; i < planned.costed.size(); ++i) {
    const parallel::ElementRange own = planned.plan.owned(i, rank);
    Json tensors = Json::array();
    // Behind the model's parameters are those of the adapter, whose tensors they are themselves.
    if (i < planned.parameters.size())
      for (const train::TensorRange& range : train::checkpoint_ranges(planned.parameters[i], own))
        tensors.push_back(
            {{"name", range.name}, {"first", range.elements.first}, {"last", range.elements.last}});
    list.push_back({{"parameter", planned.costed[i].item.id},
                    {"elements", planned.costed[i].item.elements},
                    {"first", own.first},
                    {"last", own.last},
                    {"tensors", tensors}});
  }
  return list;
}

void print_ranges(const Planned& planned, int64_t rank) {
  print(fmt::format("\nelements of rank {}\n", rank));
  for (const Json& each : ranges_json(planned, rank)) {
    const auto first = each["first"].get<int64_t>(), last = each["last"].get<int64_t>();
    if (first < last)
      print(fmt::format("  {:<52} {:>15} - {:<15} of {}\n", each["parameter"].get<std::string>(),
                        first, last - 1, each["elements"].get<int64_t>()));
  }
}

Json json_of(const RankBytes& memory, const RankBytes& network) {
  return {{"memory",
           {{"weights", memory.weights},
            {"masters", memory.masters},
            {"moments", memory.moments},
            {"gradients", memory.gradients},
            {"gathered_units", memory.gathered_units},
            {"unit_gradients", memory.unit_gradients},
            {"all", memory.memory()}}},
          {"received",
           {{"gather_pass", network.gather_pass},
            {"exchange", network.exchange},
            {"update", network.update},
            {"step", network.step()},
            {"step_from_hosts", network.step_from_hosts}}}};
}

void print_json(const PlanOptions& options, const Planned& planned) {
  const auto [all, trained] = count_elements(planned);
  const train::TokenBytes token = token_bytes(planned.config, planned.dtype, planned.degrees);
  Json sharding = Json::object();
  for (const Sharding level : levels_of(options)) {
    const Worst worst = worst_rank(planned, level);
    sharding[std::string(enum_name(level))] = json_of(worst.memory, worst.network);
  }
  Json json{{"model", options.model},
            {"family", enum_name(planned.config.family)},
            {"dtype", enum_name(planned.dtype)},
            {"parameters", all},
            {"trained", trained},
            {"ranks", planned.degrees.ranks},
            {"hosts", planned.num_hosts},
            {"host_names", planned.hosts},
            {"expert_parallel_size", planned.degrees.expert_parallel},
            {"sequence_parallel_size", planned.degrees.sequence_parallel},
            {"block_elements", parallel::kBlockElements},
            {"digest", planned.plan.digest().hex()},
            {"sharding", sharding},
            {"token", {{"expert_rows", token.expert_rows}, {"heads", token.heads}}}};
  if (options.rank) json["ranges"] = ranges_json(planned, *options.rank);
  print(dump_json_pretty(json));
}

}  // namespace

void run_plan(CommandContext& context, std::span<const std::string> arguments) {
  PlanOptions options;
  FlagSet flags("plan", "Says what each of many ranks would have in memory and receive.");
  flags.add_group("plan", options);
  flags.use_classes(plan_flag_classes());
  flags.require("model");
  flags.require("ranks");
  if (!begin_command(context, flags, arguments)) return;
  context.reads("--model", options.model);
  const Planned planned = make_plan(options, context.common.torch_dtype);
  context.phase.start();
  if (options.json) return print_json(options, planned);
  print_subject(options, planned);
  print_costs(planned, levels_of(options));
  print_notes(planned);
  if (options.rank) print_ranges(planned, *options.rank);
}

}  // namespace lockstep::cli
