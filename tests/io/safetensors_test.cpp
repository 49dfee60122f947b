// SPDX-License-Identifier: Apache-2.0
#include "io/safetensors.h"

#include <cstring>
#include <numeric>
#include <random>
#include <set>

#include <gtest/gtest.h>

#include "io/safetensors_dtype.h"
#include "tensor/aten.h"
#include "tests/io/safetensors_bytes.h"
#include "tests/support/expect_close.h"
#include "tests/support/expect_error.h"
#include "tests/support/source_dir.h"
#include "tests/support/temp_dir.h"

namespace lockstep::io {
namespace {

using lockstep::testing::safetensors_bytes;
using lockstep::testing::same_bits;
using lockstep::testing::slurp;
using lockstep::testing::TempDir;
using lockstep::testing::test_seed;

/// Random bits (0 or 1 for BOOL, where other bytes have no meaning).
at::Tensor random_tensor(at::ScalarType dtype,
                         const std::vector<int64_t>& shape,
                         std::mt19937_64& generator) {
  at::Tensor tensor = at::empty(shape, at::TensorOptions().dtype(dtype));
  auto* bytes = static_cast<uint8_t*>(tensor.mutable_data_ptr());
  const uint8_t mask = dtype == at::kBool ? 1 : 255;
  for (size_t i = 0; i < tensor.nbytes(); ++i) bytes[i] = static_cast<uint8_t>(generator()) & mask;
  return tensor;
}

/// Up to three dimensions of the sizes that go wrong first.
std::vector<int64_t> random_shape(std::mt19937_64& generator) {
  static constexpr int64_t kSizes[] = {0, 1, 2, 3, 7, 8, 31};
  std::vector<int64_t> shape(generator() % 4);
  for (int64_t& size : shape) size = kSizes[generator() % std::size(kSizes)];
  return shape;
}

/// Value i is i - 3, as in tools/parity/safetensors_files.py.
at::Tensor golden_values(at::ScalarType dtype, std::vector<int64_t> shape) {
  const int64_t count =
      std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<int64_t>());
  return (at::arange(count, at::kDouble) - 3).to(dtype).reshape(shape);
}

/// The golden file's tensors in its order.
std::vector<NamedTensor> golden_tensors() {
  return {{"ids.i64", golden_values(at::kLong, {4})},
          {"weights.f64", golden_values(at::kDouble, {1, 2, 1})},
          {"empty.f32", golden_values(at::kFloat, {0, 4})},
          {"scalar.f32", golden_values(at::kFloat, {})},
          {"weights.f32", golden_values(at::kFloat, {2, 3})},
          {"ids.i32", golden_values(at::kInt, {2, 2})},
          {"weights.bf16", golden_values(at::kBFloat16, {3, 5})},
          {"weights.f16", golden_values(at::kHalf, {7})},
          {"weights.f8", golden_values(at::kFloat8_e4m3fn, {3})},
          {"name \u00e9 \"quoted\".u8", at::arange(6, at::kByte)},
          {"mask.bool", golden_values(at::kFloat, {5}) > 0}};
}

TEST(Safetensors, ReadsWhatThePackageWrote) {
  const SafetensorsFile file(testing::source_dir() / "tests/io/golden/package.safetensors");
  const auto expected = golden_tensors();
  ASSERT_EQ(file.entries().size(), expected.size());
  EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}}));
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(file.entries()[i].name, expected[i].name);
    EXPECT_TRUE(same_bits(file.tensor(file.entries()[i]), expected[i].tensor)) << expected[i].name;
  }
}

TEST(Safetensors, WritesTheBytesThatThePackageWrites) {
  TempDir dir;
  write_safetensors(dir / "ours", golden_tensors());
  EXPECT_EQ(slurp(dir / "ours"),
            slurp(testing::source_dir() / "tests/io/golden/package.safetensors"));
}

