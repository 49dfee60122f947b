// Checkpoints that the program's own commands do not write: in float16, with two sets of weights,
// with a head that config.json does not know.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/json.h"
#include "tests/e2e/program_files.h"
#include "tests/io/safetensors_bytes.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

/// The nearest float16, ties to even. Source: IEEE 754-2019, binary16.
uint16_t half_bits(float value) {
  int exponent = 0;
  const double fraction = std::frexp(std::abs(static_cast<double>(value)), &exponent);
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  constexpr int kLeastExponent = -13;
  if (exponent < kLeastExponent)
    return static_cast<uint16_t>(sign | std::lrint(std::ldexp(std::abs(value), 24)));
  // A fraction that is rounded up to 2048 carries into the exponent by itself.
  return static_cast<uint16_t>(sign | (((exponent + 13) << 10) + std::lrint(fraction * 2048)));
}

float half_value(uint16_t bits) {
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const double size =
      exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
  return static_cast<float>(bits & 0x8000 ? -size : size);
}

/// Changes a checkpoint's config.json.
template <class Change>
void edit_config(const fs::path& model, const Change& change) {
  Json config = parse_json_file(model / "config.json");
  change(config);
  write_file(model / "config.json", dump_json(config));
}

/// Rounds a float32 checkpoint to the values of float16. `other` becomes the same checkpoint stored
/// in float16.
void make_float16_twin(const fs::path& model, const fs::path& other) {
  fs::copy(model, other);
  TensorFile wide = read_tensors(model / "model.safetensors");
  Json narrow = wide.header;
  std::string halves;
  for (auto& [name, entry] : narrow.items()) {
    if (name == "__metadata__") continue;
    const auto begin = entry["data_offsets"][0].get<size_t>(),
               end = entry["data_offsets"][1].get<size_t>();
    const size_t first = halves.size();
    for (size_t at = begin; at < end; at += sizeof(float)) {
      float value = 0;
      std::memcpy(&value, wide.data.data() + at, sizeof value);
      const uint16_t bits = half_bits(value);
      value = half_value(bits);
      std::memcpy(wide.data.data() + at, &value, sizeof value);
      halves.append(reinterpret_cast<const char*>(&bits), sizeof bits);
    }
    entry["dtype"] = "F16";
    entry["data_offsets"] = {first, halves.size()};
  }
  const auto write = [](const fs::path& path, const Json& header, const std::string& data) {
    const std::string text = dump_json(header);
    write_file(path, length_bytes(text.size()) + text + data);
  };
  write(model / "model.safetensors", wide.header, wide.data);
  write(other / "model.safetensors", narrow, halves);
  edit_config(other, [](Json& config) {
    for (Json* level : {&config, config.contains("text_config") ? &config["text_config"] : &config})
      for (const char* key : {"dtype", "torch_dtype"}) (*level)[key] = "float16";
  });
}

struct Twins {
  std::string float32, float16;
};

Twins make_twins(const TempDir& folder, const Arguments& like) {
  Twins twins{new_model(folder, "f32", Arguments{"--torch_dtype", "float32"} + like),
              (folder / "f16").string()};
  make_float16_twin(twins.float32, twins.float16);
  return twins;
}

const std::vector<Arguments>& kinds() {
  static const std::vector<Arguments> all{{"--like", "qwen3"},
                                          {"--like", "qwen3_5_moe", "--nested", "true"}};
  return all;
}

/// The rows of a command that reads rows and writes rows, and what it said.
std::pair<std::vector<Json>, std::string> map_rows(const TempDir& folder,
                                                   const Arguments& command,
                                                   const char* output_flag) {
  const std::string output = (folder / "out.jsonl").string();
  const auto result = run_well(command + Arguments{output_flag, output});
  auto rows = read_rows(output);
  fs::remove(output);
  return {std::move(rows), result.err};
}

constexpr const char* kAsFloat32 = " float16 tensors are loaded as float32";
constexpr const char* kAsBFloat16 = " float16 tensors are loaded as bfloat16";

