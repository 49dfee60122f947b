// What the program says to checkpoints that are damaged or cannot be run.
// SPDX-License-Identifier: Apache-2.0
#include <functional>

#include "tests/e2e/bad_input.h"
#include "tests/io/safetensors_bytes.h"

namespace lockstep::testing {
namespace {

using ::testing::StartsWith;

/// One way to damage a checkpoint, and what is said of it.
struct Damage {
  const char* name;
  std::function<void(const fs::path&)> apply;
  Refusal refusal;
};

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
         fs::remove(m / "model.safetensors");
         write_text(m / "model.safetensors.index.json",
                    R"({"weight_map": {"a": "../../etc/passwd"}})");
       },
       {"bad-safetensors-index", "index.json"}},
      {"an index of a shard that is not there",
       [](const fs::path& m) {
         fs::remove(m / "model.safetensors");
         write_text(m / "model.safetensors.index.json",
                    R"({"weight_map": {"a": "model-00001-of-00002.safetensors"}})");
       },
       {"bad-safetensors-index", "index.json"}},
      {"an index that is no JSON",
       [](const fs::path& m) {
         fs::remove(m / "model.safetensors");
         write_text(m / "model.safetensors.index.json", "{");
       },
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
      config("a thousand million layers", {"bad-config", "num_hidden_layers"},
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

TEST_F(DamagedModel, ExpertsBeyondAnyMemoryAreRefused) {
  const fs::path model = damaged("moe");
  config("experts", {}, [](Json& c) { c["num_experts"] = 1000000000; }).apply(model);
  expect_refused(score(model, ids), outputs, {"bad-config", "num_experts"});
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

}  // namespace
}  // namespace lockstep::testing
