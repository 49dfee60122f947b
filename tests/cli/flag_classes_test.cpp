// Foreign flags: each is in a class, defaults pass silently, and each class does what it says.
// SPDX-License-Identifier: Apache-2.0
#include "cli/flag_classes.h"

#include <functional>
#include <set>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "tests/cli/specified_flags.h"
#include "tests/support/expect_error.h"
#include "tests/support/json_lines.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"

namespace lockstep::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

/// The result of reading a command line whose command registers `registered`.
struct Read {
  std::vector<Assignment> assignments;
  ClassNotes notes;

  Read(std::vector<std::string> arguments, std::vector<std::string> registered = {}) {
    const auto has = [&](std::string_view name) {
      return std::find(registered.begin(), registered.end(), name) != registered.end();
    };
    assignments = apply_flag_classes(grpo_flag_classes(), has, split_arguments(arguments), notes);
  }
  /// "name=value value" of each.
  std::vector<std::string> texts() const {
    std::vector<std::string> result;
    for (const Assignment& assignment : assignments) {
      result.push_back(assignment.name + "=");
      for (size_t i = 0; i < assignment.values.size(); ++i)
        result.back() += (i ? " " : "") + assignment.values[i];
    }
    return result;
  }
};

TEST(FlagClasses, EveryFlagOfTheSpecificationHasAClass) {
  for (const FlagDefault& flag : kDefaults)
    EXPECT_TRUE(find_rule(grpo_flag_classes(), flag.name)) << flag.name;
  const auto expect_class = [](const std::vector<std::string>& names, FlagClass expected) {
    for (const std::string& name : names) {
      const FlagRule* const rule = find_rule(grpo_flag_classes(), name);
      ASSERT_TRUE(rule) << name;
      EXPECT_EQ(rule->flag_class, expected) << name;
    }
  };
  expect_class(kUsedNames, FlagClass::kUsed);
  expect_class(kMappedNames, FlagClass::kMapped);
  expect_class(kAcceptedNames, FlagClass::kAccepted);
  expect_class(kRefusedNames, FlagClass::kRefused);
  EXPECT_FALSE(find_rule(grpo_flag_classes(), "learning_rat"));
}

TEST(FlagClasses, DefaultsPassSilently) {
  // LoRA is ms-swift's default, and a command that does not know it has none; Megatron's batch is
  // what its name says.
  const std::vector<std::string> exceptions = {"tuner_type", "global_batch_size"};
  for (const FlagDefault& flag : kDefaults) {
    if (std::find(exceptions.begin(), exceptions.end(), flag.name) != exceptions.end()) continue;
    const FlagRule& rule = *find_rule(grpo_flag_classes(), flag.name);
    if (!rule.target.empty() && rule.flag_class == FlagClass::kMapped)
      continue;  // read as a flag of ours
    SCOPED_TRACE(flag.name + " " + flag.value);
    try {
      const Read read({"--" + flag.name, flag.value});
      EXPECT_THAT(read.notes.notices, IsEmpty());
      EXPECT_THAT(read.assignments, IsEmpty());
    } catch (const Error& error) {
      ADD_FAILURE() << error.what();
    }
  }
}

/// Calls `visit` with each row of the list that tools/golden/foreign_flags.py wrote, and the
/// classes of the commands that a user of that trainer would give the flag to.
void for_each_foreign_flag(
    const std::function<void(const Json& row, const FlagClasses& classes)>& visit) {
  for_each_json_line(testing::source_dir() / "tests/data/flags/foreign_flags.jsonl",
                     [&](int64_t, const Json& row) {
                       bool is_sft = false, is_grpo = false, is_server = false;
                       for (const Json& owner : row["of"]) {
                         const auto text = owner.get<std::string>();
                         if (text.ends_with(" rollout")) {
                           is_server = true;
                           continue;
                         }
                         // transformers' own are every trainer's; Megatron has one list for all.
                         const bool is_supervised =
                             text.ends_with("sft") && text.find("megatron") == text.npos;
                         is_sft |= is_supervised || text.ends_with("training");
                         is_grpo |= !is_supervised;
                       }
                       if (is_sft) visit(row, sft_flag_classes());
                       if (is_grpo) visit(row, grpo_flag_classes());
                       if (is_server) visit(row, rollout_flag_classes());
                     });
}

