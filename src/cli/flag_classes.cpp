// Applies the tables of foreign flags, and the few flags whose meaning depends on their value.
// SPDX-License-Identifier: Apache-2.0
#include "cli/flag_classes.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "base/check.h"
#include "base/json.h"
#include "cli/flag_tables.h"
#include "cli/framework_file.h"

namespace lockstep::cli {
namespace {

bool matches(std::string_view pattern, std::string_view name) {
  if (pattern.ends_with('*')) return name.starts_with(pattern.substr(0, pattern.size() - 1));
  if (pattern.starts_with('*')) return name.ends_with(pattern.substr(1));
  return name == pattern;
}

std::string lower(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

/// The values as one text; a bare flag on the command line means true.
std::string text_of(const Assignment& assignment) {
  if (assignment.values.empty()) return assignment.where.starts_with("--") ? "true" : "[]";
  return fmt::format("{}", fmt::join(assignment.values, " "));
}

/// A text shortened for a message.
std::string brief(const std::string& text) {
  constexpr size_t kLongest = 80;
  return text.size() <= kLongest ? text : fmt::format("{}…", text.substr(0, kLongest));
}

std::optional<double> number_of(std::string_view text) {
  double value = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || rest != text.data() + text.size()) return std::nullopt;
  return value;
}

bool same_value(std::string_view a, std::string_view b) {
  if (a == b) return true;
  const std::optional<double> x = number_of(a), y = number_of(b);
  return x && y && *x == *y;
}

bool is_silent(const FlagRule& rule, const Assignment& assignment) {
  if (assignment.is_null) return true;
  std::string text = lower(text_of(assignment));
  if (text == "null") text = "none";
  std::string_view rest = rule.silent;
  while (!rest.empty()) {
    const size_t bar = rest.find('|');
    if (same_value(lower(std::string(rest.substr(0, bar))), text)) return true;
    rest = bar == std::string_view::npos ? std::string_view() : rest.substr(bar + 1);
  }
  return false;
}

/// Turns the assignments of one command line into those of registered flags.
class Translator {
 public:
  Translator(const FlagClasses& classes,
             const IsRegistered& is_registered,
             const std::vector<Assignment>& assignments,
             ClassNotes& notes)
      : classes_(classes),
        is_registered_(is_registered),
        assignments_(assignments),
        notes_(notes) {}

  std::vector<Assignment> run() {
    for (const Assignment& assignment : assignments_) translate(assignment);
    return std::move(result_);
  }

 private:
  using Handler = void (Translator::*)(const Assignment&);
  struct Special {
    std::string_view name;
    Handler handler;
  };
  static const std::array<Special, 21> kSpecials;

  void translate(const Assignment& assignment) {
    const FlagRule* const rule = find_rule(classes_, assignment.name);
    if (!rule || assignment.is_null) {
      if (!rule || is_registered_(assignment.name)) result_.push_back(assignment);
      return;
    }
    for (const Special& special : kSpecials)
      if (matches(special.name, assignment.name)) return (this->*special.handler)(assignment);
    apply(*rule, assignment);
  }

  void apply(const FlagRule& rule, const Assignment& assignment) {
    if (is_registered_(assignment.name)) return result_.push_back(assignment);
    if (!rule.target.empty()) return rename(rule, assignment);
    if (is_silent(rule, assignment)) return;
    if (!rule.feature.empty())
      refuse(rule, assignment, fmt::format("{} is not built yet", rule.feature));
    switch (rule.flag_class) {
      case FlagClass::kMapped:
        return note("{} {} {}", assignment.where, brief(text_of(assignment)), rule.reason);
      case FlagClass::kAccepted:
        return accept(assignment, rule.reason);
      case FlagClass::kUsed:
      case FlagClass::kRefused:
        refuse(rule, assignment, std::string(rule.reason));
    }
  }

  void rename(const FlagRule& rule, const Assignment& assignment) {
    Assignment ours = assignment;
    ours.name = rule.target;
    if (!is_registered_(ours.name)) {
      const FlagRule* const target = find_rule(classes_, ours.name);
      LOCKSTEP_CHECK(target, "{} is mapped to {}, which is in no class", rule.name, rule.target);
      return apply(*target, ours);
    }
    if (lower(text_of(ours)) == "none") return;
    note("{} is read as --{}{}{}", assignment.where, ours.name, rule.reason.empty() ? "" : ": ",
         rule.reason);
    result_.push_back(std::move(ours));
  }

