// Adapters on a server of its own process: chosen by requests, loaded and unloaded while others
// run, kept when the weights are swapped.
// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "io/safetensors.h"
#include "sync/shared_memory.h"
#include "sync/weight_image.h"
#include "tests/e2e/rollout_process.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kTokens = 24;

struct Kind {
  const char* like;
  const char* dtype;
};

class ServedAdapters : public ::testing::TestWithParam<Kind> {
 protected:
  ServedAdapters() {
    model_ =
        new_model(folder_, "model", {"--like", GetParam().like, "--torch_dtype", GetParam().dtype});
    const bool has_experts = std::string(GetParam().like).ends_with("moe");
    one_ = train("one", {"--lora_experts", has_experts ? "true" : "false"});
    other_ = train("other", {"--lora_rank", "3", "--target_modules", "q_proj", "o_proj",
                             "embed_tokens", "lm_head"});
  }
  /// An adapter that has learned something.
  std::string train(const std::string& name, const Arguments& more) {
    const std::string rows = write_rows(folder_, name + ".jsonl", sum_rows(8)),
                      run = (folder_ / name).string();
    run_well(Arguments{"sft", "--model", model_, "--dataset", rows, "--output_dir", run,
                       "--max_steps", "4", "--learning_rate", "0.1", "--quiet"} +
             more);
    return run + "/last";
  }

  static Json body_for(const std::string& model, const std::vector<int64_t>& prompt) {
    return {{"prompt", prompt},        {"max_tokens", kTokens}, {"seed", 3},
            {"ignore_eos", true},      {"logprobs", 0},         {"model", model},
            {"return_token_ids", true}};
  }
  static std::vector<int64_t> prompt_of(int64_t number) {
    // Two of them begin alike.
    std::vector<int64_t> prompt{5, 6, 7, 8, 9, 10};
    prompt.push_back(11 + number / 2);
    return prompt;
  }

  TempDir folder_;
  std::string model_, one_, other_;
};

/// What a request gets, whole or streamed.
struct Tokens {
  std::vector<int64_t> ids;
  std::vector<float> logprobs;
  bool operator==(const Tokens&) const = default;
};
void PrintTo(const Tokens& tokens, std::ostream* out) {
  *out << ::testing::PrintToString(tokens.ids) << ::testing::PrintToString(tokens.logprobs);
}

void add_choice(Tokens& tokens, const Json& choice) {
  for (const Json& id : choice["token_ids"]) tokens.ids.push_back(id);
  if (choice["logprobs"].is_null()) return;
  for (const Json& value : choice["logprobs"]["token_logprobs"]) tokens.logprobs.push_back(value);
}

Tokens tokens_of(const RawAnswer& answer) {
  Tokens tokens;
  if (!answer.body.starts_with("data: ")) {
    const Json body = parse_json(answer.body, "answer");
    add_choice(tokens, body.at("choices").at(0));
    return tokens;
  }
  for (size_t at = 0; (at = answer.body.find("data: {", at)) != std::string::npos; ++at)
    add_choice(tokens, parse_json(answer.body.substr(at + 6, answer.body.find('\n', at) - at - 6),
                                  "event")["choices"][0]);
  return tokens;
}

Tokens ask_alone(const Rollout& server, const Json& body) {
  RawClient client(server.port());
  client.send(raw_request("POST", "/v1/completions", dump_json(body)));
  const auto answer = client.read_answer();
  EXPECT_TRUE(answer && answer->status == 200) << (answer ? answer->body : "no answer");
  return answer && answer->status == 200 ? tokens_of(*answer) : Tokens();
}

/// What a trainer says of the tokens that a server gave.
std::vector<float> scores_of(const std::string& model,
                             const std::string& adapter,
                             std::vector<int64_t> prompt,
                             const Tokens& tokens,
                             const TempDir& folder) {
  prompt.insert(prompt.end(), tokens.ids.begin(), tokens.ids.end());
  const std::string rows = write_rows(folder, "score.jsonl", {{{"input_ids", prompt}}});
  Arguments score{"score", "--model", model, "--dataset", rows, "--quiet"};
  if (!adapter.empty()) score = score + Arguments{"--adapters", adapter};
  const Json all = parse_rows(run_well(score).out).at(0)["logprobs"];
  std::vector<float> scores;
  for (size_t t = all.size() - tokens.ids.size(); t < all.size(); ++t)
    scores.push_back(all[t].get<float>());
  return scores;
}

