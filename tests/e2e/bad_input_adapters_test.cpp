// What the program says to adapters that are damaged or of another model.
// SPDX-License-Identifier: Apache-2.0
#include <functional>

#include "tests/e2e/bad_input.h"
#include "tests/io/safetensors_bytes.h"

namespace lockstep::testing {
namespace {

class BadAdapter : public BadInput {
 protected:
  static std::string moe() { return (*shared_ / "moe").string(); }

  void SetUp() override {
    adapter_ = *shared_ / "run" / "last";
    if (fs::exists(adapter_)) return;
    run_well({"sft", "--model", moe(), "--dataset", chats, "--output_dir",
              (*shared_ / "run").string(), "--tuner_type", "lora", "--lora_experts", "true",
              "--max_steps", "1", "--quiet"});
  }

  /// Damages a copy of the adapter, and expects each command that reads one to refuse it.
  void refused(const std::function<void(const fs::path&)>& damage,
               const Refusal& refusal,
               const std::string& model = moe()) {
    const fs::path copy = inputs / fmt::format("adapter-{}", count_++);
    fs::create_directory(copy);
    for (const char* name : {"adapter_config.json", "adapter_model.safetensors"})
      fs::copy(adapter_ / name, copy);
    damage(copy);
    const Arguments adapters = {"--adapters", copy.string()};
    for (const Arguments& command :
         {score(model, ids), exported(model), exported(model) + Arguments{"--merge_lora", "true"}})
      expect_refused(command + adapters, outputs, refusal);
    expect_refused(sft(model, chats) + Arguments{"--tuner_type", "lora"} + adapters, outputs,
                   refusal);
  }
  void refused_file(const std::function<void(Json&, std::string&)>& change,
                    const Refusal& refusal) {
    refused(
        [&](const fs::path& copy) {
          TensorFile file = read_tensors(copy / "adapter_model.safetensors");
          change(file.header, file.data);
          const std::string header = dump_json(file.header);
          write_text(copy / "adapter_model.safetensors",
                     length_bytes(header.size()) + header + file.data);
        },
        refusal);
  }
  void refused_config(const std::function<void(Json&)>& change, const Refusal& refusal) {
    refused(
        [&](const fs::path& copy) {
          Json config = parse_json_file(copy / "adapter_config.json");
          change(config);
          write_text(copy / "adapter_config.json", dump_json(config));
        },
        refusal);
  }

