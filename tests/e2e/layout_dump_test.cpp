// lockstep layout verify on the parameters of an engine, as tools/parity/vllm_dump.py writes them,
// and on layouts that round. The real engine is compared by `tools/test.sh vllm`.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "base/json.h"
#include "tests/e2e/layout_program.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;
using testing::convert;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::ProgramResult;
using testing::rank_file;
using testing::read;
using testing::run_program;
using testing::TempDir;
using testing::Tensors;
using testing::verify;
using testing::write;

constexpr const char* kEngine = "vllm:version=0.32";
const std::string kLayer0 = "language_model.model.layers.0.";
const std::string kExperts = kLayer0 + "mlp.experts.routed_experts.w13_weight",
                  kDecay = kLayer0 + "linear_attn.A_log",
                  kNorm = kLayer0 + "linear_attn.norm.weight";

using Metadata = std::map<std::string, std::string>;

void write_dump(const fs::path& path, const Tensors& tensors, const Metadata& metadata) {
  std::vector<io::NamedTensor> list;
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16})
    for (const auto& [name, tensor] : tensors)
      if (tensor.scalar_type() == type) list.push_back({name, tensor});
  io::write_safetensors(path, list, metadata);
}

ProgramResult verify_dump(const fs::path& dump,
                          const fs::path& model,
                          bool partial = false,
                          const std::string& layout = kEngine) {
  return run_program({"layout", "verify", "--layout", layout, "--input", dump.string(), "--model",
                      model.string(), "--partial", partial ? "true" : "false"});
}

class LayoutDump : public testing::LayoutCommand {
 protected:
  /// What an engine of one rank has as parameters: the text model's.
  Tensors parameters() {
    const auto made = convert("checkpoint", kEngine, model_, work_ / "whole", model_);
    EXPECT_EQ(made.exit_code, 0) << made.err;
    Tensors tensors = read(work_ / "whole" / "model.safetensors");
    std::erase_if(tensors, [](const auto& entry) {
      return entry.first.starts_with("mtp.") || entry.first.starts_with("visual.");
    });
    return tensors;
  }
  fs::path dump(const Tensors& tensors, const Metadata& metadata = {{"engine", "vllm 0.32.0"}}) {
    write_dump(work_ / "dump.safetensors", tensors, metadata);
    return work_ / "dump.safetensors";
  }

  TempDir work_;
};

TEST_F(LayoutDump, EngineHoldsTheTextModelAndItIsSaidWhatWasRounded) {
  const Tensors tensors = parameters();
  for (const Metadata& metadata : {Metadata{{"engine", "vllm 0.32.0"}}, Metadata{}}) {
    const auto found = verify_dump(dump(tensors, metadata), model_);
    EXPECT_EQ(found.exit_code, 0) << found.out << found.err;
    EXPECT_THAT(found.out, HasSubstr(fmt::format("the same weights in {} of", tensors.size())));
    EXPECT_THAT(found.out, HasSubstr("rounds 3 tensors (96 values) from F32 to BF16"));
    EXPECT_THAT(found.out, HasSubstr("layers.0.delta.norm"));
  }
  // A folder that lacks them is damaged.
  fs::create_directory(work_ / "folder");
  write(work_ / "folder" / "model.safetensors", tensors);
  EXPECT_THAT(verify(kEngine, work_ / "folder", model_).out, HasSubstr("missing-tensor"));
}

TEST_F(LayoutDump, FirstElementThatDiffersIsNamed) {
  const Tensors good = parameters();
  const auto changed = [&](const std::string& name, const auto& change) {
    Tensors tensors = good;
    tensors.at(name) = tensors.at(name).clone();
    change(tensors.at(name));
    return verify_dump(dump(tensors), model_);
  };
  const auto swapped = changed(kExperts, [](at::Tensor& w13) {
    at::Tensor expert = w13.select(0, 1);
    expert.copy_(expert.roll(expert.size(0) / 2, 0));
  });
  EXPECT_EQ(swapped.exit_code, 1);
  EXPECT_THAT(swapped.out, HasSubstr("digest-mismatch: "));
  EXPECT_THAT(swapped.out, HasSubstr(kExperts));
  EXPECT_THAT(swapped.out,
              HasSubstr("from element [1, 0, 0] (layers.0.experts.1.gate out 0, in 0)"));
  const auto one = changed(kExperts, [](at::Tensor& w13) { w13[2][w13.size(1) - 1][5] = 0.5; });
  EXPECT_EQ(one.exit_code, 1);
  const int64_t last = good.at(kExperts).size(1) - 1;
  EXPECT_THAT(one.out,
              HasSubstr(fmt::format("[2, {}, 5] (layers.0.experts.2.up out {}, in 5) on: 0.5 in "
                                    "place of {}",
                                    last, last / 2, good.at(kExperts)[2][last][5].item<float>())));
  EXPECT_EQ(std::count(one.out.begin(), one.out.end(), '\n'), 1);
}

