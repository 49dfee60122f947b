// SPDX-License-Identifier: Apache-2.0
#include "sync/weight_image.h"

#include <cstring>

#include "base/json.h"
#include "tensor/aten.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep::sync {
namespace {

struct Block {
  std::vector<std::byte> bytes;
  Digest digest;
  WeightImage image(const std::string& where = "block") const {
    auto copy = std::make_shared<std::vector<std::byte>>(bytes);
    return {copy, *copy, where};
  }
};

Block written(const ImageWriter& writer, int threads = 2) {
  Block block{std::vector<std::byte>(writer.bytes()), {}};
  block.digest = writer.write(block.bytes, threads);
  return block;
}

/// Tensors of two widths; the last is made when it is asked for.
std::vector<io::NamedTensor> some_tensors() {
  return {{"half", at::randn({3, 5}).to(at::kBFloat16)},
          {"full", at::randn({7, 300})},
          {"strided", at::randn({40, 6}).t()},
          {"empty", at::empty({0, 4})},
          {"made", io::tensor_like({2, 2}, at::kFloat), [] {
             return at::ones({2, 2}, at::kFloat) * 3;
           }}};
}

at::Tensor find(const WeightImage& image, const std::string& name) {
  for (const io::TensorEntry& entry : image.entries())
    if (entry.name == name) return image.tensor(entry);
  return {};
}

TEST(WeightImage, HoldsWhatWasWritten) {
  const auto tensors = some_tensors();
  const ImageWriter writer(tensors);
  const Block block = written(writer);
  const WeightImage image = block.image();
  EXPECT_EQ(image.entries().size(), tensors.size());
  EXPECT_EQ(image.entries().back().name, "half");
  for (const io::NamedTensor& named : tensors) {
    const at::Tensor expected = named.make ? named.make() : named.tensor;
    EXPECT_TRUE(find(image, named.name).equal(expected)) << named.name;
    const at::Tensor plain = expected.contiguous();
    EXPECT_EQ(image.digests().at(named.name), digest_of(plain.const_data_ptr(), plain.nbytes()));
  }
  image.verify(1);
  image.verify(3);
  EXPECT_EQ(image.digest(), block.digest);
  // However many threads write it, the bytes are the same.
  EXPECT_EQ(written(writer, 1).bytes, block.bytes);
}

TEST(WeightImage, TheSameWriterWritesWhatTheTensorsAreThen) {
  const auto tensors = some_tensors();
  const ImageWriter writer(tensors);
  const Block first = written(writer);
  tensors[1].tensor[2][3] += 1;
  const Block second = written(writer);
  EXPECT_NE(second.digest, first.digest);
  EXPECT_TRUE(find(second.image(), "full").equal(tensors[1].tensor));
}

TEST(WeightImage, OtherProgramsReadItAsASafetensorsFile) {
  const testing::TempDir folder;
  const auto tensors = some_tensors();
  const Block block = written(ImageWriter(tensors));
  const io::SafetensorsFile file(folder.write(
      "a.safetensors",
      std::string_view(reinterpret_cast<const char*>(block.bytes.data()), block.bytes.size())));
  EXPECT_EQ(file.metadata().at("format"), "pt");
  const Json about = parse_json(file.metadata().at("lockstep"), "metadata");
  EXPECT_EQ(about["protocol"], 1);
  EXPECT_EQ(about["digests"]["full"],
            digest_of(tensors[1].tensor.const_data_ptr(), tensors[1].tensor.nbytes()).hex());
}

TEST(WeightImage, ADigestIsOfNamesShapesAndTypesToo) {
  const at::Tensor value = at::zeros({2, 2});
  const auto digest = [](const std::string& name, const at::Tensor& tensor) {
    return written(ImageWriter({{name, tensor}})).digest;
  };
  const Digest one = digest("a", value);
  EXPECT_EQ(digest("a", value.clone()), one);
  EXPECT_NE(digest("b", value), one);
  EXPECT_NE(digest("a", value.view({4})), one);
  EXPECT_NE(digest("a", at::zeros({2, 2}, at::kInt)), one);
  // The order in which they are given does not count.
  const at::Tensor other = at::ones({3});
  EXPECT_EQ(written(ImageWriter({{"a", value}, {"b", other}})).digest,
            written(ImageWriter({{"b", other}, {"a", value}})).digest);
}

TEST(WeightImage, EveryChangedByteIsFound) {
  const Block block = written(ImageWriter(some_tensors()));
  const WeightImage image = block.image();
  for (const io::TensorEntry& entry : image.entries()) {
    if (entry.begin == entry.end) continue;
    for (const size_t at : {entry.begin, entry.end - 1}) {
      Block other = block;
      other.bytes[at] ^= std::byte{1};
      EXPECT_ERROR(other.image().verify(2), FormatError, "digest-mismatch", "block: " + entry.name);
    }
  }
}

TEST(WeightImage, HalfAndForeignBlocksAreRefused) {
  const Block block = written(ImageWriter(some_tensors()));
  Block half = block;
  std::memset(half.bytes.data(), 0, 8);
  EXPECT_ERROR(half.image(), FormatError, "bad-image", "got a block being written");
  EXPECT_ERROR(Block{}.image(), FormatError, "bad-image", "got a block being written");
  Block cut = block;
  cut.bytes.pop_back();
  EXPECT_ERROR(cut.image(), FormatError, "bad-safetensors", "block");
  const auto with_text = [&](std::string_view from, std::string_view to) {
    Block other = block;
    const std::string_view text(reinterpret_cast<const char*>(other.bytes.data()),
                                other.bytes.size());
    const size_t at = text.find(from);
    EXPECT_NE(at, text.npos) << from;
    EXPECT_EQ(from.size(), to.size());
    std::memcpy(other.bytes.data() + at, to.data(), to.size());
    return other;
  };
  EXPECT_ERROR(with_text(R"(\"protocol\":1)", R"(\"protocol\":2)").image(), FormatError,
               "wrong-protocol", "expected weights of protocol 1, got 2");
  EXPECT_ERROR(with_text(R"("lockstep")", R"("unlocked")").image(), FormatError, "bad-image",
               "expected metadata");
  EXPECT_ERROR(with_text(R"(\"half\":\")", R"(\"hall\":\")").image(), FormatError, "bad-image",
               "block: half");
  const std::string digest = block.image().digests().at("half").hex();
  std::string other = digest;
  other[5] = 'x';
  EXPECT_ERROR(with_text(digest, other).image(), FormatError, "bad-image", "block: half");
}

TEST(WeightImage, ATensorKeepsItsBlock) {
  at::Tensor tensor;
  {
    const Block block = written(ImageWriter(some_tensors()));
    tensor = find(block.image(), "made");
  }
  EXPECT_TRUE(tensor.equal(at::full({2, 2}, 3.0F)));
}

}  // namespace
}  // namespace lockstep::sync