  void accept(const Assignment& assignment, std::string_view reason) {
    note("{} {} has no effect: {}", assignment.where, brief(text_of(assignment)), reason);
    notes_.accepted.push_back(assignment);
  }

  [[noreturn]] void refuse(const FlagRule& rule,
                           const Assignment& assignment,
                           const std::string& reason) const {
    std::string legal(rule.silent);
    for (size_t at = 0; (at = legal.find('|', at)) != std::string::npos;)
      legal.replace(at, 1, " or ");
    fail<ConfigError>("refused-flag", assignment.where, "expected {}, got '{}' ({})",
                      legal.empty() ? "no such flag" : legal, brief(text_of(assignment)), reason);
  }

  template <class... Args>
  void note(fmt::format_string<Args...> format, Args&&... args) {
    std::string text = fmt::format(format, std::forward<Args>(args)...);
    if (std::find(notes_.notices.begin(), notes_.notices.end(), text) == notes_.notices.end())
      notes_.notices.push_back(std::move(text));
  }

  /// The last value given for a flag of ours, under its own name or an alias.
  std::optional<std::string> value_of(std::string_view name) const {
    for (auto it = assignments_.rbegin(); it != assignments_.rend(); ++it) {
      const FlagRule* const rule = find_rule(classes_, it->name);
      if (!it->is_null && (it->name == name || (rule && rule->target == name))) return text_of(*it);
    }
    return std::nullopt;
  }

  void set_ours(const Assignment& from, std::string_view name, std::string value) {
    Assignment ours{.name = std::string(name), .values = {std::move(value)}, .where = from.where};
    note("{} {} is read as --{} {}", from.where, brief(text_of(from)), name, ours.values[0]);
    translate(ours);
  }

  /// The last assignment of a flag under this very name.
  const Assignment* given(std::string_view name) const {
    const auto found =
        std::find_if(assignments_.rbegin(), assignments_.rend(),
                     [&](const auto& one) { return one.name == name && !one.is_null; });
    return found == assignments_.rend() ? nullptr : &*found;
  }

  /// Hosts, with a port each or one for all, are URLs of servers.
  void read_server_hosts(const Assignment& assignment) {
    const FlagRule& rule = *find_rule(classes_, assignment.name);
    if (is_silent(rule, assignment)) return;
    constexpr const char* kDefaultPort = "8000";
    const Assignment* const ports = given("vllm_server_port");
    const size_t hosts = assignment.values.size(), count = ports ? ports->values.size() : 1;
    if (count != 1 && count != hosts)
      fail<ConfigError>("bad-flag", ports->where, "expected a port for each of {} hosts, got {}",
                        hosts, count);
    Assignment ours{.name = "rollout_server", .values = {}, .where = assignment.where};
    for (size_t i = 0; i < hosts; ++i)
      ours.values.push_back(fmt::format("http://{}:{}", assignment.values[i],
                                        ports ? ports->values[count == 1 ? 0 : i] : kDefaultPort));
    note("{} is read as --{} {}", assignment.where, ours.name, text_of(ours));
    translate(ours);
  }

  /// It belongs to --vllm_server_host.
  void read_server_ports(const Assignment& assignment) {
    if (!given("vllm_server_host")) apply(*find_rule(classes_, assignment.name), assignment);
  }

  void read_report(const Assignment& assignment) {
    Assignment ours = assignment;
    ours.values.clear();
    for (const std::string& value : assignment.values) {
      const bool is_service =
          value == "wandb" || value == "swanlab" || value == "mlflow" || value == "trackio";
      if (is_service)
        note(
            "{} {}: the run itself sends nothing; while it goes on or later, python3 "
            "share/lockstep/tracking/lockstep_track.py OUTPUT_DIR --to {} sends what it logs "
            "(share/ "
            "lies beside the program's bin/)",
            assignment.where, value, value);
      const std::string report = is_service ? "tensorboard" : value;
      if (std::find(ours.values.begin(), ours.values.end(), report) == ours.values.end())
        ours.values.push_back(report);
    }
    apply(*find_rule(classes_, assignment.name), ours);
  }

