// What can go wrong with an update by shared memory, drawn at random: the server goes on with the
// old weights' exact tokens, says why, and takes the next update.
// SPDX-License-Identifier: Apache-2.0
//
// LOCKSTEP_SYNC_FAULTS=200 draws as many; the tests of every day draw fewer.
#include <cstdlib>
#include <functional>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sync/shared_memory.h"
#include "sync/weight_image.h"
#include "tensor/aten.h"
#include "tests/e2e/rollout_process.h"
#include "tests/support/test_seed.h"

namespace lockstep::testing {
namespace {

using Tensors = std::vector<io::NamedTensor>;

/// A block with weights, and how a trainer tells of it.
struct Offer {
  std::shared_ptr<sync::SharedMemory> block;
  Json info;
  std::string digest;
};

Offer offer_of(const Tensors& tensors) {
  const sync::ImageWriter writer(tensors);
  Offer offer{.block = sync::SharedMemory::create(writer.bytes()), .info = {}, .digest = {}};
  offer.digest = writer.write(offer.block->bytes(), 1).hex();
  offer.info = {{"transport", "shm"},
                {"name", offer.block->name()},
                {"bytes", writer.bytes()},
                {"digest", offer.digest}};
  return offer;
}

class SyncFaults : public ::testing::Test {
 protected:
  SyncFaults() : random_(test_seed(17)) {
    for (const char* seed : {"1", "2"}) {
      const std::string model = new_model(folder_, seed, {"--like", "qwen3_5_moe", "--seed", seed});
      const io::SafetensorsCheckpoint files(model);
      Tensors tensors;
      for (const std::string& name : files.names()) tensors.push_back({name, files.tensor(name)});
      models_.push_back(model);
      tensors_.push_back(std::move(tensors));
      expected_.push_back(Rollout(model).complete());
    }
    EXPECT_NE(expected_[0], expected_[1]);
    server_.emplace(models_[0]);
  }

  size_t other() const { return 1 - served_; }
  size_t below(size_t count) { return random_() % count; }

  int post(const char* path, const Json& body = Json::object()) {
    last_ = server_->post(path, body);
    return last_.status;
  }
  int start() { return post("/start_weight_update"); }
  int update(const Json& info) { return post("/update_weights", {{"update_info", info}}); }
  int finish(const std::string& label) {
    return post("/finish_weight_update", {{"weight_version", label}});
  }
  void init() {
    EXPECT_EQ(post("/init_weight_transfer_engine", {{"init_info", {{"backend", "lockstep"}}}}),
              200);
  }
  void expect_refused(int status, const char* code) {
    EXPECT_EQ(last_.status, status) << dump_json(last_.json);
    EXPECT_EQ(last_.json["error"].value("code", Json()), code) << dump_json(last_.json);
  }
  /// Its answers are those of the weights that it should have, and it says so.
  void expect_served() {
    EXPECT_EQ(server_->version(), label_);
    EXPECT_EQ(server_->complete(), expected_[served_]);
  }
  /// An update without a fault, to the weights that are not served.
  void take_the_others() {
    const Offer good = offer_of(tensors_[other()]);
    ASSERT_EQ(start(), 200);
    ASSERT_EQ(update(good.info), 200) << dump_json(last_.json);
    expect_served();
    const std::string label = "step-" + std::to_string(++steps_);
    ASSERT_EQ(finish(label), 200) << dump_json(last_.json);
    served_ = other();
    label_ = label;
    expect_served();
  }

  /// Offers the other weights after `change` did something to them, and expects a refusal.
  void refuse_tensors(const char* code, const std::function<void(Tensors&)>& change) {
    Tensors tensors = tensors_[other()];
    change(tensors);
    EXPECT_EQ(start(), 200);
    update(offer_of(tensors).info);
    expect_refused(400, code);
  }
  /// The same, for what is told of a block and what lies in it.
  void refuse_offer(int status, const char* code, const std::function<void(Offer&)>& change) {
    Offer offer = offer_of(tensors_[other()]);
    change(offer);
    EXPECT_EQ(start(), 200);
    update(offer.info);
    expect_refused(status, code);
  }
  /// Sends the beginning of a request, or all of it, and hangs up.
  void hang_up(const char* path, const Json& body, bool is_whole) {
    const std::string text = raw_request("POST", path, dump_json(body));
    RawClient client(server_->port());
    client.send(is_whole ? text : text.substr(0, 1 + below(text.size() - 1)));
  }

  std::vector<std::pair<const char*, std::function<void()>>> faults();