TEST(Float16, IsComputedAsItsTwinInFloat32) {
  for (const Arguments& like : kinds()) {
    SCOPED_TRACE(like[1]);
    const TempDir folder;
    const Twins twins = make_twins(folder, like);
    const std::string rows = write_rows(folder, "rows.jsonl", id_rows({3, 70}, 2048, 1));
    const auto score = [&](const std::string& model, const Arguments& more) {
      return map_rows(folder, Arguments{"score", "--model", model, "--dataset", rows} + more,
                      "--output");
    };
    const auto [expected, said] = score(twins.float32, {});
    EXPECT_THAT(said, Not(HasSubstr("float16 tensors")));
    for (const Arguments& more :
         {Arguments{}, {"--torch_dtype", "float32"}, {"--torch_dtype", "auto"}}) {
      const auto [got, line] = score(twins.float16, more);
      EXPECT_EQ(got, expected);
      EXPECT_THAT(line, HasSubstr(kAsFloat32));
    }
    const Arguments rounded{"--torch_dtype", "bfloat16"};
    const auto [bfloat16, line] = score(twins.float16, rounded);
    EXPECT_THAT(line, HasSubstr(kAsBFloat16));
    EXPECT_EQ(bfloat16, score(twins.float32, rounded).first);
    EXPECT_NE(bfloat16, expected);
  }
}

TEST(Float16, IsRefusedAsAPrecisionToComputeIn) {
  const TempDir folder;
  const std::string model = new_model(folder, "m", {"--like", "qwen3"}),
                    rows = write_rows(folder, "rows.jsonl", id_rows({3}, 2048, 1));
  const auto result = run_program({"score", "--model", model, "--dataset", rows, "--output",
                                   (folder / "out.jsonl").string(), "--torch_dtype", "float16"});
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("--torch_dtype: expected one of float32, bfloat16"));
}

TEST(Float16, LoadsInEveryCommandThatComputes) {
  const TempDir folder;
  const Twins twins = make_twins(folder, {"--like", "qwen3"});
  const std::string rows = write_rows(folder, "rows.jsonl", id_rows({5, 9}, 2048, 2));
  const auto infer = [&](const std::string& model) {
    return map_rows(folder,
                    {"infer", "--model", model, "--dataset", rows, "--temperature", "0",
                     "--max_new_tokens", "4"},
                    "--result_path");
  };
  EXPECT_EQ(infer(twins.float16).first, infer(twins.float32).first);
  EXPECT_THAT(infer(twins.float16).second, HasSubstr(kAsFloat32));

  Json row = id_rows({6}, 2048, 3)[0];
  row["completion_mask"] = {0, 0, 0, 1, 1, 1};
  row["advantage"] = 1.5;
  const std::string batch = write_rows(folder, "batch.jsonl", {row});
  const auto grad = [&](const std::string& model) {
    return run_well({"grad", "--model", model, "--batch", batch});
  };
  EXPECT_EQ(grad(twins.float16).out, grad(twins.float32).out);
  EXPECT_THAT(grad(twins.float16).err, HasSubstr(kAsFloat32));

  run_well({"doctor", "--model", twins.float16});
}

/// The dtypes of a checkpoint's tensors, by what they are part of: "carried", "delta" (A_log and
/// the delta rule's norm) or "text".
std::map<std::string, std::set<std::string>> dtypes_in(const fs::path& model) {
  std::map<std::string, std::set<std::string>> found;
  const Json header = read_tensors(model / "model.safetensors").header;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    const bool is_carried = name.find("visual.") != name.npos || name.starts_with("mtp."),
               is_delta = name.ends_with(".A_log") || name.ends_with(".linear_attn.norm.weight");
    found[is_carried ? "carried"
          : is_delta ? "delta"
                     : "text"]
        .insert(entry["dtype"].get<std::string>());
  }
  return found;
}

/// The bytes of a carried tensor.
std::string carried_bytes(const fs::path& model) {
  const TensorFile file = read_tensors(model / "model.safetensors");
  for (const auto& [name, entry] : file.header.items())
    if (name.starts_with("mtp.")) {
      const auto begin = entry["data_offsets"][0].get<size_t>();
      return file.data.substr(begin, entry["data_offsets"][1].get<size_t>() - begin);
    }
  return {};
}

