// What the program says to bad input: exit code, one line, nothing left behind.
// SPDX-License-Identifier: Apache-2.0
#include "tests/e2e/bad_input.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <sys/mount.h>
#include <thread>

#include "tests/io/safetensors_bytes.h"

namespace lockstep::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

// ---- The command line

TEST_F(BadInput, ACommandLineThatIsWrongIsRefusedAndNothingIsRead) {
  const std::string none = (inputs / "none").string();  // so that reading would say something else
  expect_refused({"scroe"}, outputs, {"unknown-command", "did you mean score?"});
  const std::vector<Arguments> commands = {
      score(none, none),
      infer(none, none),
      grad(none, none),
      sft(none, none),
      grpo(none, none),
      exported(none),
      {"new-model", "--output_dir", out()},
      {"doctor"},
      {"reward", "--dataset", none, "--reward_funcs", "format", "--output", out()},
      {"tokenize", "--model", none, "--dataset", none, "--output", out()}};
  for (const Arguments& command : commands) {
    expect_refused(command + Arguments{"--thread", "1"}, outputs,
                   {"unknown-flag", "did you mean --threads?"});
    expect_refused(command, outputs, {"unsupported-world-size", "WORLD_SIZE"},
                   {.variables = {{"WORLD_SIZE", "2"}}});
  }
  // The flags that every command has are read by the same function.
  const std::vector<std::pair<Arguments, Refusal>> common = {
      {{"--threads", "0"}, {"bad-flag", "--threads"}},
      {{"--threads", "one"}, {"bad-flag", "--threads"}},
      {{"--seed", "-1"}, {"bad-flag", "--seed"}},
      {{"--torch_dtype", "float8"}, {"bad-flag", "bfloat16"}},
      {{"--exact", "maybe"}, {"bad-flag", "--exact"}},
      {{"--device", "cuda"}, {"unsupported-device", "cuda"}},
      {{"--device", "npu"}, {"unsupported-device", "npu"}}};
  for (size_t i = 0; i < common.size(); ++i)
    expect_refused(commands[i] + common[i].first, outputs, common[i].second);
}

TEST_F(BadInput, AMissingFlagIsNamed) {
  const std::map<std::string, Arguments> missing = {
      {"--output_dir", {"new-model"}},
      {"--model", {"score", "--dataset", ids}},
      {"--dataset", {"score", "--model", model()}},
      {"--model ", {"infer", "--dataset", ids}},
      {"--batch", {"grad", "--model", model()}},
      {"--output_dir ", {"export", "--model", model()}},
      {"--dataset ", {"sft", "--model", model()}},
      {"--dataset  ", {"tokenize", "--model", model()}},
      {"--reward_funcs", {"grpo", "--model", model(), "--dataset", chats}}};
  for (const auto& [flag, arguments] : missing)
    expect_refused(arguments, outputs, {"missing-flag", flag.substr(0, flag.find(' '))});
}

