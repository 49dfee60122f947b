// What the program says to bad input: exit code, one line, nothing left behind.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <csignal>
#include <functional>
#include <sys/mount.h>
#include <thread>
#include <unistd.h>

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/e2e/program_files.h"
#include "tests/io/safetensors_bytes.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::StartsWith;

constexpr int kBadInput = 2, kFailed = 1, kInterrupted = 130;

/// The line that begins as an error does; fails unless there is exactly one and it is the last.
std::string error_line(const std::string& err) {
  const size_t begin = err.find("lockstep: error[");
  if (begin == std::string::npos) {
    ADD_FAILURE() << "no error in: " << err;
    return "";
  }
  EXPECT_TRUE(begin == 0 || err[begin - 1] == '\n') << err;
  EXPECT_EQ(err.find('\n', begin), err.size() - 1) << "more than one line: " << err;
  return err.substr(begin);
}

/// What is expected of one run that fails.
struct Refusal {
  std::string code;   ///< "": any.
  std::string words;  ///< Part of the line.
  int exit_code = kBadInput;
  std::string where = {};  ///< Another part of it.
};

/// Runs with --quiet, so that the error is all there is on stderr, and compares the output's folder before and after.
void expect_refused(const Arguments& arguments,
                    const fs::path& outputs,
                    const Refusal& refusal,
                    const ProgramWorld& world = {}) {
  std::string shown;
  for (const auto& argument : arguments) shown += argument.substr(0, 200) + " ";
  SCOPED_TRACE(shown);
  const auto before = tree_of(outputs);
  const ProgramResult result = run_program(arguments + Arguments{"--quiet"}, world);
  EXPECT_EQ(result.exit_code, refusal.exit_code) << result.err;
  EXPECT_THAT(result.err,
              StartsWith("lockstep: error[" + (refusal.code.empty() ? "" : refusal.code + "]: ")));
  EXPECT_THAT(error_line(result.err), AllOf(HasSubstr(refusal.words), HasSubstr(refusal.where)));
  const auto after = tree_of(outputs);
  EXPECT_TRUE(before == after) << "left behind: " << ::testing::PrintToString([&] {
    std::vector<std::string> names;
    for (const auto& [name, bytes] : after)
      if (!before.count(name) || before.at(name) != bytes) names.push_back(name);
    return names;
  }());
}

/// A model, rows of each kind and an empty folder for outputs. The model is made once.
class BadInput : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new TempDir;
    new_model(*shared_, "model", {"--like", "qwen3_5"});
    new_model(*shared_, "moe", {"--like", "qwen3_moe"});
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }

  BadInput() {
    fs::create_directories(outputs);
    ids = write_rows(inputs, "ids.jsonl", id_rows({5, 9}, 2048, 1));
    chats = write_rows(inputs, "chats.jsonl", sum_rows(4));
    batch =
        write_rows(inputs, "batch.jsonl",
                   {{{"input_ids", {5, 6, 7}}, {"completion_mask", {0, 1, 1}}, {"advantage", 1}}});
  }

  static std::string model() { return (*shared_ / "model").string(); }
  std::string out(const std::string& name = "out") const { return (outputs / name).string(); }

  Arguments score(const std::string& model, const std::string& rows) const {
    return {"score", "--model", model, "--dataset", rows, "--output", out()};
  }
  Arguments infer(const std::string& model, const std::string& rows) const {
    return {"infer", "--model",          model, "--dataset", rows, "--result_path",
            out(),   "--max_new_tokens", "2"};
  }
  Arguments grad(const std::string& model, const std::string& rows) const {
    return {"grad", "--model", model, "--batch", rows, "--output", out()};
  }
  Arguments sft(const std::string& model, const std::string& rows) const {
    return {"sft", "--model",      model, "--tuner_type", "full", "--dataset",
            rows,  "--output_dir", out(), "--max_steps",  "2"};
  }
  Arguments grpo(const std::string& model, const std::string& rows) const {
    return {"grpo", "--model",           model,    "--tuner_type",
            "full", "--dataset",         rows,     "--output_dir",
            out(),  "--reward_funcs",    "format", "--max_steps",
            "2",    "--num_generations", "2",      "--max_completion_length",
            "4"};
  }
  Arguments exported(const std::string& model) const {
    return {"export", "--model", model, "--output_dir", out()};
  }
  Arguments tokenize(const std::string& rows) const {
    return {"tokenize", "--model", model(), "--dataset", rows, "--output", out()};
  }
  /// Every command that reads a whole model, with rows that are good.
  std::vector<Arguments> all_on(const std::string& model) const {
    return {score(model, ids), infer(model, ids),  grad(model, batch),
            sft(model, chats), grpo(model, chats), exported(model)};
  }

  /// A copy of the model to be damaged.
  fs::path damaged(const std::string& from = "model") {
    const fs::path copy = inputs / fmt::format("damaged-{}", count_++);
    fs::copy(*shared_ / from, copy);
    return copy;
  }
  std::string rows_of(const std::string& text) {
    return inputs.write(fmt::format("rows-{}.jsonl", count_++), text).string();
  }

  static inline TempDir* shared_ = nullptr;
  TempDir inputs, output_folder;
  fs::path outputs = output_folder / "outputs";
  std::string ids, chats, batch;
  int count_ = 0;
};

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
  for (const char* value : {"0", "-1", "nan", "inf", "1e999", ""})
    refused(score(model(), ids), "--temperature", value);
  for (const char* value : {"-0.5", "nan", "x"})
    refused(infer(model(), ids), "--temperature", value);
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