  void read_bf16(const Assignment& assignment) {
    if (is_silent(*find_rule(classes_, assignment.name), assignment)) return;
    set_ours(assignment, "torch_dtype", "bfloat16");
  }

  /// transformers' "auto" is the checkpoint's own precision, as an unset flag is.
  void read_dtype(const Assignment& assignment) {
    if (lower(text_of(assignment)) == "auto") return;
    apply(*find_rule(classes_, assignment.name), assignment);
  }

  /// Maps transformers' levels, of which "passive" is the default.
  void read_log_level(const Assignment& assignment) {
    const std::string text = lower(text_of(assignment));
    if (text == "passive") return;
    if (text == "detail") return set_ours(assignment, "log_level", "debug");
    if (text == "critical") return set_ours(assignment, "log_level", "error");
    apply(*find_rule(classes_, assignment.name), assignment);
  }

  /// transformers 5 also accepts a share of all steps here.
  void read_warmup(const Assignment& assignment) {
    const std::string text = text_of(assignment);
    const std::optional<double> value = number_of(text);
    if (value && *value > 0 && *value < 1) return set_ours(assignment, "warmup_ratio", text);
    apply(*find_rule(classes_, assignment.name), assignment);
  }

  /// Older versions of TRL say true and false for group and none.
  void read_scale(const Assignment& assignment) {
    const std::string text = lower(text_of(assignment));
    if (text == "true" || text == "false")
      return set_ours(assignment, "scale_rewards", text == "true" ? "group" : "none");
    apply(*find_rule(classes_, assignment.name), assignment);
  }

  void read_peft(const Assignment& assignment) {
    const std::string text = lower(text_of(assignment));
    if (text != "true" && text != "false")
      fail<ConfigError>("bad-flag", assignment.where, "expected true or false, got '{}'", text);
    set_ours(assignment, "tuner_type", text == "true" ? "lora" : "full");
  }

  void read_template_options(const Assignment& assignment) {
    if (is_silent(*find_rule(classes_, assignment.name), assignment)) return;
    const Json options = parse_json(text_of(assignment), assignment.where, "bad-flag");
    if (!options.is_object())
      fail<ConfigError>("bad-flag", assignment.where, "expected a JSON object, got '{}'",
                        brief(text_of(assignment)));
    for (const auto& [key, value] : options.items()) {
      if (key != "enable_thinking" || !value.is_boolean())
        fail<ConfigError>("refused-flag", assignment.where,
                          "expected enable_thinking alone, got {} (say others in the rows' "
                          "chat_template_kwargs)",
                          key);
      set_ours(assignment, key, value.get<bool>() ? "true" : "false");
    }
  }

  void read_aggregation(const Assignment& assignment) {
    const std::string text = text_of(assignment);
    if (text == "sum_then_normalize") return;
    if (text != "normalize_then_sum")
      fail<ConfigError>("bad-flag", assignment.where,
                        "expected sum_then_normalize or normalize_then_sum, got '{}'", text);
    set_ours(assignment, "advantage_estimator", "gdpo");
  }

  /// TRL counts the turns that call tools, the last one is behind them.
  void read_tool_iterations(const Assignment& assignment) {
    if (is_silent(*find_rule(classes_, assignment.name), assignment)) return;
    set_ours(assignment, "max_turns",
             fmt::format("{}", count_of(text_of(assignment), assignment) + 1));
  }

  void read_recompute(const Assignment& assignment) {
    const std::string text = text_of(assignment);
    if (text == "selective") return;
    if (text != "full" && text != "none")
      fail<ConfigError>("bad-flag", assignment.where,
                        "expected one of full, selective, none, got '{}'", text);
    set_ours(assignment, "gradient_checkpointing", text == "full" ? "true" : "false");
  }

  int64_t count_of(const std::string& text, const Assignment& assignment) const {
    const std::optional<double> value = number_of(text);
    if (!value || *value < 1 || *value > 1e9 ||
        *value != static_cast<double>(static_cast<int64_t>(*value)))
      fail<ConfigError>("bad-flag", assignment.where, "expected a whole number >= 1, got '{}'",
                        text);
    return static_cast<int64_t>(*value);
  }