TEST(FlagClasses, EveryFlagOfOtherTrainersHasAClass) {
  int64_t count = 0;
  for_each_foreign_flag([&](const Json& row, const FlagClasses& classes) {
    ++count;
    EXPECT_TRUE(find_rule(classes, row["name"].get<std::string>()))
        << (&classes == &sft_flag_classes()       ? "sft: "
            : &classes == &rollout_flag_classes() ? "rollout: "
                                                  : "grpo: ")
        << row.dump();
  });
  EXPECT_GT(count, 1180);
}

TEST(FlagClasses, DefaultsOfOtherTrainersPassSilently) {
  // These mean something here whatever their value, or are on by default in a server or in Megatron
  // alone.
  const std::set<std::string> exceptions = {"tuner_type", "use_peft", "global_batch_size",
                                            "load_args", "use_vllm"};
  for_each_foreign_flag([&](const Json& row, const FlagClasses& classes) {
    const auto name = row["name"].get<std::string>();
    const FlagRule* const rule = find_rule(classes, name);
    // Used and mapped flags do what they say, and their defaults may be others here.
    if (!rule || !row.contains("defaults") || !rule->target.empty() ||
        rule->flag_class == FlagClass::kUsed || exceptions.count(name))
      return;
    for (const Json& value : row["defaults"]) {
      SCOPED_TRACE(name + " " + value.get<std::string>());
      ClassNotes notes;
      try {
        const auto left = apply_flag_classes(
            classes, [](std::string_view) { return false; },
            split_arguments(std::vector<std::string>{"--" + name, value.get<std::string>()}),
            notes);
        EXPECT_THAT(left, IsEmpty());
        EXPECT_THAT(notes.notices, IsEmpty());
      } catch (const Error& error) {
        ADD_FAILURE() << error.what();
      }
    }
  });
}

TEST(FlagClasses, EveryTargetIsAFlagOfOurs) {
  for (const FlagClasses* classes :
       {&grpo_flag_classes(), &sft_flag_classes(), &rollout_flag_classes()})
    for (const std::span<const FlagRule> table : classes->tables)
      for (const FlagRule& rule : table) {
        if (rule.target.empty()) continue;
        const FlagRule* const target = find_rule(*classes, rule.target);
        ASSERT_TRUE(target) << rule.name;
        EXPECT_EQ(target->flag_class, FlagClass::kUsed) << rule.name;
      }
}

TEST(FlagClasses, NoFlagStandsTwice) {
  for (const FlagClasses* classes :
       {&grpo_flag_classes(), &sft_flag_classes(), &rollout_flag_classes()}) {
    std::vector<std::string_view> names;
    for (const std::span<const FlagRule> table : classes->tables)
      for (const FlagRule& rule : table) names.push_back(rule.name);
    std::sort(names.begin(), names.end());
    const auto twice = std::adjacent_find(names.begin(), names.end());
    EXPECT_EQ(twice, names.end()) << *twice;
  }
}

TEST(FlagClasses, MapsNamesWithANotice) {
  const Read read({"--max_new_tokens", "64", "--lr", "1e-6", "--clip_grad", "2"},
                  {"max_completion_length", "learning_rate", "max_grad_norm"});
  EXPECT_THAT(read.texts(),
              ElementsAre("max_completion_length=64", "learning_rate=1e-6", "max_grad_norm=2"));
  EXPECT_THAT(read.notes.notices, ElementsAre("--max_new_tokens is read as --max_completion_length",
                                              "--lr is read as --learning_rate",
                                              "--clip_grad is read as --max_grad_norm"));
  EXPECT_EQ(read.assignments[1].where, "--lr");
}