TEST_F(BadInput, TrainingAsksWhichWeightsAreTrained) {
  for (Arguments arguments : {sft(model(), chats), grpo(model(), chats)}) {
    const auto tuner = std::find(arguments.begin(), arguments.end(), "--tuner_type");
    arguments.erase(tuner, tuner + 2);
    expect_refused(arguments, outputs, {"unsupported-tuner", "--tuner_type full"});
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

// ---- Models

/// One way to damage a checkpoint, and what is said of it.
struct Damage {
  const char* name;
  std::function<void(const fs::path&)> apply;
  Refusal refusal;
};

void write_text(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
}

void write_weights(const fs::path& model, const std::string& header, const std::string& data) {
  write_text(model / "model.safetensors", length_bytes(header.size()) + header + data);
}

/// Changes the file's header and data.
Damage weights(const char* name,
               const Refusal& refusal,
               const std::function<void(Json&, std::string&)>& change) {
  return {name,
          [change](const fs::path& model) {
            TensorFile weights = read_tensors(model / "model.safetensors");
            change(weights.header, weights.data);
            write_weights(model, dump_json(weights.header), weights.data);
          },
          refusal};
}

/// Changes config.json.
Damage config(const char* name, const Refusal& refusal, const std::function<void(Json&)>& change) {
  return {name,
          [change](const fs::path& model) {
            Json config = parse_json_file(model / "config.json");
            change(config);
            write_text(model / "config.json", dump_json(config));
          },
          refusal};
}

/// Changes the bytes of a file.
Damage bytes_of(const char* name,
                const char* file,
                const Refusal& refusal,
                const std::function<void(std::string&)>& change) {
  return {name,
          [file, change](const fs::path& model) {
            std::string bytes = slurp(model / file);
            change(bytes);
            write_text(model / file, bytes);
          },
          refusal};
}

const char* const kEmbedding = "model.embed_tokens.weight";
const char* const kNorm = "model.norm.weight";

/// Name of the tensor whose bytes come last.
std::string last_tensor(const Json& header) {
  std::string last;
  int64_t end = -1;
  for (const auto& [name, entry] : header.items())
    if (name != "__metadata__" && entry["data_offsets"][1].get<int64_t>() > end) {
      end = entry["data_offsets"][1].get<int64_t>();
      last = name;
    }
  return last;
}

std::vector<Damage> hostile_files() {
  const Refusal bad{"bad-safetensors", "model.safetensors"};
  const char* const file = "model.safetensors";
  return {
      bytes_of("empty file", file, bad, [](std::string& b) { b.clear(); }),
      bytes_of("seven bytes", file, bad, [](std::string& b) { b.resize(7); }),
      bytes_of("header cut", file, bad, [](std::string& b) { b.resize(100); }),
      bytes_of("data cut by one byte", file, bad, [](std::string& b) { b.pop_back(); }),
      bytes_of("half a file", file, bad, [](std::string& b) { b.resize(b.size() / 2); }),
      bytes_of("bytes behind the end", file, bad, [](std::string& b) { b += "xx"; }),
      bytes_of("length of 2^64 - 1", file, bad, [](std::string& b) { b.replace(0, 8, 8, '\xff'); }),
      bytes_of("length of 2^63", file, bad,
               [](std::string& b) { b.replace(0, 8, length_bytes(1ull << 63)); }),
      bytes_of("no object", file, bad, [](std::string& b) { b = safetensors_bytes("[]", 0); }),
      bytes_of("no JSON", file, bad, [](std::string& b) { b = safetensors_bytes("{\"a\": ", 0); }),
      bytes_of(
          "ten thousand levels", file, bad,
          [](std::string& b) { b = safetensors_bytes("{\"a\":" + std::string(10000, '['), 0); }),
      bytes_of(
          "a key twice", file, bad,
          [](std::string& b) {
            b = safetensors_bytes(
                R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})",
                1);
          }),
      bytes_of("no UTF-8", file, bad,
               [](std::string& b) { b = safetensors_bytes("{\"\xc3\":{}}", 0); }),
      weights("overlap", bad,
              [](Json& h, std::string&) {
                h[kNorm]["data_offsets"] = {0, 256};
              }),
      weights("end before begin", bad,
              [](Json& h, std::string&) {
                h[kNorm]["data_offsets"] = {256, 0};
              }),
      weights("offsets beyond the file", bad,
              [](Json& h, std::string&) {
                h[kNorm]["data_offsets"] = {1ull << 40, (1ull << 40) + 256};
              }),
      weights("offsets that wrap", bad,
              [](Json& h, std::string&) {
                h[kNorm]["data_offsets"] = {UINT64_MAX - 255, 0};
              }),
      weights("a product that wraps", bad,
              [](Json& h, std::string&) {
                h[kNorm]["shape"] = {1ull << 33, 1ull << 33};
              }),
      weights("a negative size", bad, [](Json& h, std::string&) { h[kNorm]["shape"] = {-64}; }),
      weights("a broken size", bad, [](Json& h, std::string&) { h[kNorm]["shape"] = {64.5}; }),
      weights("an unknown dtype", bad, [](Json& h, std::string&) { h[kNorm]["dtype"] = "F12"; }),
      weights("a shape of other bytes", bad,
              [](Json& h, std::string&) { h[kNorm]["shape"] = {63}; }),
      weights("a hole", bad, [](Json& h, std::string&) { h.erase(kNorm); }),
      weights("metadata of numbers", bad,
              [](Json& h, std::string&) {
                h["__metadata__"] = {{"a", 1}};
              }),
  };
}

