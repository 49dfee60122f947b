// lockstep layout from outside: round trips by files, and a table of planted faults that verify has
// to find and name.
// SPDX-License-Identifier: Apache-2.0
#include <filesystem>
#include <functional>
#include <map>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/json.h"
#include "tests/e2e/layout_program.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::ProgramResult;
using testing::run_program;
using testing::TempDir;

using testing::contents;
using testing::convert;
using testing::LayoutCommand;
using testing::rank_file;
using testing::read;
using testing::Tensors;
using testing::verify;
using testing::write;

TEST_F(LayoutCommand, RoundTripIsIdentityByteForByte) {
  for (const char* layout :
       {"hf-runtime", "fsdp2:world=3", "vllm:tp=2", "vllm:version=0.32,tp=2",
        "vllm-ascend:tp=2,ep=2,state=processed",
        "megatron:tp=2,pp=2,ep=2,gate=group,gdn=part,out_norm=centred", "qwen3-next",
        "lockstep:tp=2,ep=4", "checkpoint:experts=separate,prefix=flat"}) {
    SCOPED_TRACE(layout);
    const TempDir work;
    const auto there = convert("checkpoint", layout, model_, work / "there", model_);
    ASSERT_EQ(there.exit_code, 0) << there.err;
    const auto back = convert(layout, "checkpoint", work / "there", work / "back", model_);
    ASSERT_EQ(back.exit_code, 0) << back.err;
    EXPECT_TRUE(read_file(model_ / "model.safetensors") ==
                read_file(work / "back" / "model.safetensors"));
    const auto alone = convert(layout, "checkpoint", work / "there", work / "alone");
    ASSERT_EQ(alone.exit_code, 0) << alone.err;
    EXPECT_EQ(contents(work / "alone"), contents(model_));
    const auto verified = verify(layout, work / "there", model_);
    EXPECT_EQ(verified.exit_code, 0) << verified.out << verified.err;
  }
}

TEST_F(LayoutCommand, WayBackKeepsFormAndFilesWithoutTheModel) {
  const TempDir work;
  // Per-expert tensors of a flat model, in several files.
  ASSERT_EQ(run_program({"new-model", "--like", "qwen3_5_moe", "--output_dir",
                         (work / "whole").string(), "--quiet", "true"})
                .exit_code,
            0);
  ASSERT_EQ(convert("checkpoint", "checkpoint", work / "whole", work / "m", {},
                    {"--max_shard_size", "200KB"})
                .exit_code,
            0);
  ASSERT_TRUE(fs::exists(work / "m" / "model.safetensors.index.json"));
  ASSERT_EQ(convert("checkpoint", "vllm:tp=2", work / "m", work / "a").exit_code, 0);
  ASSERT_EQ(convert("vllm:tp=2", "checkpoint:experts=grouped", work / "a", work / "b").exit_code,
            0);
  const auto back = convert("checkpoint:experts=grouped", "checkpoint", work / "b", work / "first");
  ASSERT_EQ(back.exit_code, 0) << back.err;
  EXPECT_EQ(contents(work / "first"), contents(work / "m"));
  // From a checkpoint onward and back is that checkpoint, not the one before it.
  ASSERT_EQ(convert("checkpoint", "megatron:pp=2", work / "b", work / "c").exit_code, 0);
  ASSERT_EQ(convert("megatron:pp=2", "checkpoint", work / "c", work / "second").exit_code, 0);
  fs::remove(work / "b" / "lockstep_layout.json");
  EXPECT_EQ(contents(work / "second"), contents(work / "b"));
}

TEST_F(LayoutCommand, CopiesThatDifferAndTensorsThatWereLostAreRefused) {
  const TempDir work;
  const auto refused = [&](const char* code, const char* words) {
    const auto back = convert("vllm:tp=2", "checkpoint", work / "there", work / "back");
    EXPECT_EQ(back.exit_code, 2) << back.err;
    EXPECT_THAT(back.err, HasSubstr(std::string("error[") + code + "]"));
    EXPECT_THAT(back.err, HasSubstr(words));
    EXPECT_EQ(work.names(), std::set<std::string>{"there"});
  };
  ASSERT_EQ(convert("checkpoint", "vllm:tp=2", model_, work / "there").exit_code, 0);
  const fs::path second = work / "there" / rank_file(1, 2),
                 first = work / "there" / rank_file(0, 2);
  const Tensors whole = read(second);
  Tensors changed = read(second);
  changed.at("language_model.model.layers.1.mlp.gate.weight")[0][0].add_(1);
  write(second, changed);
  refused("digest-mismatch", "rank 1 to have the same layers.1.experts.router");
  write(second, whole);
  Tensors lost = read(first);
  std::erase_if(lost, [](const auto& entry) { return entry.first.starts_with("visual."); });
  write(first, lost);
  refused("missing-tensor", "model.visual.");
  // Names of files in a manifest stay inside of the folder.
  Json manifest = parse_json_file(work / "there" / "lockstep_layout.json");
  manifest["checkpoint"]["tensors"][0][1] = "../model.safetensors";
  write_file(work / "there" / "lockstep_layout.json", dump_json(manifest));
  refused("bad-manifest", "name of a safetensors file");
}

