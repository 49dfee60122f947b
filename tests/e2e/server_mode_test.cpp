// grpo against servers: the bytes of a colocated run, whatever happens to the servers.
// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <csignal>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/offered_weights.h"
#include "model/identity.h"
#include "rollout/engine.h"
#include "rollout/engine_thread.h"
#include "tests/e2e/program_files.h"
#include "tests/e2e/training.h"
#include "tests/support/fake_rollout_server.h"
#include "text/identity.h"
#include "train/hf_checkpoint.h"
#include "train/trainer.h"

namespace lockstep::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

/// A server in this process that samples by the engine itself.
class EngineServer {
 public:
  explicit EngineServer(const fs::path& model)
      : tokenizer_(text::Tokenizer::from_directory(model)) {
    const train::LoadedModel loaded = train::load_model(model, {});
    weights_ = loaded.weights;
    const model::ModelWeights& weights = *weights_;
    const net::SamplerInfo info{
        {.protocol = net::kRolloutProtocol,
         .model = model::tensors_digest(weights).hex(),
         .configuration = model::configuration_digest(weights.config()).hex(),
         .tokenizer = text::tokenizer_digest(model).hex(),
         .chat_template = text::template_digest(model).hex(),
         .dtype = std::string(enum_name(weights.weight_dtype())),
         .is_exact = true},
        weights.config().max_position_embeddings,
        8};
    loader_.emplace(loaded, info.identity, std::nullopt);
    FakeRolloutServer::Script script{
        .info = info,
        .complete = [this](const Json& body, const std::string&) { return complete(body); }};
    script.load = [this](const std::string& path, const std::string& digest) {
      load(path, digest);
    };
    script.score = [this](const std::vector<int64_t>& ids) { return score(ids); };
    server = std::make_unique<FakeRolloutServer>(std::move(script));
  }

  std::string url() const { return server->url(); }

  std::unique_ptr<FakeRolloutServer> server;
  /// After so many requests it dies; 0: never.
  std::atomic<int> dies_after{0};
  /// It says something else of texts than its weights do.
  std::atomic<bool> is_wrong_about_texts{false};
  /// How often its weights came by shared memory.
  std::atomic<int> blocks_loaded{0};
  std::atomic<size_t> last_bytes{0};

 private:
  void load(const std::string& path, const std::string& digest) {
    const std::lock_guard lock(mutex_);
    serve::OfferedWeights offered;
    offered.folder = path;
    offered.digest = digest;
    if (path.starts_with("shm:")) {
      const size_t end = path.rfind(':');
      offered.shared_memory = path.substr(4, end - 4);
      offered.bytes = std::stoull(path.substr(end + 1));
      last_bytes = offered.bytes;
      ++blocks_loaded;
    }
    const serve::LoadedWeights staged = loader_->load(offered);
    weights_ = dynamic_cast<const rollout::StagedModel&>(*staged.weights).weights;
  }

  std::vector<float> score(const std::vector<int64_t>& ids) {
    const std::lock_guard lock(mutex_);
    train::Sample sample{.ids = ids, .mask = std::vector<uint8_t>(ids.size(), 1)};
    sample.mask[0] = 0;
    const train::Trainer trainer(*std::const_pointer_cast<model::ModelWeights>(weights_), {});
    auto logprobs = trainer.score({&sample, 1}, {})[0].logprobs;
    if (is_wrong_about_texts) logprobs[1] += 0.125F;
    return logprobs;
  }

  std::vector<FakeCompletion> complete(const Json& body) {
    if (dies_after && --dies_after == 0) server->kill();
    const std::lock_guard lock(mutex_);
    rollout::GenerationRequest request;
    request.prompt = body["prompt"].get<std::vector<int64_t>>();
    request.num_samples = body["n"];
    request.occurrence = body["lockstep"]["occurrence"];
    request.draw = body["lockstep"]["draw"];
    rollout::GenerationSettings settings;
    settings.sampling.temperature = body["temperature"];
    settings.sampling.top_p = body["top_p"];
    settings.sampling.top_k = body["top_k"];
    settings.max_new_tokens = body["max_tokens"];
    settings.stop_ids = body["stop_token_ids"].get<std::vector<int64_t>>();
    if (body.contains("stop")) settings.stop_strings = body["stop"].get<std::vector<std::string>>();
    settings.tokenizer = &tokenizer_;
    settings.seed = body["seed"];
    rollout::Engine engine(*weights_, {.cache_memory = 0.25});
    std::vector<FakeCompletion> list;
    const auto generated = engine.generate({&request, 1}, settings);
    for (const rollout::Completion& made : generated[0])
      list.push_back(
          {made.token_ids, made.logprobs, made.finish_reason == rollout::FinishReason::kStop});
    return list;
  }

