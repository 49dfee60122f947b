// The two halves of a plan, each rank an object of its own that reads nothing of the others.
// SPDX-License-Identifier: Apache-2.0
#include "layout/halves.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <thread>

#include <gtest/gtest.h>

#include "base/check.h"
#include "layout/run_parallel.h"
#include "layout/shadow_memory.h"
#include "tests/model/sized_model.h"
#include "tests/support/test_seed.h"

namespace lockstep::model {
namespace {

using layout::Layout;
using layout::MemoryTensors;
using layout::Message;
using layout::Plan;
using layout::Receiver;
using layout::Sender;
using layout::ShadowMemory;
using testing::convert;
using testing::layout_of;
using testing::model_of;
using testing::numbered;
using testing::Sizes;

/// Small enough that most tensors are several pieces.
constexpr int64_t kPiece = 700;

/// The tensors of one rank; who asks for another's is refused.
class OneRank : public layout::ByteSource {
 public:
  OneRank(MemoryTensors& all, int64_t rank) : all_(all), rank_(rank) {}
  std::span<const std::byte> tensor(int64_t rank, int64_t index) override {
    LOCKSTEP_CHECK(rank == rank_, "rank {} read a tensor of rank {}", rank_, rank);
    return all_.tensor(rank, index);
  }

 private:
  MemoryTensors& all_;
  int64_t rank_;
};

/// A sink that lends no memory, as a file or a device does. What nobody writes is 0xEE.
class WrittenSink : public layout::UpdateSink {
 public:
  explicit WrittenSink(const Layout& layout) : current(layout), layout_(layout), next_(layout) {}
  void begin() override { next_ = MemoryTensors(layout_); }
  void commit() override { current = next_; }
  void drop() noexcept override {}
  void write(int64_t rank,
             int64_t index,
             int64_t begin,
             std::span<const std::byte> bytes) override {
    next_.write(rank, index, begin, bytes);
  }

  MemoryTensors current;

