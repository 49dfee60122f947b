// What a layout's proof refuses, what a cut leaves, and digests' chunks.
// SPDX-License-Identifier: Apache-2.0
#include "layout/layout.h"

#include <set>
#include <utility>

#include <gtest/gtest.h>

#include "base/check.h"
#include "layout/chunk_digests.h"
#include "layout/row_program.h"

namespace lockstep::layout {
namespace {

/// Two heads of 3 rows, and 4 rows without heads; 5 columns.
LogicalTensorsPtr two_tensors() {
  return std::make_shared<LogicalTensors>(
      std::vector<LogicalTensor>{{"q", {{"head", 2}, {"dim", 3}, {"in", 5}}, 2, ElementType::kBF16},
                                 {"k", {{"out", 4}, {"in", 5}}, 1, ElementType::kBF16}});
}

PhysicalTensor merged(const LogicalTensors& logical) {
  Placement placement(logical, "qk", {10, 5}, {});
  placement.place(std::vector{part(0), part(1)});
  return std::move(placement).finish();
}

std::string refusal(const LogicalTensorsPtr& logical, std::vector<RankTensors> ranks) {
  try {
    const Layout layout("test", logical, std::move(ranks));
    return "";
  } catch (const InternalError& error) {
    return error.what();
  }
}

TEST(Layout, ProvesCoverage) {
  const auto logical = two_tensors();
  const PhysicalTensor good = merged(*logical);
  EXPECT_EQ(refusal(logical, {{good}}), "");
  const auto expect = [&](const char* words, const auto& change) {
    PhysicalTensor bad = good;
    change(bad);
    const std::string found = refusal(logical, {{bad}});
    EXPECT_NE(found.find(words), std::string::npos) << found;
  };
  expect("overlap", [](PhysicalTensor& t) { t.boxes[1].origin[0] = 5; });
  expect("passes the end", [](PhysicalTensor& t) { t.boxes[1].origin[0] = 7; });
  expect("boxes of 30 elements", [](PhysicalTensor& t) { t.boxes.pop_back(); });
  expect("elements of k have an owner", [](PhysicalTensor& t) {
    t.boxes.pop_back();
    t.padding = 20;
  });
  expect("elements of k have an owner", [](PhysicalTensor& t) { t.boxes[1].is_copy = true; });
  expect("meets itself", [](PhysicalTensor& t) { t.boxes[0].steps[0].stride = 2; });
  expect("outside", [](PhysicalTensor& t) { t.boxes[1].region.begin[0] = 2; });
  EXPECT_NE(refusal(logical, {{good}, {good}}).find("two owners"), std::string::npos);
}

TEST(Layout, InterleavedRowsAreCutAnywhere) {
  const auto logical = two_tensors();
  Placement placement(*logical, "q", {6, 5}, {});
  placement.place(std::vector{each("head", {part(0)})});
  const PhysicalTensor whole_q = std::move(placement).finish();
  for (int64_t at = 1; at < 6; ++at) {
    const PhysicalTensor first = cut(whole_q, 0, 0, at), second = cut(whole_q, 0, at, 6);
    PhysicalTensor k = merged(*logical);
    k = cut(k, 0, 6, 10);
    EXPECT_EQ(refusal(logical, {{first, k}, {second}}), "") << at;
    EXPECT_EQ(first.padding + second.padding, 0);
  }
}

TEST(Layout, AnotherTypeIsStoredOnlyWhereItIsDeclared) {
  const auto logical = two_tensors();
  PhysicalTensor wide = merged(*logical);
  wide.type = ElementType::kF32;
  EXPECT_NE(refusal(logical, {{wide}}).find("qk is F32, q is BF16"), std::string::npos);
  wide.has_own_type = true;
  EXPECT_EQ(refusal(logical, {{wide}}), "");
  const Layout layout("test", logical, {{wide}});
  EXPECT_EQ(layout.stored_type(0), ElementType::kF32);
  PhysicalTensor half = wide;
  half.type = ElementType::kF16;
  EXPECT_NE(refusal(logical, {{half}}).find("no way to store BF16 of q as F16"), std::string::npos);
  PhysicalTensor less_one = wide;
  less_one.boxes[1].minus_one = true;
  EXPECT_NE(refusal(logical, {{less_one}}).find("k is stored both less one"), std::string::npos);
  // A copy in another type than the owner's.
  PhysicalTensor copy = merged(*logical);
  for (Box& box : copy.boxes) box.is_copy = true;
  EXPECT_NE(refusal(logical, {{wide}, {copy}}).find("q is stored as F32 here and as BF16"),
            std::string::npos);
  EXPECT_TRUE(cut(wide, 0, 2, 7).has_own_type);
}

TEST(Layout, ElementAtFindsEveryElementOnce) {
  const auto logical = two_tensors();
  Placement placement(*logical, "qk", {11, 5}, {});
  placement.place(std::vector{each("head", {part(0)}), part(1)}, Dims{1});
  const PhysicalTensor tensor = std::move(placement).finish(/*padding=*/5);
  std::set<std::pair<int32_t, Dims>> found;
  for (int64_t row = 0; row < 11; ++row)
    for (int64_t column = 0; column < 5; ++column) {
      const auto element = element_at(tensor, Dims{row, column});
      ASSERT_EQ(element.has_value(), row > 0) << row;
      if (!element) continue;
      EXPECT_TRUE(found.emplace(element->tensor, element->index).second);
      const Dims expected =
          row < 7 ? Dims{(row - 1) / 3, (row - 1) % 3, column} : Dims{row - 7, column};
      EXPECT_EQ(element->tensor, row < 7 ? 0 : 1);
      EXPECT_EQ(element->index, expected);
    }
  EXPECT_EQ(found.size(), 50U);
}

TEST(Layout, DigestChunksTileEveryTensorInOrder) {
  for (const std::vector<LogicalDim>& dims : {std::vector<LogicalDim>{{"a", 7}},
                                              {{"a", 3}, {"b", 700'000}},
                                              {{"a", 5}, {"b", 3000}, {"c", 1000}},
                                              {{"a", 2}, {"b", 3}, {"c", 3'000'000}},
                                              {{"a", 4'000'000}}}) {
    const LogicalTensor tensor{"t", dims, 1, ElementType::kBF16};
    int64_t sum = 0;
    Dims last{-1};
    for (const Region& chunk : digest_chunks(tensor)) {
      EXPECT_LE(chunk.numel() * 2, int64_t{1} << 20);
      EXPECT_LT(last, chunk.begin);
      last = chunk.begin;
      sum += chunk.numel();
    }
    EXPECT_EQ(sum, tensor.numel());
  }
}

}  // namespace
}  // namespace lockstep::layout