  std::mutex mutex_;
  std::shared_ptr<const model::ModelWeights> weights_;
  std::optional<cli::OfferedWeightsLoader> loader_;
  text::Tokenizer tokenizer_;
};

/// The digest that a block of these tensors would have.
std::string digest_of_image(std::vector<io::NamedTensor> tensors) {
  const sync::ImageWriter writer(std::move(tensors));
  std::vector<std::byte> block(writer.bytes());
  return writer.write(block, 1).hex();
}

class ServerMode : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    shared_ = new TempDir;
    new_model(*shared_, "model", {"--like", "qwen3_5"});
    new_model(*shared_, "bf16", {"--like", "qwen3_5", "--torch_dtype", "bfloat16"});
    write_rows(*shared_, "rows.jsonl", sum_rows(12));
    write_rows(*shared_, "held_out.jsonl", sum_rows(4));
  }
  static void TearDownTestSuite() {
    delete shared_;
    shared_ = nullptr;
  }

  static fs::path model(const char* name = "model") { return *shared_ / name; }

  /// A run of 6 steps with two evaluations.
  static Arguments command(const fs::path& output, const fs::path& model_path) {
    return Arguments{"grpo",
                     "--model",
                     model_path.string(),
                     "--tuner_type",
                     "full",
                     "--dataset",
                     (*shared_ / "rows.jsonl").string(),
                     "--val_dataset",
                     (*shared_ / "held_out.jsonl").string(),
                     "--eval_steps",
                     "3",
                     "--output_dir",
                     output.string(),
                     "--learning_rate",
                     "1e-3",
                     "--max_steps",
                     "6",
                     "--logging_steps",
                     "1",
                     "--per_device_train_batch_size",
                     "8",
                     "--threads",
                     "1",
                     "--rollout_timeout",
                     "120"} +
           short_completions();
  }
  template <class... Servers>
  static Arguments served(const Servers&... servers) {
    return {"--rollout_mode", "server", "--rollout_server", servers.url()...};
  }

  /// The same completions, metrics and weights.
  static void expect_same_run(const fs::path& found, const fs::path& expected) {
    EXPECT_TRUE(slurp(found / "completions.jsonl") == slurp(expected / "completions.jsonl"));
    EXPECT_GT(slurp(found / "completions.jsonl").size(), 1000u);
    for (const char* file : {"model.safetensors", "training_state/optimizer.safetensors"})
      EXPECT_TRUE(slurp(found / "last" / file) == slurp(expected / "last" / file)) << file;
    const auto rows = [](const fs::path& run) {
      auto all = timeless_rows(run);
      // A colocated run computes layers again from what sampling kept, and says so.
      for (Json& row : all) {
        row.erase("train/recomputed_layer_max_diff");
        for (const char* name :
             {"sync/seconds", "sync/bytes", "sync/gigabytes_per_second", "sync/max_logprob_diff"})
          row.erase(name);
      }
      return all;
    };
    EXPECT_EQ(rows(found), rows(expected));
    EXPECT_FALSE(fs::exists(found / "sync"));
  }

  static inline TempDir* shared_ = nullptr;
  TempDir folder_;
};

TEST_F(ServerMode, AServerGivesTheBytesOfAColocatedRun) {
  // The second trains twice on each generation batch.
  for (const bool is_second : {false, true}) {
    const fs::path path = model(is_second ? "bf16" : "model"),
                   colocate = folder_ / (path.filename().string() + "-colocate"),
                   server = folder_ / (path.filename().string() + "-server");
    const Arguments more = is_second ? Arguments{"--num_iterations", "2"} : Arguments{};
    run_well(command(colocate, path) + more);
    const EngineServer one(path);
    // The first takes weights from folders, as servers elsewhere do.
    const Arguments transport = {"--sync_transport", is_second ? "shm" : "directory"};
    run_well(command(server, path) + more + transport + served(one));
    expect_same_run(server, colocate);
    EXPECT_EQ(one.blocks_loaded, is_second ? 5 : 0);
    // 2 prompts a generation batch; 4 held-out ones after steps 3 and 6.
    EXPECT_EQ(one.server->completed(), (is_second ? 3 : 6) * 2 + 2 * 4);
    // One for each generation batch or evaluation of other weights than before.
    EXPECT_EQ(one.server->labels().size(), is_second ? 5u : 7u);
  }
}