  fs::path adapter_;
};

constexpr const char* kLayer = "base_model.model.model.layers.1.";

TEST_F(BadAdapter, AFileThatIsDamagedIsRefused) {
  refused([](const fs::path& copy) { fs::remove(copy / "adapter_model.safetensors"); },
          {"missing-adapter", "no adapter_model.safetensors"});
  refused(
      [](const fs::path& copy) {
        const fs::path file = copy / "adapter_model.safetensors";
        fs::resize_file(file, fs::file_size(file) - 1000);
      },
      {"bad-safetensors", "adapter_model.safetensors"});
  refused([](const fs::path& copy) { write_text(copy / "adapter_model.safetensors", ""); },
          {"bad-safetensors", "adapter_model.safetensors"});
  refused([](const fs::path& copy) { write_text(copy / "adapter_config.json", "{\"r\": "); },
          {"bad-adapter", "adapter_config.json"});
}

TEST_F(BadAdapter, ATensorThatDoesNotFitIsNamed) {
  const std::string query = std::string(kLayer) + "self_attn.q_proj.lora_A.weight";
  const auto renamed = [&](const std::string& from, const std::string& to) {
    return [from, to](Json& header, std::string&) {
      ASSERT_TRUE(header.contains(from));
      header[to] = header[from];
      header.erase(from);
    };
  };
  refused_file(renamed(query, std::string(kLayer) + "self_attn.q_proj.lora_C.weight"),
               {"bad-adapter", "q_proj.lora_C.weight: expected a tensor base_model.model."});
  refused_file(renamed(query, std::string(kLayer) + "self_attn.q_proj.lora_magnitude_vector"),
               {"bad-adapter", "DoRA is not built"});
  refused_file(renamed(query, std::string(kLayer) + "self_attn.qkv_proj.lora_A.weight"),
               {"bad-adapter", "qkv_proj.lora_A.weight: expected a linear layer or experts"});
  // Where the pair's other half is all that is left.
  const std::string down = std::string(kLayer) + "mlp.experts.lora_B.weight";
  refused_file(
      [&](Json& header, std::string& data) {
        const size_t begin = header[down]["data_offsets"][0], end = header[down]["data_offsets"][1];
        data.erase(begin, end - begin);
        header.erase(down);
        for (auto& [name, tensor] : header.items())
          if (name != "__metadata__" && tensor["data_offsets"][0] >= end)
            for (Json& offset : tensor["data_offsets"])
              offset = offset.get<size_t>() - (end - begin);
      },
      {"bad-adapter", "mlp.experts.lora_B.weight: expected both halves of the pair"});
}

TEST_F(BadAdapter, AConfigurationThatIsNotTheTensorsIsRefused) {
  refused_config([](Json& config) { config["r"] = 4; },
                 {"bad-adapter", "lora_A.weight: expected shape [4, "});
  refused_config(
      [](Json& config) {
        config["rank_pattern"] = {{"experts.gate_up_proj", 16}};
      },
      {"bad-adapter", "experts.base_layer.lora_A.weight: expected shape [128, 64]"});
  refused_config(
      [](Json& config) { config["modules_to_save"] = {"embed_tokens"}; },
      {"bad-adapter", "model.embed_tokens.weight: expected a tensor of the modules_to_save"});
  refused_config([](Json& config) { config["use_dora"] = true; }, {"bad-adapter", "DoRA"});
}

/// experts.down_proj has as many inputs as outputs here.
TEST_F(BadAdapter, AParameterThatMayBeTurnedEitherWayIsRefused) {
  run_well({"sft", "--model", moe(), "--dataset", chats, "--output_dir", (inputs / "down").string(),
            "--tuner_type", "lora", "--target_modules", "q_proj", "--target_parameters",
            "experts.down_proj", "--max_steps", "1", "--quiet"});
  adapter_ = inputs / "down" / "last";
  refused_config([](Json& config) { config.erase("peft_version"); },
                 {"bad-adapter", "mlp.experts.lora_A.weight: expected a peft_version"});
  refused_config([](Json& config) { config["target_parameters"] = nullptr; },
                 {"bad-adapter", "expected one of gate_up_proj and down_proj among"});
}

/// PEFT writes the embedding beside its pair, and would load it over the model's.
TEST_F(BadAdapter, AnotherEmbeddingBesideItsPairIsRefused) {
  run_well({"sft", "--model", moe(), "--dataset", chats, "--output_dir",
            (inputs / "embedding").string(), "--tuner_type", "lora", "--target_modules",
            "embed_tokens", "lm_head", "--max_steps", "1", "--quiet"});
  adapter_ = inputs / "embedding" / "last";
  const Json model_tensors = read_tensors(fs::path(moe()) / "model.safetensors").header;
  const Json shape = model_tensors.at("model.embed_tokens.weight")["shape"];
  refused_file(
      [&](Json& header, std::string& data) {
        const size_t begin = data.size();
        data.resize(begin + 4 * shape[0].get<size_t>() * shape[1].get<size_t>());
        header["base_model.model.model.embed_tokens.base_layer.weight"] = {
            {"dtype", "F32"}, {"shape", shape}, {"data_offsets", {begin, data.size()}}};
      },
      {"bad-adapter", "model.embed_tokens.weight: expected the values of"});
}

/// A server mixes adapters over one copy of the model.
TEST_F(BadAdapter, ModulesThatAreTrainedWholeAreRefusedByServers) {
  const Arguments trained = {"--tuner_type", "lora", "--modules_to_save", "norm"};
  run_well(Arguments{"sft", "--model", moe(), "--dataset", chats, "--output_dir",
                     (inputs / "whole").string(), "--max_steps", "1", "--quiet"} +
           trained);
  expect_refused({"rollout", "--model", moe(), "--port", "0", "--adapters",
                  "whole=" + (inputs / "whole" / "last").string()},
                 outputs, {"unsupported-adapter", "modules_to_save [\"norm\"]"});
  expect_refused(
      grpo(moe(), chats) + trained +
          Arguments{"--rollout_mode", "server", "--rollout_server", "http://127.0.0.1:9"},
      outputs, {"bad-flag", "--sync_mode: expected full where modules"});
  expect_refused(
      sft(moe(), chats) + Arguments{"--tuner_type", "lora", "--modules_to_save", "norms"}, outputs,
      {"no-match", "--modules_to_save: expected the end of a module's path ("});
}

TEST_F(BadAdapter, AnotherModelIsRefusedByItsShapes) {
  const auto as_it_is = [](const fs::path&) {};
  refused(as_it_is, {"bad-adapter", "base_model.model.model.layers.0."}, model());
  const std::string wide = new_model(inputs, "wide", {"--like", "qwen3_moe", "--size", "10m"});
  refused(as_it_is, {"bad-adapter", "lora_A.weight: expected shape [8, "}, wide);
}

/// Shapes may fit all the same, so it is a warning; folders move, so the last part counts.
TEST_F(BadAdapter, AnotherBaseIsWarnedOf) {
  const fs::path copy = inputs / "of-another-base";
  fs::create_directory(copy);
  fs::copy(adapter_ / "adapter_model.safetensors", copy);
  Json config = parse_json_file(adapter_ / "adapter_config.json");
  for (const auto& [name, is_other] : {std::pair("Qwen/Qwen3-30B-A3B", true),
                                       {"elsewhere/moe", false},
                                       {"elsewhere/moe/", false}}) {
    config["base_model_name_or_path"] = name;
    write_text(copy / "adapter_config.json", dump_json(config));
    const std::string said =
        run_well(score(moe(), ids) + Arguments{"--overwrite", "true", "--adapters", copy.string()})
            .err;
    EXPECT_EQ(said.find("made beside Qwen/Qwen3-30B-A3B, not ") != said.npos, is_other) << said;
  }
}

TEST_F(BadAdapter, FlagsOfAnExportThatDoNotGoTogetherAreRefused) {
  const Arguments adapters = {"--adapters", adapter_.string()};
  const auto refuse = [&](const Arguments& more, const Refusal& refusal) {
    expect_refused(exported(moe()) + more, outputs, refusal);
  };
  refuse({"--merge_lora", "true"}, {"bad-flag", "--merge_lora: expected --adapters"});
  refuse({"--adapter_format", "peft"}, {"bad-flag", "--adapter_format: expected --adapters"});
  refuse(adapters + Arguments{"--merge_lora", "true", "--adapter_format", "peft"},
         {"bad-flag", "--adapter_format: expected none"});
  refuse(adapters + Arguments{"--torch_dtype", "bfloat16"}, {"bad-flag", "--torch_dtype"});
  refuse(adapters + Arguments{"--max_shard_size", "1GB"}, {"bad-flag", "--max_shard_size"});
  refuse(adapters + Arguments{"--adapter_format", "gguf"}, {"bad-flag", "peft, per-expert"});
  refuse({"--adapters", (inputs / "none").string()}, {"missing-adapter", "adapter_config.json"});
}

}  // namespace
}  // namespace lockstep::testing
