// The program from outside: exit codes, one line of error, results on stdout, nothing left behind.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdlib>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "base/json.h"
#include "tests/support/run_program.h"
#include "tests/support/source_dir.h"

namespace lockstep::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::ProgramResult;
using testing::run_program;
using ::testing::StartsWith;

/// The shape of every refusal: exit code 2, nothing on stdout, one line on stderr.
void expect_refused(const ProgramResult& result,
                    const std::string& code,
                    const std::string& words) {
  EXPECT_EQ(result.exit_code, 2) << result.err;
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, StartsWith("lockstep: error[" + code + "]: "));
  EXPECT_THAT(result.err, HasSubstr(words));
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
}

std::vector<Json> rows_of(const std::string& text) {
  std::vector<Json> rows;
  size_t begin = 0;
  for (size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1)
    rows.push_back(parse_json(std::string_view(text).substr(begin, end - begin), "stdout"));
  return rows;
}

/// A checkpoint with a tokenizer of single bytes, a template of its own and no weights.
class Program : public ::testing::Test {
 protected:
  Program() {
    std::filesystem::create_directories(model);
    write_file(model / "config.json", R"({"vocab_size": 9, "text_config": {"vocab_size": 300}})");
    write_file(model / "tokenizer.json", dump_json(byte_tokenizer()));
    write_file(model / "tokenizer_config.json", R"({"eos_token": "<|im_end|>"})");
    write_file(model / "chat_template.jinja",
               "{% for m in messages %}{% if m.role == 'robot' %}{{ raise_exception('no robots') "
               "}}{% endif %}"
               "{{ '<|im_start|>' + m.role + ':' + m.content + '<|im_end|>' }}{% endfor %}"
               "{% if tools %}[{{ tools | length }}]{% endif %}{{ mood }}"
               "{% if add_generation_prompt %}<|im_start|>{% endif %}");
  }

  /// Ids 0 to 255 are the printable stand-ins of GPT-2's byte alphabet in order of bytes; 256 and
  /// 257 are special.
  static Json byte_tokenizer() {
    Json vocabulary = Json::object();
    int next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool is_printable =
          (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      const int point = is_printable ? byte : next++;
      std::string text;
      if (point < 0x80) {
        text = static_cast<char>(point);
      } else {
        text = {static_cast<char>(0xC0 | (point >> 6)), static_cast<char>(0x80 | (point & 0x3F))};
      }
      vocabulary[text] = byte;
    }
    const auto special = [](int id, const char* text) {
      return Json{{"id", id},        {"content", text}, {"single_word", false},
                  {"lstrip", false}, {"rstrip", false}, {"normalized", false},
                  {"special", true}};
    };
    return Json{{"version", "1.0"},
                {"added_tokens", {special(256, "<|im_start|>"), special(257, "<|im_end|>")}},
                {"normalizer", nullptr},
                {"pre_tokenizer",
                 {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}},
                {"post_processor", nullptr},
                {"decoder", {{"type", "ByteLevel"}}},
                {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}}};
  }

  std::string rows(const std::string& text) const {
    return folder.write("rows.jsonl", text).string();
  }
  ProgramResult tokenize(const std::string& text, std::vector<std::string> more = {}) const {
    std::vector<std::string> arguments = {"tokenize", "--model", model.string(), "--dataset",
                                          rows(text)};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run_program(arguments);
  }

  testing::TempDir folder;
  std::filesystem::path model = folder / "model";
};