TEST_F(BadInput, AValueOutOfItsRangeOrChoiceIsRefused) {
  const auto refused = [&](const Arguments& command, const std::string& flag,
                           const std::string& value, const std::string& code = "bad-flag") {
    expect_refused(command + Arguments{flag, value}, outputs, {code, flag});
  };
  // 1 / 1e-40 is infinite in float32, and 1 / 1e-320 in float64.
  for (const char* value : {"0", "-1", "nan", "inf", "1e999", "", "1e-40", "1e-320", "1e40"})
    refused(score(model(), ids), "--temperature", value);
  for (const char* value : {"-0.5", "nan", "x", "1e-40", "1e-320"})
    refused(infer(model(), ids), "--temperature", value);
  for (const char* flag : {"--temperature", "--repetition_penalty"})
    refused(grpo(model(), chats), flag, "1e-40");
  refused(grad(model(), batch), "--temperature", "1e-320");
  refused(infer(model(), ids), "--top_p", "0");
  refused(infer(model(), ids), "--top_p", "1.5");
  refused(infer(model(), ids), "--max_new_tokens", "0");
  refused(infer(model(), ids), "--max_new_tokens", "99999999999999999999");
  refused(infer(model(), ids), "--num_return_sequences", "0");
  refused(grad(model(), batch), "--loss_type", "ppo");
  refused(grad(model(), batch), "--beta", "-1");
  refused(grad(model(), batch), "--epsilon", "2");
  refused({"new-model", "--output_dir", out()}, "--like", "llama");
  refused({"new-model", "--output_dir", out()}, "--size", "70b");
  refused({"new-model", "--output_dir", out()}, "--vocab_size", "0");
  refused(exported(model()), "--max_shard_size", "5XB", "bad-value");
  for (const char* value : {"0", "-5"})
    refused(sft(model(), chats), "--per_device_train_batch_size", value);
  refused(sft(model(), chats), "--learning_rate", "-1");
  refused(sft(model(), chats), "--warmup_ratio", "2");
  refused(sft(model(), chats), "--lr_scheduler_type", "sawtooth");
  refused(sft(model(), chats), "--save_strategy", "sometimes");
  refused(sft(model(), chats), "--loss_scale", "first_round");
  refused(sft(model(), chats), "--max_shard_size", "many", "bad-value");
  refused(grpo(model(), chats), "--num_generations", "1");
  refused(grpo(model(), chats), "--loss_type", "magic");
  refused(grpo(model(), chats), "--scale_rewards", "sometimes");
  refused(grpo(model(), chats), "--temperature", "0");
  refused(grpo(model(), chats), "--reward_weights", "1 2");
  refused(grpo(model(), chats), "--max_completion_length", "4096");
  refused(grpo(model(), chats), "--max_steps", "0");
  // Batches that do not come out even.
  expect_refused(grpo(model(), chats) + Arguments{"--per_device_train_batch_size", "3"}, outputs,
                 {"bad-batch", "--num_generations"});
  expect_refused(grpo(model(), chats) + Arguments{"--reward_funcs", "acuracy"}, outputs,
                 {"unknown-reward", "accuracy"});
}

TEST_F(BadInput, WhatIsTrainedIsThere) {
  for (const Arguments& arguments : {sft(model(), chats), grpo(model(), chats)}) {
    const auto refused = [&](const Arguments& more, const Refusal& refusal) {
      expect_refused(arguments + more, outputs, refusal);
    };
    refused({"--freeze_parameters", "layers"}, {"no-match", "--freeze_parameters"});
    refused({"--freeze_parameters_regex", "("}, {"bad-flag", "--freeze_parameters_regex"});
    refused({"--freeze_parameters_regex", "."}, {"nothing-trained", "--freeze_parameters"});
    const Arguments lora = {"--tuner_type", "lora"};
    refused(lora + Arguments{"--target_modules", "q"}, {"no-match", "--target_modules"});
    refused(lora + Arguments{"--lora_dropout", "1"}, {"bad-flag", "--lora_dropout"});
    refused(lora + Arguments{"--rank_pattern", "{\"q_proj\": 0}"}, {"bad-adapter", "rank_pattern"});
    refused(lora + Arguments{"--adapters", inputs.path().string()},
            {"missing-adapter", "adapter_config.json"});
    refused(lora + Arguments{"--freeze_parameters", "model"}, {"bad-flag", "--freeze_parameters"});
  }
}

TEST_F(BadInput, AConfigurationFileThatIsWrongIsNamedByItsLine) {
  const auto refused = [&](const std::string& name, const std::string& text,
                           const Refusal& refusal) {
    expect_refused({"score", inputs.write(name, text).string()}, outputs, refusal);
  };
  refused("flag.yaml", "model: m\ndatasets: x\n", {"unknown-flag", "flag.yaml:2"});
  refused("form.yaml", "model: [m\n", {"bad-config", "form.yaml"});
  refused("list.yaml", "- model\n", {"bad-config", "list.yaml"});
  refused("twice.yaml", "model: a\nmodel: b\n", {"bad-config", "twice.yaml:2"});
  refused("form.json", "{\"model\": }", {"bad-config", "form.json"});
}

// ---- Rows