TEST_F(LayoutCommand, DamageOnTheWayIsFoundByTheFoldersOwnDigests) {
  const TempDir work;
  ASSERT_EQ(convert("checkpoint", "lockstep:tp=2", model_, work / "there").exit_code, 0);
  const fs::path rank = work / "there" / rank_file(1, 2);
  Tensors tensors = read(rank);
  tensors.at("layers.2.delta.out")[3][1].add_(1);
  write(rank, tensors);
  const auto back = convert("lockstep:tp=2", "checkpoint", work / "there", work / "back");
  EXPECT_EQ(back.exit_code, 1);
  EXPECT_THAT(back.err, HasSubstr("error[digest-mismatch]"));
  EXPECT_THAT(back.err, HasSubstr("layers.2.delta.out"));
  EXPECT_EQ(work.names(), std::set<std::string>{"there"});
}

TEST_F(LayoutCommand, MemoryIsTwoBucketsAndAHundredMegabytes) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer's own memory counts too";
#endif
  const TempDir work;
  ASSERT_EQ(run_program({"new-model", "--like", "qwen3", "--size", "100m", "--output_dir",
                         (work / "m").string(), "--quiet", "true"})
                .exit_code,
            0);
  // Without libtorch and the program itself, which take 120 MB before anything is read.
  const int64_t base = run_program({"layout", "list"}).peak_bytes;
  ASSERT_GT(base, 0);
  const auto check = [&](const char* from, const char* to, const char* in, const char* out) {
    const auto result = convert(from, to, work / in, work / out, {}, {"--bucket_size", "16MB"});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    EXPECT_LT(result.peak_bytes - base, 2 * 16'000'000 + 100'000'000) << from << " to " << to;
  };
  check("checkpoint", "vllm:tp=4", "m", "a");
  check("vllm:tp=4", "megatron:tp=2", "a", "b");
  check("megatron:tp=2", "checkpoint", "b", "c");
}

/// A fault: what was converted, how it is read, what happens to the files in between, and the
/// tensor that must be named.
struct Fault {
  const char* what;
  const char* layout;
  /// "": as `layout`.
  const char* read_as;
  std::function<void(const fs::path&)> plant;
  const char* code;
  const char* tensor;
  /// Problems that are to be listed; 0: any number.
  int lines = 1;
};

/// Changes the tensors of a file.
std::function<void(const fs::path&)> edit(int64_t rank,
                                          int64_t ranks,
                                          std::function<void(Tensors&)> change) {
  return [=](const fs::path& folder) {
    const fs::path path =
        folder / (ranks == 1 ? std::string("model.safetensors") : rank_file(rank, ranks));
    Tensors tensors = read(path);
    change(tensors);
    write(path, tensors);
  };
}

/// Swaps rows [a, a + count) and [b, b + count) along an axis.
void swap_rows(at::Tensor& tensor, int64_t axis, int64_t a, int64_t b, int64_t count) {
  const at::Tensor first = tensor.narrow(axis, a, count).clone();
  tensor.narrow(axis, a, count).copy_(tensor.narrow(axis, b, count).clone());
  tensor.narrow(axis, b, count).copy_(first);
}

const std::string kFinalNorm = "model.language_model.norm.weight";
const std::string kLayer0 = "language_model.model.layers.0.",
                  kLayer3 = "language_model.model.layers.3.";

