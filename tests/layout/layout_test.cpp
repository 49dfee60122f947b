// What a layout's proof refuses, what a cut leaves, and digests' chunks.
// SPDX-License-Identifier: Apache-2.0
#include "layout/layout.h"

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