TEST_F(BadInput, ARowThatIsWrongIsNamedByItsLine) {
  const std::string good = "{\"input_ids\": [5, 6]}\n";
  const auto refused = [&](const std::string& row, const std::string& words) {
    const std::string rows = rows_of(good + row + "\n");
    const std::string where = fs::path(rows).filename().string() + ":2";
    // Both read their rows with the same function; its many errors are seen through one of them.
    expect_refused(count_ % 4 ? score(model(), rows) : infer(model(), rows), outputs,
                   {"bad-row", words, kBadInput, where});
  };
  refused("{\"input_ids\": [5, }", "");
  refused("{\"input_ids\": [5]} x", "");
  refused("7", "object");
  refused("{}", "input_ids or messages");
  refused("{\"text\": \"a\"}", "input_ids or messages");
  refused("{\"input_ids\": []}", "at least one id");
  refused("{\"input_ids\": {}}", "list of ids");
  refused("{\"input_ids\": [2048]}", "2048");
  refused("{\"input_ids\": [-1]}", "-1");
  refused("{\"input_ids\": [18446744073709551615]}", "18446744073709551615");
  refused("{\"input_ids\": [1.5]}", "1.5");
  refused("{\"input_ids\": [\"5\"]}", "whole numbers");
  refused("{\"input_ids\": [5], \"input_ids\": [6]}", "");
  refused("{\"messages\": []}", "at least one message");
  refused("{\"messages\": \"hello\"}", "list");
  const std::string turn = R"({"messages": [{"role": "user", "content": "a"}], )";
  refused(turn + "\"tools\": {}}", "a list in tools");
  refused(turn + "\"chat_template_kwargs\": []}", "an object in chat_template_kwargs");
  refused("{\"messages\": [{\"role\": \"user\", \"content\": \"\xff\"}]}", "");
  refused("{\"input_ids\": [5], \"images\": [\"a.png\"]}", "images");
  refused("{\"input_ids\": [5], \"videos\": [\"a.mp4\"]}", "videos");
  refused("{\"input_ids\": [5], \"audios\": [\"a.wav\"]}", "audios");
  refused("{\"a\": " + std::string(10000, '['), "");
}

TEST_F(BadInput, ATrainingRowThatIsWrongIsNamedByItsLine) {
  const std::string good = dump_json(sum_rows(1)[0]) + "\n";
  const auto refused = [&](const std::string& row) {
    const std::string rows = rows_of(good + row + "\n");
    const Refusal refusal{"bad-row", fs::path(rows).filename().string() + ":2"};
    expect_refused(sft(model(), rows), outputs, refusal);
    expect_refused(grpo(model(), rows), outputs, refusal);
  };
  refused("{\"messages\": }");
  refused("[]");
  refused("{\"solution\": \"5\"}");
  refused("{\"messages\": []}");
  refused("{\"messages\": [{\"content\": \"a\"}]}");
  refused("{\"messages\": [{\"role\": \"user\", \"content\": 5}]}");
  refused("{\"messages\": [{\"role\": \"user\", \"content\": \"\xC3\"}]}");
  refused(
      R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "images": ["a.png"]})");
}

TEST_F(BadInput, ARecordedRowThatIsWrongIsNamedByItsLine) {
  const std::string good = slurp(batch);
  const auto refused = [&](const std::string& row, const std::string& words) {
    const std::string rows = rows_of(good + row + "\n");
    expect_refused(grad(model(), rows), outputs,
                   {"bad-row", words, kBadInput, fs::path(rows).filename().string() + ":2"});
  };
  refused(R"({"input_ids": [5, 6], "advantage": 1})", "completion_mask");
  refused(R"({"completion_mask": [0, 1], "advantage": 1})", "input_ids");
  refused(R"({"input_ids": [5, 6], "completion_mask": [0, 1]})", "advantage");
  refused(R"({"input_ids": [5, 6], "completion_mask": [0], "advantage": 1})", "completion_mask");
  refused(R"({"input_ids": [5, 6], "completion_mask": [1, 1], "advantage": 1})", "completion_mask");
  refused(R"({"input_ids": [5, 6], "completion_mask": [0, 2], "advantage": 1})", "completion_mask");
  refused(R"({"input_ids": [5, 6], "completion_mask": [0, 1], "advantage": [1, 2]})", "advantage");
  refused(R"({"input_ids": [5, 6], "completion_mask": [0, 1], "advantage": "1"})", "advantage");
  refused(R"({"input_ids": [5, 6], "completion_mask": [0, 1], "advantage": 1, "old_logprobs": []})",
          "old_logprobs");
  refused(R"({"input_ids": [5, 9999], "completion_mask": [0, 1], "advantage": 1})", "9999");
  refused(R"({"input_ids": [], "completion_mask": [], "advantage": 1})", "input_ids");
  // The KL term without what it compares with.
  expect_refused(grad(model(), batch) + Arguments{"--beta", "0.1"}, outputs,
                 {"bad-row", "ref_logprobs"});
}