// long: a table.
/// Rows of the tiny model at vllm:tp=2 stand in `lockstep layout show vllm:tp=2`.
std::vector<Fault> faults() {
  const auto swapped = [](const std::string& name, int64_t axis, int64_t a, int64_t b,
                          int64_t count) {
    return edit(1, 2, [=](Tensors& t) { swap_rows(t.at(name), axis, a, b, count); });
  };
  const auto nothing = [](const fs::path&) {};
  // w13 is square at tp=2; w2, which is not, gets the shape that is asked for.
  const auto reshape_w2 = [](const fs::path& folder) {
    for (int64_t rank = 0; rank < 2; ++rank)
      edit(rank, 2, [](Tensors& t) {
        for (auto& [name, tensor] : t)
          if (name.ends_with("w2_weight"))
            tensor = tensor.view({tensor.size(0), tensor.size(2), tensor.size(1)});
      })(folder);
  };
  const char* const vllm = "vllm:tp=2";
  return {
      {"a rank's file missing", vllm, "",
       [](const fs::path& folder) { fs::remove(folder / rank_file(1, 2)); }, "missing-tensor",
       "rank-00001-of-00002.safetensors: language_model.model.layers.0.input_layernorm.weight", 0},
      {"a file of another world", vllm, "",
       [](const fs::path& folder) {
         fs::copy_file(folder / rank_file(1, 2), folder / rank_file(1, 3));
       },
       "foreign-shard", "rank-00001-of-00003"},
      {"two files that claim the same tensor", "checkpoint", "",
       [](const fs::path& folder) {
         Tensors tensors = read(folder / "model.safetensors"), second;
         second[kFinalNorm] = tensors.at(kFinalNorm);
         write(folder / "model-00001-of-00002.safetensors", tensors);
         write(folder / "model-00002-of-00002.safetensors", second);
         Json map = Json::object();
         for (const auto& [name, tensor] : tensors) map[name] = "model-00001-of-00002.safetensors";
         map[kFinalNorm] = "model-00002-of-00002.safetensors";
         fs::remove(folder / "model.safetensors");
         write_file(folder / "model.safetensors.index.json",
                    dump_json(Json{{"metadata", Json::object()}, {"weight_map", map}}));
       },
       "bad-safetensors-index", "norm.weight", 0},
      {"gate and up swapped", vllm, "",
       swapped(kLayer0 + "mlp.shared_expert.gate_up_proj.weight", 0, 0, 32, 32), "digest-mismatch",
       "layers.0.mlp.shared_expert.gate_up_proj.weight"},
      {"w1 and w3 swapped", vllm, "", swapped(kLayer0 + "mlp.experts.w13_weight", 1, 0, 32, 32),
       "digest-mismatch", "layers.0.mlp.experts.w13_weight"},
      {"query and output gate swapped", vllm, "",
       swapped(kLayer3 + "self_attn.qkv_proj.weight", 0, 0, 32, 32), "digest-mismatch",
       "layers.3.self_attn.qkv_proj.weight"},
      {"heads swapped", vllm, "", swapped(kLayer3 + "self_attn.qkv_proj.weight", 0, 0, 64, 64),
       "digest-mismatch", "layers.3.self_attn.qkv_proj.weight"},
      {"key and value swapped", vllm, "",
       swapped(kLayer3 + "self_attn.qkv_proj.weight", 0, 128, 160, 32), "digest-mismatch",
       "layers.3.self_attn.qkv_proj.weight"},
      {"v and z swapped", vllm, "",
       swapped(kLayer0 + "linear_attn.in_proj_qkvz.weight", 0, 64, 128, 64), "digest-mismatch",
       "layers.0.linear_attn.in_proj_qkvz.weight"},
      {"b and a swapped", vllm, "", swapped(kLayer0 + "linear_attn.in_proj_ba.weight", 0, 0, 2, 2),
       "digest-mismatch", "layers.0.linear_attn.in_proj_ba.weight"},
      {"convolution of q and k swapped", vllm, "",
       swapped(kLayer0 + "linear_attn.conv1d.weight", 0, 0, 32, 32), "digest-mismatch",
       "layers.0.linear_attn.conv1d.weight"},
      {"two experts swapped", vllm, "", swapped(kLayer3 + "mlp.experts.w2_weight", 0, 0, 1, 1),
       "digest-mismatch", "layers.3.mlp.experts.w2_weight"},
      {"an expert transposed, its shape the same", vllm, "",
       edit(0, 2,
            [](Tensors& t) {
              at::Tensor& w13 = t.at(kLayer0 + "mlp.experts.w13_weight");  // [8, 64, 64]
              w13 = w13.transpose(1, 2).contiguous().view(w13.sizes());
            }),
       "digest-mismatch", "layers.0.mlp.experts.w13_weight"},
      {"processed read as preprocessed, shapes the same", "vllm-ascend:tp=2,state=processed",
       "vllm-ascend:tp=2,state=preprocessed", reshape_w2, "digest-mismatch",
       "layers.0.mlp.experts.w13_weight", 16},
      {"preprocessed read as processed, shapes the same", "vllm-ascend:tp=2",
       "vllm-ascend:tp=2,state=processed", reshape_w2, "digest-mismatch",
       "layers.0.mlp.experts.w13_weight", 16},
      {"gates by head read as by group", "megatron:tp=1,gate=head", "megatron:tp=1,gate=group",
       nothing, "digest-mismatch", "decoder.layers.3.self_attention.linear_qkv.weight", 2},
      {"projections by key head read as by part", "megatron:tp=1,gdn=fused",
       "megatron:tp=1,gdn=part", nothing, "digest-mismatch",
       "decoder.layers.0.self_attention.in_proj.weight", 6},
      {"w - 1 read as w", "megatron:tp=2,out_norm=centred", "megatron:tp=2", nothing,
       "digest-mismatch", "decoder.layers.0.self_attention.out_norm.weight", 6},
      {"decays of other heads", vllm, "",
       edit(1, 2,
            [](Tensors& t) {
              at::Tensor& decay = t.at(kLayer0 + "linear_attn.A_log");
              decay = decay.roll(1).contiguous();
            }),
       "digest-mismatch", "layers.0.linear_attn.A_log"},
      {"one element", vllm, "",
       edit(1, 2, [](Tensors& t) { t.at(kLayer3 + "self_attn.o_proj.weight")[5][7].add_(1); }),
       "digest-mismatch", "layers.3.self_attn.o_proj.weight"},
      {"norms of two layers swapped", vllm, "",
       edit(0, 2,
            [](Tensors& t) {
              std::swap(t.at(kLayer0 + "input_layernorm.weight"),
                        t.at(kLayer3 + "input_layernorm.weight"));
            }),
       "digest-mismatch", "layers.3.input_layernorm.weight", 2},
      {"norms of query and key swapped", vllm, "",
       edit(0, 2,
            [](Tensors& t) {
              std::swap(t.at(kLayer3 + "self_attn.q_norm.weight"),
                        t.at(kLayer3 + "self_attn.k_norm.weight"));
            }),
       "digest-mismatch", "layers.3.self_attn.q_norm.weight", 2},
      {"a copy that is not one", "vllm:tp=2", "",
       edit(1, 2, [](Tensors& t) { t.at(kLayer0 + "mlp.gate.weight").mul_(2); }), "digest-mismatch",
       "layers.0.mlp.gate.weight"},
      {"a shard of another rank", vllm, "",
       [](const fs::path& folder) {
         fs::copy_file(folder / rank_file(0, 2), folder / rank_file(1, 2),
                       fs::copy_options::overwrite_existing);
       },
       "unknown-tensor", "mtp.fc.weight", 0},
      {"the shards of two ranks swapped", "lockstep:tp=1,ep=2", "",
       [](const fs::path& folder) {
         Tensors first = read(folder / rank_file(0, 2)), second = read(folder / rank_file(1, 2));
         for (auto& [name, tensor] : second)
           std::swap(tensor, first.at(name));  // all but what rank 0 carries
         write(folder / rank_file(0, 2), first);
         write(folder / rank_file(1, 2), second);
       },
       "digest-mismatch", "layers.0.experts.gate_up", 16},
      {"a tensor missing", vllm, "",
       edit(1, 2, [](Tensors& t) { t.erase(kLayer0 + "linear_attn.dt_bias"); }), "missing-tensor",
       "layers.0.linear_attn.dt_bias"},
      {"a tensor too many", vllm, "",
       edit(1, 2, [](Tensors& t) { t["extra.weight"] = at::zeros({2}); }), "unknown-tensor",
       "extra.weight"},
      {"a tensor under a second name", vllm, "",
       edit(1, 2,
            [](Tensors& t) {
              t[kLayer0 + "mlp.experts.routed_experts.w2_weight"] =
                  t.at(kLayer0 + "mlp.experts.w2_weight");
            }),
       "unknown-tensor", "routed_experts.w2_weight"},
      {"another shape", vllm, "",
       edit(1, 2,
            [](Tensors& t) {
              at::Tensor& gate = t.at(kLayer0 + "mlp.gate.weight");
              gate = gate.narrow(0, 0, 4).contiguous();
            }),
       "shape-mismatch", "layers.0.mlp.gate.weight"},
      {"another dtype", vllm, "",
       edit(1, 2,
            [](Tensors& t) {
              at::Tensor& gate = t.at(kLayer0 + "mlp.gate.weight");
              gate = gate.to(at::kFloat);
            }),
       "bad-dtype", "layers.0.mlp.gate.weight"},
  };
}

