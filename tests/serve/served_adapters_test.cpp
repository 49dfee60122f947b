// Adapters through the API: named by requests, listed, loaded and unloaded while requests run.
// SPDX-License-Identifier: Apache-2.0
#include "serve/served_adapters.h"

#include <condition_variable>
#include <map>
#include <mutex>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/serve/api_fixture.h"
#include "tests/support/expect_error.h"

namespace lockstep::serve {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using AdapterPointer = std::shared_ptr<const model::Adapter>;

/// Something to point at: nobody here looks into an adapter.
AdapterPointer some_adapter() {
  const auto owner = std::make_shared<int>();
  return {owner, reinterpret_cast<const model::Adapter*>(owner.get())};
}

/// A folder "bad" holds no adapter that fits, "none" holds none, any other holds one.
struct Folders {
  LoadedAdapter load(const std::filesystem::path& folder) {
    std::unique_lock lock(mutex);
    if (folder == "slow") {
      is_loading = true;
      changed.notify_all();
      changed.wait(lock, [this] { return may_end; });
    }
    if (folder == "none") fail<ConfigError>("missing-adapter", "none", "expected an adapter");
    if (folder == "bad") fail<FormatError>("bad-adapter", "q_proj", "expected shape [2, 4]");
    if (folder == "odd") throw std::runtime_error("secret");
    loaded[folder] = some_adapter();
    return {.digest = "of " + folder.string(), .num_pairs = 3, .adapter = loaded[folder]};
  }
  void wait_for_slow() {
    std::unique_lock lock(mutex);
    ASSERT_TRUE(changed.wait_for(lock, std::chrono::seconds(60), [this] { return is_loading; }));
  }
  void end_slow() {
    const std::lock_guard lock(mutex);
    may_end = true;
    changed.notify_all();
  }

  std::mutex mutex;
  std::condition_variable changed;
  bool is_loading = false, may_end = false;
  std::map<std::filesystem::path, AdapterPointer> loaded;
};

class ServedAdaptersTest : public ::testing::Test {
 protected:
  ServedAdaptersTest() {
    served.options.adapters = {{"first", "adapters/first", {"12ab", 7, first}}};
    served.options.load_adapter = [this](const OfferedWeights& offered) {
      return folders.load(offered.folder);
    };
  }
  FakeAnswer load(const std::string& fields) {
    return served.post("/v1/load_lora_adapter", "{" + fields + "}");
  }
  FakeAnswer unload(const std::string& name) {
    return served.post("/v1/unload_lora_adapter", R"({"lora_name": ")" + name + "\"}");
  }
  static std::string said(const FakeAnswer& answer) {
    const Json error = answer.json()["error"];
    return fmt::format("{} {} {}", answer.status, error["code"].get<std::string>(),
                       error["message"].get<std::string>());
  }
  /// The adapter of the last request that reached the sampler.
  AdapterPointer last() { return served.engine.requests().back().adapter; }
  FakeAnswer complete(const std::string& model) {
    return served.complete(R"("prompt": "a", "model": ")" + model + "\"");
  }
  std::vector<std::string> names() {
    std::vector<std::string> names;
    const Json list = served.get("/v1/models").json();
    for (const Json& card : list["data"]) names.push_back(card["id"]);
    return names;
  }

  AdapterPointer first = some_adapter();
  Folders folders;
  ServedApi served;
};