std::vector<Damage> wrong_tensors() {
  return {
      {"no weights",
       [](const fs::path& m) { fs::remove(m / "model.safetensors"); },
       {"unreadable-file", "safetensors"}},
      weights("a missing tensor", {"missing-tensor", "model."},
              [](Json& h, std::string& data) {
                const std::string name = last_tensor(h);
                data.resize(h[name]["data_offsets"][0].get<size_t>());
                h.erase(name);
              }),
      weights("a renamed tensor", {"missing-tensor", kNorm},
              [](Json& h, std::string&) {
                h["model.norms.weight"] = h[kNorm];
                h.erase(kNorm);
              }),
      weights(
          "a tensor of a fifth layer", {"unknown-tensor", "model.layers.4.extra.weight"},
          [](Json& h, std::string& data) {
            h["model.layers.4.extra.weight"] = {
                {"dtype", "F32"}, {"shape", {1}}, {"data_offsets", {data.size(), data.size() + 4}}};
            data.append(4, '\0');
          }),
      weights("a shape turned round", {"shape-mismatch", kEmbedding},
              [](Json& h, std::string&) {
                h[kEmbedding]["shape"] = {64, 2048};
              }),
      weights("a shape of one dimension", {"shape-mismatch", kEmbedding},
              [](Json& h, std::string&) { h[kEmbedding]["shape"] = {2048 * 64}; }),
      weights("whole numbers", {"bad-dtype", kEmbedding},
              [](Json& h, std::string&) { h[kEmbedding]["dtype"] = "I32"; }),
      {"an index that leaves the folder",
       [](const fs::path& m) {
         write_text(m / "model.safetensors.index.json",
                    R"({"weight_map": {"a": "../../etc/passwd"}})");
       },
       {"bad-safetensors-index", "index.json"}},
      {"an index of a shard that is not there",
       [](const fs::path& m) {
         write_text(m / "model.safetensors.index.json",
                    R"({"weight_map": {"a": "model-00001-of-00002.safetensors"}})");
       },
       {"bad-safetensors-index", "index.json"}},
      {"an index that is no JSON",
       [](const fs::path& m) { write_text(m / "model.safetensors.index.json", "{"); },
       {"bad-safetensors-index", "index.json"}},
  };
}

