// A buffer of experiences comes back from a file as it was.
// SPDX-License-Identifier: Apache-2.0
#include "grpo/experience.h"

#include <gtest/gtest.h>

#include <ATen/ops/arange.h>

#include "base/check.h"
#include "tensor/aten.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep::grpo {
namespace {

std::vector<Experience> some_experiences() {
  return {{.sample = {{5, 6, 7}, {0, 1, 1}},
           .sampler_logprobs = {-0.1F, -0.2F},
           .old_logprobs = {-0.1F, -0.2F},
           .ref_logprobs = {-0.3F, -0.4F},
           .processed_logprobs = {-0.05F, -0.1F},
           .learned = {1, 0},
           .advantage = 0.1,
           .token_advantages = {0.1, -0.2},
           .group = 7,
           .is_truncated = true,
           .weight_version = 41,
           .is_rescored = true},
          {.sample = {{8, 9}, {0, 1}}, .sampler_logprobs = {-1e-30F}, .advantage = -2.5}};
}

TEST(Experience, SaveLoadIsIdentity) {
  const testing::TempDir folder;
  for (const auto& buffer : {some_experiences(), std::vector<Experience>{}}) {
    const auto path = folder.path() / std::to_string(buffer.size());
    auto tensors = experience_tensors(buffer);
    for (auto& other : experience_tensors({}, "next.")) tensors.push_back(std::move(other));
    io::write_safetensors(path, tensors);
    EXPECT_TRUE(read_experiences(path, "next.").empty());
    const auto read = read_experiences(path);
    ASSERT_EQ(read.size(), buffer.size());
    for (size_t i = 0; i < buffer.size(); ++i) {
      EXPECT_EQ(read[i].sample.ids, buffer[i].sample.ids);
      EXPECT_EQ(read[i].sample.mask, buffer[i].sample.mask);
      EXPECT_EQ(read[i].sampler_logprobs, buffer[i].sampler_logprobs);
      EXPECT_EQ(read[i].old_logprobs, buffer[i].old_logprobs);
      EXPECT_EQ(read[i].ref_logprobs, buffer[i].ref_logprobs);
      EXPECT_EQ(read[i].processed_logprobs, buffer[i].processed_logprobs);
      EXPECT_EQ(read[i].learned, buffer[i].learned);
      EXPECT_EQ(read[i].advantage, buffer[i].advantage);
      EXPECT_EQ(read[i].token_advantages, buffer[i].token_advantages);
      EXPECT_EQ(read[i].group, buffer[i].group);
      EXPECT_EQ(read[i].is_truncated, buffer[i].is_truncated);
      EXPECT_EQ(read[i].weight_version, buffer[i].weight_version);
      EXPECT_EQ(read[i].is_rescored, buffer[i].is_rescored);
    }
  }
}

TEST(Experience, ExpertsComeBackWithTheTokensThatTheyAreOf) {
  const testing::TempDir folder;
  for (const bool with_weights : {false, true}) {
    auto buffer = some_experiences();
    buffer.push_back(buffer[0]);
    for (const size_t i : {size_t{0}, size_t{2}}) {
      const std::vector<int64_t> shape{2, 3, 2};
      model::ExpertChoices& routed = buffer[i].sample.routed;
      routed.experts = at::arange(12, at::TensorOptions().dtype(at::kInt))
                           .view(shape)
                           .add(static_cast<int64_t>(1000 * i));
      if (with_weights) routed.weights = routed.experts.to(at::kFloat).div(7);
    }
    const auto path = folder.path() / (with_weights ? "weights" : "ids");
    auto tensors = experience_tensors(buffer);
    io::write_safetensors(path, tensors);
    const auto read = read_experiences(path);
    ASSERT_EQ(read.size(), 3u);
    EXPECT_FALSE(read[1].sample.routed.defined());
    for (const size_t i : {size_t{0}, size_t{2}}) {
      const model::ExpertChoices &was = buffer[i].sample.routed, &is = read[i].sample.routed;
      EXPECT_TRUE(is.experts.equal(was.experts)) << i;
      EXPECT_EQ(is.weights.defined(), with_weights);
      if (with_weights) {
        EXPECT_TRUE(is.weights.equal(was.weights)) << i;
      }
    }
    for (auto& tensor : tensors)
      if (tensor.name == "routed") tensor.tensor = tensor.tensor.narrow(0, 0, 3);
    io::write_safetensors(folder.path() / "short", tensors);
    EXPECT_ERROR(read_experiences(folder.path() / "short"), FormatError, "bad-resume",
                 "the experts of all tokens of completion");
  }
}

TEST(Experience, ListsThatDoNotFitTogetherAreAnError) {
  const testing::TempDir folder;
  auto tensors = experience_tensors(some_experiences());
  for (auto& tensor : tensors)
    if (tensor.name == "old") tensor.tensor = tensor.tensor.narrow(0, 0, 1);
  io::write_safetensors(folder.path() / "short", tensors);
  EXPECT_ERROR(read_experiences(folder.path() / "short"), FormatError, "bad-resume",
               "of 1 elements");
  std::erase_if(tensors, [](const auto& tensor) { return tensor.name == "ids"; });
  io::write_safetensors(folder.path() / "less", tensors);
  EXPECT_ERROR(read_experiences(folder.path() / "less"), FormatError, "bad-resume", "ids");
}

}  // namespace
}  // namespace lockstep::grpo