TEST_F(ServedAdaptersTest, ARequestsModelChooses) {
  for (const char* path : {"/v1/completions", "/v1/chat/completions"})
    for (const bool is_stream : {false, true}) {
      const auto ask = [&](const std::string& model) {
        const std::string input = std::string(path) == "/v1/completions"
                                      ? R"("prompt": "a")"
                                      : R"("messages": [{"role": "user", "content": "a"}])";
        const FakeAnswer answer = served.post(
            path, fmt::format(R"({{{}, "model": "{}", "stream": {}}})", input, model, is_stream));
        if (answer.status != 200) return answer.json()["error"]["code"].get<std::string>();
        return (is_stream ? answer.events().at(0) : answer.json())["model"].get<std::string>();
      };
      SCOPED_TRACE(path);
      EXPECT_EQ(ask("first"), "first");
      EXPECT_EQ(last(), first);
      EXPECT_EQ(ask("also-tiny"), "tiny");
      EXPECT_EQ(last(), nullptr);
      EXPECT_EQ(ask(""), "tiny");
      EXPECT_EQ(last(), nullptr);
      EXPECT_EQ(ask("second"), "model-not-found");
    }
  EXPECT_THAT(said(complete("second")),
              HasSubstr(R"(tiny or also-tiny or an adapter, got "second")"));
  EXPECT_EQ(served.post("/tokenize", R"({"prompt": "a", "model": "first"})").status, 200);
  EXPECT_EQ(served.post("/tokenize", R"({"prompt": "a", "model": "second"})").status, 404);
}

TEST_F(ServedAdaptersTest, AnAdapterRequestOfMsSwiftChooses) {
  const auto infer = [&](const std::string& adapter) {
    return served
        .post("/infer/", R"({"infer_requests": [{"messages": [{"role": "user", "content": "a"}]}],
                             "adapter_request": )" +
                             adapter + "}")
        .status;
  };
  EXPECT_EQ(infer(R"({"name": "first", "path": "ignored"})"), 200);
  EXPECT_EQ(last(), first);
  EXPECT_EQ(infer("null"), 200);
  EXPECT_EQ(last(), nullptr);
  EXPECT_EQ(infer(R"({"name": "second"})"), 404);
  EXPECT_EQ(infer("5"), 400);
}

TEST_F(ServedAdaptersTest, AreListedBehindTheModel) {
  const Json list = served.get("/v1/models").json()["data"];
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0]["id"], "tiny");
  EXPECT_EQ(list[0]["parent"], nullptr);
  EXPECT_EQ(list[1]["id"], "first");
  EXPECT_EQ(list[1]["root"], "adapters/first");
  EXPECT_EQ(list[1]["parent"], "tiny");
  EXPECT_EQ(list[1]["lockstep"], (Json{{"digest", "12ab"}, {"pairs", 7}}));
  EXPECT_EQ(served.get("/v1/models/first").json(), list[1]);
  EXPECT_EQ(served.get("/v1/models/second").status, 404);
}

TEST_F(ServedAdaptersTest, ComeAndGo) {
  const FakeAnswer loaded = load(R"("lora_name": "new", "lora_path": "some/folder")");
  EXPECT_EQ(loaded.status, 200);
  EXPECT_EQ(loaded.body, "Success: LoRA adapter 'new' added successfully.");
  EXPECT_THAT(loaded.content_type, HasSubstr("text/plain"));
  EXPECT_THAT(names(), ElementsAre("tiny", "first", "new"));
  EXPECT_EQ(complete("new").json()["system_fingerprint"], "lockstep-default+of some/folder");
  EXPECT_EQ(last(), folders.loaded["some/folder"]);
  const FakeAnswer unloaded = unload("new");
  EXPECT_EQ(unloaded.status, 200);
  EXPECT_EQ(unloaded.body, "Success: LoRA adapter 'new' removed successfully.");
  EXPECT_EQ(complete("new").status, 404);
  EXPECT_THAT(names(), ElementsAre("tiny", "first"));
  EXPECT_THAT(said(unload("new")), HasSubstr("404 adapter-not-found lora_name: "));
  EXPECT_EQ(unload("first").status, 200);
  EXPECT_THAT(said(complete("first")), HasSubstr("expected tiny or also-tiny, got"));
}