std::vector<Damage> wrong_configs() {
  const Refusal bad{"bad-config", "config.json"};
  const auto without_maths = [](const std::string& key) {
    return Refusal{"unsupported-config", key};
  };
  return {
      {"no config",
       [](const fs::path& m) { fs::remove(m / "config.json"); },
       {"missing-model", "config.json"}},
      bytes_of("broken JSON", "config.json", bad, [](std::string& b) { b.resize(b.size() / 2); }),
      bytes_of("a key twice", "config.json", bad,
               [](std::string& b) { b = "{\"vocab_size\": 1, \"vocab_size\": 2}"; }),
      bytes_of("a list", "config.json", bad, [](std::string& b) { b = "[]"; }),
      bytes_of("NaN", "config.json", bad, [](std::string& b) { b = "{\"rms_norm_eps\": NaN}"; }),
      bytes_of("ten thousand levels", "config.json", bad,
               [](std::string& b) { b = std::string(10000, '['); }),
      bytes_of("an empty file", "config.json", bad, [](std::string& b) { b.clear(); }),
      config("yarn", without_maths("yarn"),
             [](Json& c) {
               c["rope_parameters"]["rope_type"] = "yarn";
               c["rope_parameters"]["factor"] = 4.0;
             }),
      config("attention_bias", without_maths("attention_bias"),
             [](Json& c) { c["attention_bias"] = true; }),
      config("hidden_act", without_maths("hidden_act"), [](Json& c) { c["hidden_act"] = "gelu"; }),
      config("model_type", without_maths("llama"), [](Json& c) { c["model_type"] = "llama"; }),
      config("no hidden_size", bad, [](Json& c) { c.erase("hidden_size"); }),
      config("hidden_size as text", bad, [](Json& c) { c["hidden_size"] = "64"; }),
      config("a negative size", bad, [](Json& c) { c["hidden_size"] = -64; }),
      config("no head", bad, [](Json& c) { c["num_attention_heads"] = 0; }),
      config("heads that do not divide", bad, [](Json& c) { c["num_key_value_heads"] = 3; }),
      config("a vocabulary of 2^62", {"", ""}, [](Json& c) { c["vocab_size"] = 1ll << 62; }),
      config("a thousand million layers", {"", ""},
             [](Json& c) {
               c["num_hidden_layers"] = 1000000000;
               c.erase("layer_types");
             }),
      config("too few layer types", bad, [](Json& c) { c["layer_types"].erase(0); }),
      config("an unknown layer type", {"", "layer_types"},
             [](Json& c) { c["layer_types"][0] = "sliding_attention"; }),
      config("another hidden size", {"shape-mismatch", "weight"},
             [](Json& c) { c["hidden_size"] = 32; }),
  };
}

class DamagedModel : public BadInput {
 protected:
  /// `score` for each damage; every command for the first one.
  void expect_all_refused(const std::vector<Damage>& damages) {
    for (const Damage& damage : damages) {
      SCOPED_TRACE(damage.name);
      const fs::path model = damaged();
      damage.apply(model);
      if (&damage == &damages.front())
        for (const Arguments& command : all_on(model))
          expect_refused(command, outputs, damage.refusal);
      else
        expect_refused(score(model, ids), outputs, damage.refusal);
      fs::remove_all(model);
    }
  }
};