TEST(FlagClasses, MapsValues) {
  EXPECT_THAT(Read({"--bf16", "true"}, {"torch_dtype"}).texts(),
              ElementsAre("torch_dtype=bfloat16"));
  EXPECT_THAT(Read({"--bf16"}, {"torch_dtype"}).texts(), ElementsAre("torch_dtype=bfloat16"));
  EXPECT_THAT(Read({"--bf16", "false"}, {"torch_dtype"}).texts(), IsEmpty());
  EXPECT_THAT(Read({"--recompute_granularity", "full"}, {"gradient_checkpointing"}).texts(),
              ElementsAre("gradient_checkpointing=true"));
  EXPECT_THAT(Read({"--recompute_granularity", "none"}, {"gradient_checkpointing"}).texts(),
              ElementsAre("gradient_checkpointing=false"));
  EXPECT_THAT(Read({"--recompute_granularity", "selective"}, {"gradient_checkpointing"}).texts(),
              IsEmpty());
  EXPECT_ERROR(Read({"--recompute_granularity", "half"}, {"gradient_checkpointing"}), ConfigError,
               "bad-flag", "half");
}

TEST(FlagClasses, ScalingOfRewardsMayBeABoolean) {
  const std::vector<std::string> ours = {"scale_rewards"};
  EXPECT_THAT(Read({"--scale_rewards", "False"}, ours).texts(), ElementsAre("scale_rewards=none"));
  EXPECT_THAT(Read({"--scale_rewards"}, ours).texts(), ElementsAre("scale_rewards=group"));
  EXPECT_THAT(Read({"--scale_rewards", "true"}, ours).texts(), ElementsAre("scale_rewards=group"));
  EXPECT_THAT(Read({"--scale_rewards", "batch"}, ours).texts(), ElementsAre("scale_rewards=batch"));
}

TEST(FlagClasses, MapsFlagsOfTrl) {
  const Read read({"--model_name_or_path", "m", "--dataset_name", "d", "--max_prompt_length", "64",
                   "--mask_truncated_completions", "true", "--overwrite_output_dir", "true"},
                  {"model", "dataset", "max_length", "overlong_filter", "overwrite"});
  EXPECT_THAT(read.texts(), ElementsAre("model=m", "dataset=d", "max_length=64",
                                        "overlong_filter=true", "overwrite=true"));
  EXPECT_THAT(read.notes.notices[3],
              HasSubstr("--mask_truncated_completions is read as --overlong_filter: their tokens"));
  EXPECT_THAT(Read({"--dtype", "auto", "--torch_dtype", "AUTO"}, {"torch_dtype"}).texts(),
              IsEmpty());
  EXPECT_THAT(Read({"--dtype", "float32"}, {"torch_dtype"}).texts(),
              ElementsAre("torch_dtype=float32"));
  EXPECT_THAT(Read({"--use_peft"}, {"tuner_type"}).texts(), ElementsAre("tuner_type=lora"));
  EXPECT_THAT(Read({"--use_peft", "false"}, {"tuner_type"}).texts(),
              ElementsAre("tuner_type=full"));
  EXPECT_THAT(Read({"--warmup_steps", "0.1"}, {"warmup_steps", "warmup_ratio"}).texts(),
              ElementsAre("warmup_ratio=0.1"));
  EXPECT_THAT(Read({"--warmup_steps", "10"}, {"warmup_steps", "warmup_ratio"}).texts(),
              ElementsAre("warmup_steps=10"));
}