TEST_F(BadInput, AFileWithoutRowsIsRefused) {
  for (const char* text : {"", "\n\n"}) {
    const std::string rows = rows_of(text);
    for (const Arguments& command :
         {score(model(), rows), infer(model(), rows), grad(model(), rows), sft(model(), rows),
          grpo(model(), rows), tokenize(rows)})
      expect_refused(command, outputs, {"bad-row", ""});
  }
  const std::string none = (inputs / "none.jsonl").string();
  for (const Arguments& command : {score(model(), none), infer(model(), none), grad(model(), none),
                                   sft(model(), none), grpo(model(), none), tokenize(none)})
    expect_refused(command, outputs, {"unreadable-file", "none.jsonl"});
}

TEST_F(BadInput, RowsThatAreNoLocalTextAreNamed) {
  write_text(inputs / "rows.parquet", "PAR1");
  for (const std::string& rows : {std::string("openai/gsm8k"), (inputs / "rows.parquet").string()})
    for (const Arguments& command : {score(model(), rows), infer(model(), rows), sft(model(), rows),
                                     grpo(model(), rows), tokenize(rows)})
      expect_refused(command, outputs, {"unsupported-dataset", "to_json('train.jsonl'"});
}

TEST_F(BadInput, ATemplateThatRefusesAConversationRefusesItsRow) {
  const fs::path model = damaged();
  write_text(model / "chat_template.jinja", "{{ raise_exception('not this one') }}");
  for (const Arguments& command :
       {score(model, chats), infer(model, chats), sft(model, chats), grpo(model, chats)})
    expect_refused(command, outputs, {"bad-row", "not this one"});
}

TEST_F(BadInput, APromptBeyondTheContextIsRefused) {
  const std::string rows = write_rows(inputs, "long.jsonl", id_rows({4095}, 2048, 3));
  expect_refused(infer(model(), rows), outputs, {"prompt-too-long", "4095"});
}

// ---- Outputs

TEST_F(BadInput, AnOutputThatIsThereIsKept) {
  const std::string none = (inputs / "none").string();  // refused before anything is read
  fs::create_directories(outputs / "out");
  write_text(outputs / "out" / "precious", "kept");
  const Refusal refusal{"output-exists", "--output"};
  for (const Arguments& command : {sft(none, none), grpo(none, none), exported(none),
                                   Arguments{"new-model", "--output_dir", out()}})
    expect_refused(command, outputs, refusal);
  fs::remove_all(outputs / "out");
  write_text(outputs / "out", "kept");
  for (const Arguments& command :
       {score(none, none), grad(none, none), exported(none), sft(none, none), grpo(none, none)})
    expect_refused(command, outputs, refusal);
  expect_refused(infer(none, none), outputs, {"output-exists", "--result_path"});
}

TEST_F(BadInput, AnOutputThatCannotBeWrittenIsRefusedBeforeTheFirstStep) {
  write_text(outputs / "file", "not a folder");
  for (const std::string& place : {out("file/out"), std::string("/proc/lockstep-out")}) {
    std::vector<Arguments> commands = all_on(model());
    commands.push_back({"new-model", "--output_dir", out()});
    commands.push_back(tokenize(write_rows(inputs, "text.jsonl", {{{"text", "a"}}})));
    for (Arguments& command : commands) {
      std::replace(command.begin(), command.end(), out(), place);
      expect_refused(command, outputs, {"unwritable-output", ""});
    }
  }
}