TEST_P(ServedAdapters, StreamsOfDifferentAdaptersAreWhatTheyAreAlone) {
  const Rollout server(model_, {"--adapters", "one=" + one_, "other=" + other_});
  const std::pair<const char*, std::string> models[] = {
      {"model", ""}, {"one", one_}, {"other", other_}};
  std::vector<Tokens> alone;
  for (int64_t i = 0; i < 12; ++i) {
    const auto& [name, adapter] = models[i % 3];
    alone.push_back(ask_alone(server, body_for(name, prompt_of(i))));
    EXPECT_EQ(alone[i].ids.size(), static_cast<size_t>(kTokens));
    if (i < 3) {
      EXPECT_EQ(alone[i].logprobs, scores_of(model_, adapter, prompt_of(i), alone[i], folder_));
    }
  }
  EXPECT_NE(alone[0].logprobs, alone[1].logprobs);
  EXPECT_NE(alone[1].logprobs, alone[2].logprobs);
  // Whole and streamed, all at once.
  std::vector<RawClient> clients;
  for (int64_t i = 0; i < 12; ++i) {
    Json body = body_for(models[i % 3].first, prompt_of(i));
    body["stream"] = i % 4 != 0;
    clients.emplace_back(server.port());
    clients.back().send(raw_request("POST", "/v1/completions", dump_json(body)));
  }
  for (size_t i = 0; i < clients.size(); ++i) {
    const auto answer = clients[i].read_answer();
    ASSERT_TRUE(answer && answer->is_whole && answer->status == 200);
    EXPECT_EQ(tokens_of(*answer), alone[i]) << i;
  }
}

TEST_P(ServedAdapters, ComeAndGoWhileRequestsRun) {
  Rollout server(model_);
  const auto load = [&](const std::string& path, bool in_place) {
    RawClient client(server.port());
    client.send(raw_request(
        "POST", "/v1/load_lora_adapter",
        dump_json({{"lora_name", "a"}, {"lora_path", path}, {"load_inplace", in_place}})));
    const auto answer = client.read_answer();
    return answer ? answer->status : 0;
  };
  const Json body = body_for("a", prompt_of(0));
  EXPECT_EQ(server.post("/v1/completions", body).status, 404);
  EXPECT_EQ(load(one_, false), 200);
  const Tokens of_one = ask_alone(server, body);
  // It stands still while its name goes to another adapter, and then to none.
  EXPECT_EQ(server.post("/pause?mode=keep").status, 200);
  RawClient client(server.port());
  client.send(raw_request("POST", "/v1/completions", dump_json(body)));
  ASSERT_TRUE(wait_until(server.program(),
                         [&] { return server.metric("vllm:num_requests_waiting") == "1"; }));
  EXPECT_EQ(load(other_, false), 400);
  EXPECT_EQ(load(other_, true), 200);
  EXPECT_EQ(server.post("/resume").status, 200);
  const auto answer = client.read_answer();
  ASSERT_TRUE(answer && answer->status == 200);
  EXPECT_EQ(tokens_of(*answer), of_one);
  const Tokens of_other = ask_alone(server, body);
  EXPECT_EQ(of_other.logprobs, scores_of(model_, other_, prompt_of(0), of_other, folder_));
  EXPECT_NE(of_other, of_one);
  // Files that do not fit leave it as it is.
  EXPECT_EQ(load(model_, true), 404);
  EXPECT_EQ(load(train("whole", {"--modules_to_save", "norm"}), true), 400);
  EXPECT_EQ(ask_alone(server, body), of_other);
  RawClient leaving(server.port());
  leaving.send(raw_request("POST", "/v1/unload_lora_adapter", R"({"lora_name": "a"})"));
  const auto left = leaving.read_answer();
  ASSERT_TRUE(left);
  EXPECT_EQ(left->status, 200) << left->body;
  EXPECT_EQ(server.post("/v1/completions", body).status, 404);
  EXPECT_EQ(server.post("/v1/unload_lora_adapter", {{"lora_name", "a"}}).status, 404);
}

TEST_P(ServedAdapters, StayWhenTheWeightsAreSwapped) {
  const std::string second =
      new_model(folder_, "second",
                {"--like", GetParam().like, "--torch_dtype", GetParam().dtype, "--seed", "2"});
  Rollout server(model_, {"--adapters", "one=" + one_});
  ask_alone(server, body_for("one", prompt_of(0)));
  EXPECT_EQ(server.post("/start_weight_update").status, 200);
  EXPECT_EQ(server.post("/update_weights", {{"update_info", {{"path", second}}}}).status, 200);
  EXPECT_EQ(server.post("/finish_weight_update").status, 200);
  for (const auto& [name, adapter] : {std::pair("one", one_), std::pair("model", std::string())}) {
    const Tokens tokens = ask_alone(server, body_for(name, prompt_of(0)));
    EXPECT_EQ(tokens.logprobs, scores_of(second, adapter, prompt_of(0), tokens, folder_));
  }
}