  TempDir folder_;
  std::mt19937_64 random_;
  std::vector<std::string> models_;
  std::vector<Tensors> tensors_;
  /// The log-probabilities of a completion, by model.
  std::vector<Json> expected_;
  std::optional<Rollout> server_;
  size_t served_ = 0;
  std::string label_ = "default";
  int steps_ = 0;
  Answer last_;
};

// long: a list of cases
std::vector<std::pair<const char*, std::function<void()>>> SyncFaults::faults() {
  const auto any = [this](Tensors& tensors) -> io::NamedTensor& {
    return tensors[below(tensors.size())];
  };
  return {
      {"a changed byte",
       [=, this] {
         refuse_offer(409, "digest-mismatch", [&](Offer& offer) {
           const auto bytes = offer.block->bytes();
           bytes[bytes.size() - 1 - below(bytes.size() / 2)] ^= std::byte{1};
         });
       }},
      {"half a block",
       [=, this] {
         refuse_offer(400, "bad-image", [](Offer& offer) {
           std::fill_n(offer.block->bytes().data(), 8, std::byte{});
         });
       }},
      {"noise for a header",
       [=, this] {
         refuse_offer(400, "bad-safetensors", [&](Offer& offer) {
           for (size_t i = 0; i < 8; ++i)
             offer.block->bytes()[i] = static_cast<std::byte>(1 + below(255));
         });
       }},
      {"another digest",
       [=, this] {
         refuse_offer(409, "digest-mismatch",
                      [](Offer& offer) { offer.info["digest"] = std::string(32, '7'); });
       }},
      {"another size",
       [=, this] {
         refuse_offer(400, "no-shared-memory", [](Offer& offer) {
           offer.info["bytes"] = offer.info["bytes"].get<size_t>() + 4096;
         });
       }},
      {"a block that is gone",
       [=, this] {
         refuse_offer(400, "no-shared-memory", [](Offer& offer) { offer.block.reset(); });
       }},
      {"a missing tensor",
       [=, this] {
         refuse_tensors("missing-tensor", [&](Tensors& tensors) {
           tensors.erase(tensors.begin() + static_cast<int64_t>(below(tensors.size())));
         });
       }},
      {"an unknown tensor",
       [=, this] {
         refuse_tensors("unknown-tensor", [&](Tensors& tensors) { any(tensors).name += ".more"; });
       }},
      {"another shape",
       [=, this] {
         refuse_tensors("shape-mismatch", [&](Tensors& tensors) {
           at::Tensor& tensor = any(tensors).tensor;
           tensor = tensor.unsqueeze(0);
         });
       }},
      {"another type",
       [=, this] {
         refuse_tensors("bad-dtype", [&](Tensors& tensors) {
           at::Tensor& tensor = any(tensors).tensor;
           tensor = tensor.to(at::kDouble);
         });
       }},
      {"a finish of nothing",
       [=, this] {
         EXPECT_EQ(start(), 200);
         finish("wrong");
         expect_refused(409, "nothing-staged");
         init();
       }},
      {"an update and a finish out of order",
       [=, this] {
         update(offer_of(tensors_[other()]).info);
         expect_refused(409, "no-update");
         finish("wrong");
         expect_refused(409, "no-update");
       }},
      {"a start that comes twice",
       [=, this] {
         EXPECT_EQ(start(), 200);
         start();
         expect_refused(409, "update-open");
         init();
       }},
      {"a trainer that dies before its update",
       [=, this] {
         EXPECT_EQ(start(), 200);
         init();
       }},
      {"a trainer that dies before its finish",
       [=, this] {
         EXPECT_EQ(start(), 200);
         EXPECT_EQ(update(offer_of(tensors_[other()]).info), 200);
         expect_served();
         init();
         finish("wrong");
         expect_refused(409, "no-update");
       }},
      {"a request that is cut off",
       [=, this] {
         EXPECT_EQ(start(), 200);
         const Offer offer = offer_of(tensors_[other()]);
         hang_up("/update_weights", {{"update_info", offer.info}}, /*is_whole=*/false);
         init();
       }},
      {"a trainer that does not wait for the answer",
       [=, this] {
         EXPECT_EQ(start(), 200);
         const Offer offer = offer_of(tensors_[other()]);
         hang_up("/update_weights", {{"update_info", offer.info}}, /*is_whole=*/true);
         init();
       }},
      {"a finish that comes twice",
       [=, this] {
         take_the_others();
         finish("wrong");
         expect_refused(409, "no-update");
       }},
      {"an update that comes twice, the first one of the old weights",
       [=, this] {
         EXPECT_EQ(start(), 200);
         EXPECT_EQ(update(offer_of(tensors_[served_]).info), 200);
         const Offer offer = offer_of(tensors_[other()]);
         EXPECT_EQ(update(offer.info), 200);
         label_ = "step-" + std::to_string(++steps_);
         EXPECT_EQ(finish(label_), 200);
         served_ = other();
       }},
      {"a trainer that is gone when its weights are taken",
       [=, this] {
         EXPECT_EQ(start(), 200);
         {
           const Offer offer = offer_of(tensors_[other()]);
           EXPECT_EQ(update(offer.info), 200);
         }
         label_ = "step-" + std::to_string(++steps_);
         EXPECT_EQ(finish(label_), 200);
         served_ = other();
       }},
  };
}

TEST_F(SyncFaults, LeaveTheOldWeightsAndTheNextUpdateWorks) {
  const auto all = faults();
  const char* const wanted = std::getenv("LOCKSTEP_SYNC_FAULTS");
  const size_t draws = wanted ? std::stoul(wanted) : all.size() + 4;
  expect_served();
  for (size_t draw = 0; draw < draws && !HasFailure(); ++draw) {
    // Each once, then at random.
    const auto& [name, fault] = all[draw < all.size() ? draw : below(all.size())];
    SCOPED_TRACE(fmt::format("draw {}: {}", draw, name));
    fault();
    expect_served();
    take_the_others();
  }
}

}  // namespace
}  // namespace lockstep::testing