TEST_F(LayoutCommand, VerifyFindsAndNamesEveryPlantedFault) {
  for (const Fault& fault : faults()) {
    SCOPED_TRACE(fault.what);
    const TempDir work;
    const auto converted = convert("checkpoint", fault.layout, model_, work / "there", model_);
    ASSERT_EQ(converted.exit_code, 0) << converted.err;
    ASSERT_EQ(verify(fault.layout, work / "there", model_).exit_code, 0);
    fault.plant(work / "there");
    const auto found =
        verify(*fault.read_as ? fault.read_as : fault.layout, work / "there", model_);
    EXPECT_EQ(found.exit_code, 1) << found.err;
    // One line says both what is wrong and where.
    std::vector<std::string> lines;
    std::istringstream text(found.out);
    for (std::string line; std::getline(text, line);) lines.push_back(line);
    EXPECT_THAT(lines, ::testing::Contains(
                           ::testing::AllOf(::testing::StartsWith(std::string(fault.code) + ": "),
                                            HasSubstr(fault.tensor))));
    if (fault.lines > 0) {
      EXPECT_EQ(lines.size(), static_cast<size_t>(fault.lines));
    }
    EXPECT_THAT(found.err, HasSubstr("error[digest-mismatch]"));
  }
}

TEST_F(LayoutCommand, BadInputIsRefusedAndLeavesNothing) {
  const TempDir work;
  ASSERT_EQ(convert("checkpoint", "vllm:tp=2", model_, work / "two", model_).exit_code, 0);
  const auto expect = [&](const ProgramResult& result, const char* code, const char* words) {
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_THAT(result.err, HasSubstr(std::string("error[") + code + "]"));
    EXPECT_THAT(result.err, HasSubstr(words));
    for (const std::string& name : work.names())
      EXPECT_TRUE(name == "two" || name == "full") << name << " was left";
  };
  const auto to = [&](const char* layout) {
    return convert("checkpoint", layout, model_, work / "out", model_);
  };
  expect(to("vlm:tp=2"), "bad-layout", "expected a format of checkpoint");
  expect(to("vllm:tpp=2"), "bad-layout", "expected a key of vllm (tp, ep, dp, version, dtype)");
  expect(to("vllm:tp=0"), "bad-layout", "a number from 1");
  expect(to("vllm:tp=2,tp=2"), "bad-layout", "got it twice");
  expect(to("vllm:tp"), "bad-layout", "key=value");
  expect(to("vllm:"), "bad-layout", "key=value");
  expect(to("megatron:gate=rows"), "bad-layout", "head, group");
  expect(to("vllm:version=0.33"), "bad-layout", "expected version to be one of older, 0.32");
  expect(to("vllm:dtype=float32"), "layout-conflict", "expected a version for dtype");
  expect(to("vllm:tp=3"), "layout-conflict", "divide into 3 ranks");
  expect(to("vllm:tp=2,ep=3,dp=2"), "layout-conflict", "expected ep to be 1 or");
  expect(to("megatron:pp=3"), "layout-conflict", "expected pp to divide");
  expect(to("lockstep:ep=99"), "layout-conflict", "expected ep to be at most");
  expect(convert("checkpoint", "vllm", model_, work / "out", model_, {"--bucket_size", "1KB"}),
         "bad-flag", "1MB or more");
  expect(convert("checkpoint", "vllm", model_, work / "out", work / "two"), "unreadable-file",
         "2 other *.safetensors");
  const auto from = [&](const char* layout) {
    return convert(layout, "checkpoint", work / "two", work / "out", model_);
  };
  expect(from("lockstep:tp=2"), "layout-conflict", "expected vllm:tp=2");
  write_file(work / "two" / "lockstep_layout.json", R"({"layout": "vllm:tp=2", "digests": [1]})");
  expect(from("vllm:tp=2"), "bad-manifest", "pairs of texts");
  fs::remove(work / "two" / "lockstep_layout.json");
  expect(from("vllm:tp=1"), "unreadable-file", "model.safetensors");
  expect(from("lockstep:tp=2"), "missing-tensor", "embedding");
  fs::copy_file(work / "two" / rank_file(0, 2), work / "two" / rank_file(0, 4));
  expect(from("vllm:tp=2"), "foreign-shard", "of 2 ranks");
  fs::remove(work / "two" / rank_file(0, 4));
  fs::resize_file(work / "two" / rank_file(1, 2), 5000);
  expect(from("vllm:tp=2"), "bad-safetensors", "rank-00001-of-00002");
  fs::remove(work / "two" / rank_file(1, 2));
  expect(from("vllm:tp=2"), "unreadable-file", "rank-00001-of-00002");
  fs::create_directory(work / "full");
  write_file(work / "full" / "notes.txt", "mine");
  const auto existing =
      run_program({"layout", "convert", "--from", "checkpoint", "--to", "vllm", "--input",
                   model_.string(), "--output_dir", (work / "full").string()});
  EXPECT_EQ(existing.exit_code, 2);
  EXPECT_THAT(existing.err, HasSubstr("error[output-exists]"));
}

