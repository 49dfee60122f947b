// Groups of threads.
// SPDX-License-Identifier: Apache-2.0
#include "parallel/group.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "parallel/mesh_group.h"
#include "parallel/subgroup.h"
#include "tests/parallel/group_interface.h"
#include "tests/parallel/local_mesh.h"
#include "tests/parallel/run_ranks.h"

namespace lockstep::parallel {
namespace {

void run_on_local_groups(int64_t size, const std::function<void(Group&)>& action) {
  run_ranks(size, action);
}

void run_on_meshes(int64_t size, const std::function<void(Group&)>& action) {
  std::vector<std::unique_ptr<Group>> groups;
  for (auto& mesh : make_local_meshes(size)) groups.push_back(make_mesh_group(std::move(mesh)));
  run_on_threads(std::move(groups), action);
}

/// Two parts of neighbours, and two of every second rank.
void run_on_halves(int64_t size, const std::function<void(Group&)>& action) {
  for (const bool are_neighbours : {true, false})
    run_ranks(2 * size, [&](Group& all) {
      std::vector<int64_t> members;
      for (int64_t rank = 0; rank < all.size(); ++rank)
        if (are_neighbours ? rank / size == all.rank() / size : rank % 2 == all.rank() % 2)
          members.push_back(rank);
      action(*make_subgroup(all, members));
    });
}

INSTANTIATE_TEST_SUITE_P(Threads,
                         Groups,
                         testing::Values(GroupKind{"Local", run_on_local_groups, 1},
                                         GroupKind{"Local", run_on_local_groups, 2},
                                         GroupKind{"Local", run_on_local_groups, 3},
                                         GroupKind{"Local", run_on_local_groups, 8},
                                         GroupKind{"Mesh", run_on_meshes, 1},
                                         GroupKind{"Mesh", run_on_meshes, 2},
                                         GroupKind{"Mesh", run_on_meshes, 3},
                                         GroupKind{"Mesh", run_on_meshes, 8},
                                         GroupKind{"Half", run_on_halves, 1, true},
                                         GroupKind{"Half", run_on_halves, 3, true},
                                         GroupKind{"Half", run_on_halves, 4, true}),
                         name_of_kind);

/// The PeerError that `action` throws, as "code: what"; "" without one.
template <class Action>
std::string peer_error_of(Action&& action) {
  try {
    action();
    return {};
  } catch (const PeerError& error) {
    return error.code() + ": " + error.what();
  }
}

TEST(LocalGroup, ARankThatLeavesEndsTheCall) {
  const std::string error = peer_error_of([] {
    run_on_local_groups(3, [](Group& group) {
      if (group.rank() != 1) group.barrier({"two of three"});
    });
  });
  EXPECT_EQ(error, "rank-lost: two of three: expected all ranks, got one that left");
}

TEST(MeshGroup, NamesTheRanksThatDoNotCome) {
  run_on_meshes(4, [](Group& group) {
    if (group.rank() % 2 == 1) {
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      return;
    }
    EXPECT_EQ(peer_error_of([&] {
                group.barrier({"alone", std::chrono::milliseconds(100)});
              }),
              fmt::format("rank-late: alone: expected ranks 1 3 in all-gather #1 within 100 ms on "
                          "rank {}",
                          group.rank()));
  });
}

TEST(MeshGroup, NamesTheRankThatIsGone) {
  run_on_meshes(3, [](Group& group) {
    group.barrier({"all"});
    if (group.rank() == 1) return;
    // Rank 0 waits for rank 1 first; rank 2 may find that rank 0 has given up.
    const std::string error = peer_error_of([&] { group.barrier({"without 1"}); });
    const auto expected = [&](int64_t lost) {
      return fmt::format(
          "rank-lost: without 1: expected rank {} in all-gather #2 on rank {}, got: "
          "connection closed",
          lost, group.rank());
    };
    EXPECT_TRUE(error == expected(1) || (group.rank() == 2 && error == expected(0))) << error;
    // The group is of no more use, and says why.
    const std::string later = peer_error_of([&] { group.barrier({"later"}); });
    EXPECT_NE(later.find("rank-lost: later: expected 3 ranks, got a group that has ended: without"),
              std::string::npos)
        << later;
  });
}

TEST(MeshGroup, ACallThatIsGivenUpEndsTheGroup) {
  run_on_meshes(2, [](Group& group) {
    if (group.rank() == 0) {
      std::vector<std::byte> own(5000), all(10000);
      const auto begun = std::chrono::steady_clock::now();
      { const auto pending = group.begin_all_gather(own, all, {"given up"}); }
      EXPECT_LT(std::chrono::steady_clock::now() - begun, std::chrono::seconds(2));
      EXPECT_NE(peer_error_of([&] { group.barrier({"later"}); }), "");
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      EXPECT_NE(peer_error_of([&] { group.barrier({"later"}); }), "");
    }
  });
}

TEST(MeshGroup, LongNamesAreComparedByTheirBeginnings) {
  run_on_meshes(2, [](Group& group) {
    const std::string name(1000, 'x');
    group.barrier({name + std::to_string(group.rank())});
    EXPECT_THROW(group.barrier({std::to_string(group.rank()) + name}), InternalError);
  });
}

}  // namespace
}  // namespace lockstep::parallel
