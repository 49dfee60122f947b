// What a rank has done last.
// SPDX-License-Identifier: Apache-2.0
#include "parallel/recorder.h"

#include <gtest/gtest.h>

#include "tests/parallel/run_ranks.h"

namespace lockstep::parallel {
namespace {

TEST(Recorder, KeepsTheLastCallsInTheirOrder) {
  Recorder recorder(3);
  EXPECT_TRUE(recorder.calls().empty());
  EXPECT_FALSE(recorder.progress().last_call);
  for (uint64_t i = 1; i <= 8; ++i) {
    const uint64_t number = recorder.begin({.group = "world", .sequence = i});
    if (i != 7) recorder.end(number);
    const std::vector<RecordedCall> calls = recorder.calls();
    ASSERT_EQ(calls.size(), std::min<size_t>(i, 3));
    for (size_t k = 0; k < calls.size(); ++k) {
      EXPECT_EQ(calls[k].sequence, i - calls.size() + 1 + k);
      EXPECT_EQ(calls[k].is_done, calls[k].sequence != 7);
    }
  }
  EXPECT_EQ(recorder.progress().num_calls, 8u);
  EXPECT_EQ(recorder.progress().last_call->sequence, 8u);
}

TEST(Recorder, TheEndOfACallThatIsForgottenChangesNoOther) {
  Recorder recorder(2);
  const uint64_t first = recorder.begin({.sequence = 1});
  recorder.begin({.sequence = 2});
  recorder.begin({.sequence = 3});
  recorder.end(first);
  for (const RecordedCall& call : recorder.calls()) EXPECT_FALSE(call.is_done);
}

TEST(RecordedGroup, ItsCallsAreRecordedWithThePhase) {
  std::vector<Recorder> recorders(2);
  std::vector<std::unique_ptr<Group>> groups = make_local_groups(2);
  for (size_t rank = 0; rank < 2; ++rank)
    groups[rank] = make_recorded_group(std::move(groups[rank]), "experts", recorders[rank]);
  run_on_threads(std::move(groups), [&](Group& group) {
    Recorder& recorder = recorders[static_cast<size_t>(group.rank())];
    recorder.enter("train", 12);
    std::vector<std::byte> own(5), all(10), sent(6), got(6);
    group.all_gather(own, all, {"gradients of layer 17"});
    recorder.enter("save", 13);
    const std::vector<int64_t> threes{3, 3};
    const auto pending = group.begin_all_to_all(sent, threes, got, threes, {"rows"});
    const std::vector<RecordedCall> calls = recorder.calls();
    ASSERT_EQ(calls.size(), 2u);
    EXPECT_EQ(calls[0].text(), "all-gather #1 \"gradients of layer 17\" of experts");
    EXPECT_EQ(calls[0].bytes, 10);
    EXPECT_EQ(calls[0].phase, "train");
    EXPECT_EQ(calls[0].step, 12);
    EXPECT_TRUE(calls[0].is_done);
    EXPECT_GT(calls[0].begun, 1.6e9);
    EXPECT_EQ(calls[1].text(), "all-to-all #2 \"rows\" of experts");
    EXPECT_EQ(calls[1].bytes, 12);
    EXPECT_EQ(calls[1].phase, "save");
    EXPECT_FALSE(calls[1].is_done);
    pending->wait();
    EXPECT_TRUE(recorder.calls()[1].is_done);
  });
}

}  // namespace
}  // namespace lockstep::parallel
