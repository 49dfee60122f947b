// The forms of adapters' files: each is read as the change of weights that it stands for, and what
// cannot be told apart is refused.
// SPDX-License-Identifier: Apache-2.0
#include "model/adapter_reader.h"

#include <functional>

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "model/adapter_merge.h"
#include "model/adapter_names.h"
#include "tests/model/lively_adapter.h"
#include "tests/model/tiny_model.h"
#include "tests/support/expect_error.h"

namespace lockstep::model {
namespace {

using testing::MemorySource;

constexpr int64_t kExpertCount = 3, kWidth = 5, kHidden = 7, kRank = 2;
const std::string kPath = "model.layers.1.mlp.experts";

/// The experts of a layer, whose gate_up_proj is [E, 2F, D].
std::vector<Parameter> parameters_of(int64_t hidden, int64_t width) {
  const auto experts = [](const std::string& name, const std::vector<int64_t>& shape) {
    return Parameter{.id = "layers.1.experts." + name,
                     .shape = shape,
                     .pieces = {{.name = kPath + "." + name + "_proj", .shape = shape}},
                     .is_expert = true,
                     .layer = 1};
  };
  return {experts("gate_up", {kExpertCount, 2 * width, hidden}),
          experts("down", {kExpertCount, hidden, width})};
}

std::vector<AdapterTarget> experts_of(int64_t hidden, int64_t width) {
  return adapter_targets(parameters_of(hidden, width));
}

AdapterConfig config_of(const std::string& version,
                        const std::vector<std::string>& parameters = {"gate_up_proj",
                                                                      "down_proj"}) {
  AdapterConfig config{.rank = kRank, .alpha = 3};
  config.target_parameters = parameters;
  config.peft_version = version;
  return config;
}

/// A file that is filled with pairs of random values.
class File : public MemorySource {
 public:
  at::Tensor put(const std::string& module, std::string_view half, at::IntArrayRef shape) {
    const std::string name = fmt::format("{}{}{}{}", kFilePrefix, kPath, module, half);
    at::Tensor value = at::empty(shape, at::TensorOptions().dtype(at::kFloat));
    const RandomStream stream(name, testing::test_seed(1));
    for (int64_t i = 0; i < value.numel(); ++i)
      value.mutable_data_ptr<float>()[i] =
          static_cast<float>(stream.uniform(static_cast<uint64_t>(i)) - 0.5);
    tensors[name] = value;
    return value.to(at::kDouble);
  }
  std::pair<at::Tensor, at::Tensor> pair(const std::string& module,
                                         at::IntArrayRef a,
                                         at::IntArrayRef b) {
    return {put(module, kLoraA, a), put(module, kLoraB, b)};
  }
};

/// s B A of each expert, [E, O, I].
at::Tensor change_of(const AdapterPair& pair) {
  return at::matmul(pair.b.to(at::kDouble), pair.a.to(at::kDouble)).mul(pair.scale);
}

void expect_change(const AdapterPair& pair, const at::Tensor& expected) {
  const at::Tensor change = change_of(pair);
  ASSERT_EQ(change.sizes(), expected.sizes());
  EXPECT_LT(change.sub(expected).abs().max().item<double>(), 1e-7) << pair.target.path;
  EXPECT_GT(expected.abs().max().item<double>(), 0.1);
}

at::Tensor stacked(const std::vector<at::Tensor>& list) {
  at::Tensor all = at::empty({static_cast<int64_t>(list.size()), list[0].size(0), list[0].size(1)},
                             list[0].options());
  for (size_t i = 0; i < list.size(); ++i) all.select(0, static_cast<int64_t>(i)).copy_(list[i]);
  return all;
}

/// The parameter's change as PEFT has it: of [E, O, I], or of [E, I, O] turned round.
at::Tensor parameter_change(const at::Tensor& a, const at::Tensor& b, bool is_outputs_first) {
  const int64_t in = a.size(1), out = b.size(0);
  std::vector<at::Tensor> changes;
  for (int64_t e = 0; e < kExpertCount; ++e) {
    const at::Tensor own_a = a.view({kExpertCount, kRank, in}).select(0, e),
                     own_b = b.view({out, kRank, kExpertCount}).select(2, e),
                     change = at::matmul(own_b, own_a).mul(1.5);
    changes.push_back(is_outputs_first ? change : change.t());
  }
  return stacked(changes);
}

TEST(AdapterReader, ParametersAreReadInTheOrientationOfTheirVersion) {
  constexpr int64_t rows = kRank * kExpertCount;
  for (const char* version : {"0.21.2", "0.18.0", ""}) {
    File later, earlier;
    const auto [a1, b1] = later.pair(".base_layer", {rows, kHidden}, {2 * kWidth, rows});
    const auto [a2, b2] = later.pair("", {rows, kWidth}, {kHidden, rows});
    const auto pairs = read_adapter_pairs(experts_of(kHidden, kWidth), config_of(version), later);
    ASSERT_EQ(pairs.size(), 2u);
    expect_change(pairs[0], parameter_change(a1, b1, true));
    expect_change(pairs[1], parameter_change(a2, b2, true));
    const auto [c1, d1] = earlier.pair(".base_layer", {rows, 2 * kWidth}, {kHidden, rows});
    const auto [c2, d2] = earlier.pair("", {rows, kHidden}, {kWidth, rows});
    const auto old = read_adapter_pairs(experts_of(kHidden, kWidth), config_of(version), earlier);
    expect_change(old[0], parameter_change(c1, d1, false));
    expect_change(old[1], parameter_change(c2, d2, false));
  }
}

TEST(AdapterReader, WhereTheShapeIsTheSameEitherWayTheVersionDecides) {
  constexpr int64_t rows = kRank * kExpertCount, width = 4, hidden = 2 * width;
  File file;
  const auto [a, b] = file.pair("", {rows, hidden}, {hidden, rows});
  const auto read = [&](const std::string& version) {
    return read_adapter_pairs(experts_of(hidden, width), config_of(version, {"gate_up_proj"}),
                              file);
  };
  for (const char* version : {"0.19.1", "0.21.2", "0.20.0.dev0", "1.0", "0.100.0"})
    expect_change(read(version)[0], parameter_change(a, b, true));
  for (const char* version : {"0.17.0", "0.19.0", "0.18.2.dev0"})
    expect_change(read(version)[0], parameter_change(a, b, false));
  for (const char* version : {"", "main", "0.19.1.dev0"})
    EXPECT_ERROR(read(version), FormatError, "bad-adapter",
                 "model.layers.1.mlp.experts.lora_A.weight: expected a peft_version");
  // One file has one orientation.
  file.pair(".base_layer", {rows, hidden}, {hidden, rows});
  file.pair("", {rows, hidden}, {width, rows});
  EXPECT_ERROR(read_adapter_pairs(experts_of(hidden, width), config_of("0.21.2"), file),
               FormatError, "bad-adapter", "expected the parameter turned as at ");
}

TEST(AdapterReader, AFilesFirstPairTellsForThoseOfEqualShape) {
  constexpr int64_t rows = kRank * kExpertCount, size = 6;
  File file;
  file.pair(".base_layer", {rows, 2 * size}, {size, rows});
  const auto [a, b] = file.pair("", {rows, size}, {size, rows});
  for (const char* version : {"", "0.21.2"})
    expect_change(read_adapter_pairs(experts_of(size, size), config_of(version), file)[1],
                  parameter_change(a, b, false));
}

TEST(AdapterReader, PairsOfEachExpertBecomeOneOfAll) {
  for (const bool shares_a : {false, true}) {
    AdapterConfig config{.rank = kRank, .alpha = 3};
    if (!shares_a) config.rank_pattern = {{"up_proj", 3}, {R"(experts\.1\.down_proj)", 1}};
    File file;
    std::vector<at::Tensor> gate_up, down;
    for (int64_t e = 0; e < kExpertCount; ++e) {
      const std::string own = fmt::format(".{}.", e);
      const int64_t up_rank = shares_a ? kRank : 3, down_rank = shares_a || e != 1 ? kRank : 1;
      const auto [a1, b1] = file.pair(own + "gate_proj", {kRank, kHidden}, {kWidth, kRank});
      auto [a2, b2] = file.pair(own + "up_proj", {up_rank, kHidden}, {kWidth, up_rank});
      if (shares_a) {
        a2 = a1;
        file.tensors[fmt::format("{}{}{}up_proj{}", kFilePrefix, kPath, own, kLoraA)] =
            a1.to(at::kFloat);
      }
      const auto [a3, b3] = file.pair(own + "down_proj", {down_rank, kWidth}, {kHidden, down_rank});
      at::Tensor both = at::empty({2 * kWidth, kHidden}, at::TensorOptions().dtype(at::kDouble));
      both.narrow(0, 0, kWidth).copy_(at::matmul(b1, a1).mul(3.0 / kRank));
      both.narrow(0, kWidth, kWidth)
          .copy_(at::matmul(b2, a2).mul(3.0 / static_cast<double>(up_rank)));
      gate_up.push_back(both);
      down.push_back(at::matmul(b3, a3).mul(3.0 / static_cast<double>(down_rank)));
    }
    const auto model = parameters_of(kHidden, kWidth);
    const auto pairs = read_adapter_pairs(adapter_targets(model), config, file);
    ASSERT_EQ(pairs.size(), 2u);
    EXPECT_EQ(pairs[0].a.size(1), shares_a ? kRank : kRank + 3);
    expect_change(pairs[0], stacked(gate_up));
    expect_change(pairs[1], stacked(down));
    // The adapter's own configuration says rank and scale of what was made.
    const Adapter adapter(model, config, file);
    for (size_t i = 0; i < 2; ++i) {
      const std::string& path = adapter.targets()[i].path;
      EXPECT_EQ(adapter.config().rank_of(path), pairs[i].a.size(1));
      EXPECT_NEAR(adapter.config().scale_of(path), pairs[i].scale, 1e-14);
    }
  }
}

TEST(AdapterReader, OneOfGateAndUpLeavesTheOtherAsItIs) {
  File file;
  std::vector<at::Tensor> changes;
  for (int64_t e = 0; e < kExpertCount; ++e) {
    const auto [a, b] = file.pair(fmt::format(".{}.up_proj", e), {kRank, kHidden}, {kWidth, kRank});
    changes.push_back(at::zeros({2 * kWidth, kHidden}, a.options()));
    changes.back().narrow(0, kWidth, kWidth).copy_(at::matmul(b, a).mul(1.5));
  }
  const auto pairs = read_adapter_pairs(experts_of(kHidden, kWidth), config_of(""), file);
  ASSERT_EQ(pairs.size(), 1u);
  expect_change(pairs[0], stacked(changes));
}

TEST(AdapterReader, StackedTensorsMayBeOneForAllExperts) {
  for (const int64_t count : {kExpertCount, int64_t{1}}) {
    File file;
    const auto [a, b] =
        file.pair(".gate_up_proj", {count, kRank, kHidden}, {kExpertCount, 2 * kWidth, kRank});
    const auto pairs = read_adapter_pairs(experts_of(kHidden, kWidth), config_of(""), file);
    expect_change(pairs[0], at::matmul(b, a).mul(1.5));
  }
  // As PEFT's names, with the same elements in three dimensions.
  File file;
  const auto [a, b] =
      file.pair(".base_layer", {kExpertCount, kRank, kHidden}, {2 * kWidth, kRank, kExpertCount});
  const auto pairs = read_adapter_pairs(experts_of(kHidden, kWidth), config_of(""), file);
  expect_change(pairs[0], at::matmul(b.permute({2, 0, 1}), a).mul(1.5));
}

/// Pairs of each expert's gate_proj and up_proj, spoiled, are refused with these words.
void expect_refused(const std::function<void(File&)>& spoil, const std::string& words) {
  File file;
  for (int64_t e = 0; e < kExpertCount; ++e)
    for (const char* part : {"gate_proj", "up_proj"})
      file.pair(fmt::format(".{}.{}", e, part), {kRank, kHidden}, {kWidth, kRank});
  spoil(file);
  EXPECT_ERROR(read_adapter_pairs(experts_of(kHidden, kWidth), config_of("0.21.2"), file),
               FormatError, "bad-adapter", words);
}

TEST(AdapterReader, RefusesExpertsThatAreNotWhole) {
  const auto without = [](const std::string& rest) {
    return [rest](File& file) {
      EXPECT_EQ(file.tensors.erase(fmt::format("{}{}.{}", kFilePrefix, kPath, rest)), 1u);
    };
  };
  expect_refused(without("1.up_proj.lora_B.weight"),
                 "experts.1.up_proj.lora_B.weight: expected both halves of the pair of each of 3 "
                 "experts, got only the other one");
  expect_refused(
      [&](File& file) {
        without("2.gate_proj.lora_A.weight")(file);
        without("2.gate_proj.lora_B.weight")(file);
      },
      "experts.2.gate_proj.lora_A.weight: expected both halves of the pair of each of 3 experts, "
      "got none");
  expect_refused(
      [](File& file) {
        file.tensors.clear();
        file.put(".gate_up_proj", kLoraA, {1, kRank, kHidden});
      },
      "gate_up_proj.lora_B.weight: expected both halves of the pair, got only the other one");
}

TEST(AdapterReader, RefusesTensorsThatFitNoExperts) {
  expect_refused(
      [](File& file) {
        file.put(".3.gate_proj", kLoraA, {kRank, kHidden});
      },
      "experts.3.gate_proj.lora_A.weight: expected an expert of the model");
  expect_refused(
      [](File& file) {
        file.put(".0.gate_proj", kLoraA, {kRank + 1, kHidden});
      },
      "experts.0.gate_proj.lora_A.weight: expected shape [2, 7]");
  expect_refused(
      [](File& file) {
        file.put(".0.w1", kLoraA, {kRank, kHidden});
      },
      "experts.0.w1.lora_A.weight: expected a linear layer or experts");
  expect_refused(
      [](File& file) {
        file.put(".gate_up_proj", kLoraA, {1, kRank, kHidden});
      },
      "experts.gate_up_proj: expected one pair for each layer, got one of gate_proj or "
      "up_proj");
  expect_refused(
      [](File& file) {
        file.put("", kLoraA, {kRank, kHidden});
      },
      "expected one of gate_up_proj and down_proj among the target_parameters");
  expect_refused(
      [](File& file) {
        file.pair(".base_layer", {6, kHidden}, {2 * kWidth, 6});
      },
      "expected one pair for each layer, got one as ");
}

/// Both checkpoint forms, all dtypes: each tensor is the base's plus its pair's product in float64,
/// rounded once.
/// The embedding's rows are the columns of B A; a tied head has the embedding's values as its base.
void expect_outer_sum(const MergedWeights& merged,
                      const AdapterTarget& target,
                      const Parameter& parameter,
                      const at::Tensor& change) {
  const bool is_head = target.part == AdapterTarget::Part::kHead;
  const at::Tensor base = parameter.value.detach();
  const at::Tensor found =
      merged.merge(is_head ? "lm_head.weight" : parameter.pieces[0].name, base, base.scalar_type());
  const at::Tensor sum = base.to(at::kDouble).add(is_head ? change : change.t());
  EXPECT_TRUE(found.equal(sum.to(base.scalar_type()))) << target.path;
}

TEST(MergedWeights, EqualTheSumInFloat64RoundedOnce) {
  for (const Family family : testing::kFamilies) {
    for (const WeightDtype dtype : {WeightDtype::kFloat32, WeightDtype::kBFloat16}) {
      const auto weights = testing::tiny_weights(family, dtype);
      const auto adapter =
          testing::lively_adapter(testing::modules_with(*weights, ""), {.rank = 3, .alpha = 2}, 1);
      for (const bool is_grouped : {false, true}) {
        CheckpointForm form = weights->form();
        form.experts_grouped = is_grouped;
        auto parameters = describe_parameters(weights->config(), form);
        for (size_t i = 0; i < parameters.size(); ++i)
          parameters[i].value = weights->parameters()[i].value;
        const MergedWeights merged(parameters, *adapter);
        for (size_t i = 0; i < adapter->targets().size(); ++i) {
          const AdapterTarget& target = adapter->targets()[i];
          const Parameter& parameter = parameters[static_cast<size_t>(target.weight)];
          const at::Tensor a = adapter->parameters()[2 * i].value.to(at::kDouble),
                           b = adapter->parameters()[2 * i + 1].value.to(at::kDouble);
          if (target.part != AdapterTarget::Part::kLayer) {
            expect_outer_sum(merged, target, parameter, at::matmul(b, a).mul(2.0 / 3.0));
            continue;
          }
          const at::Tensor sum = parameter.value.to(at::kDouble).view({-1, target.in}).clone();
          sum.narrow(0, target.first_row, std::max<int64_t>(1, target.num_experts) * target.out)
              .add_(at::matmul(b, a).view({-1, target.in}), 2.0 / 3.0);
          for (const CheckpointPiece& piece : parameter.pieces) {
            const int64_t row = piece.offset / target.in;
            if (!target.num_experts && row != target.first_row) continue;
            const at::Tensor base = piece.view(parameter.value), before = base.clone();
            ASSERT_TRUE(merged.contains(piece.name));
            const at::Tensor found = merged.merge(piece.name, base, base.scalar_type());
            EXPECT_TRUE(found.equal(piece.view(sum).to(base.scalar_type()))) << piece.name;
            EXPECT_TRUE(base.equal(before));
          }
        }
        EXPECT_FALSE(merged.contains(weights->form().prefix + "norm.weight"));
      }
    }
  }
}

}  // namespace
}  // namespace lockstep::model