TEST(Float16, ATrainedCheckpointSaysWhatItHolds) {
  const TempDir folder;
  const Twins twins = make_twins(folder, {"--like", "qwen3_5_moe", "--nested", "true"});
  const std::string rows = write_rows(folder, "rows.jsonl", sum_rows(4));
  struct Case {
    const char *name, *dtype, *stored, *line;
    Arguments flags;
  };
  const std::vector<Case> cases{
      {"exact", "float32", "F32", kAsFloat32, {}},
      {"rounded", "bfloat16", "BF16", kAsBFloat16, {"--torch_dtype", "bfloat16"}}};
  for (const Case& one : cases) {
    SCOPED_TRACE(one.name);
    const fs::path run = folder / one.name;
    const auto result =
        run_well(Arguments{"sft", "--model", twins.float16, "--tuner_type", "full", "--dataset",
                           rows, "--max_steps", "1", "--output_dir", run.string()} +
                 one.flags);
    EXPECT_THAT(result.err, HasSubstr(one.line));
    const fs::path checkpoint = run / "checkpoint-1";
    const Json config = parse_json_file(checkpoint / "config.json");
    for (const Json* level : {&config, &config["text_config"]})
      for (const char* key : {"dtype", "torch_dtype"}) EXPECT_EQ((*level)[key], one.dtype) << key;
    const std::map<std::string, std::set<std::string>> expected{
        {"carried", {"F16"}}, {"delta", {"F32"}}, {"text", {one.stored}}};
    EXPECT_EQ(dtypes_in(checkpoint), expected);
    EXPECT_EQ(carried_bytes(checkpoint), carried_bytes(twins.float16));
    EXPECT_FALSE(carried_bytes(checkpoint).empty());
    EXPECT_EQ(parse_json_file(run / "args.json")["torch_dtype"], one.dtype);
  }
}

TEST(Float16, ARunWithAReferenceModelSaysItOnceAndResumes) {
  const TempDir folder;
  const Twins twins = make_twins(folder, {"--like", "qwen3"});
  const std::string rows = write_rows(folder, "rows.jsonl", sum_rows(4));
  const auto train = [&](const char* steps, const Arguments& more) {
    return run_well(Arguments{"grpo", "--model", twins.float16, "--tuner_type", "full", "--dataset",
                              rows, "--reward_funcs", "accuracy", "--num_generations", "2",
                              "--max_completion_length", "4", "--max_steps", steps, "--save_steps",
                              "1", "--output_dir", (folder / "run").string()} +
                    more)
        .err;
  };
  const std::string said = train("1", {});
  const size_t first = said.find(kAsFloat32);
  ASSERT_NE(first, said.npos) << said;
  EXPECT_EQ(said.find(kAsFloat32, first + 1), said.npos) << said;
  train("2", {"--resume_from_checkpoint", "last"});
}

TEST(Float16, IsExportedByteForByteOrCast) {
  const TempDir folder;
  const Twins twins = make_twins(folder, {"--like", "qwen3_5_moe", "--nested", "true"});
  const fs::path source = twins.float16;
  const auto exported = [&](const char* name, const Arguments& more) {
    const fs::path path = folder / name;
    run_well(Arguments{"export", "--model", twins.float16, "--output_dir", path.string()} + more);
    return path;
  };
  const fs::path same = exported("same", {});
  EXPECT_EQ(parse_json_file(same / "config.json"), parse_json_file(source / "config.json"));
  const std::map<std::string, std::set<std::string>> stored{
      {"carried", {"F16"}}, {"delta", {"F16"}}, {"text", {"F16"}}};
  EXPECT_EQ(dtypes_in(same), stored);
  const std::map<std::string, std::set<std::string>> cast{
      {"carried", {"F16"}}, {"delta", {"F32"}}, {"text", {"BF16"}}};
  const fs::path rounded = exported("rounded", {"--torch_dtype", "bfloat16"});
  EXPECT_EQ(dtypes_in(rounded), cast);
  EXPECT_EQ(parse_json_file(rounded / "config.json")["text_config"]["dtype"], "bfloat16");
}