TEST_F(ServedAdaptersTest, ANameIsGivenAnewOnlyInPlace) {
  EXPECT_THAT(
      said(load(R"("lora_name": "first", "lora_path": "other")")),
      HasSubstr("400 bad-request lora_name: expected a name that no adapter has, got first"));
  EXPECT_TRUE(folders.loaded.empty());
  EXPECT_EQ(complete("first").status, 200);
  EXPECT_EQ(last(), first);
  EXPECT_EQ(load(R"("lora_name": "z", "lora_path": "z", "load_inplace": true)").status, 200);
  EXPECT_EQ(load(R"("lora_name": "first", "lora_path": "other", "load_inplace": true)").status,
            200);
  EXPECT_THAT(names(), ElementsAre("tiny", "first", "z"));
  EXPECT_EQ(served.get("/v1/models/first").json()["root"], "other");
  EXPECT_EQ(complete("first").status, 200);
  EXPECT_EQ(last(), folders.loaded["other"]);
}

TEST_F(ServedAdaptersTest, WhatIsWrongChangesNothing) {
  const std::pair<const char*, const char*> cases[] = {
      {R"("lora_path": "a")", "400 bad-request lora_name: expected a name, got an empty one"},
      {R"("lora_name": "", "lora_path": "a")", "400 bad-request lora_name: "},
      {R"("lora_name": "a")", "400 bad-request lora_path: "},
      {R"("lora_name": 5, "lora_path": "a")", "400 bad-request lora_name: "},
      {R"("lora_name": "also-tiny", "lora_path": "a")",
       "400 bad-request lora_name: expected another"},
      {R"("lora_name": "a\nb", "lora_path": "a")", "400 bad-request lora_name: "},
      {R"("lora_name": "a", "lora_path": "a", "load_inplace": 1)",
       "400 bad-request load_inplace: "},
      {R"("lora_name": "a", "lora_path": "none")", "404 missing-adapter lora_path: "},
      {R"("lora_name": "first", "lora_path": "bad", "load_inplace": true)",
       "400 bad-adapter lora_path: q_proj: expected shape [2, 4]"},
  };
  for (const auto& [fields, words] : cases) EXPECT_THAT(said(load(fields)), HasSubstr(words));
  EXPECT_THAT(said(load("\"lora_name\": \"" + std::string(300, 'x') + "\", \"lora_path\": \"a\"")),
              HasSubstr("at most 256 bytes, got 300"));
  const FakeAnswer odd = load(R"("lora_name": "a", "lora_path": "odd")");
  EXPECT_EQ(odd.status, 500);
  EXPECT_EQ(odd.body.find("secret"), std::string::npos);
  EXPECT_THAT(names(), ElementsAre("tiny", "first"));
  EXPECT_EQ(complete("first").status, 200);
  EXPECT_EQ(last(), first);
  EXPECT_EQ(served.post("/v1/load_lora_adapter", "[]").status, 400);
  EXPECT_ERROR(served.get("/v1/load_lora_adapter"), RequestError, "bad-method", "expected POST");
  EXPECT_ERROR(served.get("/v1/unload_lora_adapter"), RequestError, "bad-method", "expected POST");
}

TEST_F(ServedAdaptersTest, OneThatIsLoadedHoldsUpNobody) {
  const auto slow =
      served.start("/v1/load_lora_adapter", R"({"lora_name": "slow", "lora_path": "slow"})");
  folders.wait_for_slow();
  EXPECT_EQ(complete("first").status, 200);
  EXPECT_EQ(complete("slow").status, 404);
  EXPECT_THAT(names(), ElementsAre("tiny", "first"));
  folders.end_slow();
  EXPECT_EQ(slow->wait().status, 200);
  EXPECT_EQ(complete("slow").status, 200);
}

TEST_F(ServedAdaptersTest, ARequestKeepsTheOneItBeganWith) {
  served.engine.holds = true;
  const auto running = served.start("/v1/completions", R"({"prompt": "a", "model": "first"})");
  served.engine.wait_for_held(1);
  EXPECT_EQ(unload("first").status, 200);
  std::weak_ptr<const model::Adapter> seen = first;
  first = nullptr;
  {
    auto [request, handler] = served.engine.take_held();
    EXPECT_EQ(request.adapter, seen.lock());
    EXPECT_NE(request.adapter, nullptr);
    served.engine.play(request, handler);
  }
  EXPECT_EQ(running->wait().json()["model"], "first");
}

}  // namespace
}  // namespace lockstep::serve