TEST_F(LayoutCommand, CentredNormThatDoesNotComeBackIsRefused) {
  const TempDir work;
  fs::copy(model_, work / "m");
  Tensors tensors = read(work / "m" / "model.safetensors");
  for (auto& [name, tensor] : tensors)
    if (name.ends_with("linear_attn.norm.weight")) tensor.fill_(1e-9);
  write(work / "m" / "model.safetensors", tensors);
  const auto result =
      convert("checkpoint", "megatron:out_norm=centred", work / "m", work / "out", work / "m");
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_THAT(result.err, HasSubstr("error[layout-conflict]"));
  EXPECT_THAT(result.err, HasSubstr("linear_attn.norm.weight"));
  EXPECT_FALSE(fs::exists(work / "out"));
}

TEST_F(LayoutCommand, ConvertedAndReconvertedCheckpointScoresTheSame) {
  const TempDir work;
  write_file(work / "rows.jsonl", R"({"input_ids": [5, 9, 2, 44, 17, 8]})"
                                  "\n");
  const auto score = [&](const fs::path& model, const char* name) {
    const auto scored = run_program({"score", "--model", model.string(), "--dataset",
                                     (work / "rows.jsonl").string(), "--output",
                                     (work / name).string(), "--quiet", "true"});
    EXPECT_EQ(scored.exit_code, 0) << scored.err;
    return read_file(work / name);
  };
  ASSERT_EQ(convert("checkpoint", "megatron:tp=2,pp=2", model_, work / "a", model_).exit_code, 0);
  ASSERT_EQ(convert("megatron:tp=2,pp=2", "vllm:tp=2", work / "a", work / "b", model_).exit_code,
            0);
  ASSERT_EQ(convert("vllm:tp=2", "checkpoint", work / "b", work / "c", model_).exit_code, 0);
  EXPECT_EQ(score(model_, "one.jsonl"), score(work / "c", "two.jsonl"));
}