TEST(FlagClasses, TemplateOptionsAreThinkingAlone) {
  const std::vector<std::string> ours = {"enable_thinking"};
  EXPECT_THAT(Read({"--chat_template_kwargs", R"({"enable_thinking": false})"}, ours).texts(),
              ElementsAre("enable_thinking=false"));
  EXPECT_ERROR(Read({"--chat_template_kwargs", R"({"effort": "low"})"}, ours), ConfigError,
               "refused-flag", "expected enable_thinking alone, got effort");
  EXPECT_ERROR(Read({"--chat_template_kwargs", "[1]"}, ours), ConfigError, "bad-flag",
               "a JSON object");
}

TEST(FlagClasses, TrlsNormalisationRewardByRewardIsAnEstimator) {
  const std::vector<std::string> ours = {"advantage_estimator"};
  EXPECT_THAT(Read({"--multi_objective_aggregation", "normalize_then_sum"}, ours).texts(),
              ElementsAre("advantage_estimator=gdpo"));
  EXPECT_THAT(Read({"--multi_objective_aggregation", "sum_then_normalize"}, ours).texts(),
              IsEmpty());
  EXPECT_ERROR(Read({"--multi_objective_aggregation", "sum"}, ours), ConfigError, "bad-flag",
               "expected sum_then_normalize or normalize_then_sum");
}

TEST(FlagClasses, TrlsCorrectionOfTheSamplerIsReadAsOurs) {
  const std::vector<std::string> ours = {"rollout_importance_sampling_mode",
                                         "rollout_importance_sampling_threshold",
                                         "rollout_importance_sampling_threshold_lower"};
  const auto read =
      Read({"--vllm_importance_sampling_correction", "true", "--vllm_importance_sampling_mode",
            "sequence_mask", "--vllm_importance_sampling_clip_max", "3",
            "--vllm_importance_sampling_clip_min", "0.5"},
           ours);
  EXPECT_THAT(read.texts(),
              ElementsAre(ours[0] + "=sequence_mask", ours[1] + "=3", ours[2] + "=0.5"));
  EXPECT_THAT(read.notes.notices,
              ::testing::Contains(HasSubstr("has no effect: --rollout_importance_sampling_mode")));
  EXPECT_THAT(
      read.notes.notices,
      ::testing::Contains(HasSubstr("--rollout_importance_sampling_sequence_ratio product")));
  EXPECT_THAT(Read({"--vllm_importance_sampling_correction", "false"}).notes.notices, IsEmpty());
}

TEST(FlagClasses, StepsPerGenerationCountGlobalBatchesBesideOne) {
  const std::vector<std::string> ours = {"per_device_train_batch_size",
                                         "gradient_accumulation_steps", "steps_per_generation"};
  const std::vector<std::string> megatron = {
      "--micro_batch_size", "4", "--global_batch_size", "32", "--steps_per_generation", "2"};
  const Read read(megatron, ours);
  EXPECT_THAT(read.texts(),
              ElementsAre("per_device_train_batch_size=4", "gradient_accumulation_steps=8",
                          "steps_per_generation=16"));
  EXPECT_THAT(read.notes.notices.back(), HasSubstr("counts global batches"));
  EXPECT_THAT(
      Read({"--gradient_accumulation_steps", "8", "--steps_per_generation", "2"}, ours).texts(),
      ElementsAre("gradient_accumulation_steps=8", "steps_per_generation=2"));
}

TEST(FlagClasses, GlobalBatchSizeIsASumOfMicroBatches) {
  const std::vector<std::string> ours = {"per_device_train_batch_size",
                                         "gradient_accumulation_steps"};
  EXPECT_THAT(Read({"--micro_batch_size", "4", "--global_batch_size", "32"}, ours).texts(),
              ElementsAre("per_device_train_batch_size=4", "gradient_accumulation_steps=8"));
  EXPECT_THAT(Read({"--global_batch_size", "32"}, ours).texts(),
              ElementsAre("per_device_train_batch_size=1", "gradient_accumulation_steps=32"));
  EXPECT_ERROR(Read({"--micro_batch_size", "5", "--global_batch_size", "32"}, ours), ConfigError,
               "bad-flag", "expected a multiple of per_device_train_batch_size 5, got 32");
  EXPECT_ERROR(Read({"--global_batch_size", "0"}, ours), ConfigError, "bad-flag",
               "expected a whole number >= 1");
}