TEST_F(LayoutDump, ParametersThatTheEngineHasChangedAreNamedAndNeverPassed) {
  Tensors tensors = parameters();
  tensors.at(kExperts) = tensors.at(kExperts).flip({1}).contiguous();
  const std::string emptied = kLayer0 + "mlp.gate.weight";
  tensors.at(emptied) = at::empty({0}, at::kBFloat16);
  const Json reasons{{kExperts, "it is packed"}, {emptied, "it is empty"}};
  const Metadata metadata{{"engine", "vllm 0.32.0"}, {"not_comparable", reasons.dump()}};
  // Nobody who does not say so takes them for compared.
  const auto refused = verify_dump(dump(tensors, metadata), model_);
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, HasSubstr("error[not-comparable]"));
  EXPECT_THAT(refused.out, Not(HasSubstr("the same weights")));
  const auto accepted = verify_dump(dump(tensors, metadata), model_, /*partial=*/true);
  EXPECT_EQ(accepted.exit_code, 0) << accepted.err;
  for (const auto& [name, why] : {std::pair(kExperts, "it is packed"), {emptied, "it is empty"}}) {
    EXPECT_THAT(refused.out, HasSubstr(name + ": " + why));
    EXPECT_THAT(accepted.out, HasSubstr(name + ": " + why));
  }
  EXPECT_THAT(accepted.out, HasSubstr(fmt::format("in {} of", tensors.size() - 2)));
  EXPECT_THAT(accepted.out, HasSubstr("2 cannot be compared"));
  // Without their names they are faults; with them other faults are still found.
  const auto unnamed = verify_dump(dump(tensors), model_, /*partial=*/true);
  EXPECT_EQ(unnamed.exit_code, 1);
  EXPECT_THAT(unnamed.out, HasSubstr("shape-mismatch: "));
  EXPECT_THAT(unnamed.out, HasSubstr("digest-mismatch: "));
  tensors.at(kNorm) = tensors.at(kNorm) + 1;
  EXPECT_EQ(verify_dump(dump(tensors, metadata), model_, /*partial=*/true).exit_code, 1);
  // A dump of which nothing can be compared proves nothing.
  Json all = Json::object();
  for (const auto& [name, tensor] : tensors) all[name] = "it is packed";
  const auto nothing = verify_dump(
      dump(tensors, {{"engine", "vllm"}, {"not_comparable", all.dump()}}), model_, true);
  EXPECT_EQ(nothing.exit_code, 1);
  EXPECT_THAT(nothing.err, HasSubstr("got 0"));
  const auto bad =
      verify_dump(dump(tensors, {{"engine", "vllm"}, {"not_comparable", "[1]"}}), model_, true);
  EXPECT_EQ(bad.exit_code, 1);
  EXPECT_THAT(bad.out, HasSubstr("bad-dump: "));
}

TEST_F(LayoutDump, NamesAndDtypesAreThoseOfTheEngine) {
  const Tensors good = parameters();
  ASSERT_EQ(good.at(kDecay).scalar_type(), at::kFloat);
  ASSERT_EQ(good.at(kNorm).scalar_type(), at::kBFloat16);
  const auto expect = [&](const char* code, const std::string& words, const auto& change) {
    Tensors tensors = good;
    change(tensors);
    const auto found = verify_dump(dump(tensors), model_);
    EXPECT_EQ(found.exit_code, 1) << code;
    EXPECT_THAT(found.out, HasSubstr(std::string(code) + ": "));
    EXPECT_THAT(found.out, HasSubstr(words));
  };
  expect("bad-dtype", "A_log: expected F32 by vllm:version=0.32, got BF16",
         [](Tensors& t) { t.at(kDecay) = t.at(kDecay).to(at::kBFloat16); });
  expect("bad-dtype", "norm.weight: expected BF16 by vllm:version=0.32, got F32",
         [](Tensors& t) { t.at(kNorm) = t.at(kNorm).to(at::kFloat); });
  expect("missing-tensor", kDecay, [](Tensors& t) { t.erase(kDecay); });
  expect("unknown-tensor", "visual.other",
         [](Tensors& t) { t["visual.other"] = at::zeros({2}, at::kBFloat16); });
  // A live engine's names are not those of the older layout.
  const auto older = verify_dump(dump(good), model_, false, "vllm");
  EXPECT_EQ(older.exit_code, 1);
  EXPECT_THAT(older.out, HasSubstr("mlp.experts.w13_weight: expected a tensor"));
  const auto ranks = verify_dump(dump(good), model_, false, "vllm:version=0.32,tp=2");
  EXPECT_EQ(ranks.exit_code, 2);
  EXPECT_THAT(ranks.err, HasSubstr("expected a folder, got a file"));
}