/// Digests say that the right bytes came, not that they are used.
TEST_F(ServerMode, AProbeFindsWeightsThatAreNotUsedAsTheyShouldBe) {
  const fs::path output = folder_ / "run";
  EngineServer one(model());
  run_well(command(output, model()) + served(one) + Arguments{"--max_steps", "2"});
  for (const Json& row : timeless_rows(output))
    EXPECT_EQ(row.value("sync/max_logprob_diff", 0.0), 0.0);
  const Json first = timeless_rows(output)[0];
  EXPECT_TRUE(first.contains("sync/max_logprob_diff") && first.contains("sync/seconds"));
  EXPECT_EQ(first["sync/bytes"], static_cast<double>(one.last_bytes));
  one.is_wrong_about_texts = true;
  const ProgramResult result = run_program(command(folder_ / "wrong", model()) + served(one));
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.err, HasSubstr("error[wrong-weights]: " + one.url()));
  EXPECT_THAT(result.err, HasSubstr("(token 2 of a probe of"));
}

TEST_F(ServerMode, TwoServersAndTheDeathOfOneInAStepChangeNoByte) {
  const fs::path colocate = folder_ / "colocate", two = folder_ / "two", dying = folder_ / "dying";
  run_well(command(colocate, model()));
  {
    const EngineServer first(model()), second(model());
    run_well(command(two, model()) + served(first, second));
    expect_same_run(two, colocate);
    EXPECT_GT(first.server->completed(), 3);
    EXPECT_GT(second.server->completed(), 3);
  }
  EngineServer first(model()), second(model());
  first.dies_after = 3;
  const ProgramResult result = run_well(command(dying, model()) + served(first, second));
  expect_same_run(dying, colocate);
  EXPECT_THAT(result.err, HasSubstr("server " + first.url() + " is lost"));
  EXPECT_THAT(result.err, HasSubstr("sampled again elsewhere"));
  EXPECT_LT(first.server->completed(), 10);
}

TEST_F(ServerMode, AServerThatWouldSampleOtherTokensIsRefusedBeforeAnythingIsWritten) {
  const auto expect_refusal = [&](const fs::path& of_server, const char* words) {
    const EngineServer other(of_server);
    const fs::path output = folder_ / "refused";
    const ProgramResult result = run_program(command(output, model()) + served(other));
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_THAT(result.err, HasSubstr("error[wrong-server]: " + other.url()));
    EXPECT_THAT(result.err, HasSubstr(words));
    EXPECT_FALSE(fs::exists(output));
  };
  expect_refusal(model("bf16"), "expected the trainer's dtype float32, got bfloat16");
  new_model(folder_, "moe", {"--like", "qwen3"});
  expect_refusal(folder_ / "moe", "expected the trainer's configuration ");
  const auto changed = [&](const char* name, const char* file, const std::string& text) {
    fs::copy(model(), folder_ / name, fs::copy_options::recursive);
    folder_.write(std::string(name) + "/" + file, text);
    return folder_ / name;
  };
  expect_refusal(changed("tokens", "tokenizer_config.json", "{}"), "the trainer's tokenizer ");
  expect_refusal(changed("chat", "chat_template.jinja", "{{ messages }}"),
                 "the trainer's chat_template ");
}