TEST(Safetensors, EveryElementTypeHasADtypeOfItsWidth) {
  std::set<at::ScalarType> dtypes;
  for (size_t i = 0; i < kNumElementTypes; ++i) {
    const auto type = static_cast<ElementType>(i);
    EXPECT_EQ(element_type_of_name(element_name(type)), type);
    EXPECT_EQ(static_cast<int64_t>(c10::elementSize(scalar_type(type))), element_bytes(type))
        << element_name(type);
    EXPECT_EQ(element_type(scalar_type(type)), type);
    EXPECT_TRUE(dtypes.insert(scalar_type(type)).second) << element_name(type);
  }
  EXPECT_EQ(element_type_of_name("F128"), std::nullopt);
}

TEST(Safetensors, RoundTripIsIdentity) {
  std::mt19937_64 generator(test_seed(41));
  TempDir dir;
  for (int round = 0; round < 100; ++round) {
    std::vector<NamedTensor> tensors;
    const size_t count = generator() % 12;
    for (size_t i = 0; i < count; ++i) {
      const auto dtype = kScalarTypes[generator() % kScalarTypes.size()];
      tensors.push_back({"tensor." + std::to_string(i),
                         random_tensor(dtype, random_shape(generator), generator)});
    }
    const std::map<std::string, std::string> metadata{{"note", "\"\u00e9\n"}, {"round", "x"}};
    write_safetensors(dir / "file", tensors, metadata);
    const SafetensorsFile file(dir / "file");
    ASSERT_EQ(file.entries().size(), count);
    EXPECT_EQ(file.metadata().at("note"), "\"\u00e9\n");
    EXPECT_EQ(file.metadata().at("format"), "pt");
    for (size_t i = 0; i < count; ++i) {
      // The order is the caller's, but for empty tensors at the same byte, whose order is the
      // header's too.
      EXPECT_EQ(file.entries()[i].name, tensors[i].name);
      EXPECT_TRUE(same_bits(file.tensor(file.entries()[i]), tensors[i].tensor));
    }
  }
}

TEST(Safetensors, WritesStridedTensorsContiguous) {
  TempDir dir;
  const at::Tensor base = at::arange(60, at::kFloat).reshape({3, 4, 5});
  const std::vector<NamedTensor> views{{"transposed", base.transpose(0, 2)},
                                       {"narrow", base.narrow(1, 1, 2)},
                                       {"expanded", base.select(0, 0).expand({6, 4, 5})},
                                       {"offset", base.select(0, 2)},
                                       {"graph", base.clone().set_requires_grad(true)}};
  write_safetensors(dir / "file", views);
  const SafetensorsFile file(dir / "file");
  for (size_t i = 0; i < views.size(); ++i)
    EXPECT_TRUE(same_bits(file.tensor(file.entries()[i]), views[i].tensor)) << views[i].name;
}

TEST(Safetensors, DataBeginsAtAMultipleOfEight) {
  TempDir dir;
  for (int length = 0; length < 16; ++length) {
    write_safetensors(dir / "file",
                      {{std::string(static_cast<size_t>(length), 'n'), at::ones({2})}});
    EXPECT_EQ(SafetensorsFile(dir / "file").entries()[0].begin % 8, 0u);
  }
}

TEST(Safetensors, TensorsShareTheMappingAndOutliveTheFile) {
  TempDir dir;
  write_safetensors(dir / "file", {{"w", at::arange(1000, at::kFloat)}});
  at::Tensor first, second;
  {
    const SafetensorsFile file(dir / "file");
    first = file.tensor(file.entries()[0]);
    second = file.tensor(file.entries()[0]);
  }
  EXPECT_EQ(first.const_data_ptr(), second.const_data_ptr());
  std::filesystem::remove(dir / "file");
  first.reset();
  EXPECT_EQ(second.sum().item<float>(), 499500.0f);
}