TEST_F(BadInput, AFullDiskEndsTheCommandWithoutHalfAFile) {
  const Refusal full{"unwritable-output", "", kFailed};
  // Room for the error, which goes to a file here too, but not for the rows.
  const std::string rows = write_rows(inputs, "long.jsonl", id_rows({300}, 2048, 4));
  std::vector<Arguments> to_file = {score(model(), rows), infer(model(), rows),
                                    grad(model(), batch)};
  for (Arguments& command : to_file) {
    expect_refused(command, outputs, full, {.file_limit = 1000});
    std::replace(command.begin(), command.end(), out(), std::string("/dev/full"));
    expect_refused(command, outputs, full);
  }
  // Smaller than the weights, larger than the other files.
  const ProgramWorld world{.file_limit = 1'000'000};
  expect_refused(exported(model()), outputs, full, world);
  expect_refused({"new-model", "--output_dir", out()}, outputs, full, world);
}

TEST_F(BadInput, AFullDiskWhileACheckpointIsSavedLeavesTheEarlierOnes) {
  for (const Arguments& command : {sft(model(), chats), grpo(model(), chats)}) {
    fs::remove_all(outputs / "out");
    const ProgramResult result =
        run_program(command + Arguments{"--save_steps", "1", "--quiet"}, {.file_limit = 1'000'000});
    EXPECT_EQ(result.exit_code, kFailed) << result.err;
    EXPECT_THAT(error_line(result.err), StartsWith("lockstep: error[unwritable-output]: "));
    EXPECT_THAT(error_line(result.err), HasSubstr("/out/checkpoint-1/"));
    EXPECT_THAT(temporaries_in(outputs), IsEmpty());
    EXPECT_FALSE(fs::exists(outputs / "out" / "checkpoint-1"));
    EXPECT_FALSE(fs::exists(fs::symlink_status(outputs / "out" / "last")));
  }
}