 private:
  const Layout& layout_;
  MemoryTensors next_;
};

/// Tensors whose further copies are those of their owners.
MemoryTensors consistent(const LogicalModel& model, const Layout& layout) {
  const Layout checkpoint = layout_of(model, "checkpoint");
  MemoryTensors original = numbered(model, checkpoint);
  return convert(checkpoint, layout, original).tensors;
}

/// A message on its way.
struct Parcel {
  Message message;
  MemoryTensors::Bytes bytes;
  Digest digest;
};

/// What all senders have for one rank of the target.
struct Mail {
  std::vector<Parcel> parcels;
  std::map<int32_t, Digest> sent;
};

/// Every rank of `from` as a thread with a plan of its own; the result by rank of `to`, in a random
/// order.
std::vector<Mail> send_all(const Layout& from, const Layout& to, MemoryTensors& tensors) {
  std::vector<std::vector<Mail>> by_sender(static_cast<size_t>(from.num_ranks()));
  {
    std::vector<std::jthread> threads;
    for (int32_t rank = 0; rank < from.num_ranks(); ++rank)
      threads.emplace_back([&, rank] {
        const Plan plan = make_plan(from, to, kPiece);
        OneRank source(tensors, rank);
        Sender sender(from, to, plan, rank, source);
        std::vector<Mail>& mail = by_sender[static_cast<size_t>(rank)];
        mail.resize(static_cast<size_t>(to.num_ranks()));
        std::vector<Parcel> parcels(sender.messages().size());
        layout::run_parallel(2, parcels.size(), [&](size_t i) {
          Parcel& parcel = parcels[i];
          parcel.message = sender.messages()[i];
          parcel.bytes.resize(static_cast<size_t>(parcel.message.size));
          parcel.digest = sender.fill(parcel.message, parcel.bytes);
        });
        for (Parcel& parcel : parcels)
          mail[static_cast<size_t>(parcel.message.to_rank)].parcels.push_back(std::move(parcel));
        for (int32_t to_rank = 0; to_rank < to.num_ranks(); ++to_rank)
          if (!mail[static_cast<size_t>(to_rank)].parcels.empty())
            mail[static_cast<size_t>(to_rank)].sent[rank] = sender.sent(to_rank);
      });
  }
  std::mt19937_64 random(testing::test_seed(1));
  std::vector<Mail> all(static_cast<size_t>(to.num_ranks()));
  for (size_t r = 0; r < all.size(); ++r) {
    for (std::vector<Mail>& sender : by_sender) {
      std::move(sender[r].parcels.begin(), sender[r].parcels.end(),
                std::back_inserter(all[r].parcels));
      all[r].sent.insert(sender[r].sent.begin(), sender[r].sent.end());
    }
    std::shuffle(all[r].parcels.begin(), all[r].parcels.end(), random);
  }
  return all;
}

/// Takes all of a rank's mail and commits it.
void receive(Receiver& receiver, const Mail& mail) {
  receiver.begin();
  for (const Parcel& parcel : mail.parcels)
    receiver.take(parcel.message, parcel.bytes, parcel.digest);
  receiver.check(mail.sent);
  receiver.commit();
}

bool is_same(std::span<const std::byte> a, std::span<const std::byte> b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

struct Pair {
  const char *from, *to;
  Sizes sizes = {};
};
class Halves : public ::testing::TestWithParam<Pair> {};

TEST_P(Halves, RanksThatReadOnlyTheirOwnMakeWhatOneProcessMakes) {
  const LogicalModel model = model_of(GetParam().sizes);
  const Layout from = layout_of(model, GetParam().from), to = layout_of(model, GetParam().to);
  MemoryTensors tensors = consistent(model, from);
  MemoryTensors expected = convert(from, to, tensors).tensors;
  const std::vector<Mail> mail = send_all(from, to, tensors);
  std::vector<std::jthread> threads;
  for (int32_t rank = 0; rank < to.num_ranks(); ++rank)
    threads.emplace_back([&, rank] {
      const Plan plan = make_plan(from, to, kPiece);
      ShadowMemory lent(to, rank);
      Receiver receiver(to, plan, rank, lent);
      WrittenSink written(to);
      Receiver writer(to, plan, rank, written);
      // A plan is replayed.
      for (int update = 0; update < 2; ++update) {
        receive(receiver, mail[static_cast<size_t>(rank)]);
        receive(writer, mail[static_cast<size_t>(rank)]);
      }
      for (int64_t t = 0; t < static_cast<int64_t>(to.rank(rank).size()); ++t) {
        EXPECT_TRUE(is_same(lent.tensor(t), expected.tensor(rank, t)))
            << rank << " " << to.rank(rank)[static_cast<size_t>(t)].name;
        EXPECT_TRUE(is_same(written.current.tensor(rank, t), expected.tensor(rank, t)))
            << rank << " " << to.rank(rank)[static_cast<size_t>(t)].name;
      }
    });
}

TEST_P(Halves, MessagesAreThePlansTrafficAndNoneIsLargerThanAPiece) {
  const LogicalModel model = model_of(GetParam().sizes);
  const Layout from = layout_of(model, GetParam().from), to = layout_of(model, GetParam().to);
  const Plan plan = make_plan(from, to, kPiece);
  std::map<std::pair<int32_t, int32_t>, int64_t> bytes, expected;
  for (const Message& message : messages_of(plan, to)) {
    bytes[{message.from_rank, message.to_rank}] += message.size;
    EXPECT_LE(message.size, plan.pieces[message.piece].size);
  }
  for (const layout::Traffic& traffic : plan.traffic(to))
    expected[{traffic.from_rank, traffic.to_rank}] = traffic.bytes;
  EXPECT_EQ(bytes, expected);
}

INSTANTIATE_TEST_SUITE_P(
    Pairs,
    Halves,
    ::testing::Values(
        Pair{"fsdp2:world=3", "megatron:tp=2,pp=2,ep=4,etp=2,gate=group,gdn=part"},
        Pair{"megatron:tp=2,pp=4", "vllm:tp=2,dp=3,ep=6"},
        Pair{"megatron:tp=2,ep=4,etp=1,out_norm=centred", "vllm:tp=2,ep=2"},
        Pair{"fsdp2:world=2", "lockstep:tp=8"},
        // A_log is widened; everything but A_log is rounded.
        Pair{"lockstep", "vllm:version=0.32", {.layers = 4, .is_one_dtype = true}},
        Pair{"lockstep", "vllm:version=0.32,tp=2", {.layers = 4, .dtype = WeightDtype::kFloat32}}));

/// One rank of an engine that has committed one set of weights and is sent another.
class HalfReceived : public ::testing::Test {
 protected:
  HalfReceived() { begin_second(); }

  /// The first set is committed, and half of the second is here.
  void begin_second() {
    receive(receiver_, old_[kRank]);
    before_.clear();
    for (int64_t t = 0; t < num_tensors(); ++t) {
      const auto bytes = sink_.tensor(t);
      before_.emplace_back(bytes.begin(), bytes.end());
    }
    receiver_.begin();
    for (size_t i = 0; i < num_taken_; ++i) take(mail_.parcels[i]);
  }

  int64_t num_tensors() const { return static_cast<int64_t>(to_.rank(kRank).size()); }
  void take(const Parcel& parcel) { receiver_.take(parcel.message, parcel.bytes, parcel.digest); }

  /// Expects that `act` fails with `text`, that the rank still has what it had, that the update is
  /// over, and that the next one succeeds.
  template <class Act>
  void expect_refused(const std::string& text, const Act& act) {
    std::string message = "no error";
    try {
      act();
    } catch (const FormatError& error) {
      message = error.what();
    }
    EXPECT_NE(message.find(text), std::string::npos) << message;
    EXPECT_THROW(take(mail_.parcels.back()), FormatError);
    EXPECT_THROW(receiver_.commit(), InternalError);
    for (int64_t t = 0; t < num_tensors(); ++t)
      EXPECT_TRUE(is_same(sink_.tensor(t), before_[static_cast<size_t>(t)])) << t;
    receive(receiver_, mail_);
    size_t num_changed = 0;
    for (int64_t t = 0; t < num_tensors(); ++t)
      num_changed += !is_same(sink_.tensor(t), before_[static_cast<size_t>(t)]);
    EXPECT_GT(num_changed, 10U);
  }

  static constexpr int32_t kRank = 1;
  const LogicalModel model_ = model_of({.layers = 4});
  const Layout from_ = layout_of(model_, "megatron:tp=4"), to_ = layout_of(model_, "vllm:tp=2");
  const Plan plan_ = make_plan(from_, to_, kPiece);
  MemoryTensors zeros_{from_, /*lends_memory=*/true};
  MemoryTensors tensors_ = consistent(model_, from_);
  const std::vector<Mail> old_ = send_all(from_, to_, zeros_);
  const std::vector<Mail> all_ = send_all(from_, to_, tensors_);
  const Mail& mail_ = all_[kRank];
  const size_t num_taken_ = mail_.parcels.size() / 2;
  ShadowMemory sink_{to_, kRank};
  Receiver receiver_{to_, plan_, kRank, sink_};
  std::vector<std::vector<std::byte>> before_;
};

TEST_F(HalfReceived, MissingMessageIsNamed) {
  for (size_t i = num_taken_; i + 1 < mail_.parcels.size(); ++i) take(mail_.parcels[i]);
  const Message& last = mail_.parcels.back().message;
  const auto& piece = plan_.pieces[last.piece];
  expect_refused(fmt::format("{}: expected {} bytes of piece {} from rank {}, got nothing",
                             to_.rank(kRank)[static_cast<size_t>(piece.tensor)].name, last.size,
                             last.piece, last.from_rank),
                 [&] { receiver_.check(mail_.sent); });
}

TEST_F(HalfReceived, MessageThatComesTwiceIsRefused) {
  expect_refused("once, got it twice", [&] { take(mail_.parcels[0]); });
}

TEST_F(HalfReceived, MessageOfAnotherSizeIsRefused) {
  Parcel parcel = mail_.parcels[num_taken_];
  parcel.bytes.pop_back();
  parcel.digest = digest_of(parcel.bytes.data(), parcel.bytes.size());
  expect_refused("bytes of piece", [&] { take(parcel); });
  begin_second();
  parcel = mail_.parcels[num_taken_];
  parcel.message.size -= 1;
  expect_refused("bytes of piece", [&] { take(parcel); });
}

TEST_F(HalfReceived, MessageForAnotherRankIsRefused) {
  expect_refused("expected a message for rank 1, got one for rank 0",
                 [&] { take(all_[0].parcels[0]); });
  begin_second();
  Parcel parcel = all_[0].parcels[0];
  parcel.message.to_rank = kRank;
  expect_refused("of rank 0", [&] { take(parcel); });
  begin_second();
  parcel = mail_.parcels[num_taken_];
  parcel.message.to_rank = 0;
  expect_refused("got one for rank 0", [&] { take(parcel); });
}

TEST_F(HalfReceived, MessageOfARankThatHasNothingIsRefused) {
  Parcel parcel = mail_.parcels[num_taken_];
  parcel.message.from_rank = 17;
  expect_refused("from rank 17, got a message", [&] { take(parcel); });
}

TEST_F(HalfReceived, UnknownPieceIsRefused) {
  Parcel parcel = mail_.parcels[num_taken_];
  parcel.message.piece = plan_.pieces.size();
  expect_refused("pieces, got piece", [&] { take(parcel); });
}

TEST_F(HalfReceived, ChangedByteIsFoundByTheMessagesDigest) {
  Parcel parcel = mail_.parcels[num_taken_];
  parcel.bytes[0] ^= std::byte{1};
  expect_refused("expected bytes of digest", [&] { take(parcel); });
}

TEST_F(HalfReceived, BytesThatNobodySentAreFoundByTheDigestOfAll) {
  Parcel parcel = mail_.parcels[num_taken_];
  parcel.bytes[0] ^= std::byte{1};
  parcel.digest = digest_of(parcel.bytes.data(), parcel.bytes.size());
  take(parcel);
  for (size_t i = num_taken_ + 1; i < mail_.parcels.size(); ++i) take(mail_.parcels[i]);
  expect_refused(fmt::format("expected rank {} to have sent", parcel.message.from_rank),
                 [&] { receiver_.check(mail_.sent); });
}

TEST_F(HalfReceived, SenderThatSaysNothingIsRefused) {
  for (size_t i = num_taken_; i < mail_.parcels.size(); ++i) take(mail_.parcels[i]);
  std::map<int32_t, Digest> sent = mail_.sent;
  sent.erase(sent.begin());
  expect_refused("got none", [&] { receiver_.check(sent); });
}

TEST_F(HalfReceived, NothingIsCommittedUnchecked) {
  for (size_t i = num_taken_; i < mail_.parcels.size(); ++i) take(mail_.parcels[i]);
  EXPECT_THROW(receiver_.commit(), InternalError);
  expect_refused("where no update is under way", [&] { take(mail_.parcels[0]); });
}

TEST_F(HalfReceived, ReceiverThatGoesLeavesWhatWasThere) {
  receiver_.drop();
  { Receiver(to_, plan_, kRank, sink_).begin(); }
  for (int64_t t = 0; t < num_tensors(); ++t)
    EXPECT_TRUE(is_same(sink_.tensor(t), before_[static_cast<size_t>(t)])) << t;
  EXPECT_THROW(sink_.memory(kRank, 0), InternalError);
}

TEST(SenderOfARank, RefusesValuesThatWouldNotComeBackAndUndeclaredChanges) {
  const LogicalModel model = model_of({.layers = 4});
  const Layout plain = layout_of(model, "megatron:tp=1"),
               centred = layout_of(model, "megatron:tp=1,out_norm=centred");
  MemoryTensors tensors = numbered(model, plain);
  for (size_t t = 0; t < plain.rank(0).size(); ++t) {
    const auto& physical = plain.rank(0)[t];
    if (physical.boxes.empty() ||
        !(*model.tensors)[physical.boxes[0].tensor].id.ends_with("delta.norm"))
      continue;
    const float tiny = 1e-20F;
    std::memcpy(tensors.bytes(0, static_cast<int64_t>(t)).data(), &tiny, sizeof(tiny));
  }
  std::string message;
  try {
    const Plan plan = make_plan(plain, centred, kPiece);
    Sender sender(plain, centred, plan, 0, tensors);
    for (const Message& m : sender.messages()) {
      MemoryTensors::Bytes bytes(static_cast<size_t>(m.size));
      sender.fill(m, bytes);
    }
  } catch (const FormatError& error) {
    message = error.what();
  }
  EXPECT_NE(message.find("that come back from megatron:out_norm=centred"), std::string::npos)
      << message;

  const Layout engine = layout_of(model, "vllm:version=0.32");
  Plan plan = make_plan(plain, engine, kPiece);
  plan.type_changes.pop_back();
  EXPECT_THROW(Sender(plain, engine, plan, 0, tensors), InternalError);
}

}  // namespace
}  // namespace lockstep::model