/// An adapter as a trainer of this machine offers it.
TEST_P(ServedAdapters, ComeAsBlocksOfTheirFiles) {
  Rollout server(model_);
  const io::SafetensorsCheckpoint files(one_);
  std::vector<io::NamedTensor> tensors;
  for (const std::string& name : files.names()) tensors.push_back({name, files.tensor(name)});
  const sync::ImageWriter writer(
      tensors, {{"adapter_config", slurp(fs::path(one_) / "adapter_config.json")}});
  const auto block = sync::SharedMemory::create(writer.bytes());
  Json info{{"transport", "shm"},
            {"name", block->name()},
            {"bytes", writer.bytes()},
            {"digest", writer.write(block->bytes(), 1).hex()}};
  // What became of it: a line of text, or an error.
  const auto load = [&](const Json& body) {
    RawClient client(server.port());
    client.send(raw_request("POST", "/v1/load_lora_adapter", dump_json(body)));
    return client.read_answer();
  };
  EXPECT_EQ(load({{"lora_name", "a"}, {"update_info", info}}).value().status, 200);
  EXPECT_EQ(ask_alone(server, body_for("a", prompt_of(0))),
            ask_alone(Rollout(model_, {"--adapters", "a=" + one_}), body_for("a", prompt_of(0))));
  // What does not fit changes nothing.
  const auto refuse = [&](const Json& body, int status, const char* code) {
    const auto answer = load(body).value();
    EXPECT_EQ(answer.status, status) << answer.body;
    EXPECT_EQ(parse_json(answer.body, "answer")["error"].value("code", Json()), code);
  };
  refuse({{"lora_name", "b"}, {"update_info", info}, {"lora_path", one_}}, 400, "bad-request");
  Json other = info;
  other["digest"] = std::string(32, 'a');
  refuse({{"lora_name", "b"}, {"update_info", other}}, 400, "digest-mismatch");
  block->bytes().back() ^= std::byte{1};
  refuse({{"lora_name", "b"}, {"update_info", info}}, 400, "digest-mismatch");
  const sync::ImageWriter nameless(tensors);
  const auto without = sync::SharedMemory::create(nameless.bytes());
  other = {{"transport", "shm"},
           {"name", without->name()},
           {"bytes", nameless.bytes()},
           {"digest", nameless.write(without->bytes(), 1).hex()}};
  refuse({{"lora_name", "b"}, {"update_info", other}}, 400, "bad-image");
  EXPECT_EQ(server.post("/v1/completions", body_for("b", prompt_of(0))).status, 404);
}

INSTANTIATE_TEST_SUITE_P(Kinds,
                         ServedAdapters,
                         ::testing::Values(Kind{"qwen3", "bfloat16"},
                                           Kind{"qwen3_moe", "float32"},
                                           Kind{"qwen3_5_moe", "bfloat16"}),
                         [](const auto& kind) {
                           return std::string(kind.param.like) + "_" + kind.param.dtype;
                         });

TEST(ServedAdaptersFiles, AreListedAndNeedTheKey) {
  const TempDir folder;
  const std::string model = new_model(folder, "model", {"--like", "qwen3"}),
                    rows = write_rows(folder, "rows.jsonl", sum_rows(4)),
                    run = (folder / "run").string();
  run_well({"sft", "--model", model, "--dataset", rows, "--output_dir", run, "--max_steps", "1",
            "--quiet"});
  Rollout server(model, {"--adapters", "a=" + run + "/last", "--api_key", "secret"});
  EXPECT_EQ(server.post("/v1/load_lora_adapter").status, 401);
  EXPECT_EQ(server.post("/v1/unload_lora_adapter", {{"lora_name", "a"}}).status, 401);
  const Json list =
      server.ask("GET", "/v1/models", {}, "Authorization: Bearer secret\r\n").json["data"];
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0]["id"], model);
  EXPECT_EQ(list[1]["id"], "a");
  EXPECT_EQ(list[1]["root"], run + "/last");
  EXPECT_EQ(list[1]["parent"], model);
}

TEST(ServedAdaptersFiles, ThatDoNotFitEndTheStart) {
  const TempDir folder;
  const std::string model = new_model(folder, "model", {"--like", "qwen3"}),
                    larger = new_model(folder, "larger", {"--like", "qwen3_5"}),
                    rows = write_rows(folder, "rows.jsonl", sum_rows(4)),
                    run = (folder / "run").string();
  run_well({"sft", "--model", larger, "--dataset", rows, "--output_dir", run, "--max_steps", "1",
            "--quiet"});
  const auto said = [&](const std::string& path) {
    const ProgramResult result =
        run_program({"rollout", "--model", model, "--port", "0", "--adapters", "a=" + path});
    EXPECT_EQ(result.exit_code, 2) << result.err;
    return result.err;
  };
  EXPECT_THAT(said((folder / "none").string()), HasSubstr("error[missing-adapter]: "));
  EXPECT_THAT(said(run + "/last"),
              AllOf(HasSubstr("error[bad-adapter]: base_model.model."), HasSubstr("expected ")));
}

}  // namespace
}  // namespace lockstep::testing