TEST_F(DamagedModel, HostileFilesAreRefused) { expect_all_refused(hostile_files()); }
TEST_F(DamagedModel, TensorsThatDoNotFitAreNamed) { expect_all_refused(wrong_tensors()); }
TEST_F(DamagedModel, ConfigurationsThatCannotBeRunAreRefused) {
  expect_all_refused(wrong_configs());
}

TEST_F(DamagedModel, ExpertsThatDoNotFitAreNamed) {
  const fs::path model = damaged("moe");
  config("experts", {}, [](Json& c) { c["num_experts_per_tok"] = 1000; }).apply(model);
  expect_refused(score(model, ids), outputs, {"bad-config", "num_experts_per_tok"});
}

TEST_F(DamagedModel, NewModelChecksItsOwnConfiguration) {
  const auto refused = [&](const std::string& text, const Refusal& refusal) {
    expect_refused({"new-model", "--config", rows_of(text), "--output_dir", out()}, outputs,
                   refusal);
  };
  refused("{", {"bad-config", "rows-"});
  refused("{}", {"bad-config", "model_type"});
  refused("{\"model_type\": \"gpt2\"}", {"unsupported-config", "gpt2"});
  expect_refused({"new-model", "--config", (inputs / "none.json").string(), "--output_dir", out()},
                 outputs, {"unreadable-file", "none.json"});
  expect_refused({"new-model", "--tokenizer", (inputs / "none").string(), "--output_dir", out()},
                 outputs, {"unreadable-file", "none"});
}

TEST_F(DamagedModel, ATokenizerOrTemplateThatIsBrokenIsNamed) {
  const auto refused = [&](const char* file, const std::string& text, const Refusal& refusal) {
    SCOPED_TRACE(file);
    const fs::path model = damaged();
    write_text(model / file, text);
    expect_refused(infer(model, chats), outputs, refusal);
    expect_refused(grpo(model, chats), outputs, refusal);
    expect_refused(sft(model, chats), outputs, refusal);
  };
  refused("tokenizer.json", "{", {"bad-tokenizer", "tokenizer.json"});
  refused("tokenizer.json", "{\"model\": {\"type\": \"WordPiece\"}}",
          {"bad-tokenizer", "tokenizer.json"});
  refused("chat_template.jinja", "{% for m in messages %}",
          {"bad-template", "chat_template.jinja"});
}

TEST_F(DamagedModel, DoctorChecksTheModelToo) {
  const fs::path model = damaged();
  fs::remove(model / "config.json");
  const ProgramResult result = run_program({"doctor", "--model", model.string(), "--quiet"});
  EXPECT_EQ(result.exit_code, kBadInput) << result.err;
  EXPECT_THAT(error_line(result.err), StartsWith("lockstep: error[missing-model]: "));
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
  // Smaller than the weights, larger than the files beside them.
  const ProgramWorld world{.file_limit = 1'000'000};
  expect_refused(exported(model()), outputs, full, world);
  expect_refused({"new-model", "--output_dir", out()}, outputs, full, world);
}

TEST_F(BadInput, AFullDiskWhileACheckpointIsSavedLeavesTheEarlierOnes) {
  // The second checkpoint is the first one that does not fit, because the log is longer.
  for (const Arguments& command : {sft(model(), chats), grpo(model(), chats)}) {
    fs::remove_all(outputs / "out");
    const ProgramResult result =
        run_program(command + Arguments{"--save_steps", "1", "--quiet"}, {.file_limit = 1'000'000});
    EXPECT_EQ(result.exit_code, kFailed) << result.err;
    EXPECT_THAT(error_line(result.err), StartsWith("lockstep: error[unwritable-output]: "));
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
  const std::string whole = slurp(checkpoint / "optimizer.safetensors");
  const Arguments resume =
      grpo(model(), chats) + Arguments{"--resume_from_checkpoint", checkpoint.string()};
  write_text(checkpoint / "optimizer.safetensors", whole.substr(0, whole.size() / 2));
  expect_refused(resume, outputs, {"bad-safetensors", "optimizer.safetensors"});
  write_text(checkpoint / "optimizer.safetensors", safetensors_bytes("{}", 0));
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
    EXPECT_EQ(result.exit_code, kInterrupted) << result.err;
    EXPECT_THAT(error_line(result.err), StartsWith("lockstep: error[interrupted]: "));
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