TEST_F(BadInput, ADiskThatFillsUpKeepsWholeCheckpointsOnly) {
  const fs::path disk = inputs / "disk";
  fs::create_directories(disk);
  // One checkpoint of this model with its optimizer takes about 5.2 MB.
  if (::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=8m") != 0)
    GTEST_SKIP() << "needs the right to mount a tmpfs";
  for (Arguments command : {sft(model(), chats), grpo(model(), chats)}) {
    std::replace(command.begin(), command.end(), out(), (disk / command[0]).string());
    const ProgramResult result = run_program(command + Arguments{"--save_steps", "1", "--quiet"});
    EXPECT_EQ(result.exit_code, kFailed) << result.err;
    EXPECT_THAT(error_line(result.err), HasSubstr("No space left on device"));
    EXPECT_THAT(temporaries_in(disk), IsEmpty());
    EXPECT_TRUE(fs::exists(disk / command[0] / "last" / "model.safetensors"));
    EXPECT_FALSE(fs::exists(disk / command[0] / "checkpoint-2"));
    run_well(exported((disk / command[0] / "last").string()) + Arguments{"--overwrite"});
    fs::remove_all(disk / command[0]);
  }
  ::umount(disk.c_str());
}

TEST_F(BadInput, ACheckpointThatCannotBeResumedIsRefused) {
  run_well(grpo(model(), chats) + Arguments{"--save_only_model", "--save_steps", "1"});
  const std::string run = out();
  const auto resume = [&](const std::string& from) {
    return grpo(model(), chats) + Arguments{"--resume_from_checkpoint", from};
  };
  expect_refused(resume(out("none")), outputs, {"bad-resume", "--resume_from_checkpoint"});
  expect_refused(resume(model()), outputs, {"bad-resume", "trainer_state.json"});
  expect_refused(resume(run + "/checkpoint-1"), outputs, {"bad-resume", "checkpoint-1"});
  const fs::path checkpoint = outputs / "out" / "checkpoint-2";
  write_text(checkpoint / "trainer_state.json", "{\"global_step\": \"two\"}");
  expect_refused(resume(checkpoint), outputs, {"bad-resume", "global_step"});
  write_text(checkpoint / "trainer_state.json", "{\"global_");
  expect_refused(resume(checkpoint), outputs, {"bad-json", "trainer_state.json"});
}

TEST_F(BadInput, AnOptimizerStateThatIsBrokenIsRefused) {
  run_well(grpo(model(), chats) + Arguments{"--save_steps", "1"});
  const fs::path checkpoint = outputs / "out" / "checkpoint-1";
  const std::string whole = slurp(checkpoint / "training_state" / "optimizer.safetensors");
  const Arguments resume =
      grpo(model(), chats) + Arguments{"--resume_from_checkpoint", checkpoint.string()};
  write_text(checkpoint / "training_state" / "optimizer.safetensors",
             whole.substr(0, whole.size() / 2));
  expect_refused(resume, outputs, {"bad-safetensors", "optimizer.safetensors"});
  write_text(checkpoint / "training_state" / "optimizer.safetensors", safetensors_bytes("{}", 0));
  expect_refused(resume, outputs, {"", ""});
}

// ---- Ctrl-C

TEST_F(BadInput, CtrlCFinishesTheStepsFilesAndStops) {
  for (const int signal : {SIGINT, SIGTERM}) {
    fs::remove_all(outputs / "out");
    RunningProgram program(grpo(model(), chats) + Arguments{"--max_steps", "100000", "--save_steps",
                                                            "1", "--save_total_limit", "2",
                                                            "--logging_steps", "1", "--quiet"});
    ASSERT_TRUE(wait_until(program, [&] { return fs::exists(outputs / "out" / "last"); }))
        << program.wait().err;
    program.send(signal);
    const ProgramResult result = program.wait();
    EXPECT_EQ(result.exit_code, signal == SIGINT ? kInterrupted : kTerminated) << result.err;
    EXPECT_THAT(error_line(result.err), StartsWith("lockstep: error[interrupted]: step "));
    EXPECT_THAT(temporaries_in(outputs), IsEmpty());
    const fs::path run = outputs / "out";
    EXPECT_FALSE(read_rows(run / "logging.jsonl").empty());
    EXPECT_FALSE(read_rows(run / "completions.jsonl").empty());
    run_well({"score", "--model", (run / "last").string(), "--dataset", ids});
  }
}

TEST_F(BadInput, CtrlCEndsACommandWithoutHalfAFile) {
  std::vector<int64_t> lengths(2000, 200);
  const std::string rows = write_rows(inputs, "many.jsonl", id_rows(lengths, 2048, 5));
  for (const Arguments& command :
       {score(model(), rows),
        infer(model(), rows) + Arguments{"--max_new_tokens", "2000", "--ignore_eos"}}) {
    RunningProgram program(command + Arguments{"--quiet", "--threads", "1"});
    // The temporary file says that work has begun.
    ASSERT_TRUE(wait_until(program, [&] { return !tree_of(outputs).empty(); }))
        << program.wait().err;
    program.send(SIGINT);
    const ProgramResult result = program.wait();
    EXPECT_EQ(result.exit_code, kInterrupted) << result.err;
    EXPECT_THAT(error_line(result.err), StartsWith("lockstep: error[interrupted]: "));
    EXPECT_THAT(tree_of(outputs), IsEmpty());
  }
}

TEST_F(BadInput, ASecondCtrlCStopsAtOnce) {
  // One step samples far longer than this test may take.
  RunningProgram program(grpo(model(), chats) + Arguments{"--max_completion_length", "4000",
                                                          "--num_generations", "64", "--max_steps",
                                                          "5", "--threads", "1", "--quiet"});
  ASSERT_TRUE(wait_until(program, [&] { return fs::exists(outputs / "out" / "args.json"); }))
      << program.wait().err;
  program.send(SIGINT);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const auto begin = std::chrono::steady_clock::now();
  program.send(SIGINT);
  EXPECT_EQ(program.wait().exit_code, kInterrupted);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
  EXPECT_FALSE(fs::exists(fs::symlink_status(outputs / "out" / "last")));
}

}  // namespace
}  // namespace lockstep::testing