TEST(Safetensors, MisalignedTensorsAreCopied) {
  TempDir dir;
  // The header has 8 + 111 bytes and one byte of data stands before the floats.
  const std::string header = R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                             R"("w":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  std::string bytes = safetensors_bytes(header, 9);
  const float values[2] = {1.5f, -2.0f};
  std::memcpy(bytes.data() + bytes.size() - 8, values, 8);
  for (int padding = 0; padding < 4; ++padding) {
    std::string padded =
        safetensors_bytes(header + std::string(static_cast<size_t>(padding), ' '), 0);
    padded += bytes.substr(bytes.size() - 9);
    const SafetensorsFile file(dir.write("file", padded));
    const at::Tensor tensor = file.tensor(file.entries()[1]);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % alignof(float), 0u);
    EXPECT_EQ(tensor[0].item<float>(), 1.5f);
    EXPECT_EQ(tensor[1].item<float>(), -2.0f);
  }
}

TEST(Safetensors, FailedWriteLeavesTheOldFile) {
  TempDir dir;
  dir.write("file", "old");
  EXPECT_ERROR(write_safetensors(dir / "file", {{"w", at::ones({2})}, {"w", at::ones({2})}}),
               InternalError, "internal", "the name w is given twice");
  EXPECT_EQ(slurp(dir / "file"), "old");
  EXPECT_EQ(dir.names(), std::set<std::string>{"file"});
  EXPECT_ERROR(write_safetensors("/dev/full", {{"w", at::ones({2})}}), IoError, "unwritable-output",
               "/dev/full: expected to write");
}

/// Parts that several writers have of tensors, the last one none of some.
TEST(Safetensors, PartsMakeTheFileOfWholeTensors) {
  const testing::TempDir folder;
  std::vector<NamedTensor> whole;
  for (const int64_t rows : {1, 0, 7, 300}) {
    const at::Tensor values = at::arange(rows * 5, at::kFloat).sin().view({rows, 5});
    whole.push_back({fmt::format("t{}", rows), rows == 7 ? values.to(at::kBFloat16) : values});
  }
  std::swap(whole[2], whole[3]);
  write_safetensors(folder / "whole.safetensors", whole);
  constexpr int64_t kWriters = 3;
  std::vector<std::vector<TensorPart>> parts(kWriters);
  for (const NamedTensor& named : whole) {
    const int64_t count = named.tensor.numel();
    for (int64_t w = 0; w < kWriters; ++w) {
      const int64_t first = count * w * w / (kWriters * kWriters),
                    last = count * (w + 1) * (w + 1) / (kWriters * kWriters);
      parts[static_cast<size_t>(w)].push_back(
          {named.name, named.tensor.sizes().vec(), first,
           named.tensor.reshape({-1}).narrow(0, first, last - first)});
    }
  }
  lay_out_safetensors(folder / "parts.safetensors", parts[1]);
  for (const size_t writer : {2, 0, 1}) write_parts(folder / "parts.safetensors", parts[writer]);
  EXPECT_EQ(read_file(folder / "parts.safetensors"), read_file(folder / "whole.safetensors"));
}

TEST(Safetensors, APartOfATensorThatIsNotThereIsAnError) {
  const testing::TempDir folder;
  const auto part = [](const char* name, std::vector<int64_t> shape, at::ScalarType dtype) {
    return TensorPart{name, std::move(shape), 0, at::zeros({2}, at::TensorOptions().dtype(dtype))};
  };
  const std::vector<TensorPart> there{part("a", {3, 4}, at::kFloat)};
  lay_out_safetensors(folder / "file.safetensors", there);
  for (const TensorPart& other : {part("b", {3, 4}, at::kFloat), part("a", {4, 3}, at::kFloat),
                                  part("a", {3, 4}, at::kBFloat16)})
    EXPECT_ERROR(write_parts(folder / "file.safetensors", {&other, 1}), FormatError, "bad-part",
                 other.name);
  EXPECT_ERROR(write_parts(folder / "none.safetensors", there), IoError, "unreadable-file",
               "none.safetensors");
}

}  // namespace
}  // namespace lockstep::io