TEST(FlagClasses, ReportsToServicesBecomeFiles) {
  const Read read({"--report_to", "tensorboard", "swanlab", "wandb"}, {"report_to"});
  EXPECT_THAT(read.texts(), ElementsAre("report_to=tensorboard"));
  // Each names the command that sends what the run logs.
  EXPECT_THAT(read.notes.notices,
              ElementsAre(HasSubstr("lockstep_track.py OUTPUT_DIR --to swanlab"),
                          HasSubstr("lockstep_track.py OUTPUT_DIR --to wandb")));
  EXPECT_THAT(Read({"--report_to", "mlflow", "trackio"}, {"report_to"}).notes.notices, SizeIs(2));
}

TEST(FlagClasses, AcceptsWithANoticeThatSaysWhy) {
  const Read read({"--sleep_level", "1", "--use_vllm", "true", "--attn_impl", "flash_attn",
                   "--packing_length=9"});
  EXPECT_THAT(read.assignments, IsEmpty());
  EXPECT_THAT(
      read.notes.notices,
      ElementsAre(HasSubstr("--sleep_level 1 has no effect: trainer and sampler share the weights"),
                  HasSubstr("--use_vllm true has no effect: the sampler is always"),
                  HasSubstr("--attn_impl flash_attn has no effect"),
                  HasSubstr("--packing_length 9")));
  EXPECT_THAT(read.notes.accepted, SizeIs(4));
  EXPECT_THAT(
      Read({"--logging_dir", "tb", "--run_name", "r", "--num_infer_workers", "2",
            "--gc_collect_after_offload", "true", "--gamma", "0.5", "--sglang_tp_size", "2"})
          .notes.notices,
      SizeIs(6));
}

TEST(FlagClasses, RefusesWhatWouldChangeTheTraining) {
  EXPECT_ERROR(Read({"--freeze_vit", "false"}), ConfigError, "refused-flag",
               "--freeze_vit: expected true, got 'false'");
  EXPECT_ERROR(Read({"--streaming", "true"}), ConfigError, "refused-flag",
               "order or the source of the rows");
  EXPECT_ERROR(Read({"--bnb_4bit_compute_dtype", "float16"}), ConfigError, "refused-flag",
               "another base");
  EXPECT_ERROR(Read({"--rlhf_type", "dpo"}), ConfigError, "refused-flag",
               "expected grpo, got 'dpo'");
  EXPECT_ERROR(Read({"--mcore_model", "x"}), ConfigError, "refused-flag",
               "lockstep layout convert");
  EXPECT_ERROR(Read({"--kl_coef", "0.01"}), ConfigError, "refused-flag", "--beta weighs");
  EXPECT_ERROR(Read({"--label_smoothing_factor", "0.1"}), ConfigError, "refused-flag", "the loss");
  EXPECT_ERROR(Read({"--rotary_base", "1000"}), ConfigError, "refused-flag", "config.json decides");
  EXPECT_ERROR(Read({"--early_stop_interval", "3"}), ConfigError, "refused-flag",
               "early stopping is not built yet");
}

TEST(FlagClasses, RefusesWhatIsNotBuiltByItsFeature) {
  EXPECT_ERROR(Read({"--async_generate", "true"}), ConfigError, "refused-flag",
               "asynchronous generation is not built yet");
  EXPECT_ERROR(Read({"--vllm_mode", "server"}), ConfigError, "refused-flag",
               "rollout in server mode is not built yet");
  EXPECT_ERROR(Read({"--teacher_model", "big"}), ConfigError, "refused-flag",
               "distillation from a teacher");
  EXPECT_ERROR(Read({"--sync_mode", "delta"}), ConfigError, "refused-flag", "is not built yet");
  // Once the command registers the flag, it is used.
  EXPECT_THAT(Read({"--async_generate", "true"}, {"async_generate"}).texts(),
              ElementsAre("async_generate=true"));
  EXPECT_THAT(Read({"--vllm_mode", "server"}, {"rollout_mode"}).texts(),
              ElementsAre("rollout_mode=server"));
}