TEST_F(LayoutCommand, ListShowAndPlanAreReadableByPrograms) {
  const auto listed = parse_json(run_program({"layout", "list", "--json", "true"}).out, "list");
  EXPECT_EQ(listed["formats"].size(), 8U);
  const auto shown = parse_json(run_program({"layout", "show", "vllm:tp=2", "--model",
                                             model_.string(), "--rank", "1", "--json", "true"})
                                    .out,
                                "show");
  EXPECT_EQ(shown["num_ranks"], 2);
  EXPECT_EQ(shown["ranks"][0]["rank"], 1);
  const auto loaded =
      parse_json(run_program({"layout", "show", "vllm:tp=2", "--model", model_.string(), "--rank",
                              "1", "--loader_names", "separate", "--json", "true"})
                     .out,
                 "show");
  EXPECT_EQ(loaded["ranks"][0]["tensors"][0]["loader_names"][0],
            "model.language_model.embed_tokens.weight");
  const auto planned =
      parse_json(run_program({"layout", "plan", "--from", "checkpoint", "--to", "fsdp2:world=2",
                              "--model", model_.string(), "--json", "true"})
                     .out,
                 "plan");
  EXPECT_EQ(planned["traffic"].size(), 2U);
  EXPECT_EQ(planned["digest"].get<std::string>().size(), 32U);
}

}  // namespace
}  // namespace lockstep