  /// The micro-steps of Megatron's --global_batch_size.
  int64_t accumulation_of(const Assignment& global_batch) const {
    const int64_t global = count_of(text_of(global_batch), global_batch);
    const std::optional<std::string> given = value_of("per_device_train_batch_size");
    const int64_t batch = given ? count_of(*given, global_batch) : 1;
    if (global % batch != 0)
      fail<ConfigError>("bad-flag", global_batch.where,
                        "expected a multiple of per_device_train_batch_size {}, got {}", batch,
                        global);
    return global / batch;
  }

  void read_global_batch(const Assignment& assignment) {
    const int64_t accumulation = accumulation_of(assignment);
    if (!value_of("per_device_train_batch_size"))
      set_ours(assignment, "per_device_train_batch_size", "1");
    set_ours(assignment, "gradient_accumulation_steps", fmt::format("{}", accumulation));
  }

  /// Beside --global_batch_size it counts global batches, as Megatron's trainer does. Source:
  /// ms-swift 4.6.0, swift/megatron/arguments/megatron_args.py, resolve_generation_batch_size.
  void read_generation_steps(const Assignment& assignment) {
    const FlagRule& rule = *find_rule(classes_, assignment.name);
    const Assignment* const global_batch = given("global_batch_size");
    if (!global_batch || is_silent(rule, assignment)) return apply(rule, assignment);
    const int64_t steps = count_of(text_of(assignment), assignment),
                  accumulation = accumulation_of(*global_batch);
    Assignment ours = assignment;
    ours.values = {fmt::format("{}", steps * accumulation)};
    note("{} {} counts global batches beside --global_batch_size: {} micro-steps", assignment.where,
         steps, ours.values[0]);
    apply(rule, ours);
  }

  void read_decay_iters(const Assignment& assignment) {
    if (value_of("max_steps") == text_of(assignment)) return;
    apply(*find_rule(classes_, assignment.name), assignment);
  }

  void read_framework(const Assignment& assignment) {
    const FlagRule& rule = *find_rule(classes_, assignment.name);
    if (is_silent(rule, assignment)) return;
    const std::string others = check_framework_config(
        assignment, [this](std::string_view name) { return value_of(name); });
    std::error_code ignored;
    if (const std::string text = text_of(assignment);
        text.size() < 4096 && std::filesystem::is_regular_file(text, ignored))
      notes_.inputs.push_back({assignment.where, text});
    note("{} {} {}{}", assignment.where, brief(text_of(assignment)), rule.reason,
         others.empty() ? "" : "; without effect in it: " + others);
  }

  void read_engine_options(const Assignment& assignment) {
    const FlagRule& rule = *find_rule(classes_, assignment.name);
    if (is_silent(rule, assignment)) return;
    constexpr std::string_view kChangesModel[] = {"hf_overrides",
                                                  "rope_scaling",
                                                  "rope_theta",
                                                  "model",
                                                  "tokenizer",
                                                  "revision",
                                                  "logits_processors",
                                                  "generation_config",
                                                  "override_generation_config"};
    const Json options = parse_json(text_of(assignment), assignment.where, "bad-flag");
    std::vector<std::string> keys;
    for (const auto& [key, value] : options.items()) {
      if (std::find(std::begin(kChangesModel), std::end(kChangesModel), key) !=
          std::end(kChangesModel))
        fail<ConfigError>("refused-flag", assignment.where,
                          "expected options that leave the model as it is, got {} (change the "
                          "checkpoint's config.json)",
                          key);
      keys.push_back(key);
    }
    note("{} has no effect: {} ({})", assignment.where, rule.reason, fmt::join(keys, ", "));
  }

