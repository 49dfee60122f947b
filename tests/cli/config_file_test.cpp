// Configuration files: YAML and JSON become the same flags, and errors name the file and the key.
// SPDX-License-Identifier: Apache-2.0
#include "cli/config_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_dir.h"

namespace lockstep::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

struct RunOptions {
  double learning_rate = 1;
  int64_t steps = 5;
  bool fast = false;
  std::optional<double> epsilon_high = 0.3;
  std::vector<std::string> dataset;
  Json columns;
  std::string system;

  template <class Visitor>
  void for_each_field(Visitor&& visit) {
    visit("learning_rate", learning_rate, "Step length.", Range::above(0));
    visit("steps", steps, "Steps.");
    visit("fast", fast, "Fast.");
    visit("epsilon_high", epsilon_high, "Clip.");
    visit("dataset", dataset, "Rows.");
    visit("columns", columns, "Names.");
    visit("system", system, "First message.");
  }
};

class ConfigFile : public ::testing::Test {
 protected:
  ConfigFile() { flags.add_group("run", options); }

  std::string write(const std::string& name, const std::string& text) {
    return directory.write(name, text).string();
  }
  ParseResult parse(std::vector<std::string> arguments) { return flags.parse(arguments); }

  testing::TempDir directory;
  RunOptions options;
  FlagSet flags{"try", "Tries files."};
};

TEST_F(ConfigFile, YamlReadsAsFlags) {
  const std::string path =
      write("run.yaml",
            "# a run\nlearning_rate: 1e-6\nsteps: 20\nfast: true\nepsilon_high: null\n"
            "dataset:\n  - a.jsonl\n  - b.jsonl#10\ncolumns: {question: query, n: 3, s: '3'}\n"
            "system: |\n  Think.\n  Answer.\n");
  parse({path});
  EXPECT_EQ(options.learning_rate, 1e-6);
  EXPECT_EQ(options.steps, 20);
  EXPECT_TRUE(options.fast);
  EXPECT_EQ(options.epsilon_high, 0.3);  // null: the default holds
  EXPECT_THAT(options.dataset, ElementsAre("a.jsonl", "b.jsonl#10"));
  EXPECT_EQ(options.columns, (Json{{"question", "query"}, {"n", 3}, {"s", "3"}}));
  EXPECT_EQ(options.system, "Think.\nAnswer.\n");
}

TEST_F(ConfigFile, JsonReadsAsFlags) {
  const std::string path = write(
      "run.json",
      R"({"learning_rate": 1e-6, "steps": 20, "fast": true, "dataset": ["a"], "columns": {"q": "query"}})");
  parse({path});
  EXPECT_EQ(options.learning_rate, 1e-6);
  EXPECT_EQ(options.steps, 20);
  EXPECT_TRUE(options.fast);
  EXPECT_THAT(options.dataset, ElementsAre("a"));
  EXPECT_EQ(options.columns, (Json{{"q", "query"}}));
}

TEST_F(ConfigFile, ArgsReadBackToTheSameOptions) {
  parse({"--learning_rate", "0.1", "--dataset", "a b", "c", "--columns", R"({"x": "y"})",
         "--epsilon_high", "0.7"});
  const Json args = flags.to_json();
  RunOptions again;
  FlagSet others("try", "");
  others.add_group("run", again);
  others.parse(std::vector<std::string>{write("args.json", dump_json_pretty(args))});
  EXPECT_EQ(others.to_json(), args);
}

TEST_F(ConfigFile, AFlagWinsOverTheFile) {
  const std::string path = write("run.yaml", "steps: 20\ndataset: [a, b]\n");
  parse({path, "--steps", "3", "--dataset", "c"});
  EXPECT_EQ(options.steps, 3);
  EXPECT_THAT(options.dataset, ElementsAre("c"));
}

TEST_F(ConfigFile, ErrorsNameFileLineAndKey) {
  EXPECT_ERROR(parse({write("a.yaml", "steps: 1\nstepps: 2\n")}), ConfigError, "unknown-flag",
               "a.yaml:2: stepps: expected");
  EXPECT_ERROR(parse({write("a.yaml", "steps: 1\nstepps: 2\n")}), ConfigError, "unknown-flag",
               "did you mean --steps?");
  EXPECT_ERROR(parse({write("b.yaml", "learning_rate: -1\n")}), ConfigError, "bad-flag",
               "b.yaml:1: learning_rate: expected a number > 0");
  EXPECT_ERROR(parse({write("c.json", R"({"stepps": 2})")}), ConfigError, "unknown-flag",
               "c.json: stepps");
  EXPECT_ERROR(parse({write("d.yaml", "steps: 1\nsteps: 2\n")}), ConfigError, "bad-config",
               "d.yaml:2");
  EXPECT_ERROR(parse({write("e.yaml", "steps: [1\n")}), ConfigError, "bad-config", "e.yaml:");
  EXPECT_ERROR(parse({write("f.yaml", "- steps\n")}), ConfigError, "bad-config",
               "f.yaml: expected a mapping of flags, got a list");
  EXPECT_ERROR(parse({write("f.yaml", "steps\n")}), ConfigError, "bad-config",
               "got a single value");
  EXPECT_ERROR(parse({write("f.yaml", "? [a]\n: 1\n")}), ConfigError, "bad-config",
               "f.yaml:1: expected a flag's name as key, got a list");
  EXPECT_ERROR(parse({write("g.json", "[1]")}), ConfigError, "bad-config",
               "g.json: expected a JSON object of flags, got array");
  EXPECT_ERROR(parse({write("h.json", R"({"steps": 1,})")}), FormatError, "bad-config", "h.json");
  EXPECT_THROW(parse({(directory / "missing.yaml").string()}), IoError);
}

TEST_F(ConfigFile, EnvIsIgnoredWithANotice) {
  const ParseResult yaml =
      parse({write("run.yaml", "ENV:\n  CUDA_VISIBLE_DEVICES: 0\nsteps: 2\n")});
  EXPECT_THAT(yaml.notices, ElementsAre(HasSubstr("ENV is ignored")));
  const ParseResult json = parse({write("run.json", R"({"ENV": {"A": "b"}, "steps": 4})")});
  EXPECT_THAT(json.notices, ElementsAre(HasSubstr("ENV is ignored")));
  EXPECT_EQ(options.steps, 4);
}

TEST_F(ConfigFile, KeysUnderTrainAndRolloutAreFlags) {
  parse({write("ray.yaml", "steps: 2\ntrain:\n  learning_rate: 0.5\nrollout:\n  fast: true\n")});
  EXPECT_EQ(options.steps, 2);
  EXPECT_EQ(options.learning_rate, 0.5);
  EXPECT_TRUE(options.fast);
}

TEST_F(ConfigFile, AnEmptyFileHasNoFlags) {
  EXPECT_THAT(parse({write("empty.yaml", "# nothing\n")}).notices, IsEmpty());
  EXPECT_EQ(options.steps, 5);
}

TEST_F(ConfigFile, DeepNestingIsAnErrorNotACrash) {
  const std::string deep = "columns: " + std::string(3000, '[') + std::string(3000, ']') + "\n";
  EXPECT_THROW(parse({write("deep.yaml", deep)}), Error);
  EXPECT_THROW(parse({write("cycle.yaml", "columns: &a {x: *a}\n")}), Error);
}

}  // namespace
}  // namespace lockstep::cli