TEST(FlagClasses, DegreesOfSeveralDevicesAreSaidToBeOne) {
  for (const char* name : {"--vllm_tensor_parallel_size", "--vllm_data_parallel_size",
                           "--data_parallel_size", "--expert_model_parallel_size"}) {
    const Read read({name, "4"});
    EXPECT_THAT(read.texts(), IsEmpty());
    EXPECT_THAT(read.notes.notices, ElementsAre(HasSubstr("what is trained is the same")));
  }
}

TEST(FlagClasses, AServerReadsTheFlagsOfSwiftRollout) {
  const auto read = [](const std::vector<std::string>& arguments, ClassNotes& notes) {
    const auto has = [](std::string_view name) {
      return name == "max_model_len" || name == "enable_prefix_caching" || name == "torch_dtype";
    };
    return apply_flag_classes(rollout_flag_classes(), has, split_arguments(arguments), notes);
  };
  ClassNotes notes;
  const std::vector<Assignment> left =
      read({"--vllm_max_model_len", "64", "--vllm_tensor_parallel_size", "2",
            "--vllm_enable_prefix_caching", "true", "--vllm_use_async_engine", "true",
            "--max_length", "32", "--infer_backend", "sglang"},
           notes);
  ASSERT_THAT(left, SizeIs(2));
  EXPECT_EQ(left[0].name, "max_model_len");
  EXPECT_EQ(left[1].name, "enable_prefix_caching");
  EXPECT_THAT(notes.notices,
              ElementsAre(HasSubstr("read as --max_model_len"), HasSubstr("what it samples is"),
                          HasSubstr("read as --enable_prefix_caching"), HasSubstr("already cut"),
                          HasSubstr("the sampler is Lockstep's own")));
  EXPECT_ERROR(read({"--context_manager", "mine"}, notes), ConfigError, "refused-flag",
               "ms-swift has removed");
  EXPECT_ERROR(read({"--ssl_keyfile", "key.pem"}, notes), ConfigError, "refused-flag",
               "not encrypted");
  // What only a trainer knows is unknown here.
  EXPECT_FALSE(find_rule(rollout_flag_classes(), "learning_rate"));
}

TEST(FlagClasses, HostsAndPortsAreUrlsOfServers) {
  const std::vector<std::string> ours{"rollout_server", "rollout_timeout"};
  EXPECT_THAT(Read({"--vllm_server_host", "a", "b", "--vllm_server_port", "1", "2"}, ours).texts(),
              ElementsAre("rollout_server=http://a:1 http://b:2"));
  EXPECT_THAT(Read({"--vllm_server_host", "a", "b", "--vllm_server_port", "1"}, ours).texts(),
              ElementsAre("rollout_server=http://a:1 http://b:1"));
  EXPECT_THAT(Read({"--vllm_server_host", "a"}, ours).texts(),
              ElementsAre("rollout_server=http://a:8000"));
  EXPECT_THAT(Read({"--vllm_server_base_url", "http://a:1"}, ours).texts(),
              ElementsAre("rollout_server=http://a:1"));
  EXPECT_THAT(Read({"--vllm_server_timeout", "240"}, ours).texts(),
              ElementsAre("rollout_timeout=240"));
  EXPECT_ERROR(Read({"--vllm_server_host", "a", "b", "c", "--vllm_server_port", "1", "2"}, ours),
               ConfigError, "bad-flag", "a port for each of 3 hosts, got 2");
  const Read ports({"--vllm_server_port", "8001", "--vllm_server_group_port", "51216"}, ours);
  EXPECT_THAT(ports.texts(), IsEmpty());
  EXPECT_THAT(ports.notes.notices,
              ElementsAre(HasSubstr("--vllm_server_host alone"), HasSubstr("through a folder")));
}