  const FlagClasses& classes_;
  const IsRegistered& is_registered_;
  const std::vector<Assignment>& assignments_;
  ClassNotes& notes_;
  std::vector<Assignment> result_;
};

const std::array<Translator::Special, 21> Translator::kSpecials = {{
    {"dtype", &Translator::read_dtype},
    {"torch_dtype", &Translator::read_dtype},
    {"log_level", &Translator::read_log_level},
    {"warmup_steps", &Translator::read_warmup},
    {"scale_rewards", &Translator::read_scale},
    {"multi_objective_aggregation", &Translator::read_aggregation},
    {"use_peft", &Translator::read_peft},
    {"max_tool_calling_iterations", &Translator::read_tool_iterations},
    {"chat_template_kwargs", &Translator::read_template_options},
    {"report_to", &Translator::read_report},
    {"bf16", &Translator::read_bf16},
    {"recompute_granularity", &Translator::read_recompute},
    {"global_batch_size", &Translator::read_global_batch},
    {"steps_per_generation", &Translator::read_generation_steps},
    {"lr_decay_iters", &Translator::read_decay_iters},
    {"deepspeed", &Translator::read_framework},
    {"teacher_deepspeed", &Translator::read_framework},
    {"fsdp", &Translator::read_framework},
    {"vllm_engine_kwargs", &Translator::read_engine_options},
    {"vllm_server_host", &Translator::read_server_hosts},
    {"vllm_server_port", &Translator::read_server_ports},
}};

/// "qwen3_5" of "qwen3_5_moe_text", "qwen3" of "qwen3_thinking"; another family's name as it is.
std::string family_of(std::string_view name) {
  for (const std::string_view other : {"qwen3_next", "qwen3_vl", "qwen3_omni", "qwen3_coder"})
    if (name.starts_with(other)) return std::string(other);
  for (const std::string_view family : {"qwen3_5", "qwen3"})
    if (name.starts_with(family)) return std::string(family);
  return std::string(name);
}

}  // namespace

const FlagClasses& grpo_flag_classes() {
  static const FlagClasses classes{{algorithm_rules(), rollout_rules(), training_rules(),
                                    trainer_rules(), other_algorithm_rules(), framework_rules()}};
  return classes;
}

const FlagClasses& sft_flag_classes() {
  static const FlagClasses classes{
      {supervised_rules(), training_rules(), trainer_rules(), framework_rules()}};
  return classes;
}

const FlagClasses& rollout_flag_classes() {
  static const FlagClasses classes{{server_rules()}};
  return classes;
}

const FlagClasses& model_flag_classes() {
  static const FlagClasses classes{{model_rules()}};
  return classes;
}

const FlagClasses& plan_flag_classes() {
  static const FlagClasses classes{{degree_rules()}};
  return classes;
}

const FlagRule* find_rule(const FlagClasses& classes, std::string_view name) {
  // A rule with exactly that name comes before a pattern, whatever table it is in.
  for (const bool exact : {true, false})
    for (const std::span<const FlagRule> table : classes.tables)
      for (const FlagRule& rule : table)
        if (exact ? rule.name == name : matches(rule.name, name)) return &rule;
  return nullptr;
}

std::vector<Assignment> apply_flag_classes(const FlagClasses& classes,
                                           const IsRegistered& is_registered,
                                           const std::vector<Assignment>& assignments,
                                           ClassNotes& notes) {
  return Translator(classes, is_registered, assignments, notes).run();
}

void check_declared_family(const std::vector<Assignment>& accepted, std::string_view model_type) {
  for (const Assignment& assignment : accepted) {
    if (assignment.name != "model_type" && assignment.name != "template") continue;
    const std::string declared = lower(text_of(assignment));
    const bool says_moe = declared.find("moe") != std::string::npos;
    const bool is_moe = model_type.find("moe") != std::string_view::npos;
    if (family_of(declared) != family_of(model_type) ||
        (assignment.name == "model_type" && says_moe != is_moe))
      fail<ConfigError>("refused-flag", assignment.where,
                        "expected the family of config.json, {}, got '{}'", model_type, declared);
  }
}

void check_unserved_degrees(const std::vector<Assignment>& accepted,
                            const IsRegistered& is_registered) {
  for (const Assignment& assignment : accepted) {
    // The degrees that lockstep plan refuses.
    const FlagRule* const rule = find_rule(plan_flag_classes(), assignment.name);
    if (!rule || rule->flag_class != FlagClass::kRefused) continue;
    const bool is_pipeline = assignment.name.find("pipeline") != std::string::npos;
    std::string instead = is_pipeline ? "stages would wait for one another"
                                      : "sums over parts of a row would depend on the number of "
                                        "ranks";
    instead += "; --sharding full cuts the weights over all ranks, a layer at a time";
    if (is_registered("expert_parallel_size")) instead += "; --expert_parallel_size the experts";
    if (is_registered("sequence_parallel_size"))
      instead += "; --sequence_parallel_size long sequences";
    fail<ConfigError>("refused-flag", assignment.where,
                      "expected 1 in a run of several processes, got '{}' ({})",
                      brief(text_of(assignment)), instead);
  }
}

}  // namespace lockstep::cli
