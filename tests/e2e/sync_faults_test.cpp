// What can go wrong with an update by shared memory or over TCP, drawn at random: the server goes
// on with the old weights' exact tokens, says why, and takes the next update.
// SPDX-License-Identifier: Apache-2.0
//
// LOCKSTEP_SYNC_FAULTS=200 draws as many; the tests of every day draw fewer.
#include <cstdlib>
#include <functional>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "sync/shared_memory.h"
#include "sync/weight_delta.h"
#include "sync/weight_image.h"
#include "sync/weight_sender.h"
#include "tensor/aten.h"
#include "tests/e2e/rollout_process.h"
#include "tests/e2e/troubled_line.h"
#include "tests/support/test_seed.h"

namespace lockstep::testing {
namespace {

using Tensors = std::vector<io::NamedTensor>;

/// A block with weights, and how a trainer tells of it.
struct Offer {
  std::shared_ptr<sync::SharedMemory> block;
  Json info;
  std::string digest;
  /// Over TCP.
  std::unique_ptr<sync::WeightSender> sender = {};
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

/// What leads from one model to the other.
std::shared_ptr<sync::SharedMemory> delta_of(const Tensors& from,
                                             const Tensors& to,
                                             std::string& base) {
  const sync::ImageWriter before(from), after(to);
  std::vector<std::byte> block(before.bytes());
  base = before.write(block, 1).hex();
  sync::DeltaWriter changes(2 * block.size());
  const std::string digest =
      after
          .write(block, 1,
                 [&](size_t i, auto old_bytes, auto new_bytes) {
                   changes.add(i, old_bytes, new_bytes, after.element_bytes(i));
                 })
          .hex();
  const auto delta =
      changes.finish(base, digest, block.size(), std::span(block).first(after.header_bytes()));
  auto kept = sync::SharedMemory::create_nameless(delta.size());
  std::copy(delta.begin(), delta.end(), kept->bytes().begin());
  return kept;
}

/// The same weights for those who pull them; with `base`, what leads to them from these, too.
Offer tcp_offer_of(const Tensors& tensors, const Tensors* base = nullptr) {
  Offer offer = offer_of(tensors);
  offer.sender = std::make_unique<sync::WeightSender>("127.0.0.1", 0);
  const sync::SenderAddress& address = offer.sender->address();
  sync::SentWeights sent{.digest = offer.digest, .block = offer.block};
  offer.info = {{"transport", "tcp"},
                {"host", address.host},
                {"port", address.port},
                {"token", address.token},
                {"bytes", offer.block->bytes().size()},
                {"digest", offer.digest}};
  if (base) {
    sent.delta = delta_of(*base, tensors, sent.base);
    offer.info["base"] = sent.base;
    offer.info["delta_bytes"] = sent.delta->bytes().size();
  }
  offer.sender->offer(std::move(sent));
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
    held_.reset();
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
  /// Any of the ways without a fault, to the weights that are not served.
  Offer good_offer() {
    const Tensors& tensors = tensors_[other()];
    if (below(2)) return offer_of(tensors);
    // It keeps what came over TCP last, whatever else has come since.
    const bool has_base = held_ == served_;
    held_ = other();
    return tcp_offer_of(tensors, has_base && below(2) ? &tensors_[served_] : nullptr);
  }
  /// An update without a fault.
  void take_the_others() {
    const Offer good = good_offer();
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
  /// The same, for a line to the trainer that is in trouble after so many bytes of weights.
  void refuse_line(const char* code, Trouble trouble, bool with_delta = false) {
    if (with_delta) {
      // It must have the base.
      take_over_tcp();
    }
    const Offer offer = tcp_offer_of(tensors_[other()], with_delta ? &tensors_[served_] : nullptr);
    const size_t bytes = offer.info.value(with_delta ? "delta_bytes" : "bytes", size_t{0});
    const TroubledLine line(offer.info["port"], trouble, below(bytes - 1));
    held_.reset();
    Json info = offer.info;
    info["port"] = line.port();
    EXPECT_EQ(start(), 200);
    const int status = update(info);
    EXPECT_GE(status, 400) << dump_json(last_.json);
    const std::string found = last_.json["error"].value("code", "");
    EXPECT_NE(std::string(code).find(found), std::string::npos) << dump_json(last_.json);
  }
  void take_over_tcp() {
    const Offer good = tcp_offer_of(tensors_[other()]);
    ASSERT_EQ(start(), 200);
    ASSERT_EQ(update(good.info), 200) << dump_json(last_.json);
    label_ = "step-" + std::to_string(++steps_);
    ASSERT_EQ(finish(label_), 200);
    held_ = served_ = other();
  }
  void refuse_tcp_offer(int status,
                        const char* code,
                        const std::function<void(Offer&)>& change,
                        bool with_delta = false) {
    Offer offer = tcp_offer_of(tensors_[other()], with_delta ? &tensors_[served_] : nullptr);
    change(offer);
    held_.reset();
    EXPECT_EQ(start(), 200);
    update(offer.info);
    expect_refused(status, code);
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

  using Faults = std::vector<std::pair<const char*, std::function<void()>>>;
  Faults faults();
  Faults tcp_faults();

  TempDir folder_;
  std::mt19937_64 random_;
  std::vector<std::string> models_;
  std::vector<Tensors> tensors_;
  /// The log-probabilities of a completion, by model.
  std::vector<Json> expected_;
  std::optional<Rollout> server_;
  size_t served_ = 0;
  /// Which weights it has from a trainer over TCP.
  std::optional<size_t> held_;
  std::string label_ = "default";
  int steps_ = 0;
  Answer last_;
};

// long: a list of cases
SyncFaults::Faults SyncFaults::faults() {
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
      {"a trainer whose place another has taken",
       [=, this] {
         const auto come = [&](const char* name) {
           EXPECT_EQ(post("/init_weight_transfer_engine",
                          {{"init_info", {{"backend", "lockstep"}, {"session", name}}}}),
                     200);
           held_.reset();
         };
         const Offer offer = offer_of(tensors_[other()]);
         come("first");
         EXPECT_EQ(post("/start_weight_update", {{"session", "first"}}), 200);
         come("second");
         EXPECT_EQ(post("/start_weight_update", {{"session", "second"}}), 200);
         for (const auto& [path, body] :
              {std::pair("/start_weight_update", Json::object()),
               std::pair("/update_weights", Json{{"update_info", offer.info}}),
               std::pair("/finish_weight_update", Json::object()),
               std::pair("/shutdown_weight_transfer_engine", Json::object())}) {
           Json said = body;
           said["session"] = "first";
           post(path, said);
           expect_refused(409, "other-session");
         }
         // The second one's update is still open.
         EXPECT_EQ(post("/update_weights", {{"session", "second"}, {"update_info", offer.info}}),
                   200);
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

// long: a list of cases
SyncFaults::Faults SyncFaults::tcp_faults() {
  return {
      {"a line that is cut", [=, this] { refuse_line("connection-failed", Trouble::kCut); }},
      {"a line that is cut in a delta",
       [=, this] { refuse_line("connection-failed", Trouble::kCut, /*with_delta=*/true); }},
      // Where the header is hit, it is the header that is refused.
      {"a byte that changes on the way",
       [=, this] {
         refuse_line("digest-mismatch bad-image bad-safetensors wrong-protocol unknown-tensor",
                     Trouble::kCorrupt);
       }},
      {"a byte of a delta that changes on the way",
       [=, this] {
         refuse_line("digest-mismatch bad-delta wrong-base bad-image bad-safetensors",
                     Trouble::kCorrupt, /*with_delta=*/true);
       }},
      {"pieces that come in another order",
       [=, this] { refuse_line("digest-mismatch bad-image bad-safetensors", Trouble::kSwap); }},
      {"a piece that comes twice",
       [=, this] {
         refuse_line("digest-mismatch bad-image bad-safetensors bad-answer bad-line",
                     Trouble::kDouble);
       }},
      {"a line that is slow",
       [=, this] {
         const Offer offer = tcp_offer_of(tensors_[other()]);
         const TroubledLine line(offer.info["port"], Trouble::kDelay, 1000);
         Json info = offer.info;
         info["port"] = line.port();
         EXPECT_EQ(start(), 200);
         EXPECT_EQ(update(info), 200) << dump_json(last_.json);
         expect_served();
         init();
         held_.reset();
       }},
      {"another token",
       [=, this] {
         refuse_tcp_offer(400, "wrong-token",
                          [](Offer& offer) { offer.info["token"] = std::string(32, '7'); });
       }},
      {"no token",
       [=, this] {
         refuse_tcp_offer(400, "bad-request", [](Offer& offer) { offer.info.erase("token"); });
       }},
      {"weights that are not offered any more",
       [=, this] {
         refuse_tcp_offer(400, "no-such-weights", [](Offer& offer) { offer.sender->withdraw(); });
       }},
      {"a trainer that is gone",
       [=, this] {
         refuse_tcp_offer(400, "connection-failed", [](Offer& offer) { offer.sender.reset(); });
       }},
      {"weights of 10 TB",
       [=, this] {
         refuse_tcp_offer(400, "too-large",
                          [](Offer& offer) { offer.info["bytes"] = int64_t{10'000'000'000'000}; });
       }},
      {"a changed byte of the offered block",
       [=, this] {
         refuse_tcp_offer(409, "digest-mismatch", [&](Offer& offer) {
           const auto bytes = offer.block->bytes();
           bytes[bytes.size() - 1 - below(bytes.size() / 2)] ^= std::byte{1};
         });
       }},
      {"tensors of another model",
       [=, this] {
         Tensors tensors = tensors_[other()];
         tensors[below(tensors.size())].name += ".more";
         EXPECT_EQ(start(), 200);
         update(tcp_offer_of(tensors).info);
         expect_refused(400, "unknown-tensor");
         held_.reset();
       }},
      {"a delta without its base",
       [=, this] {
         init();
         refuse_tcp_offer(
             400, "wrong-base", [](Offer&) {}, /*with_delta=*/true);
       }},
      {"a delta from the weights that it leads to",
       [=, this] {
         take_over_tcp();
         const Offer offer = tcp_offer_of(tensors_[served_], &tensors_[other()]);
         held_.reset();
         EXPECT_EQ(start(), 200);
         update(offer.info);
         expect_refused(400, "wrong-base");
       }},
  };
}

/// Without room for two models, what goes wrong before the change leaves the old weights, and what
/// goes wrong in it leaves none.
TEST_F(SyncFaults, InPlaceAServerWithoutWeightsRefusesUntilOthersCome) {
  server_.emplace(models_[0], Arguments{"--update_in_place", "true"});
  expect_served();
  take_the_others();
  take_over_tcp();
  expect_served();
  refuse_offer(409, "digest-mismatch", [](Offer& offer) {
    const auto bytes = offer.block->bytes();
    bytes[bytes.size() - 1] ^= std::byte{1};
  });
  expect_served();
  EXPECT_EQ(start(), 200);
  update({{"path", models_[other()]}});
  expect_refused(400, "not-supported");
  expect_served();
  {
    const Offer offer = offer_of(tensors_[other()]);
    EXPECT_EQ(start(), 200);
    EXPECT_EQ(update(offer.info), 200);
    expect_served();
    const auto bytes = offer.block->bytes();
    bytes[bytes.size() - 1] ^= std::byte{1};
    finish("wrong");
    expect_refused(500, "swap-failed");
  }
  const Json body{{"prompt", {1, 2, 3}}, {"max_tokens", 4}};
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(post("/v1/completions", body), 503);
    expect_refused(503, "poisoned");
    last_ = server_->ask("GET", "/health");
    expect_refused(503, "poisoned");
    // An update that is refused does not heal it.
    refuse_offer(400, "no-shared-memory", [](Offer& offer) { offer.block.reset(); });
  }
  const Offer good = offer_of(tensors_[other()]);
  EXPECT_EQ(start(), 200);
  EXPECT_EQ(update(good.info), 200) << dump_json(last_.json);
  EXPECT_EQ(finish("healed"), 200) << dump_json(last_.json);
  served_ = other();
  label_ = "healed";
  expect_served();
  EXPECT_EQ(server_->ask("GET", "/health").status, 200);
}

TEST_F(SyncFaults, LeaveTheOldWeightsAndTheNextUpdateWorks) {
  Faults all = faults();
  for (auto& fault : tcp_faults()) all.push_back(std::move(fault));
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