TEST_F(ServerMode, ADeadServerEndsTheRunWithItsNameAndLeavesAllWhole) {
  const std::string url = "http://127.0.0.1:" + std::to_string(dead_port());
  const fs::path never = folder_ / "never", broken = folder_ / "broken";
  ProgramResult result = run_program(command(never, model()) + Arguments{"--rollout_mode", "server",
                                                                         "--rollout_server", url,
                                                                         "--rollout_timeout", "1"});
  EXPECT_EQ(result.exit_code, 3) << result.err;
  EXPECT_THAT(result.err, HasSubstr("error[connection-failed]: " + url));
  EXPECT_FALSE(fs::exists(never));

  EngineServer one(model());
  one.dies_after = 6;
  const Arguments arguments = command(broken, model()) + Arguments{"--save_steps", "1"};
  result = run_program(arguments + served(one));
  EXPECT_EQ(result.exit_code, 3) << result.err;
  EXPECT_THAT(result.err, HasSubstr("error[no-server]: " + one.url()));
  EXPECT_TRUE(fs::exists(broken / "checkpoint-2" / "trainer_state.json"));
  EXPECT_THAT(temporaries_in(broken), IsEmpty());
  // It goes on where it stopped.
  const fs::path whole = folder_ / "whole";
  run_well(command(whole, model()) + Arguments{"--save_steps", "1"});
  const EngineServer other(model());
  run_well(arguments + served(other) + Arguments{"--resume_from_checkpoint", "last"});
  expect_same_run(broken, whole);
}

TEST_F(ServerMode, AnAsynchronousRunIsAStepOldAndResumesToTheSameBytes) {
  const Arguments ahead = {"--async_generate", "true", "--save_steps", "1"};
  const fs::path whole = folder_ / "whole", broken = folder_ / "broken";
  {
    const EngineServer one(model());
    run_well(command(whole, model()) + ahead + served(one));
    EXPECT_EQ(one.server->completed(), 6 * 2 + 2 * 4);
  }
  const auto rows = timeless_rows(whole);
  EXPECT_EQ(rows[0]["train/sampler_weight_age"], 0);
  EXPECT_FALSE(rows[1].contains("train/sampler_logprob_max_diff"));
  int ages = 0;
  for (size_t i = 1; i < rows.size(); ++i)
    if (rows[i].contains("train/sampler_weight_age")) {
      EXPECT_EQ(rows[i]["train/sampler_weight_age"], 1) << i;
      ++ages;
    }
  EXPECT_EQ(ages, 5);
  // It is stopped after some steps, and killed after some more.
  const EngineServer one(model()), two(model());
  const Arguments resumed = command(broken, model()) + ahead + served(one, two) +
                            Arguments{"--resume_from_checkpoint", "last"};
  int stops = 0;
  for (const int signal : {SIGTERM, SIGKILL}) {
    RunningProgram program(resumed);
    const fs::path checkpoint = broken / (signal == SIGTERM ? "checkpoint-2" : "checkpoint-4");
    wait_until(program, [&] { return fs::exists(checkpoint); });
    program.send(signal);
    stops += program.wait().exit_code != 0;
  }
  EXPECT_GE(stops, 1);
  run_well(resumed);
  expect_same_run(broken, whole);
}

TEST_F(ServerMode, AnErrorInTheBackgroundStopsTheRunWithItsMessage) {
  EngineServer one(model());
  // Two prompts are sampled for the first step, and the server dies over the second ones.
  one.dies_after = 3;
  const fs::path output = folder_ / "run";
  const ProgramResult result =
      run_program(command(output, model()) + served(one) + Arguments{"--async_generate", "true"});
  EXPECT_EQ(result.exit_code, 3) << result.err;
  EXPECT_THAT(result.err, HasSubstr("error[no-server]: " + one.url()));
}

TEST_F(ServerMode, TheKeyIsSentAndStandsInNoFile) {
  const EngineServer one(model());
  const fs::path output = folder_ / "run";
  run_well(command(output, model()) + served(one) +
           Arguments{"--rollout_api_key", "my-secret", "--max_steps", "1"});
  for (const auto& [name, bytes] : tree_of(output))
    EXPECT_THAT(bytes, Not(HasSubstr("my-secret"))) << name;
}