TEST_F(LayoutDump, FolderOfRanksIsADumpWhereItsFilesSaySo) {
  const std::string layout = "vllm:version=0.32,tp=2";
  ASSERT_EQ(convert("checkpoint", layout, model_, work_ / "two", model_).exit_code, 0);
  fs::create_directory(work_ / "dump");
  for (int64_t rank = 0; rank < 2; ++rank) {
    Tensors tensors = read(work_ / "two" / rank_file(rank, 2));
    std::erase_if(tensors, [](const auto& entry) {
      return entry.first.starts_with("mtp.") || entry.first.starts_with("visual.");
    });
    write_dump(work_ / "dump" / rank_file(rank, 2), tensors, {{"engine", "vllm 0.32.0"}});
  }
  EXPECT_EQ(verify(layout, work_ / "dump", model_).exit_code, 0);
  Tensors second = read(work_ / "dump" / rank_file(1, 2));
  second.at(kDecay)[1] += 1;
  write_dump(work_ / "dump" / rank_file(1, 2), second, {{"engine", "vllm 0.32.0"}});
  const auto found = verify(layout, work_ / "dump", model_);
  EXPECT_EQ(found.exit_code, 1);
  EXPECT_THAT(found.out, HasSubstr(rank_file(1, 2) + ": " + kDecay));
  EXPECT_THAT(found.out, HasSubstr("element [1] (layers.0.delta.A_log key_head 1, value_head 1)"));
}

TEST_F(LayoutDump, CheckpointOfADumpHasTheDtypesOfTheModel) {
  const fs::path file = dump(parameters());
  const auto back = convert(kEngine, "checkpoint", file, work_ / "back", model_);
  ASSERT_EQ(back.exit_code, 0) << back.err;
  const std::string name = "model.language_model.layers.0.linear_attn.norm.weight";
  const Tensors found = read(work_ / "back" / "model.safetensors"),
                model = read(model_ / "model.safetensors");
  // The norms of this model survive the engine's rounding.
  EXPECT_TRUE(found.at(name).equal(model.at(name)));
  EXPECT_EQ(found.at(name).scalar_type(), at::kFloat);
}

TEST_F(LayoutDump, RoundingIsSaidAndRemembered) {
  const std::string name = "model.language_model.layers.0.linear_attn.norm.weight";
  fs::copy(model_, work_ / "m");
  Tensors tensors = read(work_ / "m" / "model.safetensors");
  tensors.at(name) = tensors.at(name) + 1e-3;
  write(work_ / "m" / "model.safetensors", tensors);
  const auto there =
      run_program({"layout", "convert", "--from", "checkpoint", "--to", kEngine, "--input",
                   (work_ / "m").string(), "--output_dir", (work_ / "there").string()});
  ASSERT_EQ(there.exit_code, 0) << there.err;
  EXPECT_THAT(there.err, HasSubstr("rounds 3 tensors (96 values) from F32 to BF16"));
  EXPECT_EQ(verify(kEngine, work_ / "there", work_ / "m").exit_code, 0);
  // The way back has the dtypes of the checkpoint, and the values that the rounding left.
  const auto back = convert(kEngine, "checkpoint", work_ / "there", work_ / "back");
  ASSERT_EQ(back.exit_code, 0) << back.err;
  const at::Tensor found = read(work_ / "back" / "model.safetensors").at(name);
  EXPECT_EQ(found.scalar_type(), at::kFloat);
  EXPECT_TRUE(found.equal(tensors.at(name).to(at::kBFloat16).to(at::kFloat)));
  EXPECT_FALSE(found.equal(tensors.at(name)));
  // Damage to what was rounded is found by the folder's own digests.
  Tensors damaged = read(work_ / "there" / "model.safetensors");
  damaged.at(kNorm)[3] += 1;
  write(work_ / "there" / "model.safetensors", damaged);
  const auto refused = convert(kEngine, "checkpoint", work_ / "there", work_ / "none");
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, HasSubstr("layers.0.delta.norm"));
}

TEST_F(LayoutDump, PlanAndShowSayWhatChanges) {
  const auto planned =
      parse_json(run_program({"layout", "plan", "--from", "checkpoint", "--to", kEngine, "--model",
                              model_.string(), "--json", "true"})
                     .out,
                 "plan");
  ASSERT_EQ(planned["type_changes"].size(), 3U);
  EXPECT_EQ(
      planned["type_changes"][0],
      (Json{{"tensor", "layers.0.delta.norm"}, {"from", "F32"}, {"to", "BF16"}, {"values", 32}}));
  const auto shown = run_program({"layout", "show", kEngine, "--model", model_.string()});
  EXPECT_THAT(shown.out, HasSubstr(kNorm + "  BF16 [32]\n    rounded from F32"));
  EXPECT_THAT(shown.out, HasSubstr(kDecay + "  F32 [4]\n    rows"));
}

}  // namespace
}  // namespace lockstep