TEST(FlagClasses, ValuesThatSwitchOffPassSilently) {
  const Read read({"--async_generate", "false", "--padding_free", "false", "--vllm_mode",
                   "colocate", "--warmup_ratio", "0.0", "--moe_aux_loss_coeff", "0.0",
                   "--teacher_model", "null"});
  EXPECT_THAT(read.assignments, IsEmpty());
  EXPECT_THAT(read.notes.notices, IsEmpty());
}

TEST(FlagClasses, AnUnknownNameStaysForTheCommandToRefuse) {
  EXPECT_THAT(Read({"--no_such_flag", "1"}).texts(), ElementsAre("no_such_flag=1"));
}

TEST(FlagClasses, SupervisedTrainingHasNoAlgorithmFlags) {
  EXPECT_FALSE(find_rule(sft_flag_classes(), "beta"));
  EXPECT_FALSE(find_rule(sft_flag_classes(), "vllm_mode"));
  EXPECT_TRUE(find_rule(sft_flag_classes(), "learning_rate"));
  EXPECT_TRUE(find_rule(sft_flag_classes(), "deepspeed"));
}

TEST(FlagClasses, TheUsualScriptRuns) {
  const Read read({"--rlhf_type",
                   "grpo",
                   "--model",
                   "m",
                   "--reward_funcs",
                   "accuracy",
                   "format",
                   "--use_vllm",
                   "true",
                   "--vllm_mode",
                   "colocate",
                   "--vllm_gpu_memory_utilization",
                   "0.4",
                   "--train_type",
                   "full",
                   "--torch_dtype",
                   "bfloat16",
                   "--load_from_cache_file",
                   "true",
                   "--sleep_level",
                   "1",
                   "--offload_model",
                   "true",
                   "--move_model_batches",
                   "16",
                   "--deepspeed",
                   "zero3_offload",
                   "--attn_impl",
                   "flash_attn",
                   "--padding_free",
                   "true"},
                  {"model", "reward_funcs", "rollout_mode", "tuner_type", "torch_dtype"});
  EXPECT_THAT(read.texts(),
              ElementsAre("model=m", "reward_funcs=accuracy format", "rollout_mode=colocate",
                          "tuner_type=full", "torch_dtype=bfloat16"));
}

TEST(FlagClasses, EngineOptionsThatChangeTheModelAreRefused) {
  EXPECT_THAT(Read({"--vllm_engine_kwargs", R"({"max_logprobs": 5, "seed": 1})"}).notes.notices,
              ElementsAre(HasSubstr("(max_logprobs, seed)")));
  EXPECT_ERROR(Read({"--vllm_engine_kwargs", R"({"hf_overrides": {}})"}), ConfigError,
               "refused-flag", "hf_overrides");
}

class FrameworkFile : public ::testing::Test {
 protected:
  std::string write(const std::string& text) { return directory.write("ds.json", text).string(); }
  testing::TempDir directory;
};