TEST(Float16, GoesThroughLayoutsAndBack) {
  const TempDir folder;
  const Twins twins = make_twins(folder, {"--like", "qwen3_5_moe", "--nested", "true"});
  const auto convert = [&](const char* from, const char* to, const std::string& input,
                           const char* name) {
    const std::string output = (folder / name).string();
    run_well({"layout", "convert", "--from", from, "--to", to, "--input", input, "--output_dir",
              output});
    return output;
  };
  const std::string there = convert("checkpoint", "fsdp2:world=2", twins.float16, "there"),
                    back = convert("fsdp2:world=2", "checkpoint", there, "back");
  run_well(
      {"layout", "verify", "--layout", "checkpoint", "--input", back, "--model", twins.float16});
  EXPECT_EQ(carried_bytes(back), carried_bytes(twins.float16));
}

/// Some trainers leave norms or a router in float32 beside bfloat16.
TEST(Float16, WeightsOfSeveralPrecisionsAreLoadedAsConfigSays) {
  const TempDir folder;
  const std::string wide =
                        new_model(folder, "wide", {"--like", "qwen3", "--torch_dtype", "float32"}),
                    narrow = (folder / "narrow").string(), mixed = (folder / "mixed").string();
  run_well({"export", "--model", wide, "--torch_dtype", "bfloat16", "--output_dir", narrow});
  fs::copy(narrow, mixed);
  const TensorFile f32 = read_tensors(wide + "/model.safetensors"),
                   bf16 = read_tensors(narrow + "/model.safetensors");
  Json header = Json::object();
  std::string data;
  for (const auto& [name, entry] : f32.header.items()) {
    if (name == "__metadata__") continue;
    const bool is_wide = name.ends_with("norm.weight") || name.ends_with("up_proj.weight");
    const TensorFile& from = is_wide ? f32 : bf16;
    const Json& taken = from.header[name];
    const auto begin = taken["data_offsets"][0].get<size_t>(),
               end = taken["data_offsets"][1].get<size_t>();
    header[name] = taken;
    header[name]["data_offsets"] = {data.size(), data.size() + end - begin};
    data += from.data.substr(begin, end - begin);
  }
  const std::string text = dump_json(header);
  write_file(mixed + "/model.safetensors", length_bytes(text.size()) + text + data);
  const std::string rows = write_rows(folder, "rows.jsonl", id_rows({9}, 2048, 5));
  const auto score = [&](const std::string& model, const Arguments& more) {
    return map_rows(folder, Arguments{"score", "--model", model, "--dataset", rows} + more,
                    "--output");
  };
  const auto [got, said] = score(mixed, {});
  EXPECT_EQ(got, score(narrow, {}).first);
  EXPECT_THAT(said, HasSubstr("weights of several precisions are loaded as bfloat16"));
  // An own wish is met without a word.
  const auto [asked, silent] = score(mixed, {"--torch_dtype", "bfloat16"});
  EXPECT_EQ(asked, got);
  EXPECT_THAT(silent, Not(HasSubstr("several precisions")));
}