TEST_F(Program, ShowsItsCommandsItsVersionAndItsFlags) {
  const ProgramResult overview = run_program({});
  EXPECT_EQ(overview.exit_code, 0);
  EXPECT_THAT(overview.out, HasSubstr("usage: lockstep COMMAND"));
  EXPECT_EQ(run_program({"--help"}).out, overview.out);
  const ProgramResult version = run_program({"--version"});
  EXPECT_EQ(version.exit_code, 0);
  EXPECT_THAT(version.out, StartsWith("lockstep 0."));
  EXPECT_THAT(version.out, HasSubstr("\nlibtorch 2."));
  EXPECT_THAT(version.out, HasSubstr("\ndevices  cpu"));
  const ProgramResult help = run_program({"tokenize", "--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_THAT(help.out, HasSubstr("\nevery command\n"));
  EXPECT_THAT(help.out, HasSubstr("--seed INTEGER"));
  EXPECT_EQ(help.err, "");
}

TEST_F(Program, RefusesACommandLineThatItDoesNotUnderstand) {
  expect_refused(run_program({"tokenise"}), "unknown-command", "did you mean tokenize?");
  expect_refused(tokenize("{\"text\": \"a\"}\n", {"--ouput", "x"}), "unknown-flag",
                 "did you mean --output?");
  expect_refused(tokenize("{\"text\": \"a\"}\n", {"--threads", "0"}), "bad-flag",
                 "--threads: expected a whole number >= 1");
  expect_refused(tokenize("{\"text\": \"a\"}\n", {"--log_level", "loud"}), "bad-flag",
                 "debug, info, warning, error");
  expect_refused(run_program({"tokenize", "--model", model.string()}), "missing-flag", "--dataset");
  expect_refused(tokenize("{\"text\": \"a\"}\n", {"--device", "cuda:0"}), "unsupported-device",
                 "expected cpu, got cuda:0");
  expect_refused(run_program({"tokenize", rows("x")}), "unexpected-argument", "rows.jsonl");
}

TEST_F(Program, RefusesSeveralProcesses) {
  const auto run_with = [&](const char* variable, const char* value) {
    ::setenv(variable, value, 1);
    const ProgramResult result = tokenize("{\"text\": \"a\"}\n");
    ::unsetenv(variable);
    return result;
  };
  for (const char* variable : {"WORLD_SIZE", "NPROC_PER_NODE", "NNODES", "OMPI_COMM_WORLD_SIZE",
                               "PMI_SIZE", "MPI_LOCALNRANKS", "MV2_COMM_WORLD_SIZE", "HOROVOD_SIZE",
                               "JSM_NAMESPACE_SIZE", "FLUX_JOB_SIZE"}) {
    expect_refused(run_with(variable, "2"), "unsupported-world-size", variable);
    EXPECT_EQ(run_with(variable, "1").exit_code, 0) << variable;
  }
  for (const char* value : {"0", "-1", "two", "1.5", "1:4", "11"})
    expect_refused(run_with("WORLD_SIZE", value), "unsupported-world-size",
                   fmt::format("got {} alone", value));
  for (const char* value : {"", " ", " 1 "})
    EXPECT_EQ(run_with("WORLD_SIZE", value).exit_code, 0) << "'" << value << "'";
  // PMIx tells a process its number, and not how many there are.
  expect_refused(run_with("PMIX_RANK", "1"), "unsupported-world-size", "PMIX_RANK");
  EXPECT_EQ(run_with("PMIX_RANK", "0").exit_code, 0);
  const auto run_in = [&](const std::vector<std::pair<const char*, const char*>>& variables) {
    for (const auto& [name, value] : variables) ::setenv(name, value, 1);
    const ProgramResult result = tokenize("{\"text\": \"a\"}\n");
    for (const auto& [name, value] : variables) ::unsetenv(name);
    return result;
  };
  // A batch script is one process, however many tasks its allocation has.
  EXPECT_EQ(run_in({{"SLURM_NTASKS", "4"}, {"SLURM_PROCID", "0"}}).exit_code, 0);
  // Ranks that could meet would all do the same.
  expect_refused(run_in({{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "n01"}}),
                 "unsupported-world-size",
                 "tokenize: expected one process, got rank 1 of 2 on host 1 of 2; they meet at "
                 "n01:29500; by RANK, WORLD_SIZE and MASTER_ADDR (torchrun)");
  expect_refused(run_in({{"RANK", "2"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "n01"}}), "bad-launch",
                 "RANK: expected a whole number from 0 to 1, got 2");
}

TEST_F(Program, ReadsAConfigurationFile) {
  const std::string config =
      folder.write("run.yaml", "model: " + model.string() + "\ndataset: none.jsonl\nENV: {A: b}\n")
          .string();
  const ProgramResult result =
      run_program({"tokenize", config, "--dataset", rows("{\"text\": \"A\"}\n")});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "{\"ids\":[65]}\n");
  EXPECT_THAT(result.err, HasSubstr("ENV is ignored"));
  const std::string wrong = folder.write("wrong.yaml", "model: x\nmodle: y\n").string();
  expect_refused(run_program({"tokenize", wrong}), "unknown-flag", "wrong.yaml:2: modle");
}

TEST_F(Program, TurnsTextToIdsAndBack) {
  const ProgramResult result = tokenize(
      "{\"text\": \"Aé<|im_end|>\"}\n{\"ids\": [65, 195, 169, 257]}\n{\"text\": \"\"}\n{\"ids\": "
      "[195, 65, 299]}\n");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  // 299 is a row of padding: inside vocab_size, unknown to the tokenizer; 195 alone is no UTF-8.
  EXPECT_THAT(rows_of(result.out),
              ElementsAre(Json{{"ids", {65, 195, 169, 257}}}, Json{{"text", "Aé<|im_end|>"}},
                          Json{{"ids", Json::array()}}, Json{{"text", "\uFFFDA"}}));
  EXPECT_EQ(result.err, "");
}

TEST_F(Program, RendersConversations) {
  const ProgramResult result = tokenize(
      R"({"messages": [{"role": "user", "content": "B"}], "add_generation_prompt": true})"
      "\n"
      R"({"messages": [{"role": "user", "content": ""}], "tools": [{}, {}], "chat_template_kwargs": {"mood": "C"}})"
      "\n");
  EXPECT_EQ(result.exit_code, 0) << result.err;
  const std::vector<Json> out = rows_of(result.out);
  ASSERT_EQ(out.size(), 2u);
  EXPECT_EQ(out[0]["text"], "<|im_start|>user:B<|im_end|><|im_start|>");
  EXPECT_EQ(out[0]["ids"], (Json{256, 117, 115, 101, 114, 58, 66, 257, 256}));
  EXPECT_EQ(out[1]["text"], "<|im_start|>user:<|im_end|>[2]C");
}

TEST_F(Program, ABadRowIsNamedByItsLine) {
  const std::string good = "{\"text\": \"a\"}\n";
  const auto refuses = [&](const std::string& row, const std::string& words) {
    const ProgramResult result =
        tokenize(good + row + "\n", {"--output", (folder / "out.jsonl").string()});
    // A file that is not finished is not there, and neither is a temporary one.
    EXPECT_EQ(folder.names().count("out.jsonl"), 0u);
    EXPECT_EQ(folder.names().size(), 2u);
    expect_refused(result, "bad-row", words);
    EXPECT_THAT(result.err, HasSubstr("rows.jsonl:2"));
  };
  refuses("{\"text\": }", "");
  refuses("[]", "expected a JSON object");
  refuses("{\"prompt\": \"a\"}", "expected one of text, ids and messages, got 0");
  refuses("{\"text\": \"a\", \"ids\": []}", "got 2 of them");
  refuses("{\"text\": 5}", "expected a string in text");
  refuses("{\"text\": \"\xC3\"}", "");
  refuses("{\"ids\": [300]}", "expected ids in [0, 300) in ids, got 300");
  refuses("{\"ids\": [1.5]}", "whole numbers");
  refuses("{\"messages\": []}", "at least one message");
  refuses("{\"messages\": [{\"role\": \"robot\", \"content\": \"\"}]}", "no robots");
  refuses("{\"messages\": [{\"role\": \"user\", \"content\": \"\"}], \"tools\": {}}",
          "expected a list in tools");
  refuses("{\"text\": \"a\", \"images\": [\"a.png\"]}", "got images");
  expect_refused(tokenize(""), "bad-row", "expected at least one row");
}

TEST_F(Program, NamesAMissingFile) {
  expect_refused(run_program({"tokenize", "--model", (folder / "none").string(), "--dataset",
                              rows("{\"text\": \"a\"}\n")}),
                 "unreadable-file", "none");
  expect_refused(run_program({"tokenize", "--model", model.string(), "--dataset",
                              (folder / "none.jsonl").string()}),
                 "unreadable-file", "none.jsonl");
}

TEST_F(Program, KeepsAnExistingOutput) {
  const std::string out = folder.write("out.jsonl", "precious").string();
  // Refused before anything is read: the rows do not even exist.
  expect_refused(run_program({"tokenize", "--model", "none", "--dataset", "none", "--output", out}),
                 "output-exists", "--output");
  EXPECT_EQ(testing::slurp(out), "precious");
  EXPECT_EQ(tokenize("{\"text\": \"A\"}\n", {"--output", out, "--overwrite"}).exit_code, 0);
  EXPECT_EQ(testing::slurp(out), "{\"ids\":[65]}\n");
}

TEST_F(Program, SaysWhenItsResultsCannotBeWritten) {
  expect_refused(
      tokenize("{\"text\": \"A\"}\n", {"--output", (folder / "none" / "out.jsonl").string()}),
      "unwritable-output", "out.jsonl");
  const std::string command = testing::shell_word(testing::built_program()) + " tokenize --model " +
                              testing::shell_word(model.string()) + " --dataset " +
                              testing::shell_word(rows("{\"text\": \"A\"}\n")) + " >/dev/full 2>" +
                              testing::shell_word((folder / "err").string());
  const int status = std::system(command.c_str());
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_THAT(testing::slurp(folder / "err"),
              StartsWith("lockstep: error[unwritable-output]: stdout: "));
}

TEST(Doctor, ShowsTheMachineAndTestsEveryOpAndProduct) {
  const std::string checkpoint =
      testing::source_dir() / "tests/golden/checkpoints/qwen3_5_moe_mixed_per_expert";
  const ProgramResult result = run_program({"doctor", "--model", checkpoint});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  for (const char* words :
       {"processor ", "features ", "threads ", "memory ", "libtorch ", "devices ", "kernels ",
        "memory triad", "attention", "gated delta", "experts", "optimizer", "row independence",
        "layers.0.experts.gate_up", "head"})
    EXPECT_THAT("\n" + result.out, HasSubstr(std::string("\n") + words));
  EXPECT_THAT(result.out, ::testing::Not(HasSubstr("FAILED")));
  EXPECT_THAT(result.out, ::testing::Not(HasSubstr("DIFFERENT")));
}

TEST(Doctor, SaysWhichRankWasMissing) {
  const testing::TempDir folder;
  const std::string call =
      R"({"group":"world","sequence":812,"operation":"all-gather","name":"gradients of layer 17",)"
      R"("bytes":8,"phase":"train","step":3,"begun":10.5,"done":false})";
  const std::string rest = R"(,"size":2,"phase":"train","step":3,"written":12})";
  folder.write("rank-0.jsonl", R"({"rank":0)" + rest + "\n" + call + "\n");
  folder.write("rank-1.jsonl", R"({"rank":1)" + rest + "\n");
  const ProgramResult result = run_program({"doctor", "--hang", folder.path().string()});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out,
            "rank 1 never entered all-gather #812 \"gradients of layer 17\", which rank 0 waits "
            "for\n"
            "rank 0, train of step 3: in all-gather #812 \"gradients of layer 17\", begun 1.5 s "
            "before the end\n"
            "rank 1, train of step 3: no call\n");
  expect_refused(run_program({"doctor", "--hang", (folder / "none").string()}), "bad-record",
                 "rank-N.jsonl");
}

}  // namespace
}  // namespace lockstep::cli