/// Adapters of attention and experts, and a module that is trained whole, merged for a server that
/// knows none.
TEST_F(ServerMode, ASamplerWithoutAdaptersGetsMergedWeights) {
  for (const char* dtype : {"float32", "bfloat16"}) {
    SCOPED_TRACE(dtype);
    const std::string base =
        new_model(folder_, dtype, {"--like", "qwen3_5_moe", "--torch_dtype", dtype});
    const auto before = tree_of(base);
    const fs::path output = folder_ / (std::string(dtype) + "-run");
    const EngineServer one(base);
    const ProgramResult result = run_well(
        command(output, base) + served(one) +
        Arguments{"--tuner_type", "lora", "--lora_experts", "true", "--modules_to_save", "norm",
                  "--sync_mode", "full", "--save_steps", "2", "--num_iterations", "2"});
    EXPECT_THAT(result.err, HasSubstr("not the same bits"));
    EXPECT_EQ(tree_of(base), before);
    EXPECT_GT(one.blocks_loaded, 0);
    // What a server had at a checkpoint's step is that checkpoint, merged.
    const std::vector<std::string> labels = one.server->labels();
    for (const std::string step : {"2", "6"}) {
      const fs::path merged = folder_ / (std::string(dtype) + "-merged-" + step);
      run_well({"export", "--model", base, "--adapters", (output / ("checkpoint-" + step)).string(),
                "--merge_lora", "true", "--output_dir", merged.string(), "--quiet"});
      const auto model = train::open_checkpoint(merged);
      const std::string digest = digest_of_image(train::text_model_tensors(model, {}));
      EXPECT_THAT(labels, Contains("step-" + step + ":" + digest));
    }
    // Nothing is added at first; later the sum is rounded.
    const auto rows = timeless_rows(output);
    EXPECT_EQ(rows[0]["train/sampler_logprob_max_diff"], 0.0);
    const double later = rows[4]["train/sampler_logprob_max_diff"];
    EXPECT_GT(later, 0);
    EXPECT_LT(later, std::string(dtype) == "float32" ? 1e-4 : 0.5);
  }
}

TEST_F(ServerMode, FlagsThatDoNotFitTogetherAreRefused) {
  const auto expect_refusal = [&](const Arguments& flags, const char* words) {
    const ProgramResult result = run_program(command(folder_ / "run", model()) + flags);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_THAT(result.err, HasSubstr(words));
  };
  expect_refusal({"--rollout_mode", "server"}, "--rollout_server: expected the URL of a server");
  expect_refusal({"--rollout_server", "http://127.0.0.1:1"}, "say --rollout_mode server");
  expect_refusal({"--async_generate", "true"},
                 "--async_generate: expected --rollout_mode server, got colocate (a sampler that");
  const Arguments some = {"--rollout_mode", "server", "--rollout_server", "http://127.0.0.1:1"};
  expect_refusal(some + Arguments{"--rollout_engine", "vllm", "--sync_mode", "adapter"},
                 "expected auto, full or delta with --rollout_engine vllm");
  expect_refusal({"--sync_mode", "full"}, "--sync_mode: expected auto with --rollout_mode coloc");
  const EngineServer one(model());
  expect_refusal(
      served(one) + Arguments{"--sync_mode", "adapter"},
      "--sync_mode: expected auto, full or delta where no adapter is trained, got adapter");
  expect_refusal(served(one) + Arguments{"--sync_mode", "delta"},
                 "--sync_mode: expected --sync_transport tcp with delta, got shm");
  expect_refusal(
      served(one) + Arguments{"--sync_transport", "directory", "--sync_address", "127.0.0.1"},
      "--sync_address: expected --sync_transport tcp with 127.0.0.1, got directory");
  for (const char* address : {":1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000"})
    expect_refusal(served(one) + Arguments{"--sync_transport", "tcp", "--sync_address", address},
                   "--sync_address: expected HOST or HOST:PORT, got");
  expect_refusal(served(one) + Arguments{"--sync_address", "0.0.0.0"},
                 "--sync_address: expected the address under which the servers reach");
  expect_refusal(served(one) + Arguments{"--sync_address", "192.0.2.1"},
                 "192.0.2.1:0: expected an address of this machine");
  expect_refusal(
      some + Arguments{"--rollout_server", "http://192.0.2.1:1", "--sync_transport", "tcp"},
      "expected --sync_address, under which servers of other machines reach this one");
  expect_refusal(served(one) + Arguments{"--tuner_type", "lora", "--modules_to_save", "norm"},
                 "--sync_mode: expected full where modules are trained whole");
  const EngineServer tied(new_model(folder_, "tied", {"--like", "qwen3"}));
  expect_refusal(
      served(tied) + Arguments{"--model", (folder_ / "tied").string(), "--tuner_type", "lora",
                               "--target_modules", "embed_tokens", "--sync_mode", "full"},
      "--sync_mode: expected adapter where the adapter unties the model's head");
  expect_refusal(some + Arguments{"--reuse_rollout_activations", "true"}, "stays there");
  expect_refusal({"--rollout_mode", "server", "--rollout_server", "localhost:8000"}, "bad-url");
}

}  // namespace
}  // namespace lockstep::testing