TEST_F(FrameworkFile, NamesWhatHasNoEffect) {
  const Read read(
      {"--deepspeed", write(R"({"zero_optimization": {"stage": 2}, "gradient_clipping": "auto",
    "optimizer": {"type": "AdamW", "params": {"lr": "auto"}}, "steps_per_print": 10})")});
  EXPECT_THAT(read.notes.notices, ElementsAre(HasSubstr("without effect in it: steps_per_print")));
}

TEST_F(FrameworkFile, RefusesWhatContradictsTheFlags) {
  const std::vector<std::string> ours = {"max_grad_norm", "torch_dtype"};
  const std::string clipping = write(R"({"gradient_clipping": 0.5})");
  EXPECT_ERROR(Read({"--deepspeed", clipping}, ours), ConfigError, "refused-flag",
               "gradient_clipping");
  EXPECT_NO_THROW(Read({"--deepspeed", clipping, "--max_grad_norm", "0.5"}, ours));
  EXPECT_ERROR(
      Read({"--deepspeed", write(R"({"optimizer": {"type": "Adam", "params": {"lr": 0.1}}})")},
           ours),
      ConfigError, "refused-flag", "--learning_rate");
  EXPECT_ERROR(Read({"--deepspeed", write(R"({"fp16": {"enabled": true}})")}, ours), ConfigError,
               "refused-flag", "fp16");
  EXPECT_ERROR(
      Read({"--torch_dtype", "float32", "--deepspeed", write(R"({"bf16": {"enabled": true}})")},
           ours),
      ConfigError, "refused-flag", "--torch_dtype");
  EXPECT_THROW(Read({"--deepspeed", "no_such_file.json"}), IoError);
  EXPECT_ERROR(Read({"--deepspeed", write("[]")}), FormatError, "bad-config", "ds.json, got array");
}

TEST(DeclaredFamily, MustBeTheCheckpoints) {
  const auto check = [](const std::string& flag, const std::string& value,
                        std::string_view model_type) {
    check_declared_family({{.name = flag, .values = {value}, .where = "--" + flag}}, model_type);
  };
  EXPECT_NO_THROW(check("model_type", "qwen3_5_moe", "qwen3_5_moe"));
  EXPECT_NO_THROW(check("template", "qwen3_thinking", "qwen3_moe"));
  EXPECT_NO_THROW(check("sleep_level", "1", "qwen3"));
  EXPECT_ERROR(check("model_type", "qwen3", "qwen3_5"), ConfigError, "refused-flag",
               "expected the family of config.json");
  EXPECT_ERROR(check("model_type", "qwen3", "qwen3_moe"), ConfigError, "refused-flag", "qwen3_moe");
  EXPECT_ERROR(check("template", "llama3", "qwen3"), ConfigError, "refused-flag", "llama3");
}

/// One process has the whole model whatever a script asks for; several would be asked to cut it.
TEST(Degrees, OfTensorsAndStagesAreRefusedInSeveralProcesses) {
  const auto check = [](const FlagClasses& classes, const std::vector<std::string>& arguments,
                        const std::set<std::string_view>& registered) {
    const auto has = [&](std::string_view name) { return registered.contains(name); };
    ClassNotes notes;
    apply_flag_classes(classes, has, split_arguments(arguments), notes);
    check_unserved_degrees(notes.accepted, has);
  };
  for (const FlagClasses* classes : {&grpo_flag_classes(), &sft_flag_classes()}) {
    for (const char* name :
         {"--tensor_model_parallel_size", "--expert_tensor_parallel_size", "--tensor_parallel_size",
          "--pipeline_model_parallel_size", "--pipeline_parallel_size"}) {
      SCOPED_TRACE(name);
      EXPECT_NO_THROW(check(*classes, {name, "1"}, {}));
      const std::string expected = fmt::format(
          "{}: expected 1 in a run of several processes, got '2' ({}; --sharding full cuts the "
          "weights over all ranks, a layer at a time",
          name,
          std::string_view(name).find("pipeline") != std::string_view::npos
              ? "stages would wait for one another"
              : "sums over parts of a row would depend on the number of ranks");
      EXPECT_ERROR(check(*classes, {name, "2"}, {}), ConfigError, "refused-flag", expected + ")");
      EXPECT_ERROR(check(*classes, {name, "2"}, {"expert_parallel_size", "sequence_parallel_size"}),
                   ConfigError, "refused-flag",
                   expected +
                       "; --expert_parallel_size the experts; --sequence_parallel_size long "
                       "sequences)");
    }
    EXPECT_NO_THROW(check(*classes, {"--vllm_tensor_parallel_size", "2"}, {}));
  }
}

}  // namespace
}  // namespace lockstep::cli