/// What ends a completion stands in up to three files, and a folder of weights and ids alone has
/// generation_config.json all the same.
TEST(StopIds, OfGenerationConfigNeedNoTokenizer) {
  const TempDir folder;
  const fs::path model = new_model(folder, "m", {"--like", "qwen3"});
  for (const char* file : {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"})
    fs::remove(model / file);
  edit_config(model, [](Json& config) { config.erase("eos_token_id"); });
  const std::string rows = write_rows(folder, "rows.jsonl", id_rows({5}, 2048, 4));
  const auto answer = [&](const Json& stops) {
    write_file(model / "generation_config.json", dump_json(Json{{"eos_token_id", stops}}));
    return map_rows(folder,
                    {"infer", "--model", model.string(), "--dataset", rows, "--temperature", "0",
                     "--max_new_tokens", "3"},
                    "--result_path")
        .first[0]["responses"][0];
  };
  const Json whole = answer(nullptr);
  ASSERT_EQ(whole["finish_reason"], "length");
  const Json first = whole["token_ids"][0];
  for (const Json& stops : {first, Json::array({2047, first})}) {
    const Json cut = answer(stops);
    EXPECT_EQ(cut["finish_reason"], "stop");
    EXPECT_EQ(cut["token_ids"], Json::array({first}));
  }
}

/// transformers takes model.safetensors where an index names other files.
TEST(TwoSetsOfWeights, WhichIsLoadedIsSaid) {
  const TempDir folder;
  const std::string model = new_model(folder, "m", {"--like", "qwen3"}),
                    other = new_model(folder, "other", {"--like", "qwen3", "--seed", "7"}),
                    rows = write_rows(folder, "rows.jsonl", id_rows({9}, 2048, 1));
  const auto score = [&] {
    return map_rows(folder, {"score", "--model", model, "--dataset", rows}, "--output");
  };
  const auto [expected, before] = score();
  EXPECT_THAT(before, Not(HasSubstr("is loaded, as transformers does")));
  Json index{{"metadata", Json::object()}, {"weight_map", Json::object()}};
  const Json header = read_tensors(other + "/model.safetensors").header;
  for (const auto& [name, entry] : header.items())
    if (name != "__metadata__") index["weight_map"][name] = "model-00001-of-00001.safetensors";
  fs::copy(other + "/model.safetensors", model + "/model-00001-of-00001.safetensors");
  write_file(model + "/model.safetensors.index.json", dump_json(index));
  const auto [got, said] = score();
  EXPECT_EQ(got, expected);
  EXPECT_THAT(said, HasSubstr("model.safetensors is loaded, as transformers does"));
  EXPECT_THAT(
      run_well({"layout", "verify", "--layout", "checkpoint", "--input", other, "--model", other})
          .err,
      Not(HasSubstr("is loaded, as transformers does")));
  EXPECT_THAT(run_well({"layout", "show", "checkpoint", "--model", model}).err,
              HasSubstr("is loaded, as transformers does"));
}

/// Adds a head to a tied checkpoint: the embedding, with its rows in reverse order unless
/// `is_equal`.
void add_head(const fs::path& model, bool is_equal) {
  TensorFile file = read_tensors(model / "model.safetensors");
  Json embedding;
  for (const auto& [name, entry] : file.header.items())
    if (name.ends_with("embed_tokens.weight")) embedding = entry;
  const auto begin = embedding["data_offsets"][0].get<size_t>(),
             size = embedding["data_offsets"][1].get<size_t>() - begin,
             rows = embedding["shape"][0].get<size_t>(), row = size / rows;
  embedding["data_offsets"] = {file.data.size(), file.data.size() + size};
  for (size_t i = 0; i < rows; ++i)
    file.data += file.data.substr(begin + row * (is_equal ? i : rows - 1 - i), row);
  file.header["lm_head.weight"] = embedding;
  const std::string text = dump_json(file.header);
  write_file(model / "model.safetensors", length_bytes(text.size()) + text + file.data);
}

std::string tensor_bytes(const fs::path& model, const std::string& name) {
  const TensorFile file = read_tensors(model / "model.safetensors");
  const auto& offsets = file.header.at(name).at("data_offsets");
  const auto begin = offsets[0].get<size_t>();
  return file.data.substr(begin, offsets[1].get<size_t>() - begin);
}

constexpr const char* kOwnHead = "lm_head.weight is loaded as a head of its own";

/// transformers ties a head only where the file's values allow it; a checkpoint with both matrices
/// is the one whose config.json says that there are two.
TEST(TiedHead, OneOfOtherValuesIsLoadedAsOne) {
  for (const Arguments& like : kinds()) {
    const TempDir folder;
    const std::string tied =
                          new_model(folder, "tied", Arguments{"--torch_dtype", "float32"} + like),
                      untied = (folder / "untied").string(), equal = (folder / "equal").string(),
                      rows = write_rows(folder, "rows.jsonl", id_rows({9, 5}, 2048, 1));
    fs::copy(tied, equal);
    add_head(equal, true);
    const auto score = [&](const std::string& model) {
      return map_rows(folder, {"score", "--model", model, "--dataset", rows}, "--output");
    };
    const auto plain = score(tied), same = score(equal);
    EXPECT_EQ(same.first, plain.first);
    EXPECT_THAT(same.second, Not(HasSubstr(kOwnHead)));

    add_head(tied, false);
    fs::copy(tied, untied);
    edit_config(untied, [](Json& config) {
      config["tie_word_embeddings"] = false;
      if (config.contains("text_config")) config["text_config"]["tie_word_embeddings"] = false;
    });
    const auto own = score(tied), expected = score(untied);
    EXPECT_EQ(own.first, expected.first);
    EXPECT_NE(own.first, plain.first);
    EXPECT_THAT(own.second, HasSubstr(kOwnHead));
    EXPECT_THAT(expected.second, Not(HasSubstr(kOwnHead)));
  }
}

/// Both matrices are trained, and config.json of what is saved says that there are two, so that an
/// engine which believes it loads the same model.
TEST(TiedHead, OneOfOtherValuesIsTrainedAndSavedAsOne) {
  for (const Arguments& like : kinds()) {
    const TempDir folder;
    const std::string model = new_model(folder, "m", Arguments{"--torch_dtype", "float32"} + like),
                      untied = (folder / "untied").string(),
                      rows = write_rows(folder, "rows.jsonl", sum_rows(4));
    add_head(model, false);
    fs::copy(model, untied);
    edit_config(untied, [](Json& config) {
      config["tie_word_embeddings"] = false;
      if (config.contains("text_config")) config["text_config"]["tie_word_embeddings"] = false;
    });
    const auto train = [&](const std::string& from, const char* name) {
      const std::string out = (folder / name).string();
      run_well({"sft", "--model", from, "--tuner_type", "full", "--dataset", rows, "--output_dir",
                out, "--max_steps", "2", "--learning_rate", "1e-3"});
      return fs::path(out) / "checkpoint-2";
    };
    const fs::path got = train(model, "got"), expected = train(untied, "expected");
    EXPECT_EQ(parse_json_file(got / "config.json"), parse_json_file(expected / "config.json"));
    EXPECT_EQ(read_file(got / "model.safetensors"), read_file(expected / "model.safetensors"));
    EXPECT_NE(tensor_bytes(got, "lm_head.weight"), tensor_bytes(model, "lm_head.weight"));
    // Without a loaded model nothing is decided: config.json and tensors stay as they are.
    const std::string copy = (folder / "copy").string();
    run_well({"export", "--model", model, "--output_dir", copy});
    EXPECT_EQ(tensor_bytes(copy, "lm_head.weight"), tensor_bytes(model, "lm_head.weight"));
    EXPECT_EQ(parse_json_file(fs::path(copy) / "config.json")["tie_word_embeddings"], true);
  }
}

/// transformers would apply an adapter that lies beside the weights.
TEST(Adapter, IsNotIgnored) {
  const TempDir folder;
  const std::string model = new_model(folder, "m", {"--like", "qwen3"}),
                    rows = write_rows(folder, "rows.jsonl", id_rows({9}, 2048, 1));
  const auto score = [&](const std::string& from) {
    return run_program({"score", "--model", from, "--dataset", rows, "--output",
                        (folder / "out.jsonl").string(), "--overwrite", "true"});
  };
  fs::create_directory(model + "/adapters");
  fs::copy(model + "/model.safetensors", model + "/adapters/adapter_model.safetensors");
  write_file(model + "/adapter_config.json", "{}");
  EXPECT_EQ(score(model).exit_code, 0);
  write_file(model + "/adapter_model.safetensors", "");
  const auto beside = score(model);
  EXPECT_EQ(beside.exit_code, 2);
  EXPECT_THAT(beside.err, HasSubstr("error[unsupported-adapter]: "));
  EXPECT_THAT(beside.err, HasSubstr("adapter_model.safetensors: expected a model without"));
  fs::remove(model + "/config.json");
  EXPECT_THAT(score(model).err,
              HasSubstr("got none (it holds an adapter: name its base model here"));
}

}  // namespace
}  // namespace lockstep::testing
